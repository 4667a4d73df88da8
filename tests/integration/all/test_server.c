/* The expert server over real sockets: what it answers to calls, part by part, and when. */
#include "support_server.h"

#include <math.h>
#include <stdio.h>

static struct swarm swarm;
static float x[ROWS_MAX * COLUMNS], dy[ROWS_MAX * COLUMNS];

static int setup(void **state)
{
    (void)state;
    fill_normal(x, ROWS_MAX * COLUMNS, 1);
    fill_normal(dy, ROWS_MAX * COLUMNS, 2);
    swarm_open(&swarm, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    swarm_close(&swarm);
    return 0;
}

static void assert_answered(const struct raw *raw, unsigned part, const float *wanted,
                            double tolerance)
{
    const struct answer *answer = &raw->answer[part];
    assert_int_equal(answer->count, 1);
    assert_ok(answer->status);
    assert_int_equal(answer->head.row_count, raw->part[part].row_count);
    assert_rows_near(answer->rows, wanted, (size_t)answer->head.row_count * COLUMNS, tolerance);
}

static void assert_refused(const struct raw *raw, unsigned part, enum hm_status wanted)
{
    assert_int_equal(raw->answer[part].count, 1);
    assert_status(raw->answer[part].status, wanted);
}

/* ---- each part its own answer ------------------------------------------------------------------- */

static void each_part_is_answered_once_with_its_own_rows(void **state)
{
    (void)state;
    static const uint32_t mixed[] = {23, 0, 7, 7, 12, 1}, few[] = {20, 3, 19, 4};
    float wanted[24 * COLUMNS], rows[6 * COLUMNS];
    struct local ffn0, ffn1;
    struct raw raw;
    raw_init(&raw, HM_PASS_FORWARD, x, NULL, 24);
    raw_add(&raw, "nop.0", 0, 6, mixed, NULL);
    raw_add(&raw, "nop.1", 5, 9, NULL, NULL);
    raw_add(&raw, "ffn.0", 0, 24, NULL, NULL); /* more than a batch */
    raw_add(&raw, "ffn.1", 0, 4, few, NULL);
    raw_add(&raw, "nop.0", 3, 2, NULL, NULL); /* the same expert again */
    raw_run(&swarm, &raw);
    assert_ok(raw.end);
    assert_int_equal(raw.replies, 5);

    gather_rows(x, mixed, NULL, 6, rows);
    assert_answered(&raw, 0, rows, 0);
    assert_answered(&raw, 1, x + 5 * COLUMNS, 0);
    local_open(&ffn0, "ffn.0");
    local_open(&ffn1, "ffn.1");
    local_forward(&ffn0, x, 24, wanted);
    assert_answered(&raw, 2, wanted, 1e-5);
    gather_rows(x, few, NULL, 4, rows);
    local_forward(&ffn1, rows, 4, wanted);
    assert_answered(&raw, 3, wanted, 1e-5);
    assert_answered(&raw, 4, x + 3 * COLUMNS, 0);
    local_close(&ffn1);
    local_close(&ffn0);
    raw_fini(&raw);
}

static void an_unknown_expert_and_a_malformed_uid_refuse_their_parts_only(void **state)
{
    (void)state;
    char long_uid[HM_UID_BYTES];
    memset(long_uid, '1', sizeof(long_uid));
    memcpy(long_uid, "ffn.", 4);
    long_uid[sizeof(long_uid) - 1] = '\0';
    const char *const bad[] = {"ffn.8", "nop", "", "ffn.01", "ffn.-1", long_uid};
    struct raw raw;
    raw_init(&raw, HM_PASS_FORWARD, x, NULL, 8);
    raw_add(&raw, "nop.0", 0, 8, NULL, NULL);
    for (unsigned i = 0; i < HM_COUNT_OF(bad); i++) raw_add(&raw, bad[i], 0, 8, NULL, NULL);
    raw_add(&raw, "nop.1", 2, 3, NULL, NULL);
    raw_run(&swarm, &raw);
    assert_ok(raw.end);
    assert_int_equal(raw.replies, 8);
    assert_answered(&raw, 0, x, 0);
    for (unsigned i = 0; i < HM_COUNT_OF(bad); i++) assert_refused(&raw, 1 + i, HM_ERR_EXPERT_GONE);
    assert_answered(&raw, 7, x + 2 * COLUMNS, 0);
    raw_fini(&raw);
}

static void refusals_do_not_wait_for_the_lane(void **state)
{
    (void)state;
    struct gate gate;
    struct raw raw;
    gate_shut(&gate, &swarm, "ffn.0");
    struct hm_schema wrong[4] = {hm_schema_f32(2 * COLUMNS), hm_schema_f32(COLUMNS - 1),
                                 hm_schema_f32(COLUMNS), hm_schema_f32(COLUMNS)};
    wrong[2].dtype[0] = HM_I64;
    wrong[3].row[0] = (struct hm_shape){.dim_count = 2, .dim = {COLUMNS, 1}};
    for (unsigned i = 0; i < 4; i++) {
        raw_init(&raw, HM_PASS_FORWARD, x, NULL, 8);
        raw.head.schema = wrong[i];
        raw_add(&raw, "ffn.0", 0, 8, NULL, NULL);
        raw_add(&raw, "ffn.8", 0, 8, NULL, NULL);
        raw_run(&swarm, &raw);
        assert_ok(raw.end);
        assert_refused(&raw, 0, HM_ERR_SHAPE);
        assert_refused(&raw, 1, HM_ERR_EXPERT_GONE);
        raw_fini(&raw);
    }
    raw_init(&raw, HM_PASS_FORWARD, x, NULL, QUEUE_ROWS + 1);
    raw_add(&raw, "ffn.0", 0, QUEUE_ROWS + 1, NULL, NULL);
    raw_run(&swarm, &raw);
    assert_refused(&raw, 0, HM_ERR_TOO_BIG);
    raw_fini(&raw);
    gate_open(&gate);
}

static void a_wrong_shape_does_not_freeze_a_remote_expert(void **state)
{
    (void)state;
    struct hm_remote_expert *expert;
    struct gate gate;
    float y[4 * 2 * COLUMNS] = {1, 2, 3}, before[4 * 2 * COLUMNS];
    memcpy(before, y, sizeof(y));
    struct hm_array in = {.dims = 2, .dim = {4, 2 * COLUMNS}, .data = x};
    struct hm_array grad = {.dims = 2, .dim = {4, 2 * COLUMNS}, .data = dy};
    struct hm_array out = {.dims = 2, .dim = {4, 2 * COLUMNS}, .data = y};
    assert_ok(hm_remote_expert_find(swarm.b, "ffn.0", 5000, &expert));
    gate_shut(&gate, &swarm, "ffn.0");
    assert_status(hm_remote_expert_forward(expert, &in, &out, 20000), HM_ERR_SHAPE);
    assert_status(hm_remote_expert_backward(expert, &in, &grad, &out, 20000), HM_ERR_SHAPE);
    assert_memory_equal(y, before, sizeof(y));
    gate_open(&gate);
    hm_remote_expert_put(expert);
    assert_int_equal(steps(&swarm, "ffn.0"), 0);
}

static void a_task_of_three_batches_comes_back_whole_and_in_order(void **state)
{
    (void)state;
    enum { ROWS = 3 * BATCH_ROWS };
    float y[ROWS * COLUMNS], wanted[ROWS * COLUMNS];
    uint32_t backwards[ROWS];
    struct local local;
    struct raw raw;
    for (uint32_t i = 0; i < ROWS; i++) backwards[i] = ROWS - 1 - i;
    assert_ok(pass_run(&swarm, "nop.0", HM_PASS_FORWARD, x, NULL, ROWS, y, NULL));
    assert_memory_equal(y, x, sizeof(y));
    raw_init(&raw, HM_PASS_FORWARD, x, NULL, ROWS);
    raw_add(&raw, "nop.1", 0, ROWS, backwards, NULL);
    raw_add(&raw, "ffn.1", 0, ROWS, NULL, NULL);
    raw_run(&swarm, &raw);
    gather_rows(x, backwards, NULL, ROWS, wanted);
    assert_answered(&raw, 0, wanted, 0);
    local_open(&local, "ffn.1");
    local_forward(&local, x, ROWS, wanted);
    assert_answered(&raw, 1, wanted, 1e-5);
    local_close(&local);
    raw_fini(&raw);
}

static void many_clients_at_once_get_their_own_answers(void **state)
{
    (void)state;
    enum { CLIENTS = 4, CALLS = 40 };
    static struct raw raw[CLIENTS][CALLS];
    struct hm_node *node[CLIENTS];
    struct hm_peer *peer[CLIENTS];
    struct flight flight[CLIENTS];
    struct local local;
    float wanted[ROWS_MAX * COLUMNS];
    unsigned answered = 0, busy = 0;
    for (unsigned c = 0; c < CLIENTS; c++) {
        assert_ok(hm_node_open(&(struct hm_node_options){.join = swarm.line}, &node[c]));
        peer[c] = peer_get(node[c], swarm.a);
    }
    for (unsigned c = 0; c < CLIENTS; c++) {
        for (unsigned i = 0; i < CALLS; i++) {
            unsigned first = (c * CALLS + i) % 64, count = 1 + i % 3;
            raw_init(&raw[c][i], HM_PASS_FORWARD, x + first * COLUMNS, NULL, 4);
            raw_add(&raw[c][i], "nop.0", 1, count, NULL, NULL);
            raw_add(&raw[c][i], "ffn.1", 0, count, NULL, NULL);
        }
        flight_start(&flight[c], node[c], peer[c], raw[c], CALLS);
    }
    local_open(&local, "ffn.1");
    local_forward(&local, x, 128, wanted);
    for (unsigned c = 0; c < CLIENTS; c++) {
        flight_wait(&flight[c]);
        for (unsigned i = 0; i < CALLS; i++) {
            const float *rows = raw[c][i].x;
            assert_int_equal(raw[c][i].ends, 1);
            assert_ok(raw[c][i].end);
            for (unsigned part = 0; part < 2; part++) {
                assert_int_equal(raw[c][i].answer[part].count, 1);
                if (raw[c][i].answer[part].status == HM_ERR_BUSY)
                    busy++; /* queues are bounded */
                else
                    assert_answered(&raw[c][i], part, part ? wanted + (rows - x) : rows + COLUMNS,
                                    part ? 1e-5 : 0);
                answered++;
            }
            raw_fini(&raw[c][i]);
        }
        peer_put(node[c], peer[c]);
        hm_node_close(node[c]);
    }
    local_close(&local);
    assert_int_equal(answered, 2 * CLIENTS * CALLS);
    assert_true(busy < answered);
}

/* ---- gradients ---------------------------------------------------------------------------------- */

static void a_backward_gives_the_experts_own_gradient_and_step(void **state)
{
    (void)state;
    enum { ROWS = 12 };
    static const uint32_t index[] = {11, 2, 2, 7, 0};
    static const float scale[] = {0.25f, -1.5f, 0.0f, 1.0f, 3.0f};
    float dx[ROWS * COLUMNS], wanted[ROWS * COLUMNS], in[5 * COLUMNS], grad[5 * COLUMNS];
    uint64_t step = 0;
    struct local local;
    struct raw raw;
    local_open(&local, "ffn.2");
    assert_ok(pass_run(&swarm, "ffn.2", HM_PASS_BACKWARD, x, dy, ROWS, dx, &step));
    local_backward(&local, x, dy, ROWS, wanted);
    assert_rows_near(dx, wanted, ROWS * COLUMNS, 1e-5);
    assert_int_equal(step, 1);

    raw_init(&raw, HM_PASS_BACKWARD, x, dy, ROWS);
    raw_add(&raw, "ffn.2", 0, 5, index, scale);
    raw_add(&raw, "nop.1", 4, 3, NULL, scale);
    raw_run(&swarm, &raw);
    gather_rows(x, index, NULL, 5, in);
    gather_rows(dy, index, scale, 5, grad);
    local_backward(&local, in, grad, 5, wanted);
    assert_answered(&raw, 0, wanted, 1e-4); /* a step of Adam lies between */
    assert_int_equal(raw.answer[0].head.step, 2);
    gather_rows(dy, (const uint32_t[]){4, 5, 6}, scale, 3, wanted);
    assert_answered(&raw, 1, wanted, 0);
    raw_fini(&raw);

    assert_ok(pass_run(&swarm, "ffn.2", HM_PASS_FORWARD, x, NULL, ROWS, dx, &step));
    local_forward(&local, x, ROWS, wanted);
    assert_rows_near(dx, wanted, ROWS * COLUMNS, 1e-4);
    assert_int_equal(step, 2);
    local_close(&local);
}

static void a_remote_expert_gives_the_same_as_the_expert(void **state)
{
    (void)state;
    struct hm_remote_expert *expert;
    struct hm_remote_expert_info info;
    struct local local;
    float y[6 * COLUMNS], wanted[6 * COLUMNS];
    struct hm_array in = {.dims = 3, .dim = {2, 3, COLUMNS}, .data = x};
    struct hm_array grad = {.dims = 3, .dim = {2, 3, COLUMNS}, .data = dy};
    struct hm_array out = {.dims = 3, .dim = {2, 3, COLUMNS}, .data = y};
    local_open(&local, "ffn.7");
    assert_ok(hm_remote_expert_find(swarm.b, "ffn.7", 5000, &expert));
    assert_ok(hm_remote_expert_forward(expert, &in, &out, 5000));
    local_forward(&local, x, 6, wanted);
    assert_rows_near(y, wanted, 6 * COLUMNS, 1e-5);
    assert_ok(hm_remote_expert_backward(expert, &in, &grad, &out, 5000));
    local_backward(&local, x, dy, 6, wanted);
    assert_rows_near(y, wanted, 6 * COLUMNS, 1e-5);
    assert_ok(hm_remote_expert_info(expert, 5000, &info));
    assert_string_equal(info.uid, "ffn.7");
    assert_string_equal(info.kind, "ffn");
    assert_int_equal(info.hidden, COLUMNS);
    assert_int_equal(info.step, 1);
    assert_int_equal(info.parameter_count, hm_expert_plan(local.expert)->parameter_elements);
    hm_remote_expert_put(expert);
    local_close(&local);
}

/* ---- a stranger's values ------------------------------------------------------------------------ */

static const float poison[] = {NAN, INFINITY, -INFINITY};

static void values_that_are_not_finite_are_refused_and_step_nothing(void **state)
{
    (void)state;
    float bad[4 * COLUMNS];
    for (unsigned i = 0; i < HM_COUNT_OF(poison); i++) {
        memcpy(bad, x, sizeof(bad));
        bad[i * COLUMNS + 3] = poison[i];
        assert_status(pass_run(&swarm, "ffn.3", HM_PASS_FORWARD, bad, NULL, 4, NULL, NULL),
                      HM_ERR_NUMERIC);
        assert_status(pass_run(&swarm, "ffn.3", HM_PASS_BACKWARD, bad, dy, 4, NULL, NULL),
                      HM_ERR_NUMERIC);
        assert_status(pass_run(&swarm, "ffn.3", HM_PASS_BACKWARD, x, bad, 4, NULL, NULL),
                      HM_ERR_NUMERIC);
    }
    assert_int_equal(steps(&swarm, "ffn.3"), 0);
}

/* Three backwards of four rows to `uid` that wait together, so that they make one batch; the one in the middle has
 * `value` in its rows (and in its gradient). */
static void a_batch_with(const char *uid, float value, enum hm_status wanted_status,
                         unsigned steps_made)
{
    static float bad_x[4 * COLUMNS], bad_dy[4 * COLUMNS];
    float good[8 * COLUMNS], wanted[8 * COLUMNS], y[8 * COLUMNS];
    struct raw raw[3];
    struct flight flight;
    struct gate gate;
    struct local local;
    memcpy(bad_x, x + 4 * COLUMNS, sizeof(bad_x));
    memcpy(bad_dy, dy + 4 * COLUMNS, sizeof(bad_dy));
    for (unsigned i = 0; i < COLUMNS; i += 3) bad_x[2 * COLUMNS + i] = bad_dy[i] = value;
    for (unsigned i = 0; i < 3; i++) {
        size_t at = (size_t)i * 4 * COLUMNS;
        raw_init(&raw[i], HM_PASS_BACKWARD, i == 1 ? bad_x : x + at, i == 1 ? bad_dy : dy + at, 4);
        raw_add(&raw[i], uid, 0, 4, NULL, NULL);
    }
    gate_shut(&gate, &swarm, uid);
    flight_start(&flight, swarm.b, swarm.peer, raw, 3);
    wait_queued(&swarm, uid, HM_PASS_BACKWARD, 12);
    gate_open(&gate);
    flight_wait(&flight);

    local_open(&local, uid);
    if (steps_made == 1) {
        memcpy(good, x, sizeof(good) / 2);
        memcpy(good + 4 * COLUMNS, x + 8 * COLUMNS, sizeof(good) / 2);
        memcpy(y, dy, sizeof(y) / 2);
        memcpy(y + 4 * COLUMNS, dy + 8 * COLUMNS, sizeof(y) / 2);
        local_backward(&local, good, y, 8, wanted);
    } else {
        local_backward(&local, x, dy, 4, wanted);
        local_backward(&local, x + 8 * COLUMNS, dy + 8 * COLUMNS, 4, wanted + 4 * COLUMNS);
    }
    assert_refused(&raw[1], 0, wanted_status);
    assert_answered(&raw[0], 0, wanted, 1e-5);
    assert_answered(&raw[2], 0, wanted + 4 * COLUMNS, 1e-4);
    assert_int_equal(raw[0].answer[0].head.step, 1);
    assert_int_equal(raw[2].answer[0].head.step, steps_made);
    assert_ok(pass_run(&swarm, uid, HM_PASS_FORWARD, x, NULL, 8, y, NULL));
    local_forward(&local, x, 8, wanted);
    assert_rows_near(y, wanted, 8 * COLUMNS, 1e-4);
    local_close(&local);
    for (unsigned i = 0; i < 3; i++) raw_fini(&raw[i]);
}

static void a_strangers_nan_leaves_the_others_in_its_batch_alone(void **state)
{
    (void)state;
    a_batch_with("ffn.3", NAN, HM_ERR_NUMERIC, 1);
}

static void a_strangers_huge_values_leave_the_others_in_its_batch_alone(void **state)
{
    (void)state;
    a_batch_with("ffn.6", 3e38f, HM_ERR_EXPERT_NUMERIC, 2);
}

static void a_nan_in_the_last_row_of_a_split_part_steps_nothing(void **state)
{
    (void)state;
    enum { ROWS = 3 * BATCH_ROWS };
    static float bad[ROWS * COLUMNS], dx[ROWS * COLUMNS];
    uint64_t before = steps(&swarm, "ffn.7");
    memcpy(bad, dy, sizeof(bad));
    bad[ROWS * COLUMNS - 1] = NAN;
    assert_status(pass_run(&swarm, "ffn.7", HM_PASS_BACKWARD, x, bad, ROWS, dx, NULL),
                  HM_ERR_NUMERIC);
    assert_int_equal(steps(&swarm, "ffn.7"), before);
}

/* ---- queues, deadlines, cancels ----------------------------------------------------------------- */

static void a_full_queue_answers_busy_at_once_and_says_when_to_come_back(void **state)
{
    (void)state;
    enum { CALLS = QUEUE_ROWS / 8 - 2 }; /* a fifth of the queue is not for one client alone */
    struct raw raw[CALLS], more;
    struct flight flight;
    struct gate gate;
    for (unsigned i = 0; i < 10; i++) /* so that the server knows what a batch takes */
        assert_ok(pass_run(&swarm, "ffn.4", HM_PASS_FORWARD, x, NULL, 8, NULL, NULL));
    for (unsigned i = 0; i < CALLS; i++) {
        raw_init(&raw[i], HM_PASS_FORWARD, x, NULL, 8);
        raw_add(&raw[i], "ffn.4", 0, 8, NULL, NULL);
    }
    gate_shut(&gate, &swarm, "ffn.4");
    flight_start(&flight, swarm.b, swarm.peer, raw, CALLS);
    wait_queued(&swarm, "ffn.4", HM_PASS_FORWARD, 8 * CALLS);
    raw_init(&more, HM_PASS_FORWARD, x, NULL, 8);
    raw_add(&more, "ffn.4", 0, 8, NULL, NULL);
    raw_add(&more, "ffn.8", 0, 1, NULL, NULL);
    raw_run(&swarm, &more); /* while the lane is held */
    assert_refused(&more, 0, HM_ERR_BUSY);
    assert_true(more.answer[0].head.retry_after_us > 0);
    assert_true(more.answer[0].head.load_us > 0);
    assert_refused(&more, 1, HM_ERR_EXPERT_GONE);
    assert_int_equal(more.answer[1].head.retry_after_us, 0);
    assert_int_equal(more.answer[1].head.load_us, 0);
    assert_false(flight_ended(&flight));
    gate_open(&gate);
    flight_wait(&flight);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(raw[i].answer[0].count, 1);
        assert_ok(raw[i].answer[0].status);
        raw_fini(&raw[i]);
    }
    raw_fini(&more);
}

