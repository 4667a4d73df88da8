/* The directory answers what the swarm declares, remembers misses as long as it was told, and
 * learns from failed calls. */
#include "support_moe.h"

#include <stdio.h>

static struct moe_swarm swarm;

struct asked {
    bool done;
    enum hm_status status;
    unsigned count;
    struct hm_provider provider[16];
    struct hm_server_info info[4];
    struct hm_grid_name name[4];
    hm_ns took;
};

static void on_children(void *arg, enum hm_status status, const struct hm_children *children,
                        unsigned prefix_count)
{
    struct asked *asked = arg;
    assert_false(asked->done);
    asked->done = true;
    asked->status = status;
    if (status != HM_OK) return;
    assert_int_equal(prefix_count, 1);
    asked->count = children->count;
    assert_true(children->count <= 16);
    for (unsigned i = 0; i < children->count; i++) {
        asked->provider[i] = children->provider[i];
        if (i > 0)
            assert_true(children->provider[i].coordinate > children->provider[i - 1].coordinate);
    }
}

static struct asked ask(const char *prefix)
{
    struct asked asked = {0};
    hm_ns now = hm_loop_now(swarm.loop);
    assert_ok(hm_directory_children(swarm.trainer.directory, &prefix, 1,
                                    hm_deadline_after(swarm.loop, 20 * HM_S), on_children, &asked));
    assert_false(asked.done);
    moe_wait(&swarm, &asked.done, 30 * HM_S);
    asked.took = hm_loop_now(swarm.loop) - now;
    return asked;
}

static void on_servers(void *arg, enum hm_status status, const struct hm_server_info *info,
                       unsigned count)
{
    struct asked *asked = arg;
    asked->done = true;
    asked->status = status;
    asked->count = count;
    for (unsigned i = 0; i < count && i < 4; i++) asked->info[i] = info[i];
}

static void on_names(void *arg, enum hm_status status, const struct hm_grid_name *name,
                     unsigned count)
{
    struct asked *asked = arg;
    asked->done = true;
    asked->status = status;
    asked->count = count;
    for (unsigned i = 0; i < count && i < 4; i++) asked->name[i] = name[i];
}

/* ---- answers ---- */

static void children_of_every_prefix_are_found_and_then_cached(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 1, 3);
    struct asked asked = ask("ffn.");
    assert_status(asked.status, HM_OK);
    assert_int_equal(asked.count, MOE_GRID);
    assert_int_equal(asked.provider[0].server_count, 3);
    assert_true(asked.took > 0);
    asked = ask("ffn.1.");
    assert_int_equal(asked.count, MOE_GRID);
    for (unsigned i = 0; i < MOE_GRID; i++) {
        char uid[32];
        struct moe_server *server;
        snprintf(uid, sizeof uid, "ffn.1.%u", i);
        (void)moe_expert(&swarm, uid, &server);
        assert_int_equal(asked.provider[i].server_count, 1);
        assert_true(hm_node_id_equal(&asked.provider[i].server[0], &server->node.id));
    }
    assert_int_equal(ask("ffn.1.").took, 0); /* no time passes: nobody was asked */
    assert_int_equal(ask("ffn.").took, 0);
    asked = ask("none.");
    assert_status(asked.status, HM_OK);
    assert_int_equal(asked.count, 0);
    moe_swarm_close(&swarm);
}

static void the_least_loaded_server_comes_first(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 2, 0);
    swarm.server_count = 3;
    for (unsigned i = 0; i < 3; i++) {
        moe_server_host(&swarm.server[i], "ffn.0.0");
        swarm.server[i].rows_queued = (uint32_t[]){50, 10, 30}[i];
        moe_server_open(&swarm, i);
    }
    struct asked asked = ask("ffn.0.");
    assert_int_equal(asked.count, 1);
    assert_int_equal(asked.provider[0].server_count, 3);
    assert_true(hm_node_id_equal(&asked.provider[0].server[0], &swarm.server[1].node.id));
    assert_true(hm_node_id_equal(&asked.provider[0].server[1], &swarm.server[2].node.id));
    assert_true(hm_node_id_equal(&asked.provider[0].server[2], &swarm.server[0].node.id));
    moe_swarm_close(&swarm);
}

static void servers_are_told_with_their_addresses_and_names_with_their_dimensions(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 3, 2);
    struct hm_node_id nodes[3] = {swarm.server[1].node.id, {{1, 2, 3}}, swarm.server[0].node.id};
    struct asked asked = {0};
    assert_ok(hm_directory_servers(swarm.trainer.directory, nodes, 3,
                                   hm_deadline_after(swarm.loop, 20 * HM_S), on_servers, &asked));
    moe_wait(&swarm, &asked.done, 30 * HM_S);
    assert_status(asked.status, HM_OK);
    assert_int_equal(asked.count, 3);
    char text[32];
    snprintf(text, sizeof text, "sim:%u", moe_number(2));
    assert_string_equal(asked.info[0].addrs.addr[0].text, text);
    assert_int_equal(asked.info[1].addrs.count, 0); /* nobody */
    assert_true(hm_node_id_equal(&asked.info[2].node, &nodes[2]));
    assert_int_equal(asked.info[2].expert_count, 5);
    asked = (struct asked){0};
    assert_ok(hm_directory_names(swarm.trainer.directory, hm_deadline_after(swarm.loop, 20 * HM_S),
                                 on_names, &asked));
    moe_wait(&swarm, &asked.done, 30 * HM_S);
    assert_status(asked.status, HM_OK);
    assert_int_equal(asked.count, 1);
    assert_string_equal(asked.name[0].name, "ffn");
    assert_int_equal(asked.name[0].dim_count, 2);
    moe_swarm_close(&swarm);
}

