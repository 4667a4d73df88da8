/* moe/dispatch_retry.c - servers that are overloaded say when to ask again: who is noted, who waits, who is
 * asked.
 *
 *   refused, in time to ask again ──► (its rows have somebody else) ──► stays refused
 *        └──► (a row has nobody) ──► waits ──► asked again ──► answered, or refused anew
 *                                      └──► (its rows have their answers, or the operation ends) ──► refused
 *
 * Owns:          op->retry, which runs for the first of those that wait.
 * Failure modes: what a server says is its own word.  Nothing or 0: it is not asked again.  Very soon: no
 *                sooner than 1 ms, and twice that each time, so a call asks some ten times in a second, some
 *                twenty in an hour.  Very late: past the deadline, which ends it as a refusal always did.
 * Invariants:    a part waits only if its time comes before the deadline; while it does it is open and its
 *                rows hope for it. */
#include "moe/dispatch_internal.h"

#define WAIT_MIN HM_MS /* also what has to be left once the wait is over */
enum { DOUBLINGS_MAX = 20, JITTER_PART = 4 };

void hm_dispatch_turned_away(struct hm_dispatch_op *op, struct hm_dispatch_part *part,
                             enum hm_status status, const struct hm_call_answer *answer)
{
    struct hm_dispatch *dispatch = op->dispatch;
    part->turned_away = true;
    part->ask_at = 0;
    part->retry_after_us = answer ? answer->retry_after_us : 0;
    part->load_us = answer ? answer->load_us : 0;
    if (part->retry_after_us == 0) return;
    hm_ns now = hm_loop_now(dispatch->loop), left = hm_deadline_left(dispatch->loop, op->deadline);
    hm_ns soonest = WAIT_MIN << part->refusals;
    if (part->refusals < DOUBLINGS_MAX) part->refusals++;
    hm_ns wait = part->retry_after_us * HM_US;
    if (wait < soonest) wait = soonest;
    wait += hm_loop_random(dispatch->loop, HM_RANDOM_RETRY) % (wait / JITTER_PART);
    hm_refusals_note(&dispatch->refusals, &part->server, &part->uid, op->pass, now, wait,
                     status == HM_ERR_BUSY ? HM_NS_NEVER : left);
    bool final = op->refusals_final || (op->busy_final && status == HM_ERR_BUSY);
    if (!final && left > WAIT_MIN && wait <= left - WAIT_MIN) part->ask_at = now + wait;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Whether one of its rows has fewer than it needs: `has` is op->hopeful or op->answered. */
static bool row_lacks(const struct hm_dispatch_op *op, const struct hm_dispatch_part *part,
                      const uint32_t *has)
{
    for (uint32_t k = 0; k < part->row_count; k++)
        if (has[part->row[k]] < op->need[part->row[k]]) return true;
    return false;
}

static bool may_wait(const struct hm_dispatch_part *part)
{
    bool over = part->status == HM_ERR_BUSY || part->status == HM_ERR_REFUSED;
    return over && part->ask_at > 0 && !part->refused;
}

/* Of those that would give a row hope; NULL: none. */
static struct hm_dispatch_part *soonest_of(struct hm_dispatch_op *op)
{
    struct hm_dispatch_part *soonest = NULL;
    for (unsigned i = 0; i < op->part_count; i++) {
        struct hm_dispatch_part *part = &op->part[i];
        if (!may_wait(part) || (soonest && soonest->ask_at <= part->ask_at)) continue;
        if (row_lacks(op, part, op->hopeful)) soonest = part;
    }
    return soonest;
}

/* Runs for the first that waits, if any. */
static void arm(struct hm_dispatch_op *op)
{
    hm_ns first = HM_NS_NEVER;
    if (op->parts_waiting == 0) return;
    for (unsigned i = 0; i < op->part_count; i++)
        if (op->part[i].waits && op->part[i].ask_at < first) first = op->part[i].ask_at;
    hm_timer_start(op->dispatch->loop, &op->retry, hm_deadline_left(op->dispatch->loop, first));
}

bool hm_dispatch_hold_on(struct hm_dispatch_op *op)
{
    for (struct hm_dispatch_part *part; (part = soonest_of(op));) {
        part->said = part->status;
        part->status = HM_INPROGRESS;
        part->waits = true;
        op->parts_waiting++;
        op->parts_open++;
        for (uint32_t k = 0; k < part->row_count; k++) op->hopeful[part->row[k]]++;
    }
    arm(op);
    for (uint32_t row = 0; row < op->row_count; row++)
        if (op->hopeful[row] < op->need[row]) return false;
    return true;
}

/* ---- the end of a wait ----------------------------------------------------------------------- */

static void stop_one(struct hm_dispatch_op *op, struct hm_dispatch_part *part)
{
    part->waits = false;
    part->status = part->said;
    part->ask_at = 0;
    op->parts_waiting--;
    op->parts_open--;
    for (uint32_t k = 0; k < part->row_count; k++) op->hopeful[part->row[k]]--;
}

void hm_dispatch_stop_waiting(struct hm_dispatch_op *op)
{
    for (unsigned i = 0; op->parts_waiting > 0; i++)
        if (op->part[i].waits) stop_one(op, &op->part[i]);
}

void hm_dispatch_ask_again(struct hm_timer *timer)
{
    struct hm_dispatch_op *op = timer->arg;
    hm_ns now = hm_loop_now(op->dispatch->loop);
    unsigned asked = 0;
    if (op->looking || op->ending) return; /* it comes back to us, or is over */
    for (unsigned i = 0; i < op->part_count; i++) {
        struct hm_dispatch_part *part = &op->part[i];
        if (!part->waits) continue;
        if (!row_lacks(op, part, op->answered)) {
            stop_one(op, part);
        } else if (part->ask_at <= now) {
            part->waits = part->turned_away = false;
            part->ask_at = 0;
            part->retry_after_us = part->load_us = 0;
            op->parts_waiting--;
            asked++;
            hm_dispatch_place(op, i, true);
        }
    }
    op->dispatch->parts_again.value += asked;
    if (asked > 0) hm_dispatch_set_out(op, op->deadline);
    arm(op);
    if (op->parts_open == 0 && op->refused == 0) hm_dispatch_end_soon(op);
}
