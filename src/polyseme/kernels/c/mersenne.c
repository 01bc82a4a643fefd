/* Many of torch's CPU generators at once, bit for bit: MT19937 (Matsumoto & Nishimura 1998), whose state can be renewed
   and tempered many words at a time, where torch takes them one by one. Each stream is one thread's. */

#include "pool.h"

enum { N = 624, M = 397 };

typedef struct {
    uint32_t *states; /* [streams, N] */
    i64 *positions;   /* [streams]: words of the state that are used up, N at first */
    const float *p;   /* [streams] or null */
    i64 count;
    float *out;       /* [streams, count] */
} uniform_t;

static inline uint32_t twist(uint32_t u, uint32_t v) {
    return ((u & 0x80000000u) | (v & 0x7fffffffu)) >> 1 ^ (-(v & 1u) & 0x9908b0dfu);
}

static void renew(uint32_t *s) {
    for (int i = 0; i < N - M; i++) s[i] = s[i + M] ^ twist(s[i], s[i + 1]);
    for (int i = N - M; i < N - 1; i++) s[i] = s[i + M - N] ^ twist(s[i], s[i + 1]);
    s[N - 1] = s[M - 1] ^ twist(s[N - 1], s[0]);
}

/* u is U[0, 1) by a word's lower 24 bits, as torch has it; with a probability p the value is u / p where u < p, else 0. */
static void draw(const void *args, i64 low, i64 high) {
    const uniform_t *a = args;
    for (i64 stream = low; stream < high; stream++) {
        uint32_t *state = a->states + stream * N;
        float *out = a->out + stream * a->count, p = a->p ? a->p[stream] : 1;
        i64 position = a->positions[stream];
        for (i64 done = 0; done < a->count;) {
            if (position == N) {
                renew(state);
                position = 0;
            }
            i64 some = N - position < a->count - done ? N - position : a->count - done;
            const uint32_t *restrict words = state + position;
            float *restrict to = out + done;
            for (i64 i = 0; i < some; i++) {
                uint32_t y = words[i];
                y ^= y >> 11;
                y ^= y << 7 & 0x9d2c5680u;
                y ^= y << 15 & 0xefc60000u;
                y ^= y >> 18;
                float value = (float)(i32)(y & 0xffffffu) * 0x1p-24f / p;
                to[i] = value < 1 ? value : 0;
            }
            position += some;
            done += some;
        }
        a->positions[stream] = position;
    }
}

void polyseme_uniform(const pool_t *pool, const uniform_t *uniform, i64 streams) { share(pool, draw, uniform, streams, 1); }
