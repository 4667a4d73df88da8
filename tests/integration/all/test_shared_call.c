/* Callers of one process share a call: each has its own rows, its own failure and its own end, and who does
 * not belong together goes apart. */
#include "support_server.h"

#include "moe/remote_expert.h"
#include "moe/shared_call.h"

#include <math.h>
#include <pthread.h>

enum { CALLERS_MAX = 40, ROWS_EACH_MAX = 20 };
#define SOON (20 * HM_S)
static struct swarm swarm;

struct caller { /* one operation, started in the same turn as the others of its crowd */
    const char *uid;
    uint32_t rows, columns;
    const char *codec; /* NULL: none */
    hm_ns timeout;
    bool backward;
    float *x, *y;
    /* what came */
    unsigned ends;
    enum hm_status status;
    uint64_t step;
    char line[HM_ERROR_LINE_BYTES];
    /* its own */
    struct crowd *crowd;
    struct hm_uid parsed;
    struct hm_moe_expert_op op;
    struct hm_tensor tx, ty;
};
struct crowd {
    struct caller caller[CALLERS_MAX];
    unsigned count, running;
    unsigned enough; /* running ones that are not waited for */
    struct hm_wait *wait;
    uint64_t calls, shared, callers; /* to the server; of those, shared; by so many callers */
};
static struct crowd crowd;

static void read_counts(struct crowd *of)
{
    struct hm_dispatch_stats stats;
    hm_dispatch_stats(swarm.b->dispatch, &stats);
    of->calls = stats.calls - of->calls;
    of->shared = hm_metrics_value(&swarm.b->metrics, "moe.calls_shared") - of->shared;
    of->callers = hm_metrics_value(&swarm.b->metrics, "moe.callers_shared") - of->callers;
}

static void look(struct crowd *of)
{
    struct hm_wait *wait = of->wait;
    if (!wait || of->running > of->enough) return;
    of->wait = NULL;
    hm_wait_end(wait, HM_OK);
}

static void ended(struct hm_moe_expert_op *op, enum hm_status status)
{
    struct caller *caller = op->arg;
    caller->ends++;
    caller->status = status;
    caller->step = op->step;
    snprintf(caller->line, sizeof caller->line, "%s", status ? hm_fail_line_of(status) : "");
    caller->crowd->running--;
    look(caller->crowd);
}

static void start_all(struct hm_wait *wait, void *arg)
{
    struct crowd *of = arg;
    of->wait = wait;
    of->running = of->count;
    read_counts(of);
    for (unsigned i = 0; i < of->count; i++) {
        struct caller *caller = &of->caller[i];
        hm_ns deadline = hm_deadline_after(swarm.b->loop, caller->timeout);
        enum hm_status status =
            caller->backward
                ? hm_moe_expert_backward(swarm.b->dispatch, &caller->op, &caller->parsed,
                                         &caller->tx, &caller->tx, &caller->ty, deadline, ended)
                : hm_moe_expert_forward(swarm.b->dispatch, &caller->op, &caller->parsed,
                                        &caller->tx, &caller->ty, deadline, ended);
        HM_ASSERT(status == HM_OK);
    }
}

static void wait_on(struct hm_wait *wait, void *arg)
{
    struct crowd *of = arg;
    of->wait = wait;
    look(of);
}

static void count_on(struct hm_wait *wait, void *arg)
{
    read_counts(arg);
    hm_wait_end(wait, HM_OK);
}

/* One more caller; its x are numbers that no other caller has. */
static struct caller *add(const char *uid, uint32_t rows, uint32_t columns)
{
    struct caller *caller = &crowd.caller[crowd.count];
    size_t elements = (size_t)rows * columns;
    assert_true(crowd.count < CALLERS_MAX && rows <= ROWS_EACH_MAX);
    *caller = (struct caller){.uid = uid,
                              .rows = rows,
                              .columns = columns,
                              .timeout = SOON,
                              .crowd = &crowd,
                              .x = malloc(2 * elements * sizeof(float))};
    assert_non_null(caller->x);
    caller->y = caller->x + elements;
    for (size_t i = 0; i < elements; i++) {
        caller->x[i] = (float)(crowd.count * 65536 + i) + 0.25f;
        caller->y[i] = -1;
    }
    crowd.count++;
    return caller;
}

static void start(unsigned enough)
{
    for (unsigned i = 0; i < crowd.count; i++) {
        struct caller *caller = &crowd.caller[i];
        caller->tx = hm_matrix_f32(caller->x, caller->rows, caller->columns);
        caller->ty = hm_matrix_f32(caller->y, caller->rows, caller->columns);
        caller->op = (struct hm_moe_expert_op){
            .arg = caller, .codec = caller->codec ? hm_codec_by_name(caller->codec) : NULL};
        assert_ok(hm_uid_parse(caller->uid, &caller->parsed));
    }
    crowd.enough = enough;
    crowd.calls = crowd.shared = crowd.callers = 0;
    assert_ok(hm_node_run(swarm.b, start_all, &crowd));
}