static void a_call_ends_at_its_deadline_and_its_parts_never_run(void **state)
{
    (void)state;
    struct raw raw;
    struct gate gate;
    gate_shut(&gate, &swarm, "ffn.5");
    raw_init(&raw, HM_PASS_BACKWARD, x, dy, 8);
    raw_add(&raw, "ffn.5", 0, 8, NULL, NULL);
    raw.timeout = 150 * HM_MS;
    raw_run(&swarm, &raw); /* while the lane is held */
    /* The server gives up when no answer would come in time any more; saying so may just do. */
    if (raw.answer[0].count == 0)
        assert_status(raw.end, HM_ERR_TIMED_OUT);
    else
        assert_refused(&raw, 0, HM_ERR_TIMED_OUT);
    wait_queued(&swarm, "ffn.5", HM_PASS_BACKWARD, 0);
    gate_open(&gate);
    raw_fini(&raw);
    assert_int_equal(steps(&swarm, "ffn.5"), 0);
}

static void a_cancelled_calls_parts_never_run(void **state)
{
    (void)state;
    struct raw raw[5];
    struct flight flight;
    struct gate gate;
    gate_shut(&gate, &swarm, "ffn.5");
    for (unsigned i = 0; i < 5; i++) {
        raw_init(&raw[i], HM_PASS_BACKWARD, x, dy, 8);
        raw_add(&raw[i], "ffn.5", 0, 8, NULL, NULL);
        raw_add(&raw[i], "ffn.8", 0, 8, NULL, NULL);
    }
    flight_start(&flight, swarm.b, swarm.peer, raw, 5);
    wait_queued(&swarm, "ffn.5", HM_PASS_BACKWARD, 40);
    flight_cancel(&flight);
    flight_wait(&flight);
    wait_queued(&swarm, "ffn.5", HM_PASS_BACKWARD, 0);
    gate_open(&gate);
    for (unsigned i = 0; i < 5; i++) {
        assert_status(raw[i].end, HM_ERR_CANCELED);
        assert_int_equal(raw[i].answer[0].count, 0);
        raw_fini(&raw[i]);
    }
    assert_int_equal(steps(&swarm, "ffn.5"), 0);
}

