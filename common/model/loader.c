/* loader.c - takes a model apart, record by record in stream order. */
#include "model/loader.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const struct block_place block_places[] = {
    {"self_attn.q_proj.weight", offsetof(struct block, q), true},
    {"self_attn.k_proj.weight", offsetof(struct block, k), true},
    {"self_attn.v_proj.weight", offsetof(struct block, v), true},
    {"self_attn.o_proj.weight", offsetof(struct block, o), true},
    {"mlp.gate_proj.weight", offsetof(struct block, gate), true},
    {"mlp.up_proj.weight", offsetof(struct block, up), true},
    {"mlp.down_proj.weight", offsetof(struct block, down), true},
    {"input_layernorm.weight", offsetof(struct block, input_norm), false},
    {"post_attention_layernorm.weight", offsetof(struct block, post_norm), false},
    {"self_attn.q_norm.weight", offsetof(struct block, q_norm), false},
    {"self_attn.k_norm.weight", offsetof(struct block, k_norm), false},
    {"self_attn.q_proj.bias", offsetof(struct block, q_bias), false},
    {"self_attn.k_proj.bias", offsetof(struct block, k_bias), false},
    {"self_attn.v_proj.bias", offsetof(struct block, v_bias), false},
    {"self_attn.o_proj.bias", offsetof(struct block, o_bias), false},
    {"mlp.gate_proj.bias", offsetof(struct block, gate_bias), false},
    {"mlp.up_proj.bias", offsetof(struct block, up_bias), false},
    {"mlp.down_proj.bias", offsetof(struct block, down_bias), false},
};

_Static_assert(sizeof block_places / sizeof *block_places == BLOCK_PLACES, "all of them");

static int next_record(struct loader *loader)
{
    record_free(&loader->next);
    return source_next(&loader->source, &loader->next);
}

const char *loader_name(const struct loader *loader)
{
    return loader->source.name;
}

/* Bytes that the payload takes: of a model on disk those of its items from number first to the one read last. */
static int64_t bytes_taken(const struct loader *loader, size_t first, int64_t payload)
{
    const struct source *source = &loader->source;
    int64_t sum = 0;

    if (!source->is_model)
        return payload;
    for (size_t i = first; i < source->next; i++)
        sum += source->model.item[i].stored_bytes;
    return sum;
}

int64_t loader_stored_bytes(const struct loader *loader)
{
    const struct source *source = &loader->source;
    struct stat about;
    int64_t sum = 0;

    if (!source->is_model)
        return !fstat(source->reader.fd, &about) && S_ISREG(about.st_mode) ? (int64_t)about.st_size : 0;
    for (size_t i = 0; i < source->model.n_item; i++)
        sum += source->model.item[i].stored_bytes;
    return sum;
}

/* The number of the next record's item, of a model on disk. */
static size_t item_number(const struct loader *loader)
{
    return loader->source.is_model ? loader->source.next - 1 : 0;
}

static int add_companion_bytes(void *context, const void *data, size_t size)
{
    text_append(context, data, size);
    return EX_OK;
}

static int take_companion(struct loader *loader)
{
    struct text text = {0};
    struct companion *companion;
    int rc;

    text_append(&text, "", 0);
    if ((rc = source_each(&loader->source, &loader->next, add_companion_bytes, &text))) {
        text_free(&text);
        return rc;
    }
    loader->companion = xreallocarray(loader->companion, loader->n_companion + 1, sizeof *loader->companion);
    companion = &loader->companion[loader->n_companion++];
    *companion = (struct companion){.name = xstrdup(loader->next.name), .data = text.data, .length = text.length};
    return next_record(loader);
}

static int begin(struct loader *loader)
{
    int rc = config_read(loader->source.config, loader_name(loader), &loader->config);

    if (rc)
        return rc;
    inventory_open(&loader->inventory, &loader->config);
    rc = next_record(loader);
    while (!rc && loader->next.kind == RECORD_FILE)
        rc = take_companion(loader);
    return rc;
}

int loader_open(struct loader *loader, const char *path, const struct device *device, enum activations activations)
{
    int rc;

    *loader = (struct loader){.device = device, .activations = activations};
    if (!(rc = source_open(&loader->source, path)))
        rc = begin(loader);
    if (rc)
        loader_close(loader);
    return rc;
}

void loader_close(struct loader *loader)
{
    for (size_t i = 0; i < loader->n_companion; i++) {
        free(loader->companion[i].name);
        free(loader->companion[i].data);
    }
    free(loader->companion);
    record_free(&loader->next);
    inventory_close(&loader->inventory);
    source_close(&loader->source);
    *loader = (struct loader){.source.reader.fd = -1};
}

const struct companion *loader_companion(const struct loader *loader, const char *name)
{
    for (size_t i = 0; i < loader->n_companion; i++)
        if (!strcmp(loader->companion[i].name, name))
            return &loader->companion[i];
    return NULL;
}

