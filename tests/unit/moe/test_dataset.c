/* Data files are read, shuffled, split and scaled the same everywhere; a bad one is refused with
 * the line that is bad. */
#include "test.h"

#include "base/assert.h"
#include "moe/dataset.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>
#include <zlib.h>

static char path[64];

static const char *write_plain(const char *text)
{
    strcpy(path, "/tmp/hm-dataset-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    return path;
}

static void refused(const char *text, enum hm_status status, const char *line)
{
    struct hm_dataset data = {.row_count = 77};
    enum hm_status got = hm_dataset_load(write_plain(text), 1, 0.8, &data);
    unlink(path);
    if (got != status || !strstr(hm_fail_line(), line))
        fail_msg("'%s' gave %s: %s", text, hm_status_name(got), hm_fail_line());
    assert_int_equal(data.row_count, 77); /* untouched */
}

static void a_file_is_split_and_scaled_by_its_training_part(void **state)
{
    (void)state;
    struct hm_dataset data;
    assert_ok(hm_dataset_load(
        write_plain("# comment\n4,-2,0,1\n8,1,0,0\r\n\n 2, 0.5 ,0,2\n1,-1,0,1\n16,4,0,0"), 5, 0.8,
        &data));
    unlink(path);
    assert_int_equal(data.row_count, 5);
    assert_int_equal(data.train_count, 4);
    assert_int_equal(data.columns, 3);
    assert_int_equal(data.class_count, 3);
    for (uint32_t k = 0; k < 2; k++) {
        float largest = 0;
        for (uint32_t row = 0; row < 4; row++)
            largest = fmaxf(largest, fabsf(data.feature[row * 3 + k]));
        assert_true(fabsf(largest - 1.f) < 1e-6f);
    }
    for (uint32_t row = 0; row < 5; row++) {
        assert_true(data.feature[row * 3 + 2] == 0); /* a column of zeros stays */
        assert_true(data.label[row] >= 0 && data.label[row] < 3);
    }
    hm_dataset_fini(&data);
}

static void rows_keep_their_labels_through_the_shuffle(void **state)
{
    (void)state;
    char text[8192];
    size_t used = 0;
    for (unsigned i = 1; i <= 200; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%u,%u,%u\n", i, 1000 - i, i);
    struct hm_dataset data;
    assert_ok(hm_dataset_load(write_plain(text), 9, 0.5, &data));
    unlink(path);
    float scale = 0;
    unsigned moved = 0;
    uint8_t seen[201] = {0};
    for (uint32_t row = 0; row < 100; row++) scale = fmaxf(scale, (float)data.label[row]);
    for (uint32_t row = 0; row < 200; row++) {
        assert_true(fabsf(data.feature[row * 2] * scale - (float)data.label[row]) < 1e-2f);
        assert_int_equal(seen[data.label[row]]++, 0);
        moved += data.label[row] != (int64_t)row + 1;
    }
    assert_true(moved > 150);
    hm_dataset_fini(&data);
}

static void equal_seeds_give_equal_parts_and_others_do_not(void **state)
{
    (void)state;
    struct hm_dataset a, b, c;
    assert_ok(hm_dataset_load(HM_SOURCE_DIR "/data/digits.csv.gz", 1, 0.8, &a));
    assert_ok(hm_dataset_load(HM_SOURCE_DIR "/data/digits.csv.gz", 1, 0.8, &b));
    assert_ok(hm_dataset_load(HM_SOURCE_DIR "/data/digits.csv.gz", 2, 0.8, &c));
    assert_int_equal(a.row_count, 1797);
    assert_int_equal(a.train_count, 1437);
    assert_int_equal(a.columns, 64);
    assert_int_equal(a.class_count, 10);
    assert_memory_equal(a.label, b.label, a.row_count * sizeof *a.label);
    assert_memory_equal(a.feature, b.feature, (size_t)a.row_count * a.columns * sizeof *a.feature);
    assert_memory_not_equal(a.label, c.label, a.row_count * sizeof *a.label);
    for (size_t i = 0; i < (size_t)a.train_count * a.columns; i++)
        assert_true(a.feature[i] >= 0 && a.feature[i] <= 1);
    hm_dataset_fini(&a);
    hm_dataset_fini(&b);
    hm_dataset_fini(&c);
}

static void a_bad_line_is_named(void **state)
{
    (void)state;
    refused("1,2,0\n1,2,3,0\n", HM_ERR_INVALID, "line 2: 4 columns, the lines before have 3");
    refused("1,2,0\n# x\n1,0\n", HM_ERR_INVALID, "line 3: 2 columns");
    refused("a,b,label\n1,2,0\n", HM_ERR_INVALID, "header");
    refused("1,2,0\n1,x,0\n", HM_ERR_INVALID, "line 2, column 2: 'x' is not a number");
    refused("1,,0\n1,2,0\n", HM_ERR_INVALID, "line 1, column 2");
    refused("1,nan,0\n1,2,0\n", HM_ERR_INVALID, "line 1, column 2");
    refused("1,1e999,0\n1,2,0\n", HM_ERR_INVALID, "line 1, column 2");
    refused("1,2,0\n1,2,-1\n", HM_ERR_INVALID, "line 2: the label '-1'");
    refused("1,2,0\n1,2,1.5\n", HM_ERR_INVALID, "line 2: the label '1.5'");
    refused("1,2,0\n1,2,65536\n", HM_ERR_INVALID, "line 2: the label '65536'");
    refused("1,2,0\n1,2,\n", HM_ERR_INVALID, "line 2: the label ''");
    refused("1\n2\n", HM_ERR_INVALID, "one column only");
}

static void an_empty_or_missing_file_is_refused(void **state)
{
    (void)state;
    refused("", HM_ERR_INVALID, "0 rows");
    refused("\n# nothing\n", HM_ERR_INVALID, "0 rows");
    refused("1,2,0\n", HM_ERR_INVALID, "at least two");
    refused("1,2,7\n3,4,7\n5,6,7\n", HM_ERR_INVALID, "the label 7 in every row");
    struct hm_dataset data;
    assert_status(hm_dataset_load("/nonexistent/x.csv", 1, 0.8, &data), HM_ERR_NOT_FOUND);
    assert_non_null(strstr(hm_fail_line(), "/nonexistent/x.csv"));
    assert_status(hm_dataset_load("/tmp", 1, 0.8, &data), HM_ERR_CORRUPT); /* a folder */
    assert_status(hm_dataset_load(write_plain("1,0\n2,1\n"), 1, 1.5, &data), HM_ERR_INVALID);
    unlink(path);
}

static void a_gzip_file_that_was_cut_is_refused(void **state)
{
    (void)state;
    (void)write_plain("");
    gzFile file = gzopen(path, "wb");
    assert_non_null(file);
    for (unsigned i = 0; i < 20000; i++)
        gzprintf(file, "%u,%u,%u\n", i * 7919 % 1000, i * 104729 % 997, i % 10);
    assert_int_equal(gzclose(file), Z_OK);
    struct hm_dataset data;
    assert_ok(hm_dataset_load(path, 1, 0.8, &data));
    assert_int_equal(data.row_count, 20000);
    hm_dataset_fini(&data);
    FILE *plain = fopen(path, "rb");
    fseek(plain, 0, SEEK_END);
    long bytes = ftell(plain);
    fclose(plain);
    assert_int_equal(truncate(path, bytes / 2), 0);
    assert_status(hm_dataset_load(path, 1, 0.8, &data), HM_ERR_CORRUPT);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_split_and_scaled_by_its_training_part),
        cmocka_unit_test(rows_keep_their_labels_through_the_shuffle),
        cmocka_unit_test(equal_seeds_give_equal_parts_and_others_do_not),
        cmocka_unit_test(a_bad_line_is_named),
        cmocka_unit_test(an_empty_or_missing_file_is_refused),
        cmocka_unit_test(a_gzip_file_that_was_cut_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
