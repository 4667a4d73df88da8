/* tcp is a transport: the suite on loopback, and what only sockets can do to it.
 *
 * Puppets and attackers are this same program in processes of their own (--puppet, --attack), so
 * that they can be stopped
 * and killed, and share no descriptor with the suite.  An attacker speaks raw TCP, or TLS and
 * frames of its own making. */
#include "support_real.h"

#include "base/loop_uv.h"
#include "raw_tls.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>

/* ---- attackers ------------------------------------------------------------------------------- */

struct attack {
    const char *name;
    bool up; /* it gets so far that the victim says up */
    void (*run)(struct raw_peer *peer);
    enum { RAW, TLS, HELLO } opening; /* what is done properly before */
};

/* False: the victim has hung up, as it should. */
static bool bytes_write(struct raw_peer *peer, const void *bytes, size_t byte_count)
{
    if (peer->ssl) return raw_write(peer, bytes, byte_count);
    const uint8_t *at = bytes;
    while (byte_count > 0) {
        ssize_t sent = send(peer->fd, at, byte_count, MSG_NOSIGNAL);
        if (sent <= 0) return false;
        at += sent;
        byte_count -= (size_t)sent;
    }
    return true;
}

/* By hand after docs/wire.md, since ours encodes no frame that is out of bounds:
 * u8 type, u8 0, u16 header bytes, u32 payload bytes, u64 value.  header NULL: zeros; the payload
 * is zeros. */
static bool frame_write(struct raw_peer *peer, unsigned type, size_t header_bytes,
                        size_t payload_bytes, uint64_t value, const void *header)
{
    static uint8_t frame[256 * KIB];
    struct hm_writer writer;
    hm_writer_init(&writer, frame, sizeof frame);
    hm_write_u8(&writer, (uint8_t)type);
    hm_write_u8(&writer, 0);
    hm_write_u16(&writer, (uint16_t)header_bytes);
    hm_write_u32(&writer, (uint32_t)payload_bytes);
    hm_write_u64(&writer, value);
    if (header) hm_write_bytes(&writer, header, header_bytes);
    size_t bytes = HM_FRAME_BYTES + header_bytes;
    if (payload_bytes > sizeof frame - bytes) payload_bytes = sizeof frame - bytes;
    return bytes_write(peer, frame, bytes + payload_bytes);
}

static void attack_noise(struct raw_peer *peer)
{
    static uint8_t noise[MIB];
    for (size_t at = 0; at < sizeof noise; at += 256)
        if (getrandom(noise + at, 256, 0) != 256) _exit(5);
    (void)bytes_write(peer, noise, sizeof noise);
}

/* The first bytes of a ClientHello that promises 512. */
static void attack_cut_short(struct raw_peer *peer)
{
    static const uint8_t start[] = {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3};
    (void)bytes_write(peer, start, sizeof start);
    shutdown(peer->fd, SHUT_WR);
}

static void attack_silence(struct raw_peer *peer)
{
    (void)peer;
}

static void attack_http(struct raw_peer *peer)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    (void)bytes_write(peer, request, sizeof request - 1);
}

static void attack_no_hello(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_MESSAGE, 24, 0, 0, NULL);
}

static void attack_bad_hello(struct raw_peer *peer)
{
    static const uint8_t hello[] = {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255};
    (void)frame_write(peer, HM_FRAME_HELLO, sizeof hello, 0, MIB, hello);
}

static void attack_second_hello(struct raw_peer *peer)
{
    static const uint8_t hello[64] = {1};
    (void)frame_write(peer, HM_FRAME_HELLO, sizeof hello, 0, MIB, hello);
}

static void attack_type(struct raw_peer *peer)
{
    (void)frame_write(peer, 200, 0, 0, 0, NULL);
}

static void attack_long_header(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_MESSAGE, HM_HEADER_BYTES_MAX + 1, 0, 0, NULL);
}

