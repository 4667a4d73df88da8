/* moe/dispatch.c - operations over many servers: grouping, k_min, deadlines, the end.
 *
 * Happy path:    parts are grouped by server, addresses of servers that are not connected come from
 *                the directory, calls go out, parts are decided one by one, and the end comes in a
 *                turn of its own.
 * Failure modes: see dispatch.h; whatever happens the operation ends at its deadline, because that
 *                timer always runs.
 * Invariants:    answered[r] <= hopeful[r]; rows_short is the number of rows with answered < need;
 *                parts_open the number of parts in HM_INPROGRESS; after the callback nothing of the
 *                operation is referred to. */
#include "moe/dispatch.h"

#include "moe/dispatch_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CALLS_MAX = 1024, SERVERS_MAX = 1024 };

static void close_turn(struct hm_timer *timer);

enum hm_status hm_dispatch_create(const struct hm_dispatch_conf *conf, struct hm_dispatch **out)
{
    HM_ASSERT(conf->priority < HM_CALL_PRIORITIES);
    struct hm_dispatch *dispatch = calloc(1, sizeof *dispatch);
    if (!dispatch) return hm_fail(HM_ERR_NO_MEMORY, "no memory for calls to experts");
    dispatch->rpc = conf->rpc;
    dispatch->loop = hm_rpc_loop(conf->rpc);
    dispatch->buffers = hm_rpc_buffers(conf->rpc);
    dispatch->directory = conf->directory;
    dispatch->priority = conf->priority;
    dispatch->calls_max = conf->calls_max ? conf->calls_max : CALLS_MAX;
    dispatch->incarnation = hm_loop_random(dispatch->loop, HM_RANDOM_IDS);
    dispatch->timed_every = HM_STAGES_EVERY;
    hm_stages_init(&dispatch->stages, false, conf->metrics);
    hm_shared_calls_init(&dispatch->shared, conf->metrics);
    hm_refusals_init(&dispatch->refusals, hm_loop_random(dispatch->loop, HM_RANDOM_RETRY));
    dispatch->parts_again =
        (struct hm_metric){.name = "moe.parts_asked_again",
                           .help = "parts asked again after the server had refused them",
                           .kind = HM_COUNTER};
    hm_list_init(&dispatch->parts_again.link);
    if (conf->metrics) hm_metrics_add(conf->metrics, &dispatch->parts_again);
    dispatch->close_turn = (struct hm_timer){.cb = close_turn, .arg = dispatch};
    hm_list_init(&dispatch->idle);
    hm_list_init(&dispatch->left);
    hm_list_init(&dispatch->ops);
    *out = dispatch;
    return HM_OK;
}

static void close_turn(struct hm_timer *timer)
{
    struct hm_dispatch *dispatch = timer->arg;
    struct hm_link *link;
    HM_ASSERT(dispatch->calls_used == 0);
    while ((link = hm_list_pop(&dispatch->idle)))
        free(HM_CONTAINER_OF(link, struct hm_server_call, link));
    hm_stages_fini(&dispatch->stages);
    hm_shared_calls_fini(&dispatch->shared);
    if (hm_list_linked(&dispatch->parts_again.link)) hm_metrics_remove(&dispatch->parts_again);
    void (*closed)(void *) = dispatch->closed;
    void *arg = dispatch->closed_arg;
    free(dispatch);
    closed(arg);
}

void hm_dispatch_call_free(struct hm_dispatch *dispatch)
{
    if (dispatch->closing && dispatch->calls_used == 0)
        hm_timer_start(dispatch->loop, &dispatch->close_turn, 0);
}

void hm_dispatch_close(struct hm_dispatch *dispatch, void (*done)(void *arg), void *arg)
{
    HM_ASSERT(
        hm_list_empty(&dispatch->ops)); /* so what is left behind has been cancelled already */
    dispatch->closing = true;
    dispatch->closed = done;
    dispatch->closed_arg = arg;
    hm_dispatch_call_free(dispatch);
}

struct hm_loop *hm_dispatch_loop(const struct hm_dispatch *dispatch)
{
    return dispatch->loop;
}
struct hm_directory *hm_dispatch_directory(const struct hm_dispatch *dispatch)
{
    return dispatch->directory;
}
struct hm_rpc *hm_dispatch_rpc(const struct hm_dispatch *dispatch)
{
    return dispatch->rpc;
}
struct hm_shared_calls *hm_dispatch_shared(struct hm_dispatch *dispatch)
{
    return &dispatch->shared;
}

