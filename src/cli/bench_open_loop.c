/* cli/bench_open_loop.c - a round in which calls arrive as a Poisson process of a fixed seed.
 *
 *   timer ──► each arrival that is due: a free place? ──► call, with a deadline ──► its end counted
 *                                        none: not offered, and said so
 *
 * Everything lives on the node's loop, so that a process has thousands of calls under way without
 * threads.  A caller that is late makes up for it at once, and how late is counted: the pace does
 * not give way to the server, as that of callers who wait for answers does.  The memory of calls is
 * bounded: conf->share places.  Calls that are under way when the time is over are waited for; their
 * deadlines bound that. */
#include "cli/bench_open_loop.h"

#include "base/rng.h"
#include "cli/bench_report.h"
#include "moe/remote_expert.h"

#include <math.h>
#include <stdlib.h>

struct flood;
struct place {
    struct flood *flood;
    struct place *next; /* free */
    struct hm_moe_expert_op op;
    struct hm_tensor y;
    hm_ns began;
};
struct flood {
    struct hm_node *node;
    const struct bench_conf *conf;
    const struct hm_uid *uid;
    struct hm_rng rng;
    struct hm_tensor x; /* of all calls */
    struct place *place, *idle;
    float *values;
    double gap_ns; /* mean */
    hm_ns due, end;
    struct hm_timer timer;
    struct hm_wait *wait;
    uint64_t arrived, not_offered, answered, refused, timed_out, failed, under_way;
    enum hm_status status; /* of what failed last */
    struct hm_histogram answer_ns, refusal_ns, late_ns, ended_ns;
};

static void ended_if_all(struct flood *flood)
{
    if (flood->due >= flood->end && flood->under_way == 0) hm_wait_end(flood->wait, HM_OK);
}

static void count(struct flood *flood, enum hm_status status, hm_ns took)
{
    if (!status) {
        flood->answered++;
        hm_histogram_add(&flood->answer_ns, took);
    } else if (status == HM_ERR_REFUSED || status == HM_ERR_BUSY) {
        flood->refused++;
        hm_histogram_add(&flood->refusal_ns, took);
    } else if (status == HM_ERR_TIMED_OUT) {
        flood->timed_out++;
    } else {
        flood->failed++;
        flood->status = status;
    }
}

static void call_ended(struct hm_moe_expert_op *op, enum hm_status status)
{
    struct place *place = op->arg;
    struct flood *flood = place->flood;
    count(flood, status, hm_loop_clock(flood->node->loop) - place->began);
    place->next = flood->idle;
    flood->idle = place;
    flood->under_way--;
    ended_if_all(flood);
}

static void offer(struct flood *flood)
{
    struct place *place = flood->idle;
    flood->arrived++;
    if (!place) {
        flood->not_offered++;
        return;
    }
    struct hm_loop *loop = flood->node->loop;
    const struct bench_conf *conf = flood->conf;
    place->began = hm_loop_clock(loop);
    hm_histogram_add(&flood->late_ns, place->began - flood->due);
    place->op = (struct hm_moe_expert_op){
        .arg = place,
        .asked = place->began,
        .codec = hm_codec_by_name(conf->codec),
        .refusals_final = true, /* they are counted, and the pace is the arrivals' */
    };
    enum hm_status status = hm_moe_expert_forward(
        flood->node->dispatch, &place->op, &flood->uid[hm_rng_below(&flood->rng, conf->experts)],
        &flood->x, &place->y, place->began + conf->deadline, call_ended);
    if (status) {
        count(flood, status, 0);
        return;
    }
    flood->idle = place->next;
    flood->under_way++;
}

static hm_ns gap(struct flood *flood)
{
    return (hm_ns)(-log(1 - (double)hm_rng_uniform(&flood->rng)) * flood->gap_ns);
}

static void arrivals_due(struct hm_timer *timer)
{
    struct flood *flood = timer->arg;
    struct hm_loop *loop = flood->node->loop;
    while (flood->due < flood->end && flood->due <= hm_loop_clock(loop)) {
        offer(flood);
        flood->due += gap(flood);
    }
    hm_ns now = hm_loop_clock(loop);
    if (flood->due < flood->end)
        hm_timer_start(loop, timer, flood->due > now ? flood->due - now : 1);
    else
        ended_if_all(flood);
}

static void begin_on_loop(struct hm_wait *wait, void *arg)
{
    struct flood *flood = arg;
    struct hm_loop *loop = flood->node->loop;
    flood->wait = wait;
    flood->due = hm_loop_clock(loop);
    flood->end = flood->due + flood->conf->duration;
    flood->due += gap(flood);
    flood->timer = (struct hm_timer){.cb = arrivals_due, .arg = flood};
    hm_timer_start(loop, &flood->timer, 1);
}

static enum hm_status flood_init(struct flood *flood, uint32_t arrivals)
{
    const struct bench_conf *conf = flood->conf;
    size_t elements = (size_t)conf->rows * conf->hidden;
    flood->place = calloc(conf->share, sizeof(*flood->place));
    flood->values = calloc((conf->share + (size_t)1) * elements, sizeof(float));
    if (!flood->place || !flood->values) return HM_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < conf->share; i++) {
        float *y = flood->values + (i + (size_t)1) * elements;
        flood->place[i] = (struct place){
            .flood = flood, .next = flood->idle, .y = hm_matrix_f32(y, conf->rows, conf->hidden)};
        flood->idle = &flood->place[i];
    }
    flood->x = hm_matrix_f32(flood->values, conf->rows, conf->hidden);
    hm_rng_init(&flood->rng, conf->seed, conf->place);
    flood->gap_ns = 1e9 * conf->client_processes / arrivals;
    hm_histogram_init(&flood->answer_ns);
    hm_histogram_init(&flood->refusal_ns);
    hm_histogram_init(&flood->late_ns);
    hm_histogram_init(&flood->ended_ns);
    return HM_OK;
}

static void report(const struct flood *flood, const struct bench_usage *before)
{
    if (flood->status) printf("status %s\n", hm_status_name(flood->status));
    bench_report_counter(stdout, "arrived", flood->arrived);
    bench_report_counter(stdout, "not_offered", flood->not_offered);
    bench_report_counter(stdout, "answered", flood->answered);
    bench_report_counter(stdout, "refused", flood->refused);
    bench_report_counter(stdout, "timed_out", flood->timed_out);
    bench_report_counter(stdout, "failed", flood->failed);
    bench_report_histogram(stdout, "answer_ns", &flood->answer_ns);
    bench_report_histogram(stdout, "refusal_ns", &flood->refusal_ns);
    bench_report_histogram(stdout, "late_ns", &flood->late_ns);
    bench_report_histogram(stdout, "ended_ns", &flood->ended_ns);
    bench_report_process(stdout, before);
    bench_report_end(stdout);
}

enum hm_status bench_open_loop(struct hm_node *node, const struct bench_conf *conf,
                               const struct hm_uid *uid, uint32_t arrivals)
{
    static struct flood flood; /* one round at a time */
    flood = (struct flood){.node = node, .conf = conf, .uid = uid};
    struct bench_usage before;
    bench_usage_read(&before);
    enum hm_status status = flood_init(&flood, arrivals);
    if (!status) status = hm_node_run(node, begin_on_loop, &flood);
    if (!status) {
        hm_histogram_add(&flood.ended_ns, hm_loop_clock(node->loop));
        report(&flood, &before);
    }
    free(flood.place);
    free(flood.values);
    return status;
}