static void attack_long_payload(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_MESSAGE, 24, 0x80000000u, 0, NULL);
}

static void attack_over_credit(struct raw_peer *peer)
{
    for (unsigned i = 0; i < 1000; i++)
        (void)frame_write(peer, HM_FRAME_MESSAGE, 0, 30000, 0, NULL);
}

static void attack_announces(struct raw_peer *peer)
{
    for (unsigned i = 0; i < 100000; i++) {
        uint8_t header[24] = {1};
        uint32_t number = i % NUMBERS_MAX;
        uint64_t bytes = 256 * MIB;
        memcpy(header + 4, &number, sizeof number);
        memcpy(header + 8, &bytes, sizeof bytes);
        if (!frame_write(peer, HM_FRAME_ANNOUNCE, sizeof header, 0, bytes, header)) return;
    }
}

static void attack_huge_announce(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_ANNOUNCE, 24, 0, UINT64_MAX, NULL);
}

static void attack_pull(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_PULL, 0, 0, 77, NULL);
}

static void attack_drop(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_DROP, 0, 0, 77, NULL);
}

static void attack_data(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_DATA, 0, 1000, 77, NULL);
}

static void attack_done(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_DONE, 0, 0, 77, NULL);
}

static void attack_credit(struct raw_peer *peer)
{
    (void)frame_write(peer, HM_FRAME_CREDIT, 0, 0, UINT64_MAX, NULL);
}

static const struct attack attacks[] = {
    {"noise", false, attack_noise, RAW},
    {"a hello cut short", false, attack_cut_short, RAW},
    {"silence", false, attack_silence, RAW},
    {"http", false, attack_http, RAW},
    {"noise in TLS", false, attack_noise, TLS},
    {"silence in TLS", false, attack_silence, TLS},
    {"a message before the hello", false, attack_no_hello, TLS},
    {"a hello of nonsense", false, attack_bad_hello, TLS},
    {"noise after the hello", true, attack_noise, HELLO},
    {"a second hello", true, attack_second_hello, HELLO},
    {"an unknown type", true, attack_type, HELLO},
    {"a header that is too long", true, attack_long_header, HELLO},
    {"a payload that is too long", true, attack_long_payload, HELLO},
    {"more than the credit", true, attack_over_credit, HELLO},
    {"announces without end", true, attack_announces, HELLO},
    {"an announce that is too large", true, attack_huge_announce, HELLO},
    {"a pull of nothing", true, attack_pull, HELLO},
    {"a drop of nothing", true, attack_drop, HELLO},
    {"data for nobody", true, attack_data, HELLO},
    {"done with nothing", true, attack_done, HELLO},
    {"credit beyond measure", true, attack_credit, HELLO},
};

/* Goes as far as the attack's opening wants; 0, or the exit code that says where it ended. */
static int attack_open(const struct attack *attack, const struct hm_addr *addr,
                       struct raw_peer *peer)
{
    *peer = (struct raw_peer){.fd = raw_connect(raw_port(addr))};
    if (peer->fd < 0) return 10;
    if (attack->opening != RAW) {
        struct hm_identity *identity;
        if (hm_identity_create(NULL, &identity)) return 11;
        bool up = raw_tls(peer, identity, peer->fd, true);
        hm_identity_destroy(identity);
        if (!up) {
            raw_close(peer);
            return 12;
        }
    }
    if (attack->opening == HELLO && !raw_hello(peer, HM_WIRE_MAJOR, MIB)) {
        raw_close(peer);
        return 13;
    }
    return 0;
}

