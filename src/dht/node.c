/* dht/node.c - the DHT node: its parts, its opening and closing, and what it learns about others.
 *
 * Owns:     struct hm_dht: table, store, proofs of roots; the lists of what is under way.
 *
 *   open --> running --> hm_dht_close --> (next turn) queries end, calls are cancelled --> when
 *   rpc has let go of the
 *            last call: done, and it is gone
 *
 * Learning: whoever connects or answers, and listens, is a contact (Kademlia, section 2.2: every
 *           message updates the table); who fails to answer is a suspect.  Nothing is learnt from
 *           hearsay: a contact out of a FIND reply must have answered us first. */
#include "dht/node.h"

#include "base/assert.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

int64_t hm_dht_wall_ns(const struct hm_dht *dht)
{
    return hm_loop_wall_ns(dht->loop);
}

/* ---- contacts ------------------------------------------------------------------------------- */

static void learn(struct hm_dht *dht, struct hm_peer *peer)
{
    struct hm_dht_id id = hm_dht_node(hm_peer_node(peer));
    struct hm_addrs addrs;
    struct hm_contact *contact;
    hm_peer_own_addrs(peer, &addrs);
    if (addrs.count == 0) return; /* it only dials out */
    if (hm_contact_create(&id, &addrs, &contact) != HM_OK) return;
    const struct hm_contact *oldest;
    enum hm_table_seen seen =
        hm_table_seen(&dht->table, contact, hm_loop_now(dht->loop), HM_DHT_PING_INTERVAL, &oldest);
    if (seen == HM_TABLE_RETURNED) dht->heal_wanted = true;
    if (seen == HM_TABLE_ADDED || seen == HM_TABLE_RETURNED) hm_dht_push_want(dht, &id);
    if (seen == HM_TABLE_FULL && oldest) hm_dht_ping(dht, (struct hm_contact *)oldest);
    hm_contact_put(contact);
}

void hm_dht_heard(struct hm_dht *dht, struct hm_peer *peer)
{
    struct hm_dht_id id = hm_dht_node(hm_peer_node(peer));
    if (!hm_table_touch(&dht->table, &id, hm_loop_now(dht->loop))) learn(dht, peer);
}

void hm_dht_contact_failed(struct hm_dht *dht, const struct hm_dht_id *id)
{
    hm_table_failed(&dht->table, id, hm_loop_now(dht->loop));
}

static void on_peer_up(void *arg, struct hm_peer *peer)
{
    struct hm_dht *dht = arg;
    if (dht->closing) return;
    learn(dht, peer);
    /* Known or not: it may have lost what it held. */
    struct hm_dht_id id = hm_dht_node(hm_peer_node(peer));
    hm_dht_push_want(dht, &id);
}

/* ---- records -------------------------------------------------------------------------------- */

enum hm_status hm_dht_judge(struct hm_dht *dht, const struct hm_record *record)
{
    for (unsigned i = 0; i < dht->conf.validator_count; i++) {
        const struct hm_validator *validator = &dht->validators[i];
        if (validator->schema != record->schema) continue;
        enum hm_status status = hm_record_verify(record, dht->proofs);
        return status == HM_OK ? validator->accept(validator->arg, record) : status;
    }
    return HM_ERR_UNSUPPORTED;
}

enum hm_status hm_dht_accept(struct hm_dht *dht, const struct hm_record *record)
{
    enum hm_status status = hm_dht_judge(dht, record);
    if (status == HM_OK) status = hm_store_put(&dht->store, record, hm_dht_wall_ns(dht));
    if (status == HM_OK)
        dht->metrics.records_accepted.value++;
    else
        dht->metrics.records_refused.value++;
    return status;
}

unsigned hm_dht_contacts(const struct hm_dht *dht)
{
    return dht->table.contact_count;
}

unsigned hm_dht_records(const struct hm_dht *dht)
{
    return dht->store.live_count;
}

/* ---- metrics -------------------------------------------------------------------------------- */

static void metrics_open(struct hm_dht *dht)
{
    struct hm_dht_metrics *m = &dht->metrics;
    *m = (struct hm_dht_metrics){
        .finds = {.name = "dht.finds", .help = "finds asked for by this node"},
        .stores = {.name = "dht.stores", .help = "stores asked for by this node"},
        .calls = {.name = "dht.calls", .help = "calls made to other nodes"},
        .calls_failed = {.name = "dht.calls_failed", .help = "of these, without an answer"},
        .requests = {.name = "dht.requests", .help = "FIND and STORE requests answered"},
        .records_accepted = {.name = "dht.records_accepted", .help = "records stored here"},
        .records_refused = {.name = "dht.records_refused", .help = "records not stored here"},
        .records_pushed = {.name = "dht.records_pushed", .help = "records given to newcomers"},
        .contacts = {.name = "dht.contacts", .help = "in the routing table", .kind = HM_GAUGE},
        .records = {.name = "dht.records", .help = "held", .kind = HM_GAUGE},
    };
    struct hm_metric *all = &m->finds;
    for (size_t i = 0; i < sizeof *m / sizeof *all; i++) {
        hm_list_init(&all[i].link);
        if (dht->conf.metrics) hm_metrics_add(dht->conf.metrics, &all[i]);
    }
}

static void metrics_close(struct hm_dht *dht)
{
    struct hm_metric *all = &dht->metrics.finds;
    for (size_t i = 0; i < sizeof dht->metrics / sizeof *all; i++) hm_metrics_remove(&all[i]);
}

/* ---- opening and closing -------------------------------------------------------------------- */

