/* The codecs by name, and what rows become by them: sizes, errors, what is refused. */
#include "test.h"

#include "base/rng.h"
#include "tensor/codec.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

enum { COLUMNS_MAX = 2048 };

static void codecs_are_found_by_id_and_by_name(void **state)
{
    (void)state;
    const char *const names[] = {"none", "f16", "bf16", "u8"};
    for (unsigned i = 0; i < HM_CODEC_COUNT; i++) {
        const struct hm_codec *codec = hm_codec_find((uint8_t)i);
        assert_non_null(codec);
        assert_int_equal(codec->id, i);
        assert_string_equal(codec->name, names[i]);
        assert_ptr_equal(hm_codec_by_name(names[i]), codec);
    }
}

static void unknown_codecs_are_refused_by_name(void **state)
{
    (void)state;
    const char *const unknown[] = {"gzip", "", "u", "u88", "none,u8", "NONE"};
    assert_null(hm_codec_find(HM_CODEC_COUNT));
    assert_null(hm_codec_find(255));
    for (unsigned i = 0; i < 6; i++) {
        char quoted[16];
        snprintf(quoted, sizeof quoted, "'%s'", unknown[i]);
        assert_null(hm_codec_by_name(unknown[i]));
        assert_non_null(strstr(hm_fail_line(), quoted));
        assert_non_null(strstr(hm_fail_line(), "none,f16,bf16,u8"));
    }
}

static void a_set_always_has_none_and_names_what_it_does_not_know(void **state)
{
    (void)state;
    char text[HM_CODEC_SET_TEXT_BYTES];
    uint64_t set = 0;
    assert_ok(hm_codec_set_parse("u8", &set));
    assert_int_equal(set, 1 << HM_CODEC_NONE | 1 << HM_CODEC_U8);
    assert_string_equal(hm_codec_set_text(set, text), "none,u8");
    assert_ok(hm_codec_set_parse("u8,bf16,none,f16,f16", &set));
    assert_int_equal(set, HM_CODECS_ALL);
    assert_ok(hm_codec_set_parse("none", &set));
    assert_string_equal(hm_codec_set_text(set, text), "none");
    const char *const wrong[] = {"", "u8,", ",u8", "u8,,f16", "u8 f16", "f16,gzip"};
    for (unsigned i = 0; i < 6; i++)
        assert_status(hm_codec_set_parse(wrong[i], &set), HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), "gzip"));
    assert_int_equal(set, 1); /* untouched by what failed */
    /* A newer peer's codecs have no names here. */
    assert_string_equal(hm_codec_set_text(~UINT64_C(0), text), "none,f16,bf16,u8");
}

static void no_codec_makes_a_row_longer(void **state)
{
    (void)state;
    for (uint32_t columns = 0; columns <= COLUMNS_MAX; columns++) {
        for (unsigned id = 0; id < HM_CODEC_COUNT; id++)
            assert_true(hm_codec_row_bytes(hm_codec_find((uint8_t)id), columns) <= 4 * columns);
    }
    const struct hm_codec *u8 = hm_codec_find(HM_CODEC_U8);
    assert_int_equal(hm_codec_row_bytes(u8, 2), 8);
    assert_int_equal(hm_codec_row_bytes(u8, 3), 11);
    assert_int_equal(hm_codec_row_bytes(u8, 512), 520);
    assert_int_equal(hm_codec_row_bytes(u8, 513), 529);
    assert_int_equal(hm_codec_row_bytes(u8, UINT32_MAX), UINT32_MAX + ((size_t)8 << 23));
    assert_int_equal(hm_codec_row_bytes(hm_codec_find(HM_CODEC_NONE), UINT32_MAX),
                     4 * (size_t)UINT32_MAX);
}

static void u8_takes_at_most_26_of_100_bytes_of_rows_of_1024(void **state)
{
    (void)state;
    size_t bytes = hm_codec_row_bytes(hm_codec_find(HM_CODEC_U8), 1024);
    assert_true((double)bytes <= 0.26 * 4096);
}

