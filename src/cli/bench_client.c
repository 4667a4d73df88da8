/* cli/bench_client.c - a client process of a benchmark: callers that each have one call at a time.
 *
 *   open ──► find the experts ──► first calls ──► "ready" ──► "go 0" ──► call ──► report ...
 *
 * "go N": calls arrive at a pace instead, N a second by all processes (bench_open_loop.c).
 *
 * All callers of a process live on its loop; with --blocking each is a thread that waits, as a
 * program on the C API is.  The first calls, of each expert by one of the processes, open
 * connections and touch memory that is touched first, so that neither is measured. */
#include "base/rng.h"
#include "cli/bench.h"
#include "cli/bench_open_loop.h"
#include "cli/bench_report.h"
#include "cli/bench_work.h"
#include "moe/remote_expert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client;
struct caller {
    struct client *client;
    struct hm_rng rng;
    struct hm_tensor x, y, dx;
    struct hm_histogram *latency_ns; /* the loop's, or the thread's own */
    uint64_t calls, pairs, failed;
    enum hm_status status;
    hm_ns began;
    /* on the loop */
    struct hm_moe_expert_op op;
    struct hm_timer retry;
    const struct hm_uid *uid;
    bool backward; /* the second of a pair */
    /* a thread */
    struct hm_thread *thread;
};
struct client {
    const struct bench_conf *conf;
    struct hm_node *node;
    struct hm_uid *uid;
    struct hm_remote_expert **expert;
    struct caller *caller;
    struct hm_histogram latency_ns,
        ended_ns;              /* ended: one time; of many processes the max counts */
    hm_ns end;                 /* of the round, where it is by time */
    struct bench_usage before; /* the round */
    struct hm_wait *wait;
    unsigned running;
};

static bool is_over(const struct caller *caller)
{
    const struct bench_conf *conf = caller->client->conf;
    if (conf->batches > 0) return caller->pairs >= conf->batches;
    return hm_loop_clock(caller->client->node->loop) >= caller->client->end;
}

/* A call, or a pair of them, is over. */
static void count(struct caller *caller, enum hm_status status)
{
    hm_histogram_add(caller->latency_ns, hm_loop_clock(caller->client->node->loop) - caller->began);
    caller->pairs++;
    if (status) {
        caller->failed++;
        caller->status = status;
    }
}

/* ---- on the loop ----------------------------------------------------------------------------- */

static void call_next(struct caller *caller);

static void caller_ended(struct caller *caller)
{
    struct client *client = caller->client;
    if (--client->running == 0) hm_wait_end(client->wait, HM_OK);
}

static void call_ended(struct hm_moe_expert_op *op, enum hm_status status)
{
    struct caller *caller = op->arg;
    caller->calls++;
    if (!status && caller->client->conf->backward && !caller->backward) {
        caller->backward = true;
    } else {
        count(caller, status);
        caller->backward = false;
    }
    call_next(caller);
}

static enum hm_status call_start(struct caller *caller)
{
    struct client *client = caller->client;
    struct hm_node *node = client->node;
    hm_ns deadline = hm_deadline_after(node->loop, client->conf->timeout);
    caller->op.arg = caller;
    caller->op.codec = hm_codec_by_name(client->conf->codec);
    caller->op.asked = hm_loop_clock(node->loop);
    caller->op.refusals_final = true; /* they are counted */
    /* Which gradient does not matter to the time: y is one of the right shape. */
    if (caller->backward)
        return hm_moe_expert_backward(node->dispatch, &caller->op, caller->uid, &caller->x,
                                      &caller->y, &caller->dx, deadline, call_ended);
    caller->uid = &client->uid[hm_rng_below(&caller->rng, client->conf->experts)];
    caller->began = caller->op.asked;
    return hm_moe_expert_forward(node->dispatch, &caller->op, caller->uid, &caller->x, &caller->y,
                                 deadline, call_ended);
}

static void call_again(struct hm_timer *timer)
{
    call_next(timer->arg);
}

static void call_next(struct caller *caller)
{
    if (!caller->backward && is_over(caller)) {
        caller_ended(caller);
        return;
    }
    enum hm_status status = call_start(caller);
    if (!status) return;
    count(caller, status); /* it could not even begin; not at once again */
    caller->backward = false;
    caller->retry = (struct hm_timer){.cb = call_again, .arg = caller};
    hm_timer_start(caller->client->node->loop, &caller->retry, HM_MS);
}

static void round_on_loop(struct hm_wait *wait, void *arg)
{
    struct client *client = arg;
    client->wait = wait;
    client->running = client->conf->share;
    for (uint32_t i = 0; i < client->conf->share; i++) call_next(&client->caller[i]);
}