static void on_close_timer(struct hm_timer *timer);

static void methods_open(struct hm_dht *dht)
{
    dht->methods[0] = (struct hm_method){.id = HM_METHOD_DHT_FIND,
                                         .name = "dht.find",
                                         .payload_bytes_max = HM_FIND_REQUEST_BYTES_MAX,
                                         .handle = hm_dht_serve_find,
                                         .gone = hm_dht_serve_gone,
                                         .arg = dht};
    dht->methods[1] = (struct hm_method){.id = HM_METHOD_DHT_STORE,
                                         .name = "dht.store",
                                         .payload_bytes_max = HM_STORE_REQUEST_BYTES_MAX,
                                         .handle = hm_dht_serve_store,
                                         .gone = hm_dht_serve_gone,
                                         .arg = dht};
}

static enum hm_status open_parts(struct hm_dht *dht)
{
    const struct hm_dht_conf *conf = &dht->conf;
    size_t validator_bytes = conf->validator_count * sizeof *conf->validators;
    dht->validators = malloc(validator_bytes + 1);
    if (!dht->validators) return hm_fail(HM_ERR_NO_MEMORY, "no memory for the DHT's validators");
    if (validator_bytes) memcpy(dht->validators, conf->validators, validator_bytes);
    enum hm_status status = hm_table_init(&dht->table, &dht->self, hm_loop_now(dht->loop));
    if (status != HM_OK) goto free_validators;
    status = hm_store_init(&dht->store, conf->records_max, conf->entries_max,
                           conf->record_bytes_max, hm_loop_random(dht->loop, HM_RANDOM_DHT));
    if (status != HM_OK) goto fini_table;
    status = hm_proof_cache_create(HM_DHT_PROOF_ROOTS_MAX, &dht->proofs);
    if (status != HM_OK) goto fini_store;
    methods_open(dht);
    status = hm_rpc_serve(dht->rpc, dht->methods, HM_COUNT_OF(dht->methods));
    if (status != HM_OK) goto destroy_proofs;
    return HM_OK;
destroy_proofs:
    hm_proof_cache_destroy(dht->proofs);
fini_store:
    hm_store_fini(&dht->store);
fini_table:
    hm_table_fini(&dht->table);
free_validators:
    free(dht->validators);
    return status;
}

enum hm_status hm_dht_open(const struct hm_dht_conf *conf, struct hm_dht **opened)
{
    HM_ASSERT(conf->records_max > 0 && conf->entries_max > 0 && conf->queries_max > 0);
    HM_ASSERT(conf->entries_max <= UINT16_MAX); /* counts on the wire */
    struct hm_dht *dht = calloc(1, sizeof *dht);
    if (!dht) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a DHT node");
    dht->conf = *conf;
    dht->rpc = conf->rpc;
    dht->loop = hm_rpc_loop(conf->rpc);
    dht->self = hm_dht_node(hm_identity_node(hm_rpc_identity(conf->rpc)));
    struct hm_addrs addrs;
    dht->listening = hm_rpc_address(conf->rpc, &addrs) == HM_OK && addrs.count > 0;
    struct hm_link *heads[] = {&dht->calls, &dht->queries, &dht->servings, &dht->joins};
    for (size_t i = 0; i < HM_COUNT_OF(heads); i++) hm_list_init(heads[i]);
    enum hm_status status = open_parts(dht);
    if (status != HM_OK) {
        free(dht);
        return status;
    }
    metrics_open(dht);
    hm_rpc_on_peer(dht->rpc, on_peer_up, NULL, dht);
    hm_dht_push_open(dht);
    hm_dht_maintain_open(dht);
    *opened = dht;
    return HM_OK;
}

static void destroy(struct hm_dht *dht)
{
    void (*closed)(void *arg) = dht->closed;
    void *arg = dht->closed_arg;
    hm_timer_stop(dht->loop, &dht->close_timer);
    hm_rpc_unserve(dht->rpc, dht->methods, HM_COUNT_OF(dht->methods));
    hm_rpc_on_peer(dht->rpc, NULL, NULL, NULL);
    metrics_close(dht);
    hm_proof_cache_destroy(dht->proofs);
    hm_store_fini(&dht->store);
    hm_table_fini(&dht->table);
    free(dht->validators);
    free(dht);
    if (closed) closed(arg);
}

void hm_dht_settle(struct hm_dht *dht)
{
    if (dht->closing && hm_list_empty(&dht->calls)) hm_timer_start(dht->loop, &dht->close_timer, 0);
}

/* The first time it ends what is under way; then, when rpc has let go of all calls, the node. */
static void on_close_timer(struct hm_timer *timer)
{
    struct hm_dht *dht = timer->arg;
    while (!hm_list_empty(&dht->queries)) {
        struct hm_dht_query *query = HM_CONTAINER_OF(dht->queries.next, struct hm_dht_query, link);
        query->finish(query, HM_ERR_CANCELED);
    }
    hm_dht_join_close(dht);
    hm_dht_maintain_close(dht);
    hm_dht_push_close(dht);
    hm_dht_serve_close(dht);
    if (hm_list_empty(&dht->calls)) destroy(dht);
}

void hm_dht_close(struct hm_dht *dht, void (*done)(void *arg), void *arg)
{
    HM_ASSERT(!dht->closing);
    dht->closing = true;
    dht->closed = done;
    dht->closed_arg = arg;
    dht->close_timer.cb = on_close_timer;
    dht->close_timer.arg = dht;
    hm_timer_start(dht->loop, &dht->close_timer, 0);
}
