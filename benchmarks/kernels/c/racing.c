/* Halving, resampling, ranks, the paired model and Thompson sampling, in plain C on the same numbers. */
#include <math.h>
#include <stdint.h>
#include <string.h>

static const uint64_t GOLDEN = UINT64_C(0x9E3779B97F4A7C15);

static const double SIGN[2] = {-1.0, 1.0};

static inline uint64_t mix(uint64_t word)
{
    word = (word ^ (word >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    word = (word ^ (word >> 27)) * UINT64_C(0x94D049BB133111EB);
    return word ^ (word >> 31);
}

static inline uint64_t key_of(int64_t seed, int64_t step, int64_t dim)
{
    uint64_t word = mix((uint64_t)seed + GOLDEN);
    word = mix((word ^ (uint64_t)step) + GOLDEN);
    return mix((word ^ (uint64_t)dim) + GOLDEN);
}

static inline uint64_t random_bits(uint64_t key, int64_t index)
{
    return mix((key ^ (uint64_t)index) + GOLDEN);
}

static inline double unit(uint64_t word)
{
    return (double)(word >> 11) * 0x1p-53 + 0x1p-54;
}

/* Wichura's AS 241, PPND16. */
static double normal_quantile(double p)
{
    double q = p - 0.5, r;
    if (fabs(q) <= 0.425) {
        r = 0.180625 - q * q;
        double num = (((((((2.5090809287301226727e3 * r + 3.3430575583588128105e4) * r + 6.7265770927008700853e4) * r
                         + 4.5921953931549871457e4) * r + 1.3731693765509461125e4) * r + 1.9715909503065514427e3) * r
                       + 1.3314166789178437745e2) * r + 3.3871328727963666080e0);
        double den = (((((((5.2264952788528545610e3 * r + 2.8729085735721942674e4) * r + 3.9307895800092710610e4) * r
                         + 2.1213794301586595867e4) * r + 5.3941960214247511077e3) * r + 6.8718700749205790830e2) * r
                       + 4.2313330701600911252e1) * r + 1.0);
        return q * num / den;
    }
    r = sqrt(-log(q < 0.0 ? p : 1.0 - p));
    double num, den;
    if (r <= 5.0) {
        r -= 1.6;
        num = ((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r
                   + 1.27045825245236838258e0) * r + 3.64784832476320460504e0) * r + 5.76949722146069140550e0) * r
               + 4.63033784615654529590e0) * r + 1.42343711074968357734e0;
        den = ((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r
                   + 1.48103976427480074590e-1) * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0) * r
               + 2.05319162663775882187e0) * r + 1.0;
    } else {
        r -= 5.0;
        num = ((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r
                   + 2.65321895265761230930e-2) * r + 2.96560571828504891230e-1) * r + 1.78482653991729133580e0) * r
               + 5.46378491116411436990e0) * r + 6.65790464350110377720e0;
        den = ((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r
                   + 7.86869131145613259100e-4) * r + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r
               + 5.99832206555887937690e-1) * r + 1.0;
    }
    return q < 0.0 ? -num / den : num / den;
}

static double canonical(double value)
{
    double size = fabs(value);
    if (!(size >= 1e-10 && size <= 1e33))
        return value;
    double exponent = 11.0 - floor(log10(size));
    if (exponent >= 0.0) {
        double power = pow(10.0, exponent);
        return rint(value * power) / power;
    }
    double power = pow(10.0, -exponent);
    return rint(value / power) * power;
}

int64_t promote(const double *restrict scores, int64_t candidates, int64_t examples, int64_t used, int64_t keep,
                double *restrict means, int64_t *restrict out)
{
    int64_t filled = 0;
    for (int64_t c = 0; c < candidates; c++) {
        const double *row = scores + c * examples;
        double total = 0.0;
        int64_t count = 0;
        for (int64_t e = 0; e < used; e++)
            if (row[e] == row[e]) {
                total += row[e];
                count++;
            }
        means[c] = count > 0 ? canonical(total / (double)count) : NAN;
        if (count == 0 || keep <= 0)
            continue;
        if (filled == keep) {
            if (!(means[c] > means[out[filled - 1]]))
                continue;
            filled--;
        }
        int64_t place = filled;
        while (place > 0 && means[out[place - 1]] < means[c]) {
            out[place] = out[place - 1];
            place--;
        }
        out[place] = c;
        filled++;
    }
    return filled;
}

