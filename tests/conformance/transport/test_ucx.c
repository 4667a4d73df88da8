/* ucx is a transport: the suite over shared memory, over UCX's own TCP on loopback and between two
 * networks, with tcp as the control connection.  Skipped where the module is not there. */
#include "support_joint.h"
#include "support_networks.h"
#include "support_real.h"
#include "support_ucx_attack.h"

#include "base/loop_uv.h"
#include "base/module.h"
#include "transport/ucx_options.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

static struct hm_ucx_options options;
static struct joint_parts parts = {.control = &hm_transport_tcp, .fabric_world = &options};

/* ---- attackers ------------------------------------------------------------------------------- */

static bool process_has_ended(void *arg)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t) * (int *)arg, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
}

static void attack(struct suite *suite, struct node *victim, size_t index)
{
    char number[16];
    struct hm_addr addr;
    node_addr(victim, &addr);
    snprintf(number, sizeof number, "%zu", index);
    char *argv[] = {"attacker", "--attack", number, addr.text, NULL};
    int output, status, pid = real_spawn(argv, &output);
    close(output);
    await(suite, process_has_ended, &pid);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("%s: the attacker ended with %d", ucx_attacks[index].name, status);
}

static bool ucx_announce_flood(struct suite *suite, struct node *victim)
{
    attack(suite, victim, 0);
    return true;
}

static void pull_any(struct node *node, struct end *end, const void *header, size_t header_bytes,
                     struct hm_inbound *in)
{
    struct held held = {.in = in, .end = end};
    (void)header;
    (void)header_bytes;
    claim(node->suite, end_pull(&held) == HM_OK);
}

/* One attacker of each kind; the victim keeps serving a friend all the while. */
static void what_breaks_a_bound_ends_its_own_endpoint_and_nothing_else(void **state)
{
    struct suite *suite = *state;
    struct node *victim = node_open(suite, NULL);
    struct node *friend = node_open(suite, &(struct node_conf){.dials_only = true});
    struct end *here, *there;
    nodes_connect(friend, victim, &here, &there);
    for (size_t i = 0; i < ucx_attack_count; i++) {
        unsigned ends = victim->end_count, held = victim->held_count;
        unsigned failed = victim->pulls_failed;
        victim->on_message = ucx_attacks[i].pulled ? pull_any : node_hold_any;
        attack(suite, victim, i);
        await(suite, end_is_down, &victim->end[ends]);
        enum hm_status why = victim->end[ends].why;
        if (why != (ucx_attacks[i].ignored ? HM_ERR_PEER_RESET : HM_ERR_PEER_PROTOCOL))
            fail_msg("%s: down with %s", ucx_attacks[i].name, hm_status_name(why));
        if (ucx_attacks[i].ignored) assert_int_equal(victim->held_count, held);
        assert_int_equal(victim->pulls_failed - failed, ucx_attacks[i].pulled);
        node_take_held(victim, TAKE_DROP);
    }
    assert_int_equal(here->downs + there->downs, 0);
    victim->on_message = NULL;
    unsigned count = 1;
    victim->arg = &count;
    victim->messages = 0;
    assert_ok(end_send(here, 9, 1000, 1));
    await(suite, node_has_messages, victim);
    suite_finish(suite);
}

static const struct provider ucx_provider = {
    .ops = &joint_ops,
    .listen = "127.0.0.1:0",
    .start = real_start,
    .stop = real_stop,
    .run = real_run,
    .puppet_start = real_puppet_start,
    .puppet_pause = real_puppet_pause,
    .puppet_kill = real_puppet_kill,
    .silent_addr = real_silent_addr,
};

/* Puppets inherit the environment, and with it the choice. */
static void choose(const char *transports, const char *piece_bytes)
{
    setenv("HM_UCX_TLS", transports, 1);
    setenv("HM_UCX_NET_DEVICES", "lo", 1);
    setenv("HM_TEST_PIECE_BYTES", piece_bytes, 1);
}

static int module_find(void)
{
    const void *ops;
    if (hm_module_load("ucx", &ops) != HM_OK) return 77;
    options.tcp = strstr(getenv("HM_UCX_TLS"), "tcp") != NULL;
    options.piece_bytes = strtoull(getenv("HM_TEST_PIECE_BYTES"), NULL, 10);
    parts.networks = getenv("HM_TEST_NETWORKS") != NULL;
    parts.fabric = ops;
    joint_begin(&parts);
    return 0;
}

