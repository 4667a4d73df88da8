/* The routing table: splitting, order, spares, suspects, refresh. */
#include "test.h"

#include "base/rng.h"
#include "dht/table.h"

static struct hm_rng rng;
static const struct hm_dht_id self = {{0}};

static uint64_t draw(void *arg)
{
    (void)arg;
    return hm_rng_next(&rng);
}

/* An id that shares exactly `bits` leading bits with ours (all zero). */
static struct hm_dht_id id_sharing(unsigned bits)
{
    struct hm_dht_id id;
    for (size_t i = 0; i < sizeof id.byte; i++) id.byte[i] = (uint8_t)hm_rng_next(&rng);
    for (unsigned bit = 0; bit <= bits; bit++) {
        uint8_t mask = (uint8_t)(0x80 >> bit % 8);
        id.byte[bit / 8] = (uint8_t)(id.byte[bit / 8] & ~mask);
        if (bit == bits) id.byte[bit / 8] |= mask;
    }
    return id;
}

static struct hm_contact *contact_at(struct hm_dht_id id, const char *addr)
{
    struct hm_addrs addrs = {.count = 1};
    strcpy(addrs.addr[0].text, addr);
    struct hm_contact *contact;
    assert_ok(hm_contact_create(&id, &addrs, &contact));
    return contact;
}

/* Meets a node of which only the table keeps a reference. */
static enum hm_table_seen meet(struct hm_table *table, struct hm_dht_id id, hm_ns now,
                               const struct hm_contact **oldest)
{
    const struct hm_contact *nobody;
    struct hm_contact *contact = contact_at(id, "sim:1");
    enum hm_table_seen seen =
        hm_table_seen(table, contact, now, 10 * HM_S, oldest ? oldest : &nobody);
    hm_contact_put(contact);
    hm_table_check(table);
    return seen;
}

static void only_the_bucket_of_our_own_id_splits(void **state)
{
    (void)state;
    struct hm_table table;
    hm_rng_init(&rng, 1, 1);
    assert_ok(hm_table_init(&table, &self, 1));
    for (unsigned i = 0; i < 1000; i++) (void)meet(&table, id_sharing(0), i + 1, NULL);
    assert_int_equal(table.bucket_count, 2); /* split off once; the far half never splits again */
    assert_int_equal(table.contact_count, HM_DHT_K);
    assert_int_equal(table.bucket[0]->count, HM_DHT_K);
    for (unsigned bits = 1; bits < 6; bits++)
        for (unsigned i = 0; i < 50; i++)
            (void)meet(&table, id_sharing(bits), 2000 + bits * 100 + i, NULL);
    assert_int_equal(table.bucket_count, 7);
    for (unsigned i = 0; i < 6; i++) assert_int_equal(table.bucket[i]->count, HM_DHT_K);
    hm_table_fini(&table);
}

static void our_own_id_never_enters(void **state)
{
    (void)state;
    struct hm_table table;
    assert_ok(hm_table_init(&table, &self, 1));
    assert_int_equal(meet(&table, self, 1, NULL), HM_TABLE_SELF);
    assert_int_equal(table.contact_count, 0);
    hm_table_fini(&table);
}

static void a_full_bucket_names_its_least_recently_seen_once(void **state)
{
    (void)state;
    struct hm_table table;
    struct hm_dht_id id[HM_DHT_K];
    const struct hm_contact *oldest;
    hm_rng_init(&rng, 2, 1);
    assert_ok(hm_table_init(&table, &self, 1));
    for (unsigned i = 0; i < HM_DHT_K; i++) {
        id[i] = id_sharing(0);
        assert_int_equal(meet(&table, id[i], 10 + i, NULL), HM_TABLE_ADDED);
    }
    assert_int_equal(meet(&table, id[0], 40, NULL), HM_TABLE_SEEN); /* now id[1] is the oldest */
    assert_int_equal(meet(&table, id_sharing(0), 50, &oldest), HM_TABLE_FULL);
    assert_memory_equal(oldest->id.byte, id[1].byte, sizeof id[1].byte);
    /* It is being pinged: nobody else is to ping it too. */
    assert_int_equal(meet(&table, id_sharing(0), 60, &oldest), HM_TABLE_FULL);
    assert_null(oldest);
    assert_int_equal(meet(&table, id_sharing(0), 60 + 10 * HM_S, &oldest), HM_TABLE_FULL);
    assert_non_null(oldest);
    hm_table_fini(&table);
}

