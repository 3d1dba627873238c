/* progress.h - one line on stderr that shows how far long work has come, where stderr is a terminal and --quiet is
 * off. Of several programs in a pipe only the last shows one: it goes as fast as all of them. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdint.h>

/* Starts a count; total 0 means that it isn't known. what must outlive the count. */
void progress_start(const char *what, int64_t total);

/* Counts one step that does label; redraws at most ten times a second. */
void progress_step(const char *label);

/* Takes the line away for a message; the next step draws it again. */
void progress_clear(void);

/* Ends the count. */
void progress_stop(void);

#endif
