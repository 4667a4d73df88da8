/* dht/lookup.h - one Kademlia lookup as a pure state machine: no I/O, no clock, no malloc.
 *
 *      start ──► RUNNING ──(k nearest live have answered, or nobody is left to ask)──► DONE
 *                 ▲   │ next(): ask this peer       (Maymounkov & Mazieres 2002, section 2.3)
 *                 └───┘ reply() / dead()
 *
 * Invariants (hm_lookup_check): candidates sorted by distance and unique; inflight == number of
 * ASKED candidates <= alpha; DONE implies inflight == 0. */
#ifndef HM_DHT_LOOKUP_H
#define HM_DHT_LOOKUP_H

#include "dht/record.h"

#include <stdbool.h>

enum { HM_DHT_K = 20, HM_DHT_ALPHA = 4, HM_DHT_CANDIDATES_MAX = 4 * HM_DHT_K };
enum hm_candidate_state {
    HM_CANDIDATE_NEW,
    HM_CANDIDATE_ASKED,
    HM_CANDIDATE_ANSWERED,
    HM_CANDIDATE_DEAD
};
struct hm_candidate {
    struct hm_dht_id id;
    uint32_t handle; /* the caller's: which peer */
    uint8_t state;
    bool holder; /* it has answered with what was looked for */
};
struct hm_lookup {
    struct hm_dht_id target;
    struct hm_candidate candidate[HM_DHT_CANDIDATES_MAX];
    uint16_t count;
    uint8_t inflight, alpha;
    uint16_t k;
};
void hm_lookup_init(struct hm_lookup *lookup, const struct hm_dht_id *target, unsigned k,
                    unsigned alpha);
/* A contact learnt from a seed or a reply; false: known already, or farther than all of a full
 * table. */
bool hm_lookup_add(struct hm_lookup *lookup, const struct hm_dht_id *id, uint32_t handle);
/* Whom to ask now: the nearest of the k nearest live candidates that has not been asked; false:
 * wait, or done. */
bool hm_lookup_next(struct hm_lookup *lookup, struct hm_candidate *ask);
/* Marks this candidate as asked, out of turn, if it has not been asked yet, is among the k
 * nearest live ones and fewer than alpha are being asked; else false.  So one call can carry
 * every key that its peer may know something about. */
bool hm_lookup_ask(struct hm_lookup *lookup, const struct hm_dht_id *id);
void hm_lookup_answered(struct hm_lookup *lookup, const struct hm_dht_id *id);
/* It holds what is looked for (before or after it counts as answered). */
void hm_lookup_mark_holder(struct hm_lookup *lookup, const struct hm_dht_id *id);
/* How many of the `nearest` nearest live candidates are marked as holders. */
unsigned hm_lookup_holders(const struct hm_lookup *lookup, unsigned nearest);
/* How many live candidates are nearer to the target than `id`. */
unsigned hm_lookup_rank(const struct hm_lookup *lookup, const struct hm_dht_id *id);
void hm_lookup_dead(struct hm_lookup *lookup, const struct hm_dht_id *id);
bool hm_lookup_done(const struct hm_lookup *lookup);
/* The nearest candidates that answered, nearest first; returns how many (at most `max`). */
unsigned hm_lookup_nearest(const struct hm_lookup *lookup, struct hm_candidate *nearest,
                           unsigned max);
void hm_lookup_check(const struct hm_lookup *lookup);
/* XOR metric: < 0 if a is nearer to target than b. */
int hm_distance_compare(const struct hm_dht_id *target, const struct hm_dht_id *a,
                        const struct hm_dht_id *b);

#endif
