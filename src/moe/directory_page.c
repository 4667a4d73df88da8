/* moe/directory_page.c - what a look-up found, into its page of the cache.
 *
 * Happy path:    what is new joins what is known and has not expired, once each, and the page is
 *                usable until the last of it expires.
 * Failure modes: one that failed and found nothing changes nothing; without memory what is
 *                known stays.  A page of which nothing is known afterwards is a miss, and stays one
 *                for negative_max.
 * Invariants:    children are in the order of (coordinate, server), names in that of their text. */
#include "moe/directory_cache.h"

#include <stdlib.h>
#include <string.h>

enum { CHILDREN_MAX = HM_DHT_QUERY_RECORDS_MAX };
#define EXPIRY_MARGIN   (5 * HM_S)
#define SUSPECT_REFRESH (2 * HM_S) /* how often a suspected server's record is read */

/* On the loop's clock, 5 s early; 0: over already. */
static hm_ns record_expires(struct hm_loop *loop, const struct hm_record *record)
{
    int64_t left = record->expires_wall_ns - hm_loop_wall_ns(loop) - (int64_t)EXPIRY_MARGIN;
    if (left <= 0) return 0;
    if (left > HM_RECORD_LIFE_MAX_NS) left = HM_RECORD_LIFE_MAX_NS;
    return hm_loop_now(loop) + (hm_ns)left;
}

static int compare_children(const void *left, const void *right)
{
    const struct hm_page_child *a = left, *b = right;
    if (a->coordinate != b->coordinate) return a->coordinate < b->coordinate ? -1 : 1;
    int order = memcmp(&a->server, &b->server, sizeof a->server);
    if (order != 0) return order;
    return a->expires > b->expires
               ? -1
               : a->expires < b->expires; /* the longer life first, so that it is kept */
}

/* Old and new children together, each (coordinate, server) once, without those that are over. */
static void take_children(struct hm_page *page, struct hm_loop *loop, const struct hm_found *found)
{
    unsigned new_max = found ? found->record_count : 0;
    struct hm_page_child *child = calloc((size_t)page->child_count + new_max + 1, sizeof *child);
    if (!child) return; /* what is known stays */
    unsigned count = 0;
    hm_ns now = hm_loop_now(loop);
    for (unsigned i = 0; i < page->child_count; i++) {
        if (page->child[i].expires > now) child[count++] = page->child[i];
    }
    for (unsigned i = 0; i < new_max; i++) {
        const struct hm_record *record = &found->record[i];
        struct hm_page_child *next = &child[count];
        next->server = record->owner;
        next->expires = record_expires(loop, record);
        if (next->expires > now && hm_directory_expert_decode(record, &next->coordinate)) count++;
    }
    qsort(child, count, sizeof *child, compare_children);
    unsigned kept = 0;
    for (unsigned i = 0; i < count && kept < CHILDREN_MAX; i++) {
        if (kept > 0 && child[kept - 1].coordinate == child[i].coordinate &&
            hm_node_id_equal(&child[kept - 1].server, &child[i].server))
            continue;
        child[kept++] = child[i];
        if (child[i].expires > page->usable_until) page->usable_until = child[i].expires;
    }
    free(page->child);
    page->child = child;
    page->child_count = kept;
}

static int compare_names(const void *left, const void *right)
{
    const struct hm_page_name *a = left, *b = right;
    int order = strcmp(a->name.name, b->name.name);
    if (order != 0) return order;
    return a->expires > b->expires ? -1 : a->expires < b->expires;
}

static void take_names(struct hm_page *page, struct hm_loop *loop, const struct hm_found *found)
{
    unsigned new_max = found ? found->record_count : 0;
    struct hm_page_name *name = calloc((size_t)page->name_count + new_max + 1, sizeof *name);
    if (!name) return;
    unsigned count = 0;
    hm_ns now = hm_loop_now(loop);
    for (unsigned i = 0; i < page->name_count; i++) {
        if (page->name[i].expires > now) name[count++] = page->name[i];
    }
    for (unsigned i = 0; i < new_max; i++) {
        name[count].expires = record_expires(loop, &found->record[i]);
        if (name[count].expires > now &&
            hm_directory_name_decode(&found->record[i], &name[count].name))
            count++;
    }
    qsort(name, count, sizeof *name, compare_names);
    unsigned kept = 0;
    for (unsigned i = 0; i < count && kept < CHILDREN_MAX; i++) {
        if (kept > 0 && strcmp(name[kept - 1].name.name, name[i].name.name) == 0) continue;
        name[kept++] = name[i];
        if (name[i].expires > page->usable_until) page->usable_until = name[i].expires;
    }
    free(page->name);
    page->name = name;
    page->name_count = kept;
}

static void take_server(struct hm_page *page, struct hm_loop *loop, const struct hm_found *found)
{
    hm_ns now = hm_loop_now(loop);
    for (unsigned i = 0; found && i < found->record_count; i++) {
        const struct hm_record *record = &found->record[i];
        struct hm_server_info info;
        if (!hm_directory_server_decode(record, &info)) continue;
        if (page->known && record->sequence < page->sequence) continue;
        bool newer = !page->known || record->sequence > page->sequence;
        page->known = true;
        page->info = info;
        page->sequence = record->sequence;
        page->expires = record_expires(loop, record);
        if (newer) page->plain = false;
        if (newer && page->baseline_known) page->suspect_until = page->suspect_hold = 0;
    }
    page->baseline_known = true;
    if (page->known && page->expires > now) page->usable_until = page->expires;
}

void hm_page_take(struct hm_page *page, struct hm_loop *loop, hm_ns negative_max,
                  enum hm_status status, const struct hm_found *found)
{
    hm_ns now = hm_loop_now(loop);
    page->status = status;
    /* Found late is found, but nothing found late is no answer. */
    if (status != HM_OK && (!found || found->record_count == 0)) {
        page->fresh_until = now + HM_S;
        return;
    }
    page->status = HM_OK;
    page->usable_until = 0;
    switch (page->kind) {
    case HM_PAGE_EXPERTS: take_children(page, loop, found); break;
    case HM_PAGE_SERVER: take_server(page, loop, found); break;
    case HM_PAGE_NAMES: take_names(page, loop, found); break;
    }
    bool miss = page->usable_until <= now;
    if (miss) page->usable_until = now + negative_max;
    page->fresh_until = miss ? page->usable_until : now + HM_DIRECTORY_REFRESH;
    if (page->suspect_until > now) page->fresh_until = now + SUSPECT_REFRESH;
}
