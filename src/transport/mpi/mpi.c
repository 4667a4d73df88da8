/* transport/mpi/mpi.c - the mpi module: meeting through MPI, which is over before anybody serves.
 *
 * Happy:  MPI_Init_thread -> each round: put, fence, get through PMIx, MPI's own way to its
 *         launcher (mpirun, srun --mpi=pmix) -> MPI_Finalize.
 * Fails:  a rank that does not come to a round: HM_ERR_TIMED_OUT, and MPI is left as it is, since
 *         MPI_Finalize would wait for that rank too.
 * Keeps:  no MPI call after close.  Which launcher lets ranks die alone afterwards:
 * docs/cluster.md.
 *
 * Why not MPI_Allgather: Open MPI 4.1's TCP transport crashes a rank whose peer sends to it while
 * it is still in MPI_Init (measured on four nodes of Slurm: 3 of 40 launches of a program that
 * does nothing else).  Blobs over PMIx open no connection between ranks at all. */
#include "base/assert.h"
#include "base/module.h"
#include "transport/bootstrap.h"

#include <mpi.h>
#include <pmix.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mpi_bootstrap {
    struct hm_bootstrap base;
    pmix_proc_t me;
    hm_ns timeout;
    unsigned round;
    bool failed;
    atomic_int fence; /* PMIx's thread writes it: PMIX_OPERATION_IN_PROGRESS until then */
};

static const struct hm_bootstrap_ops ops;

static enum hm_status pmix_failed(struct mpi_bootstrap *b, const char *what, pmix_status_t status)
{
    b->failed = true;
    return hm_fail(HM_ERR_PEER_UNREACHABLE,
                   "%s through PMIx failed (%s); does `mpirun hostname` work here?", what,
                   PMIx_Error_string(status));
}

static enum hm_status mpi_open(const struct hm_bootstrap_conf *conf, struct hm_bootstrap **out)
{
    int rank = 0, size = 0, provided = 0, inited = 0;
    struct mpi_bootstrap *b = calloc(1, sizeof(*b));
    if (!b) return HM_ERR_NO_MEMORY;
    HM_ASSERT(MPI_Initialized(&inited) == MPI_SUCCESS && !inited);
    /* Errors in here end the process with Open MPI's own words: there is no handler yet to set. */
    int error = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    if (error == MPI_SUCCESS) error = MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (error == MPI_SUCCESS) error = MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (error != MPI_SUCCESS) {
        free(b);
        return hm_fail(HM_ERR_PEER_UNREACHABLE,
                       "MPI does not start (error %d); does `mpirun hostname` work here?", error);
    }
    b->base = (struct hm_bootstrap){.ops = &ops, .rank = (unsigned)rank, .size = (unsigned)size};
    b->timeout = conf->timeout;
    pmix_status_t status = PMIx_Init(&b->me, NULL, 0); /* counted: MPI has done it already */
    if (status != PMIX_SUCCESS) {
        enum hm_status failed = pmix_failed(b, "asking the launcher", status);
        free(b);
        return failed;
    }
    *out = &b->base;
    return HM_OK;
}

static void fenced(pmix_status_t status, void *arg)
{
    atomic_store(&((struct mpi_bootstrap *)arg)->fence, (int)status);
}

/* Until everybody has put his blob, and all of them are here. */
static enum hm_status fence(struct mpi_bootstrap *b)
{
    bool collect = true;
    pmix_info_t info;
    hm_ns deadline = hm_thread_clock() + b->timeout;
    PMIX_INFO_LOAD(&info, PMIX_COLLECT_DATA, &collect, PMIX_BOOL);
    atomic_store(&b->fence, PMIX_OPERATION_IN_PROGRESS);
    pmix_status_t status = PMIx_Fence_nb(NULL, 0, &info, 1, fenced, b);
    if (status == PMIX_OPERATION_SUCCEEDED) return HM_OK;
    if (status != PMIX_SUCCESS) return pmix_failed(b, "a round among the ranks", status);
    while (atomic_load(&b->fence) == PMIX_OPERATION_IN_PROGRESS) {
        if (hm_thread_clock() >= deadline) {
            b->failed = true;
            return hm_fail(
                HM_ERR_TIMED_OUT,
                "not all %u ranks have come within %.0f s; do they all run this command?",
                b->base.size, (double)b->timeout / 1e9);
        }
        hm_thread_sleep(HM_MS);
    }
    status = atomic_load(&b->fence);
    return status == PMIX_SUCCESS ? HM_OK : pmix_failed(b, "a round among the ranks", status);
}

static enum hm_status put(struct mpi_bootstrap *b, const char *key,
                          const struct hm_bootstrap_blob *mine)
{
    struct hm_bootstrap_blob copy = *mine; /* PMIx's types know no const; it copies */
    pmix_value_t value = {.type = PMIX_BYTE_OBJECT,
                          .data.bo = {.bytes = (char *)copy.byte, .size = copy.bytes}};
    pmix_status_t status = PMIx_Put(PMIX_GLOBAL, key, &value);
    if (status == PMIX_SUCCESS) status = PMIx_Commit();
    return status == PMIX_SUCCESS ? HM_OK : pmix_failed(b, "giving a blob", status);
}

static enum hm_status get(struct mpi_bootstrap *b, const char *key, unsigned rank,
                          struct hm_bootstrap_blob *blob)
{
    pmix_proc_t proc = b->me;
    pmix_value_t *value = NULL;
    proc.rank = rank;
    pmix_status_t status = PMIx_Get(&proc, key, NULL, 0, &value);
    if (status != PMIX_SUCCESS) return pmix_failed(b, "taking a blob", status);
    bool fits = value->type == PMIX_BYTE_OBJECT && value->data.bo.size <= sizeof(blob->byte);
    if (fits) {
        blob->bytes = (uint32_t)value->data.bo.size;
        if (blob->bytes > 0) memcpy(blob->byte, value->data.bo.bytes, blob->bytes);
    }
    PMIX_VALUE_RELEASE(value);
    if (fits) return HM_OK;
    b->failed = true;
    return hm_fail(HM_ERR_PEER_PROTOCOL,
                   "rank %u speaks otherwise; run the same build on every node", rank);
}

static enum hm_status mpi_allgather(struct hm_bootstrap *base, const struct hm_bootstrap_blob *mine,
                                    struct hm_bootstrap_blob *all)
{
    struct mpi_bootstrap *b = (struct mpi_bootstrap *)base;
    char key[32];
    snprintf(key, sizeof(key), "hivemind-%u", b->round++);
    enum hm_status status = put(b, key, mine);
    if (!status) status = fence(b);
    for (unsigned rank = 0; !status && rank < base->size; rank++)
        status = get(b, key, rank, &all[rank]);
    return status;
}

static void mpi_close(struct hm_bootstrap *base)
{
    struct mpi_bootstrap *b = (struct mpi_bootstrap *)base;
    if (b->failed) return; /* PMIx may still call fenced() */
    (void)PMIx_Finalize(NULL, 0);
    (void)MPI_Finalize();
    free(b);
}

static const struct hm_bootstrap_ops ops = {
    .name = "mpi", .open = mpi_open, .allgather = mpi_allgather, .close = mpi_close};

HM_MODULE("mpi", &ops);
