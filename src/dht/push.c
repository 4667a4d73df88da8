/* dht/push.c - records to those who should hold them (Kademlia, section 2.5).
 *
 * Newcomers:  a contact that connects is noted; when its turn comes, a walk over all dictionaries
 *             picks those for which it is among the 5 nearest that we know, and sends their
 *             entries.  It may know them already (others push too, and it refuses what it has as
 *             stale): the price of not relying on any single holder.
 * Misplaced:  who stored here may have known less of the swarm than we do (it was cut in pieces).
 *             A dictionary that has got an entry is looked at once: if we are not among the 5
 *             nearest, those who are get it.
 * Cost:       one contact at a time, one call in flight, a slice of the dictionaries a turn, each
 *             contact at most every 10 s: whatever we hold, the loop is not held up.
 * Failure:    a push that fails is tried again when its contact is good and its turn comes. */
#include "base/assert.h"
#include "dht/node.h"
#include "dht/record_internal.h"

#include <stdlib.h>
#include <string.h>

enum { DICTS_A_TURN = 64, PUSH_BYTES_MAX = 64 * 1024 };
#define PUSH_DELAY (20 * HM_MS) /* between turns, and before the first */

struct hm_push {
    struct hm_dht *dht;
    struct hm_contact *contact;
    struct hm_store_cursor cursor;
    struct hm_dht_call *call;
    struct hm_dht_id resume_key; /* a dictionary that did not fit the last call */
    unsigned resume_skip;
    bool resumes;
};
struct batch {
    struct hm_buf *buf;
    struct hm_writer writer;
    unsigned count;
};

static void push_finish(struct hm_push *push)
{
    struct hm_dht *dht = push->dht;
    hm_store_cursor_stop(&push->cursor);
    hm_contact_put(push->contact);
    free(push);
    dht->push = NULL;
    if (!dht->closing) hm_timer_start(dht->loop, &dht->push_timer, PUSH_DELAY);
}

static void push_fail(struct hm_push *push)
{
    hm_dht_push_want(push->dht, &push->contact->id);
    push_finish(push);
}

static void on_pushed(void *arg, enum hm_status status, const void *bytes, size_t byte_count)
{
    struct hm_push *push = arg;
    (void)bytes; /* what it did with them is its affair */
    (void)byte_count;
    push->call = NULL;
    if (status != HM_OK)
        push_fail(push);
    else
        hm_timer_start(push->dht->loop, &push->dht->push_timer, PUSH_DELAY);
}

/* Adds the entries of one dictionary, from `skip` on; false: the batch is full, *skip says where
 * to go on. */
static bool batch_add(struct hm_push *push, struct batch *batch, const struct hm_dict *dict,
                      unsigned *skip)
{
    int64_t wall_ns = hm_dht_wall_ns(push->dht);
    const struct hm_entry *entry = hm_dict_first(dict, wall_ns);
    for (unsigned i = 0; entry; i++, entry = hm_store_next(entry, wall_ns)) {
        if (i < *skip) continue;
        size_t left = batch->buf->bytes - hm_writer_count(&batch->writer);
        if (batch->count == HM_STORE_RECORDS_MAX ||
            hm_record_encoded_bytes(&entry->record) > left) {
            *skip = i;
            return false;
        }
        hm_record_encode(&entry->record, &batch->writer);
        batch->count++;
    }
    return true;
}

static bool is_for(const struct hm_push *push, const struct hm_dht_id *key)
{
    return hm_table_nearer(&push->dht->table, key, &push->contact->id, push->dht->listening,
                           HM_DHT_REPLICAS) < HM_DHT_REPLICAS;
}

/* Fills a batch from the next dictionaries; false: the walk is over. */
static bool batch_fill(struct hm_push *push, struct batch *batch)
{
    for (unsigned i = 0; i < DICTS_A_TURN; i++) {
        struct hm_dict *dict = push->resumes ? hm_store_dict(&push->dht->store, &push->resume_key)
                                             : hm_store_cursor_next(&push->cursor);
        unsigned skip = push->resumes ? push->resume_skip : 0;
        if (!dict && !push->resumes) return false;
        push->resumes = false;
        if (!dict || !is_for(push, &dict->key)) continue;
        if (batch_add(push, batch, dict, &skip)) continue;
        push->resumes = true;
        push->resume_key = dict->key;
        push->resume_skip = skip;
        return true;
    }
    return true;
}

