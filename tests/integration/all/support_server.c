/* See support_server.h. */
#include "support_server.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* ---- the swarm ---------------------------------------------------------------------------------- */

void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char inner[512];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
        if (unlink(inner)) remove_folder(inner);
    }
    closedir(dir);
    rmdir(path);
}

void swarm_serve(struct swarm *swarm)
{
    struct hm_node_options a = {.state_dir = swarm->dir, .listen = "127.0.0.1:0"};
    struct hm_server_options options = {.batch_rows_max = BATCH_ROWS,
                                        .queue_rows_max = QUEUE_ROWS,
                                        .save_interval_ms = swarm->save_interval_ms,
                                        .lane_threads = 1,
                                        .codecs = swarm->codecs};
    struct hm_expert_options nop = {.kind = "nop", .hidden = COLUMNS};
    struct hm_expert_options wide = {.kind = "nop", .hidden = WIDE_COLUMNS};
    struct hm_expert_options ffn = {
        .kind = "ffn", .hidden = COLUMNS, .optimizer = "adam", .rate = 1e-2f, .seed = 9};
    assert_ok(hm_node_open(&a, &swarm->a));
    assert_ok(hm_node_join_line(swarm->a, swarm->line, sizeof(swarm->line)));
    assert_ok(hm_server_open(swarm->a, &options, &swarm->server));
    assert_ok(hm_server_host(swarm->server, "nop.[0:2]", &nop));
    assert_ok(hm_server_host(swarm->server, "wide.0", &wide));
    assert_ok(hm_server_host(swarm->server, "ffn.[0:8]", &ffn));
    assert_ok(hm_server_start(swarm->server));
}

void swarm_stop(struct swarm *swarm)
{
    hm_server_close(swarm->server);
    hm_node_close(swarm->a);
    swarm->server = NULL;
    swarm->a = NULL;
}

static void open_both(struct swarm *swarm, int save_interval_ms, const char *codecs)
{
    *swarm = (struct swarm){
        .dir = "/tmp/hm-server-XXXXXX", .save_interval_ms = save_interval_ms, .codecs = codecs};
    assert_non_null(mkdtemp(swarm->dir));
    swarm_serve(swarm);
    assert_ok(hm_node_open(&(struct hm_node_options){.join = swarm->line}, &swarm->b));
    swarm->peer = peer_get(swarm->b, swarm->a);
}

void swarm_open(struct swarm *swarm, int save_interval_ms)
{
    open_both(swarm, save_interval_ms, NULL);
}

void swarm_open_taking(struct swarm *swarm, const char *codecs)
{
    open_both(swarm, 0, codecs);
}

void swarm_close(struct swarm *swarm)
{
    if (swarm->b) {
        peer_put(swarm->b, swarm->peer);
        hm_node_close(swarm->b);
    }
    if (swarm->a) swarm_stop(swarm);
    remove_folder(swarm->dir);
}

struct peer_op {
    struct hm_node *from, *to;
    struct hm_addrs addrs;
    struct hm_peer *peer;
};

static void read_address(struct hm_wait *wait, void *arg)
{
    struct peer_op *op = arg;
    hm_wait_end(wait, hm_rpc_address(op->to->rpc, &op->addrs));
}

static void get_peer(struct hm_wait *wait, void *arg)
{
    struct peer_op *op = arg;
    hm_wait_end(wait, hm_peer_get(op->from->rpc, hm_identity_node(op->to->identity), &op->addrs,
                                  &op->peer));
}

struct hm_peer *peer_get(struct hm_node *from, struct hm_node *to)
{
    struct peer_op op = {.from = from, .to = to};
    assert_ok(hm_node_run(to, read_address, &op));
    assert_ok(hm_node_run(from, get_peer, &op));
    return op.peer;
}

static void put_peer(struct hm_wait *wait, void *arg)
{
    hm_peer_put(arg);
    hm_wait_end(wait, HM_OK);
}

