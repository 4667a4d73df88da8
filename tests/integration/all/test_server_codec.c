/* Coded rows at the server over real sockets: what comes back is what the expert makes of them; what a
 * server does not take, and bytes that give no finite value, are refused and step nothing. */
#include "support_server.h"

#include <math.h>

static struct swarm swarm;
static float x[ROWS_MAX * COLUMNS], dy[ROWS_MAX * COLUMNS];
/* Norm-wise; ids are wire format. */
static const double tolerance[HM_CODEC_COUNT] = {1e-5, 1e-3, 8e-3, 1.5e-2};

static int open_with(const char *codecs)
{
    fill_normal(x, ROWS_MAX * COLUMNS, 1);
    fill_normal(dy, ROWS_MAX * COLUMNS, 2);
    swarm_open_taking(&swarm, codecs);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return open_with(NULL);
}

static int setup_few(void **state)
{
    (void)state;
    return open_with("f16");
}

static int teardown(void **state)
{
    (void)state;
    swarm_close(&swarm);
    return 0;
}

/* Answered well, in the call's codec. */
static void assert_answered(const struct raw *raw, unsigned part, const float *wanted)
{
    const struct answer *answer = &raw->answer[part];
    assert_int_equal(answer->count, 1);
    assert_ok(answer->status);
    assert_int_equal(answer->head.codec, raw->head.codec);
    assert_int_equal(answer->head.row_count, raw->part[part].row_count);
    assert_rows_near(answer->rows, wanted, (size_t)answer->head.row_count * COLUMNS,
                     tolerance[raw->head.codec]);
}

static void each_codec_brings_parts_there_and_back(void **state)
{
    (void)state;
    static const uint32_t mixed[] = {23, 0, 7, 7, 12, 1};
    enum { ROWS = 24 }; /* more than a batch */
    float wanted[ROWS * COLUMNS], rows[6 * COLUMNS];
    struct local local;
    struct raw raw;
    local_open(&local, "ffn.0");
    for (uint8_t id = 0; id < HM_CODEC_COUNT; id++) {
        raw_init(&raw, HM_PASS_FORWARD, x, NULL, ROWS);
        raw.head.codec = id;
        raw_add(&raw, "nop.0", 0, 6, mixed, NULL);
        raw_add(&raw, "nop.1", 5, 9, NULL, NULL);
        raw_add(&raw, "ffn.0", 0, ROWS, NULL, NULL);
        raw_add(&raw, "ffn.0", 0, 6, mixed, NULL);
        raw_run(&swarm, &raw);
        assert_ok(raw.end);
        assert_int_equal(raw.replies, 4);
        gather_rows(x, mixed, NULL, 6, rows);
        assert_answered(&raw, 0, rows);
        assert_answered(&raw, 1, x + 5 * COLUMNS);
        local_forward(&local, x, ROWS, wanted);
        assert_answered(&raw, 2, wanted);
        local_forward(&local, rows, 6, wanted);
        assert_answered(&raw, 3, wanted);
        raw_fini(&raw);
    }
    local_close(&local);
}

/* Coding what was coded gives the same values again, so a nop's answer is, bit by bit, what its rows
 * became on the way there. */
static void a_task_of_three_batches_comes_back_whole_and_in_order(void **state)
{
    (void)state;
    enum { ROWS = 3 * BATCH_ROWS };
    uint32_t backwards[ROWS];
    float there[ROWS * COLUMNS], wanted[ROWS * COLUMNS];
    uint8_t coded[ROWS * COLUMNS * sizeof(float)];
    struct raw raw;
    for (uint32_t i = 0; i < ROWS; i++) backwards[i] = ROWS - 1 - i;
    for (uint8_t id = 0; id < HM_CODEC_U8; id++) {
        const struct hm_codec *codec = hm_codec_find(id);
        assert_ok(hm_codec_encode(codec, x, COLUMNS, NULL, ROWS, coded));
        assert_ok(hm_codec_decode(codec, coded, COLUMNS, backwards, NULL, ROWS, there));
        raw_init(&raw, HM_PASS_FORWARD, x, NULL, ROWS);
        raw.head.codec = id;
        raw_add(&raw, "nop.1", 0, ROWS, backwards, NULL);
        raw_run(&swarm, &raw);
        assert_ok(raw.answer[0].status);
        assert_memory_equal(raw.answer[0].rows, there, sizeof there);
        raw_fini(&raw);
    }
    raw_init(&raw, HM_PASS_FORWARD, x, NULL, ROWS);
    raw.head.codec = HM_CODEC_U8;
    raw_add(&raw, "nop.1", 0, ROWS, backwards, NULL);
    raw_run(&swarm, &raw);
    gather_rows(x, backwards, NULL, ROWS, wanted);
    assert_answered(&raw, 0, wanted);
    raw_fini(&raw);
}

