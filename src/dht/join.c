/* dht/join.c - becoming part of a swarm (Kademlia, section 2.3), and again when it was lost.
 *
 * Every address is dialled; who answers first, and is who the join line says, is the seed of a
 * search for our own id.  Dialling, and not the search, finds out why nobody is there: another
 * node, another swarm and another wire version are told apart from silence.  Who takes the
 * connection and hangs up has no room for one more just now, or is about to end: he is dialled
 * again until the deadline.
 *
 * The search fills our table and makes us known to our neighbours; then every bucket is refreshed
 * once, in the background.
 *
 * The addresses are remembered, and used again in two cases.  A node whose contacts are all
 * suspects or gone dials them, every 1 s at first, every 60 s at last.  And a node that no longer
 * has the one through whom it joined among its good contacts tries it every 5 minutes: a
 * bootstrap node that was away for long knows nobody when it is back, and would found a second
 * swarm with whoever joins through it.
 *
 * Owns:     struct joining until its callback has run; a dial of rpc cannot be cancelled, so it
 *           has an object of its own that is left behind when the join is over. */
#include "base/assert.h"
#include "dht/search.h"

#include <stdlib.h>

#define AGAIN (200 * HM_MS)

struct join_dial {
    struct joining *join; /* NULL: it is over */
    struct hm_addr addr;
};
struct joining {
    struct hm_link link; /* dht->joins */
    struct hm_dht *dht;
    struct hm_addrs addrs;
    struct hm_node_id expect;
    bool expects;
    enum hm_status why; /* the most telling failure of a dial so far */
    struct hm_timer again;
    hm_ns deadline;
    struct hm_timer timer; /* the turn to start, then the deadline */
    bool started;
    struct join_dial *dial[HM_ADDRS_MAX];
    unsigned dials_pending;
    struct hm_search *search;
    void (*cb)(void *arg, enum hm_status status);
    void *arg;
};

static void join_finish(struct joining *join, enum hm_status status)
{
    struct hm_dht *dht = join->dht;
    void (*cb)(void *arg, enum hm_status status) = join->cb;
    void *arg = join->arg;
    hm_timer_stop(dht->loop, &join->timer);
    hm_timer_stop(dht->loop, &join->again);
    hm_search_destroy(join->search);
    for (unsigned i = 0; i < join->addrs.count; i++)
        if (join->dial[i]) join->dial[i]->join = NULL;
    hm_list_remove(&join->link);
    if (status == HM_OK) {
        dht->rejoin_wait = HM_DHT_REJOIN_MIN;
        if (!dht->closing) hm_dht_refresh(dht, 0);
    }
    dht->seed_check_due = hm_deadline_after(dht->loop, HM_DHT_SEED_CHECK);
    free(join);
    if (cb) cb(arg, status);
}

static void on_searched(void *arg)
{
    struct joining *join = arg;
    join_finish(join, hm_search_answered(join->search) > 0 ? HM_OK : HM_ERR_PEER_UNREACHABLE);
}

static void search_from(struct joining *join, struct hm_contact *seed)
{
    static const struct hm_search_ops ops = {NULL, on_searched};
    struct hm_dht *dht = join->dht;
    enum hm_status status =
        hm_search_create(dht, &dht->self, 1, HM_DHT_K, join->deadline, &ops, join, &join->search);
    if (status != HM_OK) {
        join_finish(join, status);
        return;
    }
    dht->seed_id = seed->id;
    dht->seed_id_known = true;
    hm_search_seed(join->search, seed);
    hm_search_start(join->search);
}

/* Who answered is asked at the address that was dialled, whatever it says about itself. */
static void search_from_dialled(struct joining *join, struct hm_peer *peer,
                                const struct hm_addr *addr)
{
    struct hm_dht_id id = hm_dht_node(hm_peer_node(peer));
    struct hm_addrs addrs = {.count = 1};
    addrs.addr[0] = *addr;
    struct hm_contact *contact;
    if (hm_contact_create(&id, &addrs, &contact) != HM_OK) return;
    search_from(join, contact);
    hm_contact_put(contact);
}

/* Somebody who refuses us says more than one who hangs up, and he more than an address where nobody
 * is. */
static int telling(enum hm_status status)
{
    if (status == HM_ERR_PEER_DENIED || status == HM_ERR_PEER_VERSION) return 3;
    return status == HM_ERR_PEER_RESET ? 2 : status != HM_OK;
}

static void note(struct joining *join, enum hm_status status)
{
    if (telling(status) > telling(join->why))
        join->why = telling(status) > 1 ? status : HM_ERR_PEER_UNREACHABLE;
}

static void dials_failed(struct joining *join)
{
    struct hm_loop *loop = join->dht->loop;
    if (join->why == HM_ERR_PEER_RESET && hm_deadline_left(loop, join->deadline) > 0)
        hm_timer_start(loop, &join->again, AGAIN + hm_loop_random(loop, HM_RANDOM_RETRY) % AGAIN);
    else
        join_finish(join, join->why);
}