int loader_tokenizer(const struct loader *loader, struct tokenizer **tokenizer)
{
    const struct companion *companion = loader_companion(loader, "tokenizer.json");
    int rc;

    *tokenizer = NULL;
    if (!companion)
        return fail(EX_DATAERR, "'%s': no tokenizer.json in the model%s", loader_name(loader),
                    loader->source.is_model ? "" : " (a stream of single layers has none)");
    if ((rc = tokenizer_open(companion->data, companion->length, loader_name(loader), tokenizer)))
        return rc;
    if (tokenizer_size(*tokenizer) > loader->config.vocab_size) {
        rc = fail(EX_DATAERR, "'%s': the tokenizer has %lld ids, the model's vocabulary %lld", loader_name(loader),
                  (long long)tokenizer_size(*tokenizer), (long long)loader->config.vocab_size);
        tokenizer_close(*tokenizer);
        *tokenizer = NULL;
    }
    return rc;
}

/* A tensor: so many of the model's parameters, numbers in its cores, bytes where it is stored. */
static void count(struct loader *loader, int64_t parameters, int64_t stored, int64_t bytes, bool linear)
{
    struct loader_sizes *sizes = &loader->sizes;

    sizes->parameters += parameters;
    sizes->stored_parameters += stored;
    sizes->weight_bytes += bytes;
    if (linear) {
        sizes->linear_parameters += parameters;
        sizes->linear_bytes += bytes;
    }
}

static int ignore(void *context, const void *data, size_t size)
{
    (void)context, (void)data, (void)size;
    return EX_OK;
}

/* A record that the forward pass has no use for: old rotary frequencies, the stored head of a tied model. */
static int skip(struct loader *loader)
{
    struct record *record = &loader->next;
    bool weights = record->kind == RECORD_TENSOR || record->kind == RECORD_CORE;
    struct tensor shape = {.rank = record->rank};
    int rc = inventory_take(&loader->inventory, record, loader_name(loader));

    if (rc || (rc = source_each(&loader->source, record, ignore, NULL)))
        return rc;
    inform("'%s': '%s' is not used", loader_name(loader), record->name);
    memcpy(shape.shape, record->shape, sizeof shape.shape);
    if (weights) {
        int64_t numbers = tensor_count(&shape);

        count(loader, record->kind == RECORD_CORE || !strcmp(record->name, "lm_head.weight") ? 0 : numbers, numbers,
              bytes_taken(loader, item_number(loader), record->bytes), false);
    }
    return next_record(loader);
}

static int bad_tensor(const struct loader *loader, const char *expected)
{
    char buffer[DTYPE_NAME];

    if (loader->next.kind != RECORD_TENSOR)
        return fail(EX_DATAERR, "'%s': '%s': a record of another kind, expected %s", loader_name(loader),
                    loader->next.name, expected);
    return fail(EX_DATAERR, "'%s': '%s': dtype %s, expected %s", loader_name(loader), loader->next.name,
                dtype_name(loader->next.dtype, buffer), expected);
}

/* The operator that begins with the next record, onto the device. */
static int take_matrix(struct loader *loader, struct applied **applied, bool linear)
{
    struct record *record = &loader->next;
    size_t first = item_number(loader);
    bool whole = record->kind != RECORD_CORE;
    struct operator op;
    unsigned train;
    int rc = whole ? inventory_take(&loader->inventory, record, loader_name(loader)) : EX_OK;

    if (rc)
        return rc;
    if (!operator_begins(record))
        return bad_tensor(loader, "a matrix of real numbers");
    if ((rc = operator_read(&loader->source, record, &op)))
        return rc;
    /* The cores went by the inventory: it gets what they make. */
    if (!whole)
        rc = inventory_take(&loader->inventory, &(struct record){.kind = RECORD_TENSOR, .name = op.name, .rank = 2,
                                                                 .shape = {op.out, op.in}}, loader_name(loader));
    if (rc) {
        operator_free(&op);
        return rc;
    }
    if (loader->hash)
        operator_hash(&op, loader->hash);
    count(loader, op.out * op.in, operator_parameters(&op), bytes_taken(loader, first, operator_bytes(&op)), linear);
    train = loader->train ? loader->train(loader->train_context, op.name) : 0;
    *applied = train ? apply_place_trained(loader->device, &op, train)
                     : apply_place(loader->device, &op, loader->activations);
    return next_record(loader);
}

