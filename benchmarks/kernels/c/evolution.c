/* Sorting into fronts, hypervolume, selection, crossover and mutation as core/kernels does them, in plain C. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "streams.h"

static inline uint64_t draw(uint64_t key, int64_t index)
{
    return mix((key ^ (uint64_t)index) + GOLDEN);
}

static inline double unit(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

/* Least significant digit first, eight bits a pass. */
void radix_sort(const double *restrict values, int64_t n, uint64_t *restrict keys, int64_t *restrict moved,
                int64_t *restrict order)
{
    static int64_t counts[8][256];
    uint64_t *from = keys, *to = keys + n;
    int64_t *source = order, *target = moved;
    memset(counts, 0, sizeof counts);
    for (int64_t i = 0; i < n; i++) {
        uint64_t word;
        memcpy(&word, values + order[i], 8);
        if (word == UINT64_C(1) << 63)
            word = 0;
        word ^= word >> 63 ? UINT64_MAX : UINT64_C(1) << 63;
        from[i] = word;
        for (int digit = 0; digit < 8; digit++)
            counts[digit][word >> 8 * digit & 255]++;
    }
    for (int digit = 0; digit < 8; digit++) {
        if (n == 0 || counts[digit][from[0] >> 8 * digit & 255] == n)
            continue;
        int64_t total = 0;
        for (int value = 0; value < 256; value++) {
            int64_t count = counts[digit][value];
            counts[digit][value] = total;
            total += count;
        }
        for (int64_t i = 0; i < n; i++) {
            int64_t place = counts[digit][from[i] >> 8 * digit & 255]++;
            to[place] = from[i];
            target[place] = source[i];
        }
        uint64_t *words = from;
        from = to;
        to = words;
        int64_t *indices = source;
        source = target;
        target = indices;
    }
    if (source != order)
        memcpy(order, source, n * sizeof *order);
}

void lexicographic(const double *restrict losses, int64_t objectives, int64_t n, uint64_t *restrict keys,
                   int64_t *restrict moved, int64_t *restrict order)
{
    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    radix_sort(losses, n, keys, moved, order);
    for (int64_t i = 1; i < n; i++) {
        int64_t inserted = order[i], place = i;
        while (place > 0 && losses[order[place - 1]] == losses[inserted]) {
            int64_t other = order[place - 1], m = 1;
            while (m < objectives - 1 && losses[m * n + other] == losses[m * n + inserted])
                m++;
            if (m >= objectives || !(losses[m * n + other] > losses[m * n + inserted]))
                break;
            order[place--] = other;
        }
        order[place] = inserted;
    }
}

int64_t ranks_2d(const double *restrict losses, const int64_t *restrict order, int64_t n, double *restrict tails,
                 int64_t *restrict rank)
{
    int64_t fronts = 0;
    for (int64_t p = 0; p < n; p++) {
        double height = losses[n + order[p]];
        int64_t low = 0, high = fronts;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (tails[middle] <= height)
                low = middle + 1;
            else
                high = middle;
        }
        rank[order[p]] = low;
        tails[low] = height;
        fronts += low == fronts;
    }
    return fronts;
}

int64_t ranks_3d(const double *restrict losses, const int64_t *restrict order, int64_t n, double *restrict second,
                 double *restrict third, int64_t *restrict spans, int64_t *restrict rank)
{
    int64_t *begins = spans, *lengths = spans + n, *rooms = spans + 2 * n;
    int64_t fronts = 0, used = 0;
    for (int64_t p = 0; p < n; p++) {
        double y = losses[n + order[p]], z = losses[2 * n + order[p]];
        int64_t low = 0, high = fronts, at = 0;
        while (low < high) {
            int64_t middle = (low + high) / 2, left = begins[middle], right = left + lengths[middle];
            while (left < right) {
                int64_t stair = (left + right) / 2;
                if (second[stair] <= y)
                    left = stair + 1;
                else
                    right = stair;
            }
            if (left > begins[middle] && third[left - 1] <= z) {
                low = middle + 1;
            } else {
                high = middle;
                at = left;
            }
        }
        rank[order[p]] = low;
        if (low == fronts) {
            fronts++;
            begins[low] = at = used++;
            lengths[low] = 0;
            rooms[low] = 1;
        }
        int64_t begin = begins[low], end = begin + lengths[low], behind = at;
        while (behind < end && third[behind] >= z)
            behind++;
        if (behind > at) {
            int64_t shift = behind - at - 1;
            if (shift) {
                memmove(second + behind - shift, second + behind, (end - behind) * sizeof *second);
                memmove(third + behind - shift, third + behind, (end - behind) * sizeof *third);
                lengths[low] -= shift;
            }
        } else {
            if (lengths[low] == rooms[low]) {
                memcpy(second + used, second + begin, (end - begin) * sizeof *second);
                memcpy(third + used, third + begin, (end - begin) * sizeof *third);
                at += used - begin;
                end += used - begin;
                begins[low] = used;
                rooms[low] *= 2;
                used += rooms[low];
            }
            memmove(second + at + 1, second + at, (end - at) * sizeof *second);
            memmove(third + at + 1, third + at, (end - at) * sizeof *third);
            lengths[low]++;
        }
        second[at] = y;
        third[at] = z;
    }
    return fronts;
}