/* ---- time ---- */

static void a_miss_is_remembered_for_as_long_as_it_was_told_and_an_answer_is_not(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        hm_ns negative = (round ? 3 : 9) * HM_S;
        swarm.negative_cache_max = negative;
        moe_swarm_open(&swarm, 4, 0);
        swarm.server_count = 1;
        assert_int_equal(ask("ffn.").count, 0);
        hm_ns missed = hm_loop_now(swarm.loop);
        moe_server_host(&swarm.server[0], "ffn.2.0");
        moe_server_open(&swarm, 0);
        assert_true(hm_loop_now(swarm.loop) - missed < negative);
        hm_world_run_until(swarm.world, missed + negative - 1);
        struct asked asked = ask("ffn.");
        assert_int_equal(asked.count, 0);
        assert_int_equal(asked.took, 0);
        hm_world_run_until(swarm.world, missed + negative + 1);
        assert_int_equal(ask("ffn.").count, 1);
        /* Found now, and no longer dependent on the network for much longer than a miss would be.
         * */
        hm_net_cut_both(swarm.world, 0, hm_net_find(swarm.world, &swarm.trainer.id), true);
        moe_run(&swarm, 2 * negative);
        asked = ask("ffn.");
        assert_int_equal(asked.count, 1);
        assert_int_equal(asked.took, 0);
        hm_net_cut_both(swarm.world, 0, hm_net_find(swarm.world, &swarm.trainer.id), false);
        moe_swarm_close(&swarm);
    }
    swarm.negative_cache_max = 0;
}

static void a_new_server_is_seen_within_seconds_although_answers_live_long(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 5, 1);
    swarm.server_count = 2;
    assert_int_equal(ask("ffn.1.").count, MOE_GRID);
    moe_server_host(&swarm.server[1], "ffn.1.7");
    moe_server_open(&swarm, 1);
    hm_ns declared = hm_loop_now(swarm.loop);
    while (ask("ffn.1.").count == MOE_GRID) {
        moe_run(&swarm, HM_S / 2);
        assert_true(hm_loop_now(swarm.loop) - declared < 15 * HM_S);
    }
    assert_int_equal(ask("ffn.1.").count, MOE_GRID + 1);
    moe_swarm_close(&swarm);
}

static void a_server_whose_record_is_over_is_dead_whatever_its_expert_records_say(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 6, 2);
    assert_int_equal(ask("ffn.0.").count, MOE_GRID);
    swarm.server[0].silent_redeclare = true; /* it lives, and says nothing any more */
    moe_run(&swarm, 70 * HM_S);
    struct asked asked = ask("ffn.0.");
    assert_status(asked.status, HM_OK);
    for (unsigned i = 0; i < asked.count; i++)
        assert_true(hm_node_id_equal(&asked.provider[i].server[0], &swarm.server[1].node.id));
    assert_true(asked.count > 0 && asked.count < MOE_GRID);
    moe_swarm_close(&swarm);
}

static void a_withdrawn_server_is_not_found_by_newcomers(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 7, 2);
    moe_server_declare(&swarm.server[0], true, true);
    hm_timer_stop(swarm.loop, &swarm.server[0].redeclare);
    moe_run(&swarm, 2 * HM_S);
    struct asked asked = ask("ffn.0.");
    assert_true(asked.count > 0 && asked.count < MOE_GRID);
    moe_swarm_close(&swarm);
}

static void without_a_way_to_the_swarm_the_status_says_so(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 8, 1);
    hm_net_cut_both(swarm.world, 0, hm_net_find(swarm.world, &swarm.trainer.id), true);
    struct asked asked = ask("ffn.");
    assert_true(asked.status == HM_ERR_TIMED_OUT || asked.status == HM_ERR_PEER_UNREACHABLE);
    assert_true(asked.took <= 20 * HM_S);
    hm_net_cut_both(swarm.world, 0, hm_net_find(swarm.world, &swarm.trainer.id), false);
    moe_swarm_close(&swarm);
}

/* ---- suspicion ---- */

static bool first_is(unsigned server)
{
    struct asked asked = ask("ffn.0.");
    return asked.count > 0 &&
           hm_node_id_equal(&asked.provider[0].server[0], &swarm.server[server].node.id);
}

