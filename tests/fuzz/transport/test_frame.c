/* The frame reader and the hello decoder take any bytes: seeded noise and mutated streams, bounded.
 *
 * With libFuzzer:
 *   clang -fsanitize=fuzzer,address -DHM_LIBFUZZER -D_GNU_SOURCE -Isrc -Itests/support
 *     tests/fuzz/transport/test_frame.c src/transport/tcp/frame.c and what src/transport and
 *     src/base have, linked with -lcrypto -luv -lxxhash */
#include "test.h"

#include "base/assert.h"
#include "base/rng.h"
#include "transport/tcp/frame.h"
#include "transport/transport.h"

enum { STREAM_BYTES_MAX = 256 << 10 };

/* What a reader said about a stream, so that two ways of cutting the same stream can be compared.
 */
struct account {
    uint64_t frames, heads, bad, payload_bytes, hash; /* no padding: compared as bytes */
};

static uint64_t mix(uint64_t hash, const void *bytes, size_t byte_count)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < byte_count; i++) hash = (hash ^ at[i]) * UINT64_C(1099511628211);
    return hash;
}

/* Gives the stream in pieces of at most piece_max bytes (0: whole); checks what holds for every
 * stream. */
static struct account take(const uint8_t *stream, size_t stream_bytes, size_t piece_max,
                           struct hm_rng *rng)
{
    static struct hm_frame_reader reader;
    struct account account = {.hash = 1};
    memset(&reader, 0, sizeof reader);
    for (size_t given = 0; given < stream_bytes && !account.bad;) {
        size_t piece = piece_max ? 1 + (size_t)hm_rng_below(rng, piece_max) : stream_bytes;
        if (piece > stream_bytes - given) piece = stream_bytes - given;
        const uint8_t *at = stream + given, *end = at + piece;
        given += piece;
        for (;;) {
            const uint8_t *before = at;
            enum hm_frame_event event = hm_frame_read(&reader, &at, end);
            HM_ASSERT(at >= before && at <= end);
            if (event == HM_FRAME_MORE) {
                HM_ASSERT(at == end);
                break;
            }
            if (event == HM_FRAME_BAD) {
                account.bad = 1;
                HM_ASSERT(hm_frame_read(&reader, &at, end) == HM_FRAME_BAD);
                break;
            }
            if (event == HM_FRAME_HEAD) {
                account.heads++;
                HM_ASSERT(reader.frame.header_bytes <= sizeof reader.header);
                HM_ASSERT(reader.frame.payload_bytes <= HM_FRAME_DATA_BYTES_MAX);
                account.hash = mix(account.hash, &reader.frame.type, 1);
                account.hash = mix(account.hash, reader.header, reader.frame.header_bytes);
                struct hm_hello hello;
                if (reader.frame.type == HM_FRAME_HELLO &&
                    hm_hello_decode(reader.header, reader.frame.header_bytes, &hello) == HM_OK)
                    HM_ASSERT(hello.listening.count <= HM_ADDRS_MAX);
            } else if (event == HM_FRAME_PART) {
                HM_ASSERT(reader.part_bytes > 0 && reader.part >= before &&
                          reader.part + reader.part_bytes == at);
                account.payload_bytes += reader.part_bytes;
                account.hash = mix(account.hash, reader.part, reader.part_bytes);
            } else {
                account.frames++;
            }
        }
    }
    return account;
}

#ifdef HM_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    struct hm_rng rng;
    hm_rng_init(&rng, byte_count, 0);
    struct account whole = take(bytes, byte_count, 0, &rng);
    struct account cut = take(bytes, byte_count, 7, &rng);
    HM_ASSERT(memcmp(&whole, &cut, sizeof whole) == 0);
    return 0;
}
#else

/* A frame within its bounds, with random bytes behind it; the stream's new length, or `at` if it
 * does not fit. */
