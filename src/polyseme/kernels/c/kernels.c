/* The inner loops of a training step that torch has no operation for; compiled.py loads them and says what they compute.

   Rows (or latents) are shared out in runs of a fixed length to the threads of torch's own pool, whose fork is handed
   in: a second pool would fight the first for the cores. Each row is worked on by one thread, in one order, so results
   do not depend on how many there are. Arrays are contiguous, latents and rows are int32, sizes are int64. */

#include "kernels.h"

/* ---- What exceeds a bound in a block of pre-activations ---- */

enum { STRIDE = 64 };

/* Writes what exceeds its bound (of its column where there are such, else `bound`) of x + b to values and latents from c
   on; returns how many are there then. Without `values` it only counts. */
static inline i64 append_above(const float *x, const float *b, const float *bounds, float bound, i64 n, i32 first,
                               float *values, i32 *latents, i64 c) {
#ifdef __AVX512F__
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (i64 j = 0; j < n; j += LANES) {
        __mmask16 in = n - j < LANES ? (__mmask16)((1u << (n - j)) - 1) : (__mmask16)-1;
        __m512 y = _mm512_add_ps(_mm512_maskz_loadu_ps(in, x + j), _mm512_maskz_loadu_ps(in, b + j));
        __m512 least = bounds ? _mm512_maskz_loadu_ps(in, bounds + j) : _mm512_set1_ps(bound);
        __mmask16 above = _mm512_mask_cmp_ps_mask(in, y, least, _CMP_GT_OQ);
        i64 count = __builtin_popcount(above);
        if (values && above) {
            __mmask16 new = (__mmask16)((1u << count) - 1);
            __m512i latent = _mm512_add_epi32(lane, _mm512_set1_epi32(first + (i32)j));
            _mm512_mask_storeu_ps(values + c, new, _mm512_maskz_compress_ps(above, y));
            _mm512_mask_storeu_epi32(latents + c, new, _mm512_maskz_compress_epi32(above, latent));
        }
        c += count;
    }
#else
    for (i64 j = 0; j < n; j += LANES) {
        i64 end = n - j < LANES ? n : j + LANES;
        i32 above = 0;
        for (i64 i = j; i < end; i++) above += x[i] + b[i] > (bounds ? bounds[i] : bound);
        if (values && above)
            for (i64 i = j; i < end; i++)
                if (x[i] + b[i] > (bounds ? bounds[i] : bound)) {
                    values[c] = x[i] + b[i];
                    latents[c++] = first + (i32)i;
                }
        c += values ? 0 : above;
    }
#endif
    return c;
}

typedef struct {
    const float *tile;   /* [rows, n]: a block of latents' products */
    const float *bias;   /* [n] */
    const float *bounds; /* [n] */
    i64 n;
    i32 first;          /* latent of the block's first column */
    i64 *counts;        /* [rows]: written, where there are no values */
    const i64 *starts;  /* [rows] */
    float *values;
    i32 *latents;
} above_t;

static void above_rows(const void *args, i64 low, i64 high) {
    const above_t *a = args;
    for (i64 row = low; row < high; row++) {
        const float *x = a->tile + row * a->n;
        if (a->values)
            append_above(x, a->bias, a->bounds, 0, a->n, a->first, a->values, a->latents, a->starts[row]);
        else
            a->counts[row] = append_above(x, a->bias, a->bounds, 0, a->n, a->first, 0, 0, 0);
    }
}

void polyseme_above(const pool_t *pool, const above_t *above, i64 rows) { share(pool, above_rows, above, rows, 32); }

typedef struct {
    const float *values; /* of all blocks, row by row in each */
    const i32 *latents;
    const i64 *starts; /* [blocks, rows] */
    const i64 *counts; /* [blocks, rows] */
    i64 blocks, rows;
    const i64 *offsets; /* [rows] */
    float *out_values;  /* row by row, block by block in each */
    i32 *out_latents;
} gather_t;

static void gather_rows(const void *args, i64 low, i64 high) {
    const gather_t *g = args;
    for (i64 row = low; row < high; row++)
        for (i64 block = 0, at = g->offsets[row]; block < g->blocks; block++) {
            i64 start = g->starts[block * g->rows + row], count = g->counts[block * g->rows + row];
            memcpy(g->out_values + at, g->values + start, (size_t)count * sizeof *g->values);
            memcpy(g->out_latents + at, g->latents + start, (size_t)count * sizeof *g->latents);
            at += count;
        }
}