static void wait_for_all(void)
{
    crowd.enough = 0;
    assert_ok(hm_node_run(swarm.b, wait_on, &crowd));
    assert_ok(hm_node_run(swarm.b, count_on, &crowd));
    for (unsigned i = 0; i < crowd.count; i++) assert_int_equal(crowd.caller[i].ends, 1);
}

static void run(void)
{
    start(0);
    wait_for_all();
}

static void disperse(void)
{
    for (unsigned i = 0; i < crowd.count; i++) free(crowd.caller[i].x);
    crowd.count = 0;
}

static void assert_came_back(const struct caller *caller)
{
    size_t bytes = (size_t)caller->rows * caller->columns * sizeof(float);
    if (caller->status) fail_msg("%s: %s", hm_status_name(caller->status), caller->line);
    assert_memory_equal(caller->y, caller->x, bytes);
}

static void assert_untouched(const struct caller *caller, enum hm_status status)
{
    assert_status(caller->status, status);
    assert_non_null(strstr(caller->line, caller->uid));
    for (size_t i = 0; i < (size_t)caller->rows * caller->columns; i++)
        assert_true(caller->y[i] == -1);
}

static int setup(void **state)
{
    (void)state;
    struct hm_remote_expert *expert;
    swarm_open(&swarm, 0);
    static const char *const known[] = {"nop.0", "nop.1", "wide.0", "ffn.0"};
    for (unsigned i = 0; i < HM_COUNT_OF(known); i++) { /* so that the directory knows them */
        assert_ok(hm_remote_expert_find(swarm.b, known[i], 20000, &expert));
        hm_remote_expert_put(expert);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    swarm_close(&swarm);
    return 0;
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void callers_of_one_turn_share_calls_and_each_has_its_own_rows(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++)
        add("nop.0", 1, COLUMNS)->codec = i % 2 ? "none" : NULL; /* the same */
    run();
    for (unsigned i = 0; i < crowd.count; i++) assert_came_back(&crowd.caller[i]);
    assert_int_equal(crowd.calls, 2); /* of 16 rows, and 4 */
    assert_int_equal(crowd.shared, 2);
    assert_int_equal(crowd.callers, 20);
    disperse();
    for (unsigned i = 0; i < 12; i++) add("nop.0", 1 + i % 5, COLUMNS); /* of several sizes */
    run();
    for (unsigned i = 0; i < crowd.count; i++) assert_came_back(&crowd.caller[i]);
    assert_in_range(crowd.calls, 3, 4); /* 33 rows */
    disperse();
}

static void what_an_expert_computes_is_as_good_as_alone(void **state)
{
    (void)state;
    struct local local;
    float wanted[2 * COLUMNS];
    local_open(&local, "ffn.0");
    for (unsigned i = 0; i < 5; i++) fill_normal(add("ffn.0", 2, COLUMNS)->x, 2 * COLUMNS, 40 + i);
    run();
    assert_int_equal(crowd.calls, 1);
    for (unsigned i = 0; i < 5; i++) {
        assert_ok(crowd.caller[i].status);
        local_forward(&local, crowd.caller[i].x, 2, wanted);
        assert_rows_near(crowd.caller[i].y, wanted, 2 * COLUMNS, 1e-5);
        assert_int_equal(crowd.caller[i].step, crowd.caller[0].step);
    }
    disperse();
    local_close(&local);
}

static void who_is_alone_in_its_turn_shares_nothing(void **state)
{
    (void)state;
    add("nop.0", 3, COLUMNS);
    for (unsigned i = 0; i < 3; i++) {
        crowd.caller[0].ends = 0;
        run();
        assert_came_back(&crowd.caller[0]);
        assert_int_equal(crowd.calls, 1);
        assert_int_equal(crowd.shared, 0);
    }
    disperse();
}

static void a_call_has_no_more_rows_and_bytes_than_come_with_their_message(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 7; i++) add("wide.0", 1, WIDE_COLUMNS); /* 8 KiB a row: 3 of them */
    run();
    for (unsigned i = 0; i < crowd.count; i++) assert_came_back(&crowd.caller[i]);
    assert_int_equal(crowd.calls, 3);
    assert_int_equal(crowd.callers, 6);
    disperse();
    for (unsigned i = 0; i < 3; i++) add("nop.0", HM_SHARED_ROWS_MAX - 1 + i, COLUMNS);
    add("nop.0", 1, COLUMNS); /* with the first */
    run();
    for (unsigned i = 0; i < crowd.count; i++) assert_came_back(&crowd.caller[i]);
    assert_int_equal(crowd.calls, 3);
    assert_int_equal(crowd.callers, 2);
    disperse();
}

