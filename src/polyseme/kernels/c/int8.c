/* The k largest of each row of x Wᵀ + b, or all above a bound, by products of 8-bit integers; int8.py says why what they
   choose is what float32 would choose. For processors with AVX-512 VNNI, whose products of bytes are two to four times as
   fast as those of floats.

   With columns scaled by powers of two, x' = x / c and w' = c w have the same product, and are rounded to
   x̂ = s_x q_x and ŵ = s_w q_w with whole q in -127..127. Then

       |x w − x̂ ŵ| ≤ ‖x'‖ ‖w' − ŵ‖ + ‖x' − x̂‖ (‖w'‖ + ‖w' − ŵ‖)

   and x̂ ŵ + b + this is an upper bound of every pre-activation: what exceeds the bar with it is scored in float32. */

#include "kernels.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#if defined(__AVX512BW__) && defined(__GNUC__)

enum { WIDE = 2 * LANES, TALL = 12, UNIT = 32 * TALL, RANGE = 32 * WIDE, PLACE = 23 };

/* Of a vector's length: beyond it products might overflow. */
#define LARGEST 1e15f

#define VNNI __attribute__((target("avx512vnni")))

int polyseme_int8_supported(void) { return __builtin_cpu_supports("avx512vnni") != 0; }

typedef struct {
    float step, length, rounding; /* ‖v'‖ and ‖v' − v̂‖ */
} grid_t;

/* v' = v × column, in whole steps. */
static grid_t round_to_grid(const float *restrict v, const float *restrict column, i64 d, int8_t *restrict q) {
    float most = 0, length = 0, rounding = 0;
    for (i64 i = 0; i < d; i++) {
        float size = fabsf(v[i] * column[i]);
        most = size > most ? size : most;
    }
    int some = most > 1e-30f && most < LARGEST; /* otherwise all is rounded to 0 */
    float step = some ? most / 127 : 1, inverse = some ? 1 / step : 0;
    for (i64 i = 0; i < d; i++) {
        float exact = v[i] * column[i], whole = some ? rintf(exact * inverse) : 0, error = exact - whole * step;
        length += exact * exact;
        rounding += error * error;
        q[i] = (int8_t)(int)whole;
    }
    float underflow = (float)d * FLT_MIN; /* of squares */
    return (grid_t){step, sqrtf(length + underflow), sqrtf(rounding + underflow)};
}

typedef struct {
    const float *weight;  /* [n, d] */
    const float *columns; /* [d]: c */
    const float *bias;    /* [n] */
    i64 n, d, depth;      /* depth: d, rounded up to a multiple of 4 */
    uint8_t *packed;      /* [panels, depth / 4, WIDE, 4]: q_w + 128, for one factor of the instruction is unsigned */
    float *steps, *roundings, *lengths, *raised; /* [panels × WIDE]: s_w, ‖w' − ŵ‖, ‖w'‖, and b with its own rounding */
} pack_t;

static void pack_panels(const void *args, i64 low, i64 high) {
    const pack_t *p = args;
    int8_t *q = calloc(1, (size_t)p->depth);
    for (i64 panel = low; panel < high; panel++) {
        uint8_t *out = p->packed + panel * p->depth * WIDE;
        for (i64 lane = 0; lane < WIDE; lane++) {
            i64 j = panel * WIDE + lane;
            grid_t grid = {0, 0, 0};
            if (j < p->n && q) grid = round_to_grid(p->weight + j * p->d, p->columns, p->d, q);
            for (i64 i = 0; i < p->depth && q; i += 4) {
                uint32_t four;
                memcpy(&four, q + i, 4);
                four ^= 0x80808080u;
                memcpy(out + i * WIDE + lane * 4, &four, 4);
            }
            p->steps[j] = grid.step;
            p->roundings[j] = grid.rounding;
            p->lengths[j] = q ? grid.length : INFINITY;
            /* What is no latent is never chosen. */
            p->raised[j] = j < p->n ? p->bias[j] + 4 * FLT_EPSILON * fabsf(p->bias[j]) : -INFINITY;
        }
    }
    free(q);
}

void polyseme_int8_pack(const pool_t *pool, const pack_t *pack, i64 panels) { share(pool, pack_panels, pack, panels, 8); }

