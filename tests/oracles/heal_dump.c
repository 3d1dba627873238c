/* heal_dump - one batch through a model that is trained, for tests/oracles/heal_oracle.py and by hand.
 *
 *     heal_dump DEVICE MODEL TEACHER IDS OUT LOSS MEMORY      TEACHER "-" for LOSS ce; LOSS ce, kl, mix (of 0.3),
 *                                                             feature, or block: the first one by itself
 *
 * IDS is a text file, a line of token ids for each sequence. Prints the loss; OUT gets for each parameter a line of
 * JSON (name, term, site, which, class, count), then its values and its gradient, undivided, f32. */
#include "base/file.h"
#include "base/memory.h"
#include "base/options.h"
#include "train/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct batch {
    struct micro_batch micro;
    int32_t *token;
    int64_t *length, total;
};

static void add_line(struct batch *batch, const char *line)
{
    char *end = NULL;
    int64_t n = 0;

    for (long id = strtol(line, &end, 10); end != line; id = strtol(line, &end, 10), n++) {
        batch->token = xreallocarray(batch->token, (size_t)(batch->total + n + 1), sizeof *batch->token);
        batch->token[batch->total + n] = (int32_t)id;
        line = end;
    }
    batch->length = xreallocarray(batch->length, (size_t)batch->micro.sequences + 1, sizeof *batch->length);
    batch->length[batch->micro.sequences++] = n;
    batch->total += n;
}

static int read_batch(struct batch *batch, const char *path)
{
    struct text text = {0};
    int rc = file_read(path, 1 << 28, &text);
    char *rest = text.data, *line;

    while (!rc && (line = strsep(&rest, "\n")))
        if (*line)
            add_line(batch, line);
    text_free(&text);
    batch->micro.token = batch->token;
    batch->micro.length = batch->length;
    return rc;
}

/* The first block alone, and of the student (with selection) what enters it. */
static int load_block(struct network *network, const char *path, const struct device *device,
                      struct selection *selection, const struct batch *batch, float **states)
{
    struct applied *embedding = NULL;
    struct loader loader;
    int rc = loader_open(&loader, path, device, ACTIVATIONS_F32);

    if (rc)
        return rc;
    loader.train = selection ? selection_classes : NULL;
    loader.train_context = selection;
    network_begin(network, &loader);
    rc = loader_embedding(&loader, &embedding);
    if (!rc && selection) {
        size_t bytes = (size_t)(batch->total * loader.config.d_model) * sizeof **states;
        float *x = device->allocate(bytes);

        embed(&network->forward, embedding, batch->token, batch->total, x);
        *states = xmalloc(bytes);
        device->download(*states, x, bytes);
        device->release(x);
    }
    rc = rc ? rc : network_block(network, &loader, 0);
    apply_free(embedding);
    loader_close(&loader);
    return rc;
}

static int load(struct network *network, const char *path, const struct device *device, struct selection *selection)
{
    struct loader loader;
    int rc = loader_open(&loader, path, device, ACTIVATIONS_F32);

    if (rc)
        return rc;
    loader.train = selection ? selection_classes : NULL;
    loader.train_context = selection;
    rc = network_load(network, &loader);
    loader_close(&loader);
    return rc;
}

static int write_all(const struct parameters *parameters, const char *path)
{
    FILE *out = fopen(path, "wb");
    bool good = out != NULL;

    for (int i = 0; i < parameters->count && good; i++) {
        const struct parameter *p = &parameters->list[i];
        float *host = xmallocarray((size_t)p->trainable.count, sizeof *host);

        fprintf(out, "{\"name\":\"%s\",\"term\":%d,\"site\":%d,\"which\":%d,\"class\":%u,\"count\":%lld}\n", p->name,
                p->trainable.term, p->trainable.site, (int)p->trainable.which, p->class, (long long)p->trainable.count);
        parameter_download(parameters, p, p->trainable.values, host);
        good = fwrite(host, sizeof *host, (size_t)p->trainable.count, out) == (size_t)p->trainable.count;
        parameter_download(parameters, p, parameters->gradient + p->first, host);
        good = good && fwrite(host, sizeof *host, (size_t)p->trainable.count, out) == (size_t)p->trainable.count;
        free(host);
    }
    if (out && fclose(out))
        good = false;
    return good ? EX_OK : fail(EX_IOERR, "cannot write '%s':", path);
}

static enum loss loss_of(const char *name)
{
    for (int i = 0; loss_names[i]; i++)
        if (!strcmp(name, loss_names[i]))
            return (enum loss)i;
    return LOSS_FEATURE;         /* block */
}

static int run(char **argv, const struct device *device, const struct batch *batch)
{
    static struct network student, teacher;
    struct selection selection = {.classes = TRAIN_ALL | TRAIN_MATRICES};
    struct training training = training_usual;
    struct parameters parameters;
    struct trainer trainer = {0};
    bool alone = !strcmp(argv[3], "-"), block = !strcmp(argv[6], "block");
    float *states = NULL;
    double count;
    int rc;

    training.loss = loss_of(argv[6]);
    training.cross_weight = 0.3;
    training.memory = atoll(argv[7]);
    selection.blocks = training.loss == LOSS_FEATURE;
    if (block)
        rc = load_block(&student, argv[2], device, &selection, batch, &states);
    else
        rc = load(&student, argv[2], device, &selection);
    if (!rc && !alone)
        rc = block ? load_block(&teacher, argv[3], device, NULL, batch, NULL) : load(&teacher, argv[3], device, NULL);
    if (rc || (rc = parameters_open(&parameters, &student, &selection))
        || (rc = trainer_open(&trainer, &student, alone ? NULL : &teacher, &parameters, &training)))
        return rc;
    if (block)
        trainer_add_states(&trainer, 0, &batch->micro, states);
    else
        trainer_add(&trainer, &batch->micro);
    count = (double)trainer.counted;
    printf("%.9g %.9g %lld\n", trainer.cross / count, trainer.divergence / count, (long long)trainer.counted);
    rc = write_all(&parameters, argv[5]);
    trainer_close(&trainer);
    parameters_close(&parameters);
    network_free(&student);
    network_free(&teacher);
    free(states);
    return rc;
}

int main(int argc, char **argv)
{
    const struct device *device;
    struct batch batch = {0};
    int rc;

    error_program("heal_dump");
    if (argc != 8)
        die(EX_USAGE, "heal_dump DEVICE MODEL TEACHER IDS OUT LOSS MEMORY");
    if ((rc = device_choose(argv[1], &device)) || (rc = read_batch(&batch, argv[4])))
        return rc;
    rc = run(argv, device, &batch);
    free(batch.token);
    free(batch.length);
    return rc;
}
