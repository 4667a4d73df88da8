/* sched/sched.c - the scheduler's life, and that of a task from submit to end().
 *
 * Happy:  submit checks the bounds and the prediction, queues the task, starts its deadline and
 *         kicks the lane; batch.c takes rows and brings them back; task_end answers.
 * Fails:  deadline, cancel and failed batches all go through task_fail: the first reason is kept,
 *         rows not given are dropped, and end() comes when no row is out any more.
 * Keeps:  end() runs once, from a timer or from a batch that has come back, never inside a call of
 *         the user. */
#include "sched/internal.h"

#include <stdlib.h>

enum { FLOWS_MAX = 4096 };

static void metrics_add(struct hm_sched *sched, struct hm_metrics *metrics)
{
    const struct hm_metric metric[SCHED_METRICS] = {
        [SCHED_TASKS] = {.name = "sched.tasks", .help = "tasks accepted"},
        [SCHED_ROWS] = {.name = "sched.rows", .help = "rows run"},
        [SCHED_BATCHES] = {.name = "sched.batches", .help = "batches run"},
        [SCHED_BRIEF] = {.name = "sched.brief",
                         .help = "of these, by the loop's own thread: too short to hand over"},
        [SCHED_FOLLOWED] = {.name = "sched.followed",
                            .help = "of these, handed to the lane behind one that ran"},
        [SCHED_BUSY] = {.name = "sched.busy", .help = "tasks not accepted: a queue was full"},
        [SCHED_REFUSED] = {.name = "sched.refused", .help = "tasks not accepted: too late"},
        [SCHED_SHED] = {.name = "sched.shed",
                        .help = "tasks refused when their turn came: too late"},
        [SCHED_TIMED_OUT] = {.name = "sched.timed_out", .help = "tasks ended by their deadline"},
        [SCHED_CANCELED] = {.name = "sched.canceled", .help = "tasks canceled"},
        [SCHED_FAILED] = {.name = "sched.failed", .help = "tasks whose batch failed"},
        [SCHED_STARVED] = {.name = "sched.starved", .help = "batches put off for want of a buffer"},
        [SCHED_ROWS_HELD] = {.name = "sched.rows_held",
                             .help = "rows queued or running",
                             .kind = HM_GAUGE},
        [SCHED_BATCH_ROWS] = {.name = "sched.batch_rows",
                              .help = "rows a batch",
                              .kind = HM_HISTOGRAM,
                              .histogram = &sched->batch_rows},
        [SCHED_WAIT_US] = {.name = "sched.wait_us",
                           .help = "submit to first batch",
                           .kind = HM_HISTOGRAM,
                           .histogram = &sched->wait_us},
        [SCHED_SERVICE_US] = {.name = "sched.service_us",
                              .help = "a batch on its lane",
                              .kind = HM_HISTOGRAM,
                              .histogram = &sched->service_us},
    };
    for (unsigned i = 0; i < SCHED_METRICS; i++) {
        sched->metric[i] = metric[i];
        hm_list_init(&sched->metric[i].link);
        if (metric[i].histogram) hm_histogram_init(metric[i].histogram);
        if (metrics) hm_metrics_add(metrics, &sched->metric[i]);
    }
}

static void metrics_remove(struct hm_sched *sched)
{
    for (unsigned i = 0; i < SCHED_METRICS; i++)
        if (hm_list_linked(&sched->metric[i].link)) hm_metrics_remove(&sched->metric[i]);
}

enum hm_status hm_sched_create(const struct hm_sched_conf *conf, struct hm_sched **created)
{
    HM_ASSERT(conf->loop && conf->buffers && conf->pools_max > 0);
    struct hm_sched *sched = calloc(1, sizeof *sched);
    unsigned lines = HM_PRIORITIES * conf->pools_max;
    unsigned flows = conf->flows_max ? conf->flows_max : FLOWS_MAX;
    struct hm_line_view *view = calloc(lines, sizeof *view);
    struct line **viewed = calloc(lines, sizeof(struct line *));
    struct hm_flow *flow = calloc(flows, sizeof *flow);
    if (!sched || !view || !viewed || !flow || hm_map_init(&sched->flows, flows) != HM_OK) {
        free(flow);
        free(viewed);
        free(view);
        free(sched);
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for a scheduler of %u pools", conf->pools_max);
    }
    sched->loop = conf->loop;
    sched->buffers = conf->buffers;
    sched->policy = conf->policy ? conf->policy : &hm_policy_in_turn;
    sched->pools_max = conf->pools_max;
    sched->view = view;
    sched->viewed = viewed;
    sched->flow = flow;
    sched->hash_seed = hm_loop_random(conf->loop, HM_RANDOM_IDS);
    hm_list_init(&sched->flows_free);
    for (unsigned i = 0; i < flows; i++) {
        hm_list_init(&flow[i].tasks);
        hm_list_push(&sched->flows_free, &flow[i].link);
    }
    hm_list_init(&sched->pools);
    hm_list_init(&sched->lanes);
    metrics_add(sched, conf->metrics);
    *created = sched;
    return HM_OK;
}