int64_t ranks_many(const double *restrict losses, const int64_t *restrict order, int64_t objectives, int64_t n,
                   double *restrict points, int64_t *restrict heads, int64_t *restrict following,
                   int64_t *restrict rank)
{
    for (int64_t p = 0; p < n; p++)
        for (int64_t m = 0; m < objectives; m++)
            points[p * objectives + m] = losses[m * n + order[p]];
    int64_t fronts = 0;
    for (int64_t p = 0; p < n; p++) {
        const double *mine = points + p * objectives;
        int64_t low = 0, high = fronts;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            int dominated = 0;
            for (int64_t member = heads[middle]; member >= 0 && !dominated; member = following[member]) {
                const double *theirs = points + member * objectives;
                dominated = 1;
                for (int64_t m = 1; m < objectives; m++)
                    if (theirs[m] > mine[m]) {
                        dominated = 0;
                        break;
                    }
            }
            if (dominated)
                low = middle + 1;
            else
                high = middle;
        }
        rank[order[p]] = low;
        if (low == fronts)
            heads[fronts++] = -1;
        following[p] = heads[low];
        heads[low] = p;
    }
    return fronts;
}

void crowding(const double *restrict values, const int64_t *restrict order, const int64_t *restrict rank, int64_t n,
              int64_t fronts, int64_t *restrict ends, int64_t *restrict before, double *restrict distance)
{
    int64_t *first = ends, *last = ends + fronts, *latest = before, *previous = before + fronts;
    for (int64_t k = 0; k < fronts; k++)
        first[k] = last[k] = latest[k] = previous[k] = -1;
    for (int64_t p = 0; p < n; p++) {
        int64_t i = order[p], k = rank[i];
        if (k < 0)
            continue;
        if (first[k] < 0)
            first[k] = i;
        last[k] = i;
    }
    for (int64_t p = 0; p < n; p++) {
        int64_t i = order[p], k = rank[i];
        if (k < 0)
            continue;
        if (previous[k] >= 0) {
            double extent = fabs(values[last[k]] - values[first[k]]);
            if (extent > 0.0)
                distance[latest[k]] += fabs(values[i] - values[previous[k]]) / extent;
        }
        previous[k] = latest[k];
        latest[k] = i;
    }
    for (int64_t k = 0; k < fronts; k++)
        distance[first[k]] = distance[last[k]] = INFINITY;
}

double volume(const double *restrict points, const int64_t *restrict order, int64_t n,
              const double *restrict reference, double *restrict stairs)
{
    double *xs = stairs, *ys = stairs + n + 1, total = 0.0, area = 0.0, level = 0.0;
    int64_t length = 0;
    for (int64_t p = 0; p < n; p++) {
        double x = points[order[p]], y = points[n + order[p]], z = points[2 * n + order[p]];
        int64_t low = 0, high = length;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (xs[middle] < x)
                low = middle + 1;
            else
                high = middle;
        }
        double top = low > 0 ? ys[low - 1] : reference[1], left = x;
        if (top <= y || (low < length && xs[low] == x && ys[low] <= y))
            continue;
        total += area * (z - level);
        level = z;
        int64_t behind = low;
        while (behind < length && ys[behind] >= y) {
            area += (xs[behind] - left) * (top - y);
            left = xs[behind];
            top = ys[behind++];
        }
        area += ((behind < length ? xs[behind] : reference[0]) - left) * (top - y);
        memmove(xs + low + 1, xs + behind, (length - behind) * sizeof *xs);
        memmove(ys + low + 1, ys + behind, (length - behind) * sizeof *ys);
        length += low + 1 - behind;
        xs[low] = x;
        ys[low] = y;
    }
    return total + area * (reference[2] - level);
}

struct strip {
    double left, top;
    int64_t next;
};

