/* The scalar kernels round as the formats say; every vectorised one gives their bits. */
#include "test.h"

#include "base/rng.h"
#include "tensor/codec_kernels.h"
#include "tensor/codec_value.h"

#include <stdio.h>

enum { COLUMNS_MAX = 1600, CODED_MAX = 4 * COLUMNS_MAX };

/* ---- the scalar kernels ---------------------------------------------------------------------- */

static uint16_t half_of(unsigned codec, float value)
{
    uint16_t half;
    (void)hm_codec_kernels_scalar.encode[codec](&value, 1, &half);
    return half;
}

static float value_of(unsigned codec, uint16_t half, bool *finite)
{
    float value;
    *finite = hm_codec_kernels_scalar.decode[codec](&half, 1, 1, &value);
    return value;
}

/* What an IEEE format of these many bits of exponent and fraction says of a half. */
static double meaning(uint16_t half, int exponent_bits, int fraction_bits)
{
    int exponent = half >> fraction_bits & ((1 << exponent_bits) - 1);
    int fraction = half & ((1 << fraction_bits) - 1), bias = (1 << (exponent_bits - 1)) - 1;
    double value = exponent == 0
                       ? ldexp(fraction, 1 - bias - fraction_bits)
                       : ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
    return half & 0x8000 ? -value : value;
}

static void check_halves(unsigned codec, int exponent_bits, int fraction_bits)
{
    unsigned infinite = ((1u << exponent_bits) - 1) << fraction_bits;
    for (unsigned half = 0; half <= 0xffff; half++) {
        bool finite, expected = (half & 0x7fff) < infinite;
        float value = value_of(codec, (uint16_t)half, &finite);
        assert_int_equal(finite, expected);
        if (!finite) continue;
        assert_true((double)value == meaning((uint16_t)half, exponent_bits, fraction_bits));
        assert_int_equal(half_of(codec, value), half);
        if ((half & 0x7fff) + 1 >= infinite) continue;
        /* Half-way to the next one goes to the even one, anything beside it to the nearer. */
        float next = value_of(codec, (uint16_t)(half + 1), &finite);
        float middle = (float)(((double)value + next) / 2);
        assert_int_equal(half_of(codec, middle), half & 1 ? half + 1 : half);
        assert_int_equal(half_of(codec, nextafterf(middle, next)), half + 1);
        assert_int_equal(half_of(codec, nextafterf(middle, value)), half);
    }
}

static void every_f16_is_what_ieee_says_and_rounding_is_to_nearest_even(void **state)
{
    (void)state;
    check_halves(HM_CODEC_F16, 5, 10);
}

static void every_bf16_is_the_upper_half_of_an_f32_and_rounding_is_to_nearest_even(void **state)
{
    (void)state;
    check_halves(HM_CODEC_BF16, 8, 7);
}

static void a_u8_block_spans_its_extremes_exactly(void **state)
{
    (void)state;
    float row[600];
    uint8_t coded[600 + 16];
    struct hm_u8_block block;
    for (unsigned i = 0; i < 600; i++) row[i] = (float)(i * 37 % 600);
    assert_true(hm_codec_kernels_scalar.encode[HM_CODEC_U8](row, 600, coded));
    assert_true(hm_u8_block_load(coded, 1, &block));
    assert_true(block.low == 0);
    for (unsigned i = 0; i < 512; i++) {
        if (row[i] == 0) assert_int_equal(coded[8 + i], 0);
    }
    assert_true(hm_u8_block_load(coded + 520, 1, &block)); /* the 88 columns that are left */
    assert_true(block.step > 0 && block.low + 255 * block.step <= 600);
}

/* ---- the others ------------------------------------------------------------------------------ */

enum data { NORMAL, BITS, SUBNORMAL, ONE_VALUE, ZEROS, OUTLIER, WIDE, NARROW, HALVES, DATA_COUNT };

static float draw(struct hm_rng *rng, enum data data, uint32_t at)
{
    switch (data) {
    case NORMAL: return hm_rng_normal(rng);
    case BITS: /* any finite value */
        for (;;) {
            float value = hm_f32_of_bits((uint32_t)hm_rng_next(rng));
            if (hm_f32_finite(value)) return value;
        }
    case SUBNORMAL:
        return hm_f32_of_bits((uint32_t)hm_rng_next(rng) & 0x807fffff) * (at % 3 ? 1 : 3000);
    case ONE_VALUE: return -1.7e5f;
    case ZEROS: return hm_rng_below(rng, 2) ? 0.0f : -0.0f;
    case OUTLIER: return hm_rng_below(rng, 100) ? hm_rng_normal(rng) : 1e4f * hm_rng_normal(rng);
    case WIDE: return ldexpf(hm_rng_normal(rng), (int)hm_rng_below(rng, 240) - 120);
    case NARROW: return 1000 + 1e-3f * hm_rng_normal(rng);
    case HALVES: /* ties between two codes of a u8 block, and half-way between two halves */
        return (float)hm_rng_below(rng, 511) / 2;
    case DATA_COUNT: break;
    }
    return 0;
}

static const uint32_t shapes[] = {1,   2,   3,   4,    5,    7,    8,    9,    15,   16,
                                  17,  31,  32,  33,   63,   64,   65,   100,  127,  128,
                                  129, 255, 256, 257,  300,  511,  512,  513,  515,  543,
                                  544, 577, 768, 1000, 1023, 1024, 1025, 1100, 1537, COLUMNS_MAX};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* The kernels other than the scalar ones; where there are none the case is skipped. */
