/* The hello travels whole, and no bytes of a stranger break its decoder. */
#include "test.h"

#include "base/rng.h"
#include "transport/transport.h"

static const struct hm_hello sample = {
    .wire_major = HM_WIRE_MAJOR,
    .wire_minor = HM_WIRE_MINOR,
    .features = UINT64_C(0x8000000000000001),
    .listening = {.count = 2, .addr = {{"tcp:192.0.2.7:4242"}, {"tcp:[2001:db8::1]:80"}}},
    .swarm = "my.swarm",
    .swarm_proof_bytes = 3,
    .fabric_proof_bytes = HM_PROOF_BYTES_MAX,
    .swarm_proof = {1, 2, 3},
    .fabric_proof = {9, [63] = 8},
};

static size_t encode(const struct hm_hello *hello, uint8_t *bytes, size_t bytes_max)
{
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, bytes_max);
    hm_hello_encode(hello, &writer);
    assert_true(hm_writer_ok(&writer));
    return hm_writer_count(&writer);
}

static void a_hello_travels_whole(void **state)
{
    (void)state;
    uint8_t bytes[4096];
    struct hm_hello hello;
    size_t count = encode(&sample, bytes, sizeof bytes);
    assert_ok(hm_hello_decode(bytes, count, &hello));
    assert_memory_equal(&hello, &sample, sizeof hello);
    struct hm_hello least = {.wire_major = HM_WIRE_MAJOR};
    count = encode(&least, bytes, sizeof bytes);
    assert_ok(hm_hello_decode(bytes, count, &hello));
    assert_memory_equal(&hello, &least, sizeof hello);
}

static void another_major_is_told_apart_from_garbage(void **state)
{
    (void)state;
    uint8_t bytes[4096];
    struct hm_hello hello = sample;
    hello.wire_major++;
    encode(&hello, bytes, sizeof bytes);
    /* Of another major nothing but the version can be read. */
    assert_status(hm_hello_decode(bytes, 4, &hello), HM_ERR_PEER_VERSION);
    assert_status(hm_hello_decode(bytes, 3, &hello), HM_ERR_PEER_PROTOCOL);
    assert_status(hm_hello_decode(NULL, 0, &hello), HM_ERR_PEER_PROTOCOL);
}

static void a_newer_minor_may_add_fields_and_ours_may_not(void **state)
{
    (void)state;
    uint8_t bytes[4096];
    struct hm_hello hello = sample, read;
    size_t count = encode(&hello, bytes, sizeof bytes - 8);
    assert_status(hm_hello_decode(bytes, count + 8, &read), HM_ERR_PEER_PROTOCOL);
    hello.wire_minor = HM_WIRE_MINOR + 1;
    count = encode(&hello, bytes, sizeof bytes - 8);
    assert_ok(hm_hello_decode(bytes, count + 8, &read));
    assert_memory_equal(&read, &hello, sizeof read);
}

static void every_cut_is_garbage_and_writes_nothing(void **state)
{
    (void)state;
    uint8_t bytes[4096];
    size_t count = encode(&sample, bytes, sizeof bytes);
    for (size_t cut = 0; cut < count; cut++) {
        struct hm_hello hello;
        memset(&hello, 0x5a, sizeof hello);
        struct hm_hello before = hello;
        uint8_t *exact = malloc(cut + 1); /* a sanitizer sees a read past the end */
        assert_non_null(exact);
        memcpy(exact, bytes, cut);
        assert_status(hm_hello_decode(exact, cut, &hello), HM_ERR_PEER_PROTOCOL);
        assert_memory_equal(&hello, &before, sizeof hello);
        free(exact);
    }
}

static void mutated_hellos_are_refused_or_can_be_said_again(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 2, 1);
    uint8_t bytes[4096], again[4096];
    unsigned accepted = 0, refused = 0;
    for (unsigned round = 0; round < 100000; round++) {
        size_t count = encode(&sample, bytes, sizeof bytes);
        for (uint64_t n = 1 + hm_rng_below(&rng, 4); n > 0; n--)
            bytes[hm_rng_below(&rng, count)] = (uint8_t)hm_rng_next(&rng);
        struct hm_hello hello;
        enum hm_status status = hm_hello_decode(bytes, count, &hello);
        if (status != HM_OK) {
            assert_true(status == HM_ERR_PEER_PROTOCOL || status == HM_ERR_PEER_VERSION);
            refused++;
            continue;
        }
        accepted++;
        assert_true(hello.listening.count <= HM_ADDRS_MAX);
        assert_true(encode(&hello, again, sizeof again) <= count);
    }
    assert_true(accepted > 100 && refused > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hello_travels_whole),
        cmocka_unit_test(another_major_is_told_apart_from_garbage),
        cmocka_unit_test(a_newer_minor_may_add_fields_and_ours_may_not),
        cmocka_unit_test(every_cut_is_garbage_and_writes_nothing),
        cmocka_unit_test(mutated_hellos_are_refused_or_can_be_said_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
