/* Turns and classes on the virtual clock: nobody is starved by who floods, and how long anybody can
 * wait is bounded as sched/sched.h says. */
#include "support_sched.h"

#include "base/rng.h"

enum { ROOM = 16 << 20, JOBS = 1200, WORKLOAD = 78 };
static struct stage stage;
static struct bench bench[4];
static struct job job[JOBS];
static unsigned next;

static void begin_empty(void)
{
    memset(bench, 0, sizeof bench);
    memset(job, 0, sizeof job);
    next = 0;
}

static struct hm_lane *begin(hm_ns base_ns)
{
    begin_empty();
    stage_open(&stage, 1, ROOM, NULL);
    return stage_lane(&stage, &(struct hm_sim_lane_conf){.base_ns = base_ns});
}

/* Two flows only, so that the third client is one of the crowd. */
static struct hm_lane *begin_two_flows(hm_ns base_ns)
{
    begin_empty();
    stage_open_flows(&stage, 1, ROOM, NULL, 2);
    return stage_lane(&stage, &(struct hm_sim_lane_conf){.base_ns = base_ns});
}

static enum hm_status try(struct bench *to, uint64_t client, uint32_t rows,
                          enum hm_priority priority)
{
    assert_true(next < JOBS);
    job[next].client = client;
    job[next].priority = priority;
    enum hm_status status = job_submit(&stage, to, &job[next], next, rows, HM_NS_NEVER);
    if (status == HM_OK) next++;
    return status;
}

static struct job *submit(struct bench *to, uint64_t client, uint32_t rows)
{
    assert_ok(try(to, client, rows, HM_PRIORITY_INFERENCE));
    return &job[next - 1];
}

/* ---- clients in turn -------------------------------------------------------------------------- */

static void a_client_that_floods_waits_behind_itself(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(HM_MS),
               (struct hm_pool_conf){.batch_rows_max = 64, .out_row_bytes = 8});
    for (unsigned i = 0; i < 500; i++) submit(&bench[0], 1, 8); /* for 63 batches */
    stage_run_for(&stage, 5 * HM_MS + HM_MS / 2);
    struct job *polite[3];
    for (unsigned i = 0; i < 3; i++) polite[i] = submit(&bench[0], 2 + i, 1 + 20 * i);
    stage_run_for(&stage, 3 * HM_MS);
    for (unsigned i = 0; i < 3; i++) assert_status(polite[i]->status, HM_OK);
    assert_true(polite[2]->ended && polite[0]->ended_at <= polite[0]->task.arrived + 2 * HM_MS);
    assert_false(job[499].ended);
    stage_run_for(&stage, HM_S);
    assert_status(job[499].status, HM_OK);
    assert_true(bench[0].batches <= 65); /* and the batches are as full as ever */
    stage_close(&stage);
}

static void clients_get_equal_rows_whatever_the_size_of_their_tasks(void **state)
{
    (void)state;
    static const uint32_t rows[3] = {1, 24, 64};
    uint32_t got[3] = {0};
    bench_open(&stage, &bench[0], begin(HM_MS),
               (struct hm_pool_conf){.batch_rows_max = 64, .out_row_bytes = 8});
    for (unsigned i = 0; i < 1000; i++) submit(&bench[0], 1, rows[0]);
    for (unsigned i = 0; i < 60; i++) submit(&bench[0], 2, rows[1]);
    for (unsigned i = 0; i < 30; i++) submit(&bench[0], 3, rows[2]);
    stage_run_for(&stage, 30 * HM_MS);
    for (unsigned i = 0; i < next; i++) got[job[i].client - 1] += job[i].task.rows_taken;
    /* In k turns each gives at most 4 k rows (a 16th of a batch a turn) and one task more. */
    for (unsigned i = 0; i < 3; i++)
        for (unsigned j = 0; j < 3; j++) assert_true(got[i] <= got[j] + 64 + 4 + rows[i]);
    assert_true(got[0] + got[1] + got[2] > 30 * 32);
    stage_close(&stage);
}

