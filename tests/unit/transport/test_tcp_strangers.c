/* tests/unit/transport/test_tcp_strangers.c - what connects and is not, or not yet, a node: noise,
 * silence, crowds, TLS that is not ours. */
#include "support_tcp.h"

#include "base/rng.h"
#include "raw_tls.h"

#include <errno.h>
#include <sys/resource.h>

enum { RAW_MAX = 128 };

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
        world_pump(world);
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
    struct hm_tls_wire wire;
    SSL *ssl = hm_tls_connection(ctx, pair[0], &wire, true);
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
    (void)world_run(world, NULL, NULL, 50 * HM_MS);
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
    (void)world_run(world, NULL, NULL, 300 * HM_MS);
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
    (void)world_run(world, NULL, NULL, 10 * HM_MS);
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
    (void)world_run(world, NULL, NULL, 350 * HM_MS);
    uint64_t turns = world->loop->ops->turn(world->loop) - turn;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    if (turns > 100) fail_msg("%llu turns: it spins", (unsigned long long)turns);
    assert_int_equal(hm_metrics_value(&world->metrics, "tcp.endpoints"), 0);
    /* And then it is accepted after all. */
    struct raw_peer peer = {.pump = world_pump, .arg = world};
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
        struct raw_peer peer = {.pump = world_pump, .arg = world, .ctx = wrong_client(what)};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(random_bytes_before_the_handshake_leave_nothing_behind),
        CASE(a_hello_cut_short_is_given_up),
        CASE(who_says_nothing_keeps_nobody_out),
        CASE(without_descriptors_accepting_pauses_and_goes_on),
        CASE(only_tls_1_3_with_an_ed25519_key_gets_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