static void none_gives_back_every_bit(void **state)
{
    (void)state;
    const float source[5] = {1.5f, -0.0f, 3e38f, 1e-40f, -1};
    uint8_t bytes[20];
    float back[5];
    const struct hm_codec *none = hm_codec_find(HM_CODEC_NONE);
    assert_ok(hm_codec_encode(none, source, 5, NULL, 1, bytes));
    assert_memory_equal(source, bytes, sizeof source);
    assert_ok(hm_codec_decode(none, bytes, 5, NULL, NULL, 1, back));
    assert_memory_equal(source, back, sizeof back);
}

static void fill_normal(struct hm_rng *rng, float *value, size_t count)
{
    for (size_t i = 0; i < count; i++) value[i] = hm_rng_normal(rng);
}

/* sqrt(sum of squared errors / sum of squares) of Gaussian rows through a codec. */
static double gaussian_error(uint8_t id, uint32_t columns)
{
    static float source[16 * COLUMNS_MAX], back[16 * COLUMNS_MAX];
    static uint8_t coded[16 * 4 * COLUMNS_MAX];
    struct hm_rng rng;
    double error = 0, size = 0;
    hm_rng_init(&rng, 7, columns);
    fill_normal(&rng, source, (size_t)16 * columns);
    assert_ok(hm_codec_encode(hm_codec_find(id), source, columns, NULL, 16, coded));
    assert_ok(hm_codec_decode(hm_codec_find(id), coded, columns, NULL, NULL, 16, back));
    for (size_t i = 0; i < (size_t)16 * columns; i++) {
        error += ((double)back[i] - source[i]) * ((double)back[i] - source[i]);
        size += (double)source[i] * source[i];
    }
    return sqrt(error / size);
}

static void errors_of_gaussian_rows_stay_in_their_bounds(void **state)
{
    (void)state;
    const uint32_t columns[] = {1, 2, 3, 64, 511, 512, 513, 1000, 1024, COLUMNS_MAX};
    for (unsigned i = 0; i < 10; i++) {
        assert_true(gaussian_error(HM_CODEC_NONE, columns[i]) == 0);
        assert_true(gaussian_error(HM_CODEC_F16, columns[i]) <= 0.0005);
        assert_true(gaussian_error(HM_CODEC_BF16, columns[i]) <= 0.004);
        assert_true(gaussian_error(HM_CODEC_U8, columns[i]) <= 0.01);
    }
    assert_true(gaussian_error(HM_CODEC_U8, 1024) >= 0.005); /* it is not another codec */
}

static void u8_errs_by_half_a_step_of_its_block_at_most(void **state)
{
    (void)state;
    static float source[COLUMNS_MAX], back[COLUMNS_MAX];
    static uint8_t coded[4 * COLUMNS_MAX];
    const struct hm_codec *u8 = hm_codec_find(HM_CODEC_U8);
    struct hm_rng rng;
    hm_rng_init(&rng, 8, 0);
    for (unsigned round = 0; round < 200; round++) {
        uint32_t columns = 3 + (uint32_t)hm_rng_below(&rng, COLUMNS_MAX - 3);
        float size = ldexpf(1, (int)hm_rng_below(&rng, 200) - 100);
        float shift = size * (float)hm_rng_below(&rng, 100);
        for (uint32_t i = 0; i < columns; i++)
            source[i] = hm_rng_normal(&rng) * size + (round % 2 ? shift : 0);
        assert_ok(hm_codec_encode(u8, source, columns, NULL, 1, coded));
        assert_ok(hm_codec_decode(u8, coded, columns, NULL, NULL, 1, back));
        for (uint32_t first = 0; first < columns; first += HM_CODEC_BLOCK) {
            uint32_t end = first + HM_CODEC_BLOCK < columns ? first + HM_CODEC_BLOCK : columns;
            float low = source[first], high = source[first];
            for (uint32_t i = first; i < end; i++) {
                if (source[i] < low) low = source[i];
                if (source[i] > high) high = source[i];
            }
            /* Half a step, and what f32 rounds away at this size. */
            double largest = fmax(fabs((double)low), fabs((double)high));
            double bound = ((double)high - low) / 255 * 0.5001 + largest * 4 * FLT_EPSILON;
            for (uint32_t i = first; i < end; i++) assert_near(back[i], source[i], bound);
        }
    }
}