/* The process of an attacker: 0 if the victim has hung up on it. */
static int attack_main(const char *index, const char *text)
{
    const struct attack *attack = &attacks[atoi(index)];
    struct hm_addr addr;
    snprintf(addr.text, sizeof addr.text, "%s", text);
    signal(SIGPIPE, SIG_IGN);
    /* On a busy machine the victim may find a handshake too slow, and is right to: the attack itself has not begun. */
    struct raw_peer peer;
    int opened = 1;
    for (int try = 0; try < 20 && opened != 0; try++) {
        if (try > 0) poll(NULL, 0, 100);
        opened = attack_open(attack, &addr, &peer);
    }
    if (opened != 0) return opened;
    attack->run(&peer);
    /* Whatever the victim says, until it has hung up. */
    struct timeval limit = {.tv_sec = 60};
    setsockopt(peer.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char bytes[4096];
    ssize_t got;
    while ((got = recv(peer.fd, bytes, sizeof bytes, 0)) > 0) continue;
    int result = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 14 : 0;
    raw_close(&peer);
    return result;
}

static int attack_spawn(size_t index, const struct hm_addr *addr)
{
    char number[16], text[HM_ADDR_BYTES_MAX];
    snprintf(number, sizeof number, "%zu", index);
    snprintf(text, sizeof text, "%s", addr->text);
    char *argv[] = {"test_tcp", "--attack", number, text, NULL};
    int output, pid = real_spawn(argv, &output);
    close(output);
    return pid;
}

static bool process_has_ended(void *arg)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t) * (int *)arg, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
}

static void attack_wait(struct suite *suite, int pid, const char *name)
{
    int status;
    await(suite, process_has_ended, &pid);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("%s: the attacker ended with %d: it was not hung up on", name, status);
}

static bool tcp_announce_flood(struct suite *suite, struct node *victim)
{
    size_t index = 0;
    while (attacks[index].run != attack_announces) index++;
    struct hm_addr addr;
    node_addr(victim, &addr);
    attack_wait(suite, attack_spawn(index, &addr), attacks[index].name);
    return true;
}

static const struct provider tcp_provider = {
    .name = "tcp",
    .ops = &hm_transport_tcp,
    .listen = "127.0.0.1:0",
    .start = real_start,
    .stop = real_stop,
    .run = real_run,
    .puppet_start = real_puppet_start,
    .puppet_pause = real_puppet_pause,
    .puppet_kill = real_puppet_kill,
    .silent_addr = real_silent_addr,
    .announce_flood = tcp_announce_flood,
};

/* ---- cases of its own ------------------------------------------------------------------------ */

static unsigned descriptors_open(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    HM_ASSERT(folder);
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

struct census {
    unsigned wanted;
};

static bool descriptors_as_before(void *arg)
{
    struct census *census = arg;
    return descriptors_open() == census->wanted;
}

/* One attacker of each kind, again and again; the victim keeps serving a friend all the while. */
static void garbage_ends_its_own_connection_and_nothing_else(void **state)
{
    struct suite *suite = *state;
    enum { ROUNDS = 3 };
    struct node *victim = node_open(suite, &(struct node_conf){.handshake_max = 300 * HM_MS});
    struct node *friend = node_open(suite, &(struct node_conf){.dials_only = true});
    struct end *here, *there;
    nodes_connect(friend, victim, &here, &there);
    struct hm_addr addr;
    node_addr(victim, &addr);
    victim->on_message = node_hold_any;
    unsigned open_before = descriptors_open();
    for (unsigned round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < HM_COUNT_OF(attacks); i++) {
            unsigned ends = victim->end_count;
            attack_wait(suite, attack_spawn(i, &addr), attacks[i].name);
            suite_let_pass(suite, 10 * HM_MS);
            if (victim->end_count != ends + attacks[i].up)
                fail_msg("%s: %u endpoints came up", attacks[i].name, victim->end_count - ends);
            if (attacks[i].up) {
                await(suite, end_is_down, &victim->end[ends]);
                if (victim->end[ends].why != HM_ERR_PEER_PROTOCOL)
                    fail_msg("%s: down with %s", attacks[i].name,
                             hm_status_name(victim->end[ends].why));
            }
            node_take_held(victim, TAKE_DROP);
        }
    victim->on_message = NULL;
    assert_int_equal(here->downs + there->downs, 0);
    unsigned count = 1;
    victim->arg = &count;
    victim->messages = 0;
    assert_ok(end_send(here, 9, 1000, 1));
    await(suite, node_has_messages, victim);
    struct census census = {.wanted = open_before};
    await(suite, descriptors_as_before, &census); /* what lingers goes in its time */
    suite_finish(suite);
}

static void ports_and_hosts_that_cannot_be_had_are_said_so(void **state)
{
    struct suite *suite = *state;
    struct node *taken = node_open(suite, NULL);
    struct hm_addr addr;
    node_addr(taken, &addr);
    const char *const bad[] = {
        addr.text + strlen("tcp:"), "127.0.0.1:99999", "127.0.0.1", "", "192.0.2.1:0", "[::1:4000"};
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR};
    struct hm_transport_sink sink = {0};
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        struct hm_transport *transport = NULL;
        struct hm_transport_conf conf = {
            .identity = taken->identity,
            .hello = &hello,
            .listen = bad[i],
            .buffers = taken->buffers,
            .endpoints_max = 4,
            .receive_bytes_max = MIB,
            .handshake_max = HM_S,
        };
        hm_fail_clear();
        assert_status(hm_transport_tcp.open(&conf, suite->loop, &sink, &transport), HM_ERR_INVALID);
        assert_null(transport);
        assert_true(hm_fail_line()[0]);
    }
    suite_finish(suite);
}