static unsigned vectorised(const struct hm_codec_kernels *list[HM_CODEC_KERNELS_MAX])
{
    unsigned count = hm_codec_kernels_list(list);
    assert_ptr_equal(list[count - 1], &hm_codec_kernels_scalar);
    if (count == 1) {
        print_message("SKIP: this processor has no instructions that codecs are written for\n");
        skip();
    }
    return count - 1;
}

static void same_bits(const struct hm_codec_kernels *kernels, unsigned codec, const float *row,
                      uint32_t columns, float scale)
{
    static uint8_t wanted[CODED_MAX + 1], got[CODED_MAX + 1];
    static float wanted_back[COLUMNS_MAX], back[COLUMNS_MAX];
    const struct hm_codec_kernels *scalar = &hm_codec_kernels_scalar;
    size_t bytes = hm_codec_row_bytes(hm_codec_find((uint8_t)codec), columns);
    bool fits = scalar->encode[codec](row, columns, wanted + 1);
    memset(got, 0x5a, sizeof got);
    if (kernels->encode[codec](row, columns, got + 1) != fits)
        fail_msg("%s, codec %u, %u columns: refused by one alone", kernels->name, codec, columns);
    if (!fits) return;
    if (memcmp(wanted + 1, got + 1, bytes) != 0)
        fail_msg("%s, codec %u, %u columns: other bytes", kernels->name, codec, columns);
    assert_true(bytes == CODED_MAX || got[1 + bytes] == 0x5a); /* and none behind them */
    bool finite = scalar->decode[codec](wanted + 1, columns, scale, wanted_back);
    if (kernels->decode[codec](got + 1, columns, scale, back) != finite)
        fail_msg("%s, codec %u, %u columns: not decoded", kernels->name, codec, columns);
    if (finite && memcmp(wanted_back, back, columns * sizeof *back) != 0)
        fail_msg("%s, codec %u, %u columns: other values", kernels->name, codec, columns);
}

static void every_kernel_gives_the_scalar_bits_for_every_shape(void **state)
{
    (void)state;
    static float row[COLUMNS_MAX];
    const struct hm_codec_kernels *list[HM_CODEC_KERNELS_MAX];
    const float scales[] = {1, 0.37f, -2.5f, 0, 1e-30f, 1e30f};
    unsigned count = vectorised(list);
    struct hm_rng rng;
    hm_rng_init(&rng, 11, 0);
    for (unsigned round = 0; round < 6; round++) {
        for (unsigned s = 0; s < SHAPES; s++) {
            for (enum data data = 0; data < DATA_COUNT; data++) {
                for (uint32_t i = 0; i < shapes[s]; i++) row[i] = draw(&rng, data, i);
                for (unsigned k = 0; k < count; k++)
                    for (unsigned codec = 0; codec < HM_CODEC_COUNT; codec++)
                        same_bits(list[k], codec, row, shapes[s], scales[round]);
            }
        }
    }
}

static void every_kernel_refuses_what_the_scalar_ones_refuse(void **state)
{
    (void)state;
    static float row[COLUMNS_MAX];
    const struct hm_codec_kernels *list[HM_CODEC_KERNELS_MAX];
    const float wrong[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX};
    unsigned count = vectorised(list);
    struct hm_rng rng;
    hm_rng_init(&rng, 12, 0);
    for (unsigned s = 0; s < SHAPES; s++) {
        for (uint32_t i = 0; i < shapes[s]; i++) row[i] = hm_rng_normal(&rng);
        for (uint32_t at = 0; at < shapes[s]; at += 1 + shapes[s] / 90) {
            float kept = row[at];
            for (unsigned w = 0; w < 5; w++) {
                row[at] = wrong[w];
                for (unsigned k = 0; k < count; k++)
                    for (unsigned codec = 0; codec < HM_CODEC_COUNT; codec++)
                        same_bits(list[k], codec, row, shapes[s], 1);
            }
            row[at] = kept;
        }
    }
}

/* Every half at every place of a vector. */
static void every_kernel_decodes_every_half_alike(void **state)
{
    (void)state;
    const struct hm_codec_kernels *list[HM_CODEC_KERNELS_MAX];
    unsigned count = vectorised(list);
    for (unsigned k = 0; k < count; k++) {
        for (unsigned codec = HM_CODEC_F16; codec <= HM_CODEC_BF16; codec++) {
            for (unsigned first = 0; first <= 0xffff; first += 64) {
                uint16_t halves[64];
                float wanted[64], got[64];
                for (unsigned i = 0; i < 64; i++) halves[i] = (uint16_t)(first + i);
                bool finite = hm_codec_kernels_scalar.decode[codec](halves, 64, 1, wanted);
                assert_int_equal(list[k]->decode[codec](halves, 64, 1, got), finite);
                if (finite) assert_memory_equal(wanted, got, sizeof got);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_is_what_ieee_says_and_rounding_is_to_nearest_even),
        cmocka_unit_test(every_bf16_is_the_upper_half_of_an_f32_and_rounding_is_to_nearest_even),
        cmocka_unit_test(a_u8_block_spans_its_extremes_exactly),
        cmocka_unit_test(every_kernel_gives_the_scalar_bits_for_every_shape),
        cmocka_unit_test(every_kernel_refuses_what_the_scalar_ones_refuse),
        cmocka_unit_test(every_kernel_decodes_every_half_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
