/* transport/bootstrap.c - picks the means, and reads what launchers tell a process of its place.
 *
 * Happy:  environment -> means -> the implementation's open.
 * Fails:  no launcher and no folder is one line with both remedies. */
#include "transport/bootstrap.h"

#include "base/assert.h"
#include "base/module.h"

#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

/* Newest knowledge first: under mpirun inside a Slurm job Slurm's variables are those of the batch
 * script. */
static const struct {
    const char *rank, *size;
} launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
    {"SLURM_PROCID", "SLURM_NTASKS"},
    {"PMI_RANK", "PMI_SIZE"},
};

/* -1: unset or no number of a launch. */
static int number(const char *name)
{
    const char *text = getenv(name);
    char *end;
    if (!text || !*text) return -1;
    long value = strtol(text, &end, 10);
    return *end || value < 0 || value > HM_BOOTSTRAP_RANKS_MAX ? -1 : (int)value;
}

/* What the launcher's environment says of this process; -1 where it says nothing. */
struct launch {
    int rank, size;
    const char *means; /* "mpi"; NULL: no MPI launcher started us */
};

static void launch_read(struct launch *launch)
{
    *launch = (struct launch){.rank = -1, .size = -1};
    for (unsigned i = 0; i < HM_COUNT_OF(launchers) && launch->rank < 0; i++) {
        int rank = number(launchers[i].rank), size = number(launchers[i].size);
        if (rank >= 0 && size > rank) *launch = (struct launch){.rank = rank, .size = size};
    }
    /* mpirun sets the first; srun --mpi=pmix, as every PMIx launcher, the second. */
    if (getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_NAMESPACE")) launch->means = "mpi";
}

bool hm_bootstrap_launched(bool typed)
{
    struct launch launch;
    launch_read(&launch);
    return launch.means || getenv("SLURM_STEP_ID") || (getenv("SLURM_JOB_ID") && !typed);
}

static enum hm_status open_mpi(const struct hm_bootstrap_conf *conf, const struct launch *launch,
                               struct hm_bootstrap **bootstrap)
{
    const void *ops;
    char line[HM_ERROR_LINE_BYTES];
    if (!launch->means)
        return hm_fail(HM_ERR_INVALID,
                       "bootstrap mpi needs mpirun or srun --mpi=pmix, and neither started this "
                       "process; start it so, or give --bootstrap file:DIR (a shared folder)");
    enum hm_status status = hm_module_load("mpi", &ops);
    if (status) {
        strcpy(line, hm_fail_line());
        return hm_fail(status, "%.380s; or do without MPI: --bootstrap file:DIR (a shared folder)",
                       line);
    }
    return ((const struct hm_bootstrap_ops *)ops)->open(conf, bootstrap);
}

enum hm_status hm_bootstrap_open(const struct hm_bootstrap_conf *conf,
                                 struct hm_bootstrap **bootstrap)
{
    struct launch launch;
    struct hm_bootstrap_conf made = *conf;
    launch_read(&launch);
    if (strcmp(conf->means, "auto") == 0) {
        if (!launch.means)
            return hm_fail(HM_ERR_INVALID,
                           "neither mpirun nor srun --mpi=pmix started this process; start it so, "
                           "or give --bootstrap file:DIR (a folder that all processes see)");
        made.means = launch.means;
    }
    if (strcmp(made.means, "mpi") == 0) return open_mpi(&made, &launch, bootstrap);
    if (strncmp(made.means, "file:", 5) != 0 || !made.means[5])
        return hm_fail(HM_ERR_INVALID, "--bootstrap is '%.100s'; it can be auto, mpi or file:DIR",
                       made.means);
    if (made.rank < 0) made.rank = launch.rank;
    if (made.size < 0) made.size = launch.size;
    if (made.rank < 0 || made.size < 1 || made.rank >= made.size ||
        made.size > HM_BOOTSTRAP_RANKS_MAX)
        return hm_fail(HM_ERR_INVALID,
                       "bootstrap %.100s needs this process's number and how many there are (at "
                       "most %d); give --rank 0 to N-1 and --size N",
                       made.means, HM_BOOTSTRAP_RANKS_MAX);
    return hm_bootstrap_file.open(&made, bootstrap);
}

enum hm_status hm_bootstrap_allgather(struct hm_bootstrap *bootstrap,
                                      const struct hm_bootstrap_blob *mine,
                                      struct hm_bootstrap_blob *all)
{
    HM_ASSERT(mine->bytes <= HM_BOOTSTRAP_BLOB_BYTES);
    enum hm_status status = bootstrap->ops->allgather(bootstrap, mine, all);
    for (unsigned rank = 0; !status && rank < bootstrap->size; rank++)
        if (all[rank].bytes > HM_BOOTSTRAP_BLOB_BYTES)
            status = hm_fail(HM_ERR_PEER_PROTOCOL,
                             "rank %u speaks otherwise; run the same build on every node", rank);
    return status;
}

void hm_bootstrap_close(struct hm_bootstrap *bootstrap)
{
    if (bootstrap) bootstrap->ops->close(bootstrap);
}

enum hm_status hm_bootstrap_secret(uint8_t *bytes, size_t byte_count)
{
    return RAND_bytes(bytes, (int)byte_count) == 1
               ? HM_OK
               : hm_fail(HM_ERR_STORAGE, "the system gives no random bytes for a key");
}
