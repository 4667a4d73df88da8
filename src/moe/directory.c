/* moe/directory.c - questions to the swarm's phone book, answered from the cache where it can.
 *
 *   children:  PREFIXES (dictionaries) ──► SERVERS (records of all who are named there) ──► answer
 *   servers:   SERVERS ──► answer
 *   names:     PREFIXES (the one dictionary of names) ──► answer
 *
 * Happy path:    a step asks the cache for its pages; where all are usable it goes on at once, else
 *                when they are there. The callback always runs in a later turn.
 * Failure modes: a dictionary that cannot be read counts as empty, unless nothing at all could be
 *                read: then the status says why.  A server whose record is missing or over is dead,
 *                whatever the expert records say.  At the deadline what is known is answered, or
 *                HM_ERR_TIMED_OUT.
 * Invariants:    operations are at most OPS_MAX; each ends once; pages stay pinned while an
 *                operation reads them. */
#include "moe/directory.h"

#include "base/assert.h"
#include "moe/directory_internal.h"
#include "moe/grow.h"

#include <stdlib.h>
#include <string.h>

enum { OPS_MAX = 256, NEGATIVE_SECONDS = 10, ENTRIES_MAX = 16384, PREFIXES_MAX = 65536 };
enum what { CHILDREN, SERVERS, NAMES };

struct op {
    struct hm_directory *directory;
    struct hm_link link; /* running or idle */
    enum what what;
    bool ready;            /* every page of this step has come; the timer is on its way */
    bool at_servers;       /* the second step */
    enum hm_status failed; /* of the first page that could not be read */
    hm_ns deadline;
    struct hm_timer timer;
    union {
        hm_children_cb children;
        hm_servers_cb servers;
        hm_names_cb names;
    } cb;
    void *arg;
    /* grown, and kept from one operation to the next */
    char (*prefix)[HM_UID_BYTES];
    struct hm_page **page;   /* dictionaries */
    struct hm_page **server; /* records; distinct in CHILDREN, in the order asked for in SERVERS */
    struct hm_node_id *owner;
    struct hm_provider *provider;
    struct hm_children *children;
    struct hm_server_info *info;
    struct hm_grid_name *name;
    unsigned page_count, server_count;
    size_t prefix_capacity, page_capacity, server_capacity, owner_capacity, provider_capacity,
        children_capacity, info_capacity, name_capacity;
};

static void pages_fetched(void *arg);

enum hm_status hm_directory_create(const struct hm_directory_conf *conf, struct hm_directory **out)
{
    struct hm_directory *directory = calloc(1, sizeof *directory);
    if (!directory) return hm_fail(HM_ERR_NO_MEMORY, "no memory for the directory");
    directory->dht = conf->dht;
    directory->loop = hm_rpc_loop(conf->rpc);
    hm_list_init(&directory->running);
    hm_list_init(&directory->idle);
    enum hm_status status = hm_directory_cache_create(
        conf->dht, directory->loop, conf->entries_max ? conf->entries_max : ENTRIES_MAX,
        conf->negative_cache_max ? conf->negative_cache_max : NEGATIVE_SECONDS * HM_S,
        pages_fetched, directory, &directory->cache);
    if (status != HM_OK) {
        free(directory);
        return hm_fail(status, "no memory for the directory's cache");
    }
    *out = directory;
    return HM_OK;
}

void hm_directory_destroy(struct hm_directory *directory)
{
    HM_ASSERT(hm_list_empty(&directory->running) && directory->declarations == 0);
    hm_directory_cache_destroy(directory->cache);
    struct hm_link *link;
    while ((link = hm_list_pop(&directory->idle))) {
        struct op *op = HM_CONTAINER_OF(link, struct op, link);
        free(op->prefix);
        free(op->page);
        free(op->server);
        free(op->owner);
        free(op->provider);
        free(op->children);
        free(op->info);
        free(op->name);
        free(op);
    }
    free(directory);
}

/* ---- operations ------------------------------------------------------------------------------ */

static void step(struct hm_timer *timer);

static struct op *op_get(struct hm_directory *directory, enum what what, hm_ns deadline, void *arg)
{
    struct hm_link *link = hm_list_pop(&directory->idle);
    struct op *op = link ? HM_CONTAINER_OF(link, struct op, link) : NULL;
    if (!op) {
        if (directory->op_count == OPS_MAX) return NULL;
        op = calloc(1, sizeof *op);
        if (!op) return NULL;
        directory->op_count++;
        hm_list_init(&op->link);
        op->directory = directory;
        op->timer = (struct hm_timer){.cb = step, .arg = op};
    }
    op->what = what;
    op->ready = op->at_servers = false;
    op->failed = HM_OK;
    op->deadline = deadline;
    op->arg = arg;
    op->page_count = op->server_count = 0;
    hm_list_push(&directory->running, &op->link);
    return op;
}