static size_t frame_add(uint8_t *stream, size_t at, struct hm_rng *rng)
{
    static const struct {
        uint16_t header_max;
        uint32_t payload_max;
        bool value;
    } shape[HM_FRAME_TYPES] = {
        [HM_FRAME_HELLO] = {300, 0, true},
        [HM_FRAME_MESSAGE] = {HM_HEADER_BYTES_MAX, HM_FRAME_EAGER_BYTES_MAX, false},
        [HM_FRAME_ANNOUNCE] = {HM_HEADER_BYTES_MAX, 0, true},
        [HM_FRAME_PULL] = {0, 0, true},
        [HM_FRAME_DROP] = {0, 0, true},
        [HM_FRAME_DATA] = {0, HM_FRAME_DATA_BYTES_MAX, true},
        [HM_FRAME_DONE] = {0, 0, true},
        [HM_FRAME_CREDIT] = {0, 0, true},
        [HM_FRAME_GOODBYE] = {0, 0, true},
    };
    struct hm_frame frame = {.type = (uint8_t)(1 + hm_rng_below(rng, HM_FRAME_TYPES - 1))};
    if (shape[frame.type].header_max)
        frame.header_bytes = (uint16_t)(1 + hm_rng_below(rng, shape[frame.type].header_max));
    if (shape[frame.type].payload_max)
        frame.payload_bytes = (uint32_t)(1 + hm_rng_below(rng, shape[frame.type].payload_max));
    if (shape[frame.type].value) frame.value = 1 + hm_rng_below(rng, 1 << 20);
    size_t bytes = HM_FRAME_BYTES + frame.header_bytes + (size_t)frame.payload_bytes;
    if (bytes > STREAM_BYTES_MAX - at) return at;
    hm_frame_encode(&frame, stream + at);
    for (size_t i = at + HM_FRAME_BYTES; i < at + bytes; i++) stream[i] = (uint8_t)hm_rng_next(rng);
    return at + bytes;
}

static uint8_t stream[STREAM_BYTES_MAX];

static void noise_crashes_nothing_and_is_soon_found_out(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 20261122, 1);
    unsigned bad = 0;
    for (unsigned round = 0; round < 3000; round++) {
        size_t bytes = 1 + (size_t)hm_rng_below(&rng, round % 100 ? 400 : STREAM_BYTES_MAX);
        for (size_t i = 0; i < bytes; i++) stream[i] = (uint8_t)hm_rng_next(&rng);
        bad += take(stream, bytes, 1 + round % 64, &rng).bad;
    }
    assert_true(bad > 2500);
}

static void proper_streams_are_read_alike_however_they_are_cut(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 20261122, 2);
    static const size_t piece[] = {1, 2, 15, 16, 17, 1000, 16384};
    for (unsigned round = 0; round < 60; round++) {
        size_t bytes = 0, frames = 0;
        for (unsigned i = 0; i < 40; i++) {
            size_t next = frame_add(stream, bytes, &rng);
            frames += next > bytes;
            bytes = next;
        }
        struct account whole = take(stream, bytes, 0, &rng);
        assert_int_equal(whole.bad, 0);
        assert_int_equal(whole.frames, frames);
        struct account cut = take(stream, bytes, piece[round % HM_COUNT_OF(piece)], &rng);
        assert_memory_equal(&whole, &cut, sizeof whole);
    }
}

static void mutated_streams_crash_nothing_and_are_read_alike_however_they_are_cut(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 20261122, 3);
    unsigned bad = 0;
    for (unsigned round = 0; round < 400; round++) {
        size_t bytes = 0;
        for (unsigned i = 0; i < 10; i++) bytes = frame_add(stream, bytes, &rng);
        unsigned changes = 1 + (unsigned)hm_rng_below(&rng, 8);
        /* Most changes hit the first frames' heads, where they mean something. */
        for (unsigned i = 0; i < changes; i++) {
            size_t reach = hm_rng_below(&rng, 2) && bytes > 64 ? 64 : bytes;
            size_t at = (size_t)hm_rng_below(&rng, reach);
            stream[at] = hm_rng_below(&rng, 2)
                             ? (uint8_t)hm_rng_next(&rng)
                             : (uint8_t)(stream[at] ^ 1u << hm_rng_below(&rng, 8));
        }
        if (hm_rng_below(&rng, 4) == 0) bytes -= (size_t)hm_rng_below(&rng, bytes);
        struct account whole = take(stream, bytes, 0, &rng);
        struct account cut = take(stream, bytes, 61, &rng);
        assert_memory_equal(&whole, &cut, sizeof whole);
        bad += whole.bad;
    }
    assert_true(bad > 100);
}

