/* dht/table.h - the routing table (Maymounkov & Mazieres 2002, sections 2.2 and 2.4), pure: no
 * I/O, no clock.
 *
 * Bucket i holds contacts that share exactly i leading bits with our own id; the last bucket holds
 * all that share at least as many as it has number, our own id would belong there, and it alone
 * splits when it is full.  In a bucket contacts stand by when they were last heard of, the least
 * recent first; who meets a full bucket waits in its replacement cache (the latest first) until a
 * contact there has failed.
 * A contact that failed is suspect: it is kept, so that a swarm that was cut in two can heal, but
 * nobody is told of it, and it goes as soon as another one wants its place. */
#ifndef HM_DHT_TABLE_H
#define HM_DHT_TABLE_H

#include "base/loop.h"
#include "dht/contact.h"
#include "dht/lookup.h"

enum { HM_TABLE_BUCKETS_MAX = 256, HM_TABLE_SPARES = 8, HM_TABLE_FAILURES_MAX = 10 };
#define HM_TABLE_FAILURE_INTERVAL (15 * HM_S) /* failures that follow faster count as one */
struct hm_table_entry {
    struct hm_contact *contact; /* referenced */
    hm_ns seen;                 /* last heard of */
    hm_ns tried;                /* last pinged by maintenance */
    hm_ns pushed;               /* records were last pushed there; 0: never */
    hm_ns failed;               /* when the last failure was counted */
    uint16_t failures;          /* in a row; 0: good, else suspect */
    bool push_wanted;
};
struct hm_bucket {
    struct hm_table_entry entry[HM_DHT_K];     /* least recently seen first */
    struct hm_contact *spare[HM_TABLE_SPARES]; /* latest first; referenced */
    uint8_t count, spare_count;
    hm_ns looked_up; /* when an id of its range was last looked up */
};
struct hm_table {
    struct hm_dht_id self;
    struct hm_bucket *bucket[HM_TABLE_BUCKETS_MAX];
    unsigned bucket_count, contact_count, suspect_count;
};
HM_MUST_CHECK enum hm_status hm_table_init(struct hm_table *table, const struct hm_dht_id *self,
                                           hm_ns now);
void hm_table_fini(struct hm_table *table);

enum hm_table_seen {
    HM_TABLE_SEEN,     /* it was there, and is now the most recently seen */
    HM_TABLE_RETURNED, /* it was there as a suspect, and is good again */
    HM_TABLE_ADDED,
    HM_TABLE_FULL, /* it waits among the spares; `oldest` should be pinged */
    HM_TABLE_SELF,
};
/* We have heard from this node.  HM_TABLE_FULL: *oldest is the least recently seen of that bucket
 * (a view; NULL: it was pinged since `now` - `ping_interval`), marked as pinged now. */
enum hm_table_seen hm_table_seen(struct hm_table *table, struct hm_contact *contact, hm_ns now,
                                 hm_ns ping_interval, const struct hm_contact **oldest);
/* The same for a node that has been met before: true if it is there and good, and now the most
 * recently seen; false: nothing has happened. */
bool hm_table_touch(struct hm_table *table, const struct hm_dht_id *id, hm_ns now);
/* It did not answer.  Replaced by a spare if there is one, else suspect, and forgotten after
 * HM_TABLE_FAILURES_MAX failures in a row (a node with much to ask, and nobody but suspects, must
 * not forget them all within a moment). */
void hm_table_failed(struct hm_table *table, const struct hm_dht_id *id, hm_ns now);
struct hm_table_entry *hm_table_find(const struct hm_table *table, const struct hm_dht_id *id);

/* The contacts nearest to target, nearest first: views. Suspects only `with_suspects`. */
unsigned hm_table_nearest(const struct hm_table *table, const struct hm_dht_id *target,
                          bool with_suspects, struct hm_contact **nearest, unsigned max);
/* How many good contacts and, with `count_self`, we ourselves are nearer to target than `id`;
 * counting stops at `limit`. */
unsigned hm_table_nearer(const struct hm_table *table, const struct hm_dht_id *target,
                         const struct hm_dht_id *id, bool count_self, unsigned limit);
/* Every entry in turn: *at starts at 0; NULL ends. */
struct hm_table_entry *hm_table_each(const struct hm_table *table, unsigned *at);

void hm_table_looked_up(struct hm_table *table, const struct hm_dht_id *target, hm_ns now);
/* Fills targets with a random id of each bucket that nobody looked up since `now` - `interval`
 * (section 2.3), and marks those as looked up. */
unsigned hm_table_refresh(struct hm_table *table, hm_ns now, hm_ns interval,
                          uint64_t (*random)(void *arg), void *arg, struct hm_dht_id *targets,
                          unsigned max);
void hm_table_check(const struct hm_table *table);

#endif
