/* Which line runs next, by table: the policy is a pure function. */
#include "test.h"

#include "base/assert.h"
#include "base/rng.h"
#include "sched/sched.h"

static const hm_ns now = 10 * HM_S;

/* A line whose oldest task has waited `waited`, and that never had a turn. */
static struct hm_line_view view(enum hm_priority priority, hm_ns waited)
{
    return (struct hm_line_view){
        .rows = 1, .oldest = now - waited, .earliest_deadline = HM_NS_NEVER, .priority = priority};
}

static struct hm_line_view had_turn(struct hm_line_view line, uint64_t turn, hm_ns ago)
{
    line.turn = turn;
    line.picked = now - ago;
    return line;
}

static int pick(const struct hm_line_view *lines, unsigned count, hm_ns *again)
{
    *again = 0;
    return hm_policy_in_turn.pick(lines, count, now, again);
}

static void of_a_class_the_one_whose_turn_is_longest_ago_runs(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {had_turn(view(HM_PRIORITY_TRAINING, 9 * HM_MS), 12, 3 * HM_MS),
                                   had_turn(view(HM_PRIORITY_TRAINING, 5 * HM_MS), 10, 5 * HM_MS),
                                   had_turn(view(HM_PRIORITY_TRAINING, 7 * HM_MS), 11, 4 * HM_MS)};
    assert_int_equal(pick(lines, 3, &again), 1);
    lines[2] = view(HM_PRIORITY_TRAINING, 0); /* never had one */
    assert_int_equal(pick(lines, 3, &again), 2);
}

static void of_those_who_had_none_the_oldest_runs_and_of_equals_the_first(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {view(HM_PRIORITY_TRAINING, HM_MS),
                                   view(HM_PRIORITY_TRAINING, 2 * HM_MS),
                                   view(HM_PRIORITY_TRAINING, 2 * HM_MS)};
    assert_int_equal(pick(lines, 3, &again), 1);
}

static void the_more_urgent_class_runs_first(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {view(HM_PRIORITY_BACKGROUND, 99 * HM_MS),
                                   view(HM_PRIORITY_TRAINING, 50 * HM_MS),
                                   had_turn(view(HM_PRIORITY_INFERENCE, 0), 1, 0)};
    assert_int_equal(pick(lines, 3, &again), 2);
    assert_int_equal(pick(lines, 2, &again), 1);
}

static void waiting_an_aging_step_is_worth_a_class(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {had_turn(view(HM_PRIORITY_INFERENCE, 0), 9, 0),
                                   view(HM_PRIORITY_TRAINING, HM_AGING_NS - 1)};
    assert_int_equal(pick(lines, 2, &again), 0);
    lines[1] = view(HM_PRIORITY_TRAINING, HM_AGING_NS); /* the same class now, and before in turn */
    assert_int_equal(pick(lines, 2, &again), 1);
    lines[1] = view(HM_PRIORITY_BACKGROUND, 2 * HM_AGING_NS - 1);
    assert_int_equal(pick(lines, 2, &again), 0);
    lines[1] = view(HM_PRIORITY_BACKGROUND, 2 * HM_AGING_NS);
    assert_int_equal(pick(lines, 2, &again), 1);
}

/* A backlog of training that is old as a whole must not take the lane for as long as it lasts. */
static void a_turn_begins_the_wait_anew_however_old_the_tasks_are(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {
        had_turn(view(HM_PRIORITY_INFERENCE, HM_MS), 9, 0),
        had_turn(view(HM_PRIORITY_TRAINING, 5 * HM_S), 8, HM_AGING_NS - 1)};
    assert_int_equal(pick(lines, 2, &again), 0);
    lines[1].picked--;
    assert_int_equal(pick(lines, 2, &again), 1);
}

/* The bound of sched.h, from any beginning: play turns of random lines that are never empty. */
static void every_line_has_its_turn_after_its_aging_and_one_turn_of_each_other(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 1, 0);
    for (unsigned round = 0; round < 300; round++) {
        enum { LINES = 8 };
        const hm_ns service = 1 + hm_rng_below(&rng, 60) * HM_MS;
        struct hm_line_view lines[LINES];
        unsigned count = 2 + (unsigned)hm_rng_below(&rng, LINES - 1);
        uint64_t turns = 0;
        hm_ns at = now;
        for (unsigned i = 0; i < count; i++)
            lines[i] = view((enum hm_priority)hm_rng_below(&rng, HM_PRIORITIES),
                            hm_rng_below(&rng, 600) * HM_MS);
        for (unsigned i = 0; i < count; i++) lines[i].picked = now; /* the wait begins here */
        for (unsigned step = 0; step < 200; step++, at += service) {
            hm_ns again = 0;
            int picked = hm_policy_in_turn.pick(lines, count, at, &again);
            assert_in_range(picked, 0, count - 1);
            struct hm_line_view *line = &lines[picked];
            assert_true(at - line->picked <= line->priority * HM_AGING_NS + count * service);
            line->turn = ++turns;
            line->picked = at;
        }
        for (unsigned i = 0; i < count; i++)
            assert_true(at - lines[i].picked <=
                        lines[i].priority * HM_AGING_NS + (count + 1) * service);
    }
}

