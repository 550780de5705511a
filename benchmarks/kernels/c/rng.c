/* The counter-based generator of core/rng.py: a chain of splitmix64 finalisers over (seed, step, dim, index). */
#include <stdint.h>

static inline uint64_t mix(uint64_t word)
{
    word = (word ^ (word >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    word = (word ^ (word >> 27)) * UINT64_C(0x94D049BB133111EB);
    return word ^ (word >> 31);
}

void fill_uniform(int64_t seed, int64_t step, int64_t dim, int64_t first, double *restrict out, int64_t n)
{
    const uint64_t golden = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t key = mix((uint64_t)seed + golden);
    key = mix((key ^ (uint64_t)step) + golden);
    key = mix((key ^ (uint64_t)dim) + golden);
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)(mix((key ^ (uint64_t)(first + i)) + golden) >> 11) * 0x1p-53;
}
