/* healing_options.h - what `heal` is told on its command line. */
#ifndef MEASURE_HEALING_OPTIONS_H
#define MEASURE_HEALING_OPTIONS_H

#include "base/json.h"
#include "train/trainer.h"

#include <argp.h>

enum { HEAL_CONTEXT = 256 };     /* tokens of a window, where the model takes so many */
enum scope { SCOPE_MODEL, SCOPE_BLOCK };         /* what is trained at a time */

struct heal_options {
    const char *model, *teacher, *teacher_logits, *log, *work, *eval_text, *template, *date;
    const char **data;           /* [count] */
    int count;
    struct training training;
    int64_t tokens, checkpoint_every, eval_every;        /* tokens: 0: not given */
    double epochs;               /* 0: not given */
    int64_t limit;               /* documents of a file; 0: all */
    bool all;
    unsigned classes;
    enum scope scope;
    int64_t batch, accumulate;
    int64_t context;             /* 0: HEAL_CONTEXT, or what the model takes */
    int plan;                    /* for so many ranks; -1: for those that there are; 0: no plan, a training */
    int64_t link;                /* bytes a second; 0: not given */
    enum products products;
    int dtype;                   /* in dtype_float_names; -1: as it is stored */

    /* Private. */
    int lengths;                 /* options given that say how long */
    bool loss_given, mix_given;
};

extern struct heal_options heal_options;         /* as parsed; data is the program's to free */

/* For struct program: the options, NULL-terminated, and what takes them. */
extern const struct argp_option heal_table[];
error_t heal_parse(int key, char *value, struct argp_state *state);

/* All that the result depends on, for the history and for states, put into about. */
void heal_describe(struct json *about);

#endif