void polyseme_gather(const pool_t *pool, const gather_t *gather, i64 rows) {
    share(pool, gather_rows, gather, rows, 64);
}

/* ---- The k largest of each row, while the row's pre-activations come block by block of latents ---- */

typedef struct {
    const float *tile; /* [rows, n]: a block of latents' products */
    const float *bias; /* [n] */
    i64 n;
    i32 first;       /* latent of the block's first column */
    i64 k, room;     /* entries kept; places a row has: at least k + 2 STRIDE */
    float *values;   /* [rows, room] */
    i32 *latents;    /* [rows, room] */
    i32 *counts;     /* [rows] */
    float *bounds;   /* [rows]: nothing that is not above it can be among the k largest; 0 at first */
} top_t;

static void take_rows(const void *args, i64 low, i64 high) {
    const top_t *top = args;
    for (i64 row = low; row < high; row++) {
        const float *x = top->tile + row * top->n;
        float *values = top->values + row * top->room, bound = top->bounds[row];
        i32 *latents = top->latents + row * top->room;
        i64 c = top->counts[row];
        for (i64 j = 0; j < top->n; j += STRIDE) {
            i64 n = top->n - j < STRIDE ? top->n - j : STRIDE;
            c = append_above(x + j, top->bias + j, 0, bound, n, top->first + (i32)j, values, latents, c);
            if (c > top->room - STRIDE) { /* the next stride might not fit */
                c = keep_largest(values, latents, c, top->k, top->k + STRIDE / 2, &bound);
            }
        }
        top->bounds[row] = bound;
        top->counts[row] = (i32)c;
    }
}

static void finish_rows(const void *args, i64 low, i64 high) {
    const top_t *top = args;
    for (i64 row = low; row < high; row++)
        if (top->counts[row] > top->k) {
            i64 at = row * top->room, k = top->k;
            top->counts[row] = (i32)keep_largest(top->values + at, top->latents + at, top->counts[row], k, k, top->bounds + row);
        }
}

void polyseme_top_k_take(const pool_t *pool, const top_t *top, i64 rows) { share(pool, take_rows, top, rows, 32); }

void polyseme_top_k_finish(const pool_t *pool, const top_t *top, i64 rows) { share(pool, finish_rows, top, rows, 32); }

/* ---- The entries that are not zero ---- */

typedef struct {
    const float *values; /* [entries] */
    const i32 *offsets;  /* [bags + 1] */
    i64 *counts;         /* [bags]: written, where nothing is kept */
    const i64 *starts;   /* [bags] */
    i32 *kept;
} nonzero_t;

static void nonzero_bags(const void *args, i64 low, i64 high) {
    const nonzero_t *a = args;
    for (i64 bag = low; bag < high; bag++) {
        i64 from = a->offsets[bag], to = a->offsets[bag + 1];
        if (!a->kept) {
            i64 c = 0;
            for (i64 e = from; e < to; e++) c += a->values[e] != 0;
            a->counts[bag] = c;
            continue;
        }
        i32 *kept = a->kept + a->starts[bag];
        i64 e = from;
#ifdef __AVX512F__
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (; e + LANES <= to; e += LANES) {
            __mmask16 some = _mm512_cmp_ps_mask(_mm512_loadu_ps(a->values + e), _mm512_setzero_ps(), _CMP_NEQ_UQ);
            i64 count = __builtin_popcount(some);
            __m512i place = _mm512_add_epi32(lane, _mm512_set1_epi32((i32)e));
            _mm512_mask_storeu_epi32(kept, (__mmask16)((1u << count) - 1), _mm512_maskz_compress_epi32(some, place));
            kept += count;
        }
#endif
        for (; e < to; e++)
            if (a->values[e] != 0) *kept++ = (i32)e;
    }
}

void polyseme_nonzero(const pool_t *pool, const nonzero_t *nonzero, i64 bags) {
    share(pool, nonzero_bags, nonzero, bags, 64);
}

/* ---- Sums of rows of a matrix, and products with them ---- */

