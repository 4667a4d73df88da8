/* Meeting through a folder: the ranks of a launch are threads here, each with a bootstrap of its own. */
#include "test.h"

#include "base/assert.h"
#include "base/thread.h"
#include "transport/bootstrap.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS_MAX = 8, ROUNDS = 3 };

struct member {
    struct hm_bootstrap_conf conf;
    struct hm_thread *thread;
    enum hm_status status;
    char line[HM_ERROR_LINE_BYTES];
    unsigned rank, size, rounds;
    struct hm_bootstrap_blob all[ROUNDS][RANKS_MAX];
};
static struct member member[RANKS_MAX];
static char dir[64], means[80];

static int fresh_folder(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/hm-bootstrap-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(means, sizeof means, "file:%s/launch", dir);
    strcat(dir, "/launch");
    memset(member, 0, sizeof member);
    return 0;
}

static int folder_remove(void **state)
{
    (void)state;
    char command[128];
    *strrchr(dir, '/') = 0;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static void blob_make(struct hm_bootstrap_blob *blob, unsigned rank, unsigned round)
{
    blob->bytes = rank == 1 ? 0 : HM_BOOTSTRAP_BLOB_BYTES - rank;
    for (uint32_t i = 0; i < blob->bytes; i++) blob->byte[i] = (uint8_t)(17 * rank + 3 * round + i);
}

static void run(void *arg)
{
    struct member *m = arg;
    struct hm_bootstrap *bootstrap = NULL;
    struct hm_bootstrap_blob mine;
    m->status = hm_bootstrap_open(&m->conf, &bootstrap);
    if (!m->status) {
        m->rank = bootstrap->rank;
        m->size = bootstrap->size;
    }
    for (; !m->status && m->rounds < ROUNDS; m->rounds += !m->status) {
        blob_make(&mine, m->rank, m->rounds);
        m->status = hm_bootstrap_allgather(bootstrap, &mine, m->all[m->rounds]);
    }
    snprintf(m->line, sizeof m->line, "%s", m->status ? hm_fail_line() : "");
    hm_bootstrap_close(bootstrap);
}

static void start(unsigned i, int rank, int size, hm_ns timeout)
{
    member[i].conf =
        (struct hm_bootstrap_conf){.means = means, .rank = rank, .size = size, .timeout = timeout};
    assert_ok(
        hm_thread_start(&(struct hm_place){.name = "member"}, run, &member[i], &member[i].thread));
}

static void join(unsigned count)
{
    for (unsigned i = 0; i < count; i++) hm_thread_join(member[i].thread);
}

static void all_have_all(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (member[i].status) fail_msg("rank %u: %s", i, member[i].line);
        assert_int_equal(member[i].size, count);
        for (unsigned round = 0; round < ROUNDS; round++)
            for (unsigned rank = 0; rank < count; rank++) {
                struct hm_bootstrap_blob wanted;
                const struct hm_bootstrap_blob *got = &member[i].all[round][rank];
                blob_make(&wanted, rank, round);
                assert_int_equal(got->bytes, wanted.bytes);
                assert_memory_equal(got->byte, wanted.byte, wanted.bytes);
            }
    }
}

static unsigned files_in_folder(const char *beginning)
{
    unsigned count = 0;
    DIR *folder = opendir(dir);
    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder))
        count += strncmp(entry->d_name, beginning, strlen(beginning)) == 0 &&
                 strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(folder);
    return count;
}

static void everybody_gets_everybodys_blobs_and_nothing_secret_stays(void **state)
{
    (void)state;
    for (unsigned i = 0; i < RANKS_MAX; i++) start(i, (int)i, RANKS_MAX, 60 * HM_S);
    join(RANKS_MAX);
    all_have_all(RANKS_MAX);
    struct stat stat_;
    assert_int_equal(stat(dir, &stat_), 0);
    assert_int_equal(stat_.st_mode & 0777, 0700);
    assert_int_equal(files_in_folder(""), RANKS_MAX);
    assert_int_equal(files_in_folder("closed."), RANKS_MAX);
}

static void a_single_process_meets_itself(void **state)
{
    (void)state;
    start(0, 0, 1, 60 * HM_S);
    join(1);
    all_have_all(1);
}

static void the_launchers_environment_says_who_one_is(void **state)
{
    (void)state;
    setenv("SLURM_PROCID", "0", 1);
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    start(0, -1, -1, 60 * HM_S);
    join(1);
    unsetenv("SLURM_PROCID");
    unsetenv("SLURM_STEP_NUM_TASKS");
    all_have_all(1);
}

static void a_launcher_is_told_from_a_person_in_the_shell_of_an_allocation(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool typed; /* also where a person may type */
    } row[] = {{"SLURM_JOB_ID", false},
               {"SLURM_STEP_ID", true},
               {"OMPI_COMM_WORLD_SIZE", true},
               {"PMIX_NAMESPACE", true}};
    assert_false(hm_bootstrap_launched(false));
    for (size_t i = 0; i < HM_COUNT_OF(row); i++) {
        setenv(row[i].name, "1", 1);
        assert_true(hm_bootstrap_launched(false));
        assert_true(hm_bootstrap_launched(true) == row[i].typed);
        unsetenv(row[i].name);
    }
}

