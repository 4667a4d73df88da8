/* rpc over real sockets with TLS, the server in a process of its own that is killed and stopped. */
#include "test.h"

#include "base/loop_uv.h"
#include "base/rng.h"
#include "transport/rpc.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ECHO = 100, HOLD, CALLS = 64, BULK_BYTES = 3 << 20 };

struct node {
    struct hm_loop *loop;
    struct hm_identity *identity;
    struct hm_buf_pool *buffers;
    struct hm_rpc *rpc;
    bool closed;
    unsigned downs;
};

static void on_down(void *arg, struct hm_peer *peer, enum hm_status why)
{
    (void)peer;
    (void)why;
    ((struct node *)arg)->downs++;
}

static void node_open(struct node *node, unsigned key, const char *listen)
{
    *node = (struct node){0};
    uint8_t seed[32] = {(uint8_t)key, 5};
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    assert_ok(hm_loop_uv_create(hm_rng_os_seed(), &node->loop));
    assert_ok(hm_identity_create(seed, &node->identity));
    assert_ok(hm_buf_pool_create((size_t)256 << 20, &node->buffers));
    struct hm_rpc_conf conf = {.loop = node->loop,
                               .transport = &hm_transport_tcp,
                               .transport_conf = {.identity = node->identity,
                                                  .hello = &hello,
                                                  .listen = listen,
                                                  .buffers = node->buffers,
                                                  .endpoints_max = 64,
                                                  .receive_bytes_max = 4 << 20,
                                                  .handshake_max = 5 * HM_S},
                               .peer_down = on_down,
                               .arg = node};
    assert_ok(hm_rpc_open(&conf, &node->rpc));
}

/* ---- the server's process */

struct job {
    struct hm_request *request;
    struct hm_buf *buf;
    size_t bytes;
};

static void on_pulled(void *arg, enum hm_status status)
{
    struct job *job = arg;
    struct hm_span span = hm_buf_part(job->buf, 0, job->bytes);
    hm_request_reply(job->request, true, status, NULL, 0, &span, status == HM_OK);
    hm_buf_put(job->buf);
    free(job);
}

static void on_echo(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    struct node *node = arg;
    if (in->bytes == 0) {
        hm_inbound_drop(in);
        hm_request_reply(request, true, HM_OK, header, header_bytes, NULL, 0);
        return;
    }
    struct job *job = calloc(1, sizeof *job);
    if (!job || hm_buf_pool_get(node->buffers, in->bytes, &job->buf) != HM_OK) abort();
    job->request = request;
    job->bytes = in->bytes;
    struct hm_span into = hm_buf_span(job->buf);
    enum hm_status status = hm_inbound_pull(in, &into, on_pulled, job);
    if (status != HM_OK) on_pulled(job, status);
}

static void on_hold(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    (void)arg;
    (void)header;
    (void)header_bytes;
    hm_inbound_drop(in);
    hm_request_reply(request, false, HM_OK, NULL, 0, NULL, 0); /* "I have it" */
}

static void on_hold_gone(void *arg, struct hm_request *request)
{
    (void)arg;
    hm_request_reply(request, true, HM_OK, NULL, 0, NULL, 0);
}

/* Tells its address, then serves until it is killed. */
static _Noreturn void serve(int pipe_write, const char *listen)
{
    struct node node;
    struct hm_addrs addrs;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    node_open(&node, 1, listen);
    struct hm_method methods[] = {{ECHO, "echo", 64 << 20, on_echo, NULL, &node},
                                  {HOLD, "hold", 0, on_hold, on_hold_gone, &node}};
    assert_ok(hm_rpc_serve(node.rpc, methods, 2));
    assert_ok(hm_rpc_address(node.rpc, &addrs));
    ssize_t written = write(pipe_write, &addrs, sizeof addrs);
    if (written != (ssize_t)sizeof addrs) abort();
    hm_loop_uv_run(node.loop);
    abort();
}

