/* What the conformance suite cannot see of tcp: raw sockets, limits of the machine, peers that
 * break the rules by hand. */
#include "test.h"

#include "base/loop_uv.h"
#include "base/rng.h"
#include "raw_tls.h"
#include "transport/tcp/tcp.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/resource.h>

enum { RAW_MAX = 128, KIB = 1 << 10 };

/* ---- one node, and raw peers in the same thread ---------------------------------------------- */

struct node {
    struct hm_transport *transport;
    struct hm_identity *identity;
    struct hm_ep *ep; /* the last that came up */
    unsigned ups, downs, messages, dones;
    hm_ns toil;               /* what each message costs */
    struct hm_ep *latest;     /* the one that came up last, up or not */
    unsigned messages_before; /* its first one */
    enum hm_status why, done_status;
    bool hold, closed;
    bool proof_came, proved; /* of the fabric's key, in the last hello */
    struct hm_inbound *held[1024];
    unsigned held_count;
};

struct world {
    struct hm_loop *loop;
    struct hm_metrics metrics;
    struct node node, other;
    struct hm_identity *stranger;
};

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *id,
                  const struct hm_hello *h)
{
    (void)id;
    struct node *node = arg;
    node->proof_came = h->fabric_proof_bytes > 0;
    node->proved = h->fabric_proved;
    node->ep = node->latest = ep;
    node->messages_before = UINT_MAX;
    node->ups++;
}

static void on_message(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes,
                       struct hm_inbound *in)
{
    (void)header, (void)header_bytes;
    struct node *node = arg;
    hm_ns until = hm_loop_uv_clock() + node->toil;
    while (node->toil > 0 && hm_loop_uv_clock() < until) continue;
    if (ep == node->latest && node->messages_before == UINT_MAX)
        node->messages_before = node->messages;
    node->messages++;
    if (node->hold && node->held_count < HM_COUNT_OF(node->held))
        node->held[node->held_count++] = in;
    else
        hm_inbound_drop(in);
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    (void)arg, (void)ep;
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct node *node = arg;
    if (node->ep == ep) node->ep = NULL;
    node->why = why;
    node->downs++;
}

static void on_done(void *arg, enum hm_status status)
{
    struct node *node = arg;
    node->dones++;
    node->done_status = status;
}

static void on_closed(void *arg)
{
    ((struct node *)arg)->closed = true;
}

struct node_conf {
    const char *listen;
    size_t receive_bytes_max;
    hm_ns handshake_max;
    unsigned endpoints_max;
    const uint8_t *fabric_key;
};

static enum hm_status node_try(struct world *world, struct node *node, struct node_conf conf)
{
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    struct hm_transport_conf transport_conf = {
        .identity = node->identity,
        .hello = &hello,
        .listen = conf.listen,
        .metrics = &world->metrics,
        .endpoints_max = conf.endpoints_max ? conf.endpoints_max : 64,
        .receive_bytes_max = conf.receive_bytes_max ? conf.receive_bytes_max : 256 * KIB,
        .handshake_max = conf.handshake_max ? conf.handshake_max : 5 * HM_S,
        .fabric_key = conf.fabric_key,
    };
    struct hm_transport_sink sink = {
        .up = on_up, .message = on_message, .writable = on_writable, .down = on_down, .arg = node};
    return hm_transport_tcp.open(&transport_conf, world->loop, &sink, &node->transport);
}

static void node_open(struct world *world, struct node *node, struct node_conf conf)
{
    assert_ok(hm_identity_create(NULL, &node->identity));
    assert_ok(node_try(world, node, conf));
}

static struct hm_addr node_addr(struct node *node)
{
    struct hm_addrs addrs;
    assert_ok(hm_transport_tcp.address(node->transport, &addrs));
    return addrs.addr[0];
}

/* ---- time ------------------------------------------------------------------------------------ */

struct wait {
    struct hm_loop *loop;
    struct hm_hook hook;
    struct hm_timer limit;
    bool (*until)(void *arg);
    void *arg;
    bool over;
};

static bool look(struct hm_hook *hook)
{
    struct wait *wait = hook->arg;
    if (wait->over || (wait->until && wait->until(wait->arg))) hm_loop_uv_stop(wait->loop);
    return true;
}

static void on_limit(struct hm_timer *timer)
{
    ((struct wait *)timer->arg)->over = true;
}

static bool run(struct world *world, bool (*until)(void *arg), void *arg, hm_ns limit)
{
    struct wait wait = {.loop = world->loop, .until = until, .arg = arg};
    wait.hook = (struct hm_hook){.before_sleep = look, .arg = &wait};
    wait.limit = (struct hm_timer){.cb = on_limit, .arg = &wait};
    world->loop->ops->hook(world->loop, &wait.hook);
    hm_timer_start(world->loop, &wait.limit, limit);
    hm_loop_uv_run(world->loop);
    hm_timer_stop(world->loop, &wait.limit);
    world->loop->ops->unhook(world->loop, &wait.hook);
    return !until || until(arg);
}