static void op_put(struct op *op)
{
    for (unsigned i = 0; i < op->page_count; i++) hm_page_put(op->page[i]);
    for (unsigned i = 0; i < op->server_count; i++) {
        if (op->server[i]) hm_page_put(op->server[i]);
    }
    op->page_count = op->server_count = 0;
    hm_timer_stop(op->directory->loop, &op->timer);
    hm_list_remove(&op->link);
    hm_list_push(&op->directory->idle, &op->link);
}

static struct hm_page **step_pages(struct op *op, unsigned *count)
{
    *count = op->at_servers ? op->server_count : op->page_count;
    return op->at_servers ? op->server : op->page;
}

/* Has every page of this step an answer, or failed?  What is usable already is not waited for. */
static bool step_complete(const struct op *op)
{
    unsigned count;
    struct hm_page **page = step_pages((struct op *)op, &count);
    for (unsigned i = 0; i < count; i++) {
        if (page[i] && page[i]->fetching && !hm_page_usable(op->directory->cache, page[i]))
            return false;
    }
    return true;
}

static void ready(struct op *op)
{
    op->ready = true;
    hm_timer_start(op->directory->loop, &op->timer, 0);
}

static void pages_fetched(void *arg)
{
    struct hm_directory *directory = arg;
    HM_LIST_EACH (link, &directory->running) {
        struct op *op = HM_CONTAINER_OF(link, struct op, link);
        if (!op->ready && step_complete(op)) ready(op);
    }
}

/* Asks for what this step lacks. */
static void begin_step(struct op *op)
{
    struct hm_directory_cache *cache = op->directory->cache;
    unsigned count;
    struct hm_page **page = step_pages(op, &count);
    op->ready = false;
    hm_timer_start(op->directory->loop, &op->timer,
                   hm_deadline_left(op->directory->loop, op->deadline));
    for (unsigned i = 0; i < count; i++) {
        if (page[i]) hm_page_fetch(cache, page[i]);
    }
    hm_page_fetch_end(cache);
    if (!op->ready && step_complete(op)) ready(op);
}

static void note_failures(struct op *op)
{
    unsigned count;
    struct hm_page **page = step_pages(op, &count);
    for (unsigned i = 0; i < count && op->failed == HM_OK; i++) {
        if (page[i] && !hm_page_usable(op->directory->cache, page[i]))
            op->failed =
                page[i]->fetching || page[i]->status == HM_OK ? HM_ERR_TIMED_OUT : page[i]->status;
    }
}

static bool any_usable(struct op *op)
{
    for (unsigned i = 0; i < op->page_count; i++) {
        if (hm_page_usable(op->directory->cache, op->page[i])) return true;
    }
    return false;
}

/* ---- children -------------------------------------------------------------------------------- */

static int compare_nodes(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct hm_node_id));
}

/* The distinct servers named by the dictionaries -> op->server. */
static bool gather_servers(struct op *op)
{
    size_t owners = 0, distinct = 0;
    for (unsigned i = 0; i < op->page_count; i++) owners += op->page[i]->child_count;
    if (!hm_grow(&op->owner, &op->owner_capacity, owners + 1, sizeof *op->owner)) return false;
    owners = 0;
    for (unsigned i = 0; i < op->page_count; i++) {
        for (unsigned k = 0; k < op->page[i]->child_count; k++)
            op->owner[owners++] = op->page[i]->child[k].server;
    }
    qsort(op->owner, owners, sizeof *op->owner, compare_nodes);
    for (size_t i = 0; i < owners; i++) {
        if (distinct == 0 || !hm_node_id_equal(&op->owner[distinct - 1], &op->owner[i]))
            op->owner[distinct++] = op->owner[i];
    }
    if (!hm_grow(&op->server, &op->server_capacity, distinct + 1, sizeof(struct hm_page *)))
        return false;
    for (size_t i = 0; i < distinct; i++)
        op->server[i] = hm_page_get_server(op->directory->cache, &op->owner[i]);
    op->server_count = (unsigned)distinct;
    return true;
}

static struct hm_page *server_page(struct op *op, const struct hm_node_id *server)
{
    struct hm_node_id *at =
        bsearch(server, op->owner, op->server_count, sizeof *op->owner, compare_nodes);
    return at ? op->server[at - op->owner] : NULL;
}

/* Who is asked first: those that have not failed since they last declared themselves or answered,
 * then the least loaded; ties by node id, so that a run replays. */