typedef struct {
    const float *weight; /* [n, d] */
    const i32 *indices;  /* [entries]: row of the weight */
    const i32 *order;    /* [entries] or null: which entry is meant by each place of a bag */
    const i32 *offsets;  /* [bags + 1]: places */
    const float *values; /* [entries] */
    const float *goal;   /* [bags, d] or null */
    float *out;          /* [bags, d] */
    float *dots;         /* [entries] */
    i64 d;
} bags_t;

static inline i64 entry(const bags_t *bags, i64 place) { return bags->order ? bags->order[place] : place; }

/* a += Σ values × weight[indices] over the places from..to; four at a time, for a is then read a quarter as often. The
   rows of the next four are on their way from a far cache meanwhile, those of later bags, up to `end`, too. */
static inline void add_rows(float *restrict a, const bags_t *bags, i64 from, i64 to, i64 end) {
    i64 d = bags->d, at = from;
    for (; at + 4 <= to; at += 4) {
        const float *w[4], *next[4];
        float v[4];
        for (i64 i = 0; i < 4; i++) {
            i64 e = entry(bags, at + i), after = at + 4 + i < end ? entry(bags, at + 4 + i) : e;
            w[i] = bags->weight + bags->indices[e] * d;
            v[i] = bags->values[e];
            next[i] = bags->weight + bags->indices[after] * d;
        }
        const float *restrict w0 = w[0], *restrict w1 = w[1], *restrict w2 = w[2], *restrict w3 = w[3];
        i64 i = 0;
        for (; i + LANES <= d; i += LANES) {
            for (i64 ahead = 0; ahead < 4; ahead++) __builtin_prefetch(next[ahead] + i);
            for (i64 lane = i; lane < i + LANES; lane++)
                a[lane] += (v[0] * w0[lane] + v[1] * w1[lane]) + (v[2] * w2[lane] + v[3] * w3[lane]);
        }
        for (; i < d; i++) a[i] += (v[0] * w0[i] + v[1] * w1[i]) + (v[2] * w2[i] + v[3] * w3[i]);
    }
    for (; at < to; at++) {
        i64 e = entry(bags, at);
        const float *restrict w = bags->weight + bags->indices[e] * d;
        float v = bags->values[e];
        for (i64 i = 0; i < d; i++) a[i] += v * w[i];
    }
}

static void sum_bags(const void *args, i64 low, i64 high) {
    const bags_t *bags = args;
    for (i64 bag = low; bag < high; bag++) {
        float *a = bags->out + bag * bags->d;
        memset(a, 0, (size_t)bags->d * sizeof *a);
        add_rows(a, bags, bags->offsets[bag], bags->offsets[bag + 1], bags->offsets[high]);
    }
}

/* The rows that a bag has just added up are still in a near cache when they are multiplied with the sum. */
static void residual_and_dot_bags(const void *args, i64 low, i64 high) {
    const bags_t *bags = args;
    i64 d = bags->d;
    for (i64 bag = low; bag < high; bag++) {
        float *restrict a = bags->out + bag * d;
        const float *goal = bags->goal + bag * d;
        for (i64 i = 0; i < d; i++) a[i] = -goal[i];
        add_rows(a, bags, bags->offsets[bag], bags->offsets[bag + 1], bags->offsets[high]);
        for (i64 e = bags->offsets[bag]; e < bags->offsets[bag + 1]; e++) {
            const float *restrict w = bags->weight + bags->indices[e] * d;
            float sum = 0;
            for (i64 i = 0; i < d; i++) sum += a[i] * w[i];
            bags->dots[e] = sum;
        }
    }
}

void polyseme_sum_bags(const pool_t *pool, const bags_t *bags, i64 n) { share(pool, sum_bags, bags, n, 32); }

void polyseme_residual_and_dot(const pool_t *pool, const bags_t *bags, i64 n) {
    share(pool, residual_and_dot_bags, bags, n, 32);
}

/* The entries in the order of their latents, of equal latents as they were; starts[j] is the place of latent j's first,
   starts[n] the end. `starts` holds zeros at first. */