static void pump(void *arg)
{
    struct world *world = arg;
    (void)run(world, NULL, NULL, HM_MS / 2);
}

/* Only a hang takes so long. */
#define await(world, until, arg) assert_true(run((world), (until), (arg), 60 * HM_S))

static bool is_down(void *arg)
{
    return ((struct node *)arg)->downs > 0;
}

static bool is_up(void *arg)
{
    return ((struct node *)arg)->ups > 0;
}

static bool is_closed(void *arg)
{
    return ((struct node *)arg)->closed;
}

static bool is_empty(void *arg)
{
    return hm_metrics_value(&((struct world *)arg)->metrics, "tcp.endpoints") == 0;
}

static void node_close(struct world *world, struct node *node)
{
    if (!node->transport) return;
    while (node->held_count > 0) hm_inbound_drop(node->held[--node->held_count]);
    hm_transport_tcp.close(node->transport, on_closed, node);
    await(world, is_closed, node);
    node->transport = NULL;
}

static int world_make(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    hm_metrics_init(&world->metrics);
    if (hm_loop_uv_create(1, &world->loop) != HM_OK) return -1;
    if (hm_identity_create(NULL, &world->stranger) != HM_OK) return -1;
    *state = world;
    return 0;
}

static int world_take_apart(void **state)
{
    struct world *world = *state;
    node_close(world, &world->node);
    node_close(world, &world->other);
    hm_identity_destroy(world->node.identity);
    hm_identity_destroy(world->other.identity);
    hm_identity_destroy(world->stranger);
    hm_loop_uv_destroy(world->loop); /* asserts that nothing is watched or timed any more */
    free(world);
    return 0;
}

static unsigned descriptors(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) count++;
    if (dir) closedir(dir);
    return count;
}

/* The node still serves: another one dials it and comes up. */
static void assert_serves(struct world *world)
{
    struct hm_addr addr = node_addr(&world->node);
    struct hm_ep *ep;
    world->other.ups = 0;
    if (!world->other.transport) {
        if (!world->other.identity) assert_ok(hm_identity_create(NULL, &world->other.identity));
        assert_ok(node_try(world, &world->other, (struct node_conf){0}));
    }
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr,
                                       hm_identity_node(world->node.identity), &ep));
    await(world, is_up, &world->other);
    hm_transport_tcp.disconnect(ep);
}

/* ---- listening ------------------------------------------------------------------------------- */

static void a_port_in_use_is_a_line_that_says_so(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_addr addr = node_addr(&world->node);
    char listen[64];
    (void)snprintf(listen, sizeof listen, "127.0.0.1:%u", (unsigned)raw_port(&addr));
    assert_ok(hm_identity_create(NULL, &world->other.identity));
    unsigned before = descriptors();
    assert_status(node_try(world, &world->other, (struct node_conf){.listen = listen}),
                  HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), "in use"));
    assert_non_null(strstr(hm_fail_line(), listen));
    assert_int_equal(descriptors(), before);
}

static void an_address_that_is_not_ours_is_refused(void **state)
{
    struct world *world = *state;
    static const char *const bad[] = {"192.0.2.1:0", "example.org:80", "127.0.0.1", "[::1", ""};
    assert_ok(hm_identity_create(NULL, &world->node.identity));
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        hm_fail_clear();
        assert_status(node_try(world, &world->node, (struct node_conf){.listen = bad[i]}),
                      HM_ERR_INVALID);
        assert_true(hm_fail_line()[0]);
    }
}

static void dial_and_expect_up(struct world *world, const char *text)
{
    struct hm_addr addr = {0};
    struct hm_ep *ep;
    (void)snprintf(addr.text, sizeof addr.text, "%s", text);
    world->other.ups = world->other.downs = 0;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    await(world, is_up, &world->other);
    hm_transport_tcp.disconnect(ep);
    await(world, is_down, &world->other);
}

/* ---- proofs of a fabric's key ---------------------------------------------------------------- */

static bool both_up(void *arg)
{
    struct world *world = arg;
    return world->node.ups == 1 && world->other.ups == 1;
}

static void meet(struct world *world, const uint8_t *key, const uint8_t *others_key)
{
    struct hm_ep *ep;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0", .fabric_key = key});
    node_open(world, &world->other, (struct node_conf){.fabric_key = others_key});
    struct hm_addr addr = node_addr(&world->node);
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    await(world, both_up, world);
}