void peer_put(struct hm_node *from, struct hm_peer *peer)
{
    assert_ok(hm_node_run(from, put_peer, peer));
}

struct bytes_op {
    struct hm_node *node;
    size_t bytes;
};

static void read_bytes(struct hm_wait *wait, void *arg)
{
    struct bytes_op *op = arg;
    op->bytes = hm_buf_pool_bytes_used(op->node->buffers);
    hm_wait_end(wait, HM_OK);
}

size_t bytes_used(struct hm_node *node)
{
    struct bytes_op op = {.node = node};
    assert_ok(hm_node_run(node, read_bytes, &op));
    return op.bytes;
}

uint64_t steps(struct swarm *swarm, const char *uid)
{
    static const float row[COLUMNS] = {1};
    uint64_t step = UINT64_MAX;
    assert_ok(pass_run(swarm, uid, HM_PASS_FORWARD, row, NULL, 1, NULL, &step));
    return step;
}

/* ---- calls -------------------------------------------------------------------------------------- */

void raw_init(struct raw *raw, enum hm_pass pass, const float *x, const float *dy, uint32_t rows)
{
    static uint64_t sequence;
    *raw = (struct raw){.x = x, .dy = dy, .timeout = 20 * HM_S, .whole = HM_INPROGRESS};
    raw->head = (struct hm_call_head){.pass = (uint8_t)pass,
                                      .priority = 1,
                                      .schema = hm_schema_f32(COLUMNS),
                                      .row_count = rows,
                                      .incarnation = 77,
                                      .sequence = ++sequence};
}

void raw_add(struct raw *raw, const char *uid, uint32_t first, uint32_t count,
             const uint32_t *index, const float *scale)
{
    HM_ASSERT(raw->head.part_count < PARTS_MAX);
    struct hm_call_part *part = &raw->part[raw->head.part_count++];
    *part =
        (struct hm_call_part){.first = first, .row_count = count, .index = index, .scale = scale};
    snprintf(part->uid.text, sizeof(part->uid.text), "%s", uid);
}

void raw_fini(struct raw *raw)
{
    for (unsigned i = 0; i < PARTS_MAX; i++) {
        free(raw->answer[i].coded);
        free(raw->answer[i].rows);
    }
}

static void raw_settle(struct raw *raw)
{
    struct flight *flight = raw->flight;
    if (raw->ends == 0 || raw->pulls > 0) return;
    HM_ASSERT(flight->left > 0);
    if (--flight->left > 0 || !flight->wait) return;
    struct hm_wait *wait = flight->wait;
    flight->wait = NULL;
    hm_wait_end(wait, HM_OK);
}

static void rows_pulled(void *arg, enum hm_status status)
{
    struct answer *answer = arg;
    struct raw *raw =
        (struct raw *)((char *)(answer - answer->head.part) - offsetof(struct raw, answer));
    if (!status)
        status = hm_codec_decode(hm_codec_find(answer->head.codec), answer->coded, COLUMNS, NULL,
                                 NULL, answer->head.row_count, answer->rows);
    if (status) answer->status = status;
    raw->pulls--;
    raw_settle(raw);
}

static void raw_reply(struct hm_call *call, enum hm_status status, const void *header,
                      size_t header_bytes, struct hm_inbound *in)
{
    struct raw *raw = call->arg;
    struct hm_call_answer head;
    raw->replies++;
    if (header_bytes == 0) {
        HM_ASSERT(status != HM_OK);
        raw->whole = status;
        hm_inbound_drop(in);
        return;
    }
    enum hm_status decoded = hm_call_answer_decode(header, header_bytes, &head);
    HM_ASSERT(decoded == HM_OK && head.part < PARTS_MAX);
    struct answer *answer = &raw->answer[head.part];
    answer->head = head;
    answer->status = status;
    if (answer->count++ > 0 || status) {
        hm_inbound_drop(in);
        return;
    }
    const struct hm_codec *codec = hm_codec_find(head.codec);
    HM_ASSERT(in->bytes == head.row_count * hm_codec_row_bytes(codec, COLUMNS));
    answer->coded = malloc(in->bytes);
    answer->rows = malloc(head.row_count * COLUMNS * sizeof(float));
    HM_ASSERT(answer->coded && answer->rows);
    struct hm_span into = {.base = answer->coded, .bytes = in->bytes};
    raw->pulls++;
    status = hm_inbound_pull(in, &into, rows_pulled, answer);
    if (status) rows_pulled(answer, status);
}

