/* tests/unit/base/test_buf.c - the pool: alignment, counting, reuse, and its bound. */
#include "test.h"

#include "base/buf.h"
#include "base/rng.h"
#include "death.h"

#include <signal.h>

enum { KIB = 1024, MIB = 1024 * 1024 };

static void new_buffers_are_aligned_large_enough_and_waste_at_most_a_fifth(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    static const size_t sizes[] = {0,     1,     4096,    4097,    5120,    65535,
                                   65536, 65537, 100000,  1 << 20, 2097153, 33554433,
                                   57344, 57345, 1000000, 81920,   81921};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct hm_buf *buf;
        assert_ok(hm_buf_pool_create((size_t)256 * MIB, &pool));
        assert_ok(hm_buf_pool_get(pool, sizes[i], &buf));
        assert_int_equal(buf->bytes, sizes[i]);
        assert_true(buf->capacity >= sizes[i]);
        if (sizes[i] > 4096) assert_true(buf->capacity - sizes[i] <= buf->capacity / 5);
        assert_int_equal((uintptr_t)buf->base % (buf->capacity >= 65536 ? 4096 : 64), 0);
        memset(buf->base, 1, buf->capacity);
        assert_int_equal(hm_buf_pool_bytes_used(pool), buf->capacity);
        hm_buf_put(buf);
        assert_int_equal(hm_buf_pool_bytes_used(pool), 0);
        hm_buf_pool_destroy(pool);
    }
}

static void there_are_four_classes_a_doubling(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    static const size_t wanted_kib[] = {4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32};
    size_t bytes = 1;
    assert_ok(hm_buf_pool_create((size_t)64 * MIB, &pool));
    for (size_t i = 0; i < sizeof wanted_kib / sizeof wanted_kib[0]; i++) {
        struct hm_buf *buf;
        assert_ok(hm_buf_pool_get(pool, bytes, &buf));
        assert_int_equal(buf->capacity, wanted_kib[i] * KIB);
        bytes = buf->capacity + 1;
        hm_buf_put(buf);
    }
    hm_buf_pool_destroy(pool);
}

static void the_last_put_gives_the_memory_to_the_next_get(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *buf, *again, *other;
    assert_ok(hm_buf_pool_create(MIB, &pool));
    assert_ok(hm_buf_pool_get(pool, 5000, &buf));
    void *base = buf->base;
    assert_ptr_equal(hm_buf_get(buf), buf);
    hm_buf_put(buf);
    assert_ok(hm_buf_pool_get(pool, 5000, &other)); /* still referenced: not the same */
    assert_ptr_not_equal(other->base, base);
    hm_buf_put(buf);
    assert_ok(hm_buf_pool_get(pool, 4900, &again));
    assert_ptr_equal(again->base, base);
    assert_int_equal(again->bytes, 4900);
    hm_buf_put(again);
    hm_buf_put(other);
    hm_buf_put(NULL);
    hm_buf_pool_destroy(pool);
}

static void a_buffer_less_than_twice_as_large_is_used_again_and_counts_as_it_is(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *large, *small, *fits;
    assert_ok(hm_buf_pool_create(MIB, &pool));
    assert_ok(hm_buf_pool_get(pool, 28 * KIB, &large));
    void *base = large->base;
    hm_buf_put(large);
    assert_ok(hm_buf_pool_get(pool, 14 * KIB, &small)); /* 28 is twice that */
    assert_ptr_not_equal(small->base, base);
    assert_ok(hm_buf_pool_get(pool, 14 * KIB + 1, &fits));
    assert_ptr_equal(fits->base, base);
    assert_int_equal(fits->bytes, 14 * KIB + 1);
    assert_int_equal(fits->capacity, 28 * KIB);
    assert_int_equal(hm_buf_pool_bytes_used(pool), 42 * KIB);
    hm_buf_put(fits);
    hm_buf_put(small);
    assert_int_equal(hm_buf_pool_bytes_used(pool), 0);
    assert_ok(hm_buf_pool_get(pool, 28 * KIB, &large)); /* it is in its own class again */
    assert_ptr_equal(large->base, base);
    hm_buf_put(large);
    hm_buf_pool_destroy(pool);
}

static void an_exhausted_pool_answers_busy_until_something_comes_back(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *bufs[4], *more = NULL;
    assert_ok(hm_buf_pool_create(16 * KIB, &pool));
    assert_int_equal(hm_buf_pool_bytes_max(pool), 16 * KIB);
    for (int i = 0; i < 4; i++) assert_ok(hm_buf_pool_get(pool, 4096, &bufs[i]));
    assert_status(hm_buf_pool_get(pool, 1, &more), HM_ERR_BUSY);
    assert_null(more);
    hm_buf_put(bufs[2]);
    assert_ok(hm_buf_pool_get(pool, 1, &more));
    hm_buf_put(more);
    for (int i = 0; i < 4; i++)
        if (i != 2) hm_buf_put(bufs[i]);
    hm_buf_pool_destroy(pool);
}

