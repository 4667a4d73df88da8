#include "support_moe.h"

#include "base/assert.h"
#include "base/rng.h"
#include "dht/dht.h"

#include <math.h>
#include <stdio.h>

/* ---- nodes ----------------------------------------------------------------------------------- */

static void set_flag(void *arg)
{
    *(bool *)arg = true;
}

void moe_run(struct moe_swarm *swarm, hm_ns duration)
{
    hm_world_run_for(swarm->world, duration);
}

void moe_wait(struct moe_swarm *swarm, const bool *done, hm_ns limit)
{
    assert_true(hm_world_run_while_not(swarm->world, done, limit));
}

static void on_joined(void *arg, enum hm_status status)
{
    assert_status(status, HM_OK);
    *(bool *)arg = true;
}

unsigned moe_number(unsigned index)
{
    return index == 0 ? 1 : index + 10;
}

static void node_open(struct moe_swarm *swarm, struct moe_node *node, unsigned index, bool listens)
{
    static const struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    uint8_t seed[32] = {(uint8_t)(index + 1), 42};
    char listen[32];
    *node = (struct moe_node){.swarm = swarm, .index = index, .open = true};
    assert_ok(hm_identity_create(seed, &node->identity));
    node->id = *hm_identity_node(node->identity);
    assert_ok(hm_buf_pool_create((size_t)64 << 20, &node->buffers));
    hm_metrics_init(&node->metrics);
    snprintf(listen, sizeof listen, "sim:%u", moe_number(index));
    struct hm_rpc_conf conf = {.loop = swarm->loop,
                               .transport = &hm_transport_sim,
                               .peers_max = 64,
                               .calls_max = 512,
                               .requests_max = 256,
                               .requests_max_per_peer = 128};
    conf.transport_conf = (struct hm_transport_conf){.identity = node->identity,
                                                     .hello = &hello,
                                                     .listen = listens ? listen : NULL,
                                                     .buffers = node->buffers,
                                                     .metrics = &node->metrics,
                                                     .endpoints_max = 64,
                                                     .receive_bytes_max = 256 * 1024,
                                                     .handshake_max = 3 * HM_S,
                                                     .world = swarm->world};
    assert_ok(hm_rpc_open(&conf, &node->rpc));
    struct hm_dht_conf dht = {.rpc = node->rpc,
                              .validators = hm_directory_validators,
                              .validator_count = hm_directory_validator_count,
                              .records_max = 8192,
                              .entries_max = 1024,
                              .record_bytes_max = (size_t)16 << 20,
                              .queries_max = 64,
                              .metrics = &node->metrics};
    assert_ok(hm_dht_open(&dht, &node->dht));
    struct hm_directory_conf directory = {
        .dht = node->dht, .rpc = node->rpc, .negative_cache_max = swarm->negative_cache_max};
    assert_ok(hm_directory_create(&directory, &node->directory));
    if (index == 0) return;
    struct hm_addrs addrs = {.count = 1, .addr = {{"sim:1"}}};
    hm_dht_join(node->dht, &addrs, NULL, hm_deadline_after(swarm->loop, 30 * HM_S), on_joined,
                &node->flag);
    moe_wait(swarm, &node->flag, 60 * HM_S);
}

static void node_close(struct moe_node *node)
{
    if (!node->open) return;
    node->open = false;
    hm_directory_destroy(node->directory);
    node->flag = false;
    hm_dht_close(node->dht, set_flag, &node->flag);
    moe_wait(node->swarm, &node->flag, 60 * HM_S);
    node->flag = false;
    hm_rpc_close(node->rpc, set_flag, &node->flag);
    moe_wait(node->swarm, &node->flag, 600 * HM_S);
    assert_int_equal(hm_buf_pool_bytes_used(node->buffers), 0);
    hm_buf_pool_destroy(node->buffers);
    hm_identity_destroy(node->identity);
}

/* ---- the server's experts -------------------------------------------------------------------- */

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

static struct moe_expert *find_expert(struct moe_server *server, const char *uid)
{
    for (unsigned i = 0; i < server->expert_count; i++) {
        if (strcmp(server->expert[i].uid.text, uid) == 0) return &server->expert[i];
    }
    return NULL;
}

