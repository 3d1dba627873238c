/* parallel.c - a pool of threads that take items off one counter. */
#include "base/parallel.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Rounds often follow each other within microseconds, and waking a sleeper takes longer than that: who waits spins this
 * long before it sleeps. */
enum { SPIN_MICROSECONDS = 50, SPIN_PAUSES = 32 };

/* A sleeper announces itself before it looks at what it waits for a last time, and the other side changes that before
 * it looks for sleepers, all sequentially consistent: so one of the two sees the other. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t start, finish;
    int started;                 /* workers that run, besides the caller */
    atomic_bool spin;            /* there is a processor for each thread */
    atomic_int working;          /* workers that have not finished this round */
    atomic_int sleeping;         /* workers */
    atomic_bool caller_sleeping;
    atomic_uint_least64_t round;
    void (*body)(void *, int64_t, int);
    void *context;
    int64_t count;
    atomic_int_least64_t next;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .start = PTHREAD_COND_INITIALIZER, .finish = PTHREAD_COND_INITIALIZER};

static int threads_wanted;

void parallel_set(int threads)
{
    threads_wanted = threads;
}

static int processors(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);

    return count < 1024 ? count : 1024;
}

int parallel_threads(void)
{
    if (threads_wanted <= 0)
        threads_wanted = processors();
    return threads_wanted;
}

void parallel_share(int processes)
{
    long all = sysconf(_SC_NPROCESSORS_ONLN) / processes;

    if (threads_wanted <= 0)
        threads_wanted = (int)least(processors(), most(all, 1));
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_items(int thread)
{
    int64_t item;

    while ((item = atomic_fetch_add(&pool.next, 1)) < pool.count)
        pool.body(pool.context, item, thread);
}

static bool round_came(uint64_t seen)
{
    return atomic_load(&pool.round) != seen;
}

static bool round_done(uint64_t unused)
{
    (void)unused;
    return atomic_load(&pool.working) == 0;
}

/* Waits for what is true soon, or not at all. */
static bool spin_until(bool (*condition)(uint64_t), uint64_t argument)
{
    double end;

    if (!pool.spin)
        return condition(argument);
    end = clock_seconds() + 1e-6 * SPIN_MICROSECONDS;
    do {
        for (int i = 0; i < SPIN_PAUSES; i++) {
            if (condition(argument))
                return true;
            pause_briefly();
        }
    } while (clock_seconds() < end);
    return false;
}

static void wait_for_round(uint64_t seen)
{
    if (spin_until(round_came, seen))
        return;
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleeping, 1);
    while (!round_came(seen))
        pthread_cond_wait(&pool.start, &pool.lock);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.lock);
}

static void wait_for_workers(void)
{
    if (spin_until(round_done, 0))
        return;
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.caller_sleeping, true);
    while (!round_done(0))
        pthread_cond_wait(&pool.finish, &pool.lock);
    atomic_store(&pool.caller_sleeping, false);
    pthread_mutex_unlock(&pool.lock);
}

static void leave_signals(void)  /* to the main thread */
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}

static void *worker(void *argument)
{
    int thread = (int)(intptr_t)argument;
    uint64_t seen;

    leave_signals();
    pthread_mutex_lock(&pool.lock);              /* held until the first round of this worker has begun */
    seen = atomic_load(&pool.round) - 1;
    pthread_mutex_unlock(&pool.lock);
    for (;;) {
        wait_for_round(seen);
        seen++;                                  /* the next round can't begin before this worker is done */
        if (thread < parallel_threads())
            take_items(thread);
        if (atomic_fetch_sub(&pool.working, 1) == 1 && atomic_load(&pool.caller_sleeping)) {
            pthread_mutex_lock(&pool.lock);
            pthread_cond_signal(&pool.finish);
            pthread_mutex_unlock(&pool.lock);
        }
    }
    return NULL;
}

/* Called with the lock held and no round under way. */
static void start_workers(int wanted)
{
    while (pool.started < wanted) {
        pthread_t id;
        int error = pthread_create(&id, NULL, worker, (void *)(intptr_t)(pool.started + 1));

        if (error)
            die(EX_OSERR, "cannot start a thread: %s", strerror(error));
        pthread_detach(id);
        pool.started++;
    }
    pool.spin = pool.started < processors();
}

static void begin_round(int threads)
{
    bool grow = pool.started < threads - 1;

    if (grow) {
        pthread_mutex_lock(&pool.lock);
        start_workers(threads - 1);
    }
    atomic_store(&pool.next, 0);
    atomic_store(&pool.working, pool.started);
    atomic_fetch_add(&pool.round, 1);
    if (grow)
        pthread_mutex_unlock(&pool.lock);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.start);
        pthread_mutex_unlock(&pool.lock);
    }
}

void parallel_for(int64_t count, void (*body)(void *context, int64_t item, int thread), void *context)
{
    int threads = parallel_threads();

    if (count < threads)
        threads = count > 0 ? (int)count : 1;
    if (threads == 1) {
        for (int64_t item = 0; item < count; item++)
            body(context, item, 0);
        return;
    }
    pool.body = body;
    pool.context = context;
    pool.count = count;
    begin_round(threads);
    take_items(0);
    wait_for_workers();
}

/* ---- beside them ---- */

struct parallel_beside {
    pthread_t id;
    void (*body)(void *);
    void *context;
};

static void *run_beside(void *argument)
{
    struct parallel_beside *thread = argument;

    leave_signals();
    thread->body(thread->context);
    return NULL;
}

struct parallel_beside *parallel_beside(void (*body)(void *), void *context)
{
    struct parallel_beside *thread = xmalloc(sizeof *thread);
    int error;

    *thread = (struct parallel_beside){.body = body, .context = context};
    if ((error = pthread_create(&thread->id, NULL, run_beside, thread)))
        die(EX_OSERR, "cannot start a thread: %s", strerror(error));
    return thread;
}

void parallel_join(struct parallel_beside *thread)
{
    pthread_join(thread->id, NULL);
    free(thread);
}
