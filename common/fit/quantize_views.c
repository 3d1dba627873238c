/* quantize_views.c - moments of turned inputs with their feedback factors, the ones used last kept. */
#include "fit/quantize_internal.h"
#include "base/memory.h"
#include "fit/moments_turn.h"
#include "stream/record.h"

#include <stdlib.h>
#include <string.h>

enum { VIEWS = 8 };
static const double room = 0x1p30;   /* bytes of all views but the one in use */

struct kept_view {
    struct view view;
    char *set;                   /* the name of the moments */
    struct transform transform;
    int64_t width, columns;      /* columns: of the feedback's blocks */
    struct moments *turned;      /* where its factor can find them; NULL without a turn */
    double bytes;
};

struct views {
    struct kept_view kept[VIEWS];    /* the one used last at the end */
    int count;
    int64_t block;               /* all are of this block */
};

struct views *views_new(void)
{
    return xcalloc(1, sizeof(struct views));
}

/* Drops the first count of them. */
static void drop(struct views *views, int count)
{
    for (int i = 0; i < count; i++) {
        feedback_free(views->kept[i].view.feedback);
        if (views->kept[i].turned)
            free(views->kept[i].turned->packed);
        free(views->kept[i].turned);
        free(views->kept[i].set);
    }
    views->count -= count;
    memmove(views->kept, views->kept + count, (size_t)views->count * sizeof *views->kept);
}

void views_free(struct views *views)
{
    if (views)
        drop(views, views->count);
    free(views);
}

static void make_room(struct views *views, double bytes)
{
    int count = views->count == VIEWS;

    for (int i = views->count - 1; i >= count; i--)
        if ((bytes += views->kept[i].bytes) > room)
            count = i + 1;
    drop(views, count);
}

static int make(struct views *views, const struct moment_set *set, struct transform transform, int64_t width,
                int64_t columns)
{
    double n = (double)set->h.n, bytes = 4 * n * n + (transform.block ? 2 * n * n : 0);
    struct kept_view *made;
    int rc;

    make_room(views, bytes);
    made = &views->kept[views->count];
    *made = (struct kept_view){.set = xstrdup(set->name), .transform = transform, .width = width,
                               .columns = columns, .bytes = bytes};
    if (transform.block) {
        made->turned = xmalloc(sizeof *made->turned);
        moments_turn(&set->h, transform, width, made->turned);
    }
    rc = feedback_new_blocks(made->turned ? made->turned : &set->h, 0, columns, &made->view.feedback);
    views->count++;
    if (rc)
        drop(views, views->count);
    return rc;
}

int views_find(struct views *views, const struct moment_set *set, struct transform transform, int64_t width,
               int64_t columns, const struct view **view)
{
    struct kept_view *last;
    int64_t block;
    int rc, at;

    record_section(set->name, &block);
    if (block != views->block)       /* the moments of another block are gone */
        drop(views, views->count);
    views->block = block;
    for (at = 0; at < views->count; at++)
        if (!strcmp(views->kept[at].set, set->name) && transform_same(views->kept[at].transform, transform)
            && views->kept[at].width == width && views->kept[at].columns == columns)
            break;
    if (at == views->count) {
        if ((rc = make(views, set, transform, width, columns)))
            return rc;
    } else {
        struct kept_view found = views->kept[at];

        memmove(views->kept + at, views->kept + at + 1, (size_t)(views->count - at - 1) * sizeof found);
        views->kept[views->count - 1] = found;
    }
    last = &views->kept[views->count - 1];
    last->view.h = last->turned ? last->turned : &set->h;
    *view = &last->view;
    return EX_OK;
}