/* ---- as threads ------------------------------------------------------------------------------ */

static struct hm_array array_of(const struct hm_tensor *tensor)
{
    return (struct hm_array){
        .dims = 2, .dim = {tensor->shape.dim[0], tensor->shape.dim[1]}, .data = tensor->data.base};
}

static enum hm_status pair(struct caller *caller, struct hm_remote_expert *expert)
{
    const struct bench_conf *conf = caller->client->conf;
    struct hm_array x = array_of(&caller->x), y = array_of(&caller->y), dx = array_of(&caller->dx);
    int timeout_ms = (int)(conf->timeout / HM_MS);
    enum hm_status status = hm_remote_expert_forward(expert, &x, &y, timeout_ms);
    caller->calls++;
    if (status || !conf->backward) return status;
    status = hm_remote_expert_backward(expert, &x, &y, &dx, timeout_ms);
    caller->calls++;
    return status;
}

static void run_caller(void *arg)
{
    struct caller *caller = arg;
    struct client *client = caller->client;
    while (!is_over(caller)) {
        struct hm_remote_expert *expert =
            client->expert[hm_rng_below(&caller->rng, client->conf->experts)];
        caller->began = hm_loop_clock(client->node->loop);
        count(caller, pair(caller, expert));
    }
}

static enum hm_status round_of_threads(struct client *client)
{
    enum hm_status status = HM_OK;
    struct hm_place place = {.name = "hm-client"};
    unsigned started = 0;
    for (uint32_t i = 0; i < client->conf->share; i++) {
        status = hm_thread_start(&place, run_caller, &client->caller[i], &client->caller[i].thread);
        if (status) break;
        started++;
    }
    for (uint32_t i = 0; i < started; i++) {
        hm_thread_join(client->caller[i].thread);
        hm_histogram_merge(&client->latency_ns, client->caller[i].latency_ns);
    }
    return status;
}

/* ---- a round --------------------------------------------------------------------------------- */

static void begin_on_loop(struct hm_wait *wait, void *arg)
{
    struct client *client = arg;
    hm_dispatch_time(client->node->dispatch, client->conf->times);
    hm_wait_end(wait, HM_OK);
}

static void report_on_loop(struct hm_wait *wait, void *arg)
{
    struct client *client = arg;
    bench_report_metrics(stdout, &client->node->metrics);
    hm_wait_end(wait, HM_OK);
}

static enum hm_status report(struct client *client)
{
    uint64_t calls = 0, pairs = 0, failed = 0;
    for (uint32_t i = 0; i < client->conf->share; i++) {
        const struct caller *caller = &client->caller[i];
        calls += caller->calls;
        pairs += caller->pairs;
        failed += caller->failed;
        if (caller->status) printf("status %s\n", hm_status_name(caller->status));
    }
    bench_report_counter(stdout, "calls", calls);
    bench_report_counter(stdout, "pairs", pairs);
    bench_report_counter(stdout, "failed", failed);
    bench_report_histogram(stdout, "latency_ns", &client->latency_ns);
    bench_report_histogram(stdout, "ended_ns", &client->ended_ns);
    enum hm_status status = hm_node_run(client->node, report_on_loop, client);
    bench_report_process(stdout, &client->before);
    bench_report_end(stdout);
    return status;
}

static enum hm_status round_run(struct client *client)
{
    const struct bench_conf *conf = client->conf;
    hm_histogram_init(&client->latency_ns);
    for (uint32_t i = 0; i < conf->share; i++) {
        struct caller *caller = &client->caller[i];
        caller->calls = caller->pairs = caller->failed = 0;
        caller->status = HM_OK;
        if (conf->blocking) hm_histogram_init(caller->latency_ns);
    }
    enum hm_status status = hm_node_run(client->node, begin_on_loop, client);
    bench_usage_read(&client->before);
    client->end = hm_loop_clock(client->node->loop) + conf->duration;
    if (!status)
        status = conf->blocking ? round_of_threads(client)
                                : hm_node_run(client->node, round_on_loop, client);
    hm_histogram_init(&client->ended_ns);
    hm_histogram_add(&client->ended_ns, hm_loop_clock(client->node->loop));
    return status ? status : report(client);
}

/* ---- life ------------------------------------------------------------------------------------ */