static void every_field_is_held_to_its_bounds(void **state)
{
    (void)state;
    static const struct {
        struct hm_frame frame;
        bool good;
    } row[] = {
        {{0, 0, 0, 0}, false},
        {{HM_FRAME_TYPES, 0, 0, 1}, false},
        {{255, 0, 0, 1}, false},
        {{HM_FRAME_HELLO, 0, 0, 0}, false},
        {{HM_FRAME_HELLO, 1, 0, 0}, true},
        {{HM_FRAME_HELLO, HM_FRAME_HELLO_BYTES_MAX, 0, UINT64_MAX}, true},
        {{HM_FRAME_HELLO, HM_FRAME_HELLO_BYTES_MAX + 1, 0, 0}, false},
        {{HM_FRAME_HELLO, 1, 1, 0}, false},
        {{HM_FRAME_MESSAGE, 0, 0, 0}, true},
        {{HM_FRAME_MESSAGE, HM_HEADER_BYTES_MAX, HM_FRAME_EAGER_BYTES_MAX, 0}, true},
        {{HM_FRAME_MESSAGE, HM_HEADER_BYTES_MAX + 1, 0, 0}, false},
        {{HM_FRAME_MESSAGE, 0, HM_FRAME_EAGER_BYTES_MAX + 1, 0}, false},
        {{HM_FRAME_MESSAGE, 0, 0, 1}, false},
        {{HM_FRAME_ANNOUNCE, 0, 0, 0}, false},
        {{HM_FRAME_ANNOUNCE, 0, 0, HM_PAYLOAD_BYTES_MAX}, true},
        {{HM_FRAME_ANNOUNCE, 0, 0, HM_PAYLOAD_BYTES_MAX + 1}, false},
        {{HM_FRAME_ANNOUNCE, 0, 1, 1}, false},
        {{HM_FRAME_PULL, 0, 0, 0}, false},
        {{HM_FRAME_PULL, 1, 0, 1}, false},
        {{HM_FRAME_DROP, 0, 1, 1}, false},
        {{HM_FRAME_DATA, 0, 0, 1}, false},
        {{HM_FRAME_DATA, 0, HM_FRAME_DATA_BYTES_MAX, 1}, true},
        {{HM_FRAME_DATA, 0, HM_FRAME_DATA_BYTES_MAX + 1, 1}, false},
        {{HM_FRAME_DATA, 0, UINT32_MAX, 1}, false},
        {{HM_FRAME_DONE, 0, 0, 7}, true},
        {{HM_FRAME_CREDIT, 0, 0, 0}, false},
        {{HM_FRAME_GOODBYE, 0, 0, UINT64_MAX}, true},
        {{HM_FRAME_GOODBYE, 3, 0, 0}, false},
    };
    for (size_t i = 0; i < HM_COUNT_OF(row); i++) {
        const struct hm_frame *frame = &row[i].frame;
        uint8_t bytes[HM_FRAME_BYTES];
        struct hm_writer writer;
        hm_writer_init(&writer, bytes, sizeof bytes);
        hm_write_u8(&writer, frame->type);
        hm_write_u8(&writer, 0);
        hm_write_u16(&writer, frame->header_bytes);
        hm_write_u32(&writer, frame->payload_bytes);
        hm_write_u64(&writer, frame->value);
        struct hm_frame read = {.type = 99};
        enum hm_status status = hm_frame_decode(bytes, &read);
        if (status != (row[i].good ? HM_OK : HM_ERR_PEER_PROTOCOL))
            fail_msg("row %zu: %s", i, hm_status_name(status));
        if (!row[i].good) {
            assert_int_equal(read.type, 99); /* nothing is written */
            continue;
        }
        uint8_t again[HM_FRAME_BYTES];
        hm_frame_encode(&read, again);
        assert_memory_equal(bytes, again, sizeof bytes);
        bytes[1] = 1; /* reserved */
        assert_status(hm_frame_decode(bytes, &read), HM_ERR_PEER_PROTOCOL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_is_held_to_its_bounds),
        cmocka_unit_test(noise_crashes_nothing_and_is_soon_found_out),
        cmocka_unit_test(proper_streams_are_read_alike_however_they_are_cut),
        cmocka_unit_test(mutated_streams_crash_nothing_and_are_read_alike_however_they_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
