/* sched/flow.c - clients in turn: which of a line's tasks a batch takes.
 *
 * Deficit round robin over rows (Shreedhar and Varghese, SIGCOMM 1995): when a client's turn comes
 * its credit grows by a part of a batch; it gives tasks as long as they fit into its credit, and
 * keeps what is left for its next turn.  A turn that a full batch cuts off goes on with the next.
 *
 * Owns the flows: as many as flows_max, of which each client takes one in every line where it has
 * tasks, and gives it back with the last of them.  Who finds none left joins the line's crowd, and
 * shares one turn with others there: an order less fair, but bounded, and nobody is turned away.
 * Keeps: a flow is in its line's ring exactly while it has tasks; rows and task_count are theirs. */
#include "sched/internal.h"

struct flow_key {
    const struct line *line;
    uint64_t client;
};

static bool flow_equal(const struct hm_map_node *node, const void *key)
{
    const struct hm_flow *flow = HM_CONTAINER_OF(node, struct hm_flow, node);
    const struct flow_key *wanted = key;
    return flow->line == wanted->line && flow->client == wanted->client;
}

static uint64_t flow_hash(const struct line *line, uint64_t client)
{
    const uint64_t key[2] = {(uintptr_t)line, client};
    return hm_hash(key, sizeof key, line->pool->sched->hash_seed);
}

void line_init(struct line *line, struct hm_pool *pool, enum hm_priority priority)
{
    *line = (struct line){.pool = pool, .priority = priority};
    hm_list_init(&line->tasks);
    hm_list_init(&line->flows);
    hm_list_init(&line->crowd.link);
    hm_list_init(&line->crowd.tasks);
    line->crowd.line = line;
}

struct hm_flow *flow_find(const struct line *line, uint64_t client)
{
    const struct flow_key key = {.line = line, .client = client};
    if (line->flow_count == 0) return NULL;
    struct hm_map_node *node =
        hm_map_find(&line->pool->sched->flows, flow_hash(line, client), flow_equal, &key);
    return node ? HM_CONTAINER_OF(node, struct hm_flow, node) : NULL;
}

struct hm_flow *flow_of(struct line *line, uint64_t client)
{
    struct hm_flow *flow = flow_find(line, client);
    return flow || !hm_list_empty(&line->pool->sched->flows_free) ? flow : &line->crowd;
}

static struct hm_flow *flow_make(struct line *line, uint64_t client)
{
    struct hm_sched *sched = line->pool->sched;
    struct hm_link *link = hm_list_pop(&sched->flows_free);
    if (!link) return &line->crowd;
    struct hm_flow *flow = HM_CONTAINER_OF(link, struct hm_flow, link);
    flow->line = line;
    flow->client = client;
    hm_map_insert(&sched->flows, &flow->node, flow_hash(line, client));
    return flow;
}

void flow_push(struct hm_task *task)
{
    struct line *line = pool_line(task);
    struct hm_flow *flow = flow_find(line, task->client);
    if (!flow) flow = flow_make(line, task->client);
    if (flow->task_count++ == 0) {
        flow->credit = 0;
        flow->in_turn = false;
        hm_list_push(&line->flows, &flow->link);
        line->flow_count++;
    }
    flow->rows += task->row_count;
    hm_list_push(&flow->tasks, &task->turn);
    task->flow = flow;
}

void flow_take(struct hm_task *task, uint32_t rows)
{
    HM_ASSERT(task->flow->rows >= rows);
    task->flow->rows -= rows;
}

void flow_remove(struct hm_task *task)
{
    struct hm_flow *flow = task->flow;
    struct line *line = flow->line;
    struct hm_sched *sched = line->pool->sched;
    hm_list_remove(&task->turn);
    task->flow = NULL;
    HM_ASSERT(flow->task_count > 0);
    if (--flow->task_count > 0) return;
    HM_ASSERT(flow->rows == 0 && hm_list_empty(&flow->tasks));
    hm_list_remove(&flow->link);
    line->flow_count--;
    if (flow == &line->crowd) return;
    hm_map_remove(&sched->flows, &flow->node);
    hm_list_push(&sched->flows_free, &flow->link);
}

/* ---- turns ---------------------------------------------------------------------------------- */

static uint32_t turn_rows(const struct line *line)
{
    return (line->pool->conf.batch_rows_max + HM_TURNS_A_BATCH - 1) / HM_TURNS_A_BATCH;
}

uint64_t flow_rows_ahead(const struct line *line, uint64_t client, uint32_t rows)
{
    enum { WALKED_MAX = 32 };
    const struct hm_flow *mine = flow_find(line, client);
    uint64_t own = mine ? mine->rows : 0, others = line->rows - own, ahead = own;
    uint64_t each = own + rows + turn_rows(line); /* what another gives while it takes its turns */
    if (line->flow_count > WALKED_MAX) {
        uint64_t most = (line->flow_count - (mine ? 1 : 0)) * each;
        return own + (most < others ? most : others);
    }
    HM_LIST_EACH (link, &line->flows) {
        const struct hm_flow *flow = HM_CONTAINER_OF(link, struct hm_flow, link);
        if (flow != mine) ahead += flow->rows < each ? flow->rows : each;
    }
    return ahead;
}

/* Too late for this batch.  True: it has failed, and left the line. */
static bool give_up(struct hm_task *task, const struct hm_batch *batch, hm_ns now, hm_ns service)
{
    struct hm_sched *sched = task->pool->sched;
    if (task->deadline == HM_NS_NEVER) return false;
    if (task->deadline <= now) { /* its timer is due in this turn as well */
        task_abandon(task, HM_ERR_TIMED_OUT);
        return true;
    }
    if (task->deadline - now >= service || task->rows_taken > 0) return false;
    if (batch->piece_count == 0 && task->pool->tasks_queued == 1) return false;
    sched->metric[SCHED_SHED].value++;
    task_abandon(task, HM_ERR_REFUSED);
    return true;
}

static void give(struct hm_task *task, uint32_t rows, struct hm_batch *batch)
{
    batch->piece[batch->piece_count++] = (struct hm_piece){.task = task,
                                                           .task_first = task->rows_taken,
                                                           .batch_first = batch->row_count,
                                                           .count = rows};
    batch->row_count += rows;
    if (task->deadline != HM_NS_NEVER && task->rows_taken == 0) margin_kept(task->flow->line);
    pool_take(task->pool, task, rows);
}

void line_fill(struct line *line, struct hm_batch *batch, hm_ns now, hm_ns service)
{
    uint32_t rows_max = line->pool->conf.batch_rows_max;
    while (!hm_list_empty(&line->flows) && batch->row_count < rows_max &&
           batch->piece_count < HM_PIECES_MAX) {
        struct hm_flow *flow = HM_CONTAINER_OF(line->flows.next, struct hm_flow, link);
        struct hm_task *task = HM_CONTAINER_OF(flow->tasks.next, struct hm_task, turn);
        if (give_up(task, batch, now, service)) continue;
        uint32_t room = rows_max - batch->row_count, rows = task->row_count - task->rows_taken;
        if (task->row_count > rows_max && rows > room) rows = room; /* the others are never split */
        if (!flow->in_turn) flow->credit += turn_rows(line);
        flow->in_turn = true;
        if (rows > flow->credit) {
            flow->in_turn = false;
            hm_list_remove(&flow->link);
            hm_list_push(&line->flows, &flow->link);
            continue;
        }
        if (rows > room) return;
        flow->credit -= rows;
        give(task, rows, batch);
    }
}
