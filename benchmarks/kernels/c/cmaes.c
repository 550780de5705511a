/* CatCMA with margin, in plain C on the same numbers: L is stored transposed, row k is its column k. */
#include <math.h>
#include <stdint.h>

#include "streams.h"

static inline double uniform(uint64_t key, int64_t index)
{
    return (double)(mix((key ^ (uint64_t)index) + GOLDEN) >> 11) * 0x1p-53;
}

static double normal_cdf(double x) { return 0.5 * erfc(-x * 0.7071067811865476); }

void draw_latents(const double *restrict mean, const double *restrict factor, double sigma, int64_t seed,
                  int64_t first, double *restrict latents, int64_t count, int64_t n)
{
    for (int64_t i = 0; i < count; i++) {
        double *row = latents + i * n;
        uint64_t key = key_of(seed, first + i, -500);
        for (int64_t j = 0; j < n; j++)
            row[j] = mean[j];
        for (int64_t k = 0; k < n; k++) {
            double z = sigma * normal_quantile(uniform(key, k) + 0x1p-54);
            for (int64_t j = k; j < n; j++)
                row[j] += z * factor[k * n + j];
        }
    }
}

void draw_categories(const double *restrict weights, const int64_t *restrict offsets, int64_t seed, int64_t first,
                     int64_t *restrict categories, int64_t count, int64_t rows)
{
    for (int64_t i = 0; i < count; i++) {
        uint64_t key = key_of(seed, first + i, -501);
        for (int64_t j = 0; j < rows; j++) {
            double u = uniform(key, j), total = 0.0;
            int64_t chosen = offsets[j];
            for (int64_t k = offsets[j]; k < offsets[j + 1]; k++) {
                if (weights[k] > 0.0)
                    chosen = k;
                total += weights[k];
                if (u < total)
                    break;
            }
            categories[i * rows + j] = chosen - offsets[j];
        }
    }
}

/* Rows 0 to n - 1 are numbers on [0, 1], the first `grids` of them multiples of 0.1; the others are categories. */
void compose(const double *restrict origin, const double *restrict width, const double *restrict latents,
             const int64_t *restrict categories, double *restrict population, int64_t n, int64_t grids, int64_t rows,
             int64_t count)
{
    for (int64_t d = 0; d < n; d++)
        for (int64_t i = 0; i < count; i++) {
            double z = origin[d] + latents[i * n + d] * width[d];
            z = fmin(fmax(z, 0.0), 1.0);
            population[d * count + i] = d < grids ? fmin(rint(z / 0.1) * 0.1, 1.0) : z;
        }
    for (int64_t d = 0; d < rows; d++)
        for (int64_t i = 0; i < count; i++)
            population[(n + d) * count + i] = (double)categories[i * rows + d];
}

void absorb(const double *restrict origin, const double *restrict width, const double *restrict population,
            double *restrict latents, int64_t *restrict categories, int64_t n, int64_t rows, int64_t count)
{
    for (int64_t d = 0; d < n; d++)
        for (int64_t i = 0; i < count; i++)
            latents[i * n + d] = (population[d * count + i] - origin[d]) / width[d];
    for (int64_t d = 0; d < rows; d++)
        for (int64_t i = 0; i < count; i++) {
            double entry = population[(n + d) * count + i];
            categories[i * rows + d] = isnan(entry) ? -1 : (int64_t)entry;
        }
}

void whiten(const double *restrict factor, double longest, double *restrict steps, double *restrict whitened,
            int64_t count, int64_t n)
{
    for (int64_t i = 0; i < count; i++) {
        double *z = whitened + i * n, *y = steps + i * n, total = 0.0;
        for (int64_t j = 0; j < n; j++)
            z[j] = y[j];
        for (int64_t k = 0; k < n; k++) {
            double value = z[k] / factor[k * n + k];
            z[k] = value;
            total += value * value;
            for (int64_t j = k + 1; j < n; j++)
                z[j] -= value * factor[k * n + j];
        }
        if (total > longest * longest) {
            double share = longest / sqrt(total);
            for (int64_t j = 0; j < n; j++) {
                y[j] *= share;
                z[j] *= share;
            }
        }
    }
}

void weigh(const double *restrict losses, const double *restrict table, double *restrict weights, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t below = 0, equal = 0;
        int failed = isnan(losses[i]);
        for (int64_t j = 0; j < n; j++) {
            if (losses[j] < losses[i] || (failed && !isnan(losses[j])))
                below++;
            else if (losses[j] == losses[i] || (failed && isnan(losses[j])))
                equal++;
        }
        double total = 0.0;
        for (int64_t k = below; k < below + equal; k++)
            total += table[k];
        weights[i] = total / (double)equal;
    }
}

