/* sched/lane.c - a lane's life: what every implementation has, and the buffer it keeps in
 * reserve. */
#include "sched/internal.h"

static void on_timer(struct hm_timer *timer)
{
    lane_look(timer->arg);
}

void hm_lane_init(struct hm_lane *lane, const struct hm_lane_ops *ops, struct hm_sched *sched,
                  const char *device)
{
    *lane = (struct hm_lane){.ops = ops, .device = device, .sched = sched, .batches_max = 1};
    lane->timer.cb = on_timer;
    lane->timer.arg = lane;
    hm_list_init(&lane->running);
    hm_list_init(&lane->idle);
    hm_list_init(&lane->ready);
    for (unsigned i = 0; i < HM_COUNT_OF(lane->batch); i++) {
        lane->batch[i].lane = lane;
        hm_list_push(&lane->idle, &lane->batch[i].link);
    }
    hm_list_push(&sched->lanes, &lane->link);
}

void hm_lane_destroy(struct hm_lane *lane)
{
    if (!lane) return;
    struct hm_sched *sched = lane->sched;
    HM_ASSERT(lane->running_count == 0 && hm_list_empty(&lane->ready));
    HM_LIST_EACH (link, &sched->pools)
        HM_ASSERT(HM_CONTAINER_OF(link, struct hm_pool, link)->conf.lane != lane);
    hm_timer_stop(sched->loop, &lane->timer);
    hm_list_remove(&lane->link);
    hm_buf_put(lane->reserve);
    lane->ops->destroy(lane);
}

enum hm_status lane_reserve(struct hm_lane *lane, const struct hm_pool_conf *conf)
{
    size_t bytes = conf->batch_rows_max * conf->out_row_bytes;
    if (bytes == 0 || (lane->reserve && lane->reserve->bytes >= bytes)) return HM_OK;
    struct hm_buf *larger;
    if (hm_buf_pool_get(lane->sched->buffers, bytes, &larger) != HM_OK)
        return hm_fail(HM_ERR_NO_MEMORY,
                       "pool %s: the buffer pool of %zu bytes cannot set one batch of %zu bytes "
                       "aside; give it more "
                       "memory or use smaller batches",
                       conf->name, hm_buf_pool_bytes_max(lane->sched->buffers), bytes);
    hm_buf_put(lane->reserve);
    lane->reserve = larger;
    return HM_OK;
}

/* Not at once: what else arrives in this turn of the loop joins the batch. */
void lane_kick(struct hm_lane *lane)
{
    struct hm_loop *loop = lane->sched->loop;
    if (!lane_takes_more(lane)) return; /* the batch that comes back looks */
    if (hm_timer_active(&lane->timer) && lane->timer.due <= hm_loop_now(loop)) return;
    hm_timer_start(loop, &lane->timer, 0);
}
