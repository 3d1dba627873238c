/* task_files.c - looks for a task's documents and examples. */
#include "base/file.h"
#include "measure/task_work.h"
#include "text/unicode.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_directory(const char *path)
{
    struct stat about;

    return !stat(path, &about) && S_ISDIR(about.st_mode);
}

static bool is_there(const char *path)
{
    struct stat about;

    return !stat(path, &about) && !S_ISDIR(about.st_mode);
}

/* The first of the names that is a file in the directory; the caller frees; NULL where there is none. */
static char *look_for(const char *directory, const char *const *names)
{
    for (; *names; names++) {
        char *path = file_join(directory, *names);

        if (is_there(path))
            return path;
        free(path);
    }
    return NULL;
}

static int no_examples(const struct work *work, const char *where)
{
    return fail(EX_NOINPUT, "no examples for '%s' at '%s': --train names a file, or --shots 0 asks for none",
                work->task->name, where);
}

static struct part *add_part(struct work *work, const char *subject)
{
    struct part *part;

    work->part = xreallocarray(work->part, work->parts + 1, sizeof *work->part);
    part = &work->part[work->parts++];
    *part = (struct part){.subject = subject ? xstrdup(subject) : NULL};
    return part;
}

/* Reads documents and, where some are wanted, examples; paths are freed. */
static int read_part(struct work *work, const char *subject, char *data, char *train)
{
    struct part *part = add_part(work, subject);
    int rc = documents_read(work->task->kind, data, work->options->limit, &part->documents, &work->raw);

    if (!rc && work->shots && !(rc = documents_read(work->task->kind, train, -1, &part->examples, NULL)))
        part->examples_name = xstrdup(train);
    free(data);
    free(train);
    return rc;
}

static int find_plain(struct work *work, const char *data)
{
    char *path = is_directory(data) ? look_for(data, work->task->data) : xstrdup(data), *beside, *train = NULL;

    if (!path)
        return fail(EX_NOINPUT, "'%s' has no file that '%s' is known by, as '%s'", data, work->task->name,
                    work->task->data[0]);
    if (work->shots && is_there(path)) {         /* otherwise documents_read() says what is wrong with it */
        beside = file_directory(path);
        train = work->options->train ? xstrdup(work->options->train) : look_for(beside, work->task->train);
        free(beside);
        if (!train) {
            free(path);
            return no_examples(work, data);
        }
    }
    return read_part(work, NULL, path, train);
}

/* MMLU: "college_biology_test.csv" */
static bool is_test(const char *name)
{
    size_t length = strlen(name);

    return length > 9 && !strcmp(name + length - 9, "_test.csv");
}

/* The examples of a subject: in --train or its dev/, else beside the tests or in the dev/ beside their directory. */
static char *find_dev(const struct work *work, const char *tests, const char *subject)
{
    char *name = xasprintf("%s_dev.csv", subject), *in_dev = file_join("dev", name), *above = file_join("../dev", name);
    const char *train = work->options->train;
    char *path = train && !is_directory(train) ? xstrdup(train) :
                 look_for(train ? train : tests, (const char *[]){name, train ? in_dev : above, NULL});

    free(name);
    free(in_dev);
    free(above);
    return path;
}

static int read_subject(struct work *work, const char *directory, const char *name)
{
    char *subject = xstrndup(name, strlen(name) - 9), *train = NULL;
    int rc;

    if (!utf8_is_valid(name, strlen(name)))
        rc = fail(EX_DATAERR, "'%s': the name of '%s' is not UTF-8", directory, name);
    else if (work->shots && !(train = find_dev(work, directory, subject)))
        rc = no_examples(work, directory);
    else
        rc = read_part(work, subject, file_join(directory, name), train);
    free(subject);
    return rc;
}

static int is_test_entry(const struct dirent *entry)
{
    return is_test(entry->d_name);
}

/* Not alphasort(), which asks the locale. */
static int in_order(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_subjects(struct work *work, const char *directory)
{
    struct dirent **entry;
    int count = scandir(directory, &entry, is_test_entry, in_order), rc = EX_OK;

    if (count < 0)
        return fail(EX_NOINPUT, "'%s':", directory);
    for (int i = 0; i < count; i++) {
        if (!rc)
            rc = read_subject(work, directory, entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    return rc ? rc : count ? EX_OK : fail(EX_NOINPUT, "'%s' has no file named SUBJECT_test.csv", directory);
}

/* The directory of tests, or a directory that has it, or one subject's file. */
static int find_mmlu(struct work *work, const char *data)
{
    char *directory = NULL, *name;
    int rc;

    for (const char *const *at = work->task->data; *at && is_directory(data); at++) {
        directory = file_join(data, *at);
        if (is_directory(directory))
            break;
        free(directory);
        directory = NULL;
    }
    if (directory || is_directory(data)) {
        rc = read_subjects(work, directory ? directory : data);
    } else {
        directory = file_directory(data);
        name = file_basename(data);
        rc = !is_there(data) ? fail(EX_NOINPUT, "cannot find '%s'", data) :
             !is_test(name) ? fail(EX_USAGE, "'%s': a file of MMLU is named SUBJECT_test.csv", data) :
             read_subject(work, directory, name);
        free(name);
    }
    free(directory);
    return rc;
}

int task_find(struct work *work, const char *data)
{
    return work->task->kind == TASK_MMLU ? find_mmlu(work, data) : find_plain(work, data);
}