static void a_batch_of_many_codecs_answers_each_in_its_own(void **state)
{
    (void)state;
    struct raw raw[HM_CODEC_COUNT];
    struct flight flight;
    struct gate gate;
    struct local local;
    float wanted[4 * COLUMNS];
    for (unsigned i = 0; i < HM_CODEC_COUNT; i++) {
        raw_init(&raw[i], HM_PASS_FORWARD, x + 4 * i * COLUMNS, NULL, 4);
        raw[i].head.codec = (uint8_t)i;
        raw_add(&raw[i], "ffn.1", 0, 4, NULL, NULL);
    }
    gate_shut(&gate, &swarm, "ffn.1");
    flight_start(&flight, swarm.b, swarm.peer, raw, HM_CODEC_COUNT);
    wait_queued(&swarm, "ffn.1", HM_PASS_FORWARD, 4 * HM_CODEC_COUNT);
    gate_open(&gate);
    flight_wait(&flight);
    local_open(&local, "ffn.1");
    for (unsigned i = 0; i < HM_CODEC_COUNT; i++) {
        local_forward(&local, x + 4 * i * COLUMNS, 4, wanted);
        assert_answered(&raw[i], 0, wanted);
        raw_fini(&raw[i]);
    }
    local_close(&local);
}

static void a_coded_gradient_is_close_to_the_experts_own_and_steps_once(void **state)
{
    (void)state;
    static const uint32_t index[] = {11, 2, 2, 7, 0};
    static const float scale[] = {0.25f, -1.5f, 0.0f, 1.0f, 3.0f};
    static const char *const uid[HM_CODEC_COUNT] = {"ffn.2", "ffn.3", "ffn.4", "ffn.5"};
    for (uint8_t id = 0; id < HM_CODEC_COUNT; id++) {
        float wanted[12 * COLUMNS], in[5 * COLUMNS], grad[5 * COLUMNS];
        struct local local;
        struct raw raw;
        local_open(&local, uid[id]);
        raw_init(&raw, HM_PASS_BACKWARD, x, dy, 12);
        raw.head.codec = id;
        raw_add(&raw, uid[id], 0, 5, index, scale);
        raw_add(&raw, "nop.1", 4, 3, NULL, scale);
        raw_run(&swarm, &raw);
        gather_rows(x, index, NULL, 5, in);
        gather_rows(dy, index, scale, 5, grad);
        local_backward(&local, in, grad, 5, wanted);
        assert_int_equal(raw.answer[0].head.codec, id);
        /* Where an input is near a ReLU's corner, rounding decides whether its gradient counts. */
        assert_rows_near(raw.answer[0].rows, wanted, 5 * COLUMNS,
                         id == HM_CODEC_NONE ? 1e-5 : 0.06);
        assert_int_equal(raw.answer[0].head.step, 1);
        gather_rows(dy, (const uint32_t[]){4, 5, 6}, scale, 3, wanted);
        assert_answered(&raw, 1, wanted);
        raw_fini(&raw);
        local_close(&local);
    }
}

static void a_remote_expert_takes_the_codec_that_it_is_told(void **state)
{
    (void)state;
    struct hm_remote_expert *expert;
    struct local local;
    float y[6 * COLUMNS], wanted[6 * COLUMNS];
    struct hm_dispatch_stats stats;
    struct hm_array in = {.dims = 2, .dim = {6, COLUMNS}, .data = x};
    struct hm_array grad = {.dims = 2, .dim = {6, COLUMNS}, .data = dy};
    struct hm_array out = {.dims = 2, .dim = {6, COLUMNS}, .data = y};
    local_open(&local, "ffn.7");
    assert_ok(hm_remote_expert_find(swarm.b, "ffn.7", 5000, &expert));
    assert_status(hm_remote_expert_set_codec(expert, "zip"), HM_ERR_INVALID);
    assert_non_null(strstr(hm_last_error(), "'zip'"));
    assert_ok(hm_remote_expert_set_codec(expert, "u8"));
    assert_ok(hm_remote_expert_forward(expert, &in, &out, 5000));
    local_forward(&local, x, 6, wanted);
    assert_rows_near(y, wanted, 6 * COLUMNS, tolerance[HM_CODEC_U8]);
    assert_true(memcmp(y, wanted, sizeof y) != 0);
    assert_ok(hm_remote_expert_backward(expert, &in, &grad, &out, 5000));
    local_backward(&local, x, dy, 6, wanted);
    assert_rows_near(y, wanted, 6 * COLUMNS, 0.06);
    hm_dispatch_stats(swarm.b->dispatch, &stats);
    assert_int_equal(stats.calls_coded, 2);
    /* NaN of the caller's own is refused here, before anything is sent. */
    x[17] = NAN;
    assert_status(hm_remote_expert_forward(expert, &in, &out, 5000), HM_ERR_NUMERIC);
    hm_remote_expert_put(expert);
    local_close(&local);
}

