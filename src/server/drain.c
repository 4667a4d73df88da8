/* server/drain.c - an orderly end:  withdraw ─► the queue runs empty ─► save ─► done.
 *
 * From the first moment new parts are refused with HM_ERR_DRAINING, so that callers go elsewhere;
 * what was accepted is answered.  Withdrawing and the queue go on side by side; a swarm that does
 * not answer must not keep us from saving.  What still waits for a batch at the deadline is refused
 * like new parts, so that no step is made that the checkpoints do not hold. */
#include "server/internal.h"

#include <stdio.h>

static void drained(struct hm_expert_server *server)
{
    void (*done)(void *, enum hm_status) = server->drain_done;
    hm_timer_stop(server->conf.loop, &server->drain_timer);
    server->drain_done = NULL;
    if (server->drain_status) hm_fail_keep(server->drain_status, "%s", server->drain_line);
    done(server->drain_arg, server->drain_status);
}

/* Keeps the first failure and the line about it. */
static void note(struct hm_expert_server *server, enum hm_status status)
{
    if (!status || server->drain_status) return;
    server->drain_status = status;
    snprintf(server->drain_line, sizeof server->drain_line, "%s", hm_fail_line_of(status));
}

static void sched_drained(void *arg)
{
    struct hm_expert_server *server = arg;
    drained(server);
}

static void saved(struct hm_expert_server *server, enum hm_status status)
{
    note(server, status);
    /* Snapshots were the last tasks. */
    hm_sched_drain(server->sched, sched_drained, server);
}

/* The queue is looked at again every few milliseconds: the scheduler itself must still take
 * snapshots, so it is drained only after them. */
static void look(struct hm_timer *timer)
{
    struct hm_expert_server *server = timer->arg;
    bool idle = hm_list_empty(&server->calls_busy);
    bool late = hm_deadline_left(server->conf.loop, server->drain_deadline) == 0;
    if (!late && (!idle || server->announcing > 0)) {
        hm_timer_start(server->conf.loop, timer, 5 * HM_MS);
        return;
    }
    if (!idle)
        note(server,
             hm_fail(HM_ERR_TIMED_OUT, "calls were still waiting when the time to drain was "
                                       "over; give more with --drain-timeout"));
    HM_LIST_EACH (link, &server->calls_busy)
        hm_expert_server_call_cancel(HM_CONTAINER_OF(link, struct hm_served_call, link));
    hm_expert_server_save_all(server, saved);
}

static void withdrawn(void *arg, enum hm_status status)
{
    (void)status; /* nobody to tell: the records die by themselves within a minute */
    struct hm_expert_server *server = arg;
    server->announcing--;
}

void hm_expert_server_drain(struct hm_expert_server *server, hm_ns deadline,
                            void (*done)(void *arg, enum hm_status status), void *arg)
{
    HM_ASSERT(server->started && !server->draining);
    server->draining = true;
    server->drain_deadline = deadline;
    server->drain_done = done;
    server->drain_arg = arg;
    server->drain_timer = (struct hm_timer){.cb = look, .arg = server};
    hm_timer_start(server->conf.loop, &server->drain_timer, 0);
    server->announcing++;
    hm_expert_server_withdraw(server, withdrawn);
}
