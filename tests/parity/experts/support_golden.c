/* Reads stored values.  A file that is missing or damaged fails the test: these values are in the
 * repository. */
#include "support_golden.h"

#include "test.h"

#include <stdio.h>

static size_t read_file(const char *path, void **bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("no %s; python3 tools/make_goldens.py makes it", path);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long size = ftell(file);
    assert_true(size > 0);
    rewind(file);
    *bytes = malloc((size_t)size);
    assert_non_null(*bytes);
    assert_int_equal(fread(*bytes, 1, (size_t)size, file), size);
    fclose(file);
    return (size_t)size;
}

void golden_load(struct golden *golden, const char *path)
{
    struct hm_reader reader;
    size_t byte_count = read_file(path, &golden->bytes);
    hm_reader_init(&reader, golden->bytes, byte_count);
    const void *magic = hm_read_bytes(&reader, 8);
    assert_non_null(magic);
    assert_memory_equal(magic, "HMGOLD1", 8);
    golden->count = hm_read_u32(&reader);
    assert_in_range(golden->count, 1, GOLDEN_RECORDS_MAX);
    for (unsigned i = 0; i < golden->count; i++) {
        struct golden_record *record = &golden->record[i];
        hm_read_string(&reader, record->name, sizeof record->name);
        record->shape.dim_count = hm_read_u8(&reader);
        assert_in_range(record->shape.dim_count, 0, HM_DIMS_MAX);
        for (unsigned k = 0; k < record->shape.dim_count; k++)
            record->shape.dim[k] = hm_read_u32(&reader);
        assert_ok(hm_shape_elements(&record->shape, &record->elements));
        record->values = hm_read_bytes(&reader, record->elements * sizeof(float));
        assert_true(hm_reader_ok(&reader));
    }
    assert_true(hm_reader_ended(&reader));
}

void golden_free(struct golden *golden)
{
    free(golden->bytes);
    golden->bytes = NULL;
    golden->count = 0;
}

float *golden_get(const struct golden *golden, uint64_t elements, const char *format, ...)
{
    char name[GOLDEN_NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    for (unsigned i = 0; i < golden->count; i++) {
        const struct golden_record *record = &golden->record[i];
        if (strcmp(record->name, name) != 0) continue;
        if (record->elements != elements)
            fail_msg("%s has %llu values, not %llu", name, (unsigned long long)record->elements,
                     (unsigned long long)elements);
        float *values = malloc(elements * sizeof *values);
        assert_non_null(values);
        memcpy(values, record->values, elements * sizeof *values);
        return values;
    }
    fail_msg("%s is not stored; python3 tools/make_goldens.py makes the file again", name);
    return NULL;
}
