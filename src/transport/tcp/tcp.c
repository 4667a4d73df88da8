/* transport/tcp/tcp.c - the open plane as a provider: the transport itself.
 *
 * Owns:      the TLS context, the pools of sends, inbounds and buffers, the list of endpoints, and
 *            the turn: one timer of 0 under everything that must not happen inside a user's call.
 * Happy path: open, connect or accept, messages, close.
 * Waking:    where a message at a time goes and comes, the loop looks at its descriptors for a while
 *            before it sleeps (base/linger.h): a caller that waits for its answer, and its server.
 * Failure:   open gives a status with a line and leaves nothing behind; later failures belong to
 *            one endpoint each.
 * Invariant: done of close comes once, after the last down(); the memory goes with the last
 *            inbound. */
#include "transport/tcp/tcp.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

enum { CHUNK_OBJECTS = 16 };
/* A round trip between two that sleep takes some 150 us, between two that look on 40: the sleeps of
 * both sides cost the rest. */
#define LINGER_NS (150 * HM_US)

/* ---- pools --------------------------------------------------------------------------------- */

struct chunk {
    struct hm_link link;
    max_align_t objects[];
};

/* Sends and inbounds are bounded an endpoint, and used again: the heap is asked only until the
 * pools have seen their load.  An object on a spare list uses its own `link`, at `link_offset`. */
static struct hm_link *pool_get(struct tcp *tcp, struct hm_link *spare, size_t object_bytes,
                                size_t link_offset)
{
    struct hm_link *link = hm_list_pop(spare);
    if (link) return link;
    struct chunk *chunk = malloc(sizeof *chunk + CHUNK_OBJECTS * object_bytes);
    if (!chunk) return NULL;
    hm_list_push(&tcp->chunks, &chunk->link);
    for (size_t i = 0; i < CHUNK_OBJECTS; i++)
        hm_list_push_front(
            spare, (struct hm_link *)((char *)chunk->objects + i * object_bytes + link_offset));
    return hm_list_pop(spare);
}

struct tcp_send *hm_tcp_send_get(struct tcp *tcp)
{
    struct hm_link *link =
        pool_get(tcp, &tcp->spare_sends, sizeof(struct tcp_send), offsetof(struct tcp_send, link));
    if (!link) return NULL;
    struct tcp_send *send = HM_CONTAINER_OF(link, struct tcp_send, link);
    memset(send, 0, offsetof(struct tcp_send, head)); /* the head is written before it is read */
    hm_list_init(&send->link);
    return send;
}

void hm_tcp_send_put(struct tcp *tcp, struct tcp_send *send)
{
    hm_list_push_front(&tcp->spare_sends, &send->link);
}

struct tcp_inbound *hm_tcp_inbound_get(struct tcp *tcp)
{
    struct hm_link *link = pool_get(tcp, &tcp->spare_inbounds, sizeof(struct tcp_inbound),
                                    offsetof(struct tcp_inbound, link));
    if (!link) return NULL;
    struct tcp_inbound *in = HM_CONTAINER_OF(link, struct tcp_inbound, link);
    memset(in, 0, sizeof *in);
    hm_list_init(&in->link);
    return in;
}

void hm_tcp_inbound_put(struct tcp *tcp, struct tcp_inbound *in)
{
    hm_list_push_front(&tcp->spare_inbounds, &in->link);
}

/* ---- the turn ------------------------------------------------------------------------------ */

void hm_tcp_turn_soon(struct tcp_ep *ep)
{
    struct tcp *tcp = ep->tcp;
    if (ep->state >= TCP_LINGER || hm_list_linked(&ep->turn_link)) return;
    hm_list_push(&tcp->turn_eps, &ep->turn_link);
    if (!hm_timer_active(&tcp->turn)) hm_timer_start(tcp->loop, &tcp->turn, 0);
}

/* ---- the sweep ----------------------------------------------------------------------------- */

#define SWEEP_NS (1 * HM_S)

void hm_tcp_moved(struct tcp_ep *ep)
{
    struct tcp *tcp = ep->tcp;
    ep->moved = true;
    if (!hm_timer_active(&tcp->sweep) && !tcp->closing)
        hm_timer_start(tcp->loop, &tcp->sweep, SWEEP_NS);
}