static void say(struct served *served, unsigned number, enum hm_status status, uint64_t step,
                uint32_t rows, struct hm_buf *buf, bool last)
{
    const struct hm_codec *codec = hm_codec_find(served->head.codec);
    struct hm_call_answer answer = {
        .part = (uint16_t)number,
        .codec = codec->id,
        .row_count = rows,
        .step = step,
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
    struct moe_expert *expert = find_expert(served->server, part->uid.text);
    enum moe_behaviour behaviour = MOE_FAILS;
    enum hm_status status = HM_ERR_EXPERT_GONE;
    if (expert) {
        behaviour = served->head.pass == HM_PASS_FORWARD ? expert->forward : expert->backward;
        status = expert->fails_with;
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

static void log_backward(struct moe_server *server, const struct hm_call_head *head)
{
    if (head->pass != HM_PASS_BACKWARD) return;
    for (unsigned i = 0; i < server->log_count; i++)
        assert_false(server->log[i][0] == head->incarnation && server->log[i][1] == head->sequence);
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
    log_backward(server, &served->head);
    served->left = served->head.part_count;
    for (unsigned i = 0; i < served->head.part_count; i++) {
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(served->part[i].uid.text, served->part[k].uid.text);
        const struct moe_expert *expert = find_expert(server, served->part[i].uid.text);
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
    struct moe_expert *expert = find_expert(server, uid.text);
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

/* ---- servers --------------------------------------------------------------------------------- */

static struct hm_method methods[MOE_SERVERS_MAX][2];

static void describe(struct moe_server *server, struct hm_server_info *info)
{
    *info = (struct hm_server_info){.node = server->node.id,
                                    .version = "test",
                                    .expert_count = server->expert_count,
                                    .rows_queued = server->rows_queued,
                                    .codecs = HM_CODECS_ALL & ~server->codecs_not};
    assert_ok(hm_rpc_address(server->node.rpc, &info->addrs));
}

static void on_redeclared(void *arg, enum hm_status status)
{
    (void)status; /* in a storm it may fail; the next one comes in 30 s */
    ((struct moe_server *)arg)->declaring = false;
}

static void redeclare(struct hm_timer *timer)
{
    struct moe_server *server = timer->arg;
    struct hm_server_info info;
    describe(server, &info);
    hm_timer_start(server->node.swarm->loop, timer, 30 * HM_S);
    if (server->declaring || server->silent_redeclare) return;
    server->declaring = hm_directory_declare(server->node.directory, &info, NULL, 0, false,
                                             hm_deadline_after(server->node.swarm->loop, 20 * HM_S),
                                             on_redeclared, server) == HM_OK;
}

static void on_declared(void *arg, enum hm_status status)
{
    assert_status(status, HM_OK);
    *(bool *)arg = true;
}

void moe_server_declare(struct moe_server *server, bool experts, bool withdraw)
{
    struct moe_swarm *swarm = server->node.swarm;
    struct hm_server_info info;
    struct hm_uid uids[MOE_EXPERTS_MAX];
    bool done = false;
    for (unsigned i = 0; i < server->expert_count; i++) uids[i] = server->expert[i].uid;
    describe(server, &info);
    assert_ok(hm_directory_declare(server->node.directory, &info, experts ? uids : NULL,
                                   experts ? server->expert_count : 0, withdraw,
                                   hm_deadline_after(swarm->loop, 20 * HM_S), on_declared, &done));
    assert_false(done);
    moe_wait(swarm, &done, 30 * HM_S);
}

void moe_server_host(struct moe_server *server, const char *uid)
{
    struct moe_expert *expert = &server->expert[server->expert_count++];
    assert_true(server->expert_count <= MOE_EXPERTS_MAX);
    *expert = (struct moe_expert){.fails_with = HM_ERR_DEVICE};
    assert_ok(hm_uid_parse(uid, &expert->uid));
}

void moe_server_open(struct moe_swarm *swarm, unsigned index)
{
    struct moe_server *server = &swarm->server[index];
    node_open(swarm, &server->node, index + 1, true);
    hm_list_init(&server->served);
    methods[index][0] = (struct hm_method){.id = HM_METHOD_EXPERT_CALL,
                                           .name = "call",
                                           .payload_bytes_max = 1 << 24,
                                           .handle = handle_call,
                                           .gone = call_gone,
                                           .arg = server};
    methods[index][1] = (struct hm_method){
        .id = HM_METHOD_EXPERT_INFO, .name = "info", .handle = handle_info, .arg = server};
    assert_ok(hm_rpc_serve(server->node.rpc, methods[index], 2));
    server->redeclare = (struct hm_timer){.cb = redeclare, .arg = server};
    hm_timer_start(swarm->loop, &server->redeclare, 30 * HM_S);
    if (server->expert_count > 0) moe_server_declare(server, true, false);
}

static void server_close(struct moe_server *server)
{
    if (!server->node.open) return;
    hm_timer_stop(server->node.swarm->loop, &server->redeclare);
    while (server->declaring) assert_true(hm_world_step(server->node.swarm->world));
    node_close(&server->node);
    assert_true(hm_list_empty(&server->served));
}

void moe_server_crash(struct moe_server *server)
{
    hm_net_crash(server->node.swarm->world, moe_number(server->node.index));
    server_close(server); /* nobody hears of it */
}

struct moe_expert *moe_expert(struct moe_swarm *swarm, const char *uid, struct moe_server **server)
{
    for (unsigned i = 0; i < swarm->server_count; i++) {
        struct moe_expert *expert = find_expert(&swarm->server[i], uid);
        if (server) *server = &swarm->server[i];
        if (expert) return expert;
    }
    fail_msg("nobody hosts %s", uid);
    return NULL;
}

static void run_world(void *arg, const bool *done)
{
    struct moe_swarm *swarm = arg;
    moe_wait(swarm, done, 3600 * HM_S);
}

void moe_swarm_open(struct moe_swarm *swarm, uint64_t seed, unsigned servers)
{
    hm_ns negative = swarm->negative_cache_max;
    memset(swarm, 0, sizeof *swarm);
    swarm->negative_cache_max = negative;
    assert_ok(hm_world_create(seed, &swarm->world));
    swarm->loop = hm_world_loop(swarm->world);
    swarm->bridge = (struct hm_bridge){.loop = swarm->loop, .run = run_world, .arg = swarm};
    swarm->server_count = servers;
    node_open(swarm, &swarm->boot, 0, true);
    for (unsigned i = 0; i < MOE_GRID * MOE_GRID && servers > 0; i++) {
        char uid[32];
        snprintf(uid, sizeof uid, "ffn.%u.%u", i / MOE_GRID, i % MOE_GRID);
        moe_server_host(&swarm->server[i % servers], uid);
    }
    for (unsigned i = 0; i < servers; i++) moe_server_open(swarm, i);
    node_open(swarm, &swarm->trainer, 100, false);
    struct hm_dispatch_conf conf = {.rpc = swarm->trainer.rpc,
                                    .directory = swarm->trainer.directory};
    assert_ok(hm_dispatch_create(&conf, &swarm->dispatch));
}

void moe_swarm_close(struct moe_swarm *swarm)
{
    bool closed = false;
    hm_dispatch_close(swarm->dispatch, set_flag, &closed);
    assert_false(closed);
    moe_wait(swarm, &closed, 60 * HM_S);
    node_close(&swarm->trainer);
    for (unsigned i = 0; i < MOE_SERVERS_MAX; i++) server_close(&swarm->server[i]);
    node_close(&swarm->boot);
    hm_world_destroy(swarm->world);
}

/* ---- passes ---------------------------------------------------------------------------------- */

void moe_conf(struct moe_swarm *swarm, struct hm_mixture_conf *conf)
{
    *conf = (struct hm_mixture_conf){.dispatch = swarm->dispatch,
                                     .name = "ffn",
                                     .dim_count = 2,
                                     .grid = {MOE_GRID, MOE_GRID},
                                     .hidden = MOE_HIDDEN,
                                     .k_best = 4,
                                     .k_min = 1,
                                     .backward_k_min = 1,
                                     .forward_timeout = 10 * HM_S,
                                     .backward_timeout = 10 * HM_S};
}

void moe_pass_init(struct moe_pass *pass, struct moe_swarm *swarm,
                   const struct hm_mixture_conf *conf, uint32_t rows, uint64_t seed)
{
    struct hm_rng rng;
    memset(pass, 0, sizeof *pass);
    pass->swarm = swarm;
    pass->rows = rows;
    hm_rng_init(&rng, seed, 99);
    for (unsigned i = 0; i < rows * MOE_HIDDEN; i++) pass->x[i] = hm_rng_normal(&rng);
    for (unsigned i = 0; i < rows * MOE_HIDDEN; i++) pass->dy[i] = hm_rng_normal(&rng);
    for (unsigned i = 0; i < rows * 2 * MOE_GRID; i++) pass->logits[i] = hm_rng_normal(&rng);
    assert_ok(hm_mixture_create(conf, &pass->mixture));
    hm_mixture_op_init(pass->mixture, &pass->op);
    pass->op.arg = pass;
}

void moe_pass_fini(struct moe_pass *pass)
{
    hm_mixture_op_fini(&pass->op);
    hm_mixture_destroy(pass->mixture);
}

static void ended(struct hm_mixture_op *op, enum hm_status status)
{
    struct moe_pass *pass = op->arg;
    assert_false(pass->result.done); /* exactly once */
    pass->result.done = true;
    pass->result.status = status;
    pass->result.took = hm_loop_now(pass->swarm->loop) - pass->started;
    snprintf(pass->result.line, sizeof pass->result.line, "%s",
             status == HM_OK ? "" : hm_fail_line());
}

static void begin(struct moe_pass *pass)
{
    memset(&pass->result, 0, sizeof pass->result);
    pass->started = hm_loop_now(pass->swarm->loop);
}

void moe_forward_start(struct moe_pass *pass)
{
    struct hm_tensor x = hm_matrix_f32(pass->x, pass->rows, MOE_HIDDEN);
    struct hm_tensor y = hm_matrix_f32(pass->y, pass->rows, MOE_HIDDEN);
    struct hm_tensor logits = hm_matrix_f32(pass->logits, pass->rows, 2 * MOE_GRID);
    hm_mixture_release(&pass->op);
    begin(pass);
    assert_ok(hm_mixture_forward(&pass->op, &x, &logits, &y, HM_NS_NEVER, ended));
    assert_false(pass->result.done);
}

void moe_backward_start(struct moe_pass *pass)
{
    struct hm_tensor dy = hm_matrix_f32(pass->dy, pass->rows, MOE_HIDDEN);
    struct hm_tensor dx = hm_matrix_f32(pass->dx, pass->rows, MOE_HIDDEN);
    struct hm_tensor dlogits = hm_matrix_f32(pass->dlogits, pass->rows, 2 * MOE_GRID);
    begin(pass);
    assert_ok(hm_mixture_backward(&pass->op, &dy, &dx, &dlogits, HM_NS_NEVER, ended));
    assert_false(pass->result.done);
}

enum hm_status moe_forward(struct moe_pass *pass)
{
    moe_forward_start(pass);
    moe_wait(pass->swarm, &pass->result.done, 60 * HM_S);
    return pass->result.status;
}

enum hm_status moe_backward(struct moe_pass *pass)
{
    moe_backward_start(pass);
    moe_wait(pass->swarm, &pass->result.done, 60 * HM_S);
    return pass->result.status;
}

enum hm_status moe_choose(struct moe_pass *pass)
{
    struct hm_tensor logits = hm_matrix_f32(pass->logits, pass->rows, 2 * MOE_GRID);
    hm_mixture_release(&pass->op);
    begin(pass);
    assert_ok(hm_mixture_choose(&pass->op, &logits, HM_NS_NEVER, ended));
    assert_false(pass->result.done);
    moe_wait(pass->swarm, &pass->result.done, 60 * HM_S);
    return pass->result.status;
}

/* ---- the direct computation ------------------------------------------------------------------ */

struct direct {
    struct hm_uid uid[64];
    float logit[64], weight[64];
    bool alive[64];
    unsigned count;
};

/* The k best of the whole grid for one row, and the weights of those alive. */
static void direct_row(const struct moe_pass *pass, uint32_t row, uint32_t k_best, moe_alive alive,
                       void *arg, struct direct *direct)
{
    const float *logit = pass->logits + (size_t)row * 2 * MOE_GRID;
    bool taken[MOE_GRID][MOE_GRID] = {{false}};
    direct->count = 0;
    for (uint32_t k = 0; k < k_best && k < MOE_GRID * MOE_GRID; k++) {
        int best_i = -1, best_j = -1;
        for (int i = 0; i < MOE_GRID; i++) {
            for (int j = 0; j < MOE_GRID; j++) {
                if (taken[i][j]) continue;
                if (best_i < 0 ||
                    logit[i] + logit[MOE_GRID + j] > logit[best_i] + logit[MOE_GRID + best_j])
                    best_i = i, best_j = j;
            }
        }
        taken[best_i][best_j] = true;
        assert_ok(hm_uid_make("ffn", (uint32_t[]){(uint32_t)best_i, (uint32_t)best_j}, 2,
                              &direct->uid[k]));
        direct->logit[k] = logit[best_i] + logit[MOE_GRID + best_j];
        direct->alive[k] = !alive || alive(arg, row, direct->uid[k].text);
        direct->count++;
    }
    double sum = 0;
    for (unsigned k = 0; k < direct->count; k++)
        sum += direct->alive[k] ? exp(direct->logit[k]) : 0;
    for (unsigned k = 0; k < direct->count; k++)
        direct->weight[k] = direct->alive[k] ? (float)(exp(direct->logit[k]) / sum) : 0;
}

void moe_direct_forward(const struct moe_pass *pass, uint32_t k_best, moe_alive alive, void *arg,
                        float *y)
{
    for (uint32_t row = 0; row < pass->rows; row++) {
        struct direct direct;
        direct_row(pass, row, k_best, alive, arg, &direct);
        for (unsigned i = 0; i < MOE_HIDDEN; i++) y[row * MOE_HIDDEN + i] = 0;
        for (unsigned k = 0; k < direct.count; k++) {
            float one[MOE_HIDDEN];
            moe_expert_forward(&direct.uid[k], pass->x + (size_t)row * MOE_HIDDEN, one);
            for (unsigned i = 0; i < MOE_HIDDEN; i++)
                y[row * MOE_HIDDEN + i] += direct.weight[k] * one[i];
        }
    }
}

void moe_direct_backward(const struct moe_pass *pass, uint32_t k_best, moe_alive alive,
                         moe_alive back, void *arg, float *dx, float *dlogits)
{
    memset(dx, 0, pass->rows * MOE_HIDDEN * sizeof *dx);
    memset(dlogits, 0, pass->rows * 2 * MOE_GRID * sizeof *dlogits);
    for (uint32_t row = 0; row < pass->rows; row++) {
        struct direct direct;
        const float *x = pass->x + (size_t)row * MOE_HIDDEN,
                    *dy = pass->dy + (size_t)row * MOE_HIDDEN;
        float gradient[64] = {0}, mean = 0;
        direct_row(pass, row, k_best, alive, arg, &direct);
        for (unsigned k = 0; k < direct.count; k++) {
            float y[MOE_HIDDEN], one[MOE_HIDDEN];
            moe_expert_forward(&direct.uid[k], x, y);
            moe_expert_backward(&direct.uid[k], dy, one);
            for (unsigned i = 0; i < MOE_HIDDEN; i++) gradient[k] += dy[i] * y[i];
            mean += direct.weight[k] * gradient[k];
            if (!direct.alive[k] || (back && !back(arg, row, direct.uid[k].text))) continue;
            for (unsigned i = 0; i < MOE_HIDDEN; i++)
                dx[row * MOE_HIDDEN + i] += direct.weight[k] * one[i];
        }
        for (unsigned k = 0; k < direct.count; k++) {
            float *to = dlogits + (size_t)row * 2 * MOE_GRID,
                  d = direct.weight[k] * (gradient[k] - mean);
            to[direct.uid[k].coordinate[0]] += d;
            to[MOE_GRID + direct.uid[k].coordinate[1]] += d;
        }
    }
}

void moe_assert_near(const float *a, const float *b, size_t count, float tolerance)
{
    for (size_t i = 0; i < count; i++) {
        if (!(fabsf(a[i] - b[i]) <= tolerance * (1 + fabsf(b[i]))))
            fail_msg("value %zu is %g, not %g", i, a[i], b[i]);
    }
}