static enum hm_status caller_alloc(struct client *client, uint32_t index)
{
    const struct bench_conf *conf = client->conf;
    struct caller *caller = &client->caller[index];
    size_t elements = (size_t)conf->rows * conf->hidden;
    float *values = malloc(3 * elements * sizeof(float));
    if (!values) return HM_ERR_NO_MEMORY;
    *caller = (struct caller){.client = client,
                              .x = hm_matrix_f32(values, conf->rows, conf->hidden),
                              .y = hm_matrix_f32(values + elements, conf->rows, conf->hidden),
                              .dx = hm_matrix_f32(values + 2 * elements, conf->rows, conf->hidden)};
    hm_rng_init(&caller->rng, conf->seed * 1000 + conf->place, index);
    for (size_t i = 0; i < elements; i++) values[i] = hm_rng_normal(&caller->rng);
    caller->latency_ns = &client->latency_ns;
    if (conf->blocking) caller->latency_ns = malloc(sizeof(*caller->latency_ns));
    return caller->latency_ns ? HM_OK : HM_ERR_NO_MEMORY;
}

static enum hm_status find_experts(struct client *client)
{
    enum hm_status status = HM_OK;
    for (uint32_t i = 0; i < client->conf->experts && !status; i++) {
        char uid[32];
        snprintf(uid, sizeof(uid), "expert.%u", i);
        status = hm_uid_parse(uid, &client->uid[i]);
        if (!status) status = hm_remote_expert_find(client->node, uid, 10000, &client->expert[i]);
        if (!status) status = hm_remote_expert_set_codec(client->expert[i], client->conf->codec);
    }
    return status;
}

/* This process' share of the experts, and one at least. */
static enum hm_status first_calls(struct client *client)
{
    const struct bench_conf *conf = client->conf;
    enum hm_status status = HM_OK;
    for (uint32_t i = conf->place % conf->experts; i < conf->experts && !status;
         i += conf->client_processes)
        status = pair(&client->caller[0], client->expert[i]);
    return status;
}

/* What was asked for is what is measured. */
static enum hm_status check_path(struct client *client)
{
    struct hm_node_paths paths;
    if (strcmp(client->conf->transport, "ucx") != 0) return HM_OK;
    enum hm_status status = hm_node_paths(client->node, &paths);
    if (!status && (paths.peers_fabric == 0 || paths.peers_tcp > 0))
        status = hm_fail(HM_ERR_UNSUPPORTED,
                         "--transport ucx: a client reaches the server over tcp (%s)",
                         paths.peers_tcp > 0 ? paths.tcp[0].path.why : "not connected");
    return status;
}

static enum hm_status client_open(struct client *client)
{
    const struct bench_conf *conf = client->conf;
    client->uid = calloc(conf->experts, sizeof(*client->uid));
    client->expert = calloc(conf->experts, sizeof(struct hm_remote_expert *));
    client->caller = calloc(conf->share, sizeof(*client->caller));
    if (!client->uid || !client->expert || !client->caller) return HM_ERR_NO_MEMORY;
    enum hm_status status = HM_OK;
    for (uint32_t i = 0; i < conf->share && !status; i++) status = caller_alloc(client, i);
    if (!status) status = find_experts(client);
    if (!status) status = first_calls(client);
    return status ? status : check_path(client);
}

static void client_close(struct client *client)
{
    const struct bench_conf *conf = client->conf;
    for (uint32_t i = 0; client->caller && i < conf->share; i++) {
        free(client->caller[i].x.data.base);
        if (conf->blocking) free(client->caller[i].latency_ns);
    }
    for (uint32_t i = 0; client->expert && i < conf->experts; i++)
        if (client->expert[i]) hm_remote_expert_put(client->expert[i]);
    free(client->caller);
    free(client->expert);
    free(client->uid);
}

static enum hm_status rounds(struct client *client)
{
    char line[32];
    unsigned arrivals;
    enum hm_status status = HM_OK;
    printf("ready\n");
    fflush(stdout);
    while (!status && fgets(line, sizeof(line), stdin))
        if (sscanf(line, "go %u", &arrivals) == 1)
            status = arrivals > 0
                         ? bench_open_loop(client->node, client->conf, client->uid, arrivals)
                         : round_run(client);
    return status;
}

int bench_client(int argc, char **argv)
{
    static struct client client;
    struct bench_conf conf;
    struct hm_options options;
    int code = bench_work_parse(
        &options, &conf,
        "hivemind bench client - a process of hivemind bench throughput, latency and overload\n",
        argc, argv);
    client.conf = &conf;
    if (code == CLI_GO_ON) code = bench_node_open(&conf, false, &client.node);
    if (code == CLI_GO_ON) {
        enum hm_status status = client_open(&client);
        if (!status) status = rounds(&client);
        client_close(&client);
        code = status ? cli_fail(CLI_FAILED, status) : CLI_OK;
    }
    hm_node_close(client.node);
    hm_options_fini(&options);
    return code;
}