static void what_can_never_fit_is_too_big_and_not_busy(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *buf = NULL;
    assert_ok(hm_buf_pool_create(17 * KIB, &pool));
    assert_status(hm_buf_pool_get(pool, 18 * KIB, &buf), HM_ERR_TOO_BIG);
    assert_status(hm_buf_pool_get(pool, 17 * KIB, &buf), HM_ERR_TOO_BIG); /* its class is 20 KiB */
    assert_status(hm_buf_pool_get(pool, SIZE_MAX, &buf), HM_ERR_TOO_BIG);
    assert_null(buf);
    assert_ok(hm_buf_pool_get(pool, 16 * KIB, &buf));
    hm_buf_put(buf);
    hm_buf_pool_destroy(pool);
}

static void cached_buffers_of_other_classes_make_room(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *small[32], *large;
    assert_ok(hm_buf_pool_create(128 * KIB, &pool));
    for (int i = 0; i < 32; i++) assert_ok(hm_buf_pool_get(pool, 4096, &small[i]));
    for (int i = 0; i < 32; i++) hm_buf_put(small[i]);
    assert_ok(hm_buf_pool_get(pool, 128 * KIB, &large)); /* needs every cached byte */
    hm_buf_put(large);
    for (int i = 0; i < 32; i++) assert_ok(hm_buf_pool_get(pool, 4096, &small[i]));
    for (int i = 0; i < 32; i++) hm_buf_put(small[i]);
    hm_buf_pool_destroy(pool);
}

static void random_use_stays_within_the_bound_and_never_shares_bytes(void **state)
{
    (void)state;
    enum { LIVE = 40, STEPS = 20000, BOUND = 2 * MIB };
    struct hm_buf_pool *pool;
    struct hm_buf *live[LIVE] = {NULL};
    struct hm_rng rng;
    unsigned busy = 0;
    hm_rng_init(&rng, 21, 0);
    assert_ok(hm_buf_pool_create(BOUND, &pool));
    for (int step = 0; step < STEPS; step++) {
        uint32_t i = (uint32_t)hm_rng_below(&rng, LIVE);
        if (live[i]) { /* the stamps must have survived everybody else's writing */
            assert_int_equal(((uint32_t *)live[i]->base)[0], i);
            assert_int_equal(((uint32_t *)live[i]->base)[live[i]->capacity / 4 - 1], i);
            hm_buf_put(live[i]);
            live[i] = NULL;
            continue;
        }
        enum hm_status status = hm_buf_pool_get(pool, hm_rng_below(&rng, 200000), &live[i]);
        assert_true(status == HM_OK || status == HM_ERR_BUSY);
        if (status == HM_OK) {
            ((uint32_t *)live[i]->base)[0] = i;
            ((uint32_t *)live[i]->base)[live[i]->capacity / 4 - 1] = i;
        }
        busy += status == HM_ERR_BUSY;
        assert_true(hm_buf_pool_bytes_used(pool) <= BOUND);
    }
    assert_true(busy > 0); /* the bound was reached */
    for (int i = 0; i < LIVE; i++) hm_buf_put(live[i]);
    assert_int_equal(hm_buf_pool_bytes_used(pool), 0);
    hm_buf_pool_destroy(pool);
}

static void spans_name_their_buffer(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *buf;
    assert_ok(hm_buf_pool_create(MIB, &pool));
    assert_ok(hm_buf_pool_get(pool, 1000, &buf));
    struct hm_span whole = hm_buf_span(buf), part = hm_buf_part(buf, 100, 900);
    assert_ptr_equal(whole.base, buf->base);
    assert_int_equal(whole.bytes, 1000);
    assert_ptr_equal(whole.owner, buf);
    assert_int_equal(whole.mem, HM_MEM_HOST);
    assert_ptr_equal(part.base, (char *)buf->base + 100);
    assert_int_equal(buf->refs, 1);
    assert_aborts(hm_buf_part(buf, 101, 900));
    hm_buf_put(buf);
    hm_buf_pool_destroy(pool);
}

static void a_leak_and_a_put_too_many_abort(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *buf;
    assert_ok(hm_buf_pool_create(MIB, &pool));
    assert_ok(hm_buf_pool_get(pool, 1000, &buf));
    assert_aborts(hm_buf_pool_destroy(pool));
    hm_buf_put(buf);
    assert_aborts(hm_buf_put(buf));
    hm_buf_pool_destroy(pool);
}

