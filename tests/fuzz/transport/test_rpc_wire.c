/* No bytes crash the decoder of rpc's header, and what it accepts lies in bounds.  Seeded: a
 * failure replays. */
#include "test.h"

#include "base/rng.h"
#include "transport/rpc_internal.h"

enum { ROUNDS = 300000 };

static const struct hm_rpc_header sample = {.kind = HM_RPC_REPLY,
                                            .last = true,
                                            .method = HM_METHOD_EXPERT_CALL,
                                            .status = HM_ERR_BUSY,
                                            .id = UINT64_C(0x0123456789abcdef),
                                            .index = 7,
                                            .time_us = 3600000000u};

static void a_header_travels_whole(void **state)
{
    (void)state;
    uint8_t bytes[HM_RPC_HEADER_BYTES];
    struct hm_rpc_header header = {0};
    hm_rpc_header_encode(&sample, bytes);
    assert_ok(hm_rpc_header_decode(bytes, sizeof bytes, &header));
    assert_int_equal(header.kind, sample.kind);
    assert_true(header.last);
    assert_int_equal(header.method, sample.method);
    assert_status(header.status, sample.status);
    assert_true(header.id == sample.id);
    assert_int_equal(header.index, sample.index);
    assert_int_equal(header.time_us, sample.time_us);
    hm_rpc_header_set_time(bytes, 5);
    assert_ok(hm_rpc_header_decode(bytes, sizeof bytes, &header));
    assert_int_equal(header.time_us, 5);
    assert_true(header.id == sample.id);
}

static void time_on_the_wire_never_rounds_to_none_and_ends_at_an_hour(void **state)
{
    (void)state;
    assert_int_equal(hm_rpc_time_us(0), 0);
    assert_int_equal(hm_rpc_time_us(1), 1);
    assert_int_equal(hm_rpc_time_us(HM_MS), 1000);
    assert_true(hm_rpc_time_us(HM_NS_NEVER) == 3600000000u);
}

static void every_cut_of_a_header_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[HM_RPC_HEADER_BYTES];
    hm_rpc_header_encode(&sample, bytes);
    for (size_t cut = 0; cut < sizeof bytes; cut++) {
        struct hm_rpc_header header;
        uint8_t *exact = malloc(cut + 1);
        assert_non_null(exact);
        memcpy(exact, bytes, cut);
        assert_status(hm_rpc_header_decode(exact, cut, &header), HM_ERR_PEER_PROTOCOL);
        free(exact);
    }
}

static void a_tag_stands_after_the_users_part(void **state)
{
    (void)state;
    uint8_t bytes[HM_RPC_HEADER_BYTES + 5 + HM_RPC_TAG_BYTES] = {0};
    struct hm_rpc_header header;
    hm_rpc_header_encode(&sample, bytes);
    memcpy(bytes + HM_RPC_HEADER_BYTES, "user!", 5);
    size_t count = hm_rpc_header_set_tag(bytes, HM_RPC_HEADER_BYTES + 5, hm_tag(7, 12345));
    assert_int_equal(count, sizeof bytes);
    assert_ok(hm_rpc_header_decode(bytes, count, &header));
    assert_true(header.last);
    assert_int_equal(hm_rpc_header_user_bytes(&header, count), 5);
    assert_int_equal(hm_tag_attempt(header.tag), 7);
    assert_int_equal(hm_tag_number(header.tag), 12345);
    assert_status(hm_rpc_header_decode(bytes, HM_RPC_HEADER_BYTES + 5, &header),
                  HM_ERR_PEER_PROTOCOL); /* cut: what is left is no tag */
    hm_rpc_header_clear_tag(bytes);
    assert_ok(hm_rpc_header_decode(bytes, HM_RPC_HEADER_BYTES + 5, &header));
    assert_true(header.tag == 0);
    bytes[0] = HM_RPC_PING;
    (void)hm_rpc_header_set_tag(bytes, HM_RPC_HEADER_BYTES, 1);
    assert_status(hm_rpc_header_decode(bytes, HM_RPC_HEADER_BYTES + HM_RPC_TAG_BYTES, &header),
                  HM_ERR_PEER_PROTOCOL); /* a kind that has none */
}

static void no_bytes_crash_the_decoder(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 3, 1);
    unsigned accepted = 0, refused = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint8_t bytes[HM_HEADER_BYTES_MAX + 64] = {0};
        size_t count =
            hm_rng_below(&rng, 2) ? HM_RPC_HEADER_BYTES : hm_rng_below(&rng, sizeof bytes);
        hm_rpc_header_encode(&sample, bytes);
        bytes[0] = (uint8_t)hm_rng_below(&rng, 12);
        for (uint64_t n = hm_rng_below(&rng, 6); n > 0; n--)
            bytes[hm_rng_below(&rng, HM_RPC_HEADER_BYTES)] = (uint8_t)hm_rng_next(&rng);
        struct hm_rpc_header header;
        if (hm_rpc_header_decode(bytes, count, &header) != HM_OK) {
            refused++;
            continue;
        }
        accepted++;
        assert_true(header.kind >= HM_RPC_REQUEST && header.kind <= HM_RPC_VOID);
        assert_true(count >= HM_RPC_HEADER_BYTES + (header.tag ? HM_RPC_TAG_BYTES : 0));
        assert_true(hm_rpc_header_user_bytes(&header, count) <= HM_CALL_HEADER_BYTES_MAX);
        assert_true(header.kind != HM_RPC_VOID || header.tag);
        assert_true(header.kind != HM_RPC_ACK || hm_rpc_header_user_bytes(&header, count) <= 512);
        assert_true(header.kind != HM_RPC_REPLY || header.index < HM_RPC_REPLIES_MAX);
        enum hm_scope scope = hm_status_scope(header.status);
        assert_true(header.status <= 0 && scope != HM_SCOPE_LANE && scope != HM_SCOPE_NODE);
    }
    assert_true(accepted > ROUNDS / 10 && refused > ROUNDS / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_travels_whole),
        cmocka_unit_test(time_on_the_wire_never_rounds_to_none_and_ends_at_an_hour),
        cmocka_unit_test(every_cut_of_a_header_is_refused),
        cmocka_unit_test(a_tag_stands_after_the_users_part),
        cmocka_unit_test(no_bytes_crash_the_decoder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