/* ---- what is refused when it is opened -------------------------------------------------------- */

/* In a process of its own: 0: it opened, 1: refused with a line, 2: something else. */
static int open_result(const struct hm_ucx_options *given)
{
    static const struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR};
    const struct hm_transport_conf conf = {.hello = &hello,
                                           .endpoints_max = 4,
                                           .receive_bytes_max = MIB,
                                           .handshake_max = HM_S,
                                           .world = (void *)(uintptr_t)given};
    const struct hm_transport_sink sink = {0};
    struct hm_transport *transport = NULL;
    struct hm_loop *loop;
    if (hm_loop_uv_create(1, &loop) != HM_OK) return 2;
    hm_fail_clear();
    enum hm_status status = parts.fabric->open(&conf, loop, &sink, &transport);
    if (status == HM_OK) return transport ? 0 : 2;
    if (status != HM_ERR_INVALID || transport || !hm_fail_line()[0]) return 2;
    hm_loop_uv_destroy(loop); /* asserts that nothing is left */
    return 1;
}

static int in_child(int (*run)(const struct hm_ucx_options *given),
                    const struct hm_ucx_options *given)
{
    int status, pid = fork();
    if (pid == 0) _exit(run(given));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static void tcp_that_nobody_asked_for_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"tcp", "posix,tcp", "posix,all", "^sysv"};
    static const char *const good[] = {"posix", "^tcp", "all", "^sysv,tcp"};
    const struct hm_ucx_options none = {0};
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        setenv("HM_UCX_TLS", bad[i], 1);
        assert_int_equal(in_child(open_result, &none), 1);
        setenv("HM_UCX_TLS", good[i], 1);
        assert_int_equal(in_child(open_result, &none), 0);
    }
}

static void devices_that_are_not_there_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"eth9", "mlx5_9:1", "", "lo,", "lo,eth9", "../..:1", ":"};
    setenv("HM_UCX_TLS", "all", 1);
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        const struct hm_ucx_options asked = {.devices = bad[i], .tcp = true};
        if (in_child(open_result, &asked) != 1) fail_msg("'%s' was not refused", bad[i]);
    }
    const struct hm_ucx_options fast = {.devices = "lo"}, slow = {.devices = "lo", .tcp = true};
    assert_int_equal(in_child(open_result, &fast), 1); /* without TCP it would carry nothing */
    assert_int_equal(in_child(open_result, &slow), 0);
}

/* A network of its own, whose loopback has an address that anybody may reach. */
static int open_in_public(const struct hm_ucx_options *given)
{
    if (unshare(CLONE_NEWNET) != 0) return 77;
    if (system("ip link set lo up && ip addr add 203.0.113.1/24 dev lo") != 0) return 77;
    setenv("HM_UCX_TLS", "tcp", 1);
    return open_result(given);
}

static void tcp_on_a_public_interface_is_refused_unless_forced(void **state)
{
    (void)state;
    const struct hm_ucx_options asked = {.tcp = true}, forced = {.tcp = true, .tcp_anywhere = true};
    int result = in_child(open_in_public, &asked);
    if (result == 77) skip(); /* not root */
    assert_int_equal(result, 1);
    assert_int_equal(in_child(open_in_public, &forced), 0);
}

static const struct provider *chosen;

static int setup(void **state)
{
    *state = suite_create(chosen);
    return 0;
}

static int teardown(void **state)
{
    struct suite *suite = *state;
    if (suite->finished) suite_destroy(suite);
    return 0;
}

static int suite_over(const char *name, const char *transports, const char *piece_bytes)
{
    struct provider provider = ucx_provider;
    const char *only = getenv("HM_TEST_UCX_ONLY");
    if (only && strcmp(only, name) != 0) return 0;
    choose(transports, piece_bytes);
    if (module_find() != 0) return 1;
    provider.name = name;
    provider.bulk_bytes = suite_bulk_bytes();
    if (ucx_attack_count > 0) provider.announce_flood = ucx_announce_flood;
    int failed = suite_main(&provider, 1);
    chosen = &provider;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_breaks_a_bound_ends_its_own_endpoint_and_nothing_else,
                                        setup, teardown),
    };
    if (ucx_attack_count > 0)
        failed += cmocka_run_group_tests_name("ucx attackers", tests, NULL, NULL);
    chosen = NULL;
    return failed;
}

