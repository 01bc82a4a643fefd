/* How the threads of the pool treat numbers below the smallest normal one. */

#include "pool.h"

#if defined(__SSE__)
#include <xmmintrin.h>
enum { FLUSH = 0x8040 }; /* results, and what is read */
#endif

static void keep(void *nothing) {
    (void)nothing;
#if defined(__SSE__)
    _mm_setcsr(_mm_getcsr() & ~(unsigned)FLUSH);
#elif defined(__aarch64__)
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    __asm__ volatile("msr fpcr, %0" : : "r"(control & ~((uint64_t)1 << 24)));
#endif
}

void polyseme_keep_denormals(const pool_t *pool) {
    if (pool->threads > 1 && pool->fork)
        pool->fork(keep, 0, (unsigned)pool->threads, 0);
    else
        keep(0);
}