static void rows_of_one_value_come_back_as_they_are(void **state)
{
    (void)state;
    const float values[] = {0, 1, -3.25f, 1e-30f, -1e30f, 1e-42f, FLT_MAX, -FLT_MAX, FLT_MIN};
    const struct hm_codec *u8 = hm_codec_find(HM_CODEC_U8);
    for (unsigned v = 0; v < 9; v++) {
        for (uint32_t columns = 1; columns <= 1030; columns += 7) {
            float source[1030], back[1030];
            uint8_t coded[4 * 1030];
            for (uint32_t i = 0; i < columns; i++) source[i] = values[v];
            assert_ok(hm_codec_encode(u8, source, columns, NULL, 1, coded));
            assert_ok(hm_codec_decode(u8, coded, columns, NULL, NULL, 1, back));
            assert_memory_equal(source, back, columns * sizeof(float));
        }
    }
}

static void values_beyond_a_half_become_its_largest(void **state)
{
    (void)state;
    const float source[4] = {1e6f, -1e6f, 65519.9f, FLT_MAX};
    uint8_t coded[8];
    float back[4];
    assert_ok(hm_codec_encode(hm_codec_find(HM_CODEC_F16), source, 4, NULL, 1, coded));
    assert_ok(hm_codec_decode(hm_codec_find(HM_CODEC_F16), coded, 4, NULL, NULL, 1, back));
    assert_true(back[0] == 65504 && back[1] == -65504 && back[2] == 65504 && back[3] == 65504);
    assert_ok(hm_codec_encode(hm_codec_find(HM_CODEC_BF16), source, 4, NULL, 1, coded));
    assert_ok(hm_codec_decode(hm_codec_find(HM_CODEC_BF16), coded, 4, NULL, NULL, 1, back));
    assert_true(back[3] <= FLT_MAX && back[3] > 3.3e38f);
}

static void values_that_are_not_finite_are_refused_wherever_they_stand(void **state)
{
    (void)state;
    static float source[COLUMNS_MAX], back[COLUMNS_MAX];
    static uint8_t coded[4 * COLUMNS_MAX];
    const float wrong[] = {NAN, -NAN, INFINITY, -INFINITY};
    const uint32_t columns[] = {1, 2, 3, 31, 32, 33, 512, 700};
    struct hm_rng rng;
    hm_rng_init(&rng, 9, 0);
    fill_normal(&rng, source, COLUMNS_MAX);
    for (unsigned c = 0; c < 8; c++) {
        for (uint32_t at = 0; at < columns[c]; at++) {
            float kept = source[at];
            source[at] = wrong[at % 4];
            for (uint8_t id = HM_CODEC_F16; id < HM_CODEC_COUNT; id++) {
                const struct hm_codec *codec = hm_codec_find(id);
                if (id == HM_CODEC_U8 && columns[c] <= 2) continue; /* plain: its receiver's */
                assert_status(hm_codec_encode(codec, source, columns[c], NULL, 1, coded),
                              HM_ERR_NUMERIC);
            }
            assert_status(hm_codec_decode(hm_codec_find(HM_CODEC_NONE), source, columns[c], NULL,
                                          NULL, 1, back),
                          HM_ERR_NUMERIC);
            source[at] = kept;
        }
    }
}