static void experts_codecs_shapes_and_passes_do_not_share(void **state)
{
    (void)state;
    add("nop.0", 1, COLUMNS);
    add("nop.1", 1, COLUMNS);
    add("nop.0", 1, COLUMNS)->codec = "f16";
    add("nop.0", 1, COLUMNS)->codec = "u8";
    add("nop.0", 1, COLUMNS)->backward = true;
    add("nop.0", 1, COLUMNS)->backward = true;
    struct caller *narrow = add("nop.0", 1, COLUMNS / 2);
    run();
    assert_came_back(&crowd.caller[0]);
    assert_came_back(&crowd.caller[1]);
    for (unsigned i = 2; i < 6; i++) assert_ok(crowd.caller[i].status);
    for (unsigned i = 0; i < COLUMNS; i++) /* a step of this block is 1/17 */
        assert_near(crowd.caller[3].y[i], crowd.caller[3].x[i], 0.1);
    assert_untouched(narrow, HM_ERR_SHAPE);
    assert_int_equal(crowd.calls, 7);
    assert_int_equal(crowd.shared, 0);
    disperse();
}

static void coded_rows_are_shared_too(void **state)
{
    (void)state;
    float alone[6][COLUMNS];
    for (unsigned i = 0; i < 6; i++) {
        struct caller *caller = add("nop.0", 1, COLUMNS);
        caller->codec = "u8";
        run();
        memcpy(alone[i], caller->y, sizeof alone[i]);
        crowd.caller[i].ends = 0;
        /* The next crowd has this one again, all in one call. */
        for (unsigned k = 0; k < i; k++) crowd.caller[k].ends = 0;
    }
    run();
    for (unsigned i = 0; i < 6; i++) {
        assert_ok(crowd.caller[i].status);
        assert_memory_equal(crowd.caller[i].y, alone[i], sizeof alone[i]);
    }
    assert_int_equal(crowd.calls, 1);
    disperse();
}

/* Plain rows are looked at by the server, coded ones by us. */
static void whose_rows_are_not_finite_fails_and_the_others_do_not(void **state)
{
    (void)state;
    static const char *const codecs[] = {NULL, "f16"};
    for (unsigned c = 0; c < HM_COUNT_OF(codecs); c++) {
        for (unsigned i = 0; i < 6; i++) {
            struct caller *caller = add("nop.0", 1 + i % 3, COLUMNS);
            for (unsigned k = 0; codecs[c] && k < caller->rows * COLUMNS; k++)
                caller->x[k] = (float)(i * 64 + k); /* that f16 has */
            caller->codec = codecs[c];
        }
        crowd.caller[3].x[5] = NAN;
        run();
        for (unsigned i = 0; i < 6; i++) {
            if (i == 3)
                assert_untouched(&crowd.caller[i], HM_ERR_NUMERIC);
            else
                assert_came_back(&crowd.caller[i]);
        }
        assert_int_equal(crowd.shared, 1);
        assert_int_equal(crowd.calls, 1 + 6); /* once again, and alone */
        disperse();
    }
}

static void who_has_room_is_taken_although_all_together_have_not(void **state)
{
    (void)state;
    enum { FEW = 6, ROOM = 3, SHARE = HM_QUEUE_SHARE * QUEUE_ROWS / (HM_QUEUE_SHARE + 1) };
    struct gate gate;
    unsigned filled = 0, busy = 0;
    gate_shut(&gate, &swarm, "nop.0");
    for (; filled < SHARE - ROOM; filled += HM_SHARED_ROWS_MAX) /* so many share with nobody */
        add("nop.0", HM_SHARED_ROWS_MAX, COLUMNS);
    assert_int_equal(filled, SHARE - ROOM);
    for (unsigned i = 0; i < FEW; i++) add("nop.0", 1, COLUMNS);
    start(crowd.count - (FEW - ROOM)); /* until those for whom there is no room have ended */
    wait_queued(&swarm, "nop.0", HM_PASS_FORWARD, SHARE);
    gate_open(&gate);
    wait_for_all();
    for (unsigned i = 0; i < crowd.count; i++) {
        struct caller *caller = &crowd.caller[i];
        if (i >= crowd.count - FEW && caller->status == HM_ERR_BUSY) {
            assert_untouched(caller, HM_ERR_BUSY);
            busy++;
        } else {
            assert_came_back(caller);
        }
    }
    assert_int_equal(busy, FEW - ROOM);
    assert_int_equal(crowd.callers, FEW);
    disperse();
}

