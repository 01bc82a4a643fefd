/* Softmax attention, softmax(Q Kᵀ · scale) V, without a mask or with the causal one; attention.py says when.

   One unit of work is one head of one sequence (or a run of its queries). Its keys are packed transposed and its values
   side by side, in float32 whatever the network computes in; queries are taken ROWS at a time. Their scores with all keys
   that they see stay in cache, so a softmax needs no second pass over blocks, and what is masked is not multiplied. */

#include "pool.h"

#include <math.h>
#include <stdlib.h>

/* A tile of a product is held in registers: ROWS × COLS vectors of LANES. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 6, COLS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 4, COLS = 3 };
#else
enum { LANES = 4, ROWS = 4, COLS = 3 };
#endif
enum { PANEL = LANES * COLS };

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef i32 ints __attribute__((vector_size(4 * LANES)));

typedef struct {
    const void *q, *k, *v; /* [batch, heads or kv_heads, n, d], the last contiguous */
    void *out;             /* [batch, n, heads, d] */
    const i64 *strides;    /* [3, 3]: of q, k, v, in elements, over batch, head, position */
    i64 heads, group;      /* query heads; of them to one head of keys and values */
    i64 queries, keys, d;
    i64 parts;             /* units a head */
    i64 causal, bf16;
    float scale;
    i32 *failed;           /* set where memory ran out */
} attention_t;