static void a_block_wider_than_f32_is_refused_and_the_widest_is_not(void **state)
{
    (void)state;
    const struct hm_codec *u8 = hm_codec_find(HM_CODEC_U8);
    float source[40] = {0}, back[40];
    uint8_t coded[4 * 40];
    source[3] = 3e38f;
    source[30] = -3e38f;
    assert_status(hm_codec_encode(u8, source, 40, NULL, 1, coded), HM_ERR_NUMERIC);
    source[30] = -0.3e38f;
    assert_ok(hm_codec_encode(u8, source, 40, NULL, 1, coded));
    assert_ok(hm_codec_decode(u8, coded, 40, NULL, NULL, 1, back));
    assert_near(back[3] / 1e38, 3, 0.01);
}

static void headers_that_reach_beyond_f32_are_refused(void **state)
{
    (void)state;
    const struct hm_codec *u8 = hm_codec_find(HM_CODEC_U8);
    const struct {
        float low, step;
        enum hm_status wanted;
    } rows[] = {{0, 1, HM_OK},
                {5, -1, HM_OK}, /* nobody sends it, and it means something */
                {NAN, 1, HM_ERR_NUMERIC},
                {0, NAN, HM_ERR_NUMERIC},
                {INFINITY, 0, HM_ERR_NUMERIC},
                {-INFINITY, INFINITY, HM_ERR_NUMERIC},
                {0, FLT_MAX / 100, HM_ERR_NUMERIC},
                {FLT_MAX, FLT_MAX / 1000, HM_ERR_NUMERIC},
                {-FLT_MAX, FLT_MAX / 300, HM_OK},
                {1e-45f, 1e-45f, HM_OK}};
    for (unsigned i = 0; i < 10; i++) {
        uint8_t coded[8 + 100];
        float back[100];
        memset(coded, 0xff, sizeof coded);
        memcpy(coded, &rows[i].low, 4);
        memcpy(coded + 4, &rows[i].step, 4);
        assert_status(hm_codec_decode(u8, coded, 100, NULL, NULL, 1, back), rows[i].wanted);
        if (rows[i].wanted == HM_OK) assert_true(isfinite(back[0]) && isfinite(back[99]));
    }
}

static void a_scale_that_leads_beyond_f32_is_refused(void **state)
{
    (void)state;
    float source[40], back[40], large = 1e38f, small = 0.5f;
    uint8_t coded[4 * 40];
    for (unsigned i = 0; i < 40; i++) source[i] = i == 17 ? 100 : 1e-3f;
    for (uint8_t id = 0; id < HM_CODEC_COUNT; id++) {
        const struct hm_codec *codec = hm_codec_find(id);
        assert_ok(hm_codec_encode(codec, source, 40, NULL, 1, coded));
        assert_status(hm_codec_decode(codec, coded, 40, NULL, &large, 1, back), HM_ERR_NUMERIC);
        assert_ok(hm_codec_decode(codec, coded, 40, NULL, &small, 1, back));
        assert_near(back[17], 50, 0.2);
    }
}

/* Encode takes the rows of a list out of a matrix; decode takes a list of coded rows, each with its
 * factor.  Both are what one row at a time would be. */
