/* ranks_mpi.c - ranks over MPI. The door to MPI, of which nothing is needed to build: Open MPI's library is opened at
 * run time, and what its mpi.h makes of MPI_COMM_WORLD and MPI_BYTE are addresses of objects in it.
 *
 * One thread waits for messages while the others compute. It sleeps between looks, as MPI itself would spin on a
 * processor that is needed. Calls of MPI come from two threads, never at once: MPI_THREAD_SERIALIZED. */
#include "train/ranks.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREAD_SERIALIZED = 2, COMM_TYPE_SHARED = 0, TAG = 0 };           /* as Open MPI's mpi.h has them */
enum { MESSAGE_MOST = 1 << 30 }; /* bytes: counts are int */

/* Microseconds: where somebody waits for messages with nothing else to do the thread looks all the time at first, then
 * sleeps between looks, as it does all along beside others' work. (To yield would be to wait for a whole turn of
 * whoever else uses the processor.) */
enum { SPIN = 100, SLEEP_WAITED = 20, SLEEP_BESIDE = 200 };

enum job_kind { JOB_SUM, JOB_SUM_PART, JOB_GATHER, JOB_SUM_DOUBLES, JOB_BROADCAST, JOB_END };

struct job {
    enum job_kind kind;
    void *data;
    int64_t n;                   /* floats, doubles, bytes */
};

static struct mpi {
    struct ranks ranks;

    /* MPI's; objects are pointers. */
    void *world, *byte;
    int (*init)(int *argc, char ***argv, int wanted, int *provided);
    int (*rank)(void *comm, int *rank), (*size)(void *comm, int *size);
    int (*split)(void *comm, int type, int key, void *info, void **result);
    int (*send)(const void *data, int count, void *type, int to, int tag, void *comm, void **request);
    int (*receive)(void *data, int count, void *type, int from, int tag, void *comm, void **request);
    int (*test)(int count, void **request, int *done, void *no_statuses);
    int (*abort)(void *comm, int code), (*finalize)(void);

    pthread_mutex_t calling;     /* held in each call */
    void **request;              /* [2 * count] */
    int requests;
    float *scratch;              /* of the thread: what came from others */
    size_t scratch_bytes;

    /* Jobs, done in order. */
    pthread_mutex_t lock;
    pthread_cond_t more, done;
    struct job *job;
    int jobs, finished, room;
    atomic_bool waited;          /* somebody waits for the thread */
    struct parallel_beside *thread;
    bool open;
} mpi = {.calling = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER,
         .done = PTHREAD_COND_INITIALIZER};

/* ---- messages, in the thread ---- */

static void post(int other, void *data, int64_t bytes, bool send)
{
    pthread_mutex_lock(&mpi.calling);
    if (bytes && send)
        mpi.send(data, (int)bytes, mpi.byte, other, TAG, mpi.world, &mpi.request[mpi.requests++]);
    else if (bytes)
        mpi.receive(data, (int)bytes, mpi.byte, other, TAG, mpi.world, &mpi.request[mpi.requests++]);
    pthread_mutex_unlock(&mpi.calling);
}

static void pause_since(double start)
{
    bool waited = atomic_load(&mpi.waited);
    struct timespec time = {.tv_nsec = 1000 * (waited ? SLEEP_WAITED : SLEEP_BESIDE)};

    if (!waited || clock_seconds() - start > 1e-6 * SPIN)
        nanosleep(&time, NULL);
}

/* Until all that was posted is through. Errors are fatal within MPI. */
static void finish(void)
{
    double start = clock_seconds();
    int done = 0;

    for (;;) {
        pthread_mutex_lock(&mpi.calling);
        mpi.test(mpi.requests, mpi.request, &done, NULL);
        pthread_mutex_unlock(&mpi.calling);
        if (done)
            break;
        pause_since(start);
    }
    mpi.requests = 0;
}

static int other(int i)          /* each rank begins with its neighbour */
{
    return (mpi.ranks.rank + i) % mpi.ranks.count;
}

static void *scratch(size_t bytes)
{
    if (bytes > mpi.scratch_bytes) {
        free(mpi.scratch);
        mpi.scratch = xaligned(bytes, 1);
        mpi.scratch_bytes = bytes;
    }
    return mpi.scratch;
}

/* ---- jobs, in the thread ---- */

static float *part(float *x, int64_t n, int rank, int64_t *bytes)
{
    int64_t first = ranks_part(n, rank, mpi.ranks.count), end = ranks_part(n, rank + 1, mpi.ranks.count);

    *bytes = (end - first) * (int64_t)sizeof *x;
    return x + first;
}

static void gather(float *x, int64_t n)
{
    int64_t bytes, own_bytes;
    float *own = part(x, n, mpi.ranks.rank, &own_bytes);

    for (int i = 1; i < mpi.ranks.count; i++) {
        float *to = part(x, n, other(i), &bytes);

        post(other(i), to, bytes, false);
    }
    for (int i = 1; i < mpi.ranks.count; i++)
        post(other(i), own, own_bytes, true);
    finish();
}