void polyseme_sort_by_latent(const i32 *latents, i64 entries, i64 n, i32 *starts, i32 *order) {
    for (i64 e = 0; e < entries; e++) starts[latents[e] + 1]++;
    for (i64 j = 0; j < n; j++) starts[j + 1] += starts[j];
    for (i64 e = 0; e < entries; e++) order[starts[latents[e]]++] = (i32)e;
    /* Now each holds where the next begins. */
    memmove(starts + 1, starts, (size_t)n * sizeof *starts);
    starts[0] = 0;
}

typedef struct {
    const float *weight; /* [n, d] */
    const i32 *indices;  /* [entries]: row of the weight, ascending in a bag */
    const i32 *offsets;  /* [bags + 1] */
    const float *g;      /* [bags, d] */
    float *dots;         /* [entries] */
    i64 *next;           /* [bags]: the bag's first entry that is not done, its first at first */
    i64 n, d, block;     /* rows of the weight that stay in cache */
} dots_t;

/* Block after block of the weight, for many bags each: where bags have many entries, a row that is fetched from afar
   serves several. */
static void dot_bags(const void *args, i64 low, i64 high) {
    const dots_t *a = args;
    i64 d = a->d;
    for (i64 end = a->block; end < a->n + a->block; end += a->block)
        for (i64 bag = low; bag < high; bag++) {
            const float *restrict g = a->g + bag * d;
            i64 e = a->next[bag];
            for (; e < a->offsets[bag + 1] && a->indices[e] < end; e++) {
                const float *restrict w = a->weight + a->indices[e] * d;
                float sum = 0;
                for (i64 i = 0; i < d; i++) sum += g[i] * w[i];
                a->dots[e] = sum;
            }
            a->next[bag] = e;
        }
}

void polyseme_dot(const pool_t *pool, const dots_t *dots, i64 bags) {
    share(pool, dot_bags, dots, bags, (bags + pool->threads - 1) / pool->threads);
}

/* ---- Pre-activations whose bits depend on a vector and a latent alone ---- */

typedef struct {
    const float *x;      /* [bags, d] */
    const float *weight; /* [n, d] */
    const float *bias;   /* [n] */
    const i32 *indices;  /* [entries]: row of the weight */
    const i32 *offsets;  /* [bags + 1] */
    float *out;          /* [entries] */
    i64 d;
} exact_t;

typedef float floats_t __attribute__((vector_size(32), aligned(4)));
typedef double doubles_t __attribute__((vector_size(64)));

/* The order of the sums is part of the result (exact.py). */
#if defined(__clang__)
#define IN_ORDER
#pragma clang fp reassociate(off)
#else
#define IN_ORDER __attribute__((optimize("no-associative-math")))
#endif

IN_ORDER static void exact_bags(const void *args, i64 low, i64 high) {
    enum { WIDTH = 8, SUMS = 4, ALL = WIDTH * SUMS };
    const exact_t *a = args;
    i64 d = a->d, end = a->offsets[high];
    for (i64 bag = low; bag < high; bag++)
        for (i64 e = a->offsets[bag]; e < a->offsets[bag + 1]; e++) {
            const float *x = a->x + bag * d, *w = a->weight + a->indices[e] * d;
            const float *next = a->weight + a->indices[e + 1 < end ? e + 1 : e] * d;
            doubles_t sums[SUMS] = {{0}, {0}, {0}, {0}};
            i64 i = 0;
            for (; i + ALL <= d; i += ALL) {
                __builtin_prefetch(next + i);
                __builtin_prefetch(next + i + ALL / 2);
                for (i64 s = 0; s < SUMS; s++) {
                    floats_t left = *(const floats_t *)(x + i + s * WIDTH), right = *(const floats_t *)(w + i + s * WIDTH);
                    sums[s] += __builtin_convertvector(left, doubles_t) * __builtin_convertvector(right, doubles_t);
                }
            }
            for (i64 s = 0; i < d; i++, s++) sums[s / WIDTH][s % WIDTH] += (double)x[i] * (double)w[i];
            doubles_t sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
            for (i64 half = WIDTH / 2; half; half /= 2)
                for (i64 lane = 0; lane < half; lane++) sum[lane] += sum[lane + half];
            a->out[e] = (float)(sum[0] + (double)a->bias[a->indices[e]]);
        }
}

void polyseme_exact(const pool_t *pool, const exact_t *exact, i64 bags) { share(pool, exact_bags, exact, bags, 32); }
