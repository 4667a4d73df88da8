/* sched/check.c - every invariant of the scheduler, asserted; for tests and the simulator, between
 * two turns of the loop. */
#include "sched/internal.h"

static void check_task(const struct hm_flow *flow, const struct hm_task *task, bool first)
{
    const struct hm_pool *pool = flow->line->pool;
    HM_ASSERT(task->pool == pool && task->state == TASK_QUEUED && task->failed == HM_OK);
    HM_ASSERT(task->flow == flow && pool_line(task) == flow->line);
    HM_ASSERT(flow == &flow->line->crowd || task->client == flow->client);
    HM_ASSERT(task->rows_taken < task->row_count && task->rows_back <= task->rows_taken);
    /* FIFO: no task of a client is served before the one ahead of it has all it wants */
    HM_ASSERT(task->rows_taken == 0 || first);
    HM_ASSERT(task->rows_taken == 0 ||
              task->row_count > pool->conf.batch_rows_max); /* only these are split */
    HM_ASSERT(task->deadline == HM_NS_NEVER || hm_timer_active(&task->timer));
    HM_ASSERT((task->joined != NULL) ==
              (task->row_count > pool->conf.batch_rows_max && pool->conf.out_row_bytes > 0));
    HM_ASSERT(!pool->earliest_known || task->deadline >= pool->earliest_deadline);
}

static void check_flow(const struct line *line, const struct hm_flow *flow)
{
    uint64_t rows = 0;
    uint32_t tasks = 0;
    hm_ns arrived = 0;
    HM_ASSERT(flow->line == line);
    HM_LIST_EACH (link, &flow->tasks) {
        const struct hm_task *task = HM_CONTAINER_OF(link, struct hm_task, turn);
        check_task(flow, task, tasks == 0);
        HM_ASSERT(task->arrived >= arrived);
        arrived = task->arrived;
        rows += task->row_count - task->rows_taken;
        tasks++;
    }
    HM_ASSERT(tasks > 0 && tasks == flow->task_count && rows == flow->rows);
    /* What a client may give at once is bounded: the rest of a turn, or one task's rows saved up. */
    HM_ASSERT(flow->credit <= 2 * line->pool->conf.batch_rows_max);
}

static void check_line(const struct line *line, uint64_t *pool_rows, uint32_t *pool_tasks)
{
    uint64_t rows = 0;
    uint32_t tasks = 0, listed = 0;
    unsigned flows = 0;
    hm_ns arrived = 0;
    HM_LIST_EACH (link, &line->flows) {
        const struct hm_flow *flow = HM_CONTAINER_OF(link, struct hm_flow, link);
        check_flow(line, flow);
        rows += flow->rows;
        tasks += flow->task_count;
        flows++;
    }
    HM_LIST_EACH (link, &line->tasks) {
        const struct hm_task *task = HM_CONTAINER_OF(link, struct hm_task, link);
        HM_ASSERT(task->arrived >= arrived);
        arrived = task->arrived;
        listed++;
    }
    HM_ASSERT(flows == line->flow_count && rows == line->rows);
    HM_ASSERT(tasks == line->task_count && listed == tasks);
    HM_ASSERT(tasks == 0 || line->priority >= line->pool->conf.priority);
    HM_ASSERT(line->turn <= line->pool->conf.lane->turns);
    *pool_rows += rows;
    *pool_tasks += tasks;
}

static void check_pool(const struct hm_pool *pool)
{
    uint64_t rows = 0;
    uint32_t tasks = 0;
    for (unsigned i = 0; i < HM_PRIORITIES; i++) check_line(&pool->line[i], &rows, &tasks);
    HM_ASSERT(rows == pool->rows_queued && tasks == pool->tasks_queued);
    HM_ASSERT(hm_list_linked(&pool->ready) == (tasks > 0));
    HM_ASSERT(pool->rows_held >= rows && pool->rows_held <= pool->conf.queue_rows_max);
    HM_ASSERT(pool->tasks_held >= tasks && pool->tasks_held <= pool->conf.queue_tasks_max);
}

static void check_batch(const struct hm_lane *lane, const struct hm_batch *batch)
{
    const struct hm_pool_conf *conf = &batch->pool->conf;
    uint32_t rows = 0;
    HM_ASSERT(batch->lane == lane && conf->lane == lane);
    HM_ASSERT(batch->piece_count >= 1 && batch->piece_count <= HM_PIECES_MAX);
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        HM_ASSERT(piece->task->pool == batch->pool && task_out(piece->task));
        HM_ASSERT(piece->batch_first == rows && piece->count >= 1);
        HM_ASSERT(piece->task_first + piece->count <= piece->task->rows_taken);
        HM_ASSERT(piece->task->state == TASK_QUEUED || piece->task->state == TASK_RUNNING);
        rows += piece->count;
    }
    HM_ASSERT(rows == batch->row_count && rows <= conf->batch_rows_max);
    HM_ASSERT((batch->out != NULL) == (conf->out_row_bytes > 0));
    HM_ASSERT(!batch->out || batch->out->bytes >= rows * conf->out_row_bytes);
}

static void check_lane(const struct hm_lane *lane)
{
    unsigned running = 0, idle = 0;
    hm_ns expected = 0;
    HM_LIST_EACH (link, &lane->running) {
        const struct hm_batch *batch = HM_CONTAINER_OF(link, struct hm_batch, link);
        check_batch(lane, batch);
        expected += batch->expected;
        running++;
    }
    HM_ASSERT(expected == lane->expected);
    HM_LIST_EACH (link, &lane->idle) idle++;
    HM_ASSERT(running == lane->running_count && running <= lane->batches_max);
    HM_ASSERT(lane->batches_max >= 1 && lane->batches_max <= HM_LANE_BATCHES_MAX);
    HM_ASSERT(running + idle == HM_COUNT_OF(lane->batch));
    /* No rows are forgotten: a lane that has none running but some queued will look again. */
    HM_ASSERT(running > 0 || hm_list_empty(&lane->ready) || hm_timer_active(&lane->timer));
    HM_LIST_EACH (link, &lane->ready)
        HM_ASSERT(HM_CONTAINER_OF(link, struct hm_pool, ready)->conf.lane == lane);
}

void hm_sched_check(const struct hm_sched *sched)
{
    unsigned pools = 0;
    uint64_t tasks = 0, rows = 0;
    HM_LIST_EACH (link, &sched->pools) {
        const struct hm_pool *pool = HM_CONTAINER_OF(link, struct hm_pool, link);
        check_pool(pool);
        pools++;
        tasks += pool->tasks_held;
        rows += pool->rows_held;
    }
    HM_ASSERT(pools == sched->pool_count && pools <= sched->pools_max);
    HM_ASSERT(tasks == sched->tasks && rows == sched->metric[SCHED_ROWS_HELD].value);
    HM_LIST_EACH (link, &sched->lanes) check_lane(HM_CONTAINER_OF(link, struct hm_lane, link));
}