/* What a lane would do that still reads after the loop has let go.  Only ASan sees it. */
static void bytes_of_a_cached_buffer_are_poisoned(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    struct hm_buf_pool *pool;
    struct hm_buf *buf;
    assert_ok(hm_buf_pool_create(MIB, &pool));
    for (size_t bytes = 4096; bytes <= 262144; bytes *= 8) {
        assert_ok(hm_buf_pool_get(pool, bytes, &buf));
        volatile char *base = buf->base;
        base[0] = 1;
        hm_buf_put(buf);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            death_child_begin();
            _exit(base[0] == 77);
        }
        int wait_status;
        assert_int_equal(waitpid(child, &wait_status, 0), child);
        assert_false(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
    }
    hm_buf_pool_destroy(pool);
#else
    skip();
#endif
}

static void a_lent_buffer_is_the_lenders_memory_and_none_of_the_pools(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *lent;
    uint8_t memory[300];
    assert_ok(hm_buf_pool_create(0, &pool));
    assert_ok(hm_buf_lend(pool, memory, sizeof memory, &lent));
    assert_int_equal(hm_buf_pool_bytes_used(pool), 0);
    struct hm_span part = hm_buf_part(lent, 100, 150);
    size_t bytes = 1000;
    assert_ptr_equal(hm_span_read(&part, 20, &bytes), memory + 120);
    assert_int_equal(bytes, 130); /* to the end of the span */
    bytes = 7;
    assert_ptr_equal(hm_span_write(&part, 20, &bytes), memory + 120);
    assert_int_equal(bytes, 7);
    hm_buf_put(lent);
    hm_buf_pool_destroy(pool);
}

static void a_reclaimed_buffer_reads_as_nothing_and_keeps_nothing(void **state)
{
    (void)state;
    enum { LARGE = 200 * KIB, PIECE = 64 * KIB };
    struct hm_buf_pool *pool;
    struct hm_buf *lent;
    uint8_t *memory = calloc(1, LARGE);
    assert_non_null(memory);
    assert_ok(hm_buf_pool_create(0, &pool));
    assert_ok(hm_buf_lend(pool, memory, LARGE, &lent));
    struct hm_span span = hm_buf_span(hm_buf_get(lent));
    hm_buf_reclaim(lent);
    hm_buf_reclaim(lent);
    hm_buf_put(lent); /* the lender's; the span's owner is still there */
    free(memory);
    for (size_t offset = 0, bytes; offset < LARGE; offset += bytes) {
        bytes = LARGE;
        uint8_t *into = hm_span_write(&span, offset, &bytes);
        assert_true(bytes >= PIECE || bytes == LARGE - offset);
        memset(into, 0, bytes);
        const uint8_t *from = hm_span_read(&span, offset, &bytes);
        for (size_t i = 0; i < bytes; i++) assert_true(from[i] == 0xff);
    }
    hm_buf_put(span.owner);
    hm_buf_pool_destroy(pool);
}

static void buffers_that_are_not_lent_are_read_and_written_where_they_are(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    struct hm_buf *buf;
    uint8_t own[4];
    assert_ok(hm_buf_pool_create(MIB, &pool));
    assert_ok(hm_buf_pool_get(pool, 1000, &buf));
    struct hm_span spans[] = {hm_buf_span(buf), {.base = own, .bytes = sizeof own}};
    for (unsigned i = 0; i < 2; i++) {
        size_t bytes = 2;
        assert_ptr_equal(hm_span_read(&spans[i], 1, &bytes), (uint8_t *)spans[i].base + 1);
        assert_ptr_equal(hm_span_write(&spans[i], 1, &bytes), (uint8_t *)spans[i].base + 1);
        assert_int_equal(bytes, 2);
    }
    hm_buf_put(buf);
    hm_buf_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lent_buffer_is_the_lenders_memory_and_none_of_the_pools),
        cmocka_unit_test(a_reclaimed_buffer_reads_as_nothing_and_keeps_nothing),
        cmocka_unit_test(buffers_that_are_not_lent_are_read_and_written_where_they_are),
        cmocka_unit_test(new_buffers_are_aligned_large_enough_and_waste_at_most_a_fifth),
        cmocka_unit_test(there_are_four_classes_a_doubling),
        cmocka_unit_test(the_last_put_gives_the_memory_to_the_next_get),
        cmocka_unit_test(a_buffer_less_than_twice_as_large_is_used_again_and_counts_as_it_is),
        cmocka_unit_test(an_exhausted_pool_answers_busy_until_something_comes_back),
        cmocka_unit_test(what_can_never_fit_is_too_big_and_not_busy),
        cmocka_unit_test(cached_buffers_of_other_classes_make_room),
        cmocka_unit_test(random_use_stays_within_the_bound_and_never_shares_bytes),
        cmocka_unit_test(spans_name_their_buffer),
        cmocka_unit_test(a_leak_and_a_put_too_many_abort),
        cmocka_unit_test(bytes_of_a_cached_buffer_are_poisoned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
