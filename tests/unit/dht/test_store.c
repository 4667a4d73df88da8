/* What a node holds: newest wins, ends, bounds, walks. */
#include "test.h"

#include "base/rng.h"
#include "dht/store.h"

#define SECOND ((int64_t)1000000000)
static const int64_t start = 1700000000 * SECOND;

struct named {
    unsigned key, owner;
    const char *subkey, *value;
    uint64_t sequence;
    int64_t expires_in_s;
};

static struct hm_record record_of(const struct named *named, int64_t wall_ns)
{
    struct hm_record record = {.sequence = named->sequence,
                               .expires_wall_ns = wall_ns + named->expires_in_s * SECOND,
                               .subkey = named->subkey,
                               .subkey_bytes = (uint16_t)strlen(named->subkey),
                               .value = named->value,
                               .value_bytes = (uint16_t)strlen(named->value),
                               .proof = "proof",
                               .proof_bytes = 5};
    record.key.byte[0] = (uint8_t)named->key;
    record.key.byte[1] = (uint8_t)(named->key >> 8);
    record.owner.byte[0] = (uint8_t)named->owner;
    return record;
}

static enum hm_status put(struct hm_store *store, struct named named, int64_t wall_ns)
{
    struct hm_record record = record_of(&named, wall_ns);
    enum hm_status status = hm_store_put(store, &record, wall_ns);
    hm_store_check(store);
    return status;
}

static const struct hm_entry *first(const struct hm_store *store, unsigned key, int64_t wall_ns)
{
    struct hm_dht_id id = {{(uint8_t)key, (uint8_t)(key >> 8)}};
    return hm_store_first(store, &id, wall_ns);
}

static void open_store(struct hm_store *store)
{
    assert_ok(hm_store_init(store, 100, 10, 100000, 5));
}

static void the_newest_version_wins_and_an_equal_one_is_stale(void **state)
{
    (void)state;
    struct hm_store store;
    open_store(&store);
    assert_ok(put(&store, (struct named){1, 1, "a", "one", 5, 60}, start));
    assert_status(put(&store, (struct named){1, 1, "a", "two", 5, 90}, start), HM_ERR_STALE);
    assert_status(put(&store, (struct named){1, 1, "a", "two", 4, 90}, start), HM_ERR_STALE);
    assert_ok(put(&store, (struct named){1, 1, "a", "three", 6, 30}, start));
    const struct hm_entry *entry = first(&store, 1, start);
    assert_int_equal(entry->record.value_bytes, 5);
    assert_memory_equal(entry->record.value, "three", 5);
    assert_memory_equal(entry->record.proof, "proof", 5);
    assert_null(hm_store_next(entry, start));
    hm_store_fini(&store);
}

static void owners_and_subkeys_do_not_disturb_one_another(void **state)
{
    (void)state;
    struct hm_store store;
    open_store(&store);
    assert_ok(put(&store, (struct named){1, 1, "a", "x", 9, 60}, start));
    assert_ok(put(&store, (struct named){1, 2, "a", "y", 1, 60}, start));
    assert_ok(put(&store, (struct named){1, 1, "", "z", 1, 60}, start));
    assert_ok(put(&store, (struct named){2, 1, "a", "w", 1, 60}, start));
    assert_int_equal(store.live_count, 4);
    const struct hm_entry *entry = first(&store, 1, start);
    assert_memory_equal(entry->record.value, "x", 1);
    entry = hm_store_next(entry, start);
    assert_memory_equal(entry->record.value, "y", 1);
    entry = hm_store_next(entry, start);
    assert_memory_equal(entry->record.value, "z", 1);
    assert_null(hm_store_next(entry, start));
    hm_store_fini(&store);
}

static void entries_end_at_their_time_and_leave_nothing(void **state)
{
    (void)state;
    struct hm_store store;
    open_store(&store);
    for (unsigned i = 0; i < 10; i++)
        assert_ok(put(&store, (struct named){i % 3, i, "a", "x", 1, 10 + (i * 7) % 10}, start));
    for (int64_t second = 9; second <= 20; second++) {
        int64_t wall_ns = start + second * SECOND;
        unsigned live = 0;
        for (unsigned key = 0; key < 3; key++)
            for (const struct hm_entry *entry = first(&store, key, wall_ns); entry;
                 entry = hm_store_next(entry, wall_ns)) {
                assert_true(entry->record.expires_wall_ns > wall_ns);
                live++;
            }
        hm_store_expire(&store, wall_ns);
        hm_store_check(&store);
        assert_int_equal(store.live_count, live);
        assert_int_equal(live, second < 10 ? 10 : 19 - second > 0 ? 19 - second : 0);
    }
    assert_int_equal(store.bytes, 0);
    assert_int_equal(store.entry_count, 0);
    hm_store_fini(&store);
}

