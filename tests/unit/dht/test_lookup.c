/* One lookup: order, bounds, ends. */
#include "test.h"

#include "base/rng.h"
#include "dht/lookup.h"

static struct hm_dht_id random_id(struct hm_rng *rng)
{
    struct hm_dht_id id;
    for (size_t i = 0; i < sizeof id.byte; i++) id.byte[i] = (uint8_t)hm_rng_next(rng);
    return id;
}

static struct hm_dht_id id_at(uint8_t first, uint8_t last)
{
    struct hm_dht_id id = {{0}};
    id.byte[0] = first;
    id.byte[31] = last;
    return id;
}

static void distance_is_the_xor_metric(void **state)
{
    (void)state;
    struct hm_dht_id target = id_at(0x0f, 0), near = id_at(0x0e, 0xff), far = id_at(0x10, 0);
    assert_true(hm_distance_compare(&target, &near, &far) < 0);
    assert_true(hm_distance_compare(&target, &far, &near) > 0);
    assert_int_equal(hm_distance_compare(&target, &far, &far), 0);
    struct hm_dht_id a = id_at(0x0f, 1), b = id_at(0x0f, 2);
    assert_true(hm_distance_compare(&target, &a, &b) < 0);
}

static void the_nearest_is_asked_first_and_alpha_at_most(void **state)
{
    (void)state;
    struct hm_lookup lookup;
    struct hm_dht_id target = id_at(0, 0);
    struct hm_candidate ask;
    hm_lookup_init(&lookup, &target, 3, 2);
    for (uint8_t i = 5; i > 0; i--) {
        struct hm_dht_id id = id_at(i, 0);
        assert_true(hm_lookup_add(&lookup, &id, i));
        assert_false(hm_lookup_add(&lookup, &id, 99)); /* known */
        hm_lookup_check(&lookup);
    }
    assert_true(hm_lookup_next(&lookup, &ask));
    assert_int_equal(ask.handle, 1);
    assert_true(hm_lookup_next(&lookup, &ask));
    assert_int_equal(ask.handle, 2);
    assert_false(hm_lookup_next(&lookup, &ask));
    assert_false(hm_lookup_done(&lookup));
    hm_lookup_check(&lookup);
}

static void a_dead_candidate_makes_room_for_the_next(void **state)
{
    (void)state;
    struct hm_lookup lookup;
    struct hm_dht_id target = id_at(0, 0), id[4];
    struct hm_candidate ask, nearest[4];
    hm_lookup_init(&lookup, &target, 2, 2);
    for (uint8_t i = 0; i < 4; i++) {
        id[i] = id_at((uint8_t)(i + 1), 0);
        (void)hm_lookup_add(&lookup, &id[i], i);
    }
    assert_true(hm_lookup_next(&lookup, &ask) && hm_lookup_next(&lookup, &ask));
    hm_lookup_answered(&lookup, &id[0]);
    hm_lookup_dead(&lookup, &id[1]);
    assert_false(hm_lookup_done(&lookup));
    assert_true(hm_lookup_next(&lookup, &ask));
    assert_int_equal(ask.handle, 2);
    hm_lookup_answered(&lookup, &id[2]);
    assert_true(hm_lookup_done(&lookup)); /* the fourth is beyond the two nearest live ones */
    assert_false(hm_lookup_next(&lookup, &ask));
    assert_int_equal(hm_lookup_nearest(&lookup, nearest, 4), 2);
    assert_int_equal(nearest[0].handle, 0);
    assert_int_equal(nearest[1].handle, 2);
    hm_lookup_check(&lookup);
}