static void a_suspected_server_is_left_out_for_a_hold_that_doubles(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 9, 2); /* ffn.0.0 is server 0's */
    const struct hm_node_id *server = &swarm.server[0].node.id;
    swarm.server[0].silent_redeclare = swarm.server[1].silent_redeclare = true;
    assert_true(first_is(0));
    hm_directory_suspect(swarm.trainer.directory, server, 0);
    assert_false(first_is(0));
    hm_directory_suspect(swarm.trainer.directory, server, 0); /* of the same batch: counts once */
    moe_run(&swarm, 4900 * HM_MS);
    assert_false(first_is(0));
    moe_run(&swarm, 200 * HM_MS);
    assert_true(first_is(0));
    hm_directory_suspect(swarm.trainer.directory, server, 0);
    moe_run(&swarm, 9900 * HM_MS);
    assert_false(first_is(0));
    moe_run(&swarm, 200 * HM_MS);
    assert_true(first_is(0));
    hm_directory_trust(swarm.trainer.directory,
                       server); /* a call succeeded: the next hold is short again */
    hm_directory_suspect(swarm.trainer.directory, server, 0);
    moe_run(&swarm, 5100 * HM_MS);
    assert_true(first_is(0));
    moe_swarm_close(&swarm);
}

static void a_suspected_server_that_declares_itself_again_is_trusted(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 10, 2);
    assert_true(first_is(0));
    swarm.server[0].silent_redeclare = true;
    hm_directory_suspect(swarm.trainer.directory, &swarm.server[0].node.id, 50 * HM_S);
    moe_run(&swarm, 3 * HM_S);
    assert_false(first_is(0));
    moe_server_declare(&swarm.server[0], false, false);
    hm_ns declared = hm_loop_now(swarm.loop);
    while (!first_is(0)) {
        moe_run(&swarm, HM_S / 4);
        assert_true(hm_loop_now(swarm.loop) - declared < 5 * HM_S);
    }
    moe_swarm_close(&swarm);
}

static void where_everybody_is_suspected_they_are_better_than_nobody(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 12, 2);
    assert_int_equal(ask("ffn.0.").count, MOE_GRID);
    hm_directory_suspect(swarm.trainer.directory, &swarm.server[0].node.id, 0);
    assert_true(ask("ffn.0.").count < MOE_GRID);
    hm_directory_suspect(swarm.trainer.directory, &swarm.server[1].node.id, 0);
    assert_int_equal(ask("ffn.0.").count, MOE_GRID);
    moe_swarm_close(&swarm);
}

static void who_failed_lately_comes_after_who_did_not(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 13, 0);
    swarm.server_count = 2;
    for (unsigned i = 0; i < 2; i++) {
        moe_server_host(&swarm.server[i], "ffn.0.0");
        swarm.server[i].rows_queued = i ? 100 : 1;
        swarm.server[i].silent_redeclare = true;
        moe_server_open(&swarm, i);
    }
    assert_true(first_is(0));
    hm_directory_suspect(swarm.trainer.directory, &swarm.server[0].node.id, 0);
    moe_run(&swarm, 7 * HM_S); /* the hold is over */
    struct asked asked = ask("ffn.0.");
    assert_int_equal(asked.provider[0].server_count, 2);
    assert_true(first_is(1));
    hm_directory_trust(swarm.trainer.directory, &swarm.server[0].node.id);
    assert_true(first_is(0));
    moe_swarm_close(&swarm);
}

static void a_suspected_expert_is_left_out_alone(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 11, 1);
    struct hm_uid uid;
    assert_ok(hm_uid_parse("ffn.0.1", &uid));
    assert_int_equal(ask("ffn.0.").count, MOE_GRID);
    hm_directory_suspect_expert(swarm.trainer.directory, &swarm.server[0].node.id, &uid);
    struct asked asked = ask("ffn.0.");
    assert_int_equal(asked.count, MOE_GRID - 1);
    for (unsigned i = 0; i < asked.count; i++)
        assert_int_not_equal(asked.provider[i].coordinate, 1);
    moe_run(&swarm, 11 * HM_S);
    assert_int_equal(ask("ffn.0.").count, MOE_GRID);
    moe_swarm_close(&swarm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(children_of_every_prefix_are_found_and_then_cached),
        cmocka_unit_test(the_least_loaded_server_comes_first),
        cmocka_unit_test(servers_are_told_with_their_addresses_and_names_with_their_dimensions),
        cmocka_unit_test(a_miss_is_remembered_for_as_long_as_it_was_told_and_an_answer_is_not),
        cmocka_unit_test(a_new_server_is_seen_within_seconds_although_answers_live_long),
        cmocka_unit_test(a_server_whose_record_is_over_is_dead_whatever_its_expert_records_say),
        cmocka_unit_test(a_withdrawn_server_is_not_found_by_newcomers),
        cmocka_unit_test(without_a_way_to_the_swarm_the_status_says_so),
        cmocka_unit_test(a_suspected_server_is_left_out_for_a_hold_that_doubles),
        cmocka_unit_test(a_suspected_server_that_declares_itself_again_is_trusted),
        cmocka_unit_test(where_everybody_is_suspected_they_are_better_than_nobody),
        cmocka_unit_test(who_failed_lately_comes_after_who_did_not),
        cmocka_unit_test(a_suspected_expert_is_left_out_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