static void an_early_deadline_is_its_own(void **state)
{
    (void)state;
    struct gate gate;
    gate_shut(&gate, &swarm, "nop.0");
    for (unsigned i = 0; i < 5; i++) add("nop.0", 1, COLUMNS);
    crowd.caller[2].timeout = 300 * HM_MS;
    crowd.caller[3].timeout = SOON + SOON / 65; /* near enough: with the first two */
    crowd.caller[4].timeout = SOON + SOON / 8;
    start(4);
    assert_int_equal(crowd.running, 4);
    assert_untouched(&crowd.caller[2], HM_ERR_TIMED_OUT);
    gate_open(&gate);
    wait_for_all();
    for (unsigned i = 0; i < 5; i++)
        if (i != 2) assert_came_back(&crowd.caller[i]);
    assert_int_equal(crowd.calls, 3);
    assert_int_equal(crowd.callers, 3);
    disperse();
}

static void all_of_a_call_end_at_its_deadline(void **state)
{
    (void)state;
    struct gate gate;
    gate_shut(&gate, &swarm, "nop.0");
    for (unsigned i = 0; i < 4; i++) add("nop.0", 1, COLUMNS)->timeout = 300 * HM_MS;
    run();
    for (unsigned i = 0; i < 4; i++) assert_untouched(&crowd.caller[i], HM_ERR_TIMED_OUT);
    assert_int_equal(crowd.calls, 1); /* nobody asks again */
    gate_open(&gate);
    disperse();
}

/* ---- threads ---- */

enum { THREADS = 4, EACH = 300, AT_ONCE = 8 };
struct worker {
    pthread_t thread;
    unsigned number;
    bool good;
};

/* Numbers of its own in each call, and they come back; no cmocka here, whose checks leap. */
static void *work(void *arg)
{
    struct worker *worker = arg;
    struct hm_queue *queue;
    struct hm_remote_expert *expert;
    static float rows[THREADS][AT_ONCE][2][COLUMNS];
    struct hm_completion completion;
    unsigned started = 0, done = 0, free_slots = (1U << AT_ONCE) - 1;
    bool good = !hm_queue_open(swarm.b, AT_ONCE, &queue) &&
                !hm_remote_expert_find(swarm.b, "nop.0", 20000, &expert);
    while (good && done < EACH) {
        while (good && started < EACH && free_slots) {
            unsigned slot = (unsigned)__builtin_ctz(free_slots);
            float(*pair)[COLUMNS] = rows[worker->number][slot];
            for (unsigned i = 0; i < COLUMNS; i++)
                pair[0][i] = (float)((worker->number * EACH + started) * COLUMNS + i);
            struct hm_array x = {.dims = 1, .dim = {COLUMNS}, .data = pair[0]}, y = x;
            y.data = pair[1];
            good = !hm_remote_expert_forward_start(expert, &x, &y, 20000, queue, pair);
            free_slots &= ~(1U << slot);
            started++;
        }
        good = good && !hm_queue_wait(queue, 20000, &completion) && !completion.status;
        float(*pair)[COLUMNS] = completion.tag;
        good = good && memcmp(pair[0], pair[1], sizeof pair[0]) == 0;
        free_slots |= 1U << (unsigned)((float(*)[2][COLUMNS])pair - rows[worker->number]);
        done++;
    }
    hm_queue_close(queue);
    hm_remote_expert_put(expert);
    worker->good = good;
    return NULL;
}

static void threads_share_calls_and_each_has_its_own_rows(void **state)
{
    (void)state;
    struct worker worker[THREADS];
    crowd.calls = crowd.shared = crowd.callers = 0;
    assert_ok(hm_node_run(swarm.b, count_on, &crowd));
    for (unsigned i = 0; i < THREADS; i++) {
        worker[i] = (struct worker){.number = i};
        assert_int_equal(pthread_create(&worker[i].thread, NULL, work, &worker[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(worker[i].thread, NULL);
        assert_true(worker[i].good);
    }
    assert_ok(hm_node_run(swarm.b, count_on, &crowd));
    print_message("%u calls of callers: %llu to the server\n", THREADS * EACH,
                  (unsigned long long)crowd.calls);
    assert_true(crowd.calls < THREADS * EACH && crowd.shared > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callers_of_one_turn_share_calls_and_each_has_its_own_rows),
        cmocka_unit_test(what_an_expert_computes_is_as_good_as_alone),
        cmocka_unit_test(who_is_alone_in_its_turn_shares_nothing),
        cmocka_unit_test(a_call_has_no_more_rows_and_bytes_than_come_with_their_message),
        cmocka_unit_test(experts_codecs_shapes_and_passes_do_not_share),
        cmocka_unit_test(coded_rows_are_shared_too),
        cmocka_unit_test(whose_rows_are_not_finite_fails_and_the_others_do_not),
        cmocka_unit_test(who_has_room_is_taken_although_all_together_have_not),
        cmocka_unit_test(an_early_deadline_is_its_own),
        cmocka_unit_test(all_of_a_call_end_at_its_deadline),
        cmocka_unit_test(threads_share_calls_and_each_has_its_own_rows),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