static void who_fails_is_replaced_by_the_latest_spare(void **state)
{
    (void)state;
    struct hm_table table;
    struct hm_dht_id id[HM_DHT_K], spare[HM_TABLE_SPARES + 3];
    hm_rng_init(&rng, 3, 1);
    assert_ok(hm_table_init(&table, &self, 1));
    for (unsigned i = 0; i < HM_DHT_K; i++) {
        id[i] = id_sharing(0);
        (void)meet(&table, id[i], 10 + i, NULL);
    }
    for (unsigned i = 0; i < HM_TABLE_SPARES + 3; i++) {
        spare[i] = id_sharing(0);
        (void)meet(&table, spare[i], 100 + i, NULL);
    }
    assert_int_equal(table.bucket[0]->spare_count, HM_TABLE_SPARES);
    (void)meet(&table, spare[5], 200, NULL); /* again: to the front, not twice */
    assert_int_equal(table.bucket[0]->spare_count, HM_TABLE_SPARES);
    hm_table_failed(&table, &id[4], 300);
    hm_table_check(&table);
    assert_null(hm_table_find(&table, &id[4]));
    assert_non_null(hm_table_find(&table, &spare[5]));
    hm_table_failed(&table, &spare[HM_TABLE_SPARES + 2],
                    301); /* a spare that failed is forgotten */
    hm_table_failed(&table, &id[6], 302);
    assert_null(hm_table_find(&table, &spare[HM_TABLE_SPARES + 2]));
    assert_non_null(hm_table_find(&table, &spare[HM_TABLE_SPARES + 1]));
    hm_table_check(&table);
    hm_table_fini(&table);
}

static void a_suspect_is_kept_returns_and_is_forgotten_in_the_end(void **state)
{
    (void)state;
    struct hm_table table;
    hm_rng_init(&rng, 4, 1);
    assert_ok(hm_table_init(&table, &self, 1));
    struct hm_dht_id a = id_sharing(0), b = id_sharing(3);
    (void)meet(&table, a, 1, NULL);
    (void)meet(&table, b, 2, NULL);
    hm_table_failed(&table, &a, 3);
    struct hm_contact *nearest[4];
    assert_int_equal(hm_table_nearest(&table, &a, false, nearest, 4), 1);
    assert_int_equal(hm_table_nearest(&table, &a, true, nearest, 4), 2);
    assert_false(hm_table_touch(&table, &a, 4));
    assert_int_equal(meet(&table, a, 5, NULL), HM_TABLE_RETURNED);
    assert_true(hm_table_touch(&table, &a, 6));
    for (unsigned i = 0; i < HM_TABLE_FAILURES_MAX; i++) {
        assert_non_null(hm_table_find(&table, &a));
        hm_table_failed(&table, &a, 10 + i * HM_TABLE_FAILURE_INTERVAL);
        for (unsigned j = 0; j < 20 && i + 1 < HM_TABLE_FAILURES_MAX; j++) /* count as the same */
            hm_table_failed(&table, &a, 11 + j + i * HM_TABLE_FAILURE_INTERVAL);
        hm_table_check(&table);
    }
    assert_null(hm_table_find(&table, &a));
    assert_int_equal(table.contact_count, 1);
    hm_table_fini(&table);
}

static void a_newcomer_takes_the_place_of_a_suspect(void **state)
{
    (void)state;
    struct hm_table table;
    struct hm_dht_id id[HM_DHT_K];
    hm_rng_init(&rng, 5, 1);
    assert_ok(hm_table_init(&table, &self, 1));
    for (unsigned i = 0; i < HM_DHT_K; i++) {
        id[i] = id_sharing(0);
        (void)meet(&table, id[i], 10 + i, NULL);
    }
    hm_table_failed(&table, &id[7], 40);
    struct hm_dht_id newcomer = id_sharing(0);
    assert_int_equal(meet(&table, newcomer, 50, NULL), HM_TABLE_ADDED);
    assert_null(hm_table_find(&table, &id[7]));
    assert_int_equal(table.suspect_count, 0);
    hm_table_fini(&table);
}

static void nearest_agrees_with_sorting_everything(void **state)
{
    (void)state;
    struct hm_table table;
    hm_rng_init(&rng, 6, 1);
    assert_ok(hm_table_init(&table, &self, 1));
    for (unsigned i = 0; i < 3000; i++)
        (void)meet(&table, id_sharing((unsigned)hm_rng_below(&rng, 9)), i + 1, NULL);
    for (unsigned round = 0; round < 50; round++) {
        struct hm_dht_id target = id_sharing((unsigned)hm_rng_below(&rng, 9));
        struct hm_contact *nearest[HM_DHT_K];
        unsigned count = hm_table_nearest(&table, &target, false, nearest, HM_DHT_K);
        assert_int_equal(count, HM_DHT_K);
        for (unsigned i = 1; i < count; i++)
            assert_true(hm_distance_compare(&target, &nearest[i - 1]->id, &nearest[i]->id) < 0);
        unsigned at = 0, nearer = 0, seen = 0;
        for (const struct hm_table_entry *entry; (entry = hm_table_each(&table, &at)); seen++)
            nearer += hm_distance_compare(&target, &entry->contact->id, &nearest[9]->id) < 0;
        assert_int_equal(nearer, 9);
        assert_int_equal(seen, table.contact_count);
        assert_int_equal(hm_table_nearer(&table, &target, &nearest[9]->id, false, 99), 9);
        assert_int_equal(hm_table_nearer(&table, &target, &nearest[9]->id, false, 5), 5);
    }
    hm_table_fini(&table);
}

