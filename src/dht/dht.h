/* dht/dht.h - the DHT node: routing table + store + lookups, bound to rpc and a loop.
 *
 * Every node answers FIND (many keys a call: the entries it holds and the k nearest contacts it
 * knows) and STORE (many records a call; each verified, validated and answered by itself).  A
 * node that does not listen (hello.listening empty) only asks. On meeting a new node, records for
 * which it is among the 5 nearest are pushed to it (Kademlia, section 2.5). Request time-outs
 * adapt to the measured round trip (RFC 6298), 5 s at most.
 *
 * Thread: loop.  Callbacks never run inside a call made by the user. */
#ifndef HM_DHT_DHT_H
#define HM_DHT_DHT_H

#include "dht/lookup.h"
#include "transport/rpc.h"

enum { HM_DHT_REPLICAS = 5, HM_DHT_QUERY_KEYS_MAX = 256, HM_DHT_QUERY_RECORDS_MAX = 4096 };

/* What an upper layer knows about records of its kind: may this entry be stored?  Called after
 * the signature held. Keys are digests, so the validator judges schema, subkey and value (and
 * owner). */
struct hm_validator {
    uint16_t schema; /* the records that it is asked about */
    enum hm_status (*accept)(void *arg, const struct hm_record *record);
    void *arg;
};
struct hm_dht_conf {
    struct hm_rpc *rpc;
    /* a record of an unknown schema is refused: HM_ERR_UNSUPPORTED */
    const struct hm_validator *validators;
    unsigned validator_count;
    unsigned records_max;    /* entries held; over it HM_ERR_BUSY */
    unsigned entries_max;    /* of one dictionary, <= 65535; over it HM_ERR_TOO_BIG for new ones */
    size_t record_bytes_max; /* of all records held */
    unsigned queries_max;    /* finds and stores running at once */
    struct hm_metrics *metrics;
};
struct hm_dht;
HM_MUST_CHECK enum hm_status hm_dht_open(const struct hm_dht_conf *conf, struct hm_dht **dht);
/* Queries end with HM_ERR_CANCELED; then done, and dht is gone.  Before hm_rpc_close. */
void hm_dht_close(struct hm_dht *dht, void (*done)(void *arg), void *arg);
/* Dials the addresses, looks up itself, fills its table.  HM_OK once one has answered;
 * HM_ERR_PEER_UNREACHABLE if none.  The addresses are remembered: a node that has lost everybody,
 * or the one through whom it joined, tries them again by itself. */
void hm_dht_join(struct hm_dht *dht, const struct hm_addrs *addrs,
                 const struct hm_node_id *expect /* or NULL */, hm_ns deadline,
                 void (*cb)(void *arg, enum hm_status status), void *arg);
unsigned hm_dht_contacts(const struct hm_dht *dht); /* in the routing table */
unsigned hm_dht_records(const struct hm_dht *dht);  /* held for others and itself */

/* A store or find in progress; opaque, freed by itself after its callback. */
struct hm_dht_query;
/* Answers of one key.  Views, valid during the callback; entries of one (owner, subkey) appear
 * once, the newest. */
struct hm_found {
    struct hm_dht_id key;
    const struct hm_record *record;
    unsigned record_count;
};
typedef void (*hm_dht_found_cb)(void *arg, enum hm_status status, const struct hm_found *found,
                                unsigned key_count);
/* `keys` are copied.  A key without entries is found with record_count 0 (and HM_OK): absence is
 * an answer.  HM_ERR_TIMED_OUT: what was found by then is given all the same.
 * HM_ERR_PEER_UNREACHABLE: no node could be asked (and nothing is held here).  HM_ERR_BUSY from
 * the call: queries_max. */
HM_MUST_CHECK enum hm_status hm_dht_find(struct hm_dht *dht, const struct hm_dht_id *keys,
                                         unsigned count, hm_ns deadline, hm_dht_found_cb cb,
                                         void *arg, struct hm_dht_query **query);
/* Signs (as this node) and stores records that have key, subkey, value, schema, expires_wall_ns
 * and sequence set (0: drawn from the wall clock).  Everything is copied.  replicas[i]: nodes
 * that accepted record i (this node counts if it is among the nearest); a rejected store is no
 * replica.  HM_OK: each record has one at least, else why the first of those without was refused.
 * From the call: HM_ERR_INVALID: a record has expired already (a life over HM_RECORD_LIFE_MAX_NS is
 * cut); HM_ERR_TOO_BIG: a subkey or value is too long; HM_ERR_BUSY: queries_max. */
typedef void (*hm_dht_stored_cb)(void *arg, enum hm_status status, const uint8_t *replicas,
                                 unsigned record_count);
HM_MUST_CHECK enum hm_status hm_dht_store(struct hm_dht *dht, const struct hm_record *records,
                                          unsigned count, hm_ns deadline, hm_dht_stored_cb cb,
                                          void *arg, struct hm_dht_query **query);
/* its callback still comes, later, with HM_ERR_CANCELED */
void hm_dht_query_cancel(struct hm_dht_query *query);

#endif
