/* experts/checkpoint.h - one HDF5 file per expert generation, and which generation is the newest
 * valid one.
 *
 *   <dir>/<uid>/step-00000000000000000120.h5      written aside (.tmp), checked, fsynced, renamed, folder fsynced
 *   <dir>/<uid>/manifest.json                     {"format":1,"newest":"step-….h5","step":120}; rebuilt if damaged
 *
 * In the file: attributes format, uid, kind, hidden, optimizer, dtype, step, digest; group parameters/ (by
 * name), group slots/<slot name>/ (by parameter name), dataset dedupe (bytes).  Readable with h5py.
 * The digest is XXH3-128 over names, shapes and bytes in order: HDF5's own checksums cover only
 * chunks.
 *
 * Generations kept: the newest two.  A damaged file is refused by name (one warning) and the
 * generation before it is used.  Thread: any one thread at a time; saving is for the I/O thread. */
#ifndef HM_EXPERTS_CHECKPOINT_H
#define HM_EXPERTS_CHECKPOINT_H

#include "experts/expert.h"

enum { HM_CHECKPOINT_FORMAT = 1 };

/* A copy of everything a checkpoint holds, made between two batches so that the lane pays a memcpy
 * and no disk. */
struct hm_snapshot;
/* Allocates room for `expert`; use it again and again. */
HM_MUST_CHECK enum hm_status hm_snapshot_create(const struct hm_expert *expert,
                                                struct hm_snapshot **snapshot);
void hm_snapshot_destroy(struct hm_snapshot *snapshot);
/* Copies parameters, slots and step.  Thread: lane. */
HM_MUST_CHECK enum hm_status hm_snapshot_take(struct hm_snapshot *snapshot,
                                              struct hm_expert *expert);
/* The dedupe window as it stood at the same moment, encoded; copied. */
HM_MUST_CHECK enum hm_status hm_snapshot_set_dedupe(struct hm_snapshot *snapshot, const void *bytes,
                                                    size_t byte_count);
uint64_t hm_snapshot_step(const struct hm_snapshot *snapshot);

/* HM_ERR_STORAGE with a line (full disk, no permission); what was there before is untouched. */
HM_MUST_CHECK enum hm_status hm_checkpoint_save(const char *dir,
                                                const struct hm_snapshot *snapshot);
/* Loads the newest valid generation of the expert's uid into it and gives its dedupe bytes
 * (malloc'ed, the caller's).  HM_ERR_NOT_FOUND: no generation at all (a new expert).
 * HM_ERR_CORRUPT: generations exist and none is valid.  HM_ERR_SHAPE: a valid one is of another
 * kind, size or optimizer (line says which). */
HM_MUST_CHECK enum hm_status hm_checkpoint_load(const char *dir, struct hm_expert *expert,
                                                void **dedupe, size_t *dedupe_bytes);

#endif