static void nodes_with_one_fabric_key_prove_it_to_each_other(void **state)
{
    struct world *world = *state;
    static const uint8_t key[HM_FABRIC_KEY_BYTES] = {7};
    meet(world, key, key);
    assert_true(world->node.proved && world->other.proved);
}

static void another_fabric_key_proves_nothing_and_is_no_reason_to_part(void **state)
{
    struct world *world = *state;
    static const uint8_t key[HM_FABRIC_KEY_BYTES] = {7}, other[HM_FABRIC_KEY_BYTES] = {8};
    meet(world, key, other);
    assert_true(world->node.proof_came && world->other.proof_came);
    assert_false(world->node.proved || world->other.proved);
    assert_int_equal(world->node.downs + world->other.downs, 0);
}

static void without_a_key_no_proof_is_said_and_none_is_believed(void **state)
{
    struct world *world = *state;
    static const uint8_t key[HM_FABRIC_KEY_BYTES] = {0}; /* zeros are a key as any other */
    meet(world, key, NULL);
    assert_false(world->node.proof_came || world->node.proved);
    assert_true(world->other.proof_came);
    assert_false(world->other.proved);
}

static bool have_ipv6(void)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    bool have = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
    if (fd >= 0) close(fd);
    return have;
}

static void ipv6_addresses_listen_and_dial(void **state)
{
    struct world *world = *state;
    if (!have_ipv6()) {
        print_message("no IPv6 loopback on this machine\n");
        skip();
    }
    node_open(world, &world->node, (struct node_conf){.listen = "[::1]:0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = node_addr(&world->node);
    assert_memory_equal(addr.text, "tcp:[::1]:", 10);
    dial_and_expect_up(world, addr.text);
}

static void every_interface_takes_both_families_and_tells_real_addresses(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = ":0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addrs addrs;
    assert_ok(hm_transport_tcp.address(world->node.transport, &addrs));
    assert_in_range(addrs.count, 1, HM_ADDRS_MAX);
    for (unsigned i = 0; i < addrs.count; i++) {
        assert_null(strstr(addrs.addr[i].text, "0.0.0.0"));
        assert_null(strstr(addrs.addr[i].text, "[::]"));
    }
    char text[64];
    (void)snprintf(text, sizeof text, "tcp:127.0.0.1:%u", (unsigned)raw_port(&addrs.addr[0]));
    dial_and_expect_up(world, text);
    if (!have_ipv6()) return;
    (void)snprintf(text, sizeof text, "tcp:[::1]:%u", (unsigned)raw_port(&addrs.addr[0]));
    dial_and_expect_up(world, text);
}

static void a_name_is_looked_up_and_its_addresses_tried_in_turn(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "localhost:0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = node_addr(&world->node);
    char text[64];
    (void)snprintf(text, sizeof text, "tcp:localhost:%u", (unsigned)raw_port(&addr));
    dial_and_expect_up(world, text);
}

static void a_name_that_nobody_knows_is_unreachable(void **state)
{
    struct world *world = *state;
    node_open(world, &world->other, (struct node_conf){.handshake_max = 2 * HM_S});
    struct hm_addr addr = {.text = "tcp:no-such-host.invalid:4242"};
    struct hm_ep *ep;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    await(world, is_down, &world->other);
    assert_status(world->other.why, HM_ERR_PEER_UNREACHABLE);
    assert_int_equal(world->other.ups, 0);
}

static void closing_while_a_name_is_looked_up_is_clean(void **state)
{
    struct world *world = *state;
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = {.text = "tcp:localhost:1"};
    struct hm_ep *ep;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    node_close(world, &world->other);
    assert_int_equal(world->other.downs, 1);
    assert_status(world->other.why, HM_ERR_CANCELED);
}

/* ---- strangers before the handshake ---------------------------------------------------------- */

static void random_bytes_before_the_handshake_leave_nothing_behind(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_addr addr = node_addr(&world->node);
    struct hm_rng rng;
    hm_rng_init(&rng, 1, 0);
    unsigned before = descriptors();
    static uint8_t noise[64 * KIB];
    for (unsigned i = 0; i < 300; i++) {
        int fd = raw_connect(raw_port(&addr));
        assert_true(fd >= 0);
        for (size_t j = 0; j < sizeof noise; j++) noise[j] = (uint8_t)hm_rng_next(&rng);
        /* Some look like TLS records of a handshake at first. */
        if (i % 3 == 0) memcpy(noise, "\x16\x03\x01\x40\x00\x01", 6);
        ssize_t sent = send(fd, noise, i % 2 ? 100 : sizeof noise, MSG_NOSIGNAL | MSG_DONTWAIT);
        assert_true(sent > 0);
        pump(world);
        close(fd);
    }
    await(world, is_empty, world);
    assert_int_equal(descriptors(), before);
    assert_int_equal(world->node.ups + world->node.downs, 0); /* nobody ever heard of them */
    assert_true(hm_metrics_value(&world->metrics, "tcp.failures_protocol") > 100);
    assert_serves(world);
}

/* The first bytes that a proper client sends. */
static size_t client_hello(const struct hm_identity *identity, uint8_t *bytes, size_t byte_count)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    SSL_CTX *ctx;
    assert_ok(hm_tls_create(identity, &ctx));
    SSL *ssl = hm_tls_connection(ctx, pair[0], true);
    assert_int_equal(SSL_do_handshake(ssl), -1);
    ssize_t got = read(pair[1], bytes, byte_count);
    assert_true(got > 100);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(pair[0]);
    close(pair[1]);
    return (size_t)got;
}

static void a_hello_cut_short_is_given_up(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node,
              (struct node_conf){.listen = "127.0.0.1:0", .handshake_max = 300 * HM_MS});
    struct hm_addr addr = node_addr(&world->node);
    uint8_t hello[2048];
    size_t hello_bytes = client_hello(world->stranger, hello, sizeof hello);
    unsigned before = descriptors();
    int fd[16];
    for (unsigned i = 0; i < HM_COUNT_OF(fd); i++) {
        fd[i] = raw_connect(raw_port(&addr));
        assert_true(fd[i] >= 0);
        assert_true(send(fd[i], hello, hello_bytes * i / HM_COUNT_OF(fd) + 1, MSG_NOSIGNAL) > 0);
        if (i % 2) close(fd[i]); /* half of them stay */
    }
    (void)run(world, NULL, NULL, 50 * HM_MS);
    assert_false(is_empty(world));
    await(world, is_empty, world);
    for (unsigned i = 0; i < HM_COUNT_OF(fd); i += 2) close(fd[i]);
    assert_int_equal(descriptors(), before);
    assert_serves(world);
}

