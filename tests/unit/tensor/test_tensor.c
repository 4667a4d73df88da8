/* Sizes, names and wire form of shapes and schemas. */
#include "test.h"

#include "base/assert.h"
#include "tensor/tensor.h"

static void every_dtype_is_found_by_its_name(void **state)
{
    (void)state;
    for (unsigned i = 0; i < HM_DTYPE_COUNT; i++) {
        enum hm_dtype dtype = HM_DTYPE_COUNT;
        assert_ok(hm_dtype_parse(hm_dtype_name((enum hm_dtype)i), &dtype));
        assert_int_equal(dtype, i);
    }
    assert_int_equal(hm_dtype_bytes(HM_F32), 4);
    assert_int_equal(hm_dtype_bytes(HM_F16), 2);
    assert_int_equal(hm_dtype_bytes(HM_BF16), 2);
    assert_int_equal(hm_dtype_bytes(HM_I64), 8);
    enum hm_dtype untouched = HM_BF16;
    assert_status(hm_dtype_parse("f64", &untouched), HM_ERR_INVALID);
    assert_int_equal(untouched, HM_BF16);
    assert_non_null(strstr(hm_fail_line(), "f64"));
}

static void elements_are_the_product_of_the_dims(void **state)
{
    (void)state;
    uint64_t elements = 0;
    assert_ok(hm_shape_elements(&(struct hm_shape){0}, &elements));
    assert_int_equal(elements, 1);
    assert_ok(hm_shape_elements(&(struct hm_shape){3, {2, 3, 5}}, &elements));
    assert_int_equal(elements, 30);
    assert_ok(hm_shape_elements(&(struct hm_shape){2, {1u << 24, 1u << 24}}, &elements));
    assert_true(elements == (uint64_t)1 << 48);
}

static void a_product_past_2_to_48_is_too_big_and_a_zero_dim_is_zero(void **state)
{
    (void)state;
    uint64_t elements = 77;
    struct hm_shape huge = {4, {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}};
    assert_status(hm_shape_elements(&huge, &elements), HM_ERR_TOO_BIG);
    struct hm_shape wraps_to_zero = {4, {1u << 31, 1u << 31, 4, 1}};
    assert_status(hm_shape_elements(&wraps_to_zero, &elements), HM_ERR_TOO_BIG);
    struct hm_shape just_over = {2, {1u << 24, (1u << 24) + 1}};
    assert_status(hm_shape_elements(&just_over, &elements), HM_ERR_TOO_BIG);
    struct hm_shape too_many_dims = {HM_DIMS_MAX + 1, {1, 1, 1, 1}};
    assert_status(hm_shape_elements(&too_many_dims, &elements), HM_ERR_TOO_BIG);
    assert_int_equal(elements, 77);
    huge.dim[3] = 0;
    assert_ok(hm_shape_elements(&huge, &elements));
    assert_int_equal(elements, 0);
}

static struct hm_schema mixed_schema(void)
{
    struct hm_schema schema = {.count = 3, .dtype = {HM_F32, HM_I64, HM_BF16}};
    schema.row[0] = (struct hm_shape){1, {1024}};
    schema.row[1] = (struct hm_shape){0};
    schema.row[2] = (struct hm_shape){2, {4, 16}};
    return schema;
}

static void row_bytes_count_every_tensor(void **state)
{
    (void)state;
    struct hm_schema schema = mixed_schema();
    uint64_t bytes = 0;
    assert_ok(hm_schema_row_bytes(&schema, &bytes));
    assert_int_equal(bytes, 1024 * 4 + 8 + 4 * 16 * 2);
    schema.row[2] = (struct hm_shape){4, {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}};
    assert_status(hm_schema_row_bytes(&schema, &bytes), HM_ERR_TOO_BIG);
}

