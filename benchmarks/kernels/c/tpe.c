/* Kernels of the tree-structured Parzen estimator: the same work as core/kernels/tpe.py over numeric and categorical
   rows without conditions. Mixtures are (rows, k), candidates (rows, n), both row-major. */
#include <math.h>
#include <stdint.h>

#include "streams.h"

static const double ROOT_HALF = 0.7071067811865476, ROOT_TWO_PI = 2.5066282746310002;

static inline double normal_cdf(double x)
{
    return 0.5 * erfc(-x * ROOT_HALF);
}

void build_mixture(int64_t rows, int64_t k, int64_t capacity, const uint8_t *restrict kind,
                   const double *restrict origin, const double *restrict width, const double *restrict history,
                   const int64_t *restrict members, const double *restrict sigma, double *restrict centres,
                   double *restrict below, double *restrict mass)
{
    for (int64_t d = 0; d < rows; d++)
        for (int64_t j = 0; j < k; j++) {
            double value = j < k - 1 ? history[d * capacity + members[j]] : NAN, low = NAN, inside = NAN;
            if (kind[d] <= 1) {
                value = (value - origin[d]) / width[d];
                low = normal_cdf(-value / sigma[d]);
                inside = normal_cdf((1.0 - value) / sigma[d]) - low;
            }
            centres[d * k + j] = value;
            below[d * k + j] = low;
            mass[d * k + j] = inside;
        }
}

void log_density(int64_t rows, int64_t k, int64_t n, const uint8_t *restrict kind, const int32_t *restrict offset,
                 const double *restrict cat_logp, const double *restrict origin, const double *restrict width,
                 const double *restrict centres, const double *restrict mass, const double *restrict log_weight,
                 const double *restrict sigma, double smoothing, const double *restrict candidates,
                 double *restrict scratch, double *restrict out)
{
    enum { BLOCK = 128 };
    const double shared = -log(1.0 + smoothing);
    double x[BLOCK], hit[BLOCK], miss[BLOCK], prior[BLOCK];
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t count = n - first < BLOCK ? n - first : BLOCK;
        for (int64_t j = 0; j < k; j++)
            for (int64_t i = 0; i < count; i++)
                scratch[j * BLOCK + i] = log_weight[j];
        for (int64_t d = 0; d < rows; d++) {
            const double *restrict row = candidates + d * n + first;
            if (kind[d] <= 1) {
                const double inverse = ROOT_HALF / sigma[d], scale = inverse / width[d];
                for (int64_t i = 0; i < count; i++)
                    x[i] = (row[i] - origin[d]) * scale;
                for (int64_t j = 0; j < k; j++) {
                    const double centre = centres[d * k + j] * inverse;
                    if (centre != centre)
                        continue;
                    const double norm = -log(mass[d * k + j] * sigma[d] * ROOT_TWO_PI);
                    double *restrict terms = scratch + j * BLOCK;
                    for (int64_t i = 0; i < count; i++) {
                        const double gap = x[i] - centre, value = norm - gap * gap;
                        terms[i] += value == value ? value : 0.0;
                    }
                }
            } else {
                for (int64_t i = 0; i < count; i++) {
                    const int active = row[i] == row[i];
                    prior[i] = active ? cat_logp[offset[d] + (int64_t)row[i]] : 0.0;
                    const double share = smoothing * exp(prior[i]);
                    hit[i] = active ? log(1.0 + share) + shared : 0.0;
                    miss[i] = active ? log(share) + shared : 0.0;
                }
                for (int64_t j = 0; j < k; j++) {
                    const double centre = centres[d * k + j];
                    double *restrict terms = scratch + j * BLOCK;
                    if (centre == centre)
                        for (int64_t i = 0; i < count; i++)
                            terms[i] += row[i] == centre ? hit[i] : miss[i];
                    else
                        for (int64_t i = 0; i < count; i++)
                            terms[i] += prior[i];
                }
            }
        }
        for (int64_t i = 0; i < count; i++)
            x[i] = -INFINITY, hit[i] = 0.0;
        for (int64_t j = 0; j < k; j++)
            for (int64_t i = 0; i < count; i++)
                x[i] = scratch[j * BLOCK + i] > x[i] ? scratch[j * BLOCK + i] : x[i];
        for (int64_t j = 0; j < k; j++)
            for (int64_t i = 0; i < count; i++)
                hit[i] += exp(scratch[j * BLOCK + i] - x[i]);
        for (int64_t i = 0; i < count; i++)
            out[first + i] = x[i] + log(hit[i]);
    }
}

static inline double uniform(uint64_t key, int64_t index)
{
    return (double)(mix((key ^ (uint64_t)index) + UINT64_C(0x9E3779B97F4A7C15)) >> 11) * 0x1p-53;
}

/* Numeric rows without a grid. */
void propose(int64_t seed, int64_t step, int64_t rows, int64_t k, int64_t n, const double *restrict origin,
             const double *restrict width, const double *restrict lo, const double *restrict hi,
             const double *restrict centres, const double *restrict below, const double *restrict mass,
             const double *restrict cumulative, const double *restrict sigma, int64_t *restrict picks,
             double *restrict candidates)
{
    uint64_t start = mix((uint64_t)seed + GOLDEN);
    start = mix((start ^ (uint64_t)step) + GOLDEN);
    uint64_t key = mix((start ^ (uint64_t)rows) + GOLDEN);
    for (int64_t i = 0; i < n; i++) {
        const double u = uniform(key, i);
        int64_t j = 0;
        while (j < k - 1 && u >= cumulative[j])
            j++;
        picks[i] = j;
    }
    for (int64_t d = 0; d < rows; d++) {
        key = mix((start ^ (uint64_t)d) + GOLDEN);
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = d * k + picks[i];
            double x = uniform(key, i);
            if (centres[at] == centres[at]) {
                x = centres[at] + sigma[d] * normal_quantile(below[at] + x * mass[at]);
                x = x > 0.0 ? x : 0.0;
                x = x < 1.0 ? x : 1.0;
            }
            double z = origin[d] + x * width[d];
            z = z > lo[d] ? z : lo[d];
            candidates[d * n + i] = z > hi[d] ? hi[d] : z;
        }
    }
}