static void who_says_nothing_keeps_nobody_out(void **state)
{
    struct world *world = *state;
    /* At most 16 of 64 endpoints may be in handshake, and it takes them a minute to be given up. */
    node_open(world, &world->node,
              (struct node_conf){.listen = "127.0.0.1:0", .handshake_max = 60 * HM_S});
    struct hm_addr addr = node_addr(&world->node);
    int fd[RAW_MAX];
    for (unsigned i = 0; i < RAW_MAX; i++) {
        fd[i] = raw_connect(raw_port(&addr));
        assert_true(fd[i] >= 0);
    }
    (void)run(world, NULL, NULL, 300 * HM_MS);
    assert_int_equal(hm_metrics_value(&world->metrics, "tcp.endpoints"), 16);
    assert_int_equal(hm_metrics_value(&world->metrics, "tcp.refused"), RAW_MAX - 16);
    assert_serves(world);
    for (unsigned i = 0; i < RAW_MAX; i++) close(fd[i]);
    node_close(world, &world->other);
    await(world, is_empty, world);
}

static void without_descriptors_accepting_pauses_and_goes_on(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_addr addr = node_addr(&world->node);
    node_open(world, &world->other, (struct node_conf){0});
    (void)run(world, NULL, NULL, 10 * HM_MS);
    /* The kernel completes this connection; accept is what fails. */
    int fd = raw_connect(raw_port(&addr));
    assert_true(fd >= 0);
    struct rlimit old, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = (rlim_t)fd; /* every number below is taken */
    for (int i = 3; i < fd; i++)
        if (fcntl(i, F_GETFD) < 0) assert_true(dup2(0, i) == i || fcntl(i, F_GETFD) >= 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    uint64_t turn = world->loop->ops->turn(world->loop);
    (void)run(world, NULL, NULL, 350 * HM_MS);
    uint64_t turns = world->loop->ops->turn(world->loop) - turn;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    if (turns > 100) fail_msg("%llu turns: it spins", (unsigned long long)turns);
    assert_int_equal(hm_metrics_value(&world->metrics, "tcp.endpoints"), 0);
    /* And then it is accepted after all. */
    struct raw_peer peer = {.pump = pump, .arg = world};
    assert_true(raw_tls(&peer, world->stranger, fd, true));
    raw_close(&peer);
    await(world, is_empty, world);
}

/* ---- the TLS profile ------------------------------------------------------------------------- */

enum { OTHER_CURVE, NO_CERTIFICATE, OLD_VERSION };

static SSL_CTX *wrong_client(int what)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (what == OLD_VERSION) SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
    if (what != OTHER_CURVE) return ctx;
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
    X509 *x = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(x), 0);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    assert_int_equal(X509_set_pubkey(x, key), 1);
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    assert_int_equal(SSL_CTX_use_certificate(ctx, x), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
    X509_free(x);
    EVP_PKEY_free(key);
    return ctx;
}

