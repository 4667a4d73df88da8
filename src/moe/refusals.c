/* moe/refusals.c - a small set-associative table of digests.
 *
 * Owns:          nothing but itself.
 * Failure modes: two of one digest are taken for each other, which costs a wrong hint; the seed is drawn,
 *                so that nobody chooses names that are.  A fifth in one set drops what ends first.
 * Invariant:     latest is no earlier than any until. */
#include "moe/refusals.h"

#include "base/map.h"

#include <string.h>

enum { WAYS = 4 };

void hm_refusals_init(struct hm_refusals *refusals, uint64_t seed)
{
    memset(refusals, 0, sizeof *refusals);
    refusals->seed = seed;
}

static uint64_t key_of(const struct hm_refusals *refusals, const struct hm_node_id *server,
                       const struct hm_uid *uid, uint8_t pass)
{
    uint64_t place = hm_hash(server, sizeof *server, refusals->seed + pass);
    uint64_t key = hm_hash(uid->text, strlen(uid->text), place);
    return key ? key : 1;
}

static uint64_t set_of(uint64_t key)
{
    return key % (HM_REFUSALS_MAX / WAYS) * WAYS;
}

void hm_refusals_note(struct hm_refusals *refusals, const struct hm_node_id *server,
                      const struct hm_uid *uid, uint8_t pass, hm_ns now, hm_ns after, hm_ns left)
{
    uint64_t key = key_of(refusals, server, uid, pass);
    struct hm_refusal *set = &refusals->slot[set_of(key)], *taken = set;
    for (unsigned i = 0; i < WAYS && taken->key != key; i++)
        if (set[i].key == key || set[i].until < taken->until) taken = &set[i];
    hm_ns until = now + (after < HM_REFUSAL_TIME_MAX ? after : HM_REFUSAL_TIME_MAX);
    *taken = (struct hm_refusal){.key = key, .until = until, .left = left};
    if (until > refusals->latest) refusals->latest = until;
}

bool hm_refusals_likely(const struct hm_refusals *refusals, const struct hm_node_id *server,
                        const struct hm_uid *uid, uint8_t pass, hm_ns now, hm_ns left)
{
    if (now >= refusals->latest) return false;
    uint64_t key = key_of(refusals, server, uid, pass);
    const struct hm_refusal *set = &refusals->slot[set_of(key)];
    for (unsigned i = 0; i < WAYS; i++)
        if (set[i].key == key) return now < set[i].until && left <= set[i].left;
    return false;
}