typedef struct {
    const float *x;       /* [rows, d] */
    const float *columns; /* [d]: 1 / c */
    const float *weight, *bias;
    const uint8_t *packed;
    const float *steps, *roundings, *lengths, *raised;
    const float *bounds;  /* [panels × WIDE]: what is wanted is above it; or null: the k largest that are positive are */
    i64 n, d, depth;
    float large_rounding, large_length; /* a large ‖w' − ŵ‖, and ‖w'‖ + ‖w' − ŵ‖ */
    i64 k, room;          /* entries that a row has places for at the end, and on the way */
    i64 run;              /* rows of a unit, at most UNIT */
    float *values;        /* [rows, k] */
    i32 *latents;         /* [rows, k], ascending */
    i64 *counts;          /* [rows]; -1 where nothing is proven */
    i64 *scored;          /* [rows]: candidates */
} find_t;

/* A unit of rows on their way. */
typedef struct {
    i64 rows;
    const float *x;  /* [rows, d] */
    int8_t *q;       /* [UNIT, depth] */
    float *values;   /* [rows, room]: scores of what is kept, upper bounds of the candidates after it, then their scores */
    i32 *latents;    /* [rows, room] */
    i32 *starts;     /* [latents of a range + 1]: of each latent's candidates, in the order of their latents */
    uint32_t *places; /* [rows × room]: where they are, row and place in it, the latter in PLACE bits */
    i32 kept[UNIT], counts[UNIT], scored[UNIT], offsets[UNIT];
    float steps[UNIT], lengths[UNIT], roundings[UNIT];
    float bars[UNIT]; /* no more than this are the upper bounds of what was left out */
} unit_t;

static void round_rows(const find_t *f, unit_t *u) {
    /* For the sums of d products of floats: those of a score, of the norms, of each error. */
    float slack = 4 * (float)(f->d + 8) * FLT_EPSILON;
    for (i64 r = 0; r < UNIT; r++) {
        u->kept[r] = u->counts[r] = u->scored[r] = u->offsets[r] = 0;
        u->steps[r] = u->lengths[r] = u->roundings[r] = 0;
        u->bars[r] = INFINITY; /* of no row: nothing exceeds it */
        if (r >= u->rows) continue;
        int8_t *q = u->q + r * f->depth;
        grid_t grid = round_to_grid(u->x + r * f->d, f->columns, f->d, q);
        if (!(grid.length < LARGEST)) continue; /* or not a number */
        i32 sum = 0;
        for (i64 i = 0; i < f->d; i++) sum += q[i];
        u->offsets[r] = -128 * sum;
        u->steps[r] = grid.step;
        u->lengths[r] = grid.length * (1 + slack);
        u->roundings[r] = grid.rounding * (1 + slack) + grid.length * slack;
        u->bars[r] = f->bounds ? -INFINITY : 0;
    }
}

/* Products of TALL rows with a panel of WIDE latents. */
VNNI static inline void multiply(__m512i out[TALL][2], const int8_t *q, const uint8_t *panel, const i32 *offsets, i64 depth) {
    __m512i sums[TALL][2];
#pragma GCC unroll 12
    for (int r = 0; r < TALL; r++) sums[r][0] = sums[r][1] = _mm512_set1_epi32(offsets[r]);
    for (i64 i = 0; i < depth; i += 4) {
        __m512i near = _mm512_loadu_si512(panel + i * WIDE), far = _mm512_loadu_si512(panel + i * WIDE + 4 * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < TALL; r++) {
            i32 four;
            memcpy(&four, q + r * depth + i, 4);
            __m512i factor = _mm512_set1_epi32(four);
            sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], near, factor);
            sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], far, factor);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TALL; r++) out[r][0] = sums[r][0], out[r][1] = sums[r][1];
}

/* Raises a row's bar to what the kth score will hardly fall short of, and drops the candidates below it. A score is about
   its upper bound less the error's bound; what it really differs by is of the order of 1 / √d of that. */
static void raise_bar(const find_t *f, unit_t *u, i64 r) {
    i64 reaching;
    i32 kth = reached_by(u->values + r * f->room, u->counts[r], f->k, f->k, u->bars[r], &reaching);
    float bar, error = u->lengths[r] * f->large_rounding + u->roundings[r] * f->large_length;
    memcpy(&bar, &kth, sizeof bar);
    bar -= error * (1 + 3 / sqrtf((float)f->d));
    if (!(bar > u->bars[r])) return;
    u->bars[r] = bar;
    u->counts[r] = (i32)keep_reaching(u->values + r * f->room, u->latents + r * f->room, u->counts[r], bits(bar) + 1);
}