static void only_tls_1_3_with_an_ed25519_key_gets_in(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_addr addr = node_addr(&world->node);
    for (int what = OTHER_CURVE; what <= OLD_VERSION; what++) {
        struct raw_peer peer = {.pump = pump, .arg = world, .ctx = wrong_client(what)};
        peer.fd = raw_connect(raw_port(&addr));
        peer.ssl = SSL_new(peer.ctx);
        fcntl(peer.fd, F_SETFL, O_NONBLOCK);
        SSL_set_fd(peer.ssl, peer.fd);
        SSL_set_connect_state(peer.ssl);
        int result;
        while ((result = SSL_do_handshake(peer.ssl)) != 1 && raw_retry(&peer, result)) {
        }
        /* In TLS 1.3 a client is done before its certificate is judged: the answer comes after. */
        uint8_t byte;
        if (result == 1) assert_false(raw_read(&peer, &byte, 1));
        raw_close(&peer);
    }
    await(world, is_empty, world);
    assert_int_equal(world->node.ups, 0);
    assert_int_equal(hm_metrics_value(&world->metrics, "tcp.failures_protocol"), 3);
    assert_serves(world);
}

/* ---- peers that are who they are, and break the rules ---------------------------------------- */

static struct raw_peer stranger_connect(struct world *world)
{
    struct hm_addr addr = node_addr(&world->node);
    struct raw_peer peer = {.pump = pump, .arg = world};
    assert_true(raw_tls(&peer, world->stranger, raw_connect(raw_port(&addr)), true));
    return peer;
}

static uint8_t body[128 * KIB];

/* Reads up to the goodbye; what it says, or HM_OK if the connection ended without. */
static enum hm_status last_words(struct raw_peer *peer)
{
    struct hm_frame frame;
    while (raw_next(peer, &frame, body))
        if (frame.type == HM_FRAME_GOODBYE) return (enum hm_status)(int64_t)frame.value;
    return HM_OK;
}

static struct raw_peer stranger_up(struct world *world)
{
    struct raw_peer peer = stranger_connect(world);
    world->node.ups = world->node.downs = 0;
    assert_true(raw_hello(&peer, HM_WIRE_MAJOR, 64 * KIB));
    await(world, is_up, &world->node);
    return peer;
}

/* The peer announces, the node pulls, and the peer has heard that it did. */
static void announce_and_be_pulled(struct world *world, struct raw_peer *peer, size_t bytes)
{
    static uint8_t into[KIB];
    struct hm_frame frame = {.type = HM_FRAME_ANNOUNCE, .value = bytes};
    struct hm_span span = {.base = into, .bytes = sizeof into};
    world->node.hold = true;
    assert_true(raw_frame(peer, frame, NULL, NULL));
    while (world->node.held_count == 0) pump(world);
    assert_ok(
        hm_inbound_pull(world->node.held[--world->node.held_count], &span, on_done, &world->node));
    world->node.hold = false;
    do assert_true(raw_next(peer, &frame, body));
    while (frame.type != HM_FRAME_PULL);
    assert_int_equal(frame.value, 1);
    memset(body, 0, sizeof body);
}

static void a_first_frame_that_is_no_hello_is_a_broken_rule(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_connect(world);
    assert_true(raw_frame(&peer, (struct hm_frame){.type = HM_FRAME_MESSAGE, .header_bytes = 3},
                          "abc", NULL));
    assert_status(last_words(&peer), HM_ERR_PEER_PROTOCOL);
    raw_close(&peer);
    await(world, is_empty, world);
    assert_int_equal(world->node.ups + world->node.downs + world->node.messages, 0);
}

static void another_wire_version_is_told_ours_and_why(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_connect(world);
    assert_true(raw_hello(&peer, HM_WIRE_MAJOR + 7, 0));
    struct hm_frame frame;
    struct hm_hello hello;
    assert_true(raw_next(&peer, &frame, body));
    assert_int_equal(frame.type, HM_FRAME_HELLO);
    assert_ok(hm_hello_decode(body, frame.header_bytes, &hello));
    assert_int_equal(hello.wire_major, HM_WIRE_MAJOR);
    assert_status(last_words(&peer), HM_ERR_PEER_VERSION);
    raw_close(&peer);
    await(world, is_empty, world);
    assert_int_equal(hm_metrics_value(&world->metrics, "tcp.failures_version"), 1);
}

static void garbage_in_the_hello_is_a_broken_rule(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_connect(world);
    memset(body, 0xff, 100);
    body[0] = HM_WIRE_MAJOR, body[1] = 0;
    assert_true(raw_frame(&peer, (struct hm_frame){.type = HM_FRAME_HELLO, .header_bytes = 100},
                          body, NULL));
    assert_status(last_words(&peer), HM_ERR_PEER_PROTOCOL);
    raw_close(&peer);
    await(world, is_empty, world);
}