static void late_second_and_foreign_answers_change_nothing(void **state)
{
    (void)state;
    struct hm_lookup lookup;
    struct hm_dht_id target = id_at(0, 0), a = id_at(1, 0), b = id_at(2, 0), c = id_at(3, 0);
    struct hm_candidate ask;
    hm_lookup_init(&lookup, &target, 3, 2);
    (void)hm_lookup_add(&lookup, &a, 0);
    (void)hm_lookup_add(&lookup, &b, 1);
    assert_true(hm_lookup_next(&lookup, &ask));
    hm_lookup_dead(&lookup, &a);
    hm_lookup_answered(&lookup, &a); /* late */
    hm_lookup_answered(&lookup, &b); /* nobody asked */
    hm_lookup_dead(&lookup, &c);     /* nobody knows */
    hm_lookup_check(&lookup);
    assert_int_equal(lookup.inflight, 0);
    assert_int_equal(lookup.candidate[0].state, HM_CANDIDATE_DEAD);
    assert_int_equal(lookup.candidate[1].state, HM_CANDIDATE_NEW);
}

static void ask_takes_only_who_is_among_the_nearest_and_new(void **state)
{
    (void)state;
    struct hm_lookup lookup;
    struct hm_dht_id target = id_at(0, 0), a = id_at(1, 0), b = id_at(2, 0), c = id_at(3, 0);
    hm_lookup_init(&lookup, &target, 2, 4);
    (void)hm_lookup_add(&lookup, &a, 0);
    (void)hm_lookup_add(&lookup, &b, 1);
    (void)hm_lookup_add(&lookup, &c, 2);
    assert_false(hm_lookup_ask(&lookup, &c)); /* the third */
    assert_true(hm_lookup_ask(&lookup, &b));
    assert_false(hm_lookup_ask(&lookup, &b));
    hm_lookup_dead(&lookup, &b);
    assert_true(hm_lookup_ask(&lookup, &c));
    hm_lookup_check(&lookup);
}

static void an_empty_lookup_is_done(void **state)
{
    (void)state;
    struct hm_lookup lookup;
    struct hm_dht_id target = id_at(0, 0);
    struct hm_candidate ask;
    hm_lookup_init(&lookup, &target, HM_DHT_K, HM_DHT_ALPHA);
    assert_true(hm_lookup_done(&lookup));
    assert_false(hm_lookup_next(&lookup, &ask));
    hm_lookup_check(&lookup);
}

static void a_full_list_keeps_the_nearest_and_those_being_asked(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 1, 1);
    struct hm_lookup lookup;
    struct hm_dht_id target = random_id(&rng);
    struct hm_candidate ask;
    hm_lookup_init(&lookup, &target, HM_DHT_K, HM_DHT_ALPHA);
    struct hm_dht_id far = target;
    far.byte[0] ^= 0xff;
    far.byte[1] ^= 0xff;
    (void)hm_lookup_add(&lookup, &far, 0);
    assert_true(hm_lookup_next(&lookup, &ask));
    for (unsigned i = 0; i < 1000; i++) {
        struct hm_dht_id id = random_id(&rng);
        (void)hm_lookup_add(&lookup, &id, i);
        hm_lookup_check(&lookup);
    }
    assert_int_equal(lookup.count, HM_DHT_CANDIDATES_MAX);
    assert_int_equal(lookup.inflight, 1);
    assert_memory_equal(lookup.candidate[lookup.count - 1].id.byte, far.byte, sizeof far.byte);
    struct hm_dht_id farther = target;
    for (size_t i = 0; i < sizeof farther.byte; i++) farther.byte[i] ^= 0xff;
    assert_false(hm_lookup_add(&lookup, &farther, 1));
    assert_true(hm_lookup_add(&lookup, &target, 2));
    hm_lookup_check(&lookup);
}

