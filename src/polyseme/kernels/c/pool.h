/* What the compiled loops share: torch's threads. */

#ifndef POLYSEME_POOL_H
#define POLYSEME_POOL_H

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

typedef int64_t i64;
typedef int32_t i32;

/* OpenMP's fork as GCC calls it: every thread of a team runs the function. */
typedef void fork_t(void (*)(void *), void *, unsigned, unsigned);

typedef struct {
    fork_t *fork;
    i64 threads;
} pool_t;

typedef struct {
    void (*work)(const void *, i64, i64);
    const void *args;
    i64 n, run;
    _Atomic i64 next;
} job_t;

static void join_in(void *shared) {
    job_t *job = shared;
    for (;;) {
        i64 low = atomic_fetch_add(&job->next, job->run), high = low + job->run;
        if (low >= job->n) return;
        job->work(job->args, low, high < job->n ? high : job->n);
    }
}

/* work(args, low, high) over all of 0..n. */
static void share(const pool_t *pool, void (*work)(const void *, i64, i64), const void *args, i64 n, i64 run) {
    job_t job = {work, args, n, run, 0};
    if (pool->threads > 1 && n > run)
        pool->fork(join_in, &job, (unsigned)pool->threads, 0);
    else
        join_in(&job);
}

#endif