static void raw_end(struct hm_call *call, enum hm_status status)
{
    struct raw *raw = call->arg;
    raw->end = status;
    raw->ends++;
    hm_buf_put(raw->payload);
    raw->payload = NULL;
    raw_settle(raw);
}

static void raw_start(struct flight *flight, struct raw *raw)
{
    struct hm_call_head *head = &raw->head;
    bool backward = head->pass == HM_PASS_BACKWARD;
    struct hm_writer writer;
    uint64_t rows_bytes;
    const struct hm_codec *codec = hm_codec_find(head->codec);
    enum hm_status status =
        hm_call_rows_bytes(&head->schema, head->codec, head->row_count, &rows_bytes);
    HM_ASSERT(status == HM_OK);
    head->table_bytes = (uint32_t)hm_call_table_bytes(raw->part, head->part_count);
    size_t bytes = head->table_bytes + rows_bytes * (backward ? 2 : 1);
    status = hm_buf_pool_get(flight->from->buffers, bytes + 64, &raw->payload);
    HM_ASSERT(status == HM_OK);
    uint8_t *payload = raw->payload->base;
    hm_writer_init(&writer, payload, head->table_bytes);
    hm_call_table_encode(raw->part, head->part_count, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    if (codec->id == HM_CODEC_NONE) { /* of any schema */
        memcpy(payload + head->table_bytes, raw->x, rows_bytes);
        if (backward) memcpy(payload + head->table_bytes + rows_bytes, raw->dy, rows_bytes);
    } else {
        status = hm_codec_encode(codec, raw->x, COLUMNS, NULL, head->row_count,
                                 payload + head->table_bytes);
        if (!status && backward)
            status = hm_codec_encode(codec, raw->dy, COLUMNS, NULL, head->row_count,
                                     payload + head->table_bytes + rows_bytes);
        HM_ASSERT(status == HM_OK);
    }
    hm_writer_init(&writer, raw->header, sizeof(raw->header));
    hm_call_head_encode(head, &writer);
    size_t header_bytes = hm_writer_count(&writer);
    if (raw->spoil) raw->spoil(raw, raw->header, &header_bytes, payload, &bytes);

    raw->flight = flight;
    raw->call = (struct hm_call){.method = HM_METHOD_EXPERT_CALL,
                                 .deadline = hm_deadline_after(flight->from->loop, raw->timeout),
                                 .header = raw->header,
                                 .header_bytes = header_bytes,
                                 .payload = {hm_buf_part(raw->payload, 0, bytes)},
                                 .span_count = 1,
                                 .reply = raw_reply,
                                 .end = raw_end,
                                 .arg = raw};
    status = hm_rpc_call(flight->to, &raw->call);
    if (status) raw_end(&raw->call, status);
}

static void start_all(struct hm_wait *wait, void *arg)
{
    struct flight *flight = arg;
    for (unsigned i = 0; i < flight->count; i++) raw_start(flight, &flight->raw[i]);
    hm_wait_end(wait, HM_OK);
}

void flight_start(struct flight *flight, struct hm_node *from, struct hm_peer *to, struct raw *raw,
                  unsigned count)
{
    *flight = (struct flight){.from = from, .to = to, .raw = raw, .count = count, .left = count};
    assert_ok(hm_node_run(from, start_all, flight));
}

static void wait_all(struct hm_wait *wait, void *arg)
{
    struct flight *flight = arg;
    if (flight->left == 0)
        hm_wait_end(wait, HM_OK);
    else
        flight->wait = wait;
}

void flight_wait(struct flight *flight)
{
    assert_ok(hm_node_run(flight->from, wait_all, flight));
}

static void cancel_all(struct hm_wait *wait, void *arg)
{
    struct flight *flight = arg;
    for (unsigned i = 0; i < flight->count; i++)
        if (flight->raw[i].ends == 0) hm_rpc_cancel(&flight->raw[i].call);
    hm_wait_end(wait, HM_OK);
}

void flight_cancel(struct flight *flight)
{
    assert_ok(hm_node_run(flight->from, cancel_all, flight));
}

struct ended_op {
    struct flight *flight;
    bool ended;
};

static void look_all(struct hm_wait *wait, void *arg)
{
    struct ended_op *op = arg;
    op->ended = op->flight->left == 0;
    hm_wait_end(wait, HM_OK);
}

bool flight_ended(struct flight *flight)
{
    struct ended_op op = {.flight = flight};
    assert_ok(hm_node_run(flight->from, look_all, &op));
    return op.ended;
}

void raw_run(struct swarm *swarm, struct raw *raw)
{
    struct flight flight;
    flight_start(&flight, swarm->b, swarm->peer, raw, 1);
    flight_wait(&flight);
    assert_int_equal(raw->ends, 1);
}

enum hm_status pass_run(struct swarm *swarm, const char *uid, enum hm_pass pass, const float *x,
                        const float *dy, uint32_t rows, float *out, uint64_t *step)
{
    struct raw raw;
    raw_init(&raw, pass, x, dy, rows);
    raw_add(&raw, uid, 0, rows, NULL, NULL);
    raw_run(swarm, &raw);
    enum hm_status status = raw.whole != HM_INPROGRESS ? raw.whole : raw.answer[0].status;
    if (raw.end) status = raw.end;
    if (!status) {
        assert_int_equal(raw.answer[0].count, 1);
        assert_int_equal(raw.answer[0].head.row_count, rows);
        if (out) memcpy(out, raw.answer[0].rows, rows * COLUMNS * sizeof(float));
        if (step) *step = raw.answer[0].head.step;
    }
    raw_fini(&raw);
    return status;
}

/* ---- the same expert here ----------------------------------------------------------------------- */

void local_open(struct local *local, const char *uid)
{
    struct hm_expert_conf conf = {
        .kind = "ffn", .hidden = COLUMNS, .optimizer = "adam", .rate = 1e-2f, .seed = 9};
    *local = (struct local){0};
    assert_ok(hm_device_cpu_create(&local->device));
    assert_ok(hm_expert_create(local->device, uid, &conf, &local->expert));
    const struct hm_device_ops *ops = local->device->ops;
    local->exec.device = local->device;
    assert_ok(ops->stream_create(local->device, &local->exec.stream));
    assert_ok(ops->alloc(local->device,
                         ROWS_MAX * hm_expert_plan(local->expert)->scratch_bytes_per_row,
                         &local->exec.scratch));
}

void local_close(struct local *local)
{
    local->device->ops->free(local->device, &local->exec.scratch);
    local->device->ops->stream_destroy(local->exec.stream);
    hm_expert_destroy(local->expert);
    hm_device_destroy(local->device);
}

void local_forward(struct local *local, const float *x, uint32_t rows, float *y)
{
    struct hm_tensor in = hm_matrix_f32((float *)x, rows, COLUMNS);
    struct hm_tensor out = hm_matrix_f32(y, rows, COLUMNS);
    assert_ok(hm_expert_forward(local->expert, &local->exec, &in, &out));
}

void local_backward(struct local *local, const float *x, const float *dy, uint32_t rows, float *dx)
{
    struct hm_tensor in = hm_matrix_f32((float *)x, rows, COLUMNS);
    struct hm_tensor grad = hm_matrix_f32((float *)dy, rows, COLUMNS);
    struct hm_tensor out = hm_matrix_f32(dx, rows, COLUMNS);
    assert_ok(hm_expert_backward(local->expert, &local->exec, &in, &grad, &out));
}

void fill_normal(float *x, size_t count, uint64_t seed)
{
    struct hm_rng rng;
    hm_rng_init(&rng, seed, 1);
    for (size_t i = 0; i < count; i++) x[i] = hm_rng_normal(&rng);
}

void gather_rows(const float *from, const uint32_t *index, const float *scale, uint32_t count,
                 float *to)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < COLUMNS; j++)
            to[i * COLUMNS + j] = (scale ? scale[i] : 1.0f) * from[index[i] * COLUMNS + j];
}

