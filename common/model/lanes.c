/* lanes.c - steps of all lanes. */
#include "model/lanes.h"
#include "base/memory.h"

#include <stdlib.h>

struct lane {
    struct cache cache;
    struct ids next;             /* tokens that go in next; none: idle */
};

struct running {
    const struct lanes *lanes;
    struct lane *lane;           /* [count], as the next ones */
    struct advance *advance;
    int *order;                  /* lanes that are at work */
    int32_t *token;
    float *logits;               /* [count, vocab_size] */
};

static void fill(struct running *r, int i)
{
    const struct lanes *l = r->lanes;
    struct lane *lane = &r->lane[i];

    cache_cut(&lane->cache, 0);
    lane->next.count = 0;
    if (!l->begin(l->context, i, &lane->next))
        lane->next.count = 0;
}

/* Idle lanes stand behind the others, each with one token, which it forgets. */
static int64_t step(struct running *r)
{
    static const int32_t any = 0;
    const struct lanes *l = r->lanes;
    int64_t tokens = 0;
    int busy = 0, all;

    for (int i = 0; i < l->count; i++)
        if (r->lane[i].next.count) {
            r->advance[busy] = (struct advance){&r->lane[i].cache, r->lane[i].next.id, (int64_t)r->lane[i].next.count};
            tokens += r->advance[busy].n;
            r->order[busy++] = i;
        }
    all = busy;
    for (int i = 0; i < l->count && l->full && busy; i++)
        if (!r->lane[i].next.count)
            r->advance[all++] = (struct advance){&r->lane[i].cache, &any, 1};
    if (!busy)
        return 0;
    network_advance(l->network, r->advance, all, r->logits);
    for (int i = busy; i < all; i++)
        cache_cut(r->advance[i].cache, 0);
    l->step(l->context, r->order, busy, r->logits, r->token);
    for (int i = 0; i < busy; i++) {
        struct ids *next = &r->lane[r->order[i]].next;

        next->count = 0;
        if (r->token[i] >= 0)
            ids_append(next, r->token[i]);
        else
            fill(r, r->order[i]);
    }
    return tokens;
}

int64_t lanes_run(const struct lanes *lanes)
{
    const struct network *network = lanes->network;
    size_t count = (size_t)lanes->count, floats = count * (size_t)network->config.vocab_size;
    struct running r = {.lanes = lanes, .lane = xcalloc(count, sizeof *r.lane),
                        .advance = xmallocarray(count, sizeof *r.advance),
                        .order = xmallocarray(count, sizeof *r.order), .token = xmallocarray(count, sizeof *r.token),
                        .logits = network->device->allocate(floats * sizeof *r.logits)};
    int64_t tokens = 0, more;

    for (int i = 0; i < lanes->count; i++)
        fill(&r, i);
    while ((more = step(&r)))
        tokens += more;
    for (int i = 0; i < lanes->count; i++) {
        cache_free(&r.lane[i].cache, network);
        ids_free(&r.lane[i].next);
    }
    network->device->release(r.logits);
    free(r.lane);
    free(r.advance);
    free(r.order);
    free(r.token);
    return tokens;
}
