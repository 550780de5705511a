/* The counter-based generator of core/rng.py: a chain of splitmix64 finalisers over (seed, step, dim, index). */
#include <stdint.h>

#include "streams.h"

void fill_uniform(int64_t seed, int64_t step, int64_t dim, int64_t first, double *restrict out, int64_t n)
{
    uint64_t key = mix((uint64_t)seed + GOLDEN);
    key = mix((key ^ (uint64_t)step) + GOLDEN);
    key = mix((key ^ (uint64_t)dim) + GOLDEN);
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)(mix((key ^ (uint64_t)(first + i)) + GOLDEN) >> 11) * 0x1p-53;
}