static void on_sweep(struct hm_timer *timer)
{
    struct tcp *tcp = timer->arg;
    bool again = false;
    HM_LIST_EACH (link, &tcp->eps) {
        struct tcp_ep *ep = HM_CONTAINER_OF(link, struct tcp_ep, link);
        if (ep->moved)
            again = true;
        else if (ep->state == TCP_UP)
            (void)SSL_free_buffers(ep->ssl); /* keeps one that still holds something */
        ep->moved = false;
    }
    if (again) hm_timer_start(tcp->loop, timer, SWEEP_NS);
}

static void tcp_free(struct tcp *tcp)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&tcp->chunks)) != NULL)
        free(HM_CONTAINER_OF(link, struct chunk, link));
    hm_buf_pool_destroy(tcp->pool);
    SSL_CTX_free(tcp->ctx);
    OPENSSL_cleanse(tcp->fabric_key, sizeof tcp->fabric_key);
    free(tcp);
}

/* Does an endpoint still need the loop?  One that only waits for its inbounds does not. */
static bool alive(const struct tcp *tcp)
{
    HM_LIST_EACH (link, &tcp->eps) {
        const struct tcp_ep *ep = HM_CONTAINER_OF(link, struct tcp_ep, link);
        if (ep->state != TCP_GONE || ep->resolving) return true;
    }
    return false;
}

/* Only where one message at a time goes and comes: where there are more, others use the processor
 * better than who looks on. */
static bool before_sleep(struct hm_hook *hook)
{
    struct tcp *tcp = hook->arg;
    uint64_t sent = tcp->metrics.messages_sent.value;
    uint64_t received = tcp->metrics.messages_received.value;
    bool several = sent - tcp->linger.sent > 1 || received - tcp->linger.received > 1;
    bool lingers =
        hm_linger(&tcp->linger, sent, received, LINGER_NS, hm_loop_now(tcp->loop)) && !several;
    if (lingers)
        sched_yield(); /* whoever else wants this processor has it */
    else
        tcp->linger.until = 0;
    return !lingers;
}

static void close_finish(struct tcp *tcp)
{
    struct hm_metric *metric = &tcp->metrics.bytes_sent;
    tcp->loop->ops->unhook(tcp->loop, &tcp->hook);
    hm_timer_stop(tcp->loop, &tcp->turn);
    hm_timer_stop(tcp->loop, &tcp->sweep);
    for (size_t i = 0; i < sizeof tcp->metrics / sizeof *metric; i++)
        if (metric[i].link.next) hm_metrics_remove(&metric[i]);
    void (*done)(void *arg) = tcp->close_done;
    void *arg = tcp->close_arg;
    tcp->closed = true;
    if (hm_list_empty(&tcp->eps)) tcp_free(tcp);
    if (done) done(arg);
}

void hm_tcp_close_check(struct tcp *tcp)
{
    if (tcp->closed && hm_list_empty(&tcp->eps))
        tcp_free(tcp);
    else if (tcp->closing && !tcp->closed && !hm_timer_active(&tcp->turn))
        hm_timer_start(tcp->loop, &tcp->turn, 0);
}

/* What is asked for during this turn waits for the next: the endpoints change lists first. */
static void on_turn(struct hm_timer *timer)
{
    struct tcp *tcp = timer->arg;
    struct hm_link now, *link;
    hm_list_init(&now);
    while ((link = hm_list_pop(&tcp->turn_eps)) != NULL) hm_list_push(&now, link);
    while ((link = hm_list_pop(&now)) != NULL)
        hm_tcp_ep_turn(HM_CONTAINER_OF(link, struct tcp_ep, turn_link));
    if (tcp->closing && !alive(tcp)) close_finish(tcp);
}

/* ---- open and close ------------------------------------------------------------------------ */

