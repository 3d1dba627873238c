/* chat_model.c - looks for the template and for special tokens where transformers does. */
#include "model/chat_model.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>

enum { TEMPLATE_LIMIT = 1 << 20 };       /* bytes of a template's file */

/* The content of a companion file that holds a JSON object; *value is NULL where the model has none. */
static int companion_json(const struct loader *loader, const char *name, struct json **value)
{
    const struct companion *companion = loader_companion(loader, name);

    *value = NULL;
    if (!companion)
        return EX_OK;
    if (!(*value = json_parse(companion->data, companion->length, name)))
        return EX_DATAERR;
    if (json_kind(*value) == JSON_KIND_OBJECT)
        return EX_OK;
    json_drop(*value);
    *value = NULL;
    return fail(EX_DATAERR, "'%s': %s: expected an object", loader_name(loader), name);
}

/* "chat_template": the text, or of a list of named ones that with the name "default". NULL where there is none. */
static const char *template_member(const struct json *object)
{
    const struct json *member = json_at(object, "chat_template");

    for (size_t i = 0; i < json_count(member) && json_kind(member) == JSON_KIND_ARRAY; i++) {
        const struct json *entry = json_item(member, i);

        if (!strcmp(json_as_string(json_at(entry, "name"), ""), "default"))
            return json_as_string(json_at(entry, "template"), NULL);
    }
    return json_as_string(member, NULL);
}

/* A special token: its text, or an object with its content. The caller frees; NULL where there is none. */
static char *token_member(const struct json *object, const char *name)
{
    const struct json *member = json_at(object, name);
    const char *text = json_as_string(member, json_as_string(json_at(member, "content"), NULL));

    return text ? xstrdup(text) : NULL;
}

static char *token_text(const struct tokenizer *tokenizer, int64_t id)
{
    const char *text = id >= 0 && id <= INT32_MAX ? tokenizer_token(tokenizer, (int32_t)id) : NULL;

    return text ? xstrdup(text) : NULL;
}

int special_tokens(const struct loader *loader, const struct tokenizer *tokenizer, char **bos, char **eos)
{
    const struct config *config = &loader->config;
    struct json *settings;
    int rc = companion_json(loader, "tokenizer_config.json", &settings);

    *bos = settings ? token_member(settings, "bos_token") : token_text(tokenizer, config->bos);
    *eos = settings ? token_member(settings, "eos_token") : token_text(tokenizer, config->n_eos ? config->eos[0] : -1);
    json_drop(settings);
    return rc;
}

static int recognise_own(struct chat_model *model, const struct loader *loader, const struct json *settings)
{
    const struct companion *file = loader_companion(loader, "chat_template.jinja");
    const char *jinja = file ? file->data : template_member(settings);
    struct json *other = NULL;
    int rc = jinja ? EX_OK : companion_json(loader, "chat_template.json", &other);

    if (!jinja)
        jinja = template_member(other);
    if (!rc)
        rc = jinja ? chat_recognise(jinja, loader_name(loader), &model->chat, &model->default_system) :
                     fail(EX_UNAVAILABLE, "'%s' has no chat template; --template names the one to use",
                          loader_name(loader));
    json_drop(other);
    return rc;
}

static int recognise_file(struct chat_model *model, const char *path)
{
    struct text jinja = {0};
    int rc;

    if (!strchr(path, '/') && !strchr(path, '.'))
        return fail(EX_USAGE, "--template: '%s' is not one of granite, chatml, llama2, llama3, mistral, or a file "
                    "(whose name has a '.' or '/')", path);
    if (!(rc = file_read(path, TEMPLATE_LIMIT, &jinja)))
        rc = chat_recognise(jinja.data ? jinja.data : "", path, &model->chat, &model->default_system);
    text_free(&jinja);
    return rc;
}

int chat_model_open(struct chat_model *model, const struct loader *loader, const struct tokenizer *tokenizer,
                    const char *name)
{
    struct json *settings;
    int known = 0, rc = companion_json(loader, "tokenizer_config.json", &settings);

    *model = (struct chat_model){0};
    if (rc || (rc = special_tokens(loader, tokenizer, &model->bos, &model->eos))) {
        json_drop(settings);
        return rc;
    }
    while (name && chat_names[known] && strcmp(name, chat_names[known]))
        known++;
    if (!name)
        rc = recognise_own(model, loader, settings);
    else if (chat_names[known])
        model->chat.template = (enum chat_template)known;
    else
        rc = recognise_file(model, name);
    model->chat.bos = model->bos;
    model->chat.eos = model->eos;
    json_drop(settings);
    if (rc)
        chat_model_close(model);
    return rc;
}

void chat_model_close(struct chat_model *model)
{
    free(model->default_system);
    free(model->bos);
    free(model->eos);
    *model = (struct chat_model){0};
}

static void add_stop(const struct loader *loader, int64_t id, struct ids *stop)
{
    if (id < 0 || id >= loader->config.vocab_size)
        return;
    for (size_t i = 0; i < stop->count; i++)
        if (stop->id[i] == id)
            return;
    ids_append(stop, (int32_t)id);
}

int stop_tokens(const struct loader *loader, const struct tokenizer *tokenizer, const struct chat *chat,
                struct ids *stop)
{
    struct json *settings;
    const struct json *eos;
    int rc = companion_json(loader, "generation_config.json", &settings);

    if (rc)
        return rc;
    eos = json_at(settings, "eos_token_id");
    /* One that config.json leaves to the default of its family counts where nothing else is said. */
    for (int i = 0; i < loader->config.n_eos && (!eos || json_at(loader->source.config, "eos_token_id")); i++)
        add_stop(loader, loader->config.eos[i], stop);
    add_stop(loader, json_as_int(eos, -1), stop);
    for (size_t i = 0; i < json_count(eos); i++)
        add_stop(loader, json_as_int(json_item(eos, i), -1), stop);
    if (chat && chat_end(chat))
        add_stop(loader, tokenizer_id(tokenizer, chat_end(chat)), stop);
    json_drop(settings);
    return EX_OK;
}
