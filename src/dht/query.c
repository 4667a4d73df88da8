/* dht/query.c - what finds and stores have in common: their turn to start, their deadline, cancel.
 *
 * The timer fires first in the turn after the user's call, which starts the query, and then at
 * its deadline; a cancel brings it forward.  So no callback runs inside a user's call, and every
 * query ends. */
#include "base/assert.h"
#include "dht/node.h"

static void on_timer(struct hm_timer *timer)
{
    struct hm_dht_query *query = timer->arg;
    if (query->canceled) {
        query->finish(query, HM_ERR_CANCELED);
        return;
    }
    if (query->started) {
        query->finish(query, HM_ERR_TIMED_OUT);
        return;
    }
    query->started = true;
    if (query->deadline != HM_NS_NEVER)
        hm_timer_start(query->dht->loop, &query->timer,
                       hm_deadline_left(query->dht->loop, query->deadline));
    query->start(query);
}

enum hm_status hm_dht_query_begin(struct hm_dht *dht, struct hm_dht_query *query, hm_ns deadline)
{
    if (dht->closing) return HM_ERR_CANCELED;
    if (dht->query_count >= dht->conf.queries_max) return HM_ERR_BUSY;
    dht->query_count++;
    query->dht = dht;
    query->deadline = deadline;
    query->timer.cb = on_timer;
    query->timer.arg = query;
    hm_list_push(&dht->queries, &query->link);
    hm_timer_start(dht->loop, &query->timer, 0);
    return HM_OK;
}

void hm_dht_query_end(struct hm_dht_query *query)
{
    HM_ASSERT(query->dht->query_count > 0);
    query->dht->query_count--;
    hm_timer_stop(query->dht->loop, &query->timer);
    hm_list_remove(&query->link);
}

void hm_dht_query_cancel(struct hm_dht_query *query)
{
    query->canceled = true;
    hm_timer_start(query->dht->loop, &query->timer, 0);
}
