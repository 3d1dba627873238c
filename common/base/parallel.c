/* parallel.c - a pool of threads that take items off one counter. */
#include "base/parallel.h"
#include "base/error.h"
#include "base/memory.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

static struct {
    pthread_mutex_t lock;
    pthread_cond_t start, finish;
    int started;             /* workers that run, besides the caller */
    int working;             /* workers that have not finished this round */
    uint64_t round;
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

int parallel_threads(void)
{
    cpu_set_t set;

    if (threads_wanted <= 0) {
        threads_wanted = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
        if (threads_wanted > 1024)
            threads_wanted = 1024;
    }
    return threads_wanted;
}

static void take_items(int thread)
{
    int64_t item;

    while ((item = atomic_fetch_add(&pool.next, 1)) < pool.count)
        pool.body(pool.context, item, thread);
}

static void *worker(void *argument)
{
    int thread = (int)(intptr_t)argument;
    uint64_t seen = 0;
    sigset_t all;

    sigfillset(&all);                            /* signals are the main thread's */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.round == seen)
            pthread_cond_wait(&pool.start, &pool.lock);
        seen = pool.round;
        pthread_mutex_unlock(&pool.lock);
        if (thread < parallel_threads())
            take_items(thread);
        pthread_mutex_lock(&pool.lock);
        if (--pool.working == 0)
            pthread_cond_signal(&pool.finish);
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
    pthread_mutex_lock(&pool.lock);
    /* The lock is held from here until the round counts up, so a new worker sees this round first. */
    pool.body = body;
    pool.context = context;
    pool.count = count;
    atomic_store(&pool.next, 0);
    pool.working = pool.started > threads - 1 ? pool.started : threads - 1;
    start_workers(threads - 1);
    pool.round++;
    pthread_cond_broadcast(&pool.start);
    pthread_mutex_unlock(&pool.lock);
    take_items(0);
    pthread_mutex_lock(&pool.lock);
    while (pool.working)
        pthread_cond_wait(&pool.finish, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}
