/* server/admit.c - whether a part may enter its expert's queue, and what its end means.
 *
 * At most once: a backward is remembered in its expert's dedupe window from admission on, so that a
 * duplicate is refused even while the first still runs, and forgotten only if it ended without a
 * step. The window is encoded after a snapshot's parameters were copied (save.c): it then knows of
 * every step in them, and perhaps of some that a crash undoes, which is the safe side. */
#include "server/internal.h"

#include <string.h>

_Static_assert((int)HM_CALL_PRIORITIES == (int)HM_PRIORITIES,
               "a call names a class of the scheduler");

static void part_ended(struct hm_task *task, enum hm_status status, const struct hm_rows *out)
{
    struct hm_served_part *part = task->arg;
    struct hm_hosted *hosted = part->hosted;
    struct hm_served_call *call = part->call;
    part->admitted = false;
    if (part->failed && !status) status = part->failed;
    if (status == HM_ERR_CANCELED && !call->gone) status = HM_ERR_DRAINING; /* drain.c ran late */
    if (part->step > hosted->step) hosted->step = part->step;
    if (status) {
        hosted->server->parts_failed.value++;
        if (call->head.pass == HM_PASS_BACKWARD && !part->stepped)
            hm_dedupe_remove(hosted->dedupe, &call->client, call->head.sequence);
    }
    hm_expert_server_answer(part, status, status ? NULL : out);
}

/* Turns are a node's, in all of its lives.  Ids are digests: their first bytes tell nodes apart. */
static uint64_t client_of(const struct hm_served_call *call)
{
    uint64_t client;
    memcpy(&client, hm_request_from(call->request)->byte, sizeof client);
    return client;
}

/* When the answer has to leave: it travels too. */
static hm_ns answer_deadline(const struct hm_served_call *call)
{
    hm_ns deadline = hm_request_deadline(call->request);
    hm_ns half = hm_peer_round_trip_min(hm_request_peer(call->request)) / 2;
    return deadline > half ? deadline - half : 0;
}

enum hm_status hm_expert_server_admit(struct hm_served_part *part)
{
    struct hm_served_call *call = part->call;
    struct hm_expert_server *server = call->server;
    bool backward = call->head.pass == HM_PASS_BACKWARD;
    if (server->draining) return HM_ERR_DRAINING;
    part->hosted = hm_expert_server_find(server, part->view.uid.text);
    if (!part->hosted) return HM_ERR_EXPERT_GONE;
    struct hm_hosted *hosted = part->hosted;
    part->step = hosted->step;
    if (!hm_schema_equal(&call->head.schema, &hm_expert_plan(hosted->expert)->input))
        return HM_ERR_SHAPE;
    if (backward && hm_dedupe_seen(hosted->dedupe, &call->client, call->head.sequence))
        return HM_ERR_DUPLICATE;

    part->task = (struct hm_task){.pool = hosted->pass[call->head.pass].pool,
                                  .row_count = part->view.row_count,
                                  .out_row_bytes = hm_expert_server_out_row_bytes(part),
                                  .client = client_of(call),
                                  .priority = (enum hm_priority)call->head.priority,
                                  .deadline = answer_deadline(call),
                                  .end = part_ended,
                                  .arg = part};
    enum hm_status status = hm_sched_submit(server->sched, &part->task);
    if (status) return status;
    part->admitted = true;
    if (call->timed) part->queued = hm_loop_clock(server->conf.loop);
    if (backward) hm_dedupe_add(hosted->dedupe, &call->client, call->head.sequence);
    return HM_OK;
}
