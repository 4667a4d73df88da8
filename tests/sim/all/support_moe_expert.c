/* tests/sim/all/support_moe_expert.c - the minimal expert server: calls in, parts answered later, or
 * wrongly, or not at all. */
#include "support_moe.h"

#include "base/assert.h"

#include <math.h>

static void coefficients(const struct hm_uid *uid, float *a, float *b)
{
    *a = 0.5f + 0.25f * (float)uid->coordinate[0];
    *b = 0.3f * (float)(uid->dim_count > 1 ? uid->coordinate[1] : 0) - 0.2f;
}

void moe_expert_forward(const struct hm_uid *uid, const float *x, float *y)
{
    float a, b;
    coefficients(uid, &a, &b);
    for (unsigned i = 0; i < MOE_HIDDEN; i++) y[i] = a * x[i] + b * x[(i + 1) % MOE_HIDDEN];
}

void moe_expert_backward(const struct hm_uid *uid, const float *dy, float *dx)
{
    float a, b;
    coefficients(uid, &a, &b);
    for (unsigned i = 0; i < MOE_HIDDEN; i++)
        dx[i] = a * dy[i] + b * dy[(i + MOE_HIDDEN - 1) % MOE_HIDDEN];
}

struct served { /* one request */
    struct moe_server *server;
    struct hm_link link;
    struct hm_request *request;
    struct hm_call_head head;
    struct hm_buf *buf;
    bool pulling, gone;
    struct hm_call_part part[MOE_EXPERTS_MAX];
    struct served_part {
        struct served *served;
        struct hm_timer timer;
    } answer[MOE_EXPERTS_MAX];
    unsigned left;
};

static void served_free(struct served *served)
{
    for (unsigned i = 0; i < served->head.part_count; i++)
        hm_timer_stop(served->server->node.swarm->loop, &served->answer[i].timer);
    hm_list_remove(&served->link);
    hm_buf_put(served->buf);
    free(served);
}

struct moe_expert *moe_server_find(struct moe_server *server, const char *uid)
{
    for (unsigned i = 0; i < server->expert_count; i++) {
        if (strcmp(server->expert[i].uid.text, uid) == 0) return &server->expert[i];
    }
    return NULL;
}

static void say(struct served *served, unsigned number, enum hm_status status, uint64_t step,
                uint32_t rows, struct hm_buf *buf, bool last)
{
    const struct moe_expert *expert =
        moe_server_find(served->server, served->part[number].uid.text);
    const struct hm_codec *codec = hm_codec_find(served->head.codec);
    struct hm_call_answer answer = {
        .part = (uint16_t)number,
        .codec = codec->id,
        .row_count = rows,
        .step = step,
        .retry_after_us = status && expert ? expert->retry_after_us : 0,
        .load_us = status ? MOE_LOAD_US : 0,
        .schema = served->head.schema,
        .timed = served->head.flags & HM_CALL_TIMED,
        .times.stage = {[HM_STAGE_ADMIT] = 3, [HM_STAGE_COMPUTE] = UINT64_MAX}};
    uint8_t header[256];
    struct hm_writer writer;
    hm_writer_init(&writer, header, sizeof header);
    hm_call_answer_encode(&answer, &writer);
    assert_true(hm_writer_ok(&writer));
    struct hm_buf *coded = NULL;
    if (buf) {
        uint32_t count = (uint32_t)(buf->bytes / (MOE_HIDDEN * sizeof(float)));
        assert_ok(hm_buf_pool_get(served->server->node.buffers,
                                  count * hm_codec_row_bytes(codec, MOE_HIDDEN), &coded));
        /* What NaN becomes is the receiver's to refuse. */
        (void)!hm_codec_encode(codec, buf->base, MOE_HIDDEN, NULL, count, coded->base);
    }
    struct hm_span span = coded ? hm_buf_span(coded) : (struct hm_span){0};
    hm_request_reply(served->request, last, status, header, hm_writer_count(&writer), &span,
                     coded ? 1 : 0);
    hm_buf_put(coded);
}