struct owner {
    double x, y, end, area, level;
    int64_t head;
};

static void cut(struct owner *restrict owner, struct strip *restrict strips, int64_t *restrict used, double x,
                double y)
{
    int64_t at = owner->head;
    while (strips[at].next >= 0 && strips[strips[at].next].left <= x)
        at = strips[at].next;
    if (strips[at].top <= y)
        return;
    int64_t after = strips[at].next;
    while (after >= 0 && strips[after].top > y)
        after = strips[after].next;
    if (strips[at].left < x) {
        strips[*used].left = x;
        strips[at].next = *used;
        at = (*used)++;
    }
    strips[at].top = y;
    strips[at].next = after;
    owner->area = 0.0;
    for (at = owner->head; at >= 0; at = strips[at].next) {
        double end = strips[at].next >= 0 ? strips[strips[at].next].left : owner->end;
        owner->area += (end - strips[at].left) * fmax(strips[at].top - owner->y, 0.0);
    }
}

void shares(const double *restrict points, const int64_t *restrict order, int64_t n,
            const double *restrict reference, double *restrict share)
{
    struct owner *owners = malloc(n * sizeof *owners);
    struct strip *strips = malloc(3 * n * sizeof *strips);
    int64_t *stairs = malloc((n + 1) * sizeof *stairs), length = 0, used = 0;
    memset(share, 0, n * sizeof *share);
    for (int64_t p = 0; p < n; p++) {
        int64_t i = order[p];
        double x = points[i], y = points[n + i], z = points[2 * n + i];
        int64_t low = 0, high = length;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (owners[stairs[middle]].x < x)
                low = middle + 1;
            else
                high = middle;
        }
        int64_t last = low < length && owners[stairs[low]].x == x ? low : low - 1, behind = low;
        int64_t sides[2] = {-1, -1};
        int hidden = last >= 0 && owners[stairs[last]].y <= y;
        if (hidden) {
            if (last > 0 && owners[stairs[last - 1]].y <= y)
                continue;
            sides[0] = stairs[last];
        } else {
            while (behind < length && owners[stairs[behind]].y >= y)
                behind++;
            sides[0] = low > 0 ? stairs[low - 1] : -1;
            sides[1] = behind < length ? stairs[behind] : -1;
        }
        for (int side = 0; side < 2; side++)
            if (sides[side] >= 0) {
                struct owner *m = owners + sides[side];
                share[sides[side]] += m->area * (z - m->level);
                m->level = z;
                cut(m, strips, &used, x, y);
            }
        if (hidden)
            continue;
        struct owner *mine = owners + i;
        *mine = (struct owner){x, y, sides[1] >= 0 ? owners[sides[1]].x : reference[0], 0.0, z, used};
        strips[used] = (struct strip){x, sides[0] >= 0 ? owners[sides[0]].y : reference[1], -1};
        for (int64_t position = low; position < behind; position++) {
            struct owner *m = owners + stairs[position];
            share[stairs[position]] += m->area * (z - m->level);
            mine->area += (m->x - strips[used].left) * (strips[used].top - y);
            strips[used].next = used + 1;
            used++;
            strips[used] = (struct strip){m->x, m->y, -1};
        }
        mine->area += (mine->end - strips[used].left) * (strips[used].top - y);
        used++;
        memmove(stairs + low + 1, stairs + behind, (length - behind) * sizeof *stairs);
        length += low + 1 - behind;
        stairs[low] = i;
    }
    for (int64_t position = 0; position < length; position++) {
        struct owner *m = owners + stairs[position];
        share[stairs[position]] += m->area * (reference[2] - m->level);
    }
    free(owners);
    free(strips);
    free(stairs);
}

void mate(const double *restrict fitness, int64_t n, int64_t seed, int64_t step, double share, int64_t pairs,
          int64_t *restrict mothers, int64_t *restrict fathers, uint8_t *restrict mates)
{
    uint64_t first = key_of(seed, step, -401), second = key_of(seed, step, -402), third = key_of(seed, step, -403);
    for (int64_t i = 0; i < pairs; i++) {
        uint64_t bits = draw(first, i);
        int64_t one = (bits & 0xFFFFFFFF) * n >> 32, other = (bits >> 32) * n >> 32;
        int64_t mother = fitness[other] < fitness[one] || fitness[one] != fitness[one] ? other : one;
        bits = draw(second, i);
        one = (bits & 0xFFFFFFFF) * n >> 32;
        other = (bits >> 32) * n >> 32;
        int64_t father = fitness[other] < fitness[one] || fitness[one] != fitness[one] ? other : one;
        mothers[i] = mother;
        fathers[i] = father == mother ? one + other - father : father;
        mates[i] = unit(draw(third, i)) < share;
    }
}

