/* moe/shared_call.c - forwards to one expert that begin in one turn, in one call.
 *
 * Owns:          nothing: operations that share are linked through themselves, behind the first, whose
 *                own dispatch operation is the shared call.
 * Happy path:    join, join, found, start: rows are gathered into a pooled buffer, answers come into it,
 *                are handed out to each operation, and then all end.
 * Failure modes: no buffer, or a failure that may be one operation's: each alone, once.  The rest is
 *                everybody's, with one line.
 * Invariants:    rows lie in the order of the operations, both ways; outputs are written on success only;
 *                an operation is not touched after its callback, which may start it anew. */
#include "moe/shared_call.h"

#include "base/assert.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { DEADLINE_SHARE = 64 };

void hm_shared_calls_init(struct hm_shared_calls *shared, struct hm_metrics *metrics)
{
    hm_list_init(&shared->open);
    shared->turn = 0;
    shared->calls = (struct hm_metric){.name = "moe.calls_shared",
                                       .help = "calls with rows of several callers",
                                       .kind = HM_COUNTER};
    shared->callers = (struct hm_metric){
        .name = "moe.callers_shared", .help = "callers in those calls", .kind = HM_COUNTER};
    hm_list_init(&shared->calls.link);
    hm_list_init(&shared->callers.link);
    if (!metrics) return;
    hm_metrics_add(metrics, &shared->calls);
    hm_metrics_add(metrics, &shared->callers);
}

void hm_shared_calls_fini(struct hm_shared_calls *shared)
{
    HM_ASSERT(hm_list_empty(&shared->open));
    if (hm_list_linked(&shared->calls.link)) hm_metrics_remove(&shared->calls);
    if (hm_list_linked(&shared->callers.link)) hm_metrics_remove(&shared->callers);
}

/* ---- who goes with whom ---------------------------------------------------------------------- */

static bool has_room(uint32_t rows, uint32_t columns)
{
    return rows <= HM_SHARED_ROWS_MAX &&
           (uint64_t)rows * columns * sizeof(float) <= HM_SHARED_BYTES_MAX;
}

/* What was opened in an earlier turn stays closed to others. */
static void turn_over(struct hm_shared_calls *shared, struct hm_loop *loop)
{
    uint64_t turn = loop->ops->turn(loop);
    if (turn == shared->turn) return;
    while (hm_list_pop(&shared->open)) {
    }
    shared->turn = turn;
}

static uint8_t codec_of(const struct hm_moe_expert_op *op)
{
    return op->codec ? op->codec->id : (uint8_t)HM_CODEC_NONE;
}

static bool may_join(const struct hm_moe_expert_op *first, const struct hm_moe_expert_op *op,
                     hm_ns left)
{
    return first->columns == op->columns && first->refusals_final == op->refusals_final &&
           codec_of(first) == codec_of(op) &&
           has_room(first->rows_shared + op->row_count, op->columns) &&
           op->deadline >= first->deadline && op->deadline - first->deadline <= left &&
           strcmp(first->uid.text, op->uid.text) == 0;
}

bool hm_shared_call_join(struct hm_shared_calls *shared, struct hm_moe_expert_op *op)
{
    struct hm_loop *loop = hm_dispatch_loop(op->dispatch);
    struct hm_moe_expert_op *found = NULL;
    unsigned looked = 0;
    turn_over(shared, loop);
    hm_ns left = hm_deadline_left(loop, op->deadline) / DEADLINE_SHARE;
    HM_LIST_EACH (link, &shared->open) {
        struct hm_moe_expert_op *first = HM_CONTAINER_OF(link, struct hm_moe_expert_op, open);
        if (looked++ == HM_SHARED_LOOK_MAX) break;
        if (!may_join(first, op, left)) continue;
        found = first;
        break;
    }
    if (!found) return false;
    found->last->next = op;
    found->last = op;
    found->rows_shared += op->row_count;
    if (!has_room(found->rows_shared + 1, op->columns)) hm_list_remove(&found->open);
    return true;
}

void hm_shared_call_open(struct hm_shared_calls *shared, struct hm_moe_expert_op *op)
{
    op->rows_shared = op->row_count;
    if (has_room(op->row_count + 1, op->columns)) hm_list_push_front(&shared->open, &op->open);
}

void hm_shared_call_close(struct hm_moe_expert_op *op)
{
    hm_list_remove(&op->open);
}

/* ---- the end --------------------------------------------------------------------------------- */

