/* The anti-replay window, against a plain set of everything that was added. */
#include "test.h"

#include "base/rng.h"
#include "experts/dedupe.h"

static struct hm_client_id client(uint8_t number)
{
    struct hm_client_id id = {{0}};
    id.byte[0] = number;
    return id;
}

static struct hm_dedupe *make(unsigned clients_max)
{
    struct hm_dedupe *dedupe;
    assert_ok(hm_dedupe_create(clients_max, &dedupe));
    return dedupe;
}

static void what_was_added_is_seen_and_nothing_else(void **state)
{
    (void)state;
    enum { SEQUENCES = 20000 };
    static bool added[SEQUENCES + 1];
    struct hm_dedupe *dedupe = make(4);
    struct hm_client_id id = client(1);
    struct hm_rng rng;
    uint64_t top = 0;
    hm_rng_init(&rng, 7, 0);
    memset(added, 0, sizeof(added));
    for (unsigned i = 0; i < 30000; i++) {
        /* Mostly near the front, as in life: a few late ones, jumps now and then. */
        uint64_t ahead =
            hm_rng_below(&rng, 100) == 0 ? hm_rng_below(&rng, 3000) : hm_rng_below(&rng, 4);
        uint64_t sequence =
            top + ahead > 300 ? top + ahead - hm_rng_below(&rng, 300) : 1 + hm_rng_below(&rng, 300);
        if (sequence > SEQUENCES) break;
        bool wanted = added[sequence] || sequence + HM_DEDUPE_WINDOW <= top;
        assert_int_equal(hm_dedupe_seen(dedupe, &id, sequence), wanted);
        if (wanted) continue;
        hm_dedupe_add(dedupe, &id, sequence);
        added[sequence] = true;
        if (sequence > top) top = sequence;
        if (hm_rng_below(&rng, 10) == 0) {
            hm_dedupe_remove(dedupe, &id, sequence);
            added[sequence] = false;
        }
    }
    assert_true(top > 5000);
    hm_dedupe_destroy(dedupe);
}

static void what_is_older_than_the_window_counts_as_applied(void **state)
{
    (void)state;
    struct hm_dedupe *dedupe = make(4);
    struct hm_client_id id = client(1);
    hm_dedupe_add(dedupe, &id, 5000);
    assert_false(hm_dedupe_seen(dedupe, &id, 5000 - HM_DEDUPE_WINDOW + 1));
    assert_true(hm_dedupe_seen(dedupe, &id, 5000 - HM_DEDUPE_WINDOW));
    assert_true(hm_dedupe_seen(dedupe, &id, 1));
    hm_dedupe_destroy(dedupe);
}

static void clients_do_not_disturb_each_other(void **state)
{
    (void)state;
    struct hm_dedupe *dedupe = make(4);
    struct hm_client_id a = client(1), b = client(2);
    hm_dedupe_add(dedupe, &a, 7);
    assert_true(hm_dedupe_seen(dedupe, &a, 7));
    assert_false(hm_dedupe_seen(dedupe, &b, 7));
    hm_dedupe_destroy(dedupe);
}

static void a_full_table_forgets_the_client_unseen_for_longest(void **state)
{
    (void)state;
    struct hm_dedupe *dedupe = make(2);
    struct hm_client_id a = client(1), b = client(2), c = client(3);
    hm_dedupe_add(dedupe, &a, 1);
    hm_dedupe_add(dedupe, &b, 1);
    hm_dedupe_add(dedupe, &a, 2);
    hm_dedupe_add(dedupe, &c, 1);
    assert_true(hm_dedupe_seen(dedupe, &a, 1));
    assert_true(hm_dedupe_seen(dedupe, &c, 1));
    assert_false(hm_dedupe_seen(dedupe, &b, 1));
    hm_dedupe_destroy(dedupe);
}

/* A stranger who comes back in ever new lives, at a table that others have filled before. */
static void a_node_of_many_incarnations_forgets_its_own_and_nobody_elses(void **state)
{
    (void)state;
    enum { OTHERS = 12, PLACES = 16, LIVES = 2000 };
    struct hm_dedupe *dedupe = make(PLACES);
    for (uint8_t i = 1; i <= OTHERS; i++) {
        struct hm_client_id other = client(i);
        hm_dedupe_add(dedupe, &other, i);
    }
    struct hm_client_id many = client(100);
    for (unsigned life = 0; life < LIVES; life++) {
        memcpy(many.byte + HM_CLIENT_ID_BYTES / 2, &life, sizeof life);
        hm_dedupe_add(dedupe, &many, 7);
        assert_true(hm_dedupe_seen(dedupe, &many, 7));
    }
    for (uint8_t i = 1; i <= OTHERS; i++) {
        struct hm_client_id other = client(i);
        assert_true(hm_dedupe_seen(dedupe, &other, i));
    }
    unsigned kept = 0;
    for (unsigned life = 0; life < LIVES; life++) {
        memcpy(many.byte + HM_CLIENT_ID_BYTES / 2, &life, sizeof life);
        kept += hm_dedupe_seen(dedupe, &many, 7);
    }
    assert_int_equal(kept, PLACES - OTHERS); /* the last ones: the other places are used */
    hm_dedupe_destroy(dedupe);
}

static void it_survives_encoding(void **state)
{
    (void)state;
    struct hm_dedupe *from = make(8), *to = make(8);
    for (uint8_t i = 0; i < 5; i++) {
        struct hm_client_id id = client(i);
        for (uint64_t s = 1; s < 2000; s += i + 1) hm_dedupe_add(from, &id, s);
    }
    size_t bytes = hm_dedupe_encoded_bytes(from);
    uint8_t *encoded = malloc(bytes);
    struct hm_writer writer;
    hm_writer_init(&writer, encoded, bytes);
    hm_dedupe_encode(from, &writer);
    assert_true(hm_writer_ok(&writer));
    assert_int_equal(hm_writer_count(&writer), bytes);
    assert_ok(hm_dedupe_decode(to, encoded, bytes));
    for (uint8_t i = 0; i < 6; i++) {
        struct hm_client_id id = client(i);
        for (uint64_t s = 1; s < 2100; s++)
            assert_int_equal(hm_dedupe_seen(from, &id, s), hm_dedupe_seen(to, &id, s));
    }
    /* Truncated, padded and repeated bytes are refused, and leave it empty. */
    assert_status(hm_dedupe_decode(to, encoded, bytes - 1), HM_ERR_CORRUPT);
    struct hm_client_id first = client(0);
    assert_false(hm_dedupe_seen(to, &first, 1));
    assert_status(hm_dedupe_decode(to, encoded, 3), HM_ERR_CORRUPT);
    encoded[0] = 200; /* more clients than there are bytes for */
    assert_status(hm_dedupe_decode(to, encoded, bytes), HM_ERR_CORRUPT);
    free(encoded);
    hm_dedupe_destroy(from);
    hm_dedupe_destroy(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_added_is_seen_and_nothing_else),
        cmocka_unit_test(what_is_older_than_the_window_counts_as_applied),
        cmocka_unit_test(clients_do_not_disturb_each_other),
        cmocka_unit_test(a_full_table_forgets_the_client_unseen_for_longest),
        cmocka_unit_test(a_node_of_many_incarnations_forgets_its_own_and_nobody_elses),
        cmocka_unit_test(it_survives_encoding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
