/* Sampling, decoding and rules over a flat table of rows: the same work as core/kernels/{sampling,encode} and core/rules. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "streams.h"

/* Rows of kind 0 and 1 are numbers in [lo, hi] on a grid of `step` where it is positive; others are categories whose
   first cumulative shares begin at `offset`. A row with a parent is active where the parent has `wanted`. */
void sample(int64_t seed, int64_t step, int64_t rows, int64_t n, const uint8_t *restrict kind,
            const double *restrict lo, const double *restrict hi, const double *restrict pace,
            const double *restrict origin, const double *restrict width, const int32_t *restrict ncat,
            const int32_t *restrict offset, const double *restrict shares, const int32_t *restrict parent,
            const int32_t *restrict wanted, double *restrict out)
{
    for (int64_t d = 0; d < rows; d++) {
        double *restrict row = out + d * n;
        uint64_t key = mix((uint64_t)seed + GOLDEN);
        key = mix((key ^ (uint64_t)step) + GOLDEN);
        key = mix((key ^ (uint64_t)d) + GOLDEN);
        if (kind[d] > 1) {
            for (int64_t i = 0; i < n; i++) {
                double u = (double)(mix((key ^ (uint64_t)i) + GOLDEN) >> 11) * 0x1p-53;
                double category = 0.0;
                for (int32_t c = 0; c < ncat[d] - 1; c++)
                    category += u >= shares[offset[d] + c] ? 1.0 : 0.0;
                row[i] = category;
            }
        } else {
            const double a = origin[d], b = width[d], l = lo[d], h = hi[d], s = pace[d];
            const double last = s > 0.0 ? floor((h - l) / s + 1e-9) : 0.0;
            for (int64_t i = 0; i < n; i++) {
                double u = (double)(mix((key ^ (uint64_t)i) + GOLDEN) >> 11) * 0x1p-53;
                double z = a + u * b;
                z = z > l ? z : l;
                row[i] = z > h ? h : z;
            }
            if (s > 0.0)
                for (int64_t i = 0; i < n; i++) {
                    double index = rint((row[i] - l) / s);
                    index = index > 0.0 ? index : 0.0;
                    index = index < last ? index : last;
                    row[i] = l + index * s;
                }
        }
        if (parent[d] >= 0) {
            const double *restrict above = out + (int64_t)parent[d] * n;
            const double value = wanted[d];
            for (int64_t i = 0; i < n; i++)
                row[i] = above[i] == value ? row[i] : NAN;
        }
    }
}

static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static inline double canonical(double value)
{
    double size = fabs(value);
    if (!(size >= 1e-10 && size <= 1e33))
        return value;
    int exponent = 11 - (int)floor(log10(size));
    if (exponent >= 0)
        return rint(value * powers[exponent]) / powers[exponent];
    return rint(value / powers[-exponent]) * powers[-exponent];
}

void decode(int64_t rows, int64_t n, const uint8_t *restrict kind, const uint8_t *restrict logarithmic,
            const double *restrict in, double *restrict out)
{
    for (int64_t d = 0; d < rows; d++) {
        const double *restrict from = in + d * n;
        double *restrict to = out + d * n;
        if (kind[d] == 0 && logarithmic[d])
            for (int64_t i = 0; i < n; i++)
                to[i] = canonical(exp(from[i]));
        else if (kind[d] == 1 && logarithmic[d])
            for (int64_t i = 0; i < n; i++)
                to[i] = rint(exp(from[i]));
        else if (kind[d] == 1)
            for (int64_t i = 0; i < n; i++)
                to[i] = rint(from[i]);
        else
            memcpy(to, from, (size_t)n * sizeof(double));
    }
}

/* The rule machine over plain numeric rows: LOAD, CONST, ADD, SUB, MUL, LE, LT, GE, GT and END. */
void rules(int64_t n, const uint8_t *restrict op, const int32_t *restrict arg, const double *restrict constants,
           int64_t length, const double *restrict in, uint8_t *restrict holds)
{
    enum { BLOCK = 256, DEPTH = 32 };
    static _Thread_local double stack[DEPTH][BLOCK];
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t count = n - first < BLOCK ? n - first : BLOCK;
        int64_t top = 0;
        for (int64_t pc = 0; pc < length; pc++) {
            double *restrict a = stack[top > 1 ? top - 2 : 0];
            const double *restrict b = stack[top > 0 ? top - 1 : 0];
            switch (op[pc]) {
            case 0:
                for (int64_t c = 0; c < count; c++)
                    holds[arg[pc] * n + first + c] = stack[0][c] != 0.0;
                top = 0;
                break;
            case 1:
                for (int64_t c = 0; c < count; c++)
                    stack[top][c] = constants[arg[pc]];
                top++;
                break;
            case 2:
                memcpy(stack[top], in + arg[pc] * n + first, (size_t)count * sizeof(double));
                top++;
                break;
            case 5:
                for (int64_t c = 0; c < count; c++)
                    a[c] += b[c];
                top--;
                break;
            case 6:
                for (int64_t c = 0; c < count; c++)
                    a[c] -= b[c];
                top--;
                break;
            case 7:
                for (int64_t c = 0; c < count; c++)
                    a[c] *= b[c];
                top--;
                break;
            case 8:
                for (int64_t c = 0; c < count; c++)
                    a[c] = a[c] <= b[c] ? 1.0 : 0.0;
                top--;
                break;
            case 9:
                for (int64_t c = 0; c < count; c++)
                    a[c] = a[c] < b[c] ? 1.0 : 0.0;
                top--;
                break;
            case 10:
                for (int64_t c = 0; c < count; c++)
                    a[c] = a[c] >= b[c] ? 1.0 : 0.0;
                top--;
                break;
            default:
                for (int64_t c = 0; c < count; c++)
                    a[c] = a[c] > b[c] ? 1.0 : 0.0;
                top--;
            }
        }
    }
}
