/* The Gaussian process's work as one writes it in C: features are rows, trials columns, matrices are by rows. */
#include <math.h>
#include <stdint.h>

static double covariance(double squared, double amplitude, double constant)
{
    double u = sqrt(5.0 * squared);
    return amplitude * (1.0 + u + u * u / 3.0) * exp(-u) + constant;
}

static void distances(int64_t labels, int64_t features, const double *restrict weight, const double *restrict points,
                      int64_t stride, int64_t i, const double *restrict others, int64_t others_stride, int64_t first,
                      int64_t n, double *restrict out)
{
    for (int64_t j = 0; j < n; j++)
        out[j] = 0.0;
    for (int64_t f = 0; f < features; f++) {
        double x = points[f * stride + i], w = weight[f];
        const double *restrict other = others + f * others_stride + first;
        if (f < labels)
            for (int64_t j = 0; j < n; j++)
                out[j] += w * (other[j] - x) * (other[j] - x);
        else
            for (int64_t j = 0; j < n; j++)
                out[j] += other[j] != x ? w : 0.0;
    }
}

void cross(int64_t labels, int64_t features, const double *restrict weight, double amplitude, double constant,
           const double *restrict points, int64_t count, const double *restrict others, int64_t n,
           double *restrict out)
{
    for (int64_t i = 0; i < count; i++) {
        distances(labels, features, weight, points, count, i, others, n, 0, n, out + i * n);
        for (int64_t j = 0; j < n; j++)
            out[i * n + j] = covariance(out[i * n + j], amplitude, constant);
    }
}

void factor(int64_t labels, int64_t features, const double *restrict weight, double amplitude, double constant,
            const double *restrict points, const double *restrict noise, int64_t first, int64_t count,
            double *restrict lower)
{
    for (int64_t i = first; i < count; i++) {
        double *restrict row = lower + i * count;
        distances(labels, features, weight, points, count, i, points, count, 0, i, row);
        for (int64_t j = 0; j < i; j++)
            row[j] = covariance(row[j], amplitude, constant);
        double pivot = amplitude + constant + noise[i];
        for (int64_t j = 0; j < i; j++) {
            const double *other = lower + j * count;
            double total = row[j];
            for (int64_t k = 0; k < j; k++)
                total -= row[k] * other[k];
            row[j] = total / other[j];
        }
        for (int64_t k = 0; k < i; k++)
            pivot -= row[k] * row[k];
        row[i] = sqrt(fmax(pivot, 0.5 * noise[i]));
    }
}

void posterior(int64_t labels, int64_t features, const double *restrict weight, double amplitude, double constant,
               const double *restrict points, int64_t count, const double *restrict lower,
               const double *restrict alpha, const double *restrict candidates, int64_t n, double *restrict panel,
               double *restrict mean, double *restrict variance)
{
    enum { BLOCK = 64 };
    for (int64_t begin = 0; begin < n; begin += BLOCK) {
        int64_t m = n - begin < BLOCK ? n - begin : BLOCK;
        double *restrict average = mean + begin, *restrict spread = variance + begin;
        for (int64_t c = 0; c < m; c++)
            average[c] = spread[c] = 0.0;
        for (int64_t i = 0; i < count; i++) {
            double *restrict row = panel + i * BLOCK;
            distances(labels, features, weight, points, count, i, candidates, n, begin, m, row);
            for (int64_t c = 0; c < m; c++) {
                row[c] = covariance(row[c], amplitude, constant);
                average[c] += alpha[i] * row[c];
            }
            for (int64_t k = 0; k < i; k++) {
                double f = lower[i * count + k];
                const double *restrict other = panel + k * BLOCK;
                for (int64_t c = 0; c < m; c++)
                    row[c] -= f * other[c];
            }
            for (int64_t c = 0; c < m; c++) {
                row[c] /= lower[i * count + i];
                spread[c] += row[c] * row[c];
            }
        }
        for (int64_t c = 0; c < m; c++)
            spread[c] = fmax(amplitude + constant - spread[c], 1e-12 * (amplitude + constant));
    }
}

