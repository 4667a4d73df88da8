#include "support_rpc_process.h"

#include "base/rng.h"
#include "transport/ucx_options.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

const struct hm_transport_ops *node_fabric;

static void on_down(void *arg, struct hm_peer *peer, enum hm_status why)
{
    (void)peer;
    (void)why;
    ((struct node *)arg)->downs++;
}

void node_open(struct node *node, unsigned key, const char *listen)
{
    static const uint8_t fabric_key[HM_FABRIC_KEY_BYTES] = {5, 6, 7};
    static const struct hm_ucx_options options;
    *node = (struct node){0};
    uint8_t seed[32] = {(uint8_t)key, 5};
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    assert_ok(hm_loop_uv_create(hm_rng_os_seed(), &node->loop));
    assert_ok(hm_identity_create(seed, &node->identity));
    assert_ok(hm_buf_pool_create((size_t)256 << 20, &node->buffers));
    hm_metrics_init(&node->metrics);
    struct hm_rpc_conf conf = {.loop = node->loop,
                               .transport = &hm_transport_tcp,
                               .transport_conf = {.identity = node->identity,
                                                  .hello = &hello,
                                                  .listen = listen,
                                                  .buffers = node->buffers,
                                                  .metrics = &node->metrics,
                                                  .endpoints_max = 64,
                                                  .receive_bytes_max = 4 << 20,
                                                  .handshake_max = 5 * HM_S,
                                                  .fabric_key = node_fabric ? fabric_key : NULL},
                               .fabric = node_fabric,
                               .fabric_conf.world = (void *)(uintptr_t)&options,
                               .peer_down = on_down,
                               .arg = node};
    assert_ok(hm_rpc_open(&conf, &node->rpc));
    assert_string_equal(hm_rpc_fabric_error(node->rpc), "");
}

static void on_closed(void *arg)
{
    struct node *node = arg;
    node->closed = true;
    hm_loop_uv_stop(node->loop);
}

void node_close(struct node *node)
{
    hm_rpc_close(node->rpc, on_closed, node);
    run(node, 30 * HM_S);
    assert_true(node->closed);
    hm_buf_pool_destroy(node->buffers);
    hm_identity_destroy(node->identity);
    hm_loop_uv_destroy(node->loop);
}

struct limit {
    struct hm_timer timer;
    struct hm_loop *loop;
};

static void on_limit(struct hm_timer *timer)
{
    hm_loop_uv_stop(HM_CONTAINER_OF(timer, struct limit, timer)->loop);
}

void run(struct node *node, hm_ns longest)
{
    struct limit limit = {.timer.cb = on_limit, .loop = node->loop};
    hm_timer_start(node->loop, &limit.timer, longest);
    hm_loop_uv_run(node->loop);
    hm_timer_stop(node->loop, &limit.timer);
}

/* ---- the server's process */

static uint8_t seen[1 << 20];

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

static bool is_new(const void *header, size_t header_bytes)
{
    uint32_t number;
    if (header_bytes < sizeof number) return true;
    memcpy(&number, header, sizeof number);
    return number < sizeof seen && seen[number]++ == 0;
}

static void on_echo(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    struct node *node = arg;
    bool fresh = is_new(header, header_bytes);
    if (in->bytes == 0 || !fresh) {
        hm_inbound_drop(in);
        hm_request_reply(request, true, fresh ? HM_OK : HM_ERR_DUPLICATE, header, header_bytes,
                         NULL, 0);
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

_Noreturn void serve_main(const char *listen)
{
    struct node node;
    struct hm_addrs addrs;
    node_open(&node, 1, listen);
    struct hm_method methods[] = {{ECHO, "echo", 64 << 20, on_echo, NULL, &node},
                                  {HOLD, "hold", 0, on_hold, on_hold_gone, &node}};
    assert_ok(hm_rpc_serve(node.rpc, methods, 2));
    assert_ok(hm_rpc_address(node.rpc, &addrs));
    if (write(STDOUT_FILENO, &addrs, sizeof addrs) != (ssize_t)sizeof addrs) abort();
    hm_loop_uv_run(node.loop);
    abort();
}

void server_start(struct server *server, const char *listen)
{
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), 0);
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid == 0) { /* exec: UCX does not survive a fork */
        char *argv[] = {"server", "--serve", (char *)(uintptr_t)listen, NULL};
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], STDOUT_FILENO);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &server->addrs, sizeof server->addrs), sizeof server->addrs);
    close(ends[0]);
    assert_true(server->addrs.count > 0);
}

void server_stop(struct server *server)
{
    int status;
    assert_return_code(kill(server->pid, SIGSTOP), 0);
    assert_int_equal(waitpid(server->pid, &status, WUNTRACED), server->pid);
    assert_true(WIFSTOPPED(status));
}

void server_kill(struct server *server)
{
    int status;
    assert_return_code(kill(server->pid, SIGKILL), 0);
    assert_int_equal(waitpid(server->pid, &status, 0), server->pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* it had not failed */
}

struct hm_peer *peer_of(struct node *node, const struct server *server)
{
    uint8_t seed[32] = {1, 5};
    struct hm_identity *identity;
    struct hm_peer *peer;
    assert_ok(hm_identity_create(seed, &identity));
    assert_ok(hm_peer_get(node->rpc, hm_identity_node(identity), &server->addrs, &peer));
    hm_identity_destroy(identity);
    return peer;
}

struct hm_peer *pair_open(struct server *server, struct node *node)
{
    server_start(server, "127.0.0.1:0");
    node_open(node, 2, NULL);
    return peer_of(node, server);
}

void pair_close(struct server *server, struct node *node, struct hm_peer *peer)
{
    hm_peer_put(peer);
    node_close(node);
    server_kill(server);
}

/* ---- the caller's process */

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

void call_make(struct call *call, struct node *node, struct hm_peer *peer, uint16_t method,
               hm_ns after, const uint32_t *number, struct hm_buf *payload, unsigned *left)
{
    *call = (struct call){.node = node, .left = left, .call.method = method};
    call->call.deadline = hm_deadline_after(node->loop, after);
    call->call.reply = on_reply;
    call->call.end = on_end;
    call->call.header = number;
    call->call.header_bytes = number ? sizeof *number : 0;
    if (payload) call->call.payload[0] = hm_buf_span(payload);
    call->call.span_count = payload != NULL;
    ++*left;
    assert_ok(hm_rpc_call(peer, &call->call));
}

void call_warm(struct node *node, struct hm_peer *peer)
{
    unsigned left = 0;
    struct call warm;
    struct hm_peer_path path;
    call_make(&warm, node, peer, ECHO, 30 * HM_S, NULL, NULL, &left);
    run(node, 30 * HM_S);
    assert_ok(warm.status);
    hm_peer_path(peer, &path);
    if (node_fabric && strcmp(path.provider, node_fabric->name) != 0)
        fail_msg("over %s: %s", path.provider, path.why);
}
