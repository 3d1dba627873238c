/* task_shots.h - which documents are shown as examples: Python's random.Random(seed).sample(), as lm-evaluation-harness
 * draws them. */
#ifndef MEASURE_TASK_SHOTS_H
#define MEASURE_TASK_SHOTS_H

#include "measure/task_documents.h"

enum { SHOTS_SEED = 1234 };

/* MT19937 (Matsumoto and Nishimura 1998), seeded as Python's random.Random(seed) is. */
struct twister {
    uint32_t state[624];
    int next;
};

void twister_seed(struct twister *twister, uint32_t seed);
uint32_t twister_next(struct twister *twister);

/* random.sample(range(n), k) into index[0..k-1]; k <= n. O(k^2), or O(n) where n is small. */
void twister_sample(struct twister *twister, size_t n, size_t k, size_t *index);

/* Draws count examples for a document into index. With apart the document itself is no example: one more is drawn, and
 * what equals it is left out (lm-evaluation-harness 0.4.13 does so where a task names no split for examples, because
 * None equals None: api/task.py, fewshot_context()). False where there are too few of them. */
bool shots_draw(struct twister *twister, const struct documents *examples, size_t count,
                const struct document *document, bool apart, size_t *index);

#endif
