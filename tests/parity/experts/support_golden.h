/* Reads the file of stored values that tools/make_goldens.py writes (its format is described
 * there). */
#ifndef HM_SUPPORT_GOLDEN_H
#define HM_SUPPORT_GOLDEN_H

#include "tensor/tensor.h"

enum { GOLDEN_RECORDS_MAX = 256, GOLDEN_NAME_BYTES = 64 };
struct golden {
    void *bytes;
    unsigned count;
    struct golden_record {
        char name[GOLDEN_NAME_BYTES];
        struct hm_shape shape;
        uint64_t elements;
        const void *values; /* f32, unaligned */
    } record[GOLDEN_RECORDS_MAX];
};

/* Fails the test if the file is not there or is not what the tool writes. */
void golden_load(struct golden *golden, const char *path);
void golden_free(struct golden *golden);
/* A copy of the values of the record "<format...>" (the caller frees it); fails the test if there
 * is none, or if it has not `elements` values. */
float *golden_get(const struct golden *golden, uint64_t elements, const char *format, ...)
    HM_PRINTF(3, 4);

#endif
