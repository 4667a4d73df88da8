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
    assert_non_null(strstr(text, "{\"name\":\"cuda6\",\"pci\":\"0000:d2:00.0\",\"numa\":1,"
                                 "\"nic\":\"mlx5_6\"}"));
    assert_non_null(strstr(text, "\"lanes\":[{\"device\":\"cuda6\",\"numa\":1,\"team\":1,"
                                 "\"cpuset\":\"56-111,168-223\",\"memory_nodes\":[1],"
                                 "\"memory_bytes\":1000000000000,\"nic\":\"mlx5_6\"}]"));
    assert_non_null(strstr(text, "\"net_devices\":\"mlx5_6:1\""));
    hm_json_fini(&json);
    hm_json_init(&json);
    hm_topo_json(&topo, NULL, &json, NULL);
    assert_null(strstr(hm_json_text(&json), "lanes"));
    hm_json_fini(&json);
}

/* What hm_topo_print writes; static. */
static const char *printed(const char *xml, struct hm_topo_wish wish)
{
    static struct hm_topo topo;
    static struct hm_topo_plan plan;
    static char text[16384];
    memset(text, 0, sizeof text);
    assert_ok(hm_topo_discover(xml, &topo));
    assert_ok(hm_topo_plan(&topo, &wish, &plan));
    FILE *to = fmemopen(text, sizeof text, "w");
    assert_non_null(to);
    hm_topo_print(&topo, &plan, to);
    assert_int_equal(fclose(to), 0);
    return text;
}

static void a_drawing_shows_each_gpu_once_under_its_node(void **state)
{
    (void)state;
    const char *text = printed(HM_SOURCE_DIR "/tests/fixtures/topo/hgx_8gpu.xml",
                               (struct hm_topo_wish){.gpus = true});
    const char *second = strstr(text, "NUMA node 1");
    assert_non_null(second);
    for (unsigned g = 0; g < 8; g++) {
        char name[16];
        snprintf(name, sizeof name, "GPU cuda%u", g);
        const char *at = strstr(text, name);
        assert_non_null(at);
        assert_null(strstr(at + 1, name));
        assert_true((at > second) == (g >= 4));
    }
    assert_non_null(strstr(text, "8 lanes, one a GPU."));
    assert_non_null(strstr(text, "UCX_NET_DEVICES=mlx5_0:1,"));
    assert_null(strstr(text, " \n"));
}

static void words_say_what_is_unused_down_or_limited(void **state)
{
    (void)state;
    const char *text = printed(HM_SOURCE_DIR "/tests/fixtures/topo/pcie_4gpu.xml",
                               (struct hm_topo_wish){.device = "cpu", .lane_threads = 3});
    assert_non_null(strstr(text, "mlx5_2 0000:1a:00.0  (down)"));
    assert_non_null(strstr(text, "4 GPUs stay unused"));
    assert_non_null(strstr(text, "3 threads on a place of 8 processors"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpusets_are_written_as_ranges),
        cmocka_unit_test(a_text_that_is_too_short_ends_after_a_whole_range),
        cmocka_unit_test(json_names_nodes_gpus_and_lanes),
        cmocka_unit_test(a_drawing_shows_each_gpu_once_under_its_node),
        cmocka_unit_test(words_say_what_is_unused_down_or_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