/* Each is sent by a proper peer that is up; `announce` first where it is > 0, and pulled. */
static const struct broken {
    const char *name;
    struct hm_frame frame[3];
    uint64_t announce;
} broken[] = {
    {"a second hello", {{HM_FRAME_HELLO, 40, 0, 1}}, 0},
    {"a pull of nothing", {{HM_FRAME_PULL, 0, 0, 1}}, 0},
    {"a drop of nothing", {{HM_FRAME_DROP, 0, 0, 1}}, 0},
    {"done with nothing", {{HM_FRAME_DONE, 0, 0, 1}}, 0},
    {"data that nobody pulled", {{HM_FRAME_DATA, 0, 10, 1}}, 0},
    {"credit out of thin air", {{HM_FRAME_CREDIT, 0, 0, 1}}, 0},
    {"credit that overflows", {{HM_FRAME_CREDIT, 0, 0, UINT64_MAX}}, 0},
    {"more than was announced", {{HM_FRAME_DATA, 0, 100, 1}, {HM_FRAME_DATA, 0, 401, 1}}, 500},
    {"data after the end", {{HM_FRAME_DATA, 0, 500, 1}, {HM_FRAME_DATA, 0, 1, 1}}, 500},
    {"data of another", {{HM_FRAME_DATA, 0, 500, 2}}, 500},
    {"a pull of its own", {{HM_FRAME_PULL, 0, 0, 1}}, 500},
};

static void every_broken_rule_ends_the_connection_and_it_alone(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    memset(body, 0, sizeof body);
    for (size_t i = 0; i < HM_COUNT_OF(broken); i++) {
        struct raw_peer peer = stranger_up(world);
        unsigned dones = world->node.dones;
        if (broken[i].announce) announce_and_be_pulled(world, &peer, broken[i].announce);
        for (unsigned j = 0; j < 3 && broken[i].frame[j].type; j++)
            assert_true(raw_frame(&peer, broken[i].frame[j], body, body));
        await(world, is_down, &world->node);
        if (world->node.why != HM_ERR_PEER_PROTOCOL || world->node.downs != 1)
            fail_msg("%s: %s", broken[i].name, hm_status_name(world->node.why));
        if (broken[i].announce) assert_int_equal(world->node.dones, dones + 1);
        assert_status(last_words(&peer), HM_ERR_PEER_PROTOCOL);
        raw_close(&peer);
    }
    assert_serves(world);
}

static void more_eager_bytes_than_the_credit_are_a_broken_rule(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node,
              (struct node_conf){.listen = "127.0.0.1:0", .receive_bytes_max = 64 * KIB});
    world->node.hold = true;
    struct raw_peer peer = stranger_up(world);
    memset(body, 7, sizeof body);
    /* One byte costs a page: 16 of them are 64 KiB. */
    for (unsigned i = 0; i < 16; i++)
        assert_true(raw_frame(&peer, (struct hm_frame){HM_FRAME_MESSAGE, 0, 1, 0}, NULL, body));
    (void)run(world, NULL, NULL, 50 * HM_MS);
    assert_int_equal(world->node.messages, 16);
    assert_int_equal(world->node.downs, 0);
    assert_true(raw_frame(&peer, (struct hm_frame){HM_FRAME_MESSAGE, 0, 1, 0}, NULL, body));
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_PROTOCOL);
    assert_int_equal(world->node.messages, 16);
    /* What came before stays readable. */
    for (unsigned i = 0; i < world->node.held_count; i++)
        assert_int_equal(*(const uint8_t *)world->node.held[i]->data, 7);
    raw_close(&peer);
}

static void credit_comes_back_as_payloads_are_dropped(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node,
              (struct node_conf){.listen = "127.0.0.1:0", .receive_bytes_max = 64 * KIB});
    struct raw_peer peer = stranger_up(world);
    struct hm_frame frame;
    assert_true(raw_next(&peer, &frame, body));
    assert_int_equal(frame.type, HM_FRAME_HELLO);
    assert_int_equal(frame.value, 64 * KIB);
    uint64_t credit = frame.value;
    for (unsigned i = 0; i < 200; i++) {
        while (credit < 8 * KIB) {
            assert_true(raw_next(&peer, &frame, body));
            assert_int_equal(frame.type, HM_FRAME_CREDIT);
            credit += frame.value;
            assert_true(credit <= 64 * KIB);
        }
        credit -= 8 * KIB;
        assert_true(
            raw_frame(&peer, (struct hm_frame){HM_FRAME_MESSAGE, 2, 8 * KIB, 0}, "hi", body));
    }
    while (world->node.messages < 200) pump(world);
    assert_int_equal(world->node.downs, 0);
    raw_close(&peer);
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_RESET);
}

