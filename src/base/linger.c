/* base/linger.c - see the header. */
#include "base/linger.h"

/* Where many share a processor the time is theirs, and a look costs us a switch, a sleep several
 * system calls of ours and one of the peer's: there it is looks that are counted. */
enum { LOOKS_MIN = 8, MISSES_MAX = 8 };

bool hm_linger(struct hm_linger *linger, uint64_t sent, uint64_t received, hm_ns span, hm_ns now)
{
    bool came = received != linger->received;
    if (came || sent != linger->sent) {
        if (came && linger->until) linger->misses = linger->skip = 0;
        linger->sent = sent;
        linger->received = received;
        linger->until = 0;
        if (linger->skip > 0)
            linger->skip--;
        else
            linger->until = now + span;
        linger->looks = 0;
    } else if (linger->until && now >= linger->until && ++linger->looks >= LOOKS_MIN) {
        linger->until = 0;
        if (linger->misses < MISSES_MAX) linger->misses++;
        linger->skip = 1U << linger->misses;
    }
    return linger->until != 0;
}
