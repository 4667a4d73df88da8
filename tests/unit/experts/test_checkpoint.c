/* Checkpoints on a real disk: what is saved comes back, what is damaged is refused, and the generation before it serves. */
#include "test.h"

#include "base/log.h"
#include "experts/checkpoint.h"
#include "support_arrays.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct hm_expert_conf conf = {
    .kind = "ffn", .hidden = 8, .optimizer = "adam", .rate = 1e-3f, .seed = 1};
static struct hm_device *device;
static char dir[64];

static int set_up(void **state)
{
    (void)state;
    hm_log_set_level(HM_LOG_ERROR);
    strcpy(dir, "/tmp/hm-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_ok(hm_device_cpu_create(&device));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    hm_device_destroy(device);
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static struct hm_expert *make(const char *uid, const struct hm_expert_conf *c)
{
    struct hm_expert *expert;
    assert_ok(hm_expert_create(device, uid, c, &expert));
    return expert;
}

/* Gives the expert contents that depend on `step`, and saves it. */
static void save(struct hm_expert *expert, uint64_t step)
{
    struct hm_snapshot *snapshot;
    size_t count = hm_expert_plan(expert)->parameter_elements;
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    for (unsigned array = 0; array < 3; array++) {
        for (size_t i = 0; i < count; i++) values[i] = (float)((1 + array) * i + step);
        array_put(expert, array, values);
    }
    free(values);
    assert_ok(hm_expert_loaded(expert, step));
    assert_ok(hm_snapshot_create(expert, &snapshot));
    assert_ok(hm_snapshot_take(snapshot, expert));
    assert_ok(hm_snapshot_set_dedupe(snapshot, "window", 6));
    assert_int_equal(hm_snapshot_step(snapshot), step);
    assert_ok(hm_checkpoint_save(dir, snapshot));
    hm_snapshot_destroy(snapshot);
}

static void assert_loads(const char *uid, uint64_t step)
{
    struct hm_expert *expert = make(uid, &conf);
    void *dedupe;
    size_t bytes, count = hm_expert_plan(expert)->parameter_elements;
    assert_ok(hm_checkpoint_load(dir, expert, &dedupe, &bytes));
    assert_int_equal(hm_expert_step(expert), step);
    assert_int_equal(bytes, 6);
    assert_memory_equal(dedupe, "window", 6);
    for (unsigned array = 0; array < 3; array++) {
        float *values = array_get(expert, array);
        for (size_t i = 0; i < count; i++)
            assert_true(values[i] == (float)((1 + array) * i + step));
        free(values);
    }
    free(dedupe);
    hm_expert_destroy(expert);
}

static void path_of(char *path, size_t bytes, const char *uid, uint64_t step)
{
    snprintf(path, bytes, "%s/%s/step-%020llu.h5", dir, uid, (unsigned long long)step);
}

/* Flips one bit of the stored parameters: it finds them by their first values. */
static void damage(const char *path, uint64_t step)
{
    static char bytes[1 << 20];
    float first[2] = {(float)(100 + step), (float)(101 + step)};
    int fd = open(path, O_RDWR);
    ssize_t count = pread(fd, bytes, sizeof(bytes), 0);
    char *at = count > 0 ? memmem(bytes, (size_t)count, first, sizeof(first)) : NULL;
    assert_non_null(at);
    *at ^= 0x40;
    assert_int_equal(pwrite(fd, at, 1, at - bytes), 1);
    close(fd);
}

static void what_is_saved_comes_back(void **state)
{
    (void)state;
    struct hm_expert *expert = make("ffn.0.1", &conf);
    save(expert, 7);
    hm_expert_destroy(expert);
    assert_loads("ffn.0.1", 7);
}

static void a_new_expert_has_none(void **state)
{
    (void)state;
    struct hm_expert *expert = make("ffn.9.9", &conf);
    void *dedupe;
    size_t bytes;
    assert_status(hm_checkpoint_load(dir, expert, &dedupe, &bytes), HM_ERR_NOT_FOUND);
    hm_expert_destroy(expert);
}

static void a_damaged_file_is_passed_over_for_the_generation_before(void **state)
{
    (void)state;
    struct hm_expert *expert = make("ffn.1.0", &conf);
    char path[256];
    save(expert, 10);
    save(expert, 20);
    hm_expert_destroy(expert);
    path_of(path, sizeof(path), "ffn.1.0", 20);
    damage(path, 20);
    assert_loads("ffn.1.0", 10);
    assert_non_null(strstr(hm_fail_line(), path)); /* refused by name */
    assert_int_equal(truncate(path, 100), 0);
    assert_loads("ffn.1.0", 10);
}

static void where_all_are_damaged_nothing_is_loaded_and_nothing_removed(void **state)
{
    (void)state;
    struct hm_expert *expert = make("ffn.2.0", &conf);
    void *dedupe;
    size_t bytes;
    char path[256];
    save(expert, 10);
    path_of(path, sizeof(path), "ffn.2.0", 10);
    damage(path, 10);
    assert_status(hm_checkpoint_load(dir, expert, &dedupe, &bytes), HM_ERR_CORRUPT);
    assert_int_equal(access(path, F_OK), 0);
    hm_expert_destroy(expert);
}

static void what_a_crash_left_aside_is_never_loaded(void **state)
{
    (void)state;
    struct hm_expert *expert = make("ffn.3.0", &conf);
    char from[256], to[300];
    save(expert, 10);
    save(expert, 30);
    hm_expert_destroy(expert);
    path_of(from, sizeof(from), "ffn.3.0", 30);
    snprintf(to, sizeof(to), "%s.tmp", from);
    assert_int_equal(rename(from, to), 0);
    assert_loads("ffn.3.0", 10);
}

static void two_generations_are_kept(void **state)
{
    (void)state;
    struct hm_expert *expert = make("ffn.4.0", &conf);
    char path[256];
    for (uint64_t step = 1; step <= 5; step++) save(expert, step);
    for (uint64_t step = 1; step <= 5; step++) {
        path_of(path, sizeof(path), "ffn.4.0", step);
        assert_int_equal(access(path, F_OK) == 0, step >= 4);
    }
    hm_expert_destroy(expert);
}

static void an_expert_of_another_size_or_optimizer_is_refused_untouched(void **state)
{
    (void)state;
    struct hm_expert_conf other = conf;
    struct hm_expert *expert = make("ffn.5.0", &conf);
    void *dedupe;
    size_t bytes;
    save(expert, 3);
    hm_expert_destroy(expert);
    other.hidden = 16;
    expert = make("ffn.5.0", &other);
    float before = hm_expert_array(expert, 0)[0];
    assert_status(hm_checkpoint_load(dir, expert, &dedupe, &bytes), HM_ERR_SHAPE);
    assert_true(hm_expert_array(expert, 0)[0] == before);
    assert_int_equal(hm_expert_step(expert), 0);
    hm_expert_destroy(expert);
    other = conf;
    other.optimizer = "sgd";
    expert = make("ffn.5.0", &other);
    assert_status(hm_checkpoint_load(dir, expert, &dedupe, &bytes), HM_ERR_SHAPE);
    hm_expert_destroy(expert);
}

/* What is stored is the f32 parameters, so that either dtype can go on with them; the copy that
 * products are made with follows. */
static void an_expert_goes_on_in_the_other_dtype(void **state)
{
    (void)state;
    const enum hm_dtype dtypes[] = {HM_F32, HM_BF16};
    float x[8] = {1, -2, 3, -4, 5, -6, 7, -8}, y[2][8];
    struct hm_exec exec = {.device = device};
    assert_ok(device->ops->stream_create(device, &exec.stream));
    for (unsigned from = 0; from < 2; from++) {
        struct hm_expert_conf saved = conf, other = conf;
        saved.dtype = dtypes[from];
        saved.seed = 99;
        other.dtype = dtypes[1 - from];
        struct hm_expert *expert = make(from ? "ffn.8.0" : "ffn.7.0", &saved);
        struct hm_snapshot *snapshot;
        assert_ok(hm_snapshot_create(expert, &snapshot));
        assert_ok(hm_snapshot_take(snapshot, expert));
        assert_ok(hm_checkpoint_save(dir, snapshot));
        hm_snapshot_destroy(snapshot);
        /* what the same parameters compute in the other dtype, and what comes of the checkpoint */
        other.seed = 99;
        struct hm_expert *pair[2] = {make(hm_expert_uid(expert), &other)};
        other.seed = 1;
        pair[1] = make(hm_expert_uid(expert), &other);
        void *dedupe;
        size_t bytes;
        assert_ok(hm_checkpoint_load(dir, pair[1], &dedupe, &bytes));
        free(dedupe);
        assert_ok(device->ops->alloc(device, hm_expert_plan(expert)->scratch_bytes_per_row,
                                     &exec.scratch));
        for (unsigned i = 0; i < 2; i++) {
            struct hm_tensor tx = hm_matrix_f32(x, 1, 8), ty = hm_matrix_f32(y[i], 1, 8);
            assert_ok(hm_expert_forward(pair[i], &exec, &tx, &ty));
            float *wanted = array_get(expert, 0), *got = array_get(pair[i], 0);
            assert_memory_equal(got, wanted,
                                hm_expert_plan(expert)->parameter_elements * sizeof *got);
            free(wanted);
            free(got);
        }
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        device->ops->free(device, &exec.scratch);
        hm_expert_destroy(pair[0]);
        hm_expert_destroy(pair[1]);
        hm_expert_destroy(expert);
    }
    device->ops->stream_destroy(exec.stream);
}

static void a_full_disk_leaves_the_generation_before(void **state)
{
    (void)state;
    struct hm_expert *expert = make("ffn.6.0", &conf);
    struct hm_snapshot *snapshot;
    struct rlimit before, small = {.rlim_cur = 4096};
    save(expert, 10);
    assert_ok(hm_expert_loaded(expert, 20));
    assert_ok(hm_snapshot_create(expert, &snapshot));
    assert_ok(hm_snapshot_take(snapshot, expert));
    signal(SIGXFSZ, SIG_IGN); /* writes past the limit then fail as on a full disk */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum hm_status status = hm_checkpoint_save(dir, snapshot);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_status(status, HM_ERR_STORAGE);
    assert_non_null(strstr(hm_fail_line(), "disk full"));
    hm_snapshot_destroy(snapshot);
    hm_expert_destroy(expert);
    assert_loads("ffn.6.0", 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_comes_back),
        cmocka_unit_test(a_new_expert_has_none),
        cmocka_unit_test(a_damaged_file_is_passed_over_for_the_generation_before),
        cmocka_unit_test(where_all_are_damaged_nothing_is_loaded_and_nothing_removed),
        cmocka_unit_test(what_a_crash_left_aside_is_never_loaded),
        cmocka_unit_test(two_generations_are_kept),
        cmocka_unit_test(an_expert_of_another_size_or_optimizer_is_refused_untouched),
        cmocka_unit_test(a_full_disk_leaves_the_generation_before),
        cmocka_unit_test(an_expert_goes_on_in_the_other_dtype),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