static void batch_send(struct hm_push *push, struct batch *batch)
{
    struct hm_dht *dht = push->dht;
    struct hm_writer head;
    hm_writer_init(&head, batch->buf->base, 2);
    hm_store_request_begin(&head, batch->count);
    batch->buf->bytes = hm_writer_count(&batch->writer);
    dht->metrics.records_pushed.value += batch->count;
    hm_ns deadline = hm_deadline_after(dht->loop, HM_DHT_PATIENCE_MAX + HM_S);
    enum hm_status status = hm_dht_call_start(dht, push->contact, HM_METHOD_DHT_STORE, batch->buf,
                                              deadline, on_pushed, push, &push->call);
    if (status != HM_OK) push_fail(push);
}

static void push_step(struct hm_push *push)
{
    struct hm_dht *dht = push->dht;
    struct batch batch = {0};
    if (hm_buf_pool_get(hm_rpc_buffers(dht->rpc), PUSH_BYTES_MAX, &batch.buf) != HM_OK) {
        push_fail(push);
        return;
    }
    hm_writer_init(&batch.writer, batch.buf->base, batch.buf->bytes);
    hm_store_request_begin(&batch.writer, 0); /* room for the count */
    bool more = batch_fill(push, &batch);
    if (batch.count > 0) {
        batch_send(push, &batch);
        return;
    }
    hm_buf_put(batch.buf);
    if (more)
        hm_timer_start(dht->loop, &dht->push_timer, PUSH_DELAY);
    else
        push_finish(push);
}

/* The contact that has waited longest of those whose turn it is; *wait: how long until the next
 * one's. */
static struct hm_table_entry *next_wanted(struct hm_dht *dht, hm_ns *wait)
{
    struct hm_table_entry *chosen = NULL;
    hm_ns now = hm_loop_now(dht->loop);
    unsigned at = 0;
    *wait = HM_NS_NEVER;
    for (struct hm_table_entry *entry; (entry = hm_table_each(&dht->table, &at));) {
        if (!entry->push_wanted || entry->failures > 0) continue;
        hm_ns due = entry->pushed ? entry->pushed + HM_DHT_PUSH_INTERVAL : 0;
        if (due > now) {
            if (due - now < *wait) *wait = due - now;
        } else if (!chosen || entry->pushed < chosen->pushed) {
            chosen = entry;
        }
    }
    return chosen;
}

static void on_push_timer(struct hm_timer *timer)
{
    struct hm_dht *dht = timer->arg;
    if (dht->push) {
        push_step(dht->push);
        return;
    }
    hm_ns wait;
    struct hm_table_entry *entry = next_wanted(dht, &wait);
    if (!entry) {
        if (wait != HM_NS_NEVER) hm_timer_start(dht->loop, timer, wait);
        return;
    }
    entry->push_wanted = false;
    entry->pushed = hm_loop_now(dht->loop);
    struct hm_push *push = calloc(1, sizeof *push);
    if (!push) return;
    push->dht = dht;
    push->contact = hm_contact_get(entry->contact);
    hm_store_cursor_start(&dht->store, &push->cursor);
    dht->push = push;
    push_step(push);
}

void hm_dht_push_want(struct hm_dht *dht, const struct hm_dht_id *id)
{
    struct hm_table_entry *entry = hm_table_find(&dht->table, id);
    if (!entry || dht->closing) return;
    entry->push_wanted = true;
    if (!dht->push) hm_timer_start(dht->loop, &dht->push_timer, PUSH_DELAY);
}

void hm_dht_push_misplaced(struct hm_dht *dht)
{
    for (unsigned i = 0; i < DICTS_A_TURN; i++) {
        const struct hm_dict *dict = hm_store_next_changed(&dht->store);
        if (!dict) return;
        struct hm_contact *nearest[HM_DHT_REPLICAS];
        unsigned count = hm_table_nearest(&dht->table, &dict->key, false, nearest, HM_DHT_REPLICAS);
        if (count < HM_DHT_REPLICAS ||
            hm_distance_compare(&dict->key, &dht->self, &nearest[count - 1]->id) < 0)
            continue; /* it is in its place */
        for (unsigned j = 0; j < count; j++) hm_dht_push_want(dht, &nearest[j]->id);
    }
}

void hm_dht_push_open(struct hm_dht *dht)
{
    dht->push_timer.cb = on_push_timer;
    dht->push_timer.arg = dht;
}

void hm_dht_push_close(struct hm_dht *dht)
{
    if (dht->push) {
        if (dht->push->call) hm_dht_call_cancel(dht->push->call);
        push_finish(dht->push);
    }
    hm_timer_stop(dht->loop, &dht->push_timer);
}