static void schemas_that_differ_anywhere_are_not_equal(void **state)
{
    (void)state;
    struct hm_schema a = mixed_schema(), b = mixed_schema();
    assert_true(hm_schema_equal(&a, &b));
    b.row[2].dim[1] = 17;
    assert_false(hm_schema_equal(&a, &b));
    b = mixed_schema();
    b.dtype[1] = HM_F32;
    assert_false(hm_schema_equal(&a, &b));
    b = mixed_schema();
    b.row[1] = (struct hm_shape){1, {1}};
    assert_false(hm_schema_equal(&a, &b));
    b = mixed_schema();
    b.count = 2;
    assert_false(hm_schema_equal(&a, &b));
    /* what lies behind the counts is not looked at */
    b = mixed_schema();
    b.row[0].dim[3] = 9;
    assert_true(hm_schema_equal(&a, &b));
}

static void a_schema_reads_as_text_and_is_cut_to_fit(void **state)
{
    (void)state;
    char text[64];
    struct hm_schema schema = hm_schema_f32(1024);
    assert_string_equal(hm_schema_text(&schema, text, sizeof text), "f32[1024]");
    schema = mixed_schema();
    assert_string_equal(hm_schema_text(&schema, text, sizeof text), "f32[1024], i64[], bf16[4x16]");
    assert_string_equal(hm_schema_text(&schema, text, 8), "f32[102");
    assert_string_equal(hm_schema_text(&schema, text, 1), "");
}

static void a_schema_survives_the_wire(void **state)
{
    (void)state;
    uint8_t bytes[128];
    struct hm_schema sent = mixed_schema(), got;
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_schema_encode(&sent, &writer);
    assert_true(hm_writer_ok(&writer));
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, hm_writer_count(&writer));
    hm_schema_decode(&reader, &got);
    assert_true(hm_reader_ended(&reader));
    assert_true(hm_schema_equal(&sent, &got));
    /* every proper prefix fails, and leaves an empty schema */
    for (size_t count = 0; count < hm_writer_count(&writer); count++) {
        hm_reader_init(&reader, bytes, count);
        hm_schema_decode(&reader, &got);
        assert_false(hm_reader_ok(&reader));
        assert_int_equal(got.count, 0);
    }
}

static void a_schema_that_makes_no_sense_fails_the_reader(void **state)
{
    (void)state;
    const uint8_t bad[][20] = {
        {HM_TENSORS_MAX + 1},
        {1, HM_DTYPE_COUNT, 1, 1, 0, 0, 0},
        {1, HM_F32, HM_DIMS_MAX + 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1},
        {1, HM_F32, 4, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
         255},
    };
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        struct hm_reader reader;
        struct hm_schema got;
        hm_reader_init(&reader, bad[i], sizeof bad[i]);
        hm_schema_decode(&reader, &got);
        assert_false(hm_reader_ok(&reader));
        assert_int_equal(got.count, 0);
    }
}

static void columns_are_the_elements_of_a_row(void **state)
{
    (void)state;
    float data[24];
    struct hm_tensor t = hm_matrix_f32(data, 4, 6);
    assert_int_equal(hm_rows(&t), 4);
    assert_int_equal(hm_columns(&t), 6);
    assert_int_equal(t.data.bytes, sizeof data);
    assert_ptr_equal(hm_f32(&t), data);
    t.shape = (struct hm_shape){3, {4, 2, 3}};
    assert_int_equal(hm_columns(&t), 6);
    t.shape = (struct hm_shape){1, {24}};
    assert_int_equal(hm_columns(&t), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_is_found_by_its_name),
        cmocka_unit_test(elements_are_the_product_of_the_dims),
        cmocka_unit_test(a_product_past_2_to_48_is_too_big_and_a_zero_dim_is_zero),
        cmocka_unit_test(row_bytes_count_every_tensor),
        cmocka_unit_test(schemas_that_differ_anywhere_are_not_equal),
        cmocka_unit_test(a_schema_reads_as_text_and_is_cut_to_fit),
        cmocka_unit_test(a_schema_survives_the_wire),
        cmocka_unit_test(a_schema_that_makes_no_sense_fails_the_reader),
        cmocka_unit_test(columns_are_the_elements_of_a_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