/* ---- between two networks -------------------------------------------------------------------- */

static void a_cut_cable_delays_loses_nothing_and_is_not_down(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    networks_cable(false);
    unsigned count = 20;
    b->arg = &count;
    for (unsigned i = 0; i < count; i++)
        while (end_send(at_a, i, 3000, 1) == HM_ERR_BUSY) suite_let_pass(suite, HM_MS);
    suite_let_pass(suite, 500 * HM_MS);
    assert_int_equal(b->messages, 0);
    assert_int_equal(at_a->downs + at_b->downs, 0); /* deadlines are the caller's */
    networks_cable(true);
    await(suite, node_has_verified, b);
    suite_finish(suite);
}

static void a_peer_behind_a_cut_cable_can_be_left(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct node *b = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    networks_cable(false);
    for (unsigned i = 0; i < 20; i++)
        while (end_send(at_a, i, MIB, 1) == HM_ERR_BUSY) suite_let_pass(suite, HM_MS);
    suite_let_pass(suite, 50 * HM_MS);
    assert_true(a->ops_open > 0);
    end_disconnect(at_a);
    await(suite, end_is_down, at_a);
    assert_status(at_a->why, HM_ERR_CANCELED);
    assert_int_equal(a->ops_open, 0);
    networks_cable(true);
    suite_finish(suite);
}

/* In a process of its own, since it leaves its network. */
static int suite_between_networks(const struct hm_ucx_options *given)
{
    (void)given;
    struct provider provider = ucx_provider;
    if (!networks_make()) return 77;
    choose("tcp", "0");
    setenv("HM_UCX_NET_DEVICES", "eth0", 1);
    if (module_find() != 0) return 1;
    provider.name = "ucx-tcp between networks";
    provider.bulk_bytes = suite_bulk_bytes();
    int failed = suite_main(&provider, 1);
    chosen = &provider;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_cut_cable_delays_loses_nothing_and_is_not_down, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_peer_behind_a_cut_cable_can_be_left, setup, teardown),
    };
    failed += cmocka_run_group_tests_name("ucx-tcp cut", tests, NULL, NULL);
    uint64_t through = networks_bytes();
    if (through < provider.bulk_bytes / 2) {
        printf("only %llu bytes came through the cable\n", (unsigned long long)through);
        failed++;
    }
    fflush(NULL);
    return failed > 0;
}

static int networks_result(void)
{
    const char *only = getenv("HM_TEST_UCX_ONLY");
    if (only && strcmp(only, "ucx-networks") != 0) return 0;
    fflush(NULL);
    int result = in_child(suite_between_networks, &options);
    if (result == 77) printf("SKIP: ucx-tcp between networks: namespaces need root\n");
    return result != 0 && result != 77;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--puppet") == 0) {
        if (module_find() != 0 || (parts.networks && !networks_inherit())) return 5;
        joint_parts.first_network = 1; /* the case's own first node is in 0 */
        return real_puppet_main(&ucx_provider, argv[2], argv[3]);
    }
    if (argc == 4 && strcmp(argv[1], "--attack") == 0) return ucx_attack_main(argv[2], argv[3]);
    if (getenv("HM_TEST_LOG")) hm_log_set_level(HM_LOG_DEBUG);
    choose("posix,cma", "0");
    if (module_find() != 0) {
        printf("skipped: %s\n", hm_fail_line());
        return 77;
    }
    int failed = suite_over("ucx-shm", "posix,cma", "0");
    failed += suite_over("ucx-tcp", "tcp", "0");
    failed += suite_over("ucx-shm-rendezvous", "posix,cma", "262144");
    failed += networks_result();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tcp_that_nobody_asked_for_is_refused),
        cmocka_unit_test(devices_that_are_not_there_are_refused),
        cmocka_unit_test(tcp_on_a_public_interface_is_refused_unless_forced),
    };
    failed += cmocka_run_group_tests_name("ucx refusals", tests, NULL, NULL);
    return failed > 0;
}
