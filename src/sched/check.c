/* sched/check.c - every invariant of the scheduler, asserted; for tests and the simulator, between
 * two turns of the loop. */
#include "sched/internal.h"

static void check_task(const struct hm_pool *pool, const struct hm_task *task, bool first)
{
    HM_ASSERT(task->pool == pool && task->state == TASK_QUEUED && task->failed == HM_OK);
    HM_ASSERT(task->rows_taken < task->row_count && task->rows_back <= task->rows_taken);
    HM_ASSERT(task->rows_taken == 0 ||
              first); /* FIFO: nobody is served before the head has all it wants */
    HM_ASSERT(task->rows_taken == 0 ||
              task->row_count > pool->conf.batch_rows_max); /* only these are split */
    HM_ASSERT(task->deadline == HM_NS_NEVER || hm_timer_active(&task->timer));
    HM_ASSERT((task->joined != NULL) ==
              (task->row_count > pool->conf.batch_rows_max && pool->conf.out_row_bytes > 0));
}

static void check_pool(const struct hm_pool *pool)
{
    uint64_t rows = 0;
    uint32_t tasks = 0;
    hm_ns arrived = 0;
    HM_LIST_EACH (link, &pool->queue) {
        const struct hm_task *task = HM_CONTAINER_OF(link, struct hm_task, link);
        check_task(pool, task, tasks == 0);
        HM_ASSERT(task->arrived >= arrived);
        HM_ASSERT(!pool->earliest_known || task->deadline >= pool->earliest_deadline);
        arrived = task->arrived;
        rows += task->row_count - task->rows_taken;
        tasks++;
    }
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
    HM_LIST_EACH (link, &lane->running) {
        check_batch(lane, HM_CONTAINER_OF(link, struct hm_batch, link));
        running++;
    }
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
