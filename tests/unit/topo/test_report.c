/* Facts and plans for people and programs. */
#include "test.h"

#include "topo/topo.h"

static void cpusets_are_written_as_ranges(void **state)
{
    (void)state;
    uint64_t cpuset[HM_CPUS_MAX / 64] = {0};
    char text[64];
    assert_string_equal(hm_topo_cpuset_text(cpuset, text, sizeof text), "");
    cpuset[0] = 0x8000000000000109;
    cpuset[1] = 0x3;
    cpuset[HM_CPUS_MAX / 64 - 1] = UINT64_C(1) << 63;
    assert_string_equal(hm_topo_cpuset_text(cpuset, text, sizeof text), "0,3,8,63-65,1023");
}

static void a_text_that_is_too_short_ends_after_a_whole_range(void **state)
{
    (void)state;
    uint64_t cpuset[HM_CPUS_MAX / 64] = {0x109};
    char text[4];
    cpuset[1] = 0xf0;
    assert_string_equal(hm_topo_cpuset_text(cpuset, text, sizeof text), "0,3");
    assert_string_equal(hm_topo_cpuset_text(cpuset, text, 1), "");
}

static void json_names_nodes_gpus_and_lanes(void **state)
{
    (void)state;
    static struct hm_topo topo;
    static struct hm_topo_plan plan;
    struct hm_json json;
    assert_ok(hm_topo_discover(HM_SOURCE_DIR "/tests/fixtures/topo/hgx_8gpu.xml", &topo));
    assert_ok(hm_topo_plan(&topo, &(struct hm_topo_wish){.device = "cuda6", .gpus = true}, &plan));
    hm_json_init(&json);
    hm_topo_json(&topo, &plan, &json, NULL);
    const char *text = hm_json_text(&json);
    assert_non_null(text);
    assert_non_null(strstr(text, "{\"name\":\"cuda6\",\"pci\":\"0000:d2:00.0\",\"numa\":1}"));
    assert_non_null(strstr(text, "\"lanes\":[{\"device\":\"cuda6\",\"numa\":1,\"team\":1,"
                                 "\"cpuset\":\"56-111,168-223\"}]"));
    hm_json_fini(&json);
    hm_json_init(&json);
    hm_topo_json(&topo, NULL, &json, NULL);
    assert_null(strstr(hm_json_text(&json), "lanes"));
    hm_json_fini(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpusets_are_written_as_ranges),
        cmocka_unit_test(a_text_that_is_too_short_ends_after_a_whole_range),
        cmocka_unit_test(json_names_nodes_gpus_and_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