void resampled_means(const double *restrict values, int64_t n, int64_t seed, int64_t step, double *restrict out,
                     int64_t resamples)
{
    for (int64_t b = 0; b < resamples; b++) {
        uint64_t key = key_of(seed, step, b);
        double total = 0.0;
        for (int64_t pair = 0; pair < n / 2; pair++) {
            uint64_t bits = random_bits(key, pair);
            total += values[((bits & 0xFFFFFFFFu) * (uint64_t)n) >> 32];
            total += values[((bits >> 32) * (uint64_t)n) >> 32];
        }
        if (n % 2)
            total += values[((random_bits(key, n / 2) & 0xFFFFFFFFu) * (uint64_t)n) >> 32];
        out[b] = total / (double)n;
    }
}

int64_t sign_flip_exceedances(const double *restrict differences, int64_t n, int64_t seed, int64_t step,
                              int64_t resamples)
{
    double observed = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        observed += differences[i];
        size += fabs(differences[i]);
    }
    double threshold = fabs(observed) - 1e-12 * size;
    int64_t exceed = 0;
    for (int64_t b = 0; b < resamples; b++) {
        uint64_t key = key_of(seed, step, b), bits = 0;
        double total = 0.0;
        for (int64_t i = 0; i < n; i++) {
            if (i % 64 == 0)
                bits = random_bits(key, i / 64);
            total += differences[i] * SIGN[bits & 1];
            bits >>= 1;
        }
        exceed += fabs(total) >= threshold;
    }
    return exceed;
}

int64_t sign_flip_exact(const double *restrict differences, int64_t n)
{
    double observed = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        observed += differences[i];
        size += fabs(differences[i]);
    }
    double threshold = fabs(observed) - 1e-12 * size;
    int64_t exceed = 0;
    for (int64_t pattern = 0; pattern < (int64_t)1 << n; pattern++) {
        double total = 0.0;
        for (int64_t i = 0; i < n; i++)
            total += (pattern >> i) & 1 ? differences[i] : -differences[i];
        exceed += fabs(total) >= threshold;
    }
    return exceed;
}

void doubled_ranks(const double *restrict magnitudes, int64_t n, int64_t *restrict ranks)
{
    for (int64_t first = 0; first < n;) {
        int64_t last = first;
        while (last + 1 < n && magnitudes[last + 1] == magnitudes[first])
            last++;
        int64_t shared = magnitudes[first] > 0.0 ? first + last + 2 : 0;
        for (int64_t i = first; i <= last; i++)
            ranks[i] = shared;
        first = last + 1;
    }
}

double exact_tail(const int64_t *restrict ranks, int64_t n, int64_t observed, double *restrict shares, int64_t size)
{
    memset(shares, 0, 2 * (size_t)size * sizeof(double));
    double *restrict before = shares, *restrict after = shares + size;
    before[0] = 1.0;
    int64_t reached = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t rank = ranks[i];
        if (rank == 0)
            continue;
        reached += rank;
        for (int64_t total = 0; total < rank; total++)
            after[total] = 0.5 * before[total];
        for (int64_t total = rank; total <= reached; total++)
            after[total] = 0.5 * (before[total] + before[total - rank]);
        double *swap = before;
        before = after;
        after = swap;
    }
    double tail = 0.0;
    for (int64_t total = reached; total >= observed; total--)
        tail += before[total];
    return tail;
}

/* Marsaglia and Tsang over Leva's normal variates. */
static double gamma_variate(double shape, uint64_t word)
{
    double d = (shape >= 1.0 ? shape : shape + 1.0) - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d), value;
    for (;;) {
        double u = unit(mix(word += GOLDEN)), v = 1.7156 * (unit(mix(word += GOLDEN)) - 0.5);
        double right = u - 0.449871, above = fabs(v) + 0.386595;
        double edge = right * right + above * (0.196 * above - 0.25472 * right);
        if (edge > 0.27846 || (edge > 0.27597 && v * v > -4.0 * log(u) * u * u))
            continue;
        double x = v / u, root = 1.0 + c * x;
        if (root <= 0.0)
            continue;
        double cube = root * root * root, square = x * x;
        u = unit(mix(word += GOLDEN));
        if (u < 1.0 - 0.0331 * square * square || log(u) < 0.5 * square + d * (1.0 - cube + log(cube))) {
            value = d * cube;
            break;
        }
    }
    return shape < 1.0 ? value * pow(unit(mix(word + GOLDEN)), 1.0 / shape) : value;
}