static void metrics_add(struct tcp *tcp, struct hm_metrics *metrics)
{
    static const struct {
        const char *name, *help;
        enum hm_metric_kind kind;
    } row[] = {
        {"tcp.bytes_sent", "bytes given to TLS", HM_COUNTER},
        {"tcp.bytes_received", "bytes taken from TLS", HM_COUNTER},
        {"tcp.bytes_copied", "bytes of payloads copied between their place and TLS", HM_COUNTER},
        {"tcp.messages_sent", "messages put on the wire", HM_COUNTER},
        {"tcp.messages_received", "messages delivered", HM_COUNTER},
        {"tcp.endpoints", "connections, those in handshake included", HM_GAUGE},
        {"tcp.handshakes", "TLS handshakes finished", HM_COUNTER},
        {"tcp.refused", "connections closed at once, over a limit", HM_COUNTER},
        {"tcp.failures_unreachable", "connections that could not be made or were cut", HM_COUNTER},
        {"tcp.failures_reset", "connections closed by the peer", HM_COUNTER},
        {"tcp.failures_protocol", "connections closed for garbage", HM_COUNTER},
        {"tcp.failures_version", "connections closed for another wire version", HM_COUNTER},
        {"tcp.failures_denied", "connections to another node or swarm", HM_COUNTER},
    };
    struct hm_metric *metric = &tcp->metrics.bytes_sent;
    _Static_assert(sizeof tcp->metrics == HM_COUNT_OF(row) * sizeof *metric, "a row a metric");
    for (size_t i = 0; i < HM_COUNT_OF(row); i++) {
        metric[i].name = row[i].name;
        metric[i].help = row[i].help;
        metric[i].kind = row[i].kind;
        if (metrics) hm_metrics_add(metrics, &metric[i]);
    }
}

/* Every eager byte that every peer may have in flight to us, with a quarter for rounding, and a
 * stage for each: memory is taken as it is used. */
static size_t pool_bytes_max(const struct hm_transport_conf *conf)
{
    const size_t ceiling = (size_t)1 << 44;
    size_t credit = conf->receive_bytes_max < ceiling ? conf->receive_bytes_max : ceiling;
    size_t each = credit + credit / 4 + HM_FRAME_EAGER_BYTES_MAX + 2 * TCP_STAGE_BYTES;
    return each > ceiling / (conf->endpoints_max + 1) ? ceiling : each * (conf->endpoints_max + 1);
}

static enum hm_status hello_fill(struct tcp *tcp, const struct hm_hello *hello)
{
    tcp->hello = *hello;
    if (tcp->hello.listening.count == 0) tcp->hello.listening = tcp->listening;
    struct hm_hello longest = tcp->hello;
    longest.fabric_proof_bytes = HM_PROOF_BYTES_MAX;
    struct hm_writer writer;
    uint8_t bytes[HM_FRAME_HELLO_BYTES_MAX];
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_hello_encode(&longest, &writer);
    return hm_writer_ok(&writer) ? HM_OK : hm_fail(HM_ERR_INVALID, "the hello is too long");
}

static struct tcp *tcp_make(const struct hm_transport_conf *conf, struct hm_loop *loop,
                            const struct hm_transport_sink *sink)
{
    struct tcp *tcp = calloc(1, sizeof *tcp);
    if (!tcp) return NULL;
    tcp->base.ops = &hm_transport_tcp;
    tcp->loop = loop;
    tcp->sink = *sink;
    tcp->endpoints_max = conf->endpoints_max;
    tcp->handshakes_max = conf->endpoints_max / 4 > 4 ? conf->endpoints_max / 4 : 4;
    tcp->receive_bytes_max = conf->receive_bytes_max;
    tcp->handshake_max = conf->handshake_max;
    tcp->stall_max = 30 * HM_S;
    tcp->turn = (struct hm_timer){.cb = on_turn, .arg = tcp};
    tcp->sweep = (struct hm_timer){.cb = on_sweep, .arg = tcp};
    tcp->listener.fd = -1;
    tcp->self = *hm_identity_node(conf->identity);
    tcp->has_fabric_key = conf->fabric_key != NULL;
    if (conf->fabric_key) memcpy(tcp->fabric_key, conf->fabric_key, sizeof tcp->fabric_key);
    struct hm_link *const lists[] = {&tcp->eps,         &tcp->handshakes,     &tcp->turn_eps,
                                     &tcp->spare_sends, &tcp->spare_inbounds, &tcp->chunks};
    for (size_t i = 0; i < HM_COUNT_OF(lists); i++) hm_list_init(lists[i]);
    return tcp;
}

