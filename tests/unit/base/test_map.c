/* tests/unit/base/test_map.c - the map against a plain array of what should be in it. */
#include "test.h"

#include "base/assert.h"
#include "base/map.h"
#include "base/rng.h"
#include "death.h"

#include <signal.h>

struct entry {
    struct hm_map_node node;
    uint32_t key;
    bool present;
};

static struct entry *entry_of(struct hm_map_node *node)
{
    return HM_CONTAINER_OF(node, struct entry, node);
}

static bool key_equal(const struct hm_map_node *node, const void *key)
{
    return HM_CONTAINER_OF(node, const struct entry, node)->key == *(const uint32_t *)key;
}

/* Few hashes, so that chains hold different keys of one hash. */
static uint64_t poor_hash(uint32_t key)
{
    return key % 5;
}

static void the_map_agrees_with_a_model(void **state)
{
    (void)state;
    enum { KEYS = 64, STEPS = 20000 };
    static struct entry entries[KEYS];
    struct hm_map map;
    struct hm_rng rng;
    uint32_t count = 0;
    hm_rng_init(&rng, 1, 0);
    assert_ok(hm_map_init(&map, KEYS));
    for (uint32_t i = 0; i < KEYS; i++) entries[i].key = i;
    for (int step = 0; step < STEPS; step++) {
        uint32_t key = (uint32_t)hm_rng_below(&rng, KEYS);
        struct hm_map_node *found = hm_map_find(&map, poor_hash(key), key_equal, &key);
        assert_ptr_equal(found, entries[key].present ? &entries[key].node : NULL);
        if (found) {
            hm_map_remove(&map, found);
            count--;
        } else {
            hm_map_insert(&map, &entries[key].node, poor_hash(key));
            count++;
        }
        entries[key].present = !found;
        assert_int_equal(map.count, count);
    }
    hm_map_fini(&map);
}

static void the_walk_visits_every_node_once_and_may_remove_behind_itself(void **state)
{
    (void)state;
    enum { KEYS = 1000 };
    static struct entry entries[KEYS];
    static unsigned visits[KEYS];
    struct hm_map map;
    assert_ok(hm_map_init(&map, 100)); /* more entries than it was sized for still work */
    assert_null(hm_map_next(&map, NULL));
    for (uint32_t i = 0; i < KEYS; i++) {
        entries[i].key = i;
        hm_map_insert(&map, &entries[i].node, hm_hash(&i, sizeof i, 0));
    }
    struct hm_map_node *node = hm_map_next(&map, NULL);
    while (node) {
        struct hm_map_node *next = hm_map_next(&map, node);
        visits[entry_of(node)->key]++;
        hm_map_remove(&map, node);
        node = next;
    }
    for (int i = 0; i < KEYS; i++) assert_int_equal(visits[i], 1);
    assert_int_equal(map.count, 0);
    hm_map_fini(&map);
}

static void buckets_are_a_power_of_two_for_the_bound(void **state)
{
    (void)state;
    static const struct {
        uint32_t entries_max, mask;
    } cases[] = {{0, 7}, {1, 7}, {8, 7}, {9, 15}, {1000, 1023}, {1024, 1023}, {1025, 2047}};
    for (size_t i = 0; i < HM_COUNT_OF(cases); i++) {
        struct hm_map map;
        assert_ok(hm_map_init(&map, cases[i].entries_max));
        assert_int_equal(map.mask, cases[i].mask);
        hm_map_fini(&map);
    }
}

static void hashes_that_count_up_spread_over_the_buckets(void **state)
{
    (void)state;
    enum { KEYS = 1024 };
    static struct entry entries[KEYS];
    struct hm_map map;
    assert_ok(hm_map_init(&map, KEYS));
    for (uint32_t i = 0; i < KEYS; i++) hm_map_insert(&map, &entries[i].node, (uint64_t)i << 20);
    unsigned longest = 0;
    for (uint32_t i = 0; i <= map.mask; i++) {
        unsigned length = 0;
        for (struct hm_map_node *node = map.bucket[i]; node; node = node->next) length++;
        if (length > longest) longest = length;
    }
    assert_in_range(longest, 1, 8);
    hm_map_fini(&map);
}

static void removing_what_is_not_there_aborts(void **state)
{
    (void)state;
    struct hm_map map;
    struct entry stranger = {.key = 1};
    assert_ok(hm_map_init(&map, 8));
    assert_aborts(hm_map_remove(&map, &stranger.node));
    hm_map_fini(&map);
}

static void the_hash_is_xxh3_and_depends_on_bytes_and_seed(void **state)
{
    (void)state;
    /* XXH3's 64-bit value of no bytes with seed 0. */
    assert_true(hm_hash("", 0, 0) == UINT64_C(0x2d06800538d394c2));
    assert_true(hm_hash("abc", 3, 1) == hm_hash("abc", 3, 1));
    assert_true(hm_hash("abc", 3, 1) != hm_hash("abc", 3, 2));
    assert_true(hm_hash("abc", 3, 1) != hm_hash("abd", 3, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_map_agrees_with_a_model),
        cmocka_unit_test(the_walk_visits_every_node_once_and_may_remove_behind_itself),
        cmocka_unit_test(buckets_are_a_power_of_two_for_the_bound),
        cmocka_unit_test(hashes_that_count_up_spread_over_the_buckets),
        cmocka_unit_test(removing_what_is_not_there_aborts),
        cmocka_unit_test(the_hash_is_xxh3_and_depends_on_bytes_and_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