static void sum_part(float *x, int64_t n)
{
    float *row[RANKS_MOST];
    int64_t bytes, own_bytes;
    float *own = part(x, n, mpi.ranks.rank, &own_bytes), *room = scratch((size_t)own_bytes * (size_t)mpi.ranks.count);

    for (int r = 0; r < mpi.ranks.count; r++) {
        row[r] = r == mpi.ranks.rank ? own : room + own_bytes / (int64_t)sizeof *room * r;
        if (r != mpi.ranks.rank)
            post(r, row[r], own_bytes, false);
    }
    for (int i = 1; i < mpi.ranks.count; i++) {
        float *theirs = part(x, n, other(i), &bytes);

        post(other(i), theirs, bytes, true);
    }
    finish();
    ranks_add(row, mpi.ranks.count, own_bytes / (int64_t)sizeof *own);
    if (row[0] != own)
        memcpy(own, row[0], (size_t)own_bytes);
}

static void sum_doubles(double *x, int64_t n)
{
    double *row[RANKS_MOST], *room = scratch((size_t)n * sizeof *x * (size_t)mpi.ranks.count);
    int64_t bytes = n * (int64_t)sizeof *x;

    for (int r = 0; r < mpi.ranks.count; r++) {
        row[r] = room + n * r;
        if (r != mpi.ranks.rank)
            post(r, row[r], bytes, false);
    }
    memcpy(row[mpi.ranks.rank], x, (size_t)bytes);
    for (int i = 1; i < mpi.ranks.count; i++)
        post(other(i), x, bytes, true);
    finish();
    ranks_add_doubles(row, mpi.ranks.count, n);
    memcpy(x, row[0], (size_t)bytes);
}

static void broadcast(char *data, int64_t bytes)
{
    for (; bytes > 0; data += MESSAGE_MOST, bytes -= MESSAGE_MOST) {
        int64_t piece = least(bytes, MESSAGE_MOST);

        if (mpi.ranks.rank)
            post(0, data, piece, false);
        else
            for (int r = 1; r < mpi.ranks.count; r++)
                post(r, data, piece, true);
        finish();
    }
}

static void do_job(const struct job *job)
{
    if (job->kind == JOB_SUM || job->kind == JOB_SUM_PART)
        sum_part(job->data, job->n);
    if (job->kind == JOB_SUM || job->kind == JOB_GATHER)
        gather(job->data, job->n);
    if (job->kind == JOB_SUM_DOUBLES)
        sum_doubles(job->data, job->n);
    if (job->kind == JOB_BROADCAST)
        broadcast(job->data, job->n);
}

static void work(void *unused)
{
    struct job job = {0};

    (void)unused;
    while (job.kind != JOB_END) {
        double start;

        pthread_mutex_lock(&mpi.lock);
        while (mpi.finished == mpi.jobs)
            pthread_cond_wait(&mpi.more, &mpi.lock);
        job = mpi.job[mpi.finished];
        pthread_mutex_unlock(&mpi.lock);
        start = clock_seconds();
        do_job(&job);
        pthread_mutex_lock(&mpi.lock);
        mpi.ranks.busy += clock_seconds() - start;
        if (++mpi.finished == mpi.jobs)
            pthread_cond_signal(&mpi.done);
        pthread_mutex_unlock(&mpi.lock);
    }
}

/* ---- the table ---- */

static void start(enum job_kind kind, void *data, int64_t n)
{
    pthread_mutex_lock(&mpi.lock);
    if (mpi.jobs == mpi.room)
        mpi.job = xreallocarray(mpi.job, (size_t)(mpi.room = mpi.room * 2 + 16), sizeof *mpi.job);
    mpi.job[mpi.jobs++] = (struct job){kind, data, n};
    pthread_cond_signal(&mpi.more);
    pthread_mutex_unlock(&mpi.lock);
}

static void mpi_wait(struct ranks *ranks)
{
    (void)ranks;
    atomic_store(&mpi.waited, true);
    pthread_mutex_lock(&mpi.lock);
    while (mpi.finished < mpi.jobs)
        pthread_cond_wait(&mpi.done, &mpi.lock);
    mpi.finished = mpi.jobs = 0;
    pthread_mutex_unlock(&mpi.lock);
    atomic_store(&mpi.waited, false);
}

static void mpi_sum_start(struct ranks *ranks, float *x, int64_t n, bool everywhere)
{
    (void)ranks;
    start(everywhere ? JOB_SUM : JOB_SUM_PART, x, n);
}

static void mpi_gather_start(struct ranks *ranks, float *x, int64_t n)
{
    (void)ranks;
    start(JOB_GATHER, x, n);
}

static void mpi_sum(struct ranks *ranks, double *x, int64_t n)
{
    start(JOB_SUM_DOUBLES, x, n);
    mpi_wait(ranks);
}

