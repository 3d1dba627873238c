/* ranks.h - the processes that train together, and what they tell each other, as one table per way of doing that:
 * alone, or over MPI; NCCL would be another. Whatever is called here must be called by all ranks, in the same order.
 *
 * Sums over ranks are those of a fixed tree: neighbours first, ((0 + 1) + (2 + 3)) + ..., what has no neighbour goes
 * up as it is. So equal numbers of ranks give equal bytes, and as micro-batches are added in the same tree (see
 * parameters_carry()), ranks that hold 2^k micro-batches each add up to what one process would have.
 *
 * A list of n floats on the device belongs to the ranks in parts: it is cut into RANKS_CELLS cells at whole cache
 * lines, wherever it is and whoever asks, and rank r of R has the cells from RANKS_CELLS r / R on. */
#ifndef TRAIN_RANKS_H
#define TRAIN_RANKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RANKS_CELLS = 64, RANKS_MOST = RANKS_CELLS };
enum { RANKS_LINE = 16 };        /* floats of a cache line: cells, and all places of gradients, are whole ones */

struct ranks {
    int rank, count;
    int local;                   /* how many of them are on this machine */
    bool imagined;               /* the others aren't there */
    double busy;                 /* seconds in which anything was under way, from start to wait */

    /* Of floats on the device, whole cache lines of them, at most RANKS_FLOATS. Only started: x is theirs until wait(),
     * which ends all that was started, in order.
     * sum_start: the part of x that belongs to this rank becomes the sum of all ranks', or with everywhere all of x;
     * what else is in x is lost otherwise.
     * gather_start: each part of x becomes that of the rank that it belongs to. */
    void (*sum_start)(struct ranks *ranks, float *x, int64_t n, bool everywhere);
    void (*gather_start)(struct ranks *ranks, float *x, int64_t n);
    void (*wait)(struct ranks *ranks);

    /* Of the host's; done on return, and all that was started before. */
    void (*sum)(struct ranks *ranks, double *x, int64_t n);
    void (*broadcast)(struct ranks *ranks, void *data, size_t bytes);    /* what rank 0 has */

    void (*abort)(struct ranks *ranks, int code);        /* ends all of them; doesn't return */
    void (*close)(struct ranks *ranks);
};

enum { RANKS_FLOATS = 1 << 22 };

/* Those that this process was started as one of: with mpirun, or srun with PMIx; alone otherwise. MPI is looked for
 * only where there are others: Open MPI's library, opened now. Ranks other than 0 keep their messages to themselves
 * (see ranks_agree()). Where the process ends without ranks_close(), all end, with the same code. EX_UNAVAILABLE after
 * a message: no such library, another one, or it sees other ranks than the launcher started. */
int ranks_open(struct ranks **ranks);

/* Code EX_OK, or all ranks agree on it: they end. Otherwise ends those that still run. */
void ranks_close(struct ranks *ranks, int code);

/* The code of the first rank that has one other than EX_OK: its message, kept until then, is the one printed. */
int ranks_agree(struct ranks *ranks, int code);

/* A text that rank 0 has (others: NULL), on all of them; the caller frees. */
char *ranks_text(struct ranks *ranks, const char *text);

/* This process by itself; and as the first of count of which the others aren't there, to plan with: their numbers are
 * as if they were zeros. Never closed. */
struct ranks *ranks_alone(void);
struct ranks *ranks_imagine(int count);

/* Private to train: where cell number i (up to RANKS_CELLS) of n floats begins, and the part of rank r of count. */
int64_t ranks_cell(int64_t n, int i);
int64_t ranks_part(int64_t n, int r, int count);

/* Private to train: adds rows, one of each rank in order, in the tree; the sum is in row[0], the others are used up. */
void ranks_add(float *const *row, int count, int64_t n);
void ranks_add_doubles(double *const *row, int count, int64_t n);

/* Private to train: from now on messages, but for the last, are forgotten; prints that one. */
void ranks_hush(int rank);
void ranks_speak(void);

/* Private to train: opens MPI, expected being the number of ranks that were started (0: unknown). */
int ranks_open_mpi(struct ranks **ranks, int expected);

#endif