static bool is_everybodys(enum hm_status status)
{
    switch (status) {
    case HM_ERR_TIMED_OUT:
    case HM_ERR_CANCELED:
    case HM_ERR_REFUSED: /* by one deadline, which an overloaded server need not be told one by one */
    case HM_ERR_DRAINING: return true;
    case HM_ERR_EXPERT_NUMERIC: return false; /* of whose rows? */
    default: return hm_status_scope(status) != HM_SCOPE_CALL;
    }
}

static void go_on_alone(struct hm_moe_expert_op *first, const struct hm_node_id *server)
{
    for (struct hm_moe_expert_op *op = first, *next; op; op = next) {
        next = op->next;
        op->next = NULL;
        op->server = *server;
        hm_moe_expert_alone(op);
    }
}

void hm_shared_call_end(struct hm_moe_expert_op *first, enum hm_status status)
{
    char line[HM_ERROR_LINE_BYTES];
    bool keep = status != HM_OK && first->next;
    if (keep) snprintf(line, sizeof line, "%s", hm_fail_line_of(status));
    for (struct hm_moe_expert_op *op = first, *next; op; op = next) {
        next = op->next;
        op->next = NULL;
        /* Each has it as its own: a callback before it may have left another. */
        if (keep) hm_fail_keep(status, "%s", line);
        hm_moe_expert_end(op, status);
    }
}

/* ---- the call -------------------------------------------------------------------------------- */

static void ended(struct hm_dispatch_op *pass, enum hm_status status)
{
    struct hm_moe_expert_op *first = pass->arg;
    const float *answer = first->part.answer;
    const struct hm_node_id server = first->part.server;
    const uint64_t step = first->part.step;
    for (struct hm_moe_expert_op *op = first; op; op = op->next) {
        size_t count = (size_t)op->row_count * op->columns;
        if (status == HM_OK) memcpy(op->out->data.base, answer, count * sizeof(float));
        answer += count;
        op->step = step;
        op->server = server;
    }
    hm_buf_put(first->rows);
    first->rows = NULL;
    if (status == HM_OK || is_everybodys(status))
        hm_shared_call_end(first, status);
    else
        go_on_alone(first, &server);
}

/* A buffer for indices, rows and answers, with the first two filled. */
static enum hm_status gather(struct hm_moe_expert_op *first, float **x, float **answer)
{
    uint32_t rows = first->rows_shared;
    size_t index_bytes = ((size_t)rows * sizeof(uint32_t) + 63) / 64 * 64;
    size_t count = (size_t)rows * first->columns;
    enum hm_status status = hm_buf_pool_get(hm_rpc_buffers(hm_dispatch_rpc(first->dispatch)),
                                            index_bytes + 2 * count * sizeof(float), &first->rows);
    if (status != HM_OK) return status;
    uint32_t *row = first->rows->base;
    for (uint32_t i = 0; i < rows; i++) row[i] = i;
    *x = (float *)(void *)((char *)first->rows->base + index_bytes);
    *answer = *x + count;
    float *to = *x;
    for (const struct hm_moe_expert_op *op = first; op; op = op->next) {
        size_t elements = (size_t)op->row_count * op->columns;
        memcpy(to, op->x->data.base, elements * sizeof(float));
        to += elements;
    }
    return HM_OK;
}

static enum hm_status start(struct hm_moe_expert_op *first)
{
    float *x, *answer;
    enum hm_status status = gather(first, &x, &answer);
    if (status != HM_OK) return status;
    first->part = (struct hm_dispatch_part){.uid = first->uid,
                                            .server = first->server,
                                            .row = first->rows->base,
                                            .row_count = first->rows_shared,
                                            .answer = answer};
    first->pass = (struct hm_dispatch_op){.pass = HM_PASS_FORWARD,
                                          .codec = first->codec,
                                          .schema = hm_schema_f32(first->columns),
                                          .x = x,
                                          .row_count = first->rows_shared,
                                          .part = &first->part,
                                          .part_count = 1,
                                          .k_min = 1,
                                          .deadline = first->deadline,
                                          .asked = first->asked,
                                          .refusals_final = first->refusals_final,
                                          .busy_final = true, /* alone some may have room */
                                          .timeout_after_k_min = HM_NS_NEVER,
                                          .cb = ended,
                                          .arg = first};
    status = hm_dispatch_start(first->dispatch, &first->pass);
    if (status == HM_OK) return HM_OK;
    hm_buf_put(first->rows);
    first->rows = NULL;
    return status;
}

void hm_shared_call_start(struct hm_shared_calls *shared, struct hm_moe_expert_op *first)
{
    if (start(first) != HM_OK) {
        const struct hm_node_id server = first->server;
        go_on_alone(first, &server);
        return;
    }
    shared->calls.value++;
    for (const struct hm_moe_expert_op *op = first; op; op = op->next) shared->callers.value++;
}