static void a_flood_leaves_room_in_the_queue_for_others(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(HM_MS),
               (struct hm_pool_conf){.batch_rows_max = 64,
                                     .queue_rows_max = 1000,
                                     .queue_tasks_max = 1000,
                                     .out_row_bytes = 8});
    unsigned flooded = 0;
    while (try(&bench[0], 1, 10, HM_PRIORITY_INFERENCE) == HM_OK) flooded += 10;
    assert_int_equal(flooded, 800); /* 4 times what it leaves */
    for (unsigned i = 2; i < 10; i++) submit(&bench[0], i, 10);
    assert_status(try(&bench[0], 1, 1, HM_PRIORITY_INFERENCE), HM_ERR_BUSY);
    stage_run_for(&stage, HM_S);
    for (unsigned i = 0; i < next; i++) assert_status(job[i].status, HM_OK);
    assert_int_equal(hm_metrics_value(&stage.metrics, "sched.busy"), 2);
    stage_close(&stage);
}

static void small_tasks_cannot_fill_the_queue_either(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(HM_MS),
               (struct hm_pool_conf){.batch_rows_max = 64,
                                     .queue_rows_max = 1 << 20,
                                     .queue_tasks_max = 100,
                                     .out_row_bytes = 8});
    unsigned flooded = 0;
    while (try(&bench[0], 1, 1, HM_PRIORITY_INFERENCE) == HM_OK) flooded++;
    assert_int_equal(flooded, 80);
    submit(&bench[0], 2, 1);
    stage_close(&stage);
}

/* ---- more clients than flows ------------------------------------------------------------------ */

static void submit_again(struct job *one)
{
    if (next == JOBS) return;
    job[next].then = submit_again;
    submit(&bench[0], one->client, 3);
}

static void clients_beyond_the_flows_share_a_turn_and_are_served(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin_two_flows(HM_MS),
               (struct hm_pool_conf){.batch_rows_max = 6, .out_row_bytes = 8});
    for (unsigned i = 1; i < BENCH_CLIENTS_MAX; i++) {
        job[next].then = submit_again;
        submit(&bench[0], i, 3);
    }
    stage_run_for(&stage, HM_S);
    unsigned served[BENCH_CLIENTS_MAX] = {0};
    for (unsigned i = 0; i < JOBS; i++) served[job[i].client] += job[i].status == HM_OK;
    for (unsigned i = 1; i < BENCH_CLIENTS_MAX; i++) assert_true(served[i] >= JOBS / 16 / 8);
    stage_close(&stage);
}

static void one_task_cannot_take_the_room_of_the_next_client(void **state)
{
    (void)state;
    bench_open(
        &stage, &bench[0], begin(HM_MS),
        (struct hm_pool_conf){.batch_rows_max = 8, .queue_rows_max = 100, .out_row_bytes = 8});
    assert_status(try(&bench[0], 1, 100, HM_PRIORITY_INFERENCE), HM_ERR_TOO_BIG);
    assert_status(try(&bench[0], 1, 81, HM_PRIORITY_INFERENCE), HM_ERR_TOO_BIG);
    assert_ok(try(&bench[0], 1, 80, HM_PRIORITY_INFERENCE));
    assert_status(try(&bench[0], 1, 20, HM_PRIORITY_INFERENCE), HM_ERR_BUSY);
    assert_status(try(&bench[0], 2, 17, HM_PRIORITY_INFERENCE), HM_ERR_BUSY);
    assert_ok(try(&bench[0], 2, 16, HM_PRIORITY_INFERENCE));
    assert_ok(try(&bench[0], 3, 1, HM_PRIORITY_INFERENCE));
    stage_run_for(&stage, HM_S);
    for (unsigned i = 0; i < next; i++) assert_status(job[i].status, HM_OK);
    stage_close(&stage);
}

static void a_crowd_without_flows_has_one_share(void **state)
{
    (void)state;
    bench_open(
        &stage, &bench[0], begin_two_flows(HM_MS),
        (struct hm_pool_conf){.batch_rows_max = 8, .queue_rows_max = 100, .out_row_bytes = 8});
    for (unsigned i = 1; i <= 2; i++) assert_ok(try(&bench[0], i, 1, HM_PRIORITY_INFERENCE));
    for (unsigned i = 3; i <= 5; i++) assert_ok(try(&bench[0], i, 26, HM_PRIORITY_INFERENCE));
    assert_status(try(&bench[0], 6, 20, HM_PRIORITY_INFERENCE), HM_ERR_BUSY);
    assert_ok(try(&bench[0], 1, 10, HM_PRIORITY_INFERENCE)); /* who has a flow finds room */
    stage_run_for(&stage, HM_S);
    stage_close(&stage);
}

/* ---- classes ---------------------------------------------------------------------------------- */