int64_t survivors(const double *restrict fitness, int64_t n, double threshold, int64_t *restrict sources,
                  int64_t *restrict places)
{
    int64_t room = n, gone = 0, come = 0;
    for (int64_t i = 0; i < 2 * n; i++)
        room -= fitness[i] < threshold;
    for (int64_t i = 0; i < 2 * n; i++) {
        int stays = fitness[i] < threshold;
        if (fitness[i] == threshold && room > 0) {
            stays = 1;
            room--;
        }
        if (i < n && !stays)
            places[gone++] = i;
        else if (i >= n && stays)
            sources[come++] = i - n;
    }
    return come;
}

void replace(const double *restrict children, const int64_t *restrict sources, const int64_t *restrict places,
             int64_t rows, int64_t n, int64_t count, double *restrict parents)
{
    for (int64_t d = 0; d < rows; d++)
        for (int64_t k = 0; k < count; k++)
            parents[d * n + places[k]] = children[d * n + sources[k]];
}

static inline double power16(double x)
{
    x *= x;
    x *= x;
    x *= x;
    return x * x;
}

static inline double root16(double x)
{
    return sqrt(sqrt(sqrt(sqrt(x))));
}

/* Rows are continuous between lo and hi. */
void cross(const double *restrict parents, const int64_t *restrict mothers, const int64_t *restrict fathers,
           const uint8_t *restrict mates, const double *restrict los, const double *restrict his, int64_t rows,
           int64_t n, int64_t pairs, int64_t seed, int64_t step, double *restrict children)
{
    for (int64_t d = 0; d < rows; d++) {
        const double *row = parents + d * n;
        double *restrict ours = children + 2 * d * pairs, *restrict theirs = ours + pairs;
        double lo = los[d], hi = his[d], narrow = 1e-14 * (hi - lo);
        uint64_t key = key_of(seed, step, d);
        for (int64_t i = 0; i < pairs; i++) {
            ours[i] = row[mothers[i]];
            theirs[i] = row[fathers[i]];
        }
        for (int64_t i = 0; i < pairs; i++) {
            double a = ours[i], b = theirs[i];
            uint64_t bits = draw(key, i);
            double u = unit(bits), low = a < b ? a : b, high = b < a ? a : b, gap = high - low, scale = 2.0 / gap;
            double near = u * (2.0 - 1.0 / power16(1.0 + (low - lo) * scale));
            double far = u * (2.0 - 1.0 / power16(1.0 + (hi - high) * scale));
            near = root16(near <= 1.0 ? near : 1.0 / (2.0 - near));
            far = root16(far <= 1.0 ? far : 1.0 / (2.0 - far));
            double middle = 0.5 * (low + high);
            near = middle - 0.5 * near * gap;
            far = middle + 0.5 * far * gap;
            near = near > lo ? near : lo;
            far = far < hi ? far : hi;
            int takes = (mates[i] == 1) & (int)(bits & 1) & (gap > narrow), swaps = (bits & 2) != 0;
            double one = swaps ? far : near, other = swaps ? near : far;
            ours[i] = takes ? one : a;
            theirs[i] = takes ? other : b;
        }
    }
}

void mutate(const double *restrict los, const double *restrict his, int64_t rows, int64_t n, double rate,
            int64_t seed, int64_t step, double *restrict population)
{
    double draws[256];
    for (int64_t d = 0; d < rows; d++) {
        double lo = los[d], hi = his[d], width = hi - lo;
        uint64_t key = key_of(seed, step, d);
        for (int64_t first = 0; first < n; first += 256) {
            double *restrict entries = population + d * n + first;
            int64_t count = n - first < 256 ? n - first : 256;
            for (int64_t c = 0; c < count; c++)
                draws[c] = unit(draw(key, first + c));
            for (int64_t c = 0; c < count; c++) {
                if (draws[c] >= rate)
                    continue;
                double u = draws[c] / rate, z = entries[c];
                if (u < 0.5)
                    z -= (1.0 - root16(2.0 * u + (1.0 - 2.0 * u) * power16(1.0 - (z - lo) / width))) * width;
                else
                    z += (1.0 - root16(2.0 * (1.0 - u) + (2.0 * u - 1.0) * power16(1.0 - (hi - z) / width))) * width;
                entries[c] = z < lo ? lo : z > hi ? hi : z;
            }
        }
    }
}
