/* Halving, resampling, ranks, the paired model and Thompson sampling, in plain C on the same numbers. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "streams.h"

static const double SIGN[2] = {-1.0, 1.0};

static inline uint64_t random_bits(uint64_t key, int64_t index)
{
    return mix((key ^ (uint64_t)index) + GOLDEN);
}

static inline double unit(uint64_t word)
{
    return (double)(word >> 11) * 0x1p-53 + 0x1p-54;
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