static void a_batch_that_is_not_full_waits_and_says_until_when(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {view(HM_PRIORITY_TRAINING, 2 * HM_MS),
                                   view(HM_PRIORITY_TRAINING, HM_MS)};
    lines[0].batch_delay_max = 10 * HM_MS;
    lines[1].batch_delay_max = 4 * HM_MS;
    assert_int_equal(pick(lines, 2, &again), -1);
    assert_int_equal(again, now + 3 * HM_MS);
    lines[0].full = true;
    assert_int_equal(pick(lines, 2, &again), 0);
    lines[0].full = false;
    lines[0].batch_delay_max = 2 * HM_MS; /* over just now */
    assert_int_equal(pick(lines, 2, &again), 0);
}

static void preferred_rows_end_the_wait(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {view(HM_PRIORITY_INFERENCE, HM_MS)};
    lines[0].batch_delay_max = 5 * HM_MS;
    lines[0].batch_rows_preferred = 32;
    lines[0].rows = 31;
    assert_int_equal(pick(lines, 1, &again), -1);
    assert_int_equal(again, now + 4 * HM_MS);
    lines[0].rows = 32;
    assert_int_equal(pick(lines, 1, &again), 0);
    lines[0].batch_rows_preferred = 0; /* nothing is preferred: only a full batch does not wait */
    assert_int_equal(pick(lines, 1, &again), -1);
}

static void a_delay_without_end_waits_for_a_submit(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {view(HM_PRIORITY_TRAINING, 2 * HM_MS)};
    lines[0].batch_delay_max = HM_NS_NEVER;
    assert_int_equal(pick(lines, 1, &again), -1);
    assert_true(again == HM_NS_NEVER);
}

static void the_wait_leaves_time_to_serve_the_earliest_deadline(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_line_view lines[] = {view(HM_PRIORITY_TRAINING, 2 * HM_MS)};
    lines[0].batch_delay_max = HM_S;
    lines[0].earliest_deadline = now + 20 * HM_MS;
    lines[0].service = 8 * HM_MS;
    assert_int_equal(pick(lines, 1, &again), -1);
    assert_int_equal(again, now + 10 * HM_MS);
    lines[0].service = 16 * HM_MS;
    assert_int_equal(pick(lines, 1, &again), 0);
    lines[0].service = 0; /* unknown: half of the 22 ms that it had */
    assert_int_equal(pick(lines, 1, &again), -1);
    assert_int_equal(again, now + 9 * HM_MS);
    lines[0].service = HM_NS_NEVER / 4; /* longer than there is time since the start */
    assert_int_equal(pick(lines, 1, &again), 0);
}

static void nothing_queued_is_nothing_to_run(void **state)
{
    (void)state;
    hm_ns again;
    assert_int_equal(hm_policy_in_turn.pick(NULL, 0, now, &again), -1);
    assert_true(again == HM_NS_NEVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_a_class_the_one_whose_turn_is_longest_ago_runs),
        cmocka_unit_test(of_those_who_had_none_the_oldest_runs_and_of_equals_the_first),
        cmocka_unit_test(the_more_urgent_class_runs_first),
        cmocka_unit_test(waiting_an_aging_step_is_worth_a_class),
        cmocka_unit_test(a_turn_begins_the_wait_anew_however_old_the_tasks_are),
        cmocka_unit_test(every_line_has_its_turn_after_its_aging_and_one_turn_of_each_other),
        cmocka_unit_test(a_batch_that_is_not_full_waits_and_says_until_when),
        cmocka_unit_test(preferred_rows_end_the_wait),
        cmocka_unit_test(a_delay_without_end_waits_for_a_submit),
        cmocka_unit_test(the_wait_leaves_time_to_serve_the_earliest_deadline),
        cmocka_unit_test(nothing_queued_is_nothing_to_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