static void rows_are_gathered_and_scaled_by_their_lists(void **state)
{
    (void)state;
    enum { ROWS = 9, COLUMNS = 37, TAKEN = 6 };
    const uint32_t index[TAKEN] = {8, 0, 3, 3, 1, 7}, second[TAKEN] = {5, 5, 0, 2, 4, 1};
    const float scale[TAKEN] = {1, -2, 0.25f, 0, 3, 1e-3f};
    float source[ROWS * COLUMNS], back[TAKEN * COLUMNS], alone[COLUMNS];
    struct hm_rng rng;
    hm_rng_init(&rng, 10, 0);
    fill_normal(&rng, source, ROWS * COLUMNS);
    for (uint8_t id = 0; id < HM_CODEC_COUNT; id++) {
        const struct hm_codec *codec = hm_codec_find(id);
        size_t row_bytes = hm_codec_row_bytes(codec, COLUMNS);
        uint8_t coded[TAKEN * 4 * COLUMNS], one[4 * COLUMNS];
        assert_ok(hm_codec_encode(codec, source, COLUMNS, index, TAKEN, coded));
        for (unsigned i = 0; i < TAKEN; i++) {
            assert_ok(hm_codec_encode(codec, source + index[i] * COLUMNS, COLUMNS, NULL, 1, one));
            assert_memory_equal(coded + i * row_bytes, one, row_bytes);
        }
        assert_ok(hm_codec_decode(codec, coded, COLUMNS, second, scale, TAKEN, back));
        for (unsigned i = 0; i < TAKEN; i++) {
            assert_ok(hm_codec_decode(codec, coded + second[i] * row_bytes, COLUMNS, NULL,
                                      &scale[i], 1, alone));
            assert_memory_equal(back + (size_t)i * COLUMNS, alone, sizeof alone);
        }
    }
}

static void no_rows_are_no_bytes(void **state)
{
    (void)state;
    for (uint8_t id = 0; id < HM_CODEC_COUNT; id++) {
        assert_ok(hm_codec_encode(hm_codec_find(id), NULL, 4, NULL, 0, NULL));
        assert_ok(hm_codec_decode(hm_codec_find(id), NULL, 4, NULL, NULL, 0, NULL));
    }
}

static void a_value_that_is_not_finite_is_found_wherever_it_lies(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    static uint8_t bytes[COUNT * sizeof(float) + 1];
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY}, good[] = {FLT_MAX, -FLT_MAX, 0, FLT_MIN};
    for (unsigned shift = 0; shift < 2; shift++) { /* unaligned too */
        uint8_t *values = bytes + shift;
        for (size_t i = 0; i < COUNT; i++)
            memcpy(values + i * sizeof(float), &good[i % 4], sizeof(float));
        assert_true(hm_f32_all_finite(values, COUNT));
        assert_true(hm_f32_all_finite(values, 0));
        for (size_t i = 0; i < COUNT; i += i < 10 || i > 2980 ? 1 : 53) {
            memcpy(values + i * sizeof(float), &bad[i % 4], sizeof(float));
            assert_false(hm_f32_all_finite(values, COUNT));
            assert_true(hm_f32_all_finite(values, i));
            memcpy(values + i * sizeof(float), &good[i % 4], sizeof(float));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_that_is_not_finite_is_found_wherever_it_lies),
        cmocka_unit_test(codecs_are_found_by_id_and_by_name),
        cmocka_unit_test(unknown_codecs_are_refused_by_name),
        cmocka_unit_test(a_set_always_has_none_and_names_what_it_does_not_know),
        cmocka_unit_test(no_codec_makes_a_row_longer),
        cmocka_unit_test(u8_takes_at_most_26_of_100_bytes_of_rows_of_1024),
        cmocka_unit_test(none_gives_back_every_bit),
        cmocka_unit_test(errors_of_gaussian_rows_stay_in_their_bounds),
        cmocka_unit_test(u8_errs_by_half_a_step_of_its_block_at_most),
        cmocka_unit_test(rows_of_one_value_come_back_as_they_are),
        cmocka_unit_test(values_beyond_a_half_become_its_largest),
        cmocka_unit_test(values_that_are_not_finite_are_refused_wherever_they_stand),
        cmocka_unit_test(a_block_wider_than_f32_is_refused_and_the_widest_is_not),
        cmocka_unit_test(headers_that_reach_beyond_f32_are_refused),
        cmocka_unit_test(a_scale_that_leads_beyond_f32_is_refused),
        cmocka_unit_test(rows_are_gathered_and_scaled_by_their_lists),
        cmocka_unit_test(no_rows_are_no_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