static bool comes_before(const struct hm_page *a, const struct hm_page *b)
{
    if ((a->suspect_hold == 0) != (b->suspect_hold == 0)) return a->suspect_hold == 0;
    if (a->info.rows_queued != b->info.rows_queued)
        return a->info.rows_queued < b->info.rows_queued;
    return compare_nodes(&a->info.node, &b->info.node) < 0;
}

/* Puts a server among the provider's, in that order. */
static void provider_add(struct op *op, struct hm_provider *provider, const struct hm_page *page)
{
    unsigned at = provider->server_count;
    while (at > 0 && comes_before(page, server_page(op, &provider->server[at - 1]))) at--;
    if (at == HM_SERVER_PROVIDERS_MAX) return;
    if (provider->server_count < HM_SERVER_PROVIDERS_MAX) provider->server_count++;
    for (unsigned i = provider->server_count - 1; i > at; i--)
        provider->server[i] = provider->server[i - 1];
    provider->server[at] = page->info.node;
}

/* The live children of one dictionary into provider[]; returns how many. */
static unsigned fill_providers(struct op *op, const struct hm_page *page, const char *prefix,
                               bool suspects, struct hm_provider *provider)
{
    struct hm_directory_cache *cache = op->directory->cache;
    hm_ns now = hm_loop_now(op->directory->loop);
    unsigned count = 0;
    for (unsigned i = 0; i < page->child_count; i++) {
        const struct hm_page_child *child = &page->child[i];
        struct hm_page *server = server_page(op, &child->server);
        if (child->expires <= now || !server || !hm_page_alive(cache, server, suspects)) continue;
        if (hm_directory_cache_expert_suspected(cache, &child->server, prefix, child->coordinate))
            continue;
        if (count == 0 || provider[count - 1].coordinate != child->coordinate)
            provider[count++] = (struct hm_provider){.coordinate = child->coordinate};
        provider_add(op, &provider[count - 1], server);
    }
    return count;
}

static void end_children(struct op *op)
{
    size_t children = 0, used = 0;
    enum hm_status status = HM_OK;
    for (unsigned i = 0; i < op->page_count; i++) children += op->page[i]->child_count;
    if (!hm_grow(&op->provider, &op->provider_capacity, children + 1, sizeof *op->provider) ||
        !hm_grow(&op->children, &op->children_capacity, op->page_count, sizeof *op->children))
        status = hm_fail(HM_ERR_NO_MEMORY, "no memory for %zu children of prefixes", children);
    for (unsigned i = 0; status == HM_OK && i < op->page_count; i++) {
        struct hm_provider *provider = op->provider + used;
        unsigned count = fill_providers(op, op->page[i], op->prefix[i], false, provider);
        /* The last resort: a connection that broke is no reason to say that nobody is there. */
        if (count == 0) count = fill_providers(op, op->page[i], op->prefix[i], true, provider);
        op->children[i] =
            (struct hm_children){.prefix = op->prefix[i], .provider = provider, .count = count};
        used += count;
    }
    if (status == HM_OK && used == 0 && op->failed != HM_OK)
        status =
            hm_fail(op->failed,
                    "the DHT did not say who serves '%s': %s; is a node of the swarm reachable?",
                    op->prefix[0], hm_status_text(op->failed));
    op->cb.children(op->arg, status, status == HM_OK ? op->children : NULL,
                    status == HM_OK ? op->page_count : 0);
    op_put(op);
}

enum hm_status hm_directory_children(struct hm_directory *directory, const char *const *prefixes,
                                     unsigned prefix_count, hm_ns deadline, hm_children_cb cb,
                                     void *arg)
{
    if (prefix_count < 1 || prefix_count > PREFIXES_MAX)
        return hm_fail(HM_ERR_TOO_BIG, "%u prefixes in one look-up; at most %d", prefix_count,
                       PREFIXES_MAX);
    for (unsigned i = 0; i < prefix_count; i++) {
        if (strnlen(prefixes[i], HM_UID_BYTES) == HM_UID_BYTES)
            return hm_fail(HM_ERR_INVALID, "a prefix of experts has at most %d bytes",
                           HM_UID_BYTES - 1);
    }
    struct op *op = op_get(directory, CHILDREN, deadline, arg);
    if (!op) return hm_fail(HM_ERR_BUSY, "more than %d look-ups of the directory at once", OPS_MAX);
    op->cb.children = cb;
    if (!hm_grow(&op->prefix, &op->prefix_capacity, prefix_count, sizeof *op->prefix) ||
        !hm_grow(&op->page, &op->page_capacity, prefix_count, sizeof(struct hm_page *))) {
        op_put(op);
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for a look-up of %u prefixes", prefix_count);
    }
    for (unsigned i = 0; i < prefix_count; i++) {
        strcpy(op->prefix[i], prefixes[i]); /* its length was checked above */
        op->page[i] = hm_page_get_experts(directory->cache, prefixes[i]);
        if (!op->page[i]) {
            op_put(op);
            return hm_fail(
                HM_ERR_BUSY,
                "the directory's cache is full of prefixes in use; ask for fewer at once");
        }
        op->page_count++;
    }
    begin_step(op);
    return HM_OK;
}