static void a_task_can_be_less_urgent_than_its_pool_but_not_more(void **state)
{
    (void)state;
    struct hm_lane *lane = begin(HM_MS);
    for (unsigned i = 0; i < 2; i++)
        bench_open(&stage, &bench[i], lane,
                   (struct hm_pool_conf){.batch_rows_max = 8,
                                         .priority = i ? HM_PRIORITY_TRAINING : 0,
                                         .out_row_bytes = 8});
    assert_ok(
        try(&bench[1], 1, 8, HM_PRIORITY_INFERENCE)); /* says so, but training is the pool's */
    assert_ok(try(&bench[0], 1, 8, HM_PRIORITY_BACKGROUND));
    assert_ok(try(&bench[0], 2, 8, HM_PRIORITY_INFERENCE));
    stage_run_for(&stage, HM_S);
    assert_true(job[2].ended_at < job[0].ended_at && job[0].ended_at < job[1].ended_at);
    stage_close(&stage);
}

static void less_urgent_rows_fill_a_batch_that_would_run_with_room(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(HM_MS),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    submit(&bench[0], 1, 8);
    stage_run_for(&stage, HM_MS / 2);
    assert_ok(try(&bench[0], 1, 3, HM_PRIORITY_TRAINING));
    assert_ok(try(&bench[0], 1, 3, HM_PRIORITY_TRAINING));
    assert_ok(try(&bench[0], 2, 4, HM_PRIORITY_INFERENCE));
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 3);
    assert_int_equal(bench[0].batch_rows[1], 7); /* inference first, then one of training fits */
    assert_true(job[3].ended_at == job[1].ended_at && job[1].ended_at < job[2].ended_at);
    stage_close(&stage);
}

/* Inference for as long as it lasts, and a backlog of training: that moves on at its own pace, a
 * batch for every time it has aged, and does not take the lane over because it is old. */
static void a_backlog_of_training_gets_its_turns_and_no_more(void **state)
{
    (void)state;
    struct hm_lane *lane = begin(10 * HM_MS);
    for (unsigned i = 0; i < 2; i++)
        bench_open(&stage, &bench[i], lane,
                   (struct hm_pool_conf){.batch_rows_max = 8,
                                         .priority = i ? HM_PRIORITY_TRAINING : 0,
                                         .out_row_bytes = 8});
    for (unsigned i = 0; i < 300; i++) submit(&bench[0], 1, 8);
    for (unsigned i = 0; i < 300; i++) submit(&bench[1], 2, 8);
    stage_run_for(&stage, 2 * HM_S);
    assert_in_range(bench[1].batches, 2000 / (100 + 20), 2000 / 100);
    assert_in_range(bench[0].batches, 200 - bench[1].batches - 1, 200 - bench[1].batches);
    stage_close(&stage);
}

/* ---- the bound -------------------------------------------------------------------------------- */

/* A task's bound: all that sched/sched.h says, from what was known when it came. */
struct promise {
    uint64_t own_rows; /* its client's, its own included */
    unsigned class;
};
static struct promise promise[JOBS];
static unsigned clients;
static enum hm_priority pool_class[HM_COUNT_OF(bench)];

static unsigned class_in(const struct bench *in, enum hm_priority asked)
{
    enum hm_priority allowed = pool_class[in - bench];
    return asked > allowed ? asked : allowed;
}

static hm_ns bound_of(const struct job *one, const struct promise *of, unsigned lines,
                      unsigned batches_max, hm_ns service)
{
    uint64_t rows_max = one->bench->rows_max;
    uint64_t turn = (rows_max + HM_TURNS_A_BATCH - 1) / HM_TURNS_A_BATCH;
    uint64_t ahead = of->own_rows + (clients - 1) * (of->own_rows + turn + rows_max);
    uint64_t pair = rows_max < HM_PIECES_MAX ? rows_max : HM_PIECES_MAX;
    uint64_t turns = 2 * ahead / pair + 2;
    return turns * (of->class * HM_AGING_NS + (lines + batches_max) * service);
}

static uint64_t own_rows(const struct bench *in, uint64_t client, unsigned class)
{
    uint64_t rows = 0;
    for (unsigned i = 0; i < next; i++)
        if (!job[i].ended && job[i].bench == in && job[i].client == client &&
            class_in(in, job[i].priority) == class)
            rows += job[i].task.row_count - job[i].task.rows_taken;
    return rows;
}