/* n numbers from place `at` of x, in float32. */
static inline void widen(const void *x, i64 at, i64 n, i64 bf16, float *restrict out) {
    if (!bf16) {
        memcpy(out, (const float *)x + at, 4 * (size_t)n);
        return;
    }
    for (i64 i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)((const uint16_t *)x)[at + i] << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* To the nearest bfloat16, ties to even. */
static inline uint16_t narrowed(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline i64 up(i64 n, i64 to) { return (n + to - 1) / to * to; }

/* C[ROWS, cols vectors] = A[ROWS, inner] B[inner, cols vectors]; `cols` is known when this is compiled. */
static inline __attribute__((always_inline)) void tile(const int cols, const float *a, i64 a_row, const float *b, i64 b_row,
                                                       float *c, i64 c_row, i64 inner) {
    floats sums[ROWS][COLS] = {{{0}}};
    for (i64 p = 0; p < inner; p++) {
        const floats *right = (const floats *)(b + p * b_row);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
            for (int col = 0; col < cols; col++) sums[row][col] += a[row * a_row + p] * right[col];
    }
    for (int row = 0; row < ROWS; row++)
        for (int col = 0; col < cols; col++) ((floats *)(c + row * c_row))[col] = sums[row][col];
}

static void multiply(i64 cols, const float *a, i64 a_row, const float *b, i64 b_row, float *c, i64 c_row, i64 inner) {
    switch (cols) {
    case 1: tile(1, a, a_row, b, b_row, c, c_row, inner); break;
    case 2: tile(2, a, a_row, b, b_row, c, c_row, inner); break;
    case 3: tile(3, a, a_row, b, b_row, c, c_row, inner); break;
    default: tile(COLS, a, a_row, b, b_row, c, c_row, inner);
    }
}

/* 2^x for x ≤ 0: 0 below -126, and NaN stays NaN. x = n + r with |r| ≤ 1/2, and 2^r = Σ (r ln 2)^i / i!, to .05 ulp. */
static inline floats exp2_of(floats x) {
    const ints underflow = x < -126.0f;
    const ints n = __builtin_convertvector(x - 0.5f, ints); /* rounds towards 0, up that is */
    const floats r = x - __builtin_convertvector(n, floats);
    floats y = 1.5252734e-5f * r + 1.5403530e-4f;
    y = y * r + 1.3333558e-3f;
    y = y * r + 9.6181291e-3f;
    y = y * r + 5.5504109e-2f;
    y = y * r + 2.4022651e-1f;
    y = y * r + 6.9314718e-1f;
    y = y * r + 1.0f;
    y *= (floats)((n + 127) << 23);
    return (floats)((ints)y & ~underflow);
}

/* Turns scores of the first `seen` keys into exp(score - largest), 0 beyond, and returns their sum. */
static inline float exponentials(float *scores, i64 seen) {
    const i64 end = up(seen, LANES);
    for (i64 j = seen; j < end; j++) scores[j] = -INFINITY;
    floats *s = (floats *)scores;
    floats most = s[0], sums = {0};
    for (i64 j = 1; j < end / LANES; j++) {
        ints more = s[j] > most;
        most = (floats)(((ints)s[j] & more) | ((ints)most & ~more));
    }
    float largest = most[0], sum = 0;
    for (int i = 1; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
    for (i64 j = 0; j < end / LANES; j++) {
        s[j] = exp2_of(s[j] - largest);
        sums += s[j];
    }
    for (int i = 0; i < LANES; i++) sum += sums[i];
    return sum;
}

/* Queries low..high of one head. `room` holds, one after the other, keys as panels [d, PANEL], values [keys, wide],
   scores [ROWS, keys up to whole panels], results [ROWS, wide], queries [ROWS, d] and keys to be transposed [LANES, d]. */
static void attend(const attention_t *a, i64 batch, i64 head, i64 low, i64 high, float *room) {
    const i64 d = a->d, wide = up(d, LANES), keys = a->causal ? high : a->keys, width = up(keys, PANEL);
    const i64 of_kv = head / a->group;
    float *packed_k = room, *packed_v = packed_k + width * d, *scores = packed_v + keys * wide;
    float *result = scores + ROWS * width, *packed_q = result + ROWS * wide, *turned = packed_q + ROWS * d;
    const i64 from_k = batch * a->strides[3] + of_kv * a->strides[4];
    const i64 from_v = batch * a->strides[6] + of_kv * a->strides[7];
    for (i64 first = 0; first < width; first += LANES) {
        for (i64 j = 0; j < LANES; j++)
            if (first + j < keys)
                widen(a->k, from_k + (first + j) * a->strides[5], d, a->bf16, turned + j * d);
            else
                memset(turned + j * d, 0, 4 * (size_t)d);
        float *to = packed_k + first / PANEL * PANEL * d + first % PANEL;
        for (i64 i = 0; i < d; i++)
            for (i64 j = 0; j < LANES; j++) to[i * PANEL + j] = turned[j * d + i];
    }
    for (i64 j = 0; j < keys; j++) {
        widen(a->v, from_v + j * a->strides[8], d, a->bf16, packed_v + j * wide);
        memset(packed_v + j * wide + d, 0, 4 * (size_t)(wide - d));
    }

    const float scale = a->scale * 1.44269504f; /* scores are logarithms to the base 2 */
    for (i64 first = low; first < high; first += ROWS) {
        const i64 rows = high - first < ROWS ? high - first : ROWS, last = first + ROWS < high ? first + ROWS : high;
        const i64 from = batch * a->strides[0] + head * a->strides[1];
        for (i64 row = 0; row < ROWS; row++) {
            const i64 query = row < rows ? first + row : first; /* rows too many repeat the first */
            widen(a->q, from + query * a->strides[2], d, a->bf16, packed_q + row * d);
            for (i64 i = 0; i < d; i++) packed_q[row * d + i] *= scale;
        }
        const i64 seen = a->causal ? last : keys, vectors = up(seen, LANES) / LANES;
        for (i64 j = 0; j < vectors; j += COLS)
            multiply(vectors - j < COLS ? vectors - j : COLS, packed_q, d, packed_k + j * LANES * d, PANEL,
                     scores + j * LANES, width, d);
        float sums[ROWS];
        for (i64 row = 0; row < ROWS; row++) {
            const i64 own = a->causal && row < rows ? first + row + 1 : seen;
            sums[row] = exponentials(scores + row * width, own);
            for (i64 j = up(own, LANES); j < seen; j++) scores[row * width + j] = 0;
        }
        for (i64 i = 0; i < wide / LANES; i += COLS)
            multiply(wide / LANES - i < COLS ? wide / LANES - i : COLS, scores, width, packed_v + i * LANES, wide,
                     result + i * LANES, wide, seen);
        for (i64 row = 0; row < rows; row++) {
            const i64 to = ((batch * a->queries + first + row) * a->heads + head) * d;
            for (i64 i = 0; i < d; i++) {
                float y = result[row * wide + i] / sums[row];
                if (a->bf16)
                    ((uint16_t *)a->out)[to + i] = narrowed(y);
                else
                    ((float *)a->out)[to + i] = y;
            }
        }
    }
}

static void attention_units(const void *args, i64 low, i64 high) {
    const attention_t *a = args;
    const i64 wide = up(a->d, LANES), width = up(a->keys, PANEL);
    const i64 floats_needed = width * a->d + a->keys * wide + ROWS * (width + wide + a->d) + LANES * a->d;
    float *room = aligned_alloc(64, (size_t)up(4 * floats_needed, 64));
    if (!room) {
        *a->failed = 1;
        return;
    }
    for (i64 unit = low; unit < high; unit++) {
        /* The last queries of a head see the most keys, and go first. */
        const i64 part = a->parts - 1 - unit % a->parts, of = unit / a->parts;
        attend(a, of / a->heads, of % a->heads, part * a->queries / a->parts, (part + 1) * a->queries / a->parts, room);
    }
    free(room);
}

void polyseme_attention(const pool_t *pool, const attention_t *attention, i64 units) {
    share(pool, attention_units, attention, units, 1);
}
