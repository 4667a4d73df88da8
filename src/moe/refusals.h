/* moe/refusals.h - which experts asked not to be asked before when.
 *
 * An overloaded server refuses a part at once and says when one like it could start.  This table keeps
 * that, for an expert at a server and a pass, so that who has a choice asks somebody else without a round
 * trip first.  It is a hint: what is forgotten costs a refusal more, and who has no choice asks anyway.
 *
 * A server whose queue is full refuses everybody; one that cannot meet a deadline refuses those that
 * have no more time than who was refused.
 *
 * Thread: loop.  Memory: fixed; what would end first gives way. */
#ifndef HM_MOE_REFUSALS_H
#define HM_MOE_REFUSALS_H

#include "base/loop.h"
#include "moe/uid.h"
#include "transport/identity.h"

enum { HM_REFUSALS_MAX = 256 };
/* Whatever a server says: later it is asked again. */
#define HM_REFUSAL_TIME_MAX (5 * HM_S)

struct hm_refusals {
    struct hm_refusal {
        uint64_t key;      /* a digest of who: 0 is nobody */
        hm_ns until, left; /* left: who has more time than this may ask */
    } slot[HM_REFUSALS_MAX];
    uint64_t seed;
    hm_ns latest; /* of all until */
};
void hm_refusals_init(struct hm_refusals *refusals, uint64_t seed);
/* Not before now + after (cut to HM_REFUSAL_TIME_MAX), by calls with at most `left` until their deadline
 * (HM_NS_NEVER: by nobody). */
void hm_refusals_note(struct hm_refusals *refusals, const struct hm_node_id *server,
                      const struct hm_uid *uid, uint8_t pass, hm_ns now, hm_ns after, hm_ns left);
/* Whether a call with so much time left would likely be refused.  Cost: a comparison where nothing is
 * noted, else a hash and four more. */
bool hm_refusals_likely(const struct hm_refusals *refusals, const struct hm_node_id *server,
                        const struct hm_uid *uid, uint8_t pass, hm_ns now, hm_ns left);

#endif
