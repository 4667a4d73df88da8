/* tests/unit/base/test_metrics.c - metrics of several modules, summed by name. */
#include "test.h"

#include "base/metrics.h"
#include "death.h"

#include <signal.h>

static void values_of_one_name_are_summed(void **state)
{
    (void)state;
    struct hm_metrics metrics;
    struct hm_metric a = {.name = "tcp.bytes_sent", .kind = HM_COUNTER, .value = 5};
    struct hm_metric b = {.name = "tcp.bytes_sent", .kind = HM_COUNTER, .value = 7};
    struct hm_metric c = {.name = "tcp.peers", .kind = HM_GAUGE, .value = 2};
    hm_metrics_init(&metrics);
    assert_int_equal(hm_metrics_value(&metrics, "tcp.bytes_sent"), 0);
    hm_metrics_add(&metrics, &a);
    hm_metrics_add(&metrics, &b);
    hm_metrics_add(&metrics, &c);
    assert_int_equal(hm_metrics_value(&metrics, "tcp.bytes_sent"), 12);
    assert_int_equal(hm_metrics_value(&metrics, "tcp.peers"), 2);
    assert_int_equal(hm_metrics_value(&metrics, "tcp"), 0);
    a.value++; /* the hot path touches only the value */
    assert_int_equal(hm_metrics_value(&metrics, "tcp.bytes_sent"), 13);
    hm_metrics_remove(&a);
    hm_metrics_remove(&a);
    assert_int_equal(hm_metrics_value(&metrics, "tcp.bytes_sent"), 7);
}

static void json_names_each_metric_once(void **state)
{
    (void)state;
    static struct hm_histogram first, second;
    struct hm_metrics metrics;
    struct hm_metric a = {.name = "rpc.calls", .kind = HM_COUNTER, .value = 1};
    struct hm_metric h = {.name = "rpc.round_trip_us", .kind = HM_HISTOGRAM, .histogram = &first};
    struct hm_metric b = {.name = "rpc.calls", .kind = HM_COUNTER, .value = 2};
    struct hm_metric i = {.name = "rpc.round_trip_us", .kind = HM_HISTOGRAM, .histogram = &second};
    struct hm_json json;
    hm_histogram_init(&first);
    hm_histogram_init(&second);
    hm_histogram_add(&first, 10);
    hm_histogram_add(&second, 20);
    hm_metrics_init(&metrics);
    hm_metrics_add(&metrics, &a);
    hm_metrics_add(&metrics, &h);
    hm_metrics_add(&metrics, &b);
    hm_metrics_add(&metrics, &i);
    hm_json_init(&json);
    hm_metrics_json(&metrics, NULL, &json);
    assert_string_equal(hm_json_text(&json),
                        "{\"rpc.calls\":3,\"rpc.round_trip_us\":{\"count\":2,\"mean\":15,"
                        "\"p50\":10,\"p90\":20,\"p99\":20,\"max\":20}}");
    hm_json_fini(&json);
    assert_int_equal(hm_metrics_value(&metrics, "rpc.round_trip_us"), 0);
}

static void no_metrics_are_an_empty_object(void **state)
{
    (void)state;
    struct hm_metrics metrics;
    struct hm_json json;
    hm_metrics_init(&metrics);
    hm_json_init(&json);
    hm_metrics_json(&metrics, NULL, &json);
    assert_string_equal(hm_json_text(&json), "{}");
    hm_json_fini(&json);
}

static void a_histogram_without_memory_aborts(void **state)
{
    (void)state;
    struct hm_metrics metrics;
    struct hm_metric metric = {.name = "x", .kind = HM_HISTOGRAM};
    hm_metrics_init(&metrics);
    assert_aborts(hm_metrics_add(&metrics, &metric));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_one_name_are_summed),
        cmocka_unit_test(json_names_each_metric_once),
        cmocka_unit_test(no_metrics_are_an_empty_object),
        cmocka_unit_test(a_histogram_without_memory_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