static struct hm_buf *compute(struct served *served, const struct hm_call_part *part,
                              struct moe_expert *expert)
{
    const struct hm_call_head *head = &served->head;
    const float *x =
        (const float *)(const void *)((const char *)served->buf->base + head->table_bytes);
    const float *dy = x + (size_t)head->row_count * MOE_HIDDEN;
    struct hm_buf *buf;
    assert_ok(hm_buf_pool_get(served->server->node.buffers,
                              part->row_count * MOE_HIDDEN * sizeof(float), &buf));
    float *out = buf->base;
    expert->scale_sum = 0;
    for (uint32_t i = 0; i < part->row_count; i++) {
        uint32_t row = part->index ? part->index[i] : part->first + i;
        if (head->pass == HM_PASS_FORWARD) {
            moe_expert_forward(&part->uid, x + (size_t)row * MOE_HIDDEN,
                               out + (size_t)i * MOE_HIDDEN);
            if (i < 256)
                memcpy(&expert->rows_forward[i], x + (size_t)row * MOE_HIDDEN, sizeof(uint32_t));
            continue;
        }
        float scaled[MOE_HIDDEN], scale = part->scale ? part->scale[i] : 1.f;
        for (unsigned k = 0; k < MOE_HIDDEN; k++)
            scaled[k] = scale * dy[(size_t)row * MOE_HIDDEN + k];
        moe_expert_backward(&part->uid, scaled, out + (size_t)i * MOE_HIDDEN);
        expert->scale_sum += scale;
    }
    if (head->pass == HM_PASS_FORWARD) {
        expert->forwards++;
        expert->row_count_forward = part->row_count;
    } else {
        expert->backwards++;
        expert->stepped_by[0] = head->incarnation;
        expert->stepped_by[1] = head->sequence;
        expert->row_count_backward = part->row_count;
        expert->step++;
    }
    return buf;
}

static void answer_part(struct hm_timer *timer)
{
    struct served_part *answer = timer->arg;
    struct served *served = answer->served;
    unsigned number = (unsigned)(answer - served->answer);
    const struct hm_call_part *part = &served->part[number];
    struct moe_expert *expert = moe_server_find(served->server, part->uid.text);
    enum moe_behaviour behaviour = MOE_FAILS;
    enum hm_status status = HM_ERR_EXPERT_GONE;
    if (expert) {
        behaviour = served->head.pass == HM_PASS_FORWARD ? expert->forward : expert->backward;
        status = expert->fails_with;
        if (expert->fails_first > 0) {
            expert->fails_first--;
            behaviour = MOE_FAILS;
        }
        expert->failed += behaviour == MOE_FAILS;
    }
    if (behaviour == MOE_SILENT) return;
    bool last = --served->left == 0;
    if (behaviour == MOE_FAILS) {
        say(served, number, status, 0, 0, NULL, last);
    } else {
        struct hm_buf *buf = compute(served, part, expert);
        if (behaviour == MOE_NAN) ((float *)buf->base)[1] = NAN;
        if (behaviour == MOE_TWICE)
            say(served, number, HM_OK, expert->step, part->row_count, buf, false);
        say(served, number, HM_OK, expert->step, part->row_count + (behaviour == MOE_WRONG_ROWS),
            buf, last);
        hm_buf_put(buf);
    }
    if (last) served_free(served);
}

/* A backward is repeated only to experts that have refused it, with the sequence that it had. */
static void log_backward(struct moe_server *server, const struct served *served)
{
    const struct hm_call_head *head = &served->head;
    if (head->pass != HM_PASS_BACKWARD) return;
    for (unsigned i = 0; i < head->part_count; i++) {
        const struct moe_expert *expert = moe_server_find(server, served->part[i].uid.text);
        assert_false(expert && expert->stepped_by[0] == head->incarnation &&
                     expert->stepped_by[1] == head->sequence);
    }
    for (unsigned i = 0; i < server->log_count; i++)
        if (server->log[i][0] == head->incarnation && server->log[i][1] == head->sequence) return;
    assert_true(server->log_count < MOE_LOG_MAX);
    server->log[server->log_count][0] = head->incarnation;
    server->log[server->log_count++][1] = head->sequence;
}

/* The table, and the rows as f32. */
static void unpack(struct served *served)
{
    const struct hm_call_head *head = &served->head;
    const struct hm_codec *codec = hm_codec_find(head->codec);
    uint32_t rows = head->row_count * (head->pass == HM_PASS_BACKWARD ? 2 : 1);
    struct hm_buf *plain;
    assert_ok(hm_buf_pool_get(served->server->node.buffers,
                              head->table_bytes + rows * MOE_HIDDEN * sizeof(float), &plain));
    char *to = plain->base;
    const char *from = served->buf->base;
    memcpy(to, from, head->table_bytes);
    assert_ok(hm_codec_decode(codec, from + head->table_bytes, MOE_HIDDEN, NULL, NULL, rows,
                              (float *)(void *)(to + head->table_bytes)));
    hm_buf_put(served->buf);
    served->buf = plain;
    served->server->calls_coded += codec->id != HM_CODEC_NONE;
}