/* Steps tell the order: each of these fills a batch. */
static void a_call_that_says_it_is_less_urgent_goes_after_others(void **state)
{
    (void)state;
    static const uint8_t priority[3] = {HM_PRIORITY_BACKGROUND, HM_PRIORITY_TRAINING,
                                        HM_PRIORITY_INFERENCE};
    struct raw raw[3];
    struct flight flight[3];
    struct gate gate;
    gate_shut(&gate, &swarm, "ffn.7");
    for (unsigned i = 0; i < 3; i++) {
        raw_init(&raw[i], HM_PASS_BACKWARD, x, dy, BATCH_ROWS);
        raw[i].head.priority = priority[i];
        raw_add(&raw[i], "ffn.7", 0, BATCH_ROWS, NULL, NULL);
        flight_start(&flight[i], swarm.b, swarm.peer, &raw[i], 1);
        wait_queued(&swarm, "ffn.7", HM_PASS_BACKWARD, (i + 1) * BATCH_ROWS);
    }
    gate_open(&gate);
    for (unsigned i = 0; i < 3; i++) {
        flight_wait(&flight[i]);
        assert_ok(raw[i].answer[0].status);
    }
    /* The last one asks for more than a backward is given: it goes in its turn. */
    assert_true(raw[1].answer[0].head.step < raw[2].answer[0].head.step);
    assert_true(raw[2].answer[0].head.step < raw[0].answer[0].head.step);
    for (unsigned i = 0; i < 3; i++) raw_fini(&raw[i]);
}

