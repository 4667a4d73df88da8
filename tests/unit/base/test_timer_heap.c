/* tests/unit/base/test_timer_heap.c - the heap against a search through all timers. */
#include "test.h"

#include "base/rng.h"
#include "base/timer_heap.h"
#include "death.h"

#include <signal.h>

static void never_called(struct hm_timer *timer)
{
    (void)timer;
    fail_msg("the heap calls nobody");
}

static void timers_leave_in_the_order_of_due_then_start(void **state)
{
    (void)state;
    struct hm_timer_heap heap;
    struct hm_timer timers[4] = {0};
    static const hm_ns due[] = {30, 10, 30, 20};
    static const int order[] = {1, 3, 0, 2};
    assert_ok(hm_timer_heap_init(&heap));
    assert_true(hm_timer_heap_next(&heap) == HM_NS_NEVER);
    for (int i = 0; i < 4; i++) {
        timers[i].cb = never_called;
        hm_timer_heap_start(&heap, &timers[i], due[i]);
        assert_true(hm_timer_active(&timers[i]));
    }
    assert_true(hm_timer_heap_next(&heap) == 10);
    assert_null(hm_timer_heap_pop(&heap, 9, UINT64_MAX));
    for (int i = 0; i < 4; i++) {
        struct hm_timer *timer = hm_timer_heap_pop(&heap, 30, UINT64_MAX);
        assert_ptr_equal(timer, &timers[order[i]]);
        assert_false(hm_timer_active(timer));
    }
    assert_null(hm_timer_heap_pop(&heap, HM_NS_NEVER, UINT64_MAX));
    hm_timer_heap_fini(&heap);
}

static void starting_again_moves_a_timer_behind_its_equals(void **state)
{
    (void)state;
    struct hm_timer_heap heap;
    struct hm_timer a = {.cb = never_called}, b = {.cb = never_called};
    assert_ok(hm_timer_heap_init(&heap));
    hm_timer_heap_start(&heap, &a, 5);
    hm_timer_heap_start(&heap, &b, 5);
    hm_timer_heap_start(&heap, &a, 5);
    assert_int_equal(heap.count, 2);
    assert_ptr_equal(hm_timer_heap_pop(&heap, 5, UINT64_MAX), &b);
    assert_ptr_equal(hm_timer_heap_pop(&heap, 5, UINT64_MAX), &a);
    hm_timer_heap_stop(&heap, &a);
    hm_timer_heap_stop(&heap, &a);
    assert_int_equal(heap.count, 0);
    hm_timer_heap_fini(&heap);
}

static void timers_started_in_a_turn_wait_for_the_next(void **state)
{
    (void)state;
    struct hm_timer_heap heap;
    struct hm_timer early = {.cb = never_called}, late = {.cb = never_called};
    assert_ok(hm_timer_heap_init(&heap));
    hm_timer_heap_start(&heap, &early, 7);
    uint64_t order_limit = heap.order_next;
    hm_timer_heap_start(&heap, &late, 7);
    assert_ptr_equal(hm_timer_heap_pop(&heap, 7, order_limit), &early);
    assert_null(hm_timer_heap_pop(&heap, 7, order_limit));
    assert_ptr_equal(hm_timer_heap_pop(&heap, 7, heap.order_next), &late);
    hm_timer_heap_fini(&heap);
}

static void a_timer_for_never_is_started_and_never_due(void **state)
{
    (void)state;
    struct hm_timer_heap heap;
    struct hm_timer timer = {.cb = never_called};
    assert_ok(hm_timer_heap_init(&heap));
    hm_timer_heap_start(&heap, &timer, HM_NS_NEVER);
    assert_true(hm_timer_active(&timer));
    assert_null(hm_timer_heap_pop(&heap, HM_NS_NEVER, UINT64_MAX));
    hm_timer_heap_stop(&heap, &timer);
    hm_timer_heap_fini(&heap);
}

static void random_use_agrees_with_a_search(void **state)
{
    (void)state;
    enum { TIMERS = 2000, STEPS = 60000 };
    static struct hm_timer timers[TIMERS];
    struct hm_timer_heap heap;
    struct hm_rng rng;
    hm_ns now = 1;
    hm_rng_init(&rng, 31, 0);
    assert_ok(hm_timer_heap_init(&heap));
    for (int i = 0; i < TIMERS; i++) timers[i].cb = never_called;
    for (int step = 0; step < STEPS; step++) {
        struct hm_timer *timer = &timers[hm_rng_below(&rng, TIMERS)];
        uint64_t what = hm_rng_below(&rng, 10);
        if (what < 6) {
            hm_timer_heap_start(&heap, timer, now + hm_rng_below(&rng, 500));
        } else if (what < 8) {
            hm_timer_heap_stop(&heap, timer);
            assert_false(hm_timer_active(timer));
        } else if (step % 50 == 0) { /* the search is slow */
            struct hm_timer *least = NULL;
            for (int i = 0; i < TIMERS; i++) {
                if (timers[i].due == 0) continue;
                if (!least || timers[i].due < least->due ||
                    (timers[i].due == least->due && timers[i].order < least->order))
                    least = &timers[i];
            }
            assert_true(hm_timer_heap_next(&heap) == (least ? least->due : HM_NS_NEVER));
            now += 3;
            struct hm_timer *wanted = least && least->due <= now ? least : NULL;
            assert_ptr_equal(hm_timer_heap_pop(&heap, now, UINT64_MAX), wanted);
            hm_timer_heap_check(&heap);
        } else {
            (void)hm_timer_heap_pop(&heap, now, UINT64_MAX);
        }
    }
    hm_timer_heap_check(&heap);
    hm_timer_heap_fini(&heap);
}

static void the_check_finds_a_heap_that_is_out_of_order(void **state)
{
    (void)state;
    struct hm_timer_heap heap;
    struct hm_timer timers[3] = {{.cb = never_called}, {.cb = never_called}, {.cb = never_called}};
    assert_ok(hm_timer_heap_init(&heap));
    for (int i = 0; i < 3; i++) hm_timer_heap_start(&heap, &timers[i], (hm_ns)(10 + i));
    hm_timer_heap_check(&heap);
    timers[0].due = 99;
    assert_aborts(hm_timer_heap_check(&heap));
    hm_timer_heap_fini(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_leave_in_the_order_of_due_then_start),
        cmocka_unit_test(starting_again_moves_a_timer_behind_its_equals),
        cmocka_unit_test(timers_started_in_a_turn_wait_for_the_next),
        cmocka_unit_test(a_timer_for_never_is_started_and_never_due),
        cmocka_unit_test(random_use_agrees_with_a_search),
        cmocka_unit_test(the_check_finds_a_heap_that_is_out_of_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