void hm_dispatch_time(struct hm_dispatch *dispatch, uint32_t every)
{
    dispatch->timed_every = every;
    dispatch->timed_turn = 0;
    hm_stages_clear(&dispatch->stages);
}
const struct hm_stages *hm_dispatch_stages(const struct hm_dispatch *dispatch)
{
    return &dispatch->stages;
}

bool hm_dispatch_refusal_likely(const struct hm_dispatch *dispatch, const struct hm_node_id *server,
                                const struct hm_uid *uid, uint8_t pass, hm_ns left)
{
    return hm_refusals_likely(&dispatch->refusals, server, uid, pass, hm_loop_now(dispatch->loop),
                              left);
}

void hm_dispatch_stats(const struct hm_dispatch *dispatch, struct hm_dispatch_stats *stats)
{
    stats->calls = atomic_load_explicit(&dispatch->calls, memory_order_relaxed);
    stats->calls_failed = atomic_load_explicit(&dispatch->calls_failed, memory_order_relaxed);
    stats->calls_coded = atomic_load_explicit(&dispatch->calls_coded, memory_order_relaxed);
    stats->parts = atomic_load_explicit(&dispatch->parts, memory_order_relaxed);
    stats->parts_failed = atomic_load_explicit(&dispatch->parts_failed, memory_order_relaxed);
    stats->rows = atomic_load_explicit(&dispatch->rows, memory_order_relaxed);
}

/* ---- the end --------------------------------------------------------------------------------- */

void hm_dispatch_end_soon(struct hm_dispatch_op *op)
{
    if (op->ending) return;
    op->ending = true;
    hm_timer_start(op->dispatch->loop, &op->turn, 0);
}

/* Silent until the deadline while somebody else answered: it is him, not us; unless he was asked when
 * little time was left. */
void hm_dispatch_late(struct hm_dispatch_op *op, struct hm_server_call *call)
{
    bool somebody = false, any_taken = false;
    if (call->latecomer) return;
    for (unsigned i = 0; i < op->part_count; i++)
        somebody = somebody || op->part[i].status == HM_OK;
    for (unsigned i = 0; i < call->part_count; i++) any_taken = any_taken || call->taken[i];
    if (somebody && !any_taken && op->dispatch->directory)
        hm_directory_suspect(op->dispatch->directory, &call->server, 0);
}

/* Lets go of the calls: what they still bring is dropped. */
static void leave_calls(struct hm_dispatch_op *op)
{
    HM_LIST_EACH_SAFE (link, &op->calls) {
        struct hm_server_call *call = HM_CONTAINER_OF(link, struct hm_server_call, link);
        if (op->waited && call->on_wire) {
            atomic_fetch_add_explicit(&op->dispatch->calls_failed, 1, memory_order_relaxed);
            if (op->late) hm_dispatch_late(op, call);
        }
        hm_server_call_leave(call);
    }
}

static void finish(struct hm_timer *timer)
{
    struct hm_dispatch_op *op = timer->arg;
    struct hm_dispatch *dispatch = op->dispatch;
    if (op->looking)
        return; /* the directory still holds us; its callback comes by the deadline, and ends it */
    hm_timer_stop(dispatch->loop, &op->timer);
    hm_timer_stop(dispatch->loop, &op->again);
    hm_timer_stop(dispatch->loop, &op->retry);
    leave_calls(op);
    enum hm_status status = HM_OK;
    if (op->rows_short > 0 && !op->optional) status = hm_dispatch_explain(op);
    hm_dispatch_stop_waiting(op);
    uint64_t failed = 0;
    for (unsigned i = 0; i < op->part_count; i++) {
        struct hm_dispatch_part *part = &op->part[i];
        if (part->status == HM_INPROGRESS) part->status = HM_ERR_TIMED_OUT;
        failed += part->status != HM_OK;
    }
    atomic_fetch_add_explicit(&dispatch->parts_failed, failed, memory_order_relaxed);
    hm_buf_put(op->scratch);
    op->scratch = NULL;
    hm_list_remove(&op->link);
    op->cb(op, status);
}

/* ---- decisions ------------------------------------------------------------------------------- */

static void arm(struct hm_dispatch_op *op, hm_ns after)
{
    hm_timer_start(op->dispatch->loop, &op->timer, after);
}

