#include "support_sched.h"

#include "base/assert.h"

/* The submit or cancel that is running: end() inside one is a broken promise. */
static unsigned inside;

static uint64_t row_value(uint32_t number, uint32_t row)
{
    return ((uint64_t)number << 32 | row) * UINT64_C(0x9e3779b97f4a7c15);
}

static void row_write(void *to, size_t bytes, uint32_t number, uint32_t row)
{
    uint64_t value = row_value(number, row);
    assert_true(bytes % sizeof value == 0);
    for (size_t at = 0; at < bytes; at += sizeof value)
        memcpy((char *)to + at, &value, sizeof value);
}

static size_t row_bytes(const struct job *job)
{
    return job->task.out_row_bytes ? job->task.out_row_bytes : job->bench->row_bytes;
}

static void rows_check(const struct hm_rows *rows, size_t pitch, const struct job *job)
{
    size_t bytes = row_bytes(job);
    assert_int_equal(rows->count, job->task.row_count);
    if (bytes == 0) {
        assert_null(rows->slab);
        return;
    }
    assert_true(rows->first * pitch + rows->count * bytes <= rows->slab->bytes);
    for (uint32_t row = 0; row < rows->count; row++) {
        uint64_t wanted = row_value(job->number, row);
        const char *from = (const char *)rows->slab->base + rows->first * pitch + row * bytes;
        for (size_t at = 0; at < bytes; at += sizeof wanted)
            if (memcmp(from + at, &wanted, sizeof wanted) != 0)
                fail_msg("task %u: row %u of %u is not its own", job->number, row, rows->count);
    }
}

/* FIFO: numbers grow with submits, so the rows that a pool runs of one client and class are sorted by
 * (number, row). */
static enum hm_status bench_run(void *arg, struct hm_batch *batch)
{
    struct bench *bench = arg;
    uint32_t rows = 0;
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        struct job *job = piece->task->arg;
        job->ran_at = hm_loop_now(job->stage->loop);
        assert_true(job->submitted && !job->ended);
        /* What comes next; a lane that fails loses some batches before they run. */
        uint32_t *number = &bench->last[job->client][job->priority].number;
        uint32_t *end = &bench->last[job->client][job->priority].end;
        bool same = job->number == *number && *end > 0;
        uint32_t next = same ? *end : 0;
        assert_true(job->number >= *number && piece->task_first >= next);
        assert_true(piece->task_first == next || bench->lane_fails);
        *number = job->number;
        *end = piece->task_first + piece->count;
        assert_true(*end <= piece->task->row_count);
        assert_int_equal(piece->batch_first, rows);
        for (uint32_t k = 0; batch->out && k < piece->count; k++)
            row_write((char *)batch->out->base + rows * bench->row_bytes + k * row_bytes(job),
                      row_bytes(job), job->number, piece->task_first + k);
        rows += piece->count;
    }
    assert_int_equal(rows, batch->row_count);
    if (rows > bench->rows_most) bench->rows_most = rows;
    if (bench->batches < HM_COUNT_OF(bench->batch_rows)) bench->batch_rows[bench->batches] = rows;
    bench->batches++;
    if (bench->fail_every && bench->batches % bench->fail_every == 0) return HM_ERR_EXPERT_NUMERIC;
    return HM_OK;
}

static void job_end(struct hm_task *task, enum hm_status status, const struct hm_rows *out)
{
    struct job *job = task->arg;
    hm_ns now = hm_loop_now(job->stage->loop);
    assert_int_equal(inside, 0);
    assert_true(job->submitted && !job->ended);
    assert_true((status == HM_OK) == (out != NULL));
    job->ended = true;
    job->status = status;
    job->ended_at = now;
    hm_world_trace(job->stage->world, "end", job->number, (uint64_t)(int64_t)status);
    if (status == HM_OK) {
        assert_true(!job->canceled && now <= task->deadline);
        rows_check(out, job->bench->row_bytes, job);
        if (job->keep && out->slab) {
            job->rows = *out;
            hm_buf_get(out->slab);
        }
    }
    if (status == HM_ERR_TIMED_OUT) assert_true(now >= task->deadline);
    if (status == HM_ERR_TIMED_OUT && task->rows_taken == 0) /* nothing ran: at once */
        assert_true(now == task->deadline);
    if (status == HM_ERR_CANCELED) assert_true(job->canceled);
    if (status == HM_ERR_REFUSED) assert_true(task->rows_taken == 0 && now < task->deadline);
    if (job->then) job->then(job);
}