static void pulled(void *arg, enum hm_status status)
{
    struct served *served = arg;
    struct moe_server *server = served->server;
    served->pulling = false;
    if (status != HM_OK || served->gone) {
        hm_request_reply(served->request, true, HM_ERR_CANCELED, NULL, 0, NULL, 0);
        served->head.part_count = 0;
        served_free(served);
        return;
    }
    unpack(served);
    assert_ok(hm_call_table_decode(&served->head, served->buf->base, served->part));
    log_backward(server, served);
    served->left = served->head.part_count;
    for (unsigned i = 0; i < served->head.part_count; i++) {
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(served->part[i].uid.text, served->part[k].uid.text);
        const struct moe_expert *expert = moe_server_find(server, served->part[i].uid.text);
        hm_ns delay =
            expert && expert->delay
                ? expert->delay
                : HM_MS + hm_loop_random(server->node.swarm->loop, HM_RANDOM_LOAD) % (2 * HM_MS);
        served->answer[i].served = served;
        served->answer[i].timer = (struct hm_timer){.cb = answer_part, .arg = &served->answer[i]};
        hm_timer_start(server->node.swarm->loop, &served->answer[i].timer, delay);
    }
}

static void handle_call(void *arg, struct hm_request *request, const void *header,
                        size_t header_bytes, struct hm_inbound *in)
{
    struct moe_server *server = arg;
    struct served *served = calloc(1, sizeof *served);
    uint64_t payload_bytes;
    assert_non_null(served);
    server->calls++;
    if (server->refuses != HM_OK) {
        hm_inbound_drop(in);
        hm_request_reply(request, true, server->refuses, NULL, 0, NULL, 0);
        free(served);
        return;
    }
    assert_ok(hm_call_head_decode(header, header_bytes, &served->head));
    if (server->refuses_coded && served->head.codec != HM_CODEC_NONE) {
        hm_inbound_drop(in);
        hm_request_reply(request, true, HM_ERR_UNSUPPORTED, NULL, 0, NULL, 0);
        free(served);
        return;
    }
    assert_ok(hm_call_payload_bytes(&served->head, &payload_bytes));
    assert_int_equal(payload_bytes, in->bytes);
    assert_true(served->head.part_count <= MOE_EXPERTS_MAX);
    served->server = server;
    served->request = request;
    server->rows_last = served->head.row_count;
    hm_list_init(&served->link);
    hm_list_push(&server->served, &served->link);
    hm_request_set_user(request, served);
    assert_ok(hm_buf_pool_get(server->node.buffers, in->bytes, &served->buf));
    struct hm_span span = hm_buf_span(served->buf);
    served->pulling = true;
    enum hm_status status = hm_inbound_pull(in, &span, pulled, served);
    if (status == HM_OK || status == HM_INPROGRESS) return;
    served->pulling = false;
    hm_request_reply(request, true, status, NULL, 0, NULL, 0);
    served->head.part_count = 0;
    served_free(served);
}

static void call_gone(void *arg, struct hm_request *request)
{
    (void)arg;
    struct served *served = hm_request_user(request);
    if (!served) return;
    served->gone = true;
    if (served->pulling) return;
    hm_request_reply(request, true, HM_ERR_CANCELED, NULL, 0, NULL, 0);
    served_free(served);
}

static void handle_info(void *arg, struct hm_request *request, const void *header,
                        size_t header_bytes, struct hm_inbound *in)
{
    struct moe_server *server = arg;
    struct hm_uid uid;
    hm_inbound_drop(in);
    assert_ok(hm_expert_query_decode(header, header_bytes, &uid));
    struct moe_expert *expert = moe_server_find(server, uid.text);
    if (!expert) {
        hm_request_reply(request, true, HM_ERR_EXPERT_GONE, NULL, 0, NULL, 0);
        return;
    }
    struct hm_expert_info info = {.input = hm_schema_f32(MOE_HIDDEN),
                                  .output = hm_schema_f32(MOE_HIDDEN),
                                  .step = expert->step,
                                  .parameter_count = 2,
                                  .batch_rows_max = 64,
                                  .kind = "linear"};
    uint8_t bytes[256];
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_expert_info_encode(&info, &writer);
    hm_request_reply(request, true, HM_OK, bytes, hm_writer_count(&writer), NULL, 0);
}

void moe_server_methods(struct moe_server *server, struct hm_method methods[2])
{
    methods[0] = (struct hm_method){.id = HM_METHOD_EXPERT_CALL,
                                    .name = "call",
                                    .payload_bytes_max = 1 << 24,
                                    .handle = handle_call,
                                    .gone = call_gone,
                                    .arg = server};
    methods[1] = (struct hm_method){
        .id = HM_METHOD_EXPERT_INFO, .name = "info", .handle = handle_info, .arg = server};
}
