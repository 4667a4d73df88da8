/* moe/dataset.c - reading rows of numbers and a label, shuffling, splitting, scaling.
 *
 * Happy path:    lines through zlib (which reads plain files as well), numbers into one growing
 *                array, then a shuffle by the seed, so that equal seeds give equal parts on every
 *                machine.
 * Failure modes: each line that does not fit is named by its number; nothing is returned of a file
 *                with an error.
 * Invariants:    every value is finite; labels lie in [0, class_count). */
#include "moe/dataset.h"

#include "base/rng.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

struct reader {
    const char *path;
    gzFile file;
    char *line; /* HM_DATASET_LINE_BYTES_MAX */
    uint64_t line_number;
    struct hm_dataset data;
    size_t row_capacity;
};

static enum hm_status bad_file(struct reader *reader)
{
    int code;
    const char *text = gzerror(reader->file, &code);
    if (code == Z_ERRNO) text = strerror(errno);
    return hm_fail(HM_ERR_CORRUPT,
                   "%s cannot be read after line %" PRIu64 ": %s; is the file complete?",
                   reader->path, reader->line_number, text);
}

/* The next line without its end; *ended at the end of the file. */
static enum hm_status read_line(struct reader *reader, bool *ended)
{
    *ended = false;
    errno = 0;
    if (!gzgets(reader->file, reader->line, HM_DATASET_LINE_BYTES_MAX)) {
        int code;
        (void)gzerror(reader->file, &code);
        if (code != Z_OK && code != Z_STREAM_END) return bad_file(reader);
        *ended = true;
        return HM_OK;
    }
    reader->line_number++;
    size_t length = strlen(reader->line);
    if (length + 1 == HM_DATASET_LINE_BYTES_MAX && reader->line[length - 1] != '\n')
        return hm_fail(HM_ERR_TOO_BIG, "%s, line %" PRIu64 ": longer than %d bytes", reader->path,
                       reader->line_number, HM_DATASET_LINE_BYTES_MAX);
    while (length > 0 && (reader->line[length - 1] == '\n' || reader->line[length - 1] == '\r'))
        length--;
    reader->line[length] = '\0';
    return HM_OK;
}

static enum hm_status count_columns(struct reader *reader, const char *line)
{
    uint64_t fields = 1;
    for (const char *at = line; *at; at++) fields += *at == ',';
    if (fields < 2)
        return hm_fail(HM_ERR_INVALID,
                       "%s, line %" PRIu64
                       ": one column only; feature columns and then a label are "
                       "needed, separated by commas",
                       reader->path, reader->line_number);
    if (fields - 1 > HM_DATASET_COLUMNS_MAX)
        return hm_fail(HM_ERR_TOO_BIG,
                       "%s has %" PRIu64 " feature columns; at most %d are possible", reader->path,
                       fields - 1, HM_DATASET_COLUMNS_MAX);
    reader->data.columns = (uint32_t)(fields - 1);
    return HM_OK;
}

static enum hm_status make_room(struct reader *reader)
{
    struct hm_dataset *data = &reader->data;
    if (data->row_count < reader->row_capacity) return HM_OK;
    if (data->row_count > INT32_MAX / 2)
        return hm_fail(HM_ERR_TOO_BIG, "%s has more than 2^30 rows; split it", reader->path);
    size_t capacity = reader->row_capacity ? 2 * reader->row_capacity : 1024;
    float *feature = realloc(data->feature, capacity * data->columns * sizeof *feature);
    if (feature) data->feature = feature;
    int64_t *label = realloc(data->label, capacity * sizeof *label);
    if (label) data->label = label;
    if (!feature || !label)
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for %zu rows of %s", capacity, reader->path);
    reader->row_capacity = capacity;
    return HM_OK;
}

/* What stands in a field, short enough for an error line. */
static int field_length(const char *field)
{
    size_t length = strcspn(field, ",");
    return length > 32 ? 32 : (int)length;
}

static enum hm_status parse_label(struct reader *reader, const char *field, int64_t *label)
{
    char *end;
    errno = 0;
    long long value = strtoll(field, &end, 10);
    while (*end == ' ' || *end == '\t') end++;
    if (end == field || *end != '\0' || errno != 0 || value < 0 || value >= HM_DATASET_CLASSES_MAX)
        return hm_fail(HM_ERR_INVALID,
                       "%s, line %" PRIu64 ": the label '%.*s' is not an integer from 0 to %d",
                       reader->path, reader->line_number, field_length(field), field,
                       HM_DATASET_CLASSES_MAX - 1);
    *label = value;
    return HM_OK;
}

static enum hm_status ragged(struct reader *reader, const char *line)
{
    uint64_t fields = 1;
    for (const char *at = line; *at; at++) fields += *at == ',';
    return hm_fail(HM_ERR_INVALID,
                   "%s, line %" PRIu64 ": %" PRIu64 " columns, the lines before have %" PRIu32,
                   reader->path, reader->line_number, fields, reader->data.columns + 1);
}

