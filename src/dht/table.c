/* dht/table.c - k-buckets.
 *
 * Owns:     a reference to each contact and spare; one allocation a bucket, 256 at most.
 * Failure:  without memory for a new bucket the last one does not split, and the newcomer waits
 *           as a spare. */
#include "dht/table.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

static bool same_id(const struct hm_dht_id *a, const struct hm_dht_id *b)
{
    return memcmp(a->byte, b->byte, sizeof a->byte) == 0;
}

static unsigned shared_bits(const struct hm_dht_id *a, const struct hm_dht_id *b)
{
    for (unsigned i = 0; i < sizeof a->byte; i++) {
        unsigned difference = a->byte[i] ^ b->byte[i];
        if (difference) return 8 * i + (unsigned)__builtin_clz(difference) - 24;
    }
    return 8 * sizeof a->byte;
}

static struct hm_bucket *bucket_of(const struct hm_table *table, const struct hm_dht_id *id)
{
    unsigned shared = shared_bits(&table->self, id);
    unsigned last = table->bucket_count - 1;
    return table->bucket[shared < last ? shared : last];
}

static struct hm_bucket *bucket_create(hm_ns now)
{
    struct hm_bucket *bucket = calloc(1, sizeof *bucket);
    if (bucket) bucket->looked_up = now;
    return bucket;
}

enum hm_status hm_table_init(struct hm_table *table, const struct hm_dht_id *self, hm_ns now)
{
    *table = (struct hm_table){.self = *self};
    table->bucket[0] = bucket_create(now);
    if (!table->bucket[0]) return hm_fail(HM_ERR_NO_MEMORY, "no memory for the routing table");
    table->bucket_count = 1;
    return HM_OK;
}

void hm_table_fini(struct hm_table *table)
{
    for (unsigned i = 0; i < table->bucket_count; i++) {
        struct hm_bucket *bucket = table->bucket[i];
        for (unsigned j = 0; j < bucket->count; j++) hm_contact_put(bucket->entry[j].contact);
        for (unsigned j = 0; j < bucket->spare_count; j++) hm_contact_put(bucket->spare[j]);
        free(bucket);
    }
    *table = (struct hm_table){0};
}

static struct hm_table_entry *entry_of(struct hm_bucket *bucket, const struct hm_dht_id *id)
{
    for (unsigned i = 0; i < bucket->count; i++)
        if (same_id(&bucket->entry[i].contact->id, id)) return &bucket->entry[i];
    return NULL;
}

struct hm_table_entry *hm_table_find(const struct hm_table *table, const struct hm_dht_id *id)
{
    return entry_of(bucket_of(table, id), id);
}

/* ---- spares ---------------------------------------------------------------------------------- */

static void spare_remove(struct hm_bucket *bucket, unsigned at)
{
    hm_contact_put(bucket->spare[at]);
    bucket->spare_count--;
    memmove(&bucket->spare[at], &bucket->spare[at + 1],
            (bucket->spare_count - at) * sizeof bucket->spare[0]);
}

static void spare_forget(struct hm_bucket *bucket, const struct hm_dht_id *id)
{
    for (unsigned i = 0; i < bucket->spare_count; i++) {
        if (!same_id(&bucket->spare[i]->id, id)) continue;
        spare_remove(bucket, i);
        return;
    }
}

static void spare_add(struct hm_bucket *bucket, struct hm_contact *contact)
{
    hm_contact_get(contact); /* first: it may be the very object that is forgotten */
    spare_forget(bucket, &contact->id);
    if (bucket->spare_count == HM_TABLE_SPARES) spare_remove(bucket, HM_TABLE_SPARES - 1);
    memmove(&bucket->spare[1], &bucket->spare[0], bucket->spare_count * sizeof bucket->spare[0]);
    bucket->spare[0] = contact;
    bucket->spare_count++;
}

/* ---- entries --------------------------------------------------------------------------------- */

/* Takes over the caller's reference. */
static void entry_append(struct hm_table *table, struct hm_bucket *bucket,
                         struct hm_contact *contact, hm_ns now)
{
    HM_ASSERT(bucket->count < HM_DHT_K);
    bucket->entry[bucket->count++] = (struct hm_table_entry){.contact = contact, .seen = now};
    table->contact_count++;
}

static void entry_remove(struct hm_table *table, struct hm_bucket *bucket,
                         struct hm_table_entry *entry)
{
    unsigned at = (unsigned)(entry - bucket->entry);
    if (entry->failures > 0) table->suspect_count--;
    table->contact_count--;
    hm_contact_put(entry->contact);
    bucket->count--;
    memmove(entry, entry + 1, (bucket->count - at) * sizeof *entry);
}