void hm_sched_destroy(struct hm_sched *sched)
{
    if (!sched) return;
    HM_ASSERT(sched->tasks == 0);
    HM_LIST_EACH_SAFE (link, &sched->pools)
        hm_pool_destroy(HM_CONTAINER_OF(link, struct hm_pool, link));
    HM_LIST_EACH_SAFE (link, &sched->lanes)
        hm_lane_destroy(HM_CONTAINER_OF(link, struct hm_lane, link));
    hm_timer_stop(sched->loop, &sched->drain_timer);
    metrics_remove(sched);
    hm_map_fini(&sched->flows);
    free(sched->flow);
    free(sched->viewed);
    free(sched->view);
    free(sched);
}

struct hm_loop *hm_sched_loop(const struct hm_sched *sched)
{
    return sched->loop;
}

uint32_t hm_sched_tasks(const struct hm_sched *sched)
{
    return sched->tasks;
}

static void on_drained(struct hm_timer *timer)
{
    struct hm_sched *sched = timer->arg;
    sched->drained(sched->drained_arg); /* may destroy the scheduler */
}

void sched_drain_check(struct hm_sched *sched)
{
    if (!sched->draining || sched->tasks > 0) return;
    hm_timer_start(sched->loop, &sched->drain_timer, 0);
}

void hm_sched_drain(struct hm_sched *sched, void (*done)(void *arg), void *arg)
{
    HM_ASSERT(!sched->draining && done);
    sched->draining = true;
    sched->drained = done;
    sched->drained_arg = arg;
    sched->drain_timer.cb = on_drained;
    sched->drain_timer.arg = sched;
    sched_drain_check(sched);
}

/* ---- tasks ---------------------------------------------------------------------------------- */

/* Deadline, or the turn after a cancel. */
static void on_timer(struct hm_timer *timer)
{
    struct hm_task *task = timer->arg;
    if (task->state != TASK_ENDING) task_fail(task, HM_ERR_TIMED_OUT);
    if (task->state == TASK_ENDING) task_end(task, NULL, 0);
}

/* A dynamic threshold (Choudhury and Hahne 1998): what a client has waiting is bounded by what is left
 * after it, so that however many flood, something is left for the next one. */
static bool is_over_share(const struct hm_task *task)
{
    const struct hm_pool *pool = task->pool;
    if (!task->client) return false;
    const struct hm_flow *flow = flow_of(pool_line(task), task->client);
    uint64_t rows = task->row_count + (flow ? flow->rows : 0), tasks = flow ? flow->task_count : 0;
    uint64_t rows_left = pool->conf.queue_rows_max - pool->rows_held - task->row_count;
    uint64_t tasks_left = pool->conf.queue_tasks_max - pool->tasks_held;
    return rows > HM_QUEUE_SHARE * rows_left || tasks >= HM_QUEUE_SHARE * tasks_left;
}

/* Over what a client may have waiting in an empty queue. */
static bool never_fits(const struct hm_task *task)
{
    uint64_t max = task->pool->conf.queue_rows_max, rows = task->row_count;
    return rows > max || (task->client && rows > HM_QUEUE_SHARE * (max - rows));
}

static enum hm_status admit(struct hm_sched *sched, const struct hm_task *task)
{
    const struct hm_pool *pool = task->pool;
    if (sched->draining) return HM_ERR_DRAINING;
    if (task->row_count == 0) return HM_ERR_INVALID;
    if (never_fits(task)) return HM_ERR_TOO_BIG;
    if (pool->tasks_held >= pool->conf.queue_tasks_max ||
        task->row_count > pool->conf.queue_rows_max - pool->rows_held || is_over_share(task)) {
        sched->metric[SCHED_BUSY].value++;
        return HM_ERR_BUSY;
    }
    if (sched_refuses(task)) {
        sched->metric[SCHED_REFUSED].value++;
        return HM_ERR_REFUSED;
    }
    return HM_OK;
}