/* ---- a stranger's bytes -------------------------------------------------------------------------- */

/* Rows (and dy) whose coded bytes at raw->arg are all ones: NaN, in every codec. */
static void poison(struct raw *raw, uint8_t *header, size_t *header_bytes, uint8_t *payload,
                   size_t *payload_bytes)
{
    const size_t *at = raw->arg;
    (void)header, (void)header_bytes;
    HM_ASSERT(raw->head.table_bytes + *at + 4 <= *payload_bytes);
    memset(payload + raw->head.table_bytes + *at, 0xff, 4);
}

/* A backward of `rows` rows, the coded byte `at` of which (x first, then dy) is spoilt. */
static void poisoned(struct raw *raw, uint8_t codec, const char *uid, uint32_t rows, size_t *at)
{
    raw_init(raw, HM_PASS_BACKWARD, x, dy, rows);
    raw->head.codec = codec;
    raw->spoil = poison;
    raw->arg = at;
    raw_add(raw, uid, 0, rows, NULL, NULL);
}

static void coded_rows_that_are_not_finite_are_refused_and_step_nothing(void **state)
{
    (void)state;
    for (uint8_t id = 0; id < HM_CODEC_COUNT; id++) {
        size_t row_bytes = hm_codec_row_bytes(hm_codec_find(id), COLUMNS);
        /* Of a block's header, or of a value, in x and in dy; and of the last row of a split part. */
        const struct {
            size_t at;
            uint32_t rows;
        } spoilt[] = {{2 * row_bytes, 4},
                      {6 * row_bytes + (id == HM_CODEC_U8 ? 4 : 0), 4},
                      {(6 * BATCH_ROWS - 1) * row_bytes, 3 * BATCH_ROWS}};
        for (unsigned i = 0; i < 3; i++) {
            struct raw raw;
            size_t at = spoilt[i].at;
            poisoned(&raw, id, "ffn.6", spoilt[i].rows, &at);
            raw_run(&swarm, &raw);
            assert_int_equal(raw.answer[0].count, 1);
            assert_status(raw.answer[0].status, HM_ERR_NUMERIC);
            raw_fini(&raw);
        }
    }
    assert_int_equal(steps(&swarm, "ffn.6"), 0);
}

static void a_strangers_spoilt_block_leaves_the_others_in_its_batch_alone(void **state)
{
    (void)state;
    struct raw raw[3];
    struct flight flight;
    struct gate gate;
    struct local local;
    float in[8 * COLUMNS], grad[8 * COLUMNS], wanted[8 * COLUMNS];
    size_t at = 24; /* the second row's header */
    for (unsigned i = 0; i < 3; i++) {
        poisoned(&raw[i], HM_CODEC_U8, "ffn.6", 4, &at);
        raw[i].x = x + 4 * i * COLUMNS;
        raw[i].dy = dy + 4 * i * COLUMNS;
        if (i != 1) raw[i].spoil = NULL;
    }
    gate_shut(&gate, &swarm, "ffn.6");
    flight_start(&flight, swarm.b, swarm.peer, raw, 3);
    wait_queued(&swarm, "ffn.6", HM_PASS_BACKWARD, 12);
    gate_open(&gate);
    flight_wait(&flight);
    assert_status(raw[1].answer[0].status, HM_ERR_NUMERIC);
    memcpy(in, x, sizeof in / 2);
    memcpy(in + 4 * COLUMNS, x + 8 * COLUMNS, sizeof in / 2);
    memcpy(grad, dy, sizeof grad / 2);
    memcpy(grad + 4 * COLUMNS, dy + 8 * COLUMNS, sizeof grad / 2);
    local_open(&local, "ffn.6");
    local_backward(&local, in, grad, 8, wanted);
    for (unsigned i = 0; i < 3; i += 2) {
        assert_ok(raw[i].answer[0].status);
        assert_int_equal(raw[i].answer[0].head.step, 1);
        assert_rows_near(raw[i].answer[0].rows, wanted + 2 * i * COLUMNS, 4 * COLUMNS, 0.06);
    }
    local_close(&local);
    for (unsigned i = 0; i < 3; i++) raw_fini(&raw[i]);
}