/* The candidates of each row of a unit among some latents: all whose upper bound exceeds the row's bar, or their latent's
   bound. */
VNNI static void collect(const find_t *f, unit_t *u, i64 first, i64 end) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (i64 panel = first / WIDE; panel * WIDE < end; panel++)
        for (i64 low = 0; low < u->rows; low += TALL) {
            __m512i sums[TALL][2];
            multiply(sums, u->q + low * f->depth, f->packed + panel * f->depth * WIDE, u->offsets + low, f->depth);
            for (i64 r = low; r < low + TALL && r < u->rows; r++) {
                float *values = u->values + r * f->room;
                i32 *latents = u->latents + r * f->room;
                i64 c = u->counts[r];
                for (i64 half = 0; half < 2; half++) {
                    i64 j = panel * WIDE + half * LANES;
                    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(f->steps + j), _mm512_set1_ps(u->steps[r]));
                    __m512 rounding = _mm512_loadu_ps(f->roundings + j);
                    __m512 spread = _mm512_add_ps(_mm512_loadu_ps(f->lengths + j), rounding);
                    __m512 upper = _mm512_cvtepi32_ps(sums[r - low][half]);
                    upper = _mm512_fmadd_ps(upper, scale, _mm512_loadu_ps(f->raised + j));
                    upper = _mm512_fmadd_ps(_mm512_set1_ps(u->lengths[r]), rounding, upper);
                    upper = _mm512_fmadd_ps(_mm512_set1_ps(u->roundings[r]), spread, upper);
                    __mmask16 above = _mm512_cmp_ps_mask(upper, _mm512_set1_ps(u->bars[r]), _CMP_GT_OQ);
                    if (f->bounds) above = _mm512_mask_cmp_ps_mask(above, upper, _mm512_loadu_ps(f->bounds + j), _CMP_GT_OQ);
                    if (!above) continue;
                    i64 count = __builtin_popcount(above);
                    __mmask16 new = (__mmask16)((1u << count) - 1);
                    __m512i latent = _mm512_add_epi32(lane, _mm512_set1_epi32((i32)j));
                    _mm512_mask_storeu_ps(values + c, new, _mm512_maskz_compress_ps(above, upper));
                    _mm512_mask_storeu_epi32(latents + c, new, _mm512_maskz_compress_epi32(above, latent));
                    c += count;
                }
                u->counts[r] = (i32)c;
                if (c <= f->room - WIDE) continue;
                /* The next panel might not fit. */
                if (!f->bounds) raise_bar(f, u, r);
                if (u->counts[r] > f->room - 2 * WIDE) {
                    u->bars[r] = INFINITY; /* more candidates than can be held: nothing will be proven */
                    u->kept[r] = u->counts[r] = 0;
                }
            }
        }
}