/* The deadline, or the time after k_min. */
static void time_out(struct hm_timer *timer)
{
    struct hm_dispatch_op *op = timer->arg;
    op->waited = true;
    op->late = hm_loop_now(op->dispatch->loop) >= op->deadline;
    hm_dispatch_end_soon(op);
}

/* Another expert, or another server, might do it. */
static bool may_go_elsewhere(const struct hm_dispatch_op *op, enum hm_status status)
{
    if (!op->more || op->pass != HM_PASS_FORWARD || op->ending) return false;
    return status == HM_ERR_BUSY || status == HM_ERR_REFUSED || status == HM_ERR_TOO_BIG ||
           status == HM_ERR_DRAINING || status == HM_ERR_EXPERT_GONE ||
           hm_status_scope(status) == HM_SCOPE_PEER;
}

static void lose_hope(struct hm_dispatch_op *op, const struct hm_dispatch_part *part)
{
    for (uint32_t k = 0; k < part->row_count; k++) {
        uint32_t row = part->row[k];
        HM_ASSERT(op->hopeful[row] > 0);
        if (--op->hopeful[row] < op->need[row]) op->desperate = true;
    }
}

/* Hope was lost: unless somebody can be asked again, the operation is over (or, optional, has it so). */
static void look_for_hope(struct hm_dispatch_op *op)
{
    if (!op->desperate || op->ending) return;
    op->desperate = false;
    if (!hm_dispatch_hold_on(op)) op->hopeless = !op->optional;
}

void hm_dispatch_decide(struct hm_dispatch_op *op, struct hm_dispatch_part *part,
                        enum hm_status status)
{
    HM_ASSERT(part->status == HM_INPROGRESS && op->parts_open > 0);
    uint32_t short_before = op->rows_short;
    part->status = status;
    op->parts_open--;
    for (uint32_t k = 0; status == HM_OK && k < part->row_count; k++) {
        uint32_t row = part->row[k];
        if (++op->answered[row] == op->need[row]) op->rows_short--;
    }
    if (may_go_elsewhere(op, status)) {
        part->refused = true;
        /* In the next turn, with what else is refused in this one. */
        if (op->refused++ == 0) hm_timer_start(op->dispatch->loop, &op->again, 0);
    } else if (status != HM_OK) {
        lose_hope(op, part);
        look_for_hope(op);
    }
    if ((op->parts_open == 0 && op->refused == 0) || op->hopeless) {
        hm_dispatch_end_soon(op);
    } else if (op->rows_short == 0 && short_before > 0 && !op->ending) {
        hm_ns left = hm_deadline_left(op->dispatch->loop, op->deadline);
        if (op->timeout_after_k_min < left) arm(op, op->timeout_after_k_min);
        if (op->parts_waiting > 0) /* no more */
            hm_timer_start(op->dispatch->loop, &op->retry, 0);
    }
}

/* ---- starting -------------------------------------------------------------------------------- */

static enum hm_status check(struct hm_dispatch_op *op)
{
    if (op->schema.count != 1 || op->schema.dtype[0] != HM_F32)
        return hm_fail(HM_ERR_INVALID, "experts take one f32 tensor a row");
    uint64_t columns;
    if (hm_shape_elements(&op->schema.row[0], &columns) != HM_OK || columns < 1 ||
        columns > HM_PAYLOAD_BYTES_MAX)
        return hm_fail(HM_ERR_TOO_BIG, "a row for experts has at least 1 column and at most %zu",
                       HM_PAYLOAD_BYTES_MAX);
    op->columns = (uint32_t)columns;
    if (op->row_count < 1 || op->row_count > HM_CALL_ROWS_MAX)
        return hm_fail(HM_ERR_TOO_BIG,
                       "%" PRIu32 " rows in one call to experts; 1 to %d are possible",
                       op->row_count, HM_CALL_ROWS_MAX);
    if (op->part_count < 1 || op->part_count > UINT16_MAX)
        return hm_fail(HM_ERR_TOO_BIG, "%u experts in one call; 1 to %d are possible",
                       op->part_count, UINT16_MAX);
    for (unsigned i = 0; i < op->part_count; i++) {
        HM_ASSERT(op->part[i].row_count >= 1 && op->part[i].row_count <= op->row_count);
        for (uint32_t k = 0; k < op->part[i].row_count; k++)
            HM_ASSERT(op->part[i].row[k] < op->row_count);
    }
    HM_ASSERT(op->k_min >= 1 && op->deadline != HM_NS_NEVER && op->cb && op->x &&
              (op->pass == HM_PASS_FORWARD || op->dy));
    return HM_OK;
}