static void holders_count_among_the_nearest_live_ones_only(void **state)
{
    (void)state;
    struct hm_lookup lookup;
    struct hm_dht_id target = id_at(0, 0), id[6];
    struct hm_candidate ask;
    hm_lookup_init(&lookup, &target, 6, 6);
    for (uint8_t i = 0; i < 6; i++) {
        id[i] = id_at((uint8_t)(i + 1), 0);
        (void)hm_lookup_add(&lookup, &id[i], i);
        assert_true(hm_lookup_next(&lookup, &ask));
    }
    hm_lookup_mark_holder(&lookup, &id[0]);
    hm_lookup_mark_holder(&lookup, &id[3]);
    hm_lookup_mark_holder(&lookup, &target); /* nobody of that id */
    assert_int_equal(hm_lookup_holders(&lookup, 3), 1);
    assert_int_equal(hm_lookup_rank(&lookup, &id[3]), 3);
    hm_lookup_dead(&lookup, &id[1]); /* the fourth moves up */
    assert_int_equal(hm_lookup_holders(&lookup, 3), 2);
    assert_int_equal(hm_lookup_rank(&lookup, &id[3]), 2);
    hm_lookup_dead(&lookup, &id[0]);
    assert_int_equal(hm_lookup_holders(&lookup, 3), 1);
}

/* A network in which node i knows some others: who ends as the k nearest must be the k nearest. */
static void a_lookup_in_a_random_network_finds_the_nearest_and_asks_each_once(void **state)
{
    (void)state;
    enum { NODES = 300, KNOWN = 60 };
    static struct hm_dht_id node[NODES];
    static bool dead[NODES], asked[NODES];
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct hm_rng rng;
        hm_rng_init(&rng, seed, 2);
        for (unsigned i = 0; i < NODES; i++) {
            node[i] = random_id(&rng);
            dead[i] = hm_rng_below(&rng, 5) == 0;
            asked[i] = false;
        }
        struct hm_dht_id target = random_id(&rng);
        struct hm_lookup lookup;
        hm_lookup_init(&lookup, &target, HM_DHT_K, HM_DHT_ALPHA);
        for (unsigned i = 0; i < 5; i++) (void)hm_lookup_add(&lookup, &node[i], i);
        dead[0] = false;
        unsigned pending[HM_DHT_ALPHA], pending_count = 0;
        while (!hm_lookup_done(&lookup)) {
            struct hm_candidate ask;
            while (hm_lookup_next(&lookup, &ask)) {
                assert_false(asked[ask.handle]);
                asked[ask.handle] = true;
                pending[pending_count++] = ask.handle;
            }
            assert_true(pending_count > 0);
            unsigned at = (unsigned)hm_rng_below(&rng, pending_count);
            unsigned answer = pending[at];
            pending[at] = pending[--pending_count];
            if (dead[answer]) {
                hm_lookup_dead(&lookup, &node[answer]);
            } else {
                /* Everybody knows some of the others. */
                for (unsigned i = 0; i < KNOWN; i++) {
                    unsigned other = (answer * 31 + i * 5) % NODES;
                    (void)hm_lookup_add(&lookup, &node[other], other);
                }
                hm_lookup_answered(&lookup, &node[answer]);
            }
            hm_lookup_check(&lookup);
        }
        struct hm_candidate nearest[HM_DHT_K];
        unsigned count = hm_lookup_nearest(&lookup, nearest, HM_DHT_K);
        assert_int_equal(count, HM_DHT_K);
        /* Nobody who was met, lives and is nearer than the last of them is missing. */
        for (unsigned i = 0; i < lookup.count; i++) {
            const struct hm_candidate *met = &lookup.candidate[i];
            if (dead[met->handle]) continue;
            if (hm_distance_compare(&target, &met->id, &nearest[count - 1].id) > 0) break;
            assert_int_equal(met->state, HM_CANDIDATE_ANSWERED);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distance_is_the_xor_metric),
        cmocka_unit_test(the_nearest_is_asked_first_and_alpha_at_most),
        cmocka_unit_test(a_dead_candidate_makes_room_for_the_next),
        cmocka_unit_test(late_second_and_foreign_answers_change_nothing),
        cmocka_unit_test(ask_takes_only_who_is_among_the_nearest_and_new),
        cmocka_unit_test(an_empty_lookup_is_done),
        cmocka_unit_test(a_full_list_keeps_the_nearest_and_those_being_asked),
        cmocka_unit_test(holders_count_among_the_nearest_live_ones_only),
        cmocka_unit_test(a_lookup_in_a_random_network_finds_the_nearest_and_asks_each_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
