/* progress.h - one line on stderr that shows how far long work has come, where stderr is a terminal and --quiet is
 * off. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdint.h>

/* Starts a count; total 0 means that it isn't known. what must outlive the count. */
void progress_start(const char *what, int64_t total);

/* Counts one step that does label; redraws at most ten times a second. */
void progress_step(const char *label);

/* Clears the line. */
void progress_stop(void);

#endif