struct server {
    pid_t pid;
    struct hm_addrs addrs;
};

static void server_start(struct server *server, const char *listen)
{
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid == 0) {
        close(fd[0]);
        serve(fd[1], listen);
    }
    close(fd[1]);
    assert_int_equal(read(fd[0], &server->addrs, sizeof server->addrs), sizeof server->addrs);
    close(fd[0]);
    assert_true(server->addrs.count > 0);
}

static void server_kill(struct server *server)
{
    assert_int_equal(kill(server->pid, SIGKILL), 0);
    assert_int_equal(waitpid(server->pid, NULL, 0), server->pid);
}

/* ---- the caller's process */

struct limit {
    struct hm_timer timer;
    struct hm_loop *loop;
    bool over;
};

static void on_limit(struct hm_timer *timer)
{
    struct limit *limit = HM_CONTAINER_OF(timer, struct limit, timer);
    limit->over = true;
    hm_loop_uv_stop(limit->loop);
}

/* Callbacks stop the loop when what was waited for has come. */
static void run(struct node *node, hm_ns longest)
{
    struct limit limit = {.timer.cb = on_limit, .loop = node->loop};
    hm_timer_start(node->loop, &limit.timer, longest);
    hm_loop_uv_run(node->loop);
    hm_timer_stop(node->loop, &limit.timer);
}

struct call {
    struct hm_call call;
    struct node *node;
    unsigned *left; /* calls that have not ended; the loop stops at 0 */
    unsigned replies, ends;
    enum hm_status reply_status, status;
    hm_ns ended;
    struct hm_buf *buf;
    bool pulled;
};

static void call_check(struct call *call)
{
    if (call->ends == 1 && (!call->buf || call->pulled) && --*call->left == 0)
        hm_loop_uv_stop(call->node->loop);
}

static void on_reply_pulled(void *arg, enum hm_status status)
{
    struct call *call = arg;
    assert_ok(status);
    call->pulled = true;
    call_check(call);
}

static void on_reply(struct hm_call *base, enum hm_status status, const void *header,
                     size_t header_bytes, struct hm_inbound *in)
{
    struct call *call = HM_CONTAINER_OF(base, struct call, call);
    (void)header;
    (void)header_bytes;
    call->replies++;
    call->reply_status = status;
    if (in->bytes == 0) {
        hm_inbound_drop(in);
        return;
    }
    assert_ok(hm_buf_pool_get(call->node->buffers, in->bytes, &call->buf));
    struct hm_span into = hm_buf_span(call->buf);
    assert_ok(hm_inbound_pull(in, &into, on_reply_pulled, call));
}

static void on_end(struct hm_call *base, enum hm_status status)
{
    struct call *call = HM_CONTAINER_OF(base, struct call, call);
    call->status = status;
    call->ended = hm_loop_now(call->node->loop);
    assert_int_equal(++call->ends, 1);
    call_check(call);
}

static void call_make(struct call *call, struct node *node, struct hm_peer *peer, uint16_t method,
                      hm_ns after, unsigned *left)
{
    *call = (struct call){.node = node, .left = left, .call.method = method};
    call->call.deadline = hm_deadline_after(node->loop, after);
    call->call.reply = on_reply;
    call->call.end = on_end;
    ++*left;
    assert_ok(hm_rpc_call(peer, &call->call));
}

static struct hm_peer *peer_of(struct node *node, const struct server *server)
{
    uint8_t seed[32] = {1, 5};
    struct hm_identity *identity;
    struct hm_peer *peer;
    assert_ok(hm_identity_create(seed, &identity));
    assert_ok(hm_peer_get(node->rpc, hm_identity_node(identity), &server->addrs, &peer));
    hm_identity_destroy(identity);
    return peer;
}

static void on_closed(void *arg)
{
    struct node *node = arg;
    node->closed = true;
    hm_loop_uv_stop(node->loop);
}