static void a_withdrawn_record_cannot_be_replayed(void **state)
{
    (void)state;
    struct hm_store store;
    open_store(&store);
    assert_ok(put(&store, (struct named){1, 1, "a", "alive", 5, 100}, start));
    assert_ok(put(&store, (struct named){1, 1, "a", "", 6, 2}, start)); /* withdraws it */
    int64_t later = start + 10 * SECOND;
    hm_store_expire(&store, later);
    hm_store_check(&store);
    assert_null(first(&store, 1, later));
    assert_int_equal(store.live_count, 0);
    /* The first version is still within its life, and signed. */
    struct hm_record old = record_of(&(struct named){1, 1, "a", "alive", 5, 100}, start);
    assert_status(hm_store_put(&store, &old, later), HM_ERR_STALE);
    assert_ok(put(&store, (struct named){1, 1, "a", "again", 7, 5}, later));
    assert_memory_equal(first(&store, 1, later)->record.value, "again", 5);
    hm_store_expire(&store, start + 99 * SECOND);
    hm_store_check(&store);
    assert_int_equal(store.entry_count, 1); /* still remembered */
    hm_store_expire(&store, start + 100 * SECOND);
    assert_int_equal(store.entry_count, 0);
    hm_store_fini(&store);
}

static void lives_are_bounded(void **state)
{
    (void)state;
    struct hm_store store;
    open_store(&store);
    int64_t day_s = HM_RECORD_LIFE_MAX_NS / SECOND, skew_s = HM_RECORD_SKEW_MAX_NS / SECOND;
    assert_status(put(&store, (struct named){1, 1, "a", "x", 1, 0}, start), HM_ERR_TIMED_OUT);
    assert_status(put(&store, (struct named){1, 1, "a", "x", 1, -5}, start), HM_ERR_TIMED_OUT);
    assert_status(put(&store, (struct named){1, 1, "a", "x", 1, day_s + skew_s + 1}, start),
                  HM_ERR_INVALID);
    assert_ok(put(&store, (struct named){1, 1, "a", "x", 1, day_s + skew_s}, start));
    struct hm_record never = record_of(&(struct named){1, 2, "a", "x", 1, 1}, start);
    never.expires_wall_ns = INT64_MAX;
    assert_status(hm_store_put(&store, &never, start), HM_ERR_INVALID);
    never.expires_wall_ns = INT64_MIN;
    assert_status(hm_store_put(&store, &never, start), HM_ERR_TIMED_OUT);
    hm_store_fini(&store);
}

static void dictionaries_records_and_bytes_are_bounded(void **state)
{
    (void)state;
    struct hm_store store;
    open_store(&store);
    for (unsigned i = 0; i < 10; i++)
        assert_ok(put(&store, (struct named){1, i, "a", "x", 1, 60}, start));
    assert_status(put(&store, (struct named){1, 10, "a", "x", 1, 60}, start), HM_ERR_TOO_BIG);
    assert_ok(put(&store, (struct named){1, 3, "a", "y", 2, 60}, start)); /* one it has */
    for (unsigned i = 0; i < 90; i++)
        assert_ok(put(&store, (struct named){2 + i, 1, "a", "x", 1, 60}, start));
    assert_status(put(&store, (struct named){200, 1, "a", "x", 1, 60}, start), HM_ERR_BUSY);
    assert_ok(put(&store, (struct named){1, 4, "a", "y", 2, 60}, start));
    assert_ok(put(&store, (struct named){200, 1, "a", "x", 1, 60}, start + 61 * SECOND));
    hm_store_fini(&store);

    assert_ok(hm_store_init(&store, 100, 100, 5000, 5));
    static char large[1500];
    memset(large, 'v', sizeof large - 1);
    assert_ok(put(&store, (struct named){1, 1, "a", large, 1, 60}, start));
    assert_ok(put(&store, (struct named){1, 2, "a", large, 1, 60}, start));
    assert_status(put(&store, (struct named){1, 3, "a", large, 1, 60}, start), HM_ERR_BUSY);
    assert_ok(put(&store, (struct named){1, 3, "a", "small", 1, 60}, start));
    assert_status(put(&store, (struct named){1, 3, "a", large, 2, 60}, start), HM_ERR_BUSY);
    assert_memory_equal(first(&store, 1, start)->record.value, large, 10);
    hm_store_fini(&store);
}

