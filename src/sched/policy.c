/* sched/policy.c - which line runs next: pure functions over what a policy may see. */
#include "sched/internal.h"

/* When the line's next batch should start, if nothing else is ready. */
static hm_ns ready_at(const struct hm_line_view *line)
{
    bool enough = line->batch_rows_preferred > 0 && line->rows >= line->batch_rows_preferred;
    if (line->full || enough || line->batch_delay_max == 0) return line->oldest;
    hm_ns at = line->batch_delay_max > HM_NS_NEVER - line->oldest
                   ? HM_NS_NEVER
                   : line->oldest + line->batch_delay_max;
    if (line->earliest_deadline == HM_NS_NEVER) return at;
    /* A quarter more than it should take, and never the last moment; without a measure, half of the
     * task's life. */
    hm_ns life =
        line->earliest_deadline > line->oldest ? line->earliest_deadline - line->oldest : 0;
    hm_ns need = line->service ? line->service + line->service / 4 : life / 2;
    hm_ns last = line->earliest_deadline > need ? line->earliest_deadline - need : 0;
    return at < last ? at : last;
}

/* Its class, less one for each HM_AGING_NS of waiting; but nobody is more urgent than the first
 * class: there it is turns that count, or a line that is behind would keep all others waiting. */
static unsigned aged_class(const struct hm_line_view *line, hm_ns now)
{
    hm_ns since = line->picked > line->oldest ? line->picked : line->oldest;
    hm_ns steps = now > since ? (now - since) / HM_AGING_NS : 0;
    return steps < line->priority ? line->priority - (unsigned)steps : 0;
}

static bool goes_before(const struct hm_line_view *a, const struct hm_line_view *b, hm_ns now)
{
    unsigned class = aged_class(a, now), other = aged_class(b, now);
    if (class != other) return class < other;
    if (a->turn != b->turn) return a->turn < b->turn;
    return a->oldest < b->oldest;
}

static int in_turn(const struct hm_line_view *lines, unsigned count, hm_ns now, hm_ns *again)
{
    int best = -1;
    hm_ns next = HM_NS_NEVER;
    for (unsigned i = 0; i < count; i++) {
        hm_ns at = ready_at(&lines[i]);
        if (at > now) {
            if (at < next) next = at;
        } else if (best < 0 || goes_before(&lines[i], &lines[best], now)) {
            best = (int)i;
        }
    }
    *again = best >= 0 ? now : next;
    return best;
}

const struct hm_policy hm_policy_in_turn = {.name = "in_turn", .pick = in_turn};