static void part_open(struct hm_dispatch_op *op, struct hm_dispatch_part *part)
{
    part->status = HM_INPROGRESS;
    part->refused = false;
    part->step = 0;
    part->retry_after_us = part->load_us = 0;
    part->turned_away = part->waits = false;
    part->refusals = 0;
    part->ask_at = 0;
    for (uint32_t k = 0; k < part->row_count; k++) op->hopeful[part->row[k]]++;
}

static void count_rows(struct hm_dispatch_op *op)
{
    memset(op->answered, 0, op->row_count * sizeof *op->answered);
    memset(op->hopeful, 0, op->row_count * sizeof *op->hopeful);
    for (unsigned i = 0; i < op->part_count; i++) part_open(op, &op->part[i]);
    op->rows_short = 0;
    for (uint32_t row = 0; row < op->row_count; row++) {
        op->need[row] = op->hopeful[row] < op->k_min ? op->hopeful[row] : op->k_min;
        op->rows_short += op->need[row] > 0;
    }
}

/* A call names an expert once: one who is asked again may be new to other rows in the same turn. */
static bool has_room_for(const struct hm_server_call *call, const struct hm_dispatch_part *part,
                         bool latecomer)
{
    if (call->tried || call->part_count == HM_CALL_PARTS_MAX ||
        !hm_node_id_equal(&call->server, &part->server))
        return false;
    for (unsigned i = 0; latecomer && i < call->part_count; i++)
        if (strcmp(hm_server_call_part(call, i)->uid.text, part->uid.text) == 0) return false;
    return true;
}

void hm_dispatch_place(struct hm_dispatch_op *op, unsigned number, bool latecomer)
{
    struct hm_dispatch_part *part = &op->part[number];
    struct hm_server_call *call = NULL;
    HM_LIST_EACH (link, &op->calls) {
        struct hm_server_call *next = HM_CONTAINER_OF(link, struct hm_server_call, link);
        if (has_room_for(next, part, latecomer)) call = next;
    }
    if (!call) call = hm_server_call_get(op, &part->server);
    if (!call) {
        hm_dispatch_decide(op, part, HM_ERR_BUSY);
        return;
    }
    call->latecomer = latecomer;
    call->part[call->part_count++] = (uint16_t)number;
}

static void place_from(struct hm_dispatch_op *op, unsigned first)
{
    for (unsigned i = first; i < op->part_count; i++) hm_dispatch_place(op, i, first > 0);
}

static void send_all(struct hm_dispatch_op *op)
{
    HM_LIST_EACH_SAFE (link, &op->calls) {
        struct hm_server_call *call = HM_CONTAINER_OF(link, struct hm_server_call, link);
        if (!call->tried) hm_server_call_send(call);
    }
}

/* Connects calls with peers; `info` (NULL: none) tells where they can be dialled. */
static void find_peers(struct hm_dispatch_op *op, const struct hm_server_info *info, unsigned count)
{
    HM_LIST_EACH (link, &op->calls) {
        struct hm_server_call *call = HM_CONTAINER_OF(link, struct hm_server_call, link);
        const struct hm_addrs *hints = NULL;
        if (call->tried) continue;
        for (unsigned i = 0; i < count; i++) {
            if (hm_node_id_equal(&info[i].node, &call->server)) hints = &info[i].addrs;
        }
        if (call->peer) {
            if (!hints) continue;
            hm_peer_put(call->peer);
            call->peer = NULL;
        }
        if (hm_peer_get(op->dispatch->rpc, &call->server, hints, &call->peer) != HM_OK)
            call->peer = NULL;
    }
}

static void addresses(void *arg, enum hm_status status, const struct hm_server_info *info,
                      unsigned count)
{
    struct hm_dispatch_op *op = arg;
    op->looking = false;
    if (status == HM_OK) find_peers(op, info, count);
    if (op->ending) {
        hm_timer_start(op->dispatch->loop, &op->turn, 0);
        return;
    }
    send_all(op);
    if (op->refused > 0) hm_timer_start(op->dispatch->loop, &op->again, 0);
    if (op->parts_waiting > 0) hm_timer_start(op->dispatch->loop, &op->retry, 0);
}

