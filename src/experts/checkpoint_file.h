/* experts/checkpoint_file.h - one checkpoint file: HDF5 in and out.  checkpoint.c decides which
 * file. */
#ifndef HM_EXPERTS_CHECKPOINT_FILE_H
#define HM_EXPERTS_CHECKPOINT_FILE_H

#include "experts/expert.h"

/* Everything in a file, as views: of a snapshot when writing, of an expert's arrays when reading. */
struct hm_checkpoint_view {
    const char *uid, *kind, *optimizer;
    uint32_t hidden;
    enum hm_dtype dtype; /* of products; what is stored is f32 in either case */
    const struct hm_plan *plan;
    const struct hm_parameter_place *places; /* of the plan's parameters in the arrays */
    unsigned slot_count;
    const char *slot_name[HM_SLOTS_MAX];
    float *array[1 + HM_SLOTS_MAX]; /* parameters, slots */
    uint64_t step;
    void *dedupe; /* read: malloc'ed */
    size_t dedupe_bytes;
};
/* Writes a new file and fsyncs it.  HM_ERR_STORAGE with a line. */
HM_MUST_CHECK enum hm_status hm_checkpoint_file_write(const char *path,
                                                      const struct hm_checkpoint_view *view);
/* Fills the arrays, step and dedupe of `view`.  HM_ERR_CORRUPT: unreadable, or its digest is wrong.
 * HM_ERR_SHAPE: of another uid, kind, size or optimizer; nothing of the arrays is touched then.
 * Lines name the file. */
HM_MUST_CHECK enum hm_status hm_checkpoint_file_read(const char *path,
                                                     struct hm_checkpoint_view *view);

#endif
