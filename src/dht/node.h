/* dht/node.h - what the files of the DHT node share.
 *
 *   node.c      opens and closes; what is learnt about other nodes
 *   call.c      one call to one contact, with a time-out that fits it
 *   serve.c     answers FIND and STORE
 *   search.c    many lookups that share their calls
 *   query.c, query_find.c, query_store.c      what users ask for
 *   join.c, push.c, maintain.c                what a node does by itself
 *
 * Reentrancy: users' callbacks run last in a turn of the loop or of rpc, and nothing is touched
 * after them that they can have freed: search -> query -> user are tail calls all the way. */
#ifndef HM_DHT_NODE_H
#define HM_DHT_NODE_H

#include "base/list.h"
#include "dht/dht.h"
#include "dht/fetch.h"
#include "dht/message.h"
#include "dht/store.h"
#include "dht/table.h"

#define HM_DHT_PATIENCE_MIN    (1 * HM_S) /* RFC 6298, section 2.4 */
#define HM_DHT_PATIENCE_MAX    (5 * HM_S)
#define HM_DHT_TICK            (1 * HM_S)
#define HM_DHT_REFRESH         (3600 * HM_S)
#define HM_DHT_PING_INTERVAL   (15 * HM_S) /* of a suspect, times its failures */
#define HM_DHT_PING_WAIT_MAX   (60 * HM_S)
#define HM_DHT_QUIET_MAX       (300 * HM_S) /* a good contact not heard of for so long is pinged */
#define HM_DHT_PUSH_INTERVAL   (10 * HM_S)  /* to one contact */
#define HM_DHT_HEAL_INTERVAL   (10 * HM_S)
#define HM_DHT_REJOIN_MIN      (1 * HM_S)
#define HM_DHT_REJOIN_MAX      (60 * HM_S)
#define HM_DHT_SEED_CHECK      (300 * HM_S) /* we look after those through whom we joined */
#define HM_DHT_REJOIN_DEADLINE (10 * HM_S)
enum {
    HM_DHT_PROOF_ROOTS_MAX = 4096,
    HM_DHT_HOLDERS_ENOUGH = 3,            /* of the 5 nearest, that gave entries: a find may end */
    HM_DHT_STORE_K = 2 * HM_DHT_REPLICAS, /* nearest nodes that a store looks for */
    HM_DHT_REFRESH_MAX = 16,              /* buckets at once */
    HM_DHT_FOUND_BYTES_MAX = 16 * 1024 * 1024, /* of one find */
};

struct hm_dht_query;
struct hm_push;
struct hm_search;

struct hm_dht_metrics {
    struct hm_metric finds, stores, calls, calls_failed, requests, records_accepted,
        records_refused, records_pushed, contacts, records;
};
struct hm_dht {
    struct hm_dht_conf conf;
    struct hm_validator *validators; /* copied */
    struct hm_rpc *rpc;
    struct hm_loop *loop;
    struct hm_dht_id self;
    bool listening; /* others can be sent to us: we hold records */
    struct hm_table table;
    struct hm_store store;
    struct hm_proof_cache *proofs;
    struct hm_method methods[2];
    uint64_t sequence_last;

    struct hm_link calls, queries, servings, joins;
    unsigned query_count;

    struct hm_timer tick;
    struct hm_search *refresh; /* of buckets, or of our neighbourhood; NULL: none */
    bool heal_wanted;
    hm_ns heal_due;
    struct hm_push *push;
    struct hm_timer push_timer;

    struct hm_addrs seeds; /* how we joined, to do it again */
    struct hm_node_id seed_expect;
    bool seed_expects;
    struct hm_dht_id seed_id; /* who it was */
    bool seed_id_known;
    hm_ns rejoin_due, rejoin_wait, seed_check_due;
    bool rejoining;

    bool closing;
    struct hm_timer close_timer;
    void (*closed)(void *arg);
    void *closed_arg;
    struct hm_dht_metrics metrics;
};

/* ---- node.c */
int64_t hm_dht_wall_ns(const struct hm_dht *dht);
/* This node has said something: it is alive. */
void hm_dht_heard(struct hm_dht *dht, struct hm_peer *peer);
void hm_dht_contact_failed(struct hm_dht *dht, const struct hm_dht_id *id);
/* Is it sound and by its owner, and does the validator of its schema take it? */
HM_MUST_CHECK enum hm_status hm_dht_judge(struct hm_dht *dht, const struct hm_record *record);
/* Judges and stores. */
HM_MUST_CHECK enum hm_status hm_dht_accept(struct hm_dht *dht, const struct hm_record *record);
void hm_dht_settle(struct hm_dht *dht); /* something ended that a close may be waiting for */

/* ---- call.c */
struct hm_dht_call;
/* Exactly once, unless cancelled.  HM_OK: the reply's payload, readable until this returns.
 * Never inside hm_dht_call_start. */
typedef void (*hm_dht_call_cb)(void *arg, enum hm_status status, const void *bytes,
                               size_t byte_count);
/* One call to one contact.  Takes over `payload` (also on errors).  Its time-out adapts to the
 * contact's round trip, and is `deadline` at most; a full send queue is waited for. */
HM_MUST_CHECK enum hm_status hm_dht_call_start(struct hm_dht *dht, struct hm_contact *contact,
                                               uint16_t method, struct hm_buf *payload,
                                               hm_ns deadline, hm_dht_call_cb done, void *arg,
                                               struct hm_dht_call **call);
void hm_dht_call_cancel(struct hm_dht_call *call); /* done will not run; `call` is gone */
/* A FIND of no keys: only to see whether it answers. */
void hm_dht_ping(struct hm_dht *dht, struct hm_contact *contact);

/* ---- serve.c */
struct hm_serving;
void hm_dht_serve_find(void *arg, struct hm_request *request, const void *header,
                       size_t header_bytes, struct hm_inbound *in);
void hm_dht_serve_store(void *arg, struct hm_request *request, const void *header,
                        size_t header_bytes, struct hm_inbound *in);
void hm_dht_serve_gone(void *arg, struct hm_request *request);
void hm_dht_serve_close(struct hm_dht *dht);

/* ---- query.c: what find and store have in common */
struct hm_dht_query {
    struct hm_dht *dht;
    struct hm_link link;
    hm_ns deadline;
    bool started, canceled;
    struct hm_timer timer;
    void (*start)(struct hm_dht_query *query);
    /* Ends everything under way, calls the user back, frees the query. */
    void (*finish)(struct hm_dht_query *query, enum hm_status status);
};
HM_MUST_CHECK enum hm_status hm_dht_query_begin(struct hm_dht *dht, struct hm_dht_query *query,
                                                hm_ns deadline);
void hm_dht_query_end(struct hm_dht_query *query); /* off the lists; before the user's callback */

/* ---- join.c */
void hm_dht_rejoin(struct hm_dht *dht);
void hm_dht_join_close(struct hm_dht *dht);

/* ---- push.c */
void hm_dht_push_want(struct hm_dht *dht, const struct hm_dht_id *id);
/* Looks at dictionaries that have changed: those that should be elsewhere are pushed there. */
void hm_dht_push_misplaced(struct hm_dht *dht);
void hm_dht_push_open(struct hm_dht *dht);
void hm_dht_push_close(struct hm_dht *dht);

/* ---- maintain.c */
void hm_dht_maintain_open(struct hm_dht *dht);
void hm_dht_maintain_close(struct hm_dht *dht);
/* Looks up a random id of each bucket that has rested for `interval`. */
void hm_dht_refresh(struct hm_dht *dht, hm_ns interval);

#endif