void job_release(struct job *job)
{
    if (!job->rows.slab) return;
    rows_check(&job->rows, job->bench->row_bytes, job);
    hm_buf_put(job->rows.slab);
    job->rows.slab = NULL;
}

enum hm_status job_submit(struct stage *stage, struct bench *bench, struct job *job,
                          uint32_t number, uint32_t rows, hm_ns deadline)
{
    assert_true(!job->submitted || job->ended);
    job->stage = stage;
    job->bench = bench;
    job->number = number;
    job->ended = job->canceled = false;
    job->submitted = true;
    job->task.pool = bench->pool;
    job->task.row_count = rows;
    assert_true(job->client < BENCH_CLIENTS_MAX);
    job->task.client = job->client;
    job->task.priority = job->priority;
    job->task.deadline = deadline;
    job->task.end = job_end;
    job->task.arg = job;
    inside++;
    enum hm_status status = hm_sched_submit(stage->sched, &job->task);
    inside--;
    if (status != HM_OK) job->submitted = false;
    return status;
}

void job_cancel(struct job *job)
{
    job->canceled = true;
    inside++;
    hm_sched_cancel(&job->task);
    inside--;
}

void bench_open(struct stage *stage, struct bench *bench, struct hm_lane *lane,
                struct hm_pool_conf conf)
{
    if (!conf.name) conf.name = "bench";
    if (!conf.batch_rows_max) conf.batch_rows_max = 8;
    if (!conf.queue_rows_max) conf.queue_rows_max = 1 << 20;
    if (!conf.queue_tasks_max) conf.queue_tasks_max = 1 << 20;
    conf.lane = lane;
    conf.run = bench_run;
    conf.arg = bench;
    bench->row_bytes = conf.out_row_bytes;
    bench->rows_max = conf.batch_rows_max;
    bench->lane = lane;
    assert_ok(hm_pool_create(stage->sched, &conf, &bench->pool));
}

struct hm_lane *stage_lane(struct stage *stage, const struct hm_sim_lane_conf *conf)
{
    struct hm_lane *lane;
    assert_ok(hm_sim_lane_create(stage->sched, "cpu", conf, &lane));
    return lane;
}

void stage_open(struct stage *stage, uint64_t seed, size_t buffer_bytes,
                const struct hm_policy *policy)
{
    stage_open_flows(stage, seed, buffer_bytes, policy, 0);
}

void stage_open_flows(struct stage *stage, uint64_t seed, size_t buffer_bytes,
                      const struct hm_policy *policy, unsigned flows_max)
{
    memset(stage, 0, sizeof *stage);
    inside = 0;
    assert_ok(hm_world_create(seed, &stage->world));
    stage->loop = hm_world_loop(stage->world);
    assert_ok(hm_buf_pool_create(buffer_bytes, &stage->buffers));
    hm_metrics_init(&stage->metrics);
    struct hm_sched_conf conf = {
        .loop = stage->loop,
        .buffers = stage->buffers,
        .metrics = &stage->metrics,
        .policy = policy,
        .pools_max = 16,
        .flows_max = flows_max,
    };
    assert_ok(hm_sched_create(&conf, &stage->sched));
}

static void marker_fired(struct hm_timer *timer)
{
    *(bool *)timer->arg = true;
}

void stage_run_for(struct stage *stage, hm_ns duration)
{
    /* The world has no "next event is due at": a marker tells that the time is over. */
    struct hm_timer marker = {.cb = NULL};
    bool over = false;
    marker.arg = &over;
    marker.cb = marker_fired;
    hm_timer_start(stage->loop, &marker, duration);
    while (!over) {
        assert_true(hm_world_step(stage->world));
        hm_sched_check(stage->sched);
    }
}

static void on_drained(void *arg)
{
    struct stage *stage = arg;
    stage->drained = true;
}

void stage_drain(struct stage *stage)
{
    stage->draining = true;
    hm_sched_drain(stage->sched, on_drained, stage);
    assert_false(stage->drained);
}

uint64_t stage_close(struct stage *stage)
{
    if (!stage->draining) stage_drain(stage);
    hm_ns limit = hm_loop_now(stage->loop) + 3600 * HM_S;
    while (!stage->drained) {
        assert_true(hm_world_step(stage->world));
        hm_sched_check(stage->sched);
        assert_true(hm_loop_now(stage->loop) < limit);
    }
    hm_sched_destroy(stage->sched);
    hm_world_run_for(stage->world, HM_S); /* timers of the test itself */
    uint64_t hash = hm_world_trace_hash(stage->world);
    hm_world_destroy(stage->world);
    hm_buf_pool_destroy(stage->buffers); /* asserts that every buffer has come back */
    return hash;
}
