/* transport/mpi/mpi.c - the mpi module: meeting through MPI, which is over before anybody serves.
 *
 * Happy:  MPI_Init_thread -> one MPI_Iallgather a round -> MPI_Finalize.
 * Fails:  a rank that does not come to a round: HM_ERR_TIMED_OUT, and MPI is left as it is, since
 *         MPI_Finalize would wait for that rank too.
 * Keeps:  no MPI call after close.  Which launcher lets ranks die alone afterwards:
 * docs/cluster.md. */
#include "base/assert.h"
#include "base/module.h"
#include "transport/bootstrap.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

struct mpi_bootstrap {
    struct hm_bootstrap base;
    hm_ns timeout;
    bool failed;
};

static const struct hm_bootstrap_ops ops;

static enum hm_status mpi_failed(const char *what, int error)
{
    char text[MPI_MAX_ERROR_STRING];
    int bytes = 0;
    if (MPI_Error_string(error, text, &bytes) != MPI_SUCCESS) bytes = 0;
    return hm_fail(HM_ERR_PEER_UNREACHABLE, "%s failed: %.*s; does `mpirun hostname` work here?",
                   what, bytes, text);
}

static enum hm_status mpi_open(const struct hm_bootstrap_conf *conf, struct hm_bootstrap **out)
{
    int rank = 0, size = 0, provided = 0, inited = 0;
    struct mpi_bootstrap *b = calloc(1, sizeof(*b));
    if (!b) return HM_ERR_NO_MEMORY;
    HM_ASSERT(MPI_Initialized(&inited) == MPI_SUCCESS && !inited);
    int error = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    if (error == MPI_SUCCESS) error = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (error == MPI_SUCCESS) error = MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (error == MPI_SUCCESS) error = MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (error != MPI_SUCCESS) {
        free(b);
        return mpi_failed("starting MPI", error);
    }
    b->base = (struct hm_bootstrap){.ops = &ops, .rank = (unsigned)rank, .size = (unsigned)size};
    b->timeout = conf->timeout;
    *out = &b->base;
    return HM_OK;
}

static enum hm_status mpi_allgather(struct hm_bootstrap *base, const struct hm_bootstrap_blob *mine,
                                    struct hm_bootstrap_blob *all)
{
    struct mpi_bootstrap *b = (struct mpi_bootstrap *)base;
    MPI_Request request;
    int done = 0;
    hm_ns deadline = hm_thread_clock() + b->timeout;
    int error = MPI_Iallgather(mine, (int)sizeof(*mine), MPI_BYTE, all, (int)sizeof(*all), MPI_BYTE,
                               MPI_COMM_WORLD, &request);
    while (error == MPI_SUCCESS && !done) {
        error = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (error != MPI_SUCCESS || done) break;
        if (hm_thread_clock() >= deadline) {
            b->failed = true;
            return hm_fail(
                HM_ERR_TIMED_OUT,
                "not all %u ranks have come within %.0f s; do they all run this command?",
                base->size, (double)b->timeout / 1e9);
        }
        hm_thread_sleep(
            HM_MS); /* ranks may outnumber the cores: spinning keeps others from coming */
    }
    if (error == MPI_SUCCESS) return HM_OK;
    b->failed = true;
    return mpi_failed("an allgather among the ranks", error);
}

static void mpi_close(struct hm_bootstrap *base)
{
    struct mpi_bootstrap *b = (struct mpi_bootstrap *)base;
    if (!b->failed) (void)MPI_Finalize();
    free(b);
}

static const struct hm_bootstrap_ops ops = {
    .name = "mpi", .open = mpi_open, .allgather = mpi_allgather, .close = mpi_close};

HM_MODULE("mpi", &ops);