static void a_cursor_sees_every_dictionary_while_others_come_and_go(void **state)
{
    (void)state;
    struct hm_store store;
    assert_ok(hm_store_init(&store, 300, 10, 1000000, 5));
    for (unsigned i = 0; i < 100; i++)
        assert_ok(put(&store, (struct named){i, 1, "a", "x", 1, i % 2 ? 20 : 60}, start));
    struct hm_store_cursor cursor, other;
    hm_store_cursor_start(&store, &cursor);
    hm_store_cursor_start(&store, &other);
    bool seen[200] = {false};
    unsigned steps = 0;
    for (struct hm_dict *dict; (dict = hm_store_cursor_next(&cursor)); steps++) {
        assert_false(seen[dict->key.byte[0]]);
        seen[dict->key.byte[0]] = true;
        if (steps == 30) {
            hm_store_expire(&store, start + 30 * SECOND); /* the odd ones are gone */
            assert_ok(put(&store, (struct named){150, 1, "a", "x", 1, 60}, start + 30 * SECOND));
        }
        hm_store_check(&store);
    }
    for (unsigned i = 0; i < 100; i += 2) assert_true(seen[i]);
    assert_false(seen[99]);
    assert_true(seen[150]);
    hm_store_cursor_stop(&cursor);
    hm_store_cursor_stop(&cursor);
    assert_non_null(hm_store_cursor_next(&other));
    hm_store_cursor_stop(&other);
    hm_store_fini(&store);
}

/* Against a plain array that does the same by looking at everything. */
static void random_puts_agree_with_a_model(void **state)
{
    (void)state;
    enum { KEYS = 6, OWNERS = 4, SUBKEYS = 3 };
    struct model {
        uint64_t sequence;
        int64_t expires, forget;
    } model[KEYS][OWNERS][SUBKEYS] = {0};
    static const char *const subkeys[SUBKEYS] = {"", "b", "cc"};
    struct hm_store store;
    struct hm_rng rng;
    hm_rng_init(&rng, 3, 3);
    assert_ok(hm_store_init(&store, 1000, 1000, 1000000, 5));
    int64_t now = start;
    for (unsigned i = 0; i < 20000; i++) {
        unsigned key = (unsigned)hm_rng_below(&rng, KEYS);
        unsigned owner = (unsigned)hm_rng_below(&rng, OWNERS);
        unsigned subkey = (unsigned)hm_rng_below(&rng, SUBKEYS);
        struct named named = {key,
                              owner,
                              subkeys[subkey],
                              "v",
                              1 + hm_rng_below(&rng, 1000),
                              1 + (int64_t)hm_rng_below(&rng, 30)};
        struct model *wanted = &model[key][owner][subkey];
        bool known = wanted->forget > now;
        enum hm_status status = known && named.sequence <= wanted->sequence ? HM_ERR_STALE : HM_OK;
        struct hm_record record = record_of(&named, now);
        assert_status(hm_store_put(&store, &record, now), status);
        if (status == HM_OK) {
            int64_t forget = known ? wanted->forget : 0;
            int64_t expires = record.expires_wall_ns;
            *wanted = (struct model){named.sequence, expires, expires > forget ? expires : forget};
        }
        if (i % 50 == 0) {
            now += (int64_t)hm_rng_below(&rng, 5 * SECOND);
            hm_store_expire(&store, now);
            hm_store_check(&store);
            unsigned live = 0;
            for (unsigned m = 0; m < KEYS * OWNERS * SUBKEYS; m++)
                live += (&model[0][0][0])[m].expires > now;
            assert_int_equal(store.live_count, live);
        }
    }
    hm_store_fini(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_version_wins_and_an_equal_one_is_stale),
        cmocka_unit_test(owners_and_subkeys_do_not_disturb_one_another),
        cmocka_unit_test(entries_end_at_their_time_and_leave_nothing),
        cmocka_unit_test(a_withdrawn_record_cannot_be_replayed),
        cmocka_unit_test(lives_are_bounded),
        cmocka_unit_test(dictionaries_records_and_bytes_are_bounded),
        cmocka_unit_test(a_cursor_sees_every_dictionary_while_others_come_and_go),
        cmocka_unit_test(random_puts_agree_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
