/* sched/pool.c - one (expert, pass): its limits, its queue and what it holds.
 *
 * Keeps:  rows_queued and tasks_queued are those of its lines; the pool is in its lane's ready list
 *         exactly while there are some; rows_held and tasks_held never pass the configured
 *         bounds. */
#include "sched/internal.h"

#include <stdlib.h>
#include <string.h>

static enum hm_status conf_check(const struct hm_pool_conf *conf)
{
    if (conf->batch_rows_max == 0 || conf->queue_tasks_max == 0)
        return hm_fail(HM_ERR_INVALID, "pool %s: batch rows and queued tasks must be at least 1",
                       conf->name);
    if (conf->queue_rows_max < conf->batch_rows_max)
        return hm_fail(HM_ERR_INVALID,
                       "pool %s: its queue of %u rows is shorter than one batch of %u", conf->name,
                       conf->queue_rows_max, conf->batch_rows_max);
    if (conf->batch_rows_preferred > conf->batch_rows_max)
        return hm_fail(HM_ERR_INVALID,
                       "pool %s: batches of %u rows are preferred, and %u are the most", conf->name,
                       conf->batch_rows_preferred, conf->batch_rows_max);
    if (conf->out_row_bytes > SIZE_MAX / 2 / conf->queue_rows_max)
        return hm_fail(HM_ERR_INVALID,
                       "pool %s: %u rows of %zu bytes are more than can be addressed", conf->name,
                       conf->queue_rows_max, conf->out_row_bytes);
    return HM_OK;
}

enum hm_status hm_pool_create(struct hm_sched *sched, const struct hm_pool_conf *conf,
                              struct hm_pool **created)
{
    HM_ASSERT(conf->name && conf->run && conf->lane && conf->lane->sched == sched);
    HM_ASSERT((unsigned)conf->priority < HM_PRIORITIES);
    enum hm_status status = conf_check(conf);
    if (status != HM_OK) return status;
    if (sched->pool_count == sched->pools_max)
        return hm_fail(HM_ERR_BUSY, "pool %s: all %u pools are in use", conf->name,
                       sched->pools_max);
    struct hm_pool *pool = calloc(1, sizeof *pool);
    char *name = strdup(conf->name);
    if (!pool || !name) {
        status = hm_fail(HM_ERR_NO_MEMORY, "pool %s: out of memory", conf->name);
        goto free_pool;
    }
    status = lane_reserve(conf->lane, conf);
    if (status != HM_OK) goto free_pool;
    pool->conf = *conf;
    pool->conf.name = pool->name = name;
    pool->sched = sched;
    for (unsigned i = 0; i < HM_PRIORITIES; i++)
        line_init(&pool->line[i], pool, (enum hm_priority)i);
    hm_list_init(&pool->ready);
    hm_list_push(&sched->pools, &pool->link);
    sched->pool_count++;
    *created = pool;
    return HM_OK;
free_pool:
    free(name);
    free(pool);
    return status;
}

void hm_pool_destroy(struct hm_pool *pool)
{
    if (!pool) return;
    HM_ASSERT(pool->tasks_held == 0 && pool->tasks_queued == 0 && !hm_list_linked(&pool->ready));
    hm_list_remove(&pool->link);
    pool->sched->pool_count--;
    free(pool->name);
    free(pool);
}

uint32_t hm_pool_rows_queued(const struct hm_pool *pool)
{
    return pool->rows_held;
}

/* ---- its queue: lines ------------------------------------------------------------------------ */

struct line *pool_line(const struct hm_task *task)
{
    HM_ASSERT((unsigned)task->priority < HM_PRIORITIES);
    struct hm_pool *pool = task->pool;
    bool allowed = task->priority > pool->conf.priority;
    return &pool->line[allowed ? task->priority : pool->conf.priority];
}

void pool_push(struct hm_pool *pool, struct hm_task *task)
{
    struct line *line = pool_line(task);
    if (pool->tasks_queued == 0) {
        pool->earliest_known = true;
        pool->earliest_deadline = HM_NS_NEVER;
        hm_list_push(&pool->conf.lane->ready, &pool->ready);
    }
    hm_list_push(&line->tasks, &task->link);
    flow_push(task);
    line->rows += task->row_count;
    line->task_count++;
    pool->rows_queued += task->row_count;
    pool->tasks_queued++;
    if (task->deadline < pool->earliest_deadline) pool->earliest_deadline = task->deadline;
}

/* A task has left the queue. */
static void left(struct hm_pool *pool, struct hm_task *task)
{
    hm_list_remove(&task->link);
    task->flow->line->task_count--;
    flow_remove(task);
    HM_ASSERT(pool->tasks_queued > 0);
    pool->tasks_queued--;
    if (task->deadline <= pool->earliest_deadline) pool->earliest_known = false;
    if (pool->tasks_queued > 0) return;
    HM_ASSERT(pool->rows_queued == 0);
    hm_list_remove(&pool->ready);
    if (hm_list_empty(&pool->conf.lane->ready)) margin_idle(pool->conf.lane);
}

static void rows_left(struct hm_pool *pool, struct hm_task *task, uint32_t rows)
{
    flow_take(task, rows);
    task->flow->line->rows -= rows;
    pool->rows_queued -= rows;
}

void pool_take(struct hm_pool *pool, struct hm_task *task, uint32_t rows)
{
    HM_ASSERT(task->state == TASK_QUEUED && rows > 0 && rows <= task->row_count - task->rows_taken);
    rows_left(pool, task, rows);
    task->rows_taken += rows;
    if (task->rows_taken < task->row_count) return;
    task->state = TASK_RUNNING;
    left(pool, task);
}

void pool_drop(struct hm_pool *pool, struct hm_task *task)
{
    HM_ASSERT(task->state == TASK_QUEUED);
    rows_left(pool, task, task->row_count - task->rows_taken);
    task->state = task_out(task) ? TASK_RUNNING : TASK_ENDING;
    left(pool, task);
}

/* Kept as a minimum while tasks come; looked up again after the task that had it has left. */
hm_ns pool_earliest_deadline(struct hm_pool *pool)
{
    if (pool->earliest_known) return pool->earliest_deadline;
    pool->earliest_deadline = HM_NS_NEVER;
    for (unsigned i = 0; i < HM_PRIORITIES; i++)
        HM_LIST_EACH (link, &pool->line[i].tasks) {
            const struct hm_task *task = HM_CONTAINER_OF(link, struct hm_task, link);
            if (task->deadline < pool->earliest_deadline) pool->earliest_deadline = task->deadline;
        }
    pool->earliest_known = true;
    return pool->earliest_deadline;
}