/* A vector of any real dtype, as f32 on the device; its bytes there are added to *bytes. */
static int take_vector(struct loader *loader, float **vector, int64_t *bytes)
{
    struct record *record = &loader->next;
    struct tensor tensor;
    int64_t n;
    float *host;
    int rc;

    if (record->kind != RECORD_TENSOR || !dtype_is_real(record->dtype))
        return bad_tensor(loader, "a vector of real numbers");
    if ((rc = inventory_take(&loader->inventory, record, loader_name(loader)))
        || (rc = source_load(&loader->source, record, &tensor)))
        return rc;
    if (loader->hash) {
        hash_update(loader->hash, record->name, strlen(record->name) + 1);
        tensor_hash(&tensor, loader->hash);
    }
    n = tensor_count(&tensor);
    host = xmallocarray((size_t)n, sizeof *host);
    tensor_get(&tensor, host);
    *vector = loader->device->allocate((size_t)n * sizeof *host);
    loader->device->upload(*vector, host, (size_t)n * sizeof *host);
    *bytes += n * (int64_t)sizeof *host;
    count(loader, n, n, bytes_taken(loader, item_number(loader), tensor.bytes), false);
    free(host);
    tensor_free(&tensor);
    return next_record(loader);
}

/* The section of the next record; SECTION_OTHER at the end, too. */
static enum section next_section(const struct loader *loader, int64_t *layer)
{
    *layer = -1;
    return loader->next.kind == RECORD_END ? SECTION_OTHER : record_section(loader->next.name, layer);
}

/* True where the next record is a tensor that a model of this configuration needs. */
static bool is_needed(const struct loader *loader)
{
    struct expected expected;

    return loader->next.kind != RECORD_END && config_expects(&loader->config, loader->next.name, &expected) >= 0
        && expected.required;
}

int loader_embedding(struct loader *loader, struct applied **embedding)
{
    int64_t layer;
    int rc = EX_OK;

    *embedding = NULL;
    while (!rc && next_section(loader, &layer) == SECTION_EMBEDDING)
        rc = is_needed(loader) ? take_matrix(loader, embedding, false) : skip(loader);
    if (!rc && !*embedding)
        rc = fail(EX_DATAERR, "'%s': no 'model.embed_tokens.weight': a whole model is needed, not some of its layers",
                  loader_name(loader));
    if (rc) {
        apply_free(*embedding);
        *embedding = NULL;
    }
    return rc;
}

/* The next record, a needed tensor of a block: behind "model.layers.N." stands its name. */
static int take_part(struct loader *loader, struct block *block)
{
    const char *name = strchr(loader->next.name + strlen("model.layers."), '.') + 1;

    for (int i = 0; i < BLOCK_PLACES; i++) {
        void *at = (char *)block + block_places[i].offset;

        if (!strcmp(name, block_places[i].name))
            return block_places[i].matrix ? take_matrix(loader, at, true) : take_vector(loader, at, &block->vector_bytes);
    }
    return fail(EX_SOFTWARE, "'%s': no place for it in a block", loader->next.name);
}

int loader_block(struct loader *loader, int64_t layer, struct block *block)
{
    int64_t here;
    int rc = EX_OK;

    *block = (struct block){0};
    while (!rc && next_section(loader, &here) == SECTION_BLOCKS && here == layer)
        rc = is_needed(loader) ? take_part(loader, block) : skip(loader);
    if (!rc)
        rc = inventory_layer_complete(&loader->inventory, layer, loader_name(loader));
    if (rc)
        block_free(block, loader->device);
    return rc;
}

int loader_seek(struct loader *loader, int64_t layer)
{
    int64_t here;
    enum section section;
    int rc = EX_OK;

    while (!rc && ((section = next_section(loader, &here)) < SECTION_BLOCKS
                   || (section == SECTION_BLOCKS && here < layer)))
        rc = next_record(loader);
    return rc;
}

int loader_finish(struct loader *loader)
{
    int rc = EX_OK;

    while (!rc && loader->next.kind != RECORD_END)
        rc = next_record(loader);
    return rc;
}

static int take_rest(struct loader *loader, struct head *head)
{
    int64_t layer, bytes = 0;
    int rc = EX_OK;

    while (!rc && loader->next.kind != RECORD_END) {
        enum section section = next_section(loader, &layer);

        if (section == SECTION_NORM && is_needed(loader))
            rc = take_vector(loader, &head->norm, &bytes);
        else if (section == SECTION_HEAD && is_needed(loader))
            rc = take_matrix(loader, &head->own, false);
        else
            rc = skip(loader);
    }
    return rc ? rc : inventory_complete(&loader->inventory);
}

int loader_head(struct loader *loader, const struct applied *embedding, struct head *head)
{
    int rc;

    *head = (struct head){0};
    if ((rc = take_rest(loader, head))) {
        head_free(head, loader->device);
        return rc;
    }
    head->w = loader->config.tied ? embedding : head->own;
    loader->sizes.file_bytes = loader->source.is_model ? loader->source.model.file_bytes : loader->sizes.weight_bytes;
    return EX_OK;
}
