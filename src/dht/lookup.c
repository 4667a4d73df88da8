/* dht/lookup.c - one lookup: a sorted list of candidates, and who of them to ask next.
 *
 * Happy path:  the seeds are added, next() names the nearest one that nobody has asked, its reply
 * adds nearer
 *              candidates, and so on until the k nearest that are alive have all answered.
 * Failure:     dead() takes a candidate out of the k nearest, and the next one moves up.
 * Invariants:  hm_lookup_check.  A candidate that was forced out of a full list never comes back,
 *              since a full list only gets nearer: so each candidate is asked once at most and
 *              every lookup ends. */
#include "dht/lookup.h"

#include "base/assert.h"

#include <string.h>

static uint64_t big_endian_word(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

int hm_distance_compare(const struct hm_dht_id *target, const struct hm_dht_id *a,
                        const struct hm_dht_id *b)
{
    for (size_t at = 0; at < sizeof target->byte; at += 8) {
        uint64_t word = big_endian_word(target->byte + at);
        uint64_t to_a = word ^ big_endian_word(a->byte + at);
        uint64_t to_b = word ^ big_endian_word(b->byte + at);
        if (to_a != to_b) return to_a < to_b ? -1 : 1;
    }
    return 0;
}

void hm_lookup_init(struct hm_lookup *lookup, const struct hm_dht_id *target, unsigned k,
                    unsigned alpha)
{
    HM_ASSERT(k > 0 && k <= HM_DHT_K && alpha > 0 && alpha <= HM_DHT_K);
    lookup->target = *target;
    lookup->count = 0;
    lookup->inflight = 0;
    lookup->alpha = (uint8_t)alpha;
    lookup->k = (uint16_t)k;
}

/* The first slot whose candidate is not nearer than `id`: where it is, or where it belongs. */
static unsigned slot_of(const struct hm_lookup *lookup, const struct hm_dht_id *id)
{
    unsigned low = 0, high = lookup->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (hm_distance_compare(&lookup->target, &lookup->candidate[middle].id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct hm_candidate *find(struct hm_lookup *lookup, const struct hm_dht_id *id)
{
    unsigned slot = slot_of(lookup, id);
    if (slot == lookup->count) return NULL;
    struct hm_candidate *candidate = &lookup->candidate[slot];
    return memcmp(candidate->id.byte, id->byte, sizeof id->byte) == 0 ? candidate : NULL;
}

/* Forces out the farthest candidate beyond `slot` that is not being asked; false: there is none. */
static bool make_room(struct hm_lookup *lookup, unsigned slot)
{
    for (unsigned last = lookup->count; last > slot; last--) {
        if (lookup->candidate[last - 1].state == HM_CANDIDATE_ASKED) continue;
        memmove(&lookup->candidate[last - 1], &lookup->candidate[last],
                (lookup->count - last) * sizeof(struct hm_candidate));
        lookup->count--;
        return true;
    }
    return false;
}

bool hm_lookup_add(struct hm_lookup *lookup, const struct hm_dht_id *id, uint32_t handle)
{
    unsigned slot = slot_of(lookup, id);
    if (slot < lookup->count &&
        memcmp(lookup->candidate[slot].id.byte, id->byte, sizeof id->byte) == 0)
        return false;
    if (lookup->count == HM_DHT_CANDIDATES_MAX && !make_room(lookup, slot)) return false;
    memmove(&lookup->candidate[slot + 1], &lookup->candidate[slot],
            (lookup->count - slot) * sizeof(struct hm_candidate));
    lookup->candidate[slot] =
        (struct hm_candidate){.id = *id, .handle = handle, .state = HM_CANDIDATE_NEW};
    lookup->count++;
    return true;
}

/* The nearest candidate that has not been asked and is among the k nearest live ones; NULL:
 * none. */
static struct hm_candidate *nearest_new(struct hm_lookup *lookup)
{
    unsigned live = 0;
    for (unsigned i = 0; i < lookup->count && live < lookup->k; i++) {
        struct hm_candidate *candidate = &lookup->candidate[i];
        if (candidate->state == HM_CANDIDATE_NEW) return candidate;
        if (candidate->state != HM_CANDIDATE_DEAD) live++;
    }
    return NULL;
}

static void mark_asked(struct hm_lookup *lookup, struct hm_candidate *candidate)
{
    candidate->state = HM_CANDIDATE_ASKED;
    lookup->inflight++;
}

bool hm_lookup_next(struct hm_lookup *lookup, struct hm_candidate *ask)
{
    /* Kademlia, section 2.3: alpha of the k nearest are asked at a time. */
    if (lookup->inflight >= lookup->alpha) return false;
    struct hm_candidate *candidate = nearest_new(lookup);
    if (!candidate) return false;
    mark_asked(lookup, candidate);
    *ask = *candidate;
    return true;
}

bool hm_lookup_ask(struct hm_lookup *lookup, const struct hm_dht_id *id)
{
    if (lookup->inflight >= lookup->alpha) return false;
    unsigned live = 0;
    for (unsigned i = 0; i < lookup->count && live < lookup->k; i++) {
        struct hm_candidate *candidate = &lookup->candidate[i];
        if (candidate->state == HM_CANDIDATE_NEW &&
            memcmp(candidate->id.byte, id->byte, sizeof id->byte) == 0) {
            mark_asked(lookup, candidate);
            return true;
        }
        if (candidate->state != HM_CANDIDATE_DEAD) live++;
    }
    return false;
}

static void end_asked(struct hm_lookup *lookup, const struct hm_dht_id *id,
                      enum hm_candidate_state state)
{
    struct hm_candidate *candidate = find(lookup, id);
    /* Late and second answers change nothing. */
    if (!candidate || candidate->state != HM_CANDIDATE_ASKED) return;
    HM_ASSERT(lookup->inflight > 0);
    candidate->state = (uint8_t)state;
    lookup->inflight--;
}

void hm_lookup_answered(struct hm_lookup *lookup, const struct hm_dht_id *id)
{
    end_asked(lookup, id, HM_CANDIDATE_ANSWERED);
}

void hm_lookup_dead(struct hm_lookup *lookup, const struct hm_dht_id *id)
{
    /* Kademlia, section 2.3: who does not answer in time is not counted among the k nearest. */
    end_asked(lookup, id, HM_CANDIDATE_DEAD);
}

bool hm_lookup_done(const struct hm_lookup *lookup)
{
    if (lookup->inflight > 0) return false;
    unsigned live = 0;
    for (unsigned i = 0; i < lookup->count && live < lookup->k; i++) {
        if (lookup->candidate[i].state == HM_CANDIDATE_NEW) return false;
        if (lookup->candidate[i].state != HM_CANDIDATE_DEAD) live++;
    }
    return true;
}

void hm_lookup_mark_holder(struct hm_lookup *lookup, const struct hm_dht_id *id)
{
    struct hm_candidate *candidate = find(lookup, id);
    if (candidate) candidate->holder = true;
}

unsigned hm_lookup_holders(const struct hm_lookup *lookup, unsigned nearest)
{
    unsigned live = 0, holders = 0;
    for (unsigned i = 0; i < lookup->count && live < nearest; i++) {
        if (lookup->candidate[i].state == HM_CANDIDATE_DEAD) continue;
        live++;
        holders += lookup->candidate[i].holder;
    }
    return holders;
}

unsigned hm_lookup_rank(const struct hm_lookup *lookup, const struct hm_dht_id *id)
{
    unsigned nearer = 0, end = slot_of(lookup, id);
    for (unsigned i = 0; i < end; i++) nearer += lookup->candidate[i].state != HM_CANDIDATE_DEAD;
    return nearer;
}

unsigned hm_lookup_nearest(const struct hm_lookup *lookup, struct hm_candidate *nearest,
                           unsigned max)
{
    unsigned count = 0;
    for (unsigned i = 0; i < lookup->count && count < max; i++)
        if (lookup->candidate[i].state == HM_CANDIDATE_ANSWERED)
            nearest[count++] = lookup->candidate[i];
    return count;
}

void hm_lookup_check(const struct hm_lookup *lookup)
{
    HM_ASSERT(lookup->count <= HM_DHT_CANDIDATES_MAX);
    unsigned asked = 0;
    for (unsigned i = 0; i < lookup->count; i++) {
        const struct hm_candidate *candidate = &lookup->candidate[i];
        HM_ASSERT(candidate->state <= HM_CANDIDATE_DEAD);
        asked += candidate->state == HM_CANDIDATE_ASKED;
        HM_ASSERT(i == 0 || hm_distance_compare(&lookup->target, &lookup->candidate[i - 1].id,
                                                &candidate->id) < 0);
    }
    HM_ASSERT(asked == lookup->inflight && asked <= lookup->alpha);
    HM_ASSERT(!hm_lookup_done(lookup) || asked == 0);
}