/* Servers that are not connected -> their addresses.  False: nothing to look up. */
static bool look_up(struct hm_dispatch_op *op, hm_ns deadline)
{
    struct hm_node_id node[SERVERS_MAX];
    unsigned count = 0;
    HM_LIST_EACH (link, &op->calls) {
        struct hm_server_call *call = HM_CONTAINER_OF(link, struct hm_server_call, link);
        if (!call->tried && count < SERVERS_MAX && !(call->peer && hm_peer_connected(call->peer)))
            node[count++] = call->server;
    }
    if (count == 0 || !op->dispatch->directory) return false;
    return hm_directory_servers(op->dispatch->directory, node, count, deadline, addresses, op) ==
           HM_OK;
}

/* Sends what has been grouped, once it is known where to. */
void hm_dispatch_set_out(struct hm_dispatch_op *op, hm_ns deadline)
{
    find_peers(op, NULL, 0);
    op->looking = look_up(op, deadline);
    if (!op->looking) send_all(op);
}

/* ---- elsewhere ------------------------------------------------------------------------------- */

/* Parts were refused: the user may know who else could take their rows. */
static void ask_for_more(struct hm_timer *timer)
{
    struct hm_dispatch_op *op = timer->arg;
    unsigned first = op->part_count, added = 0;
    if (op->looking) return; /* `addresses` comes by the deadline, and asks again */
    if (!op->ending && hm_deadline_left(op->dispatch->loop, op->deadline) > 0) added = op->more(op);
    HM_ASSERT(added <= UINT16_MAX - first);
    op->part_count += added;
    op->parts_open += added;
    for (unsigned i = first; i < op->part_count; i++) part_open(op, &op->part[i]);
    for (unsigned i = 0; i < first; i++) {
        if (!op->part[i].refused) continue;
        op->part[i].refused = false;
        lose_hope(op, &op->part[i]);
    }
    op->refused = 0;
    look_for_hope(op);
    atomic_fetch_add_explicit(&op->dispatch->parts, added, memory_order_relaxed);
    if (added > 0) {
        /* Nothing ends the operation while it looks, not even k_min's time. */
        hm_ns until = hm_deadline_after(op->dispatch->loop, op->timeout_after_k_min);
        place_from(op, first);
        hm_dispatch_set_out(op, until < op->deadline ? until : op->deadline);
    }
    if ((op->parts_open == 0 && op->refused == 0) || op->hopeless) hm_dispatch_end_soon(op);
}

enum hm_status hm_dispatch_start(struct hm_dispatch *dispatch, struct hm_dispatch_op *op)
{
    HM_ASSERT(!dispatch->closing);
    enum hm_status status = check(op);
    if (status != HM_OK) return status;
    status = hm_buf_pool_get(dispatch->buffers, 5 * (size_t)op->row_count * sizeof(uint32_t),
                             &op->scratch);
    if (status != HM_OK)
        return hm_fail(status, "no buffer for a call of %" PRIu32 " rows to experts now",
                       op->row_count);
    op->answered = op->scratch->base;
    op->hopeful = op->answered + op->row_count;
    op->need = op->hopeful + op->row_count;
    op->local = op->need + op->row_count;
    op->order = op->local + op->row_count;
    op->dispatch = dispatch;
    op->began = op->asked ? op->asked : hm_loop_now(dispatch->loop);
    op->parts_open = op->part_count;
    op->looking = op->desperate = op->hopeless = op->waited = op->late = op->ending = false;
    if (op->pass == HM_PASS_BACKWARD) op->sequence = ++dispatch->backward_sequence;
    op->timer = (struct hm_timer){.cb = time_out, .arg = op};
    op->turn = (struct hm_timer){.cb = finish, .arg = op};
    op->again = (struct hm_timer){.cb = ask_for_more, .arg = op};
    op->retry = (struct hm_timer){.cb = hm_dispatch_ask_again, .arg = op};
    op->refused = op->parts_waiting = 0;
    hm_list_init(&op->calls);
    hm_list_init(&op->link);
    hm_list_push(&dispatch->ops, &op->link);
    count_rows(op);
    atomic_fetch_add_explicit(&dispatch->parts, op->part_count, memory_order_relaxed);
    arm(op, hm_deadline_left(dispatch->loop, op->deadline));
    place_from(op, 0);
    hm_dispatch_set_out(op, op->deadline);
    return HM_OK;
}