static void who_does_not_come_is_named_at_the_deadline(void **state)
{
    (void)state;
    start(0, 0, 3, 200 * HM_MS);
    start(1, 2, 3, 200 * HM_MS);
    join(2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(member[i].status, HM_ERR_TIMED_OUT);
        assert_non_null(strstr(member[i].line, "rank 1 (and 0 more) of 3 has not come"));
    }
}

static void a_used_folder_is_refused(void **state)
{
    (void)state;
    start(0, 0, 1, 60 * HM_S);
    join(1);
    all_have_all(1);
    start(0, 0, 1, 60 * HM_S);
    join(1);
    assert_int_equal(member[0].status, HM_ERR_INVALID);
    assert_non_null(strstr(member[0].line, "used by an earlier launch"));
}

/* A rank of a launch that breaks off after its first round: a process, so that it leaves all behind. */
static pid_t broken_off(unsigned rank)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) return pid;
    struct hm_bootstrap_conf conf = {
        .means = means, .rank = (int)rank, .size = 2, .timeout = 60 * HM_S};
    struct hm_bootstrap *bootstrap = NULL;
    static struct hm_bootstrap_blob mine, all[2];
    _exit(hm_bootstrap_open(&conf, &bootstrap) || hm_bootstrap_allgather(bootstrap, &mine, all));
}

static void files_of_an_earlier_launch_are_told_from_this_ones(void **state)
{
    (void)state;
    char path[128];
    pid_t pids[2] = {broken_off(0), broken_off(1)};
    for (unsigned i = 0; i < 2; i++) {
        int code = -1;
        assert_int_equal(waitpid(pids[i], &code, 0), pids[i]);
        assert_int_equal(code, 0);
    }
    for (unsigned round = 0; round < 2; round++) { /* rank 1's stay */
        snprintf(path, sizeof path, "%s/round-%u.rank-0", dir, round);
        assert_int_equal(unlink(path), 0);
    }
    start(0, 0, 2, 60 * HM_S);
    join(1);
    assert_int_equal(member[0].status, HM_ERR_INVALID);
    assert_non_null(strstr(member[0].line, "earlier launch (rank 1's)"));
}

static void another_size_and_noise_are_refused_by_name(void **state)
{
    (void)state;
    start(0, 0, 2, 60 * HM_S);
    start(1, 1, 3, 60 * HM_S);
    hm_thread_join(member[0].thread);
    assert_int_equal(member[0].status, HM_ERR_INVALID);
    assert_non_null(strstr(member[0].line, "rank 1"));
    char path[128];
    snprintf(path, sizeof path, "%s/round-0.rank-2", dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("noise", file);
    fclose(file);
    hm_thread_join(member[1].thread);
    assert_true(member[1].status == HM_ERR_CORRUPT || member[1].status == HM_ERR_INVALID);
}

static void a_folder_that_others_may_write_is_refused(void **state)
{
    (void)state;
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(chmod(dir, 0777), 0);
    start(0, 0, 1, HM_S);
    join(1);
    assert_int_equal(member[0].status, HM_ERR_INVALID);
    assert_non_null(strstr(member[0].line, "chmod 700"));
}

static void wrong_means_and_missing_ranks_say_what_to_give(void **state)
{
    (void)state;
    static const struct {
        const char *means;
        int rank, size;
        const char *line;
    } wrong[] = {
        {"auto", -1, -1, "file:DIR"},
        {"mpi", -1, -1, "srun --mpi=pmix"},
        {"smoke-signals", 0, 1, "auto, mpi or"},
        {"file:", 0, 1, "auto, mpi or"},
        {"file:/nonexistent/x/y", -1, -1, "--rank"},
        {"file:/nonexistent/x/y", 2, 2, "--rank"},
        {"file:/nonexistent/x/y", 0, 5000, "--size"},
        {"file:/nonexistent/x/y", 0, 1, "cannot make"},
    };
    struct hm_bootstrap *bootstrap = NULL;
    for (unsigned i = 0; i < HM_COUNT_OF(wrong); i++) {
        struct hm_bootstrap_conf conf = {
            .means = wrong[i].means, .rank = wrong[i].rank, .size = wrong[i].size, .timeout = HM_S};
        assert_true(hm_bootstrap_open(&conf, &bootstrap) != HM_OK);
        if (!strstr(hm_fail_line(), wrong[i].line))
            fail_msg("%s: \"%s\" lacks \"%s\"", wrong[i].means, hm_fail_line(), wrong[i].line);
    }
}

int main(void)
{
    static const char *const launcher[] = {
        "SLURM_PROCID",         "SLURM_NTASKS",         "PMI_RANK",
        "OMPI_COMM_WORLD_RANK", "PMIX_NAMESPACE",       "PMI_SIZE",
        "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID",
        "SLURM_STEP_ID"};
    for (unsigned i = 0; i < HM_COUNT_OF(launcher); i++) unsetenv(launcher[i]);
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, fresh_folder, folder_remove)
        CASE(everybody_gets_everybodys_blobs_and_nothing_secret_stays),
        CASE(a_single_process_meets_itself),
        CASE(the_launchers_environment_says_who_one_is),
        CASE(a_launcher_is_told_from_a_person_in_the_shell_of_an_allocation),
        CASE(who_does_not_come_is_named_at_the_deadline),
        CASE(a_used_folder_is_refused),
        CASE(files_of_an_earlier_launch_are_told_from_this_ones),
        CASE(another_size_and_noise_are_refused_by_name),
        CASE(a_folder_that_others_may_write_is_refused),
        CASE(wrong_means_and_missing_ranks_say_what_to_give),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
