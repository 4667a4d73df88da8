/* tests/unit/base/test_copy.c - what is copied in parts arrives whole, and nothing beside it. */
#include "test.h"

#include "base/copy.h"

enum { ROOM = 4 * HM_COPY_PART_BYTES + 256 };

static void every_byte_arrives_and_none_beside_them_at_sizes_around_the_parts(void **state)
{
    (void)state;
    static uint8_t from[ROOM], to[ROOM];
    for (size_t i = 0; i < ROOM; i++) from[i] = (uint8_t)(i % 251 + 1);
    for (size_t parts = 0; parts <= 3; parts++)
        for (size_t more = 0; more < 5; more++) {
            size_t bytes = parts * HM_COPY_PART_BYTES + more;
            for (size_t shift = 0; shift < 65; shift += 13) {
                memset(to, 0, sizeof to);
                hm_copy(to + 64, from + shift, bytes);
                assert_memory_equal(to + 64, from + shift, bytes);
                assert_int_equal(to[63], 0);
                assert_int_equal(to[64 + bytes], 0);
            }
            if (parts == 0) continue;
            hm_copy(to + 64, from, bytes - 2); /* one that ends just before a part does */
            assert_memory_equal(to + 64, from, bytes - 2);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_arrives_and_none_beside_them_at_sizes_around_the_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
