/* dht/maintain.c - what a node does every second without being asked.
 *
 * Expiry:   records that have ended go.
 * Pings:    one suspect a tick (each every 15 s, longer after every failure), else one contact
 *           that nobody has heard of for 5 minutes: so a swarm that was cut in two finds itself
 *           again.
 * Refresh:  a bucket of whose range no id was looked up for an hour is (Kademlia, section 2.3).
 * Healing:  when a suspect is back, our own neighbourhood is looked up: others may be back with it.
 * Rejoin:   join.c, when nobody good is left. */
#include "base/assert.h"
#include "dht/search.h"

static void on_refreshed(void *arg)
{
    struct hm_dht *dht = arg;
    hm_search_destroy(dht->refresh);
    dht->refresh = NULL;
}

static void look_up(struct hm_dht *dht, const struct hm_dht_id *targets, unsigned count)
{
    static const struct hm_search_ops ops = {NULL, on_refreshed};
    hm_ns deadline = hm_deadline_after(dht->loop, 12 * HM_DHT_PATIENCE_MAX);
    if (hm_search_create(dht, targets, count, HM_DHT_K, deadline, &ops, dht, &dht->refresh) ==
        HM_OK)
        hm_search_start(dht->refresh);
}

static uint64_t draw(void *arg)
{
    struct hm_dht *dht = arg;
    return hm_loop_random(dht->loop, HM_RANDOM_DHT);
}

void hm_dht_refresh(struct hm_dht *dht, hm_ns interval)
{
    struct hm_dht_id targets[HM_DHT_REFRESH_MAX];
    if (dht->refresh || dht->closing) return;
    unsigned count = hm_table_refresh(&dht->table, hm_loop_now(dht->loop), interval, draw, dht,
                                      targets, HM_DHT_REFRESH_MAX);
    if (count > 0) look_up(dht, targets, count);
}

static void heal(struct hm_dht *dht)
{
    hm_ns now = hm_loop_now(dht->loop);
    if (!dht->heal_wanted || dht->refresh || now < dht->heal_due) return;
    dht->heal_wanted = false;
    dht->heal_due = now + HM_DHT_HEAL_INTERVAL;
    look_up(dht, &dht->self, 1);
}

static hm_ns ping_wait(const struct hm_table_entry *suspect)
{
    hm_ns wait = suspect->failures * HM_DHT_PING_INTERVAL;
    return wait < HM_DHT_PING_WAIT_MAX ? wait : HM_DHT_PING_WAIT_MAX;
}

/* Whose turn it is to be pinged; NULL: nobody's. */
static struct hm_table_entry *most_doubtful(struct hm_dht *dht, hm_ns now)
{
    struct hm_table_entry *suspect = NULL, *quiet = NULL;
    unsigned at = 0;
    for (struct hm_table_entry *entry; (entry = hm_table_each(&dht->table, &at));) {
        hm_ns last = entry->tried > entry->seen ? entry->tried : entry->seen;
        if (entry->failures > 0) {
            if (now - entry->tried < ping_wait(entry)) continue;
            if (!suspect || entry->tried < suspect->tried) suspect = entry;
        } else if (now - last >= HM_DHT_QUIET_MAX) {
            if (!quiet || last < (quiet->tried > quiet->seen ? quiet->tried : quiet->seen))
                quiet = entry;
        }
    }
    return suspect ? suspect : quiet;
}

static void on_tick(struct hm_timer *timer)
{
    struct hm_dht *dht = timer->arg;
    hm_ns now = hm_loop_now(dht->loop);
    hm_timer_start(dht->loop, timer, HM_DHT_TICK);
    hm_store_expire(&dht->store, hm_dht_wall_ns(dht));
    struct hm_table_entry *entry = most_doubtful(dht, now);
    if (entry) {
        entry->tried = now;
        struct hm_contact *contact = hm_contact_get(entry->contact);
        hm_dht_ping(dht, contact);
        hm_contact_put(contact);
    }
    hm_dht_refresh(dht, HM_DHT_REFRESH);
    hm_dht_push_misplaced(dht);
    heal(dht);
    hm_dht_rejoin(dht);
    dht->metrics.contacts.value = dht->table.contact_count;
    dht->metrics.records.value = dht->store.live_count;
}

void hm_dht_maintain_open(struct hm_dht *dht)
{
    dht->tick.cb = on_tick;
    dht->tick.arg = dht;
    /* Not all nodes of a cluster in step. */
    hm_timer_start(dht->loop, &dht->tick, 1 + draw(dht) % HM_DHT_TICK);
}

void hm_dht_maintain_close(struct hm_dht *dht)
{
    hm_timer_stop(dht->loop, &dht->tick);
    hm_search_destroy(dht->refresh);
    dht->refresh = NULL;
}