/* ---- servers and names ----------------------------------------------------------------------- */

static void end_servers(struct op *op)
{
    enum hm_status status = HM_OK;
    unsigned known = 0;
    for (unsigned i = 0; i < op->server_count; i++) {
        struct hm_page *page = op->server[i];
        struct hm_node_id node = op->info[i].node;
        memset(&op->info[i], 0, sizeof op->info[i]);
        op->info[i].node = node;
        if (!page || !hm_page_alive(op->directory->cache, page, true)) continue;
        op->info[i] = page->info;
        known++;
    }
    if (known == 0 && op->failed != HM_OK)
        status = hm_fail(op->failed, "the DHT did not say where the servers are: %s",
                         hm_status_text(op->failed));
    op->cb.servers(op->arg, status, status == HM_OK ? op->info : NULL,
                   status == HM_OK ? op->server_count : 0);
    op_put(op);
}

enum hm_status hm_directory_servers(struct hm_directory *directory, const struct hm_node_id *nodes,
                                    unsigned count, hm_ns deadline, hm_servers_cb cb, void *arg)
{
    if (count < 1 || count > PREFIXES_MAX)
        return hm_fail(HM_ERR_TOO_BIG, "%u servers in one look-up; at most %d", count,
                       PREFIXES_MAX);
    struct op *op = op_get(directory, SERVERS, deadline, arg);
    if (!op) return hm_fail(HM_ERR_BUSY, "more than %d look-ups of the directory at once", OPS_MAX);
    op->cb.servers = cb;
    if (!hm_grow(&op->server, &op->server_capacity, count, sizeof(struct hm_page *)) ||
        !hm_grow(&op->info, &op->info_capacity, count, sizeof *op->info)) {
        op_put(op);
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for a look-up of %u servers", count);
    }
    for (unsigned i = 0; i < count; i++) {
        op->server[i] = hm_page_get_server(directory->cache, &nodes[i]);
        op->info[i].node = nodes[i];
    }
    op->server_count = count;
    op->at_servers = true;
    begin_step(op);
    return HM_OK;
}

static void end_names(struct op *op)
{
    const struct hm_page *page = op->page[0];
    enum hm_status status = HM_OK;
    unsigned count = 0;
    hm_ns now = hm_loop_now(op->directory->loop);
    if (!hm_grow(&op->name, &op->name_capacity, page->name_count + 1, sizeof *op->name))
        status = hm_fail(HM_ERR_NO_MEMORY, "no memory for %u names", page->name_count);
    for (unsigned i = 0; status == HM_OK && i < page->name_count; i++) {
        if (page->name[i].expires > now) op->name[count++] = page->name[i].name;
    }
    if (status == HM_OK && !any_usable(op))
        status = hm_fail(op->failed, "the DHT did not say which experts there are: %s",
                         hm_status_text(op->failed));
    op->cb.names(op->arg, status, status == HM_OK ? op->name : NULL, status == HM_OK ? count : 0);
    op_put(op);
}

enum hm_status hm_directory_names(struct hm_directory *directory, hm_ns deadline, hm_names_cb cb,
                                  void *arg)
{
    struct op *op = op_get(directory, NAMES, deadline, arg);
    if (!op) return hm_fail(HM_ERR_BUSY, "more than %d look-ups of the directory at once", OPS_MAX);
    op->cb.names = cb;
    struct hm_page *page = hm_page_get_names(directory->cache);
    if (!page || !hm_grow(&op->page, &op->page_capacity, 1, sizeof(struct hm_page *))) {
        if (page) hm_page_put(page);
        op_put(op);
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for a look-up of names");
    }
    op->page[op->page_count++] = page;
    begin_step(op);
    return HM_OK;
}

/* The timer: all pages of this step are there, or the deadline is. */
static void step(struct hm_timer *timer)
{
    struct op *op = timer->arg;
    note_failures(op);
    switch (op->what) {
    case NAMES: end_names(op); return;
    case SERVERS: end_servers(op); return;
    case CHILDREN: break;
    }
    if (!op->at_servers && gather_servers(op)) {
        op->at_servers = true;
        begin_step(op);
        /* Known already: no need for one more turn. */
        if (!op->ready) return;
        hm_timer_stop(op->directory->loop, &op->timer);
        note_failures(op);
    }
    end_children(op);
}
