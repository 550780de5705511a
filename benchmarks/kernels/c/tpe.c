/* Kernels of the tree-structured Parzen estimator: the same work as core/kernels/tpe.py over numeric and categorical
   rows without conditions. Mixtures are (rows, k), candidates (rows, n), both row-major. */
#include <math.h>
#include <stdint.h>

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

static inline uint64_t mix(uint64_t word)
{
    word = (word ^ (word >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    word = (word ^ (word >> 27)) * UINT64_C(0x94D049BB133111EB);
    return word ^ (word >> 31);
}

static inline double uniform(uint64_t key, int64_t index)
{
    return (double)(mix((key ^ (uint64_t)index) + UINT64_C(0x9E3779B97F4A7C15)) >> 11) * 0x1p-53;
}

static double horner(const double *restrict c, double x)
{
    double value = c[0];
    for (int i = 1; i < 8; i++)
        value = value * x + c[i];
    return value;
}

/* Wichura (1988), algorithm AS 241. */
static double normal_quantile(double p)
{
    static const double a[] = {2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
                               4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
                               1.3314166789178437745e2, 3.3871328727963666080e0};
    static const double b[] = {5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
                               2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
                               4.2313330701600911252e1, 1.0};
    static const double c[] = {7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
                               1.27045825245236838258e0,  3.64784832476320460504e0,  5.76949722146069140550e0,
                               4.63033784615654529590e0,  1.42343711074968357734e0};
    static const double d[] = {1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
                               1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
                               2.05319162663775882187e0,  1.0};
    static const double e[] = {2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
                               2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0,
                               5.46378491116411436990e0,  6.65790464350110377720e0};
    static const double f[] = {2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
                               7.86869131145613259100e-4,  1.48753612908506148525e-2, 1.36929880922735805310e-1,
                               5.99832206555887937690e-1,  1.0};
    const double q = p - 0.5;
    if (fabs(q) <= 0.425) {
        const double r = 0.180625 - q * q;
        return q * horner(a, r) / horner(b, r);
    }
    const double tail = q < 0.0 ? p : 1.0 - p;
    if (!(tail > 0.0))
        return q < 0.0 ? -INFINITY : INFINITY;
    double r = sqrt(-log(tail));
    double value = r <= 5.0 ? horner(c, r - 1.6) / horner(d, r - 1.6) : horner(e, r - 5.0) / horner(f, r - 5.0);
    return q < 0.0 ? -value : value;
}

/* Numeric rows without a grid. */
void propose(int64_t seed, int64_t step, int64_t rows, int64_t k, int64_t n, const double *restrict origin,
             const double *restrict width, const double *restrict lo, const double *restrict hi,
             const double *restrict centres, const double *restrict below, const double *restrict mass,
             const double *restrict cumulative, const double *restrict sigma, int64_t *restrict picks,
             double *restrict candidates)
{
    const uint64_t golden = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t start = mix((uint64_t)seed + golden);
    start = mix((start ^ (uint64_t)step) + golden);
    uint64_t key = mix((start ^ (uint64_t)rows) + golden);
    for (int64_t i = 0; i < n; i++) {
        const double u = uniform(key, i);
        int64_t j = 0;
        while (j < k - 1 && u >= cumulative[j])
            j++;
        picks[i] = j;
    }
    for (int64_t d = 0; d < rows; d++) {
        key = mix((start ^ (uint64_t)d) + golden);
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
