/* heal_dump - one batch through a model that is trained, for tests/oracles/heal_oracle.py and by hand.
 *
 *     heal_dump DEVICE MODEL TEACHER IDS OUT LOSS MEMORY      TEACHER "-" for LOSS ce; LOSS ce, kl or mix (of 0.3)
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

static int run(char **argv, const struct device *device, const struct batch *batch)
{
    static struct network student, teacher;
    struct selection selection = {TRAIN_ALL | TRAIN_MATRICES, NULL};
    struct training training = training_usual;
    struct parameters parameters;
    struct trainer trainer = {0};
    bool alone = !strcmp(argv[3], "-");
    double count;
    int rc;

    training.loss = !strcmp(argv[6], "ce") ? LOSS_CE : !strcmp(argv[6], "kl") ? LOSS_KL : LOSS_MIX;
    training.cross_weight = 0.3;
    training.memory = atoll(argv[7]);
    if ((rc = load(&student, argv[2], device, &selection)) || (!alone && (rc = load(&teacher, argv[3], device, NULL)))
        || (rc = parameters_open(&parameters, &student, &selection))
        || (rc = trainer_open(&trainer, &student, alone ? NULL : &teacher, &parameters, &training)))
        return rc;
    trainer_add(&trainer, &batch->micro);
    count = (double)trainer.counted;
    printf("%.9g %.9g %lld\n", trainer.cross / count, trainer.divergence / count, (long long)trainer.counted);
    rc = write_all(&parameters, argv[5]);
    trainer_close(&trainer);
    parameters_close(&parameters);
    network_free(&student);
    network_free(&teacher);
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
