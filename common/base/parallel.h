/* parallel.h - the only source of threads.
 *
 * Work is cut into items fixed by the shapes of the problem, never by the number of threads, and every item writes
 * its own results: so the bytes that come out don't depend on the number of threads. */
#ifndef BASE_PARALLEL_H
#define BASE_PARALLEL_H

#include <stdint.h>

/* Sets the number of threads (1 to 1024); 0 means as many as processors this process may run on. Default: 0. */
void parallel_set(int threads);

/* The number of threads in force. */
int parallel_threads(void);

/* So many processes share this machine: where no number was set, each takes its part of the processors, or as many as
 * it is bound to where these are fewer. */
void parallel_share(int processes);

/* Calls body(context, item, thread) once for each item of 0..count-1, in any order, on up to parallel_threads()
 * threads; thread is 0..parallel_threads()-1 and picks a workspace. Returns when all are done. Not to be nested. */
void parallel_for(int64_t count, void (*body)(void *context, int64_t item, int thread), void *context);

/* A thread beside those, for what waits on something outside while they compute; it may call neither parallel_for() nor
 * what does. Ends the program with 71 where there can't be one. parallel_join() waits until body has returned. */
struct parallel_beside;
struct parallel_beside *parallel_beside(void (*body)(void *context), void *context);
void parallel_join(struct parallel_beside *thread);

#endif