static void a_timed_call_is_told_where_its_time_went(void **state)
{
    (void)state;
    static const hm_ns held = 20 * HM_MS;
    struct raw raw[2];
    struct flight flight;
    struct gate gate;
    gate_shut(&gate, &swarm, "ffn.6");
    for (unsigned i = 0; i < 2; i++) {
        raw_init(&raw[i], HM_PASS_FORWARD, x, NULL, 8);
        raw[i].head.flags = i ? 0 : HM_CALL_TIMED;
        raw_add(&raw[i], "ffn.6", 0, 8, NULL, NULL);
        raw_add(&raw[i], "ffn.8", 0, 8, NULL, NULL);
    }
    flight_start(&flight, swarm.b, swarm.peer, raw, 2);
    wait_queued(&swarm, "ffn.6", HM_PASS_FORWARD, 16);
    hm_thread_sleep(held);
    hm_ns opened = hm_thread_clock();
    gate_open(&gate);
    flight_wait(&flight);
    hm_ns after = hm_thread_clock() - opened;
    assert_true(raw[0].answer[0].head.timed && raw[0].answer[1].head.timed);
    assert_false(raw[1].answer[0].head.timed || raw[1].answer[1].head.timed);

    const uint64_t *stage = raw[0].answer[0].head.times.stage;
    assert_true(stage[HM_STAGE_WAIT] >= held);
    assert_true(stage[HM_STAGE_COMPUTE] > 0 && stage[HM_STAGE_REPLY] > 0);
    assert_true(stage[HM_STAGE_COMPUTE] + stage[HM_STAGE_REPLY] <= after);
    stage = raw[0].answer[1].head.times.stage; /* refused at once */
    assert_true(stage[HM_STAGE_ADMIT] > 0 && stage[HM_STAGE_WAIT] + stage[HM_STAGE_COMPUTE] == 0);
    for (unsigned i = 0; i < 2; i++) raw_fini(&raw[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_part_is_answered_once_with_its_own_rows),
        cmocka_unit_test(an_unknown_expert_and_a_malformed_uid_refuse_their_parts_only),
        cmocka_unit_test(refusals_do_not_wait_for_the_lane),
        cmocka_unit_test(a_wrong_shape_does_not_freeze_a_remote_expert),
        cmocka_unit_test(a_task_of_three_batches_comes_back_whole_and_in_order),
        cmocka_unit_test(many_clients_at_once_get_their_own_answers),
        cmocka_unit_test(a_backward_gives_the_experts_own_gradient_and_step),
        cmocka_unit_test(a_remote_expert_gives_the_same_as_the_expert),
        cmocka_unit_test(values_that_are_not_finite_are_refused_and_step_nothing),
        cmocka_unit_test(a_strangers_nan_leaves_the_others_in_its_batch_alone),
        cmocka_unit_test(a_nan_in_the_last_row_of_a_split_part_steps_nothing),
        cmocka_unit_test(a_strangers_huge_values_leave_the_others_in_its_batch_alone),
        cmocka_unit_test(a_full_queue_answers_busy_at_once_and_says_when_to_come_back),
        cmocka_unit_test(a_call_ends_at_its_deadline_and_its_parts_never_run),
        cmocka_unit_test(a_cancelled_calls_parts_never_run),
        cmocka_unit_test(a_call_that_says_it_is_less_urgent_goes_after_others),
        cmocka_unit_test(a_timed_call_is_told_where_its_time_went),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
