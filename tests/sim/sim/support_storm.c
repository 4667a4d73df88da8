#include "support_storm.h"

struct job { /* a request that is answered later, in parts */
    struct hm_timer timer;
    struct storm_node *at;
    struct hm_request *request;
    struct hm_buf *buf;
    struct hm_inbound *in;
    uint32_t token;
    unsigned parts, sent;
    bool gone;
};
struct pulled { /* a reply */
    struct storm *storm;
    struct hm_buf *buf;
    uint32_t token;
};

uint64_t storm_below(struct storm *storm, uint64_t bound)
{
    return hm_rng_below(&storm->rng, bound);
}

static uint8_t byte_of(uint32_t token, size_t i)
{
    return (uint8_t)(token * 31 + i * 7);
}

static void check(const uint8_t *bytes, size_t count, uint32_t token)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != byte_of(token, i)) fail_msg("byte %zu of %u is wrong", i, token);
}

/* ---- the server's side */

static void job_free(struct job *job)
{
    hm_buf_put(job->buf);
    job->at->storm->jobs--;
    free(job);
}

static void job_refuse(struct job *job, enum hm_status status)
{
    hm_request_reply(job->request, true, status, NULL, 0, NULL, 0);
    job_free(job);
}

static void job_step(struct hm_timer *timer)
{
    struct job *job = timer->arg;
    struct storm *storm = job->at->storm;
    struct hm_span span = hm_buf_span(job->buf);
    uint8_t part = (uint8_t)job->sent++;
    bool last = job->sent == job->parts || job->gone;
    hm_request_reply(job->request, last, HM_OK, &part, 1, &span, 1);
    if (last)
        job_free(job);
    else
        hm_timer_start(storm->loop, timer, storm_below(storm, storm->conf.part_max));
}

/* Lost with what carried it, which only a cancel excuses where nothing is. */
static void job_lost(struct job *job)
{
    struct storm *storm = job->at->storm;
    assert_true(!storm->conf.lossless || storm->canceled[job->token]);
    job_refuse(job, HM_ERR_NO_MEMORY);
}

static void on_job_pulled(void *arg, enum hm_status status)
{
    struct job *job = arg;
    struct storm *storm = job->at->storm;
    if (status != HM_OK) {
        job_lost(job);
        return;
    }
    check(job->buf->base, job->buf->bytes, job->token);
    hm_timer_start(storm->loop, &job->timer, storm_below(storm, storm->conf.answer_max));
}

static void job_pull(struct hm_timer *timer)
{
    struct job *job = timer->arg;
    struct hm_span into = hm_buf_span(job->buf);
    timer->cb = job_step;
    if (job->in->data) check(job->in->data, into.bytes, job->token);
    if (hm_inbound_pull(job->in, &into, on_job_pulled, job) != HM_OK) job_lost(job);
}

static void on_job(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                   struct hm_inbound *in)
{
    struct storm_node *at = arg;
    struct storm *storm = at->storm;
    struct hm_reader reader;
    hm_reader_init(&reader, header, header_bytes);
    struct job *job = calloc(1, sizeof *job);
    assert_non_null(job);
    *job = (struct job){.at = at, .request = request, .in = in};
    job->timer = (struct hm_timer){.cb = job_pull, .arg = job};
    job->token = hm_read_u32(&reader);
    job->parts = hm_read_u32(&reader);
    assert_true(hm_reader_ended(&reader));
    storm->handled[job->token]++;
    assert_int_equal(storm->handled[job->token], 1); /* at most once */
    storm->jobs++;
    hm_request_set_user(request, job);
    if (hm_buf_pool_get(at->node.buffers, in->bytes, &job->buf) != HM_OK) {
        assert_false(storm->conf.lossless);
        hm_inbound_drop(in);
        job_refuse(job, HM_ERR_BUSY);
        return;
    }
    hm_ns think_max = storm->conf.think_max;
    if (think_max > 0 && storm_below(storm, 3) == 0)
        hm_timer_start(storm->loop, &job->timer, storm_below(storm, think_max));
    else
        job_pull(&job->timer);
}