static void node_close(struct node *node)
{
    hm_rpc_close(node->rpc, on_closed, node);
    run(node, 30 * HM_S);
    assert_true(node->closed);
    hm_buf_pool_destroy(node->buffers);
    hm_identity_destroy(node->identity);
    hm_loop_uv_destroy(node->loop);
}

/* ---- claims */

static void calls_small_and_large_are_answered(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    static struct call calls[CALLS];
    server_start(&server, "127.0.0.1:0");
    node_open(&node, 2, NULL);
    struct hm_peer *peer = peer_of(&node, &server);
    unsigned left = 0;
    struct hm_buf *bulk;
    assert_ok(hm_buf_pool_get(node.buffers, BULK_BYTES, &bulk));
    for (size_t i = 0; i < BULK_BYTES; i++) ((uint8_t *)bulk->base)[i] = (uint8_t)(i * 31 >> 3);
    for (unsigned i = 0; i < CALLS; i++) {
        calls[i] = (struct call){.node = &node, .left = &left, .call.method = ECHO};
        calls[i].call.deadline = hm_deadline_after(node.loop, 60 * HM_S);
        calls[i].call.reply = on_reply;
        calls[i].call.end = on_end;
        if (i % 8 == 0) {
            calls[i].call.payload[0] = hm_buf_span(bulk);
            calls[i].call.span_count = 1;
        }
        left++;
        assert_ok(hm_rpc_call(peer, &calls[i].call));
    }
    hm_buf_put(bulk);
    run(&node, 60 * HM_S);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_ok(calls[i].status);
        assert_ok(calls[i].reply_status);
        if (i % 8) continue;
        const uint8_t *bytes = calls[i].buf->base;
        assert_int_equal(calls[i].buf->bytes, BULK_BYTES);
        for (size_t k = 0; k < BULK_BYTES; k++)
            if (bytes[k] != (uint8_t)(k * 31 >> 3)) fail_msg("byte %zu of call %u", k, i);
        hm_buf_put(calls[i].buf);
    }
    assert_true(hm_peer_round_trip(peer, NULL) > 0);
    hm_peer_put(peer);
    node_close(&node);
    server_kill(&server);
}

static void a_killed_server_ends_calls_in_flight_with_a_status(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    static struct call calls[CALLS];
    server_start(&server, "127.0.0.1:0");
    node_open(&node, 2, NULL);
    struct hm_peer *peer = peer_of(&node, &server);
    unsigned left = 0;
    struct call warm;
    call_make(&warm, &node, peer, ECHO, 30 * HM_S, &left);
    run(&node, 30 * HM_S);
    assert_ok(warm.status);
    for (unsigned i = 0; i < CALLS; i++) call_make(&calls[i], &node, peer, HOLD, 120 * HM_S, &left);
    run(&node, 300 * HM_MS);
    for (unsigned i = 0; i < CALLS; i++) assert_int_equal(calls[i].ends, 0);
    hm_ns killed = hm_loop_now(node.loop);
    server_kill(&server);
    run(&node, 60 * HM_S);
    assert_int_equal(left, 0);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_int_equal(hm_status_scope(calls[i].status), HM_SCOPE_PEER);
        assert_true(calls[i].ended < calls[i].call.deadline);
    }
    print_message("calls ended %.1f ms after the kill\n", (double)(calls[0].ended - killed) / 1e6);
    assert_int_equal(node.downs, 1);

    /* It comes back at the same address: the peer is found again once its back-off is over. */
    char listen[HM_ADDR_BYTES_MAX];
    strcpy(listen, server.addrs.addr[0].text + 4);
    server_start(&server, listen);
    for (unsigned tries = 0; tries < 200; tries++) {
        struct call call = {.node = &node, .left = &left, .call.method = ECHO};
        call.call.deadline = hm_deadline_after(node.loop, 10 * HM_S);
        call.call.end = on_end;
        enum hm_status status = hm_rpc_call(peer, &call.call);
        left = 1;
        run(&node, status == HM_OK ? 20 * HM_S : 50 * HM_MS);
        left = 0;
        if (status != HM_OK) continue;
        assert_int_equal(call.ends, 1);
        if (call.status == HM_OK) break;
        assert_true(tries < 199);
    }
    assert_true(hm_peer_connected(peer));
    hm_peer_put(peer);
    node_close(&node);
    server_kill(&server);
}