/* What is cheap to ask can be dear to answer: a turn of the loop is shared in time too. */
static void costly_messages_of_one_peer_do_not_keep_others_waiting(void **state)
{
    enum { COSTLY = 16 };
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer greedy = stranger_up(world), modest = stranger_up(world);
    memset(body, 0, sizeof body);
    world->node.toil = 10 * HM_MS;
    for (unsigned i = 0; i < COSTLY; i++)
        assert_true(
            raw_frame(&greedy, (struct hm_frame){HM_FRAME_MESSAGE, 0, 8 * KIB, 0}, NULL, body));
    assert_true(raw_frame(&modest, (struct hm_frame){HM_FRAME_MESSAGE, 0, 1, 0}, NULL, body));
    while (world->node.messages < COSTLY + 1) pump(world);
    assert_in_range(world->node.messages_before, 0, COSTLY / 2);
    raw_close(&greedy);
    raw_close(&modest);
}

static void who_announces_and_never_sends_is_let_go_of(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    HM_CONTAINER_OF(world->node.transport, struct tcp, base)->stall_max = 400 * HM_MS;
    struct raw_peer peer = stranger_up(world);
    announce_and_be_pulled(world, &peer, 100);
    /* A slow sender is not meant: each byte counts. */
    struct hm_frame data = {.type = HM_FRAME_DATA, .payload_bytes = 1, .value = 1};
    for (unsigned i = 0; i < 50; i++) {
        assert_true(raw_frame(&peer, data, NULL, body));
        (void)run(world, NULL, NULL, 20 * HM_MS);
    }
    assert_int_equal(world->node.downs, 0);
    /* Other messages do not count. */
    for (unsigned i = 0; i < 60 && world->node.downs == 0; i++) {
        (void)raw_frame(&peer, (struct hm_frame){HM_FRAME_MESSAGE, 0, 1, 0}, NULL, body);
        (void)run(world, NULL, NULL, 20 * HM_MS);
    }
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_PROTOCOL);
    assert_int_equal(world->node.dones, 1);
    assert_status(world->node.done_status, HM_ERR_PEER_PROTOCOL);
    raw_close(&peer);
}

static void a_connection_cut_in_a_frame_is_reset(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_up(world);
    announce_and_be_pulled(world, &peer, KIB);
    uint8_t half[HM_FRAME_BYTES + 100] = {0};
    hm_frame_encode(&(struct hm_frame){HM_FRAME_DATA, 0, 500, 1}, half);
    assert_true(raw_write(&peer, half, sizeof half));
    pump(world);
    raw_close(&peer);
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_RESET);
    assert_int_equal(world->node.dones, 1);
    assert_status(world->node.done_status, HM_ERR_PEER_RESET);
}

static void what_was_sent_before_disconnect_is_said_before_goodbye(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_up(world);
    for (unsigned i = 0; i < 10; i++)
        assert_ok(
            hm_transport_tcp.send(world->node.ep, &i, sizeof i, NULL, 0, on_done, &world->node));
    hm_transport_tcp.disconnect(world->node.ep);
    struct hm_frame frame;
    assert_true(raw_next(&peer, &frame, body));
    assert_int_equal(frame.type, HM_FRAME_HELLO);
    for (unsigned i = 0; i < 10; i++) {
        assert_true(raw_next(&peer, &frame, body));
        assert_int_equal(frame.type, HM_FRAME_MESSAGE);
        assert_memory_equal(body, &i, sizeof i);
    }
    assert_status(last_words(&peer), HM_ERR_CANCELED);
    uint8_t byte;
    assert_false(raw_read(&peer, &byte, 1));
    assert_int_equal(world->node.dones, 10);
    assert_status(world->node.done_status, HM_OK);
    assert_int_equal(world->node.downs, 1);
    raw_close(&peer);
}

static void key_updates_are_taken_but_not_without_end(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_up(world);
    const struct hm_frame message = {.type = HM_FRAME_MESSAGE, .header_bytes = 1};
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        assert_true(raw_frame(&peer, message, "k", NULL));
    }
    while (world->node.messages < 5) pump(world);
    assert_int_equal(world->node.downs, 0);
    for (unsigned i = 0; i < 200 && SSL_key_update(peer.ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1;
         i++)
        (void)SSL_do_handshake(peer.ssl); /* the update, and nothing else */
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_PROTOCOL);
    raw_close(&peer);
    assert_serves(world);
}

static void random_bytes_after_the_handshake_end_the_connection_and_it_alone(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_rng rng;
    hm_rng_init(&rng, 7, 0);
    for (unsigned i = 0; i < 40; i++) {
        struct raw_peer peer = i % 2 ? stranger_up(world) : stranger_connect(world);
        for (size_t j = 0; j < 4096; j++) body[j] = (uint8_t)hm_rng_next(&rng);
        (void)raw_write(&peer, body, 4096);
        (void)last_words(&peer);
        raw_close(&peer);
    }
    await(world, is_empty, world);
    assert_serves(world);
}