static inline float dot(const float *x, const float *w, i64 d) {
    __m512 sums[4];
    for (int i = 0; i < 4; i++) sums[i] = _mm512_setzero_ps();
    i64 at = 0;
    for (; at + 4 * LANES <= d; at += 4 * LANES)
        for (int i = 0; i < 4; i++)
            sums[i] = _mm512_fmadd_ps(_mm512_loadu_ps(x + at + i * LANES), _mm512_loadu_ps(w + at + i * LANES), sums[i]);
    for (; at < d; at += LANES) {
        __mmask16 in = d - at < LANES ? (__mmask16)((1u << (d - at)) - 1) : (__mmask16)-1;
        sums[0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(in, x + at), _mm512_maskz_loadu_ps(in, w + at), sums[0]);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

/* Scores the candidates among some latents in float32, latent by latent: the unit's x stays in a near cache, and a row of
   W, which comes from afar, is read once for all who ask for it. */
static void score(const find_t *f, unit_t *u, i64 first, i64 end) {
    i32 *starts = u->starts, at = 0;
    memset(starts, 0, (size_t)(end - first + 1) * sizeof *starts);
    for (i64 r = 0; r < u->rows; r++)
        for (i64 i = u->kept[r]; i < u->counts[r]; i++) starts[u->latents[r * f->room + i] - first + 1]++;
    for (i64 j = 0; j < end - first; j++) starts[j + 1] += starts[j];
    for (i64 r = 0; r < u->rows; r++)
        for (i64 i = u->kept[r]; i < u->counts[r]; i++)
            u->places[starts[u->latents[r * f->room + i] - first]++] = (uint32_t)(r << PLACE | i);
    for (i64 j = first; j < end; j++)
        for (; at < starts[j - first]; at++) { /* each holds where the next begins, by now */
            i64 r = u->places[at] >> PLACE, i = u->places[at] & ((1u << PLACE) - 1);
            u->values[r * f->room + i] = dot(u->x + r * f->d, f->weight + j * f->d, f->d) + f->bias[j];
        }
}

/* Keeps of a row's scored candidates those that were asked for, as far as that can be said yet. */
static void keep(const find_t *f, unit_t *u, i64 r) {
    float *values = u->values + r * f->room;
    i32 *latents = u->latents + r * f->room;
    i64 kept = u->kept[r];
    u->scored[r] += u->counts[r] - (i32)kept;
    for (i64 i = kept; i < u->counts[r]; i++) {
        float value = values[i];
        i32 latent = latents[i];
        values[kept] = value;
        latents[kept] = latent;
        kept += value > (f->bounds ? f->bounds[latent] : 0);
    }
    u->kept[r] = u->counts[r] = (i32)kept;
}

/* How many of its entries a row ends with, or -1 where others might be among them. */
static i64 finish(const find_t *f, const unit_t *u, i64 r) {
    float *values = u->values + r * f->room, bar = u->bars[r], none = 0;
    i64 kept = u->kept[r];
    if (bar == INFINITY) return -1;
    if (f->bounds) return kept;
    if (kept > f->k) kept = keep_largest(values, u->latents + r * f->room, kept, f->k, f->k, &none);
    float least = kept < f->k ? 0 : INFINITY;
    for (i64 i = 0; i < kept && kept == f->k; i++) least = values[i] < least ? values[i] : least;
    return least >= bar ? kept : -1;
}

static void find_rows(const void *args, i64 low, i64 high) {
    const find_t *f = args;
    unit_t u = {.rows = high - low, .x = f->x + low * f->d};
    u.q = calloc(UNIT, (size_t)f->depth);
    u.values = malloc((size_t)(u.rows * f->room) * sizeof *u.values);
    u.latents = malloc((size_t)(u.rows * f->room) * sizeof *u.latents);
    u.places = malloc((size_t)(u.rows * f->room) * sizeof *u.places);
    /* Above bounds, what is scored needs no other's score to be kept or not: done at once, while its places are near. */
    i64 range = f->bounds ? RANGE : f->n;
    u.starts = malloc((size_t)(range + 1) * sizeof *u.starts);
    int memory = u.q && u.values && u.latents && u.places && u.starts;
    if (memory) {
        round_rows(f, &u);
        for (i64 first = 0; first < f->n; first += range) {
            i64 end = first + range < f->n ? first + range : f->n;
            collect(f, &u, first, end);
            for (i64 r = 0; r < u.rows && !f->bounds; r++)
                if (u.counts[r] > f->k) raise_bar(f, &u, r);
            score(f, &u, first, end);
            for (i64 r = 0; r < u.rows; r++) keep(f, &u, r);
        }
    }
    for (i64 r = 0; r < u.rows; r++) {
        i64 c = f->counts[low + r] = memory ? finish(f, &u, r) : -1;
        f->scored[low + r] = u.scored[r];
        if (c <= 0) continue;
        memcpy(f->values + (low + r) * f->k, u.values + r * f->room, (size_t)c * sizeof *u.values);
        memcpy(f->latents + (low + r) * f->k, u.latents + r * f->room, (size_t)c * sizeof *u.latents);
    }
    free(u.q);
    free(u.values);
    free(u.latents);
    free(u.places);
    free(u.starts);
}

void polyseme_int8_find(const pool_t *pool, const find_t *find, i64 rows) {
    share(pool, find_rows, find, rows, find->run);
}

#else

int polyseme_int8_supported(void) { return 0; }

#endif