void assert_rows_near(const float *got, const float *wanted, size_t count, double tolerance)
{
    double off = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        off += ((double)got[i] - wanted[i]) * ((double)got[i] - wanted[i]);
        norm += (double)wanted[i] * wanted[i];
    }
    if (!(sqrt(off) <= tolerance * sqrt(norm)))
        fail_msg("off by %g of a norm of %g", sqrt(off), sqrt(norm));
}

/* ---- the lane, held ----------------------------------------------------------------------------- */

static enum hm_status gate_run(void *arg, struct hm_batch *batch) /* lane thread */
{
    struct gate *gate = arg;
    (void)batch;
    hm_event_set(&gate->entered);
    hm_event_wait(&gate->released);
    return HM_OK;
}

static void gate_ended(struct hm_task *task, enum hm_status status, const struct hm_rows *out)
{
    struct gate *gate = task->arg;
    (void)out;
    hm_pool_destroy(gate->pool);
    hm_wait_end(gate->wait, status);
}

static void gate_submit(struct hm_wait *wait, void *arg)
{
    struct gate *gate = arg;
    struct hm_pool_conf conf = {.name = "gate",
                                .lane = gate->lane,
                                .batch_rows_max = 1,
                                .queue_rows_max = 1,
                                .queue_tasks_max = 1,
                                .run = gate_run,
                                .arg = gate};
    enum hm_status status = hm_pool_create(gate->sched, &conf, &gate->pool);
    gate->task = (struct hm_task){.pool = gate->pool,
                                  .row_count = 1,
                                  .deadline = HM_NS_NEVER,
                                  .end = gate_ended,
                                  .arg = gate};
    if (!status) status = hm_sched_submit(gate->sched, &gate->task);
    hm_wait_end(wait, status);
}

