/* Scrambled Sobol' points and the way through the prior: the same work as core/kernels/qmc. */
#include <math.h>
#include <stdint.h>

#include "streams.h"

void sobol(int64_t seed, int64_t stream, int64_t first, int64_t rows, int64_t n, const int64_t *restrict directions,
           double *restrict out)
{
    for (int64_t d = 0; d < rows; d++) {
        uint64_t key = mix((uint64_t)seed + GOLDEN);
        key = mix((key ^ (uint64_t)stream) + GOLDEN);
        key = mix((key ^ (uint64_t)d) + GOLDEN);
        key = mix(key + GOLDEN);
        for (int64_t i = 0; i < n; i++) {
            uint64_t digits = 0;
            uint64_t index = (uint64_t)(first + i);
            for (int bit = 0; index != 0; index >>= 1, bit++)
                if (index & 1)
                    digits ^= (uint64_t)directions[d * 32 + bit];
            uint64_t flips = 0;
            for (int depth = 0; depth < 32; depth++) {
                uint64_t node = (UINT64_C(1) << depth) | (digits >> (32 - depth));
                flips = (flips << 1) | (mix((key ^ node) + GOLDEN) >> 63);
            }
            uint64_t below = mix((key ^ (UINT64_C(1) << 32 | digits)) + GOLDEN) >> 43;
            out[d * n + i] = (double)(((digits ^ flips) << 21) | below) * 0x1p-53;
        }
    }
}

/* Rows of kind 0 and 1 are numbers in [lo, hi] on a grid of `step` where it is positive; others are categories whose
   first cumulative shares begin at `offset`. A row with a parent is active where the parent has `wanted`. */
void quantiles(int64_t rows, int64_t n, const uint8_t *restrict kind, const double *restrict lo,
               const double *restrict hi, const double *restrict pace, const double *restrict origin,
               const double *restrict width, const int32_t *restrict ncat, const int32_t *restrict offset,
               const double *restrict shares, const int32_t *restrict parent, const int32_t *restrict wanted,
               const double *restrict points, double *restrict out)
{
    for (int64_t d = 0; d < rows; d++) {
        const double *restrict u = points + d * n;
        double *restrict row = out + d * n;
        if (kind[d] > 1) {
            for (int64_t i = 0; i < n; i++) {
                double category = 0.0;
                for (int32_t c = 0; c < ncat[d] - 1; c++)
                    category += u[i] >= shares[offset[d] + c] ? 1.0 : 0.0;
                row[i] = category;
            }
        } else {
            const double a = origin[d], b = width[d], l = lo[d], h = hi[d], s = pace[d];
            const double last = s > 0.0 ? floor((h - l) / s + 1e-9) : 0.0;
            for (int64_t i = 0; i < n; i++) {
                double z = a + u[i] * b;
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
