/* Callers that leave, and callers that send what no caller should: the server goes on, and nothing stays behind. */
#include "support_server.h"

#include <stdio.h>
#include <time.h>

static struct swarm swarm;
static float x[ROWS_MAX * COLUMNS], dy[ROWS_MAX * COLUMNS];

static int setup(void **state)
{
    (void)state;
    fill_normal(x, ROWS_MAX * COLUMNS, 5);
    fill_normal(dy, ROWS_MAX * COLUMNS, 6);
    swarm_open(&swarm, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    swarm_close(&swarm);
    return 0;
}

static void assert_serves(void)
{
    float y[8 * COLUMNS];
    assert_ok(pass_run(&swarm, "nop.0", HM_PASS_FORWARD, x, NULL, 8, y, NULL));
    assert_memory_equal(y, x, sizeof(y));
}

/* ---- callers that leave ------------------------------------------------------------------------- */

static void wait_bytes(size_t wanted)
{
    size_t used = 0;
    for (unsigned i = 0; i < 5000; i++) {
        used = bytes_used(swarm.a);
        if (used <= wanted) return;
        nap();
    }
    fail_msg("%zu bytes of buffers are in use, not %zu", used, wanted);
}

static void a_caller_that_leaves_has_its_queued_parts_dropped(void **state)
{
    (void)state;
    enum { CALLS = 6 };
    struct hm_node *node;
    struct raw raw[CALLS];
    struct flight flight;
    struct gate gate;
    assert_serves();
    size_t before = bytes_used(swarm.a);
    assert_ok(hm_node_open(&(struct hm_node_options){.join = swarm.line}, &node));
    struct hm_peer *peer = peer_get(node, swarm.a);
    for (unsigned i = 0; i < CALLS; i++) {
        raw_init(&raw[i], HM_PASS_BACKWARD, x, dy, 8);
        raw_add(&raw[i], "ffn.0", 0, 8, NULL, NULL);
        raw_add(&raw[i], "nop.1", 0, 4, NULL, NULL);
    }
    gate_shut(&gate, &swarm, "ffn.0");
    flight_start(&flight, node, peer, raw, CALLS);
    wait_queued(&swarm, "ffn.0", HM_PASS_BACKWARD, CALLS * 8);
    peer_put(node, peer);
    hm_node_close(node);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(raw[i].ends, 1);
        assert_status(raw[i].end, HM_ERR_CANCELED);
        raw_fini(&raw[i]);
    }
    wait_queued(&swarm, "ffn.0", HM_PASS_BACKWARD, 0); /* while the lane is held */
    gate_open(&gate);
    assert_int_equal(steps(&swarm, "ffn.0"), 0);
    wait_bytes(before);
    assert_serves();
}

static void a_caller_that_leaves_in_the_middle_of_its_payload_leaves_nothing_behind(void **state)
{
    (void)state;
    enum { CALLS = 4, WIDE = 16384, ROWS = 256 };
    struct hm_node *node;
    struct raw raw[CALLS];
    struct flight flight;
    float *wide = calloc((size_t)WIDE * ROWS, sizeof(*wide));
    assert_non_null(wide);
    assert_serves();
    size_t before = bytes_used(swarm.a);
    for (unsigned round = 0; round < 4; round++) {
        assert_ok(hm_node_open(&(struct hm_node_options){.join = swarm.line}, &node));
        struct hm_peer *peer = peer_get(node, swarm.a);
        for (unsigned i = 0; i < CALLS; i++) { /* 16 MiB each: announced, and pulled */
            raw_init(&raw[i], HM_PASS_FORWARD, wide, NULL, ROWS);
            raw[i].head.schema = hm_schema_f32(WIDE);
            raw_add(&raw[i], "nop.0", 0, ROWS, NULL, NULL);
        }
        flight_start(&flight, node, peer, raw, CALLS);
        nanosleep(&(struct timespec){.tv_nsec = (long)round * 4000000}, NULL);
        peer_put(node, peer);
        hm_node_close(node);
        for (unsigned i = 0; i < CALLS; i++) {
            assert_int_equal(raw[i].ends, 1);
            raw_fini(&raw[i]);
        }
    }
    wait_bytes(before);
    assert_serves();
    free(wide);
}

static void cancelling_at_any_moment_ends_each_call_once_and_leaves_nothing_behind(void **state)
{
    (void)state;
    enum { ROUNDS = 60, CALLS = 6 };
    struct raw raw[CALLS];
    struct flight flight;
    unsigned cancelled = 0;
    assert_serves();
    size_t before = bytes_used(swarm.a);
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < CALLS; i++) {
            raw_init(&raw[i], i % 2 ? HM_PASS_BACKWARD : HM_PASS_FORWARD, x, dy, 8);
            raw_add(&raw[i], "ffn.1", 0, 8, NULL, NULL);
            raw_add(&raw[i], "nop.1", 0, 8, NULL, NULL);
            raw_add(&raw[i], "ffn.2", 0, 3, NULL, NULL);
        }
        flight_start(&flight, swarm.b, swarm.peer, raw, CALLS);
        nanosleep(&(struct timespec){.tv_nsec = (long)(round * 50000)}, NULL);
        flight_cancel(&flight);
        flight_wait(&flight);
        for (unsigned i = 0; i < CALLS; i++) {
            assert_int_equal(raw[i].ends, 1);
            assert_true(raw[i].end == HM_OK || raw[i].end == HM_ERR_CANCELED);
            cancelled += raw[i].end == HM_ERR_CANCELED;
            for (unsigned part = 0; part < 3; part++) assert_true(raw[i].answer[part].count <= 1);
            raw_fini(&raw[i]);
        }
    }
    assert_true(cancelled > 0);
    wait_bytes(before);
    assert_serves();
}

