/* base/linger.h - who has sent or received a message looks on for a while before he sleeps.
 *
 * To go to sleep and be woken takes 25 to 60 us.  Who looks on for as long before he sleeps pays at
 * most twice what the best choice would have cost (Karlin et al., Competitive randomized algorithms
 * for nonuniform problems, 1994); and after MISSES_MAX in a row that were in vain he does so before
 * one sleep in 256 only. */
#ifndef HM_BASE_LINGER_H
#define HM_BASE_LINGER_H

#include "base/loop.h"

struct hm_linger {
    uint64_t sent, received; /* messages, when it last looked at their numbers */
    hm_ns until;             /* 0: it does not */
    unsigned looks;          /* in vain since then */
    unsigned misses;         /* times in a row that nothing came meanwhile */
    unsigned skip;           /* sleeps until it tries again */
};

/* Nothing has moved: whether a message may well come before a sleep would have been worth it.  `sent`
 * and `received`: messages so far.  Who is told yes gives the processor away and looks again. */
bool hm_linger(struct hm_linger *linger, uint64_t sent, uint64_t received, hm_ns span, hm_ns now);

#endif