/* Gradient by the log weights, from the factor on: solve, invert, square, sum. */
void gradient(int64_t labels, int64_t features, const double *restrict weight, double amplitude,
              const double *restrict points, int64_t count, const double *restrict lower,
              const double *restrict targets, double *restrict inverse, double *restrict precision,
              double *restrict alpha, double *restrict scratch, double *restrict out)
{
    for (int64_t i = 0; i < count; i++) {
        double total = targets[i];
        for (int64_t k = 0; k < i; k++)
            total -= lower[i * count + k] * alpha[k];
        alpha[i] = total / lower[i * count + i];
    }
    for (int64_t i = count - 1; i >= 0; i--) {
        alpha[i] /= lower[i * count + i];
        for (int64_t k = 0; k < i; k++)
            alpha[k] -= lower[i * count + k] * alpha[i];
    }
    for (int64_t i = 0; i < count; i++) {
        double *restrict row = inverse + i * count;
        for (int64_t j = 0; j < i; j++)
            row[j] = 0.0;
        for (int64_t k = 0; k < i; k++) {
            double f = lower[i * count + k];
            const double *restrict other = inverse + k * count;
            for (int64_t j = 0; j <= k; j++)
                row[j] -= f * other[j];
        }
        double scale = 1.0 / lower[i * count + i];
        for (int64_t j = 0; j < i; j++)
            row[j] *= scale;
        row[i] = scale;
    }
    for (int64_t i = 0; i < count; i++) {
        const double *restrict source = inverse + i * count;
        for (int64_t j = 0; j <= i; j++)
            precision[i * count + j] = 0.0;
        for (int64_t j = 0; j <= i; j++) {
            double x = source[j];
            double *restrict row = precision + j * count;
            for (int64_t k = 0; k <= j; k++)
                row[k] += x * source[k];
        }
    }
    for (int64_t f = 0; f < features; f++)
        out[f] = 0.0;
    for (int64_t i = 0; i < count; i++) {
        distances(labels, features, weight, points, count, i, points, count, 0, i, scratch);
        for (int64_t j = 0; j < i; j++) {
            double u = sqrt(5.0 * scratch[j]);
            scratch[j] = (alpha[i] * alpha[j] - precision[i * count + j]) * (1.0 + u) * exp(-u);
        }
        for (int64_t f = 0; f < features; f++) {
            double x = points[f * count + i], total = 0.0;
            const double *restrict other = points + f * count;
            if (f < labels)
                for (int64_t j = 0; j < i; j++)
                    total += scratch[j] * (other[j] - x) * (other[j] - x);
            else
                for (int64_t j = 0; j < i; j++)
                    total += other[j] != x ? scratch[j] : 0.0;
            out[f] += total;
        }
    }
    for (int64_t f = 0; f < features; f++)
        out[f] *= -5.0 / 6.0 * amplitude * weight[f];
}

static double log_improvement(double z)
{
    const double half = 0.9189385332046727, root = 0.7071067811865476;
    if (z > -1.0)
        return log(exp(-0.5 * z * z - half) + z * 0.5 * erfc(-z * root));
    double t = -z, rest;
    if (t > 25.0) {
        double q = 1.0 / (t * t);
        rest = q * (1.0 - q * (3.0 - q * (15.0 - q * (105.0 - q * 945.0))));
    } else {
        rest = 1.0 - t * 0.5 * erfc(t * root) * exp(0.5 * t * t + half);
    }
    return log(rest) - 0.5 * t * t - half;
}

void log_expected_improvement(const double *restrict mean, const double *restrict variance, double best, int64_t n,
                              double *restrict out)
{
    for (int64_t i = 0; i < n; i++) {
        double deviation = sqrt(variance[i]);
        out[i] = log_improvement((best - mean[i]) / deviation) + log(deviation);
    }
}