static int64_t highest(const double *values, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

int64_t thompson_normal(const double *restrict parameters, int64_t n, int64_t seed, int64_t step,
                        double *restrict draws)
{
    uint64_t key = key_of(seed, step, 0);
    for (int64_t arm = 0; arm < n; arm++)
        draws[arm] = parameters[arm] + normal_quantile(unit(random_bits(key, arm))) / sqrt(parameters[n + arm]);
    return highest(draws, n);
}

int64_t thompson_student(const double *restrict parameters, int64_t n, int64_t seed, int64_t step,
                         double *restrict draws)
{
    uint64_t key = key_of(seed, step, 0);
    for (int64_t arm = 0; arm < n; arm++) {
        uint64_t word = random_bits(key, arm);
        double variance = parameters[3 * n + arm] / gamma_variate(parameters[2 * n + arm], ~word);
        draws[arm] = parameters[arm] + normal_quantile(unit(word)) * sqrt(variance / parameters[n + arm]);
    }
    return highest(draws, n);
}

int64_t thompson_beta(const double *restrict parameters, int64_t n, int64_t seed, int64_t step,
                      double *restrict draws)
{
    uint64_t key = key_of(seed, step, 0);
    for (int64_t arm = 0; arm < n; arm++) {
        uint64_t word = random_bits(key, arm);
        double first = gamma_variate(parameters[arm], word), second = gamma_variate(parameters[n + arm], ~word);
        draws[arm] = first / (first + second);
    }
    return highest(draws, n);
}

int64_t thompson_gamma(const double *restrict parameters, int64_t n, int64_t seed, int64_t step,
                       double *restrict draws)
{
    uint64_t key = key_of(seed, step, 0);
    for (int64_t arm = 0; arm < n; arm++)
        draws[arm] = gamma_variate(parameters[arm], random_bits(key, arm)) / parameters[n + arm];
    return highest(draws, n);
}

void pool(const int64_t *restrict arms, const double *restrict values, const double *restrict weights, int64_t m,
          double *restrict counts, double *restrict means, double *restrict squares, int64_t n)
{
    for (int64_t arm = 0; arm < n; arm++)
        counts[arm] = means[arm] = squares[arm] = 0.0;
    for (int64_t i = 0; i < m; i++) {
        int64_t arm = arms[i];
        double weight = weights[i];
        if (arm < 0 || values[i] != values[i] || weight <= 0.0)
            continue;
        counts[arm] += weight;
        double gap = values[i] - means[arm];
        means[arm] += gap * weight / counts[arm];
        squares[arm] += weight * gap * (values[i] - means[arm]);
    }
}

void kl_ucb(const double *restrict means, const double *restrict counts, double *restrict out, int64_t n)
{
    double total = 0.0;
    for (int64_t arm = 0; arm < n; arm++)
        total += counts[arm];
    double budget = log(fmax(total, 1.0));
    for (int64_t arm = 0; arm < n; arm++) {
        double p = means[arm];
        if (counts[arm] <= 0.0 || p >= 1.0) {
            out[arm] = 1.0;
            continue;
        }
        double level = budget / counts[arm], entropy = p > 0.0 ? p * log(p) : 0.0;
        double q = 1.0 - (1.0 - p) * exp((entropy - level) / (1.0 - p));
        for (int step = 0; step < 64 && p < q && q < 1.0; step++) {
            double divergence = entropy - p * log(q) + (1.0 - p) * log((1.0 - p) / (1.0 - q));
            double move = (divergence - level) * q * (1.0 - q) / (q - p);
            q -= move;
            if (fabs(move) <= 1e-15)
                break;
        }
        out[arm] = fmin(fmax(q, p), 1.0);
    }
}

static void solve_back(const double *restrict factor, double *restrict x, int64_t n)
{
    for (int64_t i = n - 1; i >= 0; i--) {
        x[i] /= factor[i * n + i];
        for (int64_t k = 0; k < i; k++)
            x[k] -= factor[i * n + k] * x[i];
    }
}

void posterior(const double *restrict scores, int64_t examples, int64_t candidates, double noise, double spread,
               double prior, int64_t *restrict members, double *restrict factor, double *restrict mean)
{
    int64_t n = candidates;
    for (int64_t c = 0; c < n; c++) {
        mean[c] = 0.0;
        for (int64_t d = 0; d < c; d++)
            factor[c * n + d] = 0.0;
        factor[c * n + c] = 1.0 / prior;
    }
    for (int64_t e = 0; e < examples; e++) {
        const double *row = scores + e * n;
        int64_t seen = 0;
        double total = 0.0;
        for (int64_t c = 0; c < n; c++)
            if (row[c] == row[c]) {
                members[seen++] = c;
                total += row[c];
            }
        if (seen == 0)
            continue;
        double shared = 1.0 / (noise * (noise / spread + (double)seen));
        for (int64_t i = 0; i < seen; i++) {
            int64_t c = members[i];
            mean[c] += row[c] / noise - total * shared;
            factor[c * n + c] += 1.0 / noise;
            for (int64_t j = 0; j <= i; j++)
                factor[c * n + members[j]] -= shared;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < i; j++) {
            double value = factor[i * n + j];
            for (int64_t k = 0; k < j; k++)
                value -= factor[i * n + k] * factor[j * n + k];
            factor[i * n + j] = value / factor[j * n + j];
        }
        double value = factor[i * n + i];
        for (int64_t k = 0; k < i; k++)
            value -= factor[i * n + k] * factor[i * n + k];
        factor[i * n + i] = sqrt(value);
    }
    for (int64_t i = 0; i < n; i++) {
        double value = mean[i];
        for (int64_t k = 0; k < i; k++)
            value -= factor[i * n + k] * mean[k];
        mean[i] = value / factor[i * n + i];
    }
    solve_back(factor, mean, n);
}

void residual_sums(const double *restrict scores, int64_t examples, int64_t candidates, const double *restrict effects,
                   double *restrict sums)
{
    double within = 0.0, between = 0.0, scored = 0.0, used = 0.0;
    for (int64_t e = 0; e < examples; e++) {
        const double *row = scores + e * candidates;
        int64_t count = 0;
        double mean = 0.0;
        for (int64_t c = 0; c < candidates; c++)
            if (row[c] == row[c]) {
                count++;
                mean += row[c] - effects[c];
            }
        if (count == 0)
            continue;
        mean /= (double)count;
        for (int64_t c = 0; c < candidates; c++)
            if (row[c] == row[c]) {
                double gap = row[c] - effects[c] - mean;
                within += gap * gap;
            }
        between += (double)count * mean * mean;
        scored += (double)count;
        used += 1.0;
    }
    sums[0] = within;
    sums[1] = between;
    sums[2] = scored;
    sums[3] = used;
}

void wins(const double *restrict factor, const double *restrict mean, int64_t n, int64_t seed, int64_t step,
          int64_t draws, double *restrict out, int64_t *restrict counts)
{
    memset(counts, 0, (size_t)n * sizeof(int64_t));
    for (int64_t each = 0; each < draws; each++) {
        uint64_t key = key_of(seed, step, each);
        for (int64_t i = 0; i < n; i++)
            out[i] = normal_quantile(unit(random_bits(key, i)));
        solve_back(factor, out, n);
        for (int64_t i = 0; i < n; i++)
            out[i] += mean[i];
        counts[highest(out, n)]++;
    }
}

void deviations(const double *restrict factor, int64_t n, double *restrict inverse, double *restrict out)
{
    for (int64_t c = 0; c < n; c++)
        out[c] = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double *row = inverse + i * n;
        for (int64_t c = 0; c < i; c++)
            row[c] = 0.0;
        row[i] = 1.0;
        for (int64_t k = 0; k < i; k++)
            for (int64_t c = 0; c <= k; c++)
                row[c] -= factor[i * n + k] * inverse[k * n + c];
        for (int64_t c = 0; c <= i; c++) {
            row[c] /= factor[i * n + i];
            out[c] += row[c] * row[c];
        }
    }
    for (int64_t c = 0; c < n; c++)
        out[c] = sqrt(out[c]);
}
