/* No bytes crash a decoder of rows: each reads its row and no more, what it accepts is finite, and
 * all kernels accept the same.  Seeded: a failure replays. */
#include "test.h"

#include "base/rng.h"
#include "tensor/codec_kernels.h"

#include <math.h>

enum { ROUNDS = 20000, COLUMNS_MAX = 1200 };

/* Noise is refused nearly always (some value of it is not finite), so most rows are good ones with
 * a few bytes changed. */
static void make_row(struct hm_rng *rng, uint8_t id, uint32_t columns, uint8_t *row, size_t bytes)
{
    static float value[COLUMNS_MAX];
    if (hm_rng_below(rng, 8) == 0) {
        for (size_t i = 0; i < bytes; i++) row[i] = (uint8_t)hm_rng_next(rng);
        return;
    }
    for (uint32_t i = 0; i < columns; i++) value[i] = hm_rng_normal(rng);
    assert_ok(hm_codec_encode(hm_codec_find(id), value, columns, NULL, 1, row));
    for (unsigned changes = (unsigned)hm_rng_below(rng, 4); changes > 0; changes--)
        row[hm_rng_below(rng, bytes)] = hm_rng_below(rng, 2) ? 0xff : (uint8_t)hm_rng_next(rng);
}

static void no_bytes_crash_a_decoder_and_what_it_accepts_is_finite(void **state)
{
    (void)state;
    const struct hm_codec_kernels *list[HM_CODEC_KERNELS_MAX];
    unsigned count = hm_codec_kernels_list(list), accepted = 0, refused = 0;
    struct hm_rng rng;
    hm_rng_init(&rng, 13, 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint8_t id = (uint8_t)hm_rng_below(&rng, HM_CODEC_COUNT);
        uint32_t columns = 1 + (uint32_t)hm_rng_below(&rng, round % 4 ? 80 : COLUMNS_MAX);
        size_t bytes = hm_codec_row_bytes(hm_codec_find(id), columns);
        /* Of exactly this size, so that a sanitizer sees a byte too many. */
        uint8_t *row = malloc(bytes);
        float *wanted = malloc(columns * sizeof *wanted), *got = malloc(columns * sizeof *got);
        assert_true(row && wanted && got);
        make_row(&rng, id, columns, row, bytes);
        float scale = hm_rng_below(&rng, 2) ? 1 : hm_rng_normal(&rng);
        bool finite = hm_codec_kernels_scalar.decode[id](row, columns, scale, wanted);
        *(finite ? &accepted : &refused) += 1;
        for (uint32_t i = 0; finite && i < columns; i++) assert_true(isfinite(wanted[i]));
        for (unsigned k = 0; k < count; k++) {
            assert_int_equal(list[k]->decode[id](row, columns, scale, got), finite);
            if (finite) assert_memory_equal(wanted, got, columns * sizeof *got);
        }
        free(row);
        free(wanted);
        free(got);
    }
    assert_true(accepted > ROUNDS / 4);
    assert_true(refused > ROUNDS / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_bytes_crash_a_decoder_and_what_it_accepts_is_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
