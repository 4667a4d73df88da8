/* tests/unit/base/test_list.c - the intrusive ring. */
#include "test.h"

#include "base/list.h"

struct item {
    int value;
    struct hm_link link;
};

static int value_of(struct hm_link *link)
{
    return HM_CONTAINER_OF(link, struct item, link)->value;
}

static void a_new_link_is_alone(void **state)
{
    (void)state;
    struct hm_link head;
    hm_list_init(&head);
    assert_true(hm_list_empty(&head));
    assert_false(hm_list_linked(&head));
    assert_null(hm_list_pop(&head));
}

static void push_is_first_in_first_out_and_push_front_is_not(void **state)
{
    (void)state;
    struct hm_link head;
    struct item items[4];
    hm_list_init(&head);
    for (int i = 0; i < 3; i++) {
        items[i].value = i;
        hm_list_push(&head, &items[i].link);
        assert_true(hm_list_linked(&items[i].link));
    }
    items[3].value = 3;
    hm_list_push_front(&head, &items[3].link);
    static const int order[] = {3, 0, 1, 2};
    for (int i = 0; i < 4; i++) assert_int_equal(value_of(hm_list_pop(&head)), order[i]);
    assert_true(hm_list_empty(&head));
}

static void removing_twice_is_harmless(void **state)
{
    (void)state;
    struct hm_link head;
    struct item items[3] = {{.value = 0}, {.value = 1}, {.value = 2}};
    hm_list_init(&head);
    for (int i = 0; i < 3; i++) hm_list_push(&head, &items[i].link);
    hm_list_remove(&items[1].link);
    hm_list_remove(&items[1].link);
    assert_false(hm_list_linked(&items[1].link));
    int sum = 0, count = 0;
    HM_LIST_EACH (link, &head) {
        sum += value_of(link);
        count++;
    }
    assert_int_equal(count, 2);
    assert_int_equal(sum, 2);
}

static void the_safe_walk_may_remove_what_it_stands_on(void **state)
{
    (void)state;
    struct hm_link head;
    struct item items[5];
    hm_list_init(&head);
    for (int i = 0; i < 5; i++) {
        items[i].value = i;
        hm_list_push(&head, &items[i].link);
    }
    int visited = 0;
    HM_LIST_EACH_SAFE (link, &head) {
        assert_int_equal(value_of(link), visited++);
        if (value_of(link) % 2 == 0) hm_list_remove(link);
    }
    assert_int_equal(visited, 5);
    assert_int_equal(value_of(hm_list_pop(&head)), 1);
    assert_int_equal(value_of(hm_list_pop(&head)), 3);
    assert_null(hm_list_pop(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_link_is_alone),
        cmocka_unit_test(push_is_first_in_first_out_and_push_front_is_not),
        cmocka_unit_test(removing_twice_is_harmless),
        cmocka_unit_test(the_safe_walk_may_remove_what_it_stands_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
