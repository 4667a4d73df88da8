/* dht/search.h - many lookups at once that share their calls: a call to a node carries every key
 * for which it is among the nearest that have not been asked.  In a small swarm a search of a
 * hundred keys costs as many calls as one of a single key. */
#ifndef HM_DHT_SEARCH_H
#define HM_DHT_SEARCH_H

#include "dht/node.h"

struct hm_search_ops {
    /* An entry that somebody gave for key number `key`: not verified.  HM_OK: it is sound, and
     * makes its giver a holder.  HM_ERR_PEER_DENIED: it is forged; who holds entries has verified
     * them, so the giver lies, and nothing more of his is looked at.  NULL: only nodes are looked
     * for. */
    enum hm_status (*record)(void *arg, unsigned key, const struct hm_record *record);
    /* Every lookup is done (or, with `record`, enough holders have answered).  The last thing that
     * the search does: it may be destroyed here. */
    void (*done)(void *arg);
};
/* The contacts of the routing table are known to it from the start.  `deadline` bounds its calls;
 * its user watches the time. */
HM_MUST_CHECK enum hm_status hm_search_create(struct hm_dht *dht, const struct hm_dht_id *keys,
                                              unsigned count, unsigned k, hm_ns deadline,
                                              const struct hm_search_ops *ops, void *arg,
                                              struct hm_search **search);
/* Calls in flight are cancelled; done will not run. */
void hm_search_destroy(struct hm_search *search);
void hm_search_seed(struct hm_search *search, struct hm_contact *contact);
/* This node itself holds entries of this key. */
void hm_search_self_holds(struct hm_search *search, unsigned key);
void hm_search_start(struct hm_search *search);              /* done may run inside */
unsigned hm_search_answered(const struct hm_search *search); /* calls so far */
/* The nearest nodes that answered, nearest first: views. */
unsigned hm_search_nearest(const struct hm_search *search, unsigned key,
                           struct hm_contact **nearest, unsigned max);

#endif