static double run_seed(uint64_t seed)
{
    struct hm_rng rng;
    hm_rng_init(&rng, seed, WORKLOAD);
    memset(bench, 0, sizeof bench);
    memset(job, 0, sizeof job);
    next = 0;
    stage_open(&stage, seed, ROOM, NULL);
    struct hm_sim_lane_conf conf = {.seed = seed,
                                    .base_ns = hm_rng_below(&rng, 20 * HM_MS),
                                    .row_ns = 1 + hm_rng_below(&rng, 100 * HM_US),
                                    .jitter_percent = (uint32_t)hm_rng_below(&rng, 50),
                                    .run_at_launch = true,
                                    .batches_max =
                                        1 + (unsigned)hm_rng_below(&rng, HM_LANE_BATCHES_MAX),
                                    .ahead_max = hm_rng_below(&rng, 2) * 10 * HM_MS};
    struct hm_lane *lane = stage_lane(&stage, &conf);
    unsigned pools = 1 + (unsigned)hm_rng_below(&rng, HM_COUNT_OF(bench));
    uint32_t most = 0;
    for (unsigned i = 0; i < pools; i++) {
        uint32_t rows = 1 + (uint32_t)hm_rng_below(&rng, 400);
        if (rows > most) most = rows;
        pool_class[i] = (enum hm_priority)hm_rng_below(&rng, 2);
        bench_open(&stage, &bench[i], lane,
                   (struct hm_pool_conf){
                       .batch_rows_max = rows, .priority = pool_class[i], .out_row_bytes = 8});
    }
    hm_ns service = conf.base_ns + most * conf.row_ns;
    service += service * conf.jitter_percent / 100;
    clients = 1 + (unsigned)hm_rng_below(&rng, 8);
    hm_ns gap = 1 + hm_rng_below(&rng, 2) * hm_rng_below(&rng, 2 * service / (1 + clients));
    while (next < 300) {
        struct bench *to = &bench[hm_rng_below(&rng, pools)];
        /* One of them floods. */
        uint64_t client = hm_rng_below(&rng, 2) ? 0 : hm_rng_below(&rng, clients);
        uint32_t rows = 1 + (uint32_t)hm_rng_below(&rng, hm_rng_below(&rng, 8) ? to->rows_max
                                                                               : 3 * to->rows_max);
        enum hm_priority asked = (enum hm_priority)hm_rng_below(&rng, HM_PRIORITIES);
        promise[next].class = class_in(to, asked);
        promise[next].own_rows = own_rows(to, 1 + client, class_in(to, asked)) + rows;
        assert_ok(try(to, 1 + client, rows, asked));
        stage_run_for(&stage, 1 + hm_rng_below(&rng, gap));
    }
    stage_run_for(&stage, 600 * HM_S);
    double nearest = 0;
    for (unsigned i = 0; i < next; i++) {
        assert_status(job[i].status, HM_OK);
        hm_ns waited = job[i].ran_at - job[i].task.arrived;
        hm_ns bound =
            bound_of(&job[i], &promise[i], pools * HM_PRIORITIES, conf.batches_max, service);
        if (waited > bound)
            fail_msg("seed %u: task %u waited %.3f s, its bound is %.3f s", (unsigned)seed, i,
                     (double)waited / 1e9, (double)bound / 1e9);
        if ((double)waited / (double)bound > nearest) nearest = (double)waited / (double)bound;
    }
    stage_close(&stage);
    return nearest;
}

static void nobody_waits_longer_than_is_promised(void **state)
{
    (void)state;
    double nearest = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        double near = run_seed(seed);
        if (near > nearest) nearest = near;
    }
    print_message("the longest wait was %.2f of its bound\n", nearest);
    assert_true(nearest > 0.02); /* there was something to wait for */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_that_floods_waits_behind_itself),
        cmocka_unit_test(clients_get_equal_rows_whatever_the_size_of_their_tasks),
        cmocka_unit_test(a_flood_leaves_room_in_the_queue_for_others),
        cmocka_unit_test(small_tasks_cannot_fill_the_queue_either),
        cmocka_unit_test(clients_beyond_the_flows_share_a_turn_and_are_served),
        cmocka_unit_test(one_task_cannot_take_the_room_of_the_next_client),
        cmocka_unit_test(a_crowd_without_flows_has_one_share),
        cmocka_unit_test(a_task_can_be_less_urgent_than_its_pool_but_not_more),
        cmocka_unit_test(less_urgent_rows_fill_a_batch_that_would_run_with_room),
        cmocka_unit_test(a_backlog_of_training_gets_its_turns_and_no_more),
        cmocka_unit_test(nobody_waits_longer_than_is_promised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