static void on_job_gone(void *arg, struct hm_request *request)
{
    struct job *job = hm_request_user(request);
    (void)arg;
    assert_false(job->gone);
    job->gone = true;
}

/* ---- the caller's side */

static void on_reply_pulled(void *arg, enum hm_status status)
{
    struct pulled *pulled = arg;
    if (status == HM_OK)
        check(pulled->buf->base, pulled->buf->bytes, pulled->token);
    else
        assert_false(pulled->storm->conf.lossless);
    hm_buf_put(pulled->buf);
    free(pulled);
}

static void on_reply(struct hm_call *base, enum hm_status status, const void *header,
                     size_t header_bytes, struct hm_inbound *in)
{
    struct storm_call *call = HM_CONTAINER_OF(base, struct storm_call, call);
    struct storm *storm = call->from->storm;
    assert_true(call->live);
    call->replies++;
    if (status != HM_OK) {
        assert_true(status == HM_ERR_BUSY || status == HM_ERR_TIMED_OUT ||
                    status == HM_ERR_NO_MEMORY);
        assert_true(!call->must_succeed || call->canceled);
        call->parts = call->replies;
        hm_inbound_drop(in);
        return;
    }
    assert_int_equal(header_bytes, 1);
    assert_true(*(const uint8_t *)header < call->parts);
    assert_int_equal(in->bytes, call->bytes);
    if (in->data && storm_below(storm, 2)) check(in->data, in->bytes, call->token);
    if (storm_below(storm, storm->conf.drop_in) == 0) {
        hm_inbound_drop(in);
        return;
    }
    struct pulled *pulled = calloc(1, sizeof *pulled);
    assert_non_null(pulled);
    *pulled = (struct pulled){.storm = storm, .token = call->token};
    assert_ok(hm_buf_pool_get(call->from->node.buffers, in->bytes, &pulled->buf));
    struct hm_span into = hm_buf_span(pulled->buf);
    if (hm_inbound_pull(in, &into, on_reply_pulled, pulled) != HM_OK)
        on_reply_pulled(pulled, HM_ERR_PEER_RESET);
}

static void on_end(struct hm_call *base, enum hm_status status)
{
    struct storm_call *call = HM_CONTAINER_OF(base, struct storm_call, call);
    struct storm *storm = call->from->storm;
    assert_true(call->live);
    assert_true(hm_loop_now(storm->loop) <= call->deadline);
    if (call->must_succeed && !call->canceled) assert_ok(status);
    if (status == HM_OK) assert_int_equal(call->replies, call->parts);
    hm_timer_stop(storm->loop, &call->cancel);
    call->live = false;
    storm->live--;
    if (status == HM_OK)
        storm->succeeded++;
    else
        storm->failed++;
    hm_world_trace(storm->world, "end", call->token, (uint64_t)-status);
    memset(&call->call, 0xdd, sizeof call->call);
}

static void on_cancel(struct hm_timer *timer)
{
    struct storm_call *call = timer->arg;
    call->canceled = call->from->storm->canceled[call->token] = true;
    hm_rpc_cancel(&call->call);
}

static struct storm_node *any_node(struct storm *storm)
{
    return &storm->nodes[storm_below(storm, storm->conf.nodes)];
}

/* Draws what is called with, into `call`; the payload's buffer. */
static struct hm_buf *draw_call(struct storm *storm, struct storm_call *call)
{
    const struct storm_conf *conf = &storm->conf;
    struct hm_writer writer;
    struct hm_buf *buf;
    call->parts = 1 + (unsigned)storm_below(storm, conf->parts_max);
    call->bytes = storm_below(storm, storm_below(storm, 3) ? 2000 : conf->payload_max);
    if (conf->empty_in > 0 && storm_below(storm, conf->empty_in) == 0) call->bytes = 0;
    hm_writer_init(&writer, call->header, sizeof call->header);
    hm_write_u32(&writer, call->token);
    hm_write_u32(&writer, call->parts);
    assert_ok(hm_buf_pool_get(call->from->node.buffers, call->bytes, &buf));
    for (size_t i = 0; i < call->bytes; i++) ((uint8_t *)buf->base)[i] = byte_of(call->token, i);
    call->deadline = hm_deadline_after(storm->loop, conf->patience(storm));
    call->call = (struct hm_call){.method = conf->method,
                                  .deadline = call->deadline,
                                  .header = call->header,
                                  .header_bytes = sizeof call->header,
                                  .payload = {hm_buf_span(buf)},
                                  .span_count = 1,
                                  .reply = on_reply,
                                  .end = on_end};
    return buf;
}