void gate_shut(struct gate *gate, struct swarm *swarm, const char *uid)
{
    struct hm_expert_server *server = hm_server_inner(swarm->server);
    *gate = (struct gate){.node = swarm->a, .sched = server->sched};
    gate->lane = hm_expert_server_find(server, uid)->lane->lane;
    assert_ok(hm_node_run(swarm->a, gate_submit, gate));
    hm_event_wait(&gate->entered);
}

static void gate_release(struct hm_wait *wait, void *arg)
{
    struct gate *gate = arg;
    gate->wait = wait;
    hm_event_set(&gate->released);
}

void gate_open(struct gate *gate)
{
    assert_ok(hm_node_run(gate->node, gate_release, gate));
}

struct queued_op {
    const struct hm_pool *pool;
    uint32_t rows;
};

static void read_queued(struct hm_wait *wait, void *arg)
{
    struct queued_op *op = arg;
    op->rows = hm_pool_rows_queued(op->pool);
    hm_wait_end(wait, HM_OK);
}

void wait_queued(struct swarm *swarm, const char *uid, enum hm_pass pass, uint32_t rows)
{
    struct hm_hosted *hosted = hm_expert_server_find(hm_server_inner(swarm->server), uid);
    struct queued_op op = {.pool = hosted->pass[pass].pool};
    for (unsigned i = 0; i < 5000; i++) {
        assert_ok(hm_node_run(swarm->a, read_queued, &op));
        if (op.rows == rows) return;
        nap();
    }
    fail_msg("%s holds %u rows, not %u", uid, op.rows, rows);
}