static enum hm_status parse_line(struct reader *reader, const char *line)
{
    struct hm_dataset *data = &reader->data;
    float *row = data->feature + (size_t)data->row_count * data->columns;
    const char *field = line;
    for (uint32_t i = 0; i < data->columns; i++) {
        char *end;
        float value = strtof(field, &end);
        while (*end == ' ' || *end == '\t') end++;
        if (*end == '\0' && end != field) return ragged(reader, line);
        if (end == field || *end != ',' || !isfinite(value))
            return hm_fail(HM_ERR_INVALID,
                           "%s, line %" PRIu64 ", column %" PRIu32 ": '%.*s' is not a number%s",
                           reader->path, reader->line_number, i + 1, field_length(field), field,
                           reader->line_number == 1
                               ? " (a header is not understood: delete it, or put # before it)"
                               : "");
        row[i] = value;
        field = end + 1;
    }
    if (strchr(field, ',')) return ragged(reader, line);
    return parse_label(reader, field, &data->label[data->row_count]);
}

static enum hm_status read_rows(struct reader *reader)
{
    for (;;) {
        bool ended;
        enum hm_status status = read_line(reader, &ended);
        if (status != HM_OK || ended) return status;
        const char *line = reader->line + strspn(reader->line, " \t");
        if (*line == '\0' || *line == '#') continue;
        if (reader->data.columns == 0) status = count_columns(reader, line);
        if (status == HM_OK) status = make_room(reader);
        if (status == HM_OK) status = parse_line(reader, line);
        if (status != HM_OK) return status;
        if ((uint64_t)reader->data.label[reader->data.row_count] >= reader->data.class_count)
            reader->data.class_count = (uint32_t)reader->data.label[reader->data.row_count] + 1;
        reader->data.row_count++;
    }
}

/* ---- shuffle, split, scale ------------------------------------------------------------------- */

/* Fisher-Yates over the rows themselves. */
static void shuffle(struct hm_dataset *data, uint64_t seed)
{
    struct hm_rng rng;
    hm_rng_init(&rng, seed, 0);
    for (uint32_t i = data->row_count; i > 1; i--) {
        uint32_t other = (uint32_t)hm_rng_below(&rng, i);
        float *a = data->feature + (size_t)(i - 1) * data->columns,
              *b = data->feature + (size_t)other * data->columns;
        for (uint32_t k = 0; k < data->columns; k++) {
            float value = a[k];
            a[k] = b[k];
            b[k] = value;
        }
        int64_t label = data->label[i - 1];
        data->label[i - 1] = data->label[other];
        data->label[other] = label;
    }
}

/* By the training part's largest magnitude of each feature, so that nothing of the test part leaks
 * into training. */
static void scale(struct hm_dataset *data)
{
    for (uint32_t k = 0; k < data->columns; k++) {
        float largest = 0;
        for (uint32_t row = 0; row < data->train_count; row++)
            largest = fmaxf(largest, fabsf(data->feature[(size_t)row * data->columns + k]));
        if (largest == 0) continue; /* a feature that never differs from 0 in training */
        for (uint32_t row = 0; row < data->row_count; row++) {
            float *value = &data->feature[(size_t)row * data->columns + k];
            *value = fmaxf(fminf(*value / largest, FLT_MAX), -FLT_MAX);
        }
    }
}

void hm_dataset_fini(struct hm_dataset *dataset)
{
    free(dataset->feature);
    free(dataset->label);
    memset(dataset, 0, sizeof *dataset);
}

static enum hm_status split(struct reader *reader, uint64_t seed, double train_fraction)
{
    struct hm_dataset *data = &reader->data;
    if (!(train_fraction > 0 && train_fraction < 1))
        return hm_fail(HM_ERR_INVALID,
                       "the training part is %g of the rows; it must lie between 0 and 1",
                       train_fraction);
    if (data->row_count < 2)
        return hm_fail(HM_ERR_INVALID,
                       "%s has %" PRIu32
                       " rows; at least two are needed, to train on and to test on",
                       reader->path, data->row_count);
    uint32_t row = 1;
    while (row < data->row_count && data->label[row] == data->label[0]) row++;
    if (row == data->row_count)
        return hm_fail(HM_ERR_INVALID,
                       "%s has the label %" PRId64 " in every row; there is nothing to tell apart",
                       reader->path, data->label[0]);
    shuffle(data, seed);
    data->train_count = (uint32_t)((double)data->row_count * train_fraction);
    if (data->train_count < 1) data->train_count = 1;
    if (data->train_count >= data->row_count) data->train_count = data->row_count - 1;
    scale(data);
    return HM_OK;
}

enum hm_status hm_dataset_load(const char *path, uint64_t seed, double train_fraction,
                               struct hm_dataset *dataset)
{
    struct reader reader = {.path = path};
    errno = 0;
    reader.file = gzopen(path, "rb");
    if (!reader.file)
        return hm_fail(HM_ERR_NOT_FOUND, "%s cannot be opened: %s", path,
                       errno ? strerror(errno) : "no memory");
    reader.line = malloc(HM_DATASET_LINE_BYTES_MAX);
    enum hm_status status =
        reader.line ? read_rows(&reader) : hm_fail(HM_ERR_NO_MEMORY, "no memory to read %s", path);
    /* A gzip stream that was cut shows itself here at the latest. */
    if (gzclose_r(reader.file) != Z_OK && status == HM_OK)
        status = hm_fail(HM_ERR_CORRUPT, "%s ends in the middle of its gzip stream; copy it again",
                         path);
    if (status == HM_OK) status = split(&reader, seed, train_fraction);
    free(reader.line);
    if (status == HM_OK)
        *dataset = reader.data;
    else
        hm_dataset_fini(&reader.data);
    return status;
}