static void calls_on_a_stopped_server_end_at_their_deadline(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    static struct call calls[CALLS];
    server_start(&server, "127.0.0.1:0");
    node_open(&node, 2, NULL);
    struct hm_peer *peer = peer_of(&node, &server);
    unsigned left = 0;
    struct call warm;
    call_make(&warm, &node, peer, ECHO, 30 * HM_S, &left);
    run(&node, 30 * HM_S);
    assert_ok(warm.status);
    assert_int_equal(kill(server.pid, SIGSTOP), 0);
    for (unsigned i = 0; i < CALLS; i++)
        call_make(&calls[i], &node, peer, ECHO, 200 * HM_MS + i * HM_MS, &left);
    run(&node, 60 * HM_S);
    assert_int_equal(left, 0);
    hm_ns late = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_status(calls[i].status, HM_ERR_TIMED_OUT);
        assert_true(calls[i].ended >= calls[i].call.deadline);
        hm_ns after = calls[i].ended - calls[i].call.deadline;
        if (after > late) late = after;
        if (i > 0) assert_true(calls[i].ended >= calls[i - 1].ended);
    }
    print_message("the latest end was %.2f ms after its deadline\n", (double)late / 1e6);
    assert_int_equal(kill(server.pid, SIGCONT), 0);
    call_make(&warm, &node, peer, ECHO, 30 * HM_S, &left); /* late replies have led nowhere */
    run(&node, 30 * HM_S);
    assert_ok(warm.status);
    hm_peer_put(peer);
    node_close(&node);
    server_kill(&server);
}

struct dialled {
    struct node *node;
    struct hm_peer *peer;
    enum hm_status status;
    unsigned count;
};

static void on_dialled(void *arg, enum hm_status status, struct hm_peer *peer)
{
    struct dialled *dialled = arg;
    dialled->status = status;
    dialled->peer = peer;
    dialled->count++;
    hm_loop_uv_stop(dialled->node->loop);
}

static void a_join_line_leads_to_its_node_and_a_dead_one_to_a_status(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    server_start(&server, "127.0.0.1:0");
    node_open(&node, 2, NULL);
    struct dialled dialled = {.node = &node};
    hm_ns deadline = hm_deadline_after(node.loop, 20 * HM_S);
    assert_ok(hm_rpc_dial(node.rpc, &server.addrs.addr[0], deadline, on_dialled, &dialled));
    run(&node, 30 * HM_S);
    assert_int_equal(dialled.count, 1);
    assert_ok(dialled.status);
    struct hm_peer *known = peer_of(&node, &server);
    assert_ptr_equal(known, dialled.peer);
    hm_peer_put(known);
    hm_peer_put(dialled.peer);
    server_kill(&server);
    assert_ok(hm_rpc_dial(node.rpc, &server.addrs.addr[0], deadline, on_dialled, &dialled));
    run(&node, 30 * HM_S);
    assert_int_equal(dialled.count, 2);
    assert_int_equal(hm_status_scope(dialled.status), HM_SCOPE_PEER);
    assert_null(dialled.peer);
    node_close(&node);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_small_and_large_are_answered),
        cmocka_unit_test(a_killed_server_ends_calls_in_flight_with_a_status),
        cmocka_unit_test(calls_on_a_stopped_server_end_at_their_deadline),
        cmocka_unit_test(a_join_line_leads_to_its_node_and_a_dead_one_to_a_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