/* ---- callers that send anything ----------------------------------------------------------------- */

enum spoiling {
    SPOIL_NOTHING,
    SPOIL_HEADER_BITS,
    SPOIL_HEADER_LENGTH,
    SPOIL_HEADER_RANDOM,
    SPOIL_HEADER_NUMBER,
    SPOIL_TABLE_BITS,
    SPOIL_TABLE_NUMBER,
    SPOIL_TABLE_RANDOM,
    SPOIL_PAYLOAD_LENGTH,
    SPOIL_ROWS_RANDOM,
    SPOIL_BOTH,
    SPOILINGS
};

static void flip(struct hm_rng *rng, uint8_t *bytes, size_t count)
{
    for (unsigned i = 0, flips = 1 + (unsigned)hm_rng_below(rng, 4); i < flips; i++)
        bytes[hm_rng_below(rng, count)] ^= (uint8_t)(1u << hm_rng_below(rng, 8));
}

static void randomize(struct hm_rng *rng, uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)hm_rng_next(rng);
}

/* Somewhere a number that a careless decoder stumbles over. */
static void number(struct hm_rng *rng, uint8_t *bytes, size_t count)
{
    static const uint32_t nasty[] = {0, 1, 5, 0x7fffffff, 0x80000000, 0xffffffff, 0x00010001};
    uint32_t value = nasty[hm_rng_below(rng, HM_COUNT_OF(nasty))];
    size_t wide = (size_t)1 << hm_rng_below(rng, 3);
    memcpy(bytes + hm_rng_below(rng, count - wide + 1), &value, wide);
}

static void spoil(struct raw *raw, uint8_t *header, size_t *header_bytes, uint8_t *payload,
                  size_t *payload_bytes)
{
    struct hm_rng *rng = raw->arg;
    size_t table_bytes = raw->head.table_bytes;
    switch ((enum spoiling)hm_rng_below(rng, SPOILINGS)) {
    case SPOIL_HEADER_BITS: flip(rng, header, *header_bytes); break;
    case SPOIL_HEADER_LENGTH: *header_bytes = hm_rng_below(rng, *header_bytes + 64); break;
    case SPOIL_HEADER_RANDOM: randomize(rng, header, *header_bytes); break;
    case SPOIL_HEADER_NUMBER: number(rng, header, *header_bytes); break;
    case SPOIL_TABLE_BITS: flip(rng, payload, table_bytes); break;
    case SPOIL_TABLE_NUMBER: number(rng, payload, table_bytes); break;
    case SPOIL_TABLE_RANDOM: randomize(rng, payload, table_bytes); break;
    case SPOIL_PAYLOAD_LENGTH: *payload_bytes = hm_rng_below(rng, *payload_bytes + 64); break;
    case SPOIL_ROWS_RANDOM:
        randomize(rng, payload + table_bytes, *payload_bytes - table_bytes);
        break;
    case SPOIL_BOTH:
        flip(rng, header, *header_bytes);
        flip(rng, payload, table_bytes);
        break;
    case SPOIL_NOTHING:
    case SPOILINGS: break;
    }
}

static void malformed_calls_are_refused_each_with_a_status_and_the_server_serves_on(void **state)
{
    (void)state;
    enum { FLIGHTS = 400, CALLS = 10 };
    static const uint32_t index[] = {3, 0, 3};
    static const float scale[] = {1, 0.5f, -2};
    struct raw raw[CALLS];
    struct flight flight;
    struct hm_rng rng;
    unsigned refused = 0, answered = 0;
    hm_rng_init(&rng, 2024, 7);
    assert_serves();
    size_t before = bytes_used(swarm.a);
    for (unsigned i = 0; i < FLIGHTS; i++) {
        for (unsigned j = 0; j < CALLS; j++) {
            bool backward = j % 2;
            raw_init(&raw[j], backward ? HM_PASS_BACKWARD : HM_PASS_FORWARD, x, dy, 4);
            if (j < CALLS - 1) raw[j].head.codec = (uint8_t)(j % HM_CODEC_COUNT);
            raw_add(&raw[j], "nop.0", 0, 2, NULL, NULL);
            raw_add(&raw[j], "ffn.3", 0, 3, index, backward ? scale : NULL);
            if (j == CALLS - 1) continue; /* a good one among them */
            raw[j].spoil = spoil;
            raw[j].head.incarnation = hm_rng_next(&rng); /* it spoils no sequence but its own */
            raw[j].arg = &rng;
        }
        flight_start(&flight, swarm.b, swarm.peer, raw, CALLS);
        flight_wait(&flight);
        for (unsigned j = 0; j < CALLS; j++) {
            assert_int_equal(raw[j].ends, 1);
            assert_ok(raw[j].end); /* not cut off, and not forgotten until the deadline */
            assert_true(raw[j].replies > 0);
            refused += raw[j].whole != HM_INPROGRESS;
            answered += raw[j].answer[0].status == HM_OK && raw[j].answer[0].count == 1;
            if (j == CALLS - 1) {
                assert_ok(raw[j].answer[0].status);
                assert_ok(raw[j].answer[1].status);
                assert_memory_equal(raw[j].answer[0].rows, dy, 2 * COLUMNS * sizeof(float));
            }
            raw_fini(&raw[j]);
        }
    }
    printf("%u calls: %u refused as a whole, %u answered\n", FLIGHTS * CALLS, refused, answered);
    assert_true(refused > FLIGHTS * CALLS / 4 && answered > FLIGHTS);
    wait_bytes(before);
    assert_serves();
}