/* ---- what a server takes ------------------------------------------------------------------------- */

static void a_codec_that_the_server_does_not_take_is_refused_as_a_whole(void **state)
{
    (void)state;
    for (unsigned id = 0; id < 256; id += id < 5 ? 1 : 50) {
        struct raw raw;
        bool known = id < HM_CODEC_COUNT, takes = id == HM_CODEC_NONE || id == HM_CODEC_F16;
        raw_init(&raw, HM_PASS_FORWARD, x, NULL, 4);
        raw.head.codec = known ? (uint8_t)id : 0;
        raw_add(&raw, "nop.0", 0, 4, NULL, NULL);
        if (known) {
            raw_run(&swarm, &raw);
            assert_status(takes ? raw.answer[0].status : raw.whole,
                          takes ? HM_OK : HM_ERR_UNSUPPORTED);
            assert_int_equal(raw.answer[0].count, takes);
        } else {
            struct hm_call_head head = raw.head;
            struct hm_writer writer;
            uint8_t bytes[HM_CALL_HEADER_BYTES_MAX];
            head.codec = (uint8_t)id;
            head.table_bytes = 64;
            hm_writer_init(&writer, bytes, sizeof bytes);
            hm_call_head_encode(&head, &writer);
            assert_status(hm_call_head_decode(bytes, hm_writer_count(&writer), &head),
                          HM_ERR_UNSUPPORTED);
        }
        raw_fini(&raw);
    }
}

static void rows_to_a_server_that_does_not_take_the_codec_go_plain(void **state)
{
    (void)state;
    struct hm_remote_expert *expert;
    struct hm_dispatch_stats stats;
    float y[6 * COLUMNS];
    struct hm_array in = {.dims = 2, .dim = {6, COLUMNS}, .data = x};
    struct hm_array out = {.dims = 2, .dim = {6, COLUMNS}, .data = y};
    assert_ok(hm_remote_expert_find(swarm.b, "nop.0", 5000, &expert));
    assert_ok(hm_remote_expert_set_codec(expert, "u8"));
    assert_ok(hm_remote_expert_forward(expert, &in, &out, 5000));
    assert_memory_equal(x, y, sizeof y);
    hm_dispatch_stats(swarm.b->dispatch, &stats);
    assert_int_equal(stats.calls_coded, 0);
    assert_ok(hm_remote_expert_set_codec(expert, "f16"));
    assert_ok(hm_remote_expert_forward(expert, &in, &out, 5000));
    assert_rows_near(y, x, 6 * COLUMNS, tolerance[HM_CODEC_F16]);
    hm_dispatch_stats(swarm.b->dispatch, &stats);
    assert_int_equal(stats.calls_coded, 1);
    hm_remote_expert_put(expert);
}

static void a_server_of_codecs_that_nobody_knows_is_not_opened(void **state)
{
    (void)state;
    struct hm_node *node;
    struct hm_server *server = NULL;
    assert_ok(hm_node_open(&(struct hm_node_options){.listen = "127.0.0.1:0"}, &node));
    assert_status(hm_server_open(node, &(struct hm_server_options){.codecs = "u8,zip"}, &server),
                  HM_ERR_INVALID);
    assert_non_null(strstr(hm_last_error(), "'zip'"));
    assert_null(server);
    hm_node_close(node);
}

int main(void)
{
#define SERVED(test)     cmocka_unit_test_setup_teardown(test, setup, teardown)
#define SERVED_FEW(test) cmocka_unit_test_setup_teardown(test, setup_few, teardown)
    const struct CMUnitTest tests[] = {
        SERVED(each_codec_brings_parts_there_and_back),
        SERVED(a_task_of_three_batches_comes_back_whole_and_in_order),
        SERVED(a_batch_of_many_codecs_answers_each_in_its_own),
        SERVED(a_coded_gradient_is_close_to_the_experts_own_and_steps_once),
        SERVED(a_remote_expert_takes_the_codec_that_it_is_told),
        SERVED(coded_rows_that_are_not_finite_are_refused_and_step_nothing),
        SERVED(a_strangers_spoilt_block_leaves_the_others_in_its_batch_alone),
        SERVED_FEW(a_codec_that_the_server_does_not_take_is_refused_as_a_whole),
        SERVED_FEW(rows_to_a_server_that_does_not_take_the_codec_go_plain),
        cmocka_unit_test(a_server_of_codecs_that_nobody_knows_is_not_opened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