static enum hm_status tcp_open(const struct hm_transport_conf *conf, struct hm_loop *loop,
                               const struct hm_transport_sink *sink,
                               struct hm_transport **transport)
{
    HM_ASSERT(conf->identity && conf->hello && conf->endpoints_max > 0 && conf->handshake_max > 0);
    struct tcp *tcp = tcp_make(conf, loop, sink);
    if (!tcp) return hm_fail(HM_ERR_NO_MEMORY, "no memory for the tcp transport");
    enum hm_status status = hm_tls_create(conf->identity, &tcp->ctx);
    if (status != HM_OK) goto free_tcp;
    status = hm_buf_pool_create(pool_bytes_max(conf), &tcp->pool);
    if (status != HM_OK) goto free_ctx;
    if (conf->listen) status = hm_tcp_listen(tcp, conf->listen);
    if (status != HM_OK) goto destroy_pool;
    status = hello_fill(tcp, conf->hello);
    if (status != HM_OK) goto unlisten;
    metrics_add(tcp, conf->metrics);
    tcp->hook = (struct hm_hook){.before_sleep = before_sleep, .arg = tcp};
    loop->ops->hook(loop, &tcp->hook);
    *transport = &tcp->base;
    return HM_OK;

unlisten:
    hm_tcp_unlisten(tcp);
destroy_pool:
    hm_buf_pool_destroy(tcp->pool);
free_ctx:
    SSL_CTX_free(tcp->ctx);
free_tcp:
    free(tcp);
    return status;
}

static void tcp_close(struct hm_transport *base, void (*done)(void *arg), void *arg)
{
    struct tcp *tcp = tcp_of(base);
    HM_ASSERT(!tcp->closing);
    tcp->closing = true;
    tcp->close_done = done;
    tcp->close_arg = arg;
    hm_tcp_unlisten(tcp);
    HM_LIST_EACH_SAFE (link, &tcp->eps) {
        struct tcp_ep *ep = HM_CONTAINER_OF(link, struct tcp_ep, link);
        if (ep->state == TCP_LINGER)
            hm_tcp_ep_timer(&ep->timer); /* its time is over */
        else
            hm_tcp_ep_fail(ep, HM_ERR_CANCELED);
    }
    hm_tcp_close_check(tcp);
}

/* ---- the rest of the vtable ---------------------------------------------------------------- */

static void tcp_caps(struct hm_transport *base, struct hm_transport_caps *caps)
{
    (void)base;
    *caps = (struct hm_transport_caps){
        .memory = {[HM_MEM_HOST] = true, [HM_MEM_PINNED] = true},
        .eager_bytes_max = HM_FRAME_EAGER_BYTES_MAX,
        .sends_lent = true,
        .pulls_lent = true,
    };
}

static enum hm_status tcp_address(struct hm_transport *base, struct hm_addrs *addrs)
{
    struct tcp *tcp = tcp_of(base);
    if (tcp->listening.count == 0) return HM_ERR_NOT_FOUND;
    *addrs = tcp->hello.listening;
    return HM_OK;
}

static enum hm_status tcp_connect(struct hm_transport *base, const struct hm_addr *to,
                                  const struct hm_node_id *expect, struct hm_ep **connected)
{
    struct tcp *tcp = tcp_of(base);
    if (tcp->closing) return HM_ERR_CANCELED;
    if (tcp->ep_count >= tcp->endpoints_max) return HM_ERR_BUSY;
    struct tcp_ep *ep = hm_tcp_ep_create(tcp);
    if (!ep) return HM_ERR_NO_MEMORY;
    if (expect) {
        ep->expected = true;
        ep->node = *expect;
    }
    enum hm_status status = hm_tcp_dial(ep, to);
    if (status != HM_OK) {
        ep->state = TCP_GONE;
        tcp->ep_count--;
        tcp->metrics.endpoints.value--;
        hm_tcp_ep_release(ep);
        return status;
    }
    ep->known = true;
    *connected = &ep->base;
    return HM_OK;
}

static void tcp_disconnect(struct hm_ep *base)
{
    hm_tcp_ep_fail(tcp_ep_of(base), HM_ERR_CANCELED);
}

const struct hm_transport_ops hm_transport_tcp = {
    .name = "tcp",
    .open = tcp_open,
    .close = tcp_close,
    .caps = tcp_caps,
    .address = tcp_address,
    .connect = tcp_connect,
    .disconnect = tcp_disconnect,
    .send = hm_tcp_send,
    .pull = hm_tcp_pull,
    .drop = hm_tcp_drop,
};