/* The slab in which a split task's rows are joined; none for a task that one batch takes. */
static enum hm_status joined_get(struct hm_sched *sched, const struct hm_task *task,
                                 struct hm_buf **joined)
{
    const struct hm_pool_conf *conf = &task->pool->conf;
    *joined = NULL;
    if (task->row_count <= conf->batch_rows_max || conf->out_row_bytes == 0) return HM_OK;
    enum hm_status status =
        hm_buf_pool_get(sched->buffers, task->row_count * task_out_row_bytes(task), joined);
    if (status == HM_OK || status == HM_ERR_TOO_BIG) return status;
    sched->metric[SCHED_BUSY].value++;
    return HM_ERR_BUSY;
}

enum hm_status hm_sched_submit(struct hm_sched *sched, struct hm_task *task)
{
    HM_ASSERT(task->pool && task->pool->sched == sched && task->end);
    HM_ASSERT(task->out_row_bytes <= task->pool->conf.out_row_bytes);
    struct hm_buf *joined;
    enum hm_status status = admit(sched, task);
    if (status == HM_OK) status = joined_get(sched, task, &joined);
    if (status != HM_OK) return status;

    struct hm_pool *pool = task->pool;
    task->arrived = hm_loop_now(sched->loop);
    task->rows_taken = task->rows_back = 0;
    task->begun = task->done = 0;
    task->joined = joined;
    task->state = TASK_QUEUED;
    task->failed = HM_OK;
    task->timer = (struct hm_timer){.cb = on_timer, .arg = task};
    if (task->deadline != HM_NS_NEVER)
        hm_timer_start(sched->loop, &task->timer, task->deadline - task->arrived);
    pool_push(pool, task);
    pool->rows_held += task->row_count;
    pool->tasks_held++;
    sched->tasks++;
    sched->metric[SCHED_TASKS].value++;
    sched->metric[SCHED_ROWS_HELD].value += task->row_count;
    lane_kick(pool->conf.lane);
    return HM_OK;
}

void hm_sched_cancel(struct hm_task *task)
{
    if (task->state != TASK_IDLE) task_abandon(task, HM_ERR_CANCELED);
}

void task_abandon(struct hm_task *task, enum hm_status status)
{
    bool was_ending = task->state == TASK_ENDING;
    task_fail(task, status);
    /* One that was ending already has its turn coming: the timer's, or the batch's that it came
     * back with. */
    if (task->state == TASK_ENDING && !was_ending)
        hm_timer_start(task->pool->sched->loop, &task->timer, 0);
}

void task_fail(struct hm_task *task, enum hm_status status)
{
    bool late = status == HM_ERR_TIMED_OUT || status == HM_ERR_REFUSED;
    if (late && task->state == TASK_QUEUED && task->failed == HM_OK && task->rows_taken == 0)
        margin_broken(task->flow->line);
    if (task->failed == HM_OK) task->failed = status;
    if (task->state == TASK_QUEUED) pool_drop(task->pool, task);
}

static void count_end(struct hm_sched *sched, enum hm_status status)
{
    if (status == HM_ERR_TIMED_OUT)
        sched->metric[SCHED_TIMED_OUT].value++;
    else if (status == HM_ERR_CANCELED)
        sched->metric[SCHED_CANCELED].value++;
    else if (status != HM_OK && status != HM_ERR_REFUSED)
        sched->metric[SCHED_FAILED].value++;
}

void task_end(struct hm_task *task, struct hm_buf *slab, uint32_t first)
{
    struct hm_pool *pool = task->pool;
    struct hm_sched *sched = pool->sched;
    HM_ASSERT(task->state == TASK_ENDING && !task_out(task));
    HM_ASSERT(task->failed != HM_OK || task->rows_back == task->row_count);
    hm_timer_stop(sched->loop, &task->timer);
    pool->rows_held -= task->row_count;
    pool->tasks_held--;
    sched->tasks--;
    sched->metric[SCHED_ROWS_HELD].value -= task->row_count;
    count_end(sched, task->failed);
    task->state = TASK_IDLE;

    struct hm_buf *joined = task->joined;
    struct hm_rows rows = {.slab = slab, .first = first, .count = task->row_count};
    if (joined) rows = (struct hm_rows){.slab = joined, .count = task->row_count};
    /* From here on the task is the caller's again, and its pool may be gone. */
    task->end(task, task->failed, task->failed == HM_OK ? &rows : NULL);
    hm_buf_put(joined);
    sched_drain_check(sched);
}