static void make_call(struct storm *storm, struct storm_call *call)
{
    struct storm_node *from = any_node(storm);
    while (from->down) from = any_node(storm);
    struct storm_node *to = any_node(storm);
    if (to == from || (storm->calm && to->down) || storm->token_next == STORM_TOKENS) return;
    *call = (struct storm_call){.from = from,
                                .token = storm->token_next++,
                                .must_succeed = storm->calm || storm->conf.lossless,
                                .cancel = {.cb = on_cancel, .arg = call}};
    struct hm_buf *buf = draw_call(storm, call);
    struct hm_peer *peer;
    assert_ok(
        hm_peer_get(from->node.rpc, hm_identity_node(to->node.identity), &to->node.addrs, &peer));
    call->live = true;
    enum hm_status status = hm_rpc_call(peer, &call->call);
    hm_peer_put(peer);
    hm_buf_put(buf);
    memset(call->header, 0xdd, sizeof call->header); /* it has been copied */
    storm->made++;
    if (status != HM_OK) {
        assert_true(status == HM_ERR_PEER_UNREACHABLE || status == HM_ERR_BUSY);
        assert_false(call->must_succeed);
        storm->refused++;
        call->live = false;
        return;
    }
    storm->live++;
    if (!storm->calm && storm_below(storm, 10) == 0)
        hm_timer_start(storm->loop, &call->cancel, storm_below(storm, storm->conf.cancel_max));
}

void storm_make_calls(struct storm *storm, unsigned count)
{
    for (unsigned i = 0; i < storm->conf.calls && count > 0; i++) {
        if (storm->calls[i].live) continue;
        make_call(storm, &storm->calls[i]);
        count--;
    }
}

/* ---- life */

void storm_node_start(struct storm *storm, unsigned index)
{
    struct storm_node *at = &storm->nodes[index];
    at->storm = storm;
    at->index = index;
    storm->conf.open(at);
    at->method = (struct hm_method){storm->conf.method, "job", storm->conf.payload_max, on_job,
                                    on_job_gone,        at};
    assert_ok(hm_rpc_serve(at->node.rpc, &at->method, 1));
    at->down = false;
}

struct storm *storm_open(const struct storm_conf *conf, uint64_t seed, uint64_t stream)
{
    struct storm *storm = calloc(1, sizeof *storm);
    assert_non_null(storm);
    storm->conf = *conf;
    assert_in_range(conf->nodes, 2, STORM_NODES_MAX);
    assert_in_range(conf->calls, 1, STORM_CALLS_MAX);
    assert_ok(hm_world_create(seed, &storm->world));
    storm->loop = hm_world_loop(storm->world);
    hm_rng_init(&storm->rng, seed, stream);
    for (unsigned i = 0; i < conf->nodes; i++) storm_node_start(storm, i);
    return storm;
}

void storm_blow(struct storm *storm, hm_ns step_max, void (*fault)(struct storm *storm))
{
    for (unsigned step = 0; step < 150; step++) {
        storm_make_calls(storm, (unsigned)storm_below(storm, 8));
        hm_world_run_for(storm->world, storm_below(storm, step_max));
        if (storm_below(storm, 4) == 0) fault(storm);
    }
}

uint64_t storm_close(struct storm *storm)
{
    assert_int_equal(storm->live, 0);
    assert_int_equal(storm->jobs, 0);
    for (unsigned i = 0; i < storm->conf.nodes; i++) rpc_node_close(&storm->nodes[i].node);
    uint64_t hash = hm_world_trace_hash(storm->world);
    hm_world_destroy(storm->world);
    free(storm);
    return hash;
}

unsigned long storm_seeds(void)
{
    const char *text = getenv("HM_SEEDS");
    return text ? strtoul(text, NULL, 10) : 40;
}
