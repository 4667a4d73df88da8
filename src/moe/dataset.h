/* moe/dataset.h - a file of rows for `hivemind train`: feature columns, then an integer label.
 *
 * .csv or .csv.gz (any file: zlib reads plain ones as well), comma-separated, no header, '#' lines
 * and empty lines skipped.
 * Thread: any. */
#ifndef HM_MOE_DATASET_H
#define HM_MOE_DATASET_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum {
    HM_DATASET_COLUMNS_MAX = 65536,
    HM_DATASET_CLASSES_MAX = 65536,
    HM_DATASET_LINE_BYTES_MAX = 1 << 21
};
struct hm_dataset {
    uint32_t row_count, train_count; /* rows 0 to train_count - 1 are the training part */
    uint32_t columns;                /* features */
    uint32_t class_count;            /* largest label + 1 */
    float *feature;                  /* [row_count, columns] */
    int64_t *label;                  /* [row_count] */
};
/* Reads, shuffles by `seed`, splits (train_fraction of the rows train, at least one in each part)
 * and scales every feature by its largest magnitude in the training part (so non-negative ones lie
 * in [0, 1] there). Errors, each with a line that names the file and the line in it:
 * HM_ERR_NOT_FOUND (cannot be opened), HM_ERR_CORRUPT (damaged gzip), HM_ERR_INVALID (ragged, not a
 * number, label not an integer in [0, HM_DATASET_CLASSES_MAX), fewer than two rows, one label only),
 * HM_ERR_TOO_BIG, HM_ERR_NO_MEMORY. */
HM_MUST_CHECK enum hm_status hm_dataset_load(const char *path, uint64_t seed, double train_fraction,
                                             struct hm_dataset *dataset);
void hm_dataset_fini(struct hm_dataset *dataset);

#endif
