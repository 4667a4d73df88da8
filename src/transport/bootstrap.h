/* transport/bootstrap.h - how the processes of one launch meet before they are nodes: each gives a
 * small blob, and gets everybody's.
 *
 * Two means.  `file:DIR` is a folder that all of them see; `mpi` is a module (MPI_Init, allgather,
 * MPI_Finalize: over before the first node opens, so that MPI neither serves nor falls).  Both are
 * trusted: what is exchanged here (addresses, a fabric key) makes the swarm.
 *
 * Every process takes part in the same rounds in the same order, also one that has something to
 * complain of: it says so in its blob, so that nobody waits for it.
 *
 * Thread: one; everything blocks, up to the deadline.  Set-up only. */
#ifndef HM_TRANSPORT_BOOTSTRAP_H
#define HM_TRANSPORT_BOOTSTRAP_H

#include "base/loop.h"

enum { HM_BOOTSTRAP_BLOB_BYTES = 2048, HM_BOOTSTRAP_RANKS_MAX = 4096 };
struct hm_bootstrap_blob {
    uint32_t bytes;
    uint8_t byte[HM_BOOTSTRAP_BLOB_BYTES];
};

struct hm_bootstrap_conf {
    const char
        *means; /* "mpi", "file:DIR", or "auto": mpi where mpirun or srun --mpi=pmix started us */
    int rank, size; /* for files; -1: as the launcher's environment says */
    hm_ns timeout;  /* for each round */
};
struct hm_bootstrap;
struct hm_bootstrap_ops { /* what a means provides; the mpi module's ops are one */
    const char *name;
    enum hm_status (*open)(const struct hm_bootstrap_conf *conf, struct hm_bootstrap **bootstrap);
    enum hm_status (*allgather)(struct hm_bootstrap *bootstrap,
                                const struct hm_bootstrap_blob *mine,
                                struct hm_bootstrap_blob *all);
    void (*close)(struct hm_bootstrap *bootstrap);
};
struct hm_bootstrap { /* first member of an implementation's */
    const struct hm_bootstrap_ops *ops;
    unsigned rank, size;
};
extern const struct hm_bootstrap_ops hm_bootstrap_file;

/* Returns when all processes of the launch have come.
 * Errors:  HM_ERR_INVALID: no such means, no rank, another size than others say, a used folder.
 *          HM_ERR_NOT_FOUND, HM_ERR_UNSUPPORTED: no mpi module.
 *          HM_ERR_TIMED_OUT: somebody has not come.  HM_ERR_STORAGE.  All with a line. */
HM_MUST_CHECK enum hm_status hm_bootstrap_open(const struct hm_bootstrap_conf *conf,
                                               struct hm_bootstrap **bootstrap);
/* all [size]: the blobs by rank, also one's own.  After an error only close is left. */
HM_MUST_CHECK enum hm_status hm_bootstrap_allgather(struct hm_bootstrap *bootstrap,
                                                    const struct hm_bootstrap_blob *mine,
                                                    struct hm_bootstrap_blob *all);
/* Waits for the others, so that nobody misses the last round; not after an error. */
void hm_bootstrap_close(struct hm_bootstrap *bootstrap);

/* Whether a launcher (mpirun, srun, sbatch) started this process and signals it: several times, and
 * whom it means to kill it kills.  typed: a person sits at its terminal, as in the shell of an
 * allocation, whose variables are those of a batch script. */
bool hm_bootstrap_launched(bool typed);

/* Random bytes for a key that this launch shares.  HM_ERR_STORAGE: the system has none. */
HM_MUST_CHECK enum hm_status hm_bootstrap_secret(uint8_t *bytes, size_t byte_count);

#endif
