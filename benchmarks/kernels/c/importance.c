/* Extremely randomised trees: the same work as core/kernels/importance. */
#include <math.h>
#include <stdint.h>

#include "streams.h"

static inline double uniform(int64_t seed, int64_t step, int64_t dim, int64_t index)
{
    uint64_t word = mix((uint64_t)seed + GOLDEN);
    word = mix((word ^ (uint64_t)step) + GOLDEN);
    word = mix((word ^ (uint64_t)dim) + GOLDEN);
    return (double)(mix((word ^ (uint64_t)index) + GOLDEN) >> 11) * 0x1p-53;
}

static inline int left(int32_t categories, double z, double cut)
{
    return categories > 0 ? z == cut : z <= cut;
}

static double draw_cut(int32_t categories, const double *restrict entries, const int64_t *restrict members,
                       int64_t begin, int64_t end, double u)
{
    if (categories > 0)
        return entries[members[begin + (int64_t)(u * (double)(end - begin))]];
    double least = INFINITY, greatest = -INFINITY;
    int64_t missing = 0;
    for (int64_t i = begin; i < end; i++) {
        double z = entries[members[i]];
        if (z != z) {
            missing++;
        } else {
            least = z < least ? z : least;
            greatest = z > greatest ? z : greatest;
        }
    }
    if (least < greatest)
        return least + u * (greatest - least);
    return 0 < missing && missing < end - begin ? greatest : NAN;
}

int64_t grow_tree(int64_t rows_count, int64_t n, int64_t m, int64_t least, int64_t seed, int64_t step,
                  const int32_t *restrict ncat, const double *restrict columns, const double *restrict losses,
                  const double *restrict weights, int64_t *restrict members, int64_t *restrict spans,
                  int64_t *restrict spare, int64_t *restrict rows, int64_t *restrict children,
                  double *restrict cuts, double *restrict values)
{
    int64_t nodes = 1;
    spans[0] = 0;
    spans[1] = m;
    for (int64_t node = 0; node < nodes; node++) {
        const int64_t begin = spans[2 * node], end = spans[2 * node + 1];
        double total = 0.0, mean = 0.0, highest = 0.0;
        for (int64_t i = begin; i < end; i++) {
            total += weights[members[i]];
            mean += weights[members[i]] * losses[members[i]];
        }
        mean /= total;
        values[node] = mean;
        rows[node] = children[node] = -1;
        cuts[node] = 0.0;
        for (int64_t d = 0; d < rows_count && end - begin >= 2 * least; d++) {
            const double *restrict entries = columns + d * n;
            const double cut = draw_cut(ncat[d], entries, members, begin, end, uniform(seed, step, d, node));
            double weight = 0.0, moment = 0.0;
            int64_t count = 0;
            for (int64_t i = begin; i < end; i++)
                if (left(ncat[d], entries[members[i]], cut)) {
                    weight += weights[members[i]];
                    moment += weights[members[i]] * (losses[members[i]] - mean);
                    count++;
                }
            if (least <= count && count <= end - begin - least) {
                const double gain = moment * moment * (1.0 / weight + 1.0 / (total - weight));
                if (gain > highest) {
                    highest = gain;
                    rows[node] = d;
                    cuts[node] = cut;
                }
            }
        }
        if (rows[node] < 0)
            continue;
        const double *restrict entries = columns + rows[node] * n;
        int64_t kept = begin, moved = 0;
        for (int64_t i = begin; i < end; i++) {
            if (left(ncat[rows[node]], entries[members[i]], cuts[node]))
                members[kept++] = members[i];
            else
                spare[moved++] = members[i];
        }
        for (int64_t i = 0; i < moved; i++)
            members[kept + i] = spare[i];
        children[node] = nodes;
        spans[2 * nodes] = begin;
        spans[2 * nodes + 1] = spans[2 * nodes + 2] = kept;
        spans[2 * nodes + 3] = end;
        nodes += 2;
    }
    return nodes;
}

void add_tree(int64_t n, double rate, const int32_t *restrict ncat, const int64_t *restrict rows,
              const int64_t *restrict children, const double *restrict cuts, const double *restrict values,
              const double *restrict population, double *restrict out)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t node = 0;
        while (rows[node] >= 0)
            node = children[node] + !left(ncat[rows[node]], population[rows[node] * n + i], cuts[node]);
        out[i] += rate * values[node];
    }
}