static void mpi_broadcast(struct ranks *ranks, void *data, size_t bytes)
{
    start(JOB_BROADCAST, data, (int64_t)bytes);
    mpi_wait(ranks);
}

static _Noreturn void mpi_end(struct ranks *ranks, int code)
{
    (void)ranks;
    mpi.open = false;
    ranks_speak();
    pthread_mutex_lock(&mpi.calling);
    mpi.abort(mpi.world, code);
    _exit(code);
}

static void mpi_close(struct ranks *ranks)
{
    start(JOB_END, NULL, 0);
    mpi_wait(ranks);
    parallel_join(mpi.thread);
    mpi.open = false;
    mpi.finalize();
    free(mpi.request);
    free(mpi.scratch);
    free(mpi.job);
}

/* The program ends by die() somewhere: the others would wait for ever. */
static void at_exit(int code, void *unused)
{
    (void)unused;
    if (mpi.open)
        mpi_end(&mpi.ranks, code ? code : EX_SOFTWARE);
}

/* ---- the library ---- */

static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
    {"ompi_mpi_comm_world", offsetof(struct mpi, world)}, {"ompi_mpi_byte", offsetof(struct mpi, byte)},
    {"MPI_Init_thread", offsetof(struct mpi, init)}, {"MPI_Comm_rank", offsetof(struct mpi, rank)},
    {"MPI_Comm_size", offsetof(struct mpi, size)}, {"MPI_Comm_split_type", offsetof(struct mpi, split)},
    {"MPI_Isend", offsetof(struct mpi, send)}, {"MPI_Irecv", offsetof(struct mpi, receive)},
    {"MPI_Testall", offsetof(struct mpi, test)}, {"MPI_Abort", offsetof(struct mpi, abort)},
    {"MPI_Finalize", offsetof(struct mpi, finalize)},
};

/* Open MPI has had this number since version 2; .12 is that of MPICH and its relatives. What it loads itself looks for
 * symbols of the library: hence RTLD_GLOBAL. */
static int open_library(void **library)
{
    static const char *const names[] = {"libmpi.so.40", "libmpi.so", "libmpi.so.12"};
    char *reason = NULL;
    int rc = EX_OK;

    *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !*library; i++)
        if (!(*library = dlopen(names[i], RTLD_NOW | RTLD_GLOBAL)) && !reason)
            reason = xstrdup(dlerror());
    if (!*library)
        rc = fail(EX_UNAVAILABLE, "started as one of several, but there is no library of Open MPI: %s", reason);
    free(reason);
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols && !rc; i++) {
        void *found = dlsym(*library, symbols[i].name);

        if (!found)
            rc = fail(EX_UNAVAILABLE, "the MPI library isn't Open MPI's, the one that is known: it has no %s",
                      symbols[i].name);
        memcpy((char *)&mpi + symbols[i].offset, &found, sizeof found);
    }
    return rc;
}

static int check(int expected, int provided)
{
    int count = mpi.ranks.count;

    if (expected && count != expected)
        return fail(EX_UNAVAILABLE, "the launcher started %d processes, but MPI sees %d: start them with this MPI's "
                    "mpirun, or srun --mpi=pmix", expected, count);
    if (provided < THREAD_SERIALIZED)
        return fail(EX_UNAVAILABLE, "MPI takes calls from one thread only (level %d, expected %d)", provided,
                    THREAD_SERIALIZED);
    if (count > RANKS_MOST)
        return fail(EX_UNAVAILABLE, "%d ranks, at most %d can train together", count, RANKS_MOST);
    return EX_OK;
}

int ranks_open_mpi(struct ranks **ranks, int expected)
{
    void *library, *machine = NULL;
    int provided = 0, rc = open_library(&library);

    if (rc)
        return rc;
    mpi.ranks = (struct ranks){.sum_start = mpi_sum_start, .gather_start = mpi_gather_start,
                               .wait = mpi_wait, .sum = mpi_sum, .broadcast = mpi_broadcast, .abort = mpi_end,
                               .close = mpi_close};
    if (mpi.init(NULL, NULL, THREAD_SERIALIZED, &provided))
        return fail(EX_UNAVAILABLE, "MPI can't be initialized");
    mpi.rank(mpi.world, &mpi.ranks.rank);
    mpi.size(mpi.world, &mpi.ranks.count);
    if (mpi.ranks.rank)
        ranks_hush(mpi.ranks.rank);
    if ((rc = check(expected, provided))) {
        mpi.finalize();
        return rc;
    }
    mpi.split(mpi.world, COMM_TYPE_SHARED, 0, dlsym(library, "ompi_mpi_info_null"), &machine);
    mpi.size(machine, &mpi.ranks.local);
    parallel_share(mpi.ranks.local);
    mpi.request = xcalloc((size_t)mpi.ranks.count, 2 * sizeof *mpi.request);
    mpi.open = true;
    on_exit(at_exit, NULL);
    mpi.thread = parallel_beside(work, NULL);
    *ranks = &mpi.ranks;
    return EX_OK;
}