double move(const double *restrict steps, const double *restrict whitened, const double *restrict weights,
            const double *restrict rates, const uint8_t *restrict held, double sigma, int64_t generation,
            double *restrict mean, double *restrict path_sigma, double *restrict path, int64_t count, int64_t n)
{
    double rate = rates[0], damping = rates[1], rate_path = rates[2], squares = 0.0;
    for (int64_t i = 0; i < count; i++)
        squares += weights[i] * weights[i];
    for (int64_t j = 0; j < n; j++) {
        path_sigma[j] *= 1.0 - rate;
        path[j] *= 1.0 - rate_path;
    }
    double push = sqrt(rate * (2.0 - rate) / squares);
    for (int64_t i = 0; i < count; i++)
        if (weights[i] > 0.0)
            for (int64_t j = 0; j < n; j++) {
                path_sigma[j] += push * weights[i] * whitened[i * n + j];
                mean[j] += sigma * weights[i] * steps[i * n + j];
            }
    double length = 0.0, m = 0.0, expected = 1.0;
    for (int64_t j = 0; j < n; j++) {
        mean[j] = fmin(fmax(mean[j], 0.0), 1.0);
        if (!held[j]) {
            length += path_sigma[j] * path_sigma[j];
            m += 1.0;
        }
    }
    length = sqrt(length);
    if (m > 0.0)
        expected = sqrt(m) * (1.0 - 1.0 / (4.0 * m) + 1.0 / (21.0 * m * m));
    else
        length = expected;
    double begun = 1.0 - pow(1.0 - rate, 2.0 * ((double)generation + 1.0));
    if (length < (1.4 + 2.0 / (m + 1.0)) * expected * sqrt(begun)) {
        push = sqrt(rate_path * (2.0 - rate_path) / squares);
        for (int64_t i = 0; i < count; i++)
            if (weights[i] > 0.0)
                for (int64_t j = 0; j < n; j++)
                    path[j] += push * weights[i] * steps[i * n + j];
    }
    return sigma * exp(fmin(1.0, rate / damping * (length / expected - 1.0)));
}

void add_outer(double coefficient, double *restrict vector, double *restrict factor, int64_t n)
{
    double sign = coefficient >= 0.0 ? 1.0 : -1.0, root = sqrt(fabs(coefficient));
    for (int64_t j = 0; j < n; j++)
        vector[j] *= root;
    for (int64_t k = 0; k < n; k++) {
        double pivot = factor[k * n + k], entry = vector[k];
        double new = sqrt(fmax(pivot * pivot + sign * entry * entry, 1e-12 * pivot * pivot));
        double cosine = new / pivot, sine = entry / pivot;
        factor[k * n + k] = new;
        for (int64_t j = k + 1; j < n; j++) {
            factor[k * n + j] = (factor[k * n + j] + sign * sine * vector[j]) / cosine;
            vector[j] = cosine * vector[j] - sine * factor[k * n + j];
        }
    }
}

void adapt(const double *restrict steps, const double *restrict whitened, const double *restrict weights,
           const double *restrict path, double rate_one, double rate_mu, double *restrict scratch,
           double *restrict factor, int64_t count, int64_t n)
{
    double total = 0.0;
    for (int64_t i = 0; i < count; i++)
        total += weights[i];
    double root = sqrt(1.0 - rate_one - rate_mu * total);
    for (int64_t k = 0; k < n; k++) {
        scratch[k] = path[k];
        for (int64_t j = k; j < n; j++)
            factor[k * n + j] *= root;
    }
    add_outer(rate_one, scratch, factor, n);
    for (double sign = 1.0; sign >= -1.0; sign -= 2.0)
        for (int64_t i = 0; i < count; i++) {
            double weight = rate_mu * weights[i];
            if (!(sign * weight > 0.0))
                continue;
            if (sign < 0.0) {
                double length = 0.0;
                for (int64_t j = 0; j < n; j++)
                    length += whitened[i * n + j] * whitened[i * n + j];
                weight *= (double)n / fmax(length, 1e-300);
            }
            for (int64_t j = 0; j < n; j++)
                scratch[j] = steps[i * n + j];
            add_outer(weight, scratch, factor, n);
        }
}

void measure(double sigma, const double *restrict factor, double *restrict spreads, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        spreads[j] = 0.0;
    for (int64_t k = 0; k < n; k++)
        for (int64_t j = k; j < n; j++)
            spreads[j] += factor[k * n + j] * factor[k * n + j];
    for (int64_t j = 0; j < n; j++)
        spreads[j] = sigma * sqrt(spreads[j]);
}

