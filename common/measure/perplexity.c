/* perplexity.c - the perplexity of a text in windows. */
#include "measure/perplexity.h"
#include "measure/passage.h"
#include "measure/report.h"

#include <math.h>
#include <stdlib.h>

static struct json *make_report(const struct subject *subject, const struct passage *passage, const struct sums *sums,
                                const struct stopwatch *stopwatch)
{
    double nll = sums_mean(sums), error = sums_error(sums), perplexity = exp(nll);
    struct json *report = report_start("perplexity");
    char *about = error_text(perplexity * error);

    json_put(report, "perplexity", json_make_number(perplexity));
    json_put(report, "perplexity_standard_error", json_make_number(perplexity * error));
    json_put(report, "nll", json_make_number(nll));
    json_put(report, "standard_error", json_make_number(error));
    passage_report(report, passage);
    report_model(report, "model", &subject->loader);
    report_finish(report, &subject->loader, stopwatch, passage->windows.fed);
    note("perplexity %.4f%s on %lld tokens (windows of %lld: %lld)", perplexity, about,
         (long long)passage->windows.scored, (long long)passage->context, (long long)passage->windows.count);
    free(about);
    return report;
}

int perplexity_run(const struct measure *measure, const char *model, const char *text,
                   const struct text_options *options, struct json **report)
{
    struct stopwatch stopwatch;
    struct subject subject = {.hidden.fd = -1};
    struct passage passage = {0};
    struct sums nll = {0};
    int rc = passage_one_stream((const char *const[]){model, text}, 2);

    *report = NULL;
    stopwatch_start(&stopwatch);
    if (!rc && !(rc = passage_open(&passage, text, options))
        && !(rc = subject_open(&subject, measure, model))
        && !(rc = passage_tokenize(&passage, subject.tokenizer, options, &passage.ids))
        && !(rc = passage_cut(&passage, subject.loader.config.max_position, options))
        && !(rc = subject_run(&subject, &passage.windows, measure->memory))
        && !(rc = subject_nll(&subject, &passage.windows, &nll)))
        *report = make_report(&subject, &passage, &nll, &stopwatch);
    sums_free(&nll);
    subject_close(&subject);
    passage_close(&passage);
    return rc;
}