/* One message there and back over an address that is written in another way. */
static void reach_by(struct suite *suite, const char *listen, const char *host)
{
    struct provider provider = *suite->provider;
    provider.listen = listen;
    const struct provider *standard = suite->provider;
    suite->provider = &provider;
    struct node *b = node_open(suite, NULL);
    suite->provider = standard;
    struct node *a = node_open(suite, &(struct node_conf){.dials_only = true});
    struct hm_addr addr, by_host;
    node_addr(b, &addr);
    snprintf(by_host.text, sizeof by_host.text, "tcp:%s:%u", host, (unsigned)raw_port(&addr));
    struct end *end = node_connect(a, &by_host, node_id(b));
    await(suite, end_is_settled, end);
    assert_int_equal(end->ups, 1);
    unsigned one = 1;
    b->arg = &one;
    assert_ok(end_send(end, 1, 100 * KIB, 1));
    await(suite, node_has_verified, b);
    suite_finish(suite);
}

static void a_node_is_reached_by_name(void **state)
{
    reach_by(*state, "127.0.0.1:0", "localhost");
}

static void a_node_is_reached_over_ipv6(void **state)
{
    struct sockaddr_in6 name = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool can = fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof name) == 0;
    if (fd >= 0) close(fd);
    if (!can) {
        suite_finish(*state);
        print_message("no IPv6 on this machine\n");
        skip();
    }
    reach_by(*state, "[::1]:0", "[::1]");
}

static int setup(void **state)
{
    *state = suite_create(&tcp_provider);
    return 0;
}

static int teardown(void **state)
{
    struct suite *suite = *state;
    if (suite->finished) suite_destroy(suite);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--puppet") == 0)
        return real_puppet_main(&tcp_provider, argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "--attack") == 0) return attack_main(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(garbage_ends_its_own_connection_and_nothing_else, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_node_is_reached_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(a_node_is_reached_over_ipv6, setup, teardown),
        cmocka_unit_test_setup_teardown(ports_and_hosts_that_cannot_be_had_are_said_so, setup,
                                        teardown),
    };
    struct provider provider = tcp_provider;
    provider.bulk_bytes = suite_bulk_bytes();
    int failed = suite_main(&provider, 1);
    failed += cmocka_run_group_tests_name("tcp sockets", tests, NULL, NULL);
    return failed > 0;
}