/* Every row is on the multiples of 0.1 in [0, 1]. */
void keep_margin(const double *restrict origin, const double *restrict width, double alpha, double *restrict spreads,
                 double *restrict mean, double *restrict path, double *restrict factor, uint8_t *restrict held,
                 int64_t n)
{
    for (int64_t p = 0; p < n; p++) {
        double z = fmin(fmax(origin[p] + mean[p] * width[p], 0.0), 1.0);
        double entry = fmin(rint(z / 0.1) * 0.1, 1.0);
        int first = entry <= 0.0, last = entry >= 1.0;
        double low = first ? 0.0 : (entry - 0.05 - origin[p]) / width[p];
        double high = last ? 1.0 : (entry + 0.05 - origin[p]) / width[p];
        double spread = spreads[p], new = spread;
        if (first || last) {
            double centre = (entry - origin[p]) / width[p];
            mean[p] = first ? fmax(mean[p], centre) : fmin(mean[p], centre);
            double gap = first ? high - mean[p] : mean[p] - low;
            if (normal_cdf(-gap / spread) < alpha)
                new = gap / normal_quantile(1.0 - alpha);
        } else {
            double below = normal_cdf((low - mean[p]) / spread), above = normal_cdf((mean[p] - high) / spread);
            double least = 0.5 * alpha;
            if (below < least || above < least) {
                double inside = fmax(1.0 - below - above, least);
                double was = below, over = above;
                below = fmax(was, least);
                above = fmax(over, least);
                double share = (1.0 - below - above - inside) / (below + above + inside - 3.0 * least);
                below += share * (below - least);
                above += share * (above - least);
                double left = -normal_quantile(below), right = -normal_quantile(above);
                new = (high - low) / (left + right);
                mean[p] = (low * right + high * left) / (left + right);
            }
        }
        held[p] = high - low > 1.35 * new;
        if (new > spread) {
            double share = new / spread;
            spreads[p] = new;
            path[p] *= share;
            for (int64_t k = 0; k <= p; k++)
                factor[k * n + p] *= share;
        }
    }
}

void shift_categories(const int64_t *restrict categories, const double *restrict weights,
                      const int64_t *restrict offsets, const double *restrict floor_, double *restrict gradient,
                      double *restrict direction, double *restrict trust, double *restrict probabilities,
                      int64_t count, int64_t rows)
{
    double norm = 0.0;
    int64_t freedom = 0, all = offsets[rows];
    for (int64_t j = 0; j < rows; j++) {
        int64_t begin = offsets[j], end = offsets[j + 1];
        for (int64_t k = begin; k < end; k++)
            gradient[k] = 0.0;
        for (int64_t i = 0; i < count; i++) {
            int64_t category = categories[i * rows + j];
            if (category >= 0 && weights[i] > 0.0) {
                for (int64_t k = begin; k < end; k++)
                    gradient[k] -= weights[i] * probabilities[k];
                gradient[begin + category] += weights[i];
            }
        }
        freedom--;
        for (int64_t k = begin; k < end; k++)
            if (probabilities[k] > 0.0) {
                norm += gradient[k] * gradient[k] / probabilities[k];
                freedom++;
            }
    }
    norm = sqrt(norm);
    if (!(norm > 1e-12 && freedom > 0))
        return;
    double delta = trust[0], beta = fmin(delta / sqrt((double)freedom), 1.0);
    double push = sqrt(beta * (2.0 - beta)), length = 0.0;
    for (int64_t k = 0; k < all; k++) {
        direction[k] *= 1.0 - beta;
        if (probabilities[k] > 0.0)
            direction[k] += push * gradient[k] / (sqrt(probabilities[k]) * norm);
        length += direction[k] * direction[k];
    }
    trust[1] = (1.0 - beta) * (1.0 - beta) * trust[1] + beta * (2.0 - beta);
    trust[0] = delta * exp(beta * (length / 1.5 - trust[1]));
    double rate = delta / norm;
    for (int64_t j = 0; j < rows; j++) {
        double total = 0.0, excess = 0.0;
        for (int64_t k = offsets[j]; k < offsets[j + 1]; k++) {
            probabilities[k] = fmax(probabilities[k] + rate * gradient[k], floor_[k]);
            total += probabilities[k];
            excess += probabilities[k] - floor_[k];
        }
        if (excess > 0.0) {
            double share = (1.0 - total) / excess;
            for (int64_t k = offsets[j]; k < offsets[j + 1]; k++)
                probabilities[k] += share * (probabilities[k] - floor_[k]);
        }
    }
}