/* Streams of frames that could be meant, with a bit wrong here and there. */
static void mutated_frames_crash_nothing(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_rng rng;
    hm_rng_init(&rng, 11, 0);
    for (unsigned i = 0; i < 60; i++) {
        struct raw_peer peer = stranger_up(world);
        world->node.hold = i % 2;
        size_t bytes = 0;
        for (unsigned j = 0; j < 12; j++) {
            static const struct hm_frame shape[] = {
                {HM_FRAME_MESSAGE, 9, 0, 0},     {HM_FRAME_MESSAGE, 100, 5000, 0},
                {HM_FRAME_ANNOUNCE, 30, 0, 777}, {HM_FRAME_PULL, 0, 0, 1},
                {HM_FRAME_DATA, 0, 300, 1},      {HM_FRAME_CREDIT, 0, 0, 4096},
            };
            /* Most of the proper ones first, so that the wrong ones meet a connection in use. */
            const struct hm_frame *frame = &shape[hm_rng_below(&rng, j < 9 ? 3 : 6)];
            hm_frame_encode(frame, body + bytes);
            bytes += HM_FRAME_BYTES + frame->header_bytes + frame->payload_bytes;
        }
        for (unsigned j = 0; j < 3; j++)
            body[hm_rng_below(&rng, bytes)] ^= (uint8_t)(1u << hm_rng_below(&rng, 8));
        (void)raw_write(&peer, body, bytes);
        (void)run(world, NULL, NULL, 2 * HM_MS);
        /* Some are pulled, from a peer that will not send them. */
        while (world->node.held_count > 0) {
            static uint8_t into[64 * KIB];
            struct hm_inbound *in = world->node.held[--world->node.held_count];
            struct hm_span span = {.base = into, .bytes = sizeof into};
            if (in->bytes > sizeof into || world->node.held_count % 2)
                hm_inbound_drop(in);
            else
                (void)!hm_inbound_pull(in, &span, on_done, &world->node);
        }
        pump(world);
        raw_close(&peer);
        await(world, is_down, &world->node);
    }
    await(world, is_empty, world);
    assert_serves(world);
}

static void an_answerer_that_is_not_the_expected_node_sees_no_hello(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = node_addr(&world->node);
    struct hm_ep *ep;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr,
                                       hm_identity_node(world->stranger), &ep));
    await(world, is_down, &world->other);
    assert_status(world->other.why, HM_ERR_PEER_DENIED);
    await(world, is_empty, world);
    assert_int_equal(world->other.ups + world->node.ups + world->node.downs, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, world_make, world_take_apart)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_port_in_use_is_a_line_that_says_so),
        CASE(an_address_that_is_not_ours_is_refused),
        CASE(ipv6_addresses_listen_and_dial),
        CASE(every_interface_takes_both_families_and_tells_real_addresses),
        CASE(a_name_is_looked_up_and_its_addresses_tried_in_turn),
        CASE(a_name_that_nobody_knows_is_unreachable),
        CASE(closing_while_a_name_is_looked_up_is_clean),
        CASE(nodes_with_one_fabric_key_prove_it_to_each_other),
        CASE(another_fabric_key_proves_nothing_and_is_no_reason_to_part),
        CASE(without_a_key_no_proof_is_said_and_none_is_believed),
        CASE(random_bytes_before_the_handshake_leave_nothing_behind),
        CASE(a_hello_cut_short_is_given_up),
        CASE(who_says_nothing_keeps_nobody_out),
        CASE(without_descriptors_accepting_pauses_and_goes_on),
        CASE(only_tls_1_3_with_an_ed25519_key_gets_in),
        CASE(a_first_frame_that_is_no_hello_is_a_broken_rule),
        CASE(another_wire_version_is_told_ours_and_why),
        CASE(garbage_in_the_hello_is_a_broken_rule),
        CASE(every_broken_rule_ends_the_connection_and_it_alone),
        CASE(more_eager_bytes_than_the_credit_are_a_broken_rule),
        CASE(credit_comes_back_as_payloads_are_dropped),
        CASE(costly_messages_of_one_peer_do_not_keep_others_waiting),
        CASE(who_announces_and_never_sends_is_let_go_of),
        CASE(a_connection_cut_in_a_frame_is_reset),
        CASE(what_was_sent_before_disconnect_is_said_before_goodbye),
        CASE(key_updates_are_taken_but_not_without_end),
        CASE(random_bytes_after_the_handshake_end_the_connection_and_it_alone),
        CASE(mutated_frames_crash_nothing),
        CASE(an_answerer_that_is_not_the_expected_node_sees_no_hello),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