static enum hm_table_seen entry_seen(struct hm_table *table, struct hm_bucket *bucket,
                                     struct hm_table_entry *entry, struct hm_contact *contact,
                                     hm_ns now)
{
    struct hm_table_entry moved = *entry;
    bool was_suspect = moved.failures > 0;
    if (was_suspect) table->suspect_count--;
    if (moved.contact != contact) {
        hm_contact_put(moved.contact);
        moved.contact = hm_contact_get(contact); /* its latest addresses */
    }
    moved.seen = now;
    moved.failures = 0;
    unsigned at = (unsigned)(entry - bucket->entry);
    memmove(entry, entry + 1, (bucket->count - at - 1u) * sizeof *entry);
    bucket->entry[bucket->count - 1] = moved;
    return was_suspect ? HM_TABLE_RETURNED : HM_TABLE_SEEN;
}

bool hm_table_touch(struct hm_table *table, const struct hm_dht_id *id, hm_ns now)
{
    struct hm_bucket *bucket = bucket_of(table, id);
    struct hm_table_entry *entry = entry_of(bucket, id);
    if (!entry || entry->failures > 0) return false;
    (void)entry_seen(table, bucket, entry, entry->contact, now);
    return true;
}

/* Splits the last bucket: what shares no more bits than its number stays, the rest moves on. */
static bool split(struct hm_table *table, hm_ns now)
{
    if (table->bucket_count == HM_TABLE_BUCKETS_MAX) return false;
    struct hm_bucket *next = bucket_create(now);
    if (!next) return false;
    unsigned depth = table->bucket_count - 1;
    struct hm_bucket *last = table->bucket[depth];
    next->looked_up = last->looked_up;
    unsigned stay = 0;
    for (unsigned i = 0; i < last->count; i++) {
        bool stays = shared_bits(&table->self, &last->entry[i].contact->id) == depth;
        struct hm_bucket *to = stays ? last : next;
        to->entry[stays ? stay++ : next->count++] = last->entry[i];
    }
    last->count = (uint8_t)stay;
    stay = 0;
    for (unsigned i = 0; i < last->spare_count; i++) {
        bool stays = shared_bits(&table->self, &last->spare[i]->id) == depth;
        struct hm_bucket *to = stays ? last : next;
        to->spare[stays ? stay++ : next->spare_count++] = last->spare[i];
    }
    last->spare_count = (uint8_t)stay;
    table->bucket[table->bucket_count++] = next;
    return true;
}

/* A suspect makes way at once: it had its chance. */
static bool replace_suspect(struct hm_table *table, struct hm_bucket *bucket,
                            struct hm_contact *contact, hm_ns now)
{
    for (unsigned i = 0; i < bucket->count; i++) {
        if (bucket->entry[i].failures == 0) continue;
        entry_remove(table, bucket, &bucket->entry[i]);
        entry_append(table, bucket, hm_contact_get(contact), now);
        return true;
    }
    return false;
}

enum hm_table_seen hm_table_seen(struct hm_table *table, struct hm_contact *contact, hm_ns now,
                                 hm_ns ping_interval, const struct hm_contact **oldest)
{
    *oldest = NULL;
    if (same_id(&contact->id, &table->self)) return HM_TABLE_SELF;
    struct hm_bucket *bucket = bucket_of(table, &contact->id);
    struct hm_table_entry *entry = entry_of(bucket, &contact->id);
    if (entry) return entry_seen(table, bucket, entry, contact, now);
    while (bucket->count == HM_DHT_K && bucket == table->bucket[table->bucket_count - 1]) {
        if (!split(table, now)) break;
        bucket = bucket_of(table, &contact->id);
    }
    if (bucket->count < HM_DHT_K) {
        entry_append(table, bucket, hm_contact_get(contact), now);
        spare_forget(bucket, &contact->id);
        return HM_TABLE_ADDED;
    }
    if (replace_suspect(table, bucket, contact, now)) {
        spare_forget(bucket, &contact->id);
        return HM_TABLE_ADDED;
    }
    /* Section 2.2: the least recently seen is pinged, and stays if it answers: who has been up
     * for long will be up. */
    spare_add(bucket, contact);
    struct hm_table_entry *first = &bucket->entry[0];
    if (first->tried == 0 || now - first->tried >= ping_interval) {
        first->tried = now;
        *oldest = first->contact;
    }
    return HM_TABLE_FULL;
}

void hm_table_failed(struct hm_table *table, const struct hm_dht_id *id, hm_ns now)
{
    struct hm_bucket *bucket = bucket_of(table, id);
    struct hm_table_entry *entry = entry_of(bucket, id);
    if (!entry) {
        spare_forget(bucket, id);
        return;
    }
    if (bucket->spare_count > 0) {
        entry_remove(table, bucket, entry);
        entry_append(table, bucket, hm_contact_get(bucket->spare[0]), now);
        spare_remove(bucket, 0);
        return;
    }
    entry->tried = now;
    if (entry->failures > 0 && now - entry->failed < HM_TABLE_FAILURE_INTERVAL) return;
    if (entry->failures == 0) table->suspect_count++;
    entry->failures++;
    entry->failed = now;
    if (entry->failures >= HM_TABLE_FAILURES_MAX) entry_remove(table, bucket, entry);
}