static void new_addresses_replace_the_old_ones(void **state)
{
    (void)state;
    struct hm_table table;
    const struct hm_contact *oldest;
    hm_rng_init(&rng, 7, 1);
    assert_ok(hm_table_init(&table, &self, 1));
    struct hm_dht_id id = id_sharing(2);
    (void)meet(&table, id, 1, NULL);
    struct hm_contact *moved = contact_at(id, "sim:99");
    assert_int_equal(hm_table_seen(&table, moved, 2, HM_S, &oldest), HM_TABLE_SEEN);
    struct hm_addrs addrs;
    hm_contact_addrs(hm_table_find(&table, &id)->contact, &addrs);
    assert_string_equal(addrs.addr[0].text, "sim:99");
    assert_int_equal(moved->refs, 2);
    hm_contact_put(moved);
    hm_table_fini(&table);
}

static void a_bucket_that_rested_for_an_hour_is_refreshed_within_its_range(void **state)
{
    (void)state;
    struct hm_table table;
    struct hm_dht_id target[8];
    const hm_ns hour = 3600 * HM_S;
    hm_rng_init(&rng, 8, 1);
    assert_ok(hm_table_init(&table, &self, 1));
    for (unsigned bits = 0; bits < 4; bits++)
        for (unsigned i = 0; i < 30; i++) (void)meet(&table, id_sharing(bits), 1 + i, NULL);
    assert_int_equal(table.bucket_count, 5);
    struct hm_dht_id looked_up = id_sharing(2);
    hm_table_looked_up(&table, &looked_up, hour);
    assert_int_equal(hm_table_refresh(&table, hour, hour, draw, NULL, target, 8), 0);
    assert_int_equal(hm_table_refresh(&table, hour + 1, hour, draw, NULL, target, 8), 4);
    static const unsigned bucket[4] = {0, 1, 3, 4};
    for (unsigned i = 0; i < 4; i++) {
        unsigned shared = 0;
        while (!(target[i].byte[shared / 8] & 0x80 >> shared % 8)) shared++;
        if (bucket[i] < 4)
            assert_int_equal(shared, bucket[i]);
        else
            assert_true(shared >= 4);
    }
    assert_int_equal(hm_table_refresh(&table, hour + 2, hour, draw, NULL, target, 8), 0);
    hm_table_fini(&table);
}

static void a_contact_without_an_address_is_none(void **state)
{
    (void)state;
    struct hm_addrs addrs = {.count = 0};
    struct hm_contact *contact;
    assert_status(hm_contact_create(&self, &addrs, &contact), HM_ERR_INVALID);
    /* Too many bytes of addresses: as many as fit, the first ones. */
    addrs.count = HM_ADDRS_MAX;
    for (unsigned i = 0; i < HM_ADDRS_MAX; i++) {
        memset(addrs.addr[i].text, 'a' + (int)i, 200);
        addrs.addr[i].text[200] = '\0';
    }
    assert_ok(hm_contact_create(&self, &addrs, &contact));
    assert_true(contact->addr_bytes <= HM_CONTACT_ADDR_BYTES_MAX);
    struct hm_addrs kept;
    hm_contact_addrs(contact, &kept);
    assert_int_equal(kept.count, 2);
    assert_string_equal(kept.addr[1].text, addrs.addr[1].text);
    hm_contact_put(contact);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_bucket_of_our_own_id_splits),
        cmocka_unit_test(our_own_id_never_enters),
        cmocka_unit_test(a_full_bucket_names_its_least_recently_seen_once),
        cmocka_unit_test(who_fails_is_replaced_by_the_latest_spare),
        cmocka_unit_test(a_suspect_is_kept_returns_and_is_forgotten_in_the_end),
        cmocka_unit_test(a_newcomer_takes_the_place_of_a_suspect),
        cmocka_unit_test(nearest_agrees_with_sorting_everything),
        cmocka_unit_test(new_addresses_replace_the_old_ones),
        cmocka_unit_test(a_bucket_that_rested_for_an_hour_is_refreshed_within_its_range),
        cmocka_unit_test(a_contact_without_an_address_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