static void on_dialled(void *arg, enum hm_status status, struct hm_peer *peer)
{
    struct join_dial *dial = arg;
    struct joining *join = dial->join;
    struct hm_addr addr = dial->addr;
    if (join) {
        for (unsigned i = 0; i < join->addrs.count; i++)
            if (join->dial[i] == dial) join->dial[i] = NULL;
        join->dials_pending--;
    }
    free(dial);
    if (join && !join->search) {
        if (status == HM_OK && join->expects &&
            !hm_node_id_equal(hm_peer_node(peer), &join->expect))
            status = HM_ERR_PEER_DENIED;
        if (status == HM_OK)
            search_from_dialled(join, peer, &addr);
        else
            note(join, status);
        if (status != HM_OK && join->dials_pending == 0) dials_failed(join);
    }
    hm_peer_put(peer);
}

static void dial_all(struct joining *join)
{
    for (unsigned i = 0; i < join->addrs.count; i++) {
        struct join_dial *dial = malloc(sizeof *dial);
        if (!dial) break;
        *dial = (struct join_dial){join, join->addrs.addr[i]};
        if (hm_rpc_dial(join->dht->rpc, &dial->addr, join->deadline, on_dialled, dial) != HM_OK) {
            free(dial);
            continue;
        }
        join->dial[i] = dial;
        join->dials_pending++;
    }
    if (join->dials_pending == 0) join_finish(join, HM_ERR_PEER_UNREACHABLE);
}

static void on_again(struct hm_timer *timer)
{
    struct joining *join = timer->arg;
    dial_all(join);
}

static void on_timer(struct hm_timer *timer)
{
    struct joining *join = timer->arg;
    if (join->started) {
        join_finish(join, join->why == HM_ERR_PEER_RESET ? join->why : HM_ERR_TIMED_OUT);
        return;
    }
    join->started = true;
    if (join->deadline != HM_NS_NEVER)
        hm_timer_start(join->dht->loop, timer, hm_deadline_left(join->dht->loop, join->deadline));
    dial_all(join);
}

/* ---- who asks for it ------------------------------------------------------------------------ */

static enum hm_status begin(struct hm_dht *dht, const struct hm_addrs *addrs,
                            const struct hm_node_id *expect, hm_ns deadline,
                            void (*cb)(void *arg, enum hm_status status), void *arg)
{
    struct joining *join = calloc(1, sizeof *join);
    if (!join) return hm_fail(HM_ERR_NO_MEMORY, "no memory to join a swarm");
    join->dht = dht;
    join->addrs = *addrs;
    if (expect) join->expect = *expect;
    join->expects = expect != NULL;
    join->deadline = deadline;
    join->cb = cb;
    join->arg = arg;
    join->again = (struct hm_timer){.cb = on_again, .arg = join};
    join->timer.cb = on_timer;
    join->timer.arg = join;
    hm_list_push(&dht->joins, &join->link);
    hm_timer_start(dht->loop, &join->timer, 0);
    return HM_OK;
}

void hm_dht_join(struct hm_dht *dht, const struct hm_addrs *addrs, const struct hm_node_id *expect,
                 hm_ns deadline, void (*cb)(void *arg, enum hm_status status), void *arg)
{
    HM_ASSERT(!dht->closing && addrs->count <= HM_ADDRS_MAX);
    dht->seeds = *addrs;
    dht->seed_id_known = false;
    dht->seed_expects = expect != NULL;
    if (expect) dht->seed_expect = *expect;
    dht->rejoin_wait = HM_DHT_REJOIN_MIN;
    dht->rejoin_due = hm_deadline_after(dht->loop, HM_DHT_REJOIN_DEADLINE);
    enum hm_status status = begin(dht, addrs, expect, deadline, cb, arg);
    HM_ASSERT(status == HM_OK); /* joining has no other way to say that there is no memory */
}

static void on_rejoined(void *arg, enum hm_status status)
{
    struct hm_dht *dht = arg;
    dht->rejoining = false;
    if (status == HM_OK) return;
    dht->rejoin_due = hm_deadline_after(dht->loop, dht->rejoin_wait);
    dht->rejoin_wait *= 2;
    if (dht->rejoin_wait > HM_DHT_REJOIN_MAX) dht->rejoin_wait = HM_DHT_REJOIN_MAX;
}

static bool rejoin_is_due(const struct hm_dht *dht)
{
    hm_ns now = hm_loop_now(dht->loop);
    if (dht->table.contact_count == dht->table.suspect_count) return now >= dht->rejoin_due;
    if (!dht->seed_id_known || now < dht->seed_check_due) return false;
    const struct hm_table_entry *seed = hm_table_find(&dht->table, &dht->seed_id);
    return !seed || seed->failures > 0;
}

void hm_dht_rejoin(struct hm_dht *dht)
{
    if (dht->rejoining || dht->seeds.count == 0 || !hm_list_empty(&dht->joins)) return;
    if (!rejoin_is_due(dht)) return;
    hm_ns deadline = hm_deadline_after(dht->loop, HM_DHT_REJOIN_DEADLINE);
    dht->rejoining = begin(dht, &dht->seeds, dht->seed_expects ? &dht->seed_expect : NULL, deadline,
                           on_rejoined, dht) == HM_OK;
}

void hm_dht_join_close(struct hm_dht *dht)
{
    while (!hm_list_empty(&dht->joins))
        join_finish(HM_CONTAINER_OF(dht->joins.next, struct joining, link), HM_ERR_CANCELED);
}