struct hm_table_entry *hm_table_each(const struct hm_table *table, unsigned *at)
{
    for (unsigned i = *at / HM_DHT_K; i < table->bucket_count; i++) {
        struct hm_bucket *bucket = table->bucket[i];
        unsigned j = i == *at / HM_DHT_K ? *at % HM_DHT_K : 0;
        if (j >= bucket->count) continue;
        *at = j + 1 < HM_DHT_K ? i * HM_DHT_K + j + 1 : (i + 1) * HM_DHT_K;
        return &bucket->entry[j];
    }
    *at = table->bucket_count * HM_DHT_K;
    return NULL;
}

unsigned hm_table_nearest(const struct hm_table *table, const struct hm_dht_id *target,
                          bool with_suspects, struct hm_contact **nearest, unsigned max)
{
    unsigned count = 0, at = 0;
    if (max == 0) return 0;
    for (const struct hm_table_entry *entry; (entry = hm_table_each(table, &at));) {
        if (entry->failures > 0 && !with_suspects) continue;
        unsigned slot = count;
        while (slot > 0 &&
               hm_distance_compare(target, &entry->contact->id, &nearest[slot - 1]->id) < 0)
            slot--;
        if (slot == max) continue;
        if (count < max) count++;
        memmove(&nearest[slot + 1], &nearest[slot], (count - 1 - slot) * sizeof nearest[0]);
        nearest[slot] = entry->contact;
    }
    return count;
}

unsigned hm_table_nearer(const struct hm_table *table, const struct hm_dht_id *target,
                         const struct hm_dht_id *id, bool count_self, unsigned limit)
{
    unsigned count = 0, at = 0;
    if (count_self && hm_distance_compare(target, &table->self, id) < 0) count++;
    for (const struct hm_table_entry *entry; count < limit && (entry = hm_table_each(table, &at));)
        if (entry->failures == 0 && hm_distance_compare(target, &entry->contact->id, id) < 0)
            count++;
    return count;
}

/* ---- refresh --------------------------------------------------------------------------------- */

void hm_table_looked_up(struct hm_table *table, const struct hm_dht_id *target, hm_ns now)
{
    bucket_of(table, target)->looked_up = now;
}

/* Shares exactly `bits` leading bits with our own id (at least as many, if `bits` is the last
 * bucket's number). */
static void random_id(const struct hm_table *table, unsigned bits, uint64_t (*random)(void *arg),
                      void *arg, struct hm_dht_id *id)
{
    for (size_t at = 0; at < sizeof id->byte; at += 8) {
        uint64_t word = random(arg);
        for (size_t i = 0; i < 8; i++) id->byte[at + i] = (uint8_t)(word >> (8 * i));
    }
    bool is_last = bits == table->bucket_count - 1;
    for (unsigned bit = 0; bit < bits + (is_last ? 0 : 1); bit++) {
        uint8_t mask = (uint8_t)(0x80 >> bit % 8);
        uint8_t own = table->self.byte[bit / 8] & mask;
        if (bit == bits) own ^= mask;
        id->byte[bit / 8] = (uint8_t)((id->byte[bit / 8] & ~mask) | own);
    }
}

unsigned hm_table_refresh(struct hm_table *table, hm_ns now, hm_ns interval,
                          uint64_t (*random)(void *arg), void *arg, struct hm_dht_id *targets,
                          unsigned max)
{
    unsigned count = 0;
    for (unsigned i = 0; i < table->bucket_count && count < max; i++) {
        if (now - table->bucket[i]->looked_up < interval) continue;
        table->bucket[i]->looked_up = now;
        random_id(table, i, random, arg, &targets[count++]);
    }
    return count;
}

void hm_table_check(const struct hm_table *table)
{
    HM_ASSERT(table->bucket_count > 0 && table->bucket_count <= HM_TABLE_BUCKETS_MAX);
    unsigned contacts = 0, suspects = 0;
    for (unsigned i = 0; i < table->bucket_count; i++) {
        const struct hm_bucket *bucket = table->bucket[i];
        HM_ASSERT(bucket->count <= HM_DHT_K && bucket->spare_count <= HM_TABLE_SPARES);
        for (unsigned j = 0; j < bucket->count; j++) {
            const struct hm_table_entry *entry = &bucket->entry[j];
            HM_ASSERT(!same_id(&entry->contact->id, &table->self) && entry->contact->refs > 0);
            HM_ASSERT(bucket_of(table, &entry->contact->id) == bucket);
            HM_ASSERT(entry_of((struct hm_bucket *)bucket, &entry->contact->id) == entry);
            HM_ASSERT(entry->failures < HM_TABLE_FAILURES_MAX);
            HM_ASSERT(j == 0 || bucket->entry[j - 1].seen <= entry->seen);
            suspects += entry->failures > 0;
        }
        for (unsigned j = 0; j < bucket->spare_count; j++) {
            HM_ASSERT(bucket_of(table, &bucket->spare[j]->id) == bucket);
            HM_ASSERT(!entry_of((struct hm_bucket *)bucket, &bucket->spare[j]->id));
        }
        contacts += bucket->count;
    }
    HM_ASSERT(contacts == table->contact_count && suspects == table->suspect_count);
}