/* ---- questions ---------------------------------------------------------------------------------- */

struct question {
    struct hm_call call;
    struct hm_peer *peer;
    struct hm_node *node;
    uint16_t method;
    const void *header;
    size_t header_bytes;
    enum hm_status status;
    unsigned replies;
    struct hm_wait *wait;
};

static void question_replied(struct hm_call *call, enum hm_status status, const void *header,
                             size_t header_bytes, struct hm_inbound *in)
{
    struct question *question = call->arg;
    (void)header, (void)header_bytes;
    question->replies++;
    question->status = status;
    hm_inbound_drop(in);
}

static void question_ended(struct hm_call *call, enum hm_status status)
{
    struct question *question = call->arg;
    hm_wait_end(question->wait, status);
}

static void ask_on_loop(struct hm_wait *wait, void *arg)
{
    struct question *question = arg;
    question->wait = wait;
    question->call =
        (struct hm_call){.method = question->method,
                         .deadline = hm_deadline_after(question->node->loop, 20 * HM_S),
                         .header = question->header,
                         .header_bytes = question->header_bytes,
                         .reply = question_replied,
                         .end = question_ended,
                         .arg = question};
    enum hm_status status = hm_rpc_call(question->peer, &question->call);
    if (status) hm_wait_end(wait, status);
}

static enum hm_status ask(uint16_t method, const void *header, size_t header_bytes)
{
    struct question question = {.peer = swarm.peer,
                                .node = swarm.b,
                                .method = method,
                                .header = header,
                                .header_bytes = header_bytes};
    assert_ok(hm_node_run(swarm.b, ask_on_loop, &question));
    assert_int_equal(question.replies, 1);
    return question.status;
}

static void questions_of_any_bytes_get_a_status(void **state)
{
    (void)state;
    uint8_t header[HM_CALL_HEADER_BYTES_MAX];
    struct hm_writer writer;
    struct hm_rng rng;
    struct hm_uid uid;
    assert_ok(hm_uid_parse("ffn.0", &uid));
    hm_writer_init(&writer, header, sizeof(header));
    hm_expert_query_encode(&uid, &writer);
    size_t bytes = hm_writer_count(&writer);
    assert_ok(ask(HM_METHOD_EXPERT_INFO, header, bytes));
    assert_ok(ask(HM_METHOD_SERVER_STATUS, NULL, 0));
    assert_ok(ask(HM_METHOD_SERVER_STATUS, header, bytes));
    assert_status(ask(HM_METHOD_EXPERT_INFO, header, bytes - 1), HM_ERR_PEER_PROTOCOL);
    assert_status(ask(HM_METHOD_EXPERT_INFO, NULL, 0), HM_ERR_PEER_PROTOCOL);
    header[bytes - 1] = '8';
    assert_status(ask(HM_METHOD_EXPERT_INFO, header, bytes), HM_ERR_EXPERT_GONE);
    hm_rng_init(&rng, 11, 7);
    for (unsigned i = 0; i < 300; i++) {
        randomize(&rng, header, sizeof(header));
        if (i % 2) header[1] = header[0] = 0; /* a length that may fit */
        enum hm_status status =
            ask(HM_METHOD_EXPERT_INFO, header, hm_rng_below(&rng, sizeof(header)));
        assert_true(status == HM_ERR_PEER_PROTOCOL || status == HM_ERR_EXPERT_GONE);
    }
    assert_serves();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_caller_that_leaves_has_its_queued_parts_dropped),
        cmocka_unit_test(a_caller_that_leaves_in_the_middle_of_its_payload_leaves_nothing_behind),
        cmocka_unit_test(cancelling_at_any_moment_ends_each_call_once_and_leaves_nothing_behind),
        cmocka_unit_test(malformed_calls_are_refused_each_with_a_status_and_the_server_serves_on),
        cmocka_unit_test(questions_of_any_bytes_get_a_status),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
