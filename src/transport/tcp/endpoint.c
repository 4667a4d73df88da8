/* transport/tcp/endpoint.c - an endpoint's life.
 *
 *   connect() -> DIALLING --.
 *                           v      TLS done       HELLO came
 *             accept -> HANDSHAKE ----------> HELLO -------> UP: up()
 *                           |                   |             |
 *                           '-------- fail -----+-------------'
 *                                       v
 *                        FAILING: next turn: last words, callbacks, down()
 *                            |                    |
 *        the peer must hear why                 it need not
 *                            v                    v
 *                         LINGER ---------------> GONE: freed once its inbounds are dropped
 *
 * Owns:      socket, TLS connection, timers; the rest of struct tcp_ep is send.c's and receive.c's.
 * Failure:   hm_tcp_ep_fail with a status, once; everything else follows from it.
 * Invariant: the sink is called from the loop only (events, turns), never from a user's call. */
#include "base/log.h"
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>

enum { LINGER_READ_BYTES = 256 << 10 }; /* of an event */
#define LINGER_NS (1 * HM_S)

static void on_event(struct hm_watch *watch, int events);

struct tcp_ep *hm_tcp_ep_create(struct tcp *tcp)
{
    struct tcp_ep *ep = calloc(1, sizeof *ep);
    if (!ep) return NULL;
    ep->base.transport = &tcp->base;
    ep->tcp = tcp;
    ep->since = hm_loop_now(tcp->loop);
    ep->deadline = hm_deadline_after(tcp->loop, tcp->handshake_max);
    ep->timer = (struct hm_timer){.cb = hm_tcp_ep_timer, .arg = ep};
    ep->watch = (struct hm_watch){.fd = -1, .cb = on_event, .arg = ep};
    hm_list_init(&ep->handshake_link);
    hm_list_init(&ep->turn_link);
    hm_tcp_send_init(ep);
    hm_tcp_receive_init(ep);
    hm_list_push(&tcp->eps, &ep->link);
    tcp->ep_count++;
    tcp->metrics.endpoints.value++;
    return ep;
}

void hm_tcp_ep_watch(struct tcp_ep *ep, int events)
{
    if (ep->watched == events) return;
    enum hm_status status = ep->tcp->loop->ops->watch(ep->tcp->loop, &ep->watch, events);
    if (status == HM_OK)
        ep->watched = events;
    else
        hm_tcp_ep_fail(ep, status);
}

/* ---- the way up ---------------------------------------------------------------------------- */

static void handshake_done(struct tcp_ep *ep)
{
    struct hm_node_id node;
    ep->secure = true;
    hm_tls_count(ep->ssl, &ep->tls_messages);
    ep->tcp->metrics.handshakes.value++;
    if (!hm_tls_peer(ep->ssl, &node)) {
        hm_tcp_ep_fail(ep, HM_ERR_PEER_PROTOCOL);
        return;
    }
    if (ep->expected && !hm_node_id_equal(&node, &ep->node)) {
        hm_tcp_ep_fail(ep, HM_ERR_PEER_DENIED);
        return;
    }
    ep->node = node;
    ep->state = TCP_HELLO;
    if (!hm_tcp_send_hello(ep)) hm_tcp_ep_fail(ep, HM_ERR_NO_MEMORY);
}

static void handshake_step(struct tcp_ep *ep)
{
    hm_tls_wire_begin(&ep->wire);
    if (SSL_do_handshake(ep->ssl) == 1) {
        handshake_done(ep);
        return;
    }
    int events = 0;
    enum hm_status status = hm_tls_error(&ep->wire, ep->ssl, &events);
    if (status == HM_ERR_BUSY)
        hm_tcp_ep_watch(ep, events);
    else
        hm_tcp_ep_fail(ep, status);
}

void hm_tcp_ep_connected(struct tcp_ep *ep, int fd, bool client)
{
    free(ep->dial);
    ep->dial = NULL;
    ep->watch.fd = fd;
    ep->state = TCP_HANDSHAKE;
    ep->dialled = client;
    hm_tcp_socket_options(fd);
    hm_timer_start(ep->tcp->loop, &ep->timer, hm_deadline_left(ep->tcp->loop, ep->deadline));
    ep->ssl = hm_tls_connection(ep->tcp->ctx, fd, &ep->wire, client);
    if (!ep->ssl)
        hm_tcp_ep_fail(ep, HM_ERR_NO_MEMORY);
    else if (client)
        handshake_step(ep);
    else
        hm_tcp_ep_watch(ep, HM_READABLE);
}

static void handshake_forget(struct tcp_ep *ep)
{
    if (!hm_list_linked(&ep->handshake_link)) return;
    hm_list_remove(&ep->handshake_link);
    ep->tcp->handshake_count--;
}

bool hm_tcp_ep_context(struct tcp_ep *ep, bool ours, struct hm_proof_context *context)
{
    context->by_dialler = ours == ep->dialled;
    context->prover = ours ? &ep->tcp->self : &ep->node;
    context->verifier = ours ? &ep->node : &ep->tcp->self;
    return hm_tls_binding(ep->ssl, context->binding, sizeof context->binding);
}

void hm_tcp_ep_up(struct tcp_ep *ep, const struct hm_hello *hello)
{
    const struct hm_transport_sink *sink = &ep->tcp->sink;
    handshake_forget(ep);
    hm_timer_stop(ep->tcp->loop, &ep->timer);
    ep->state = TCP_UP;
    (void)SSL_clear_mode(ep->ssl, SSL_MODE_RELEASE_BUFFERS);
    ep->known = true;
    sink->up(sink->arg, &ep->base, &ep->node, hello);
}

/* ---- work ---------------------------------------------------------------------------------- */

static void move(struct tcp_ep *ep, bool receive)
{
    hm_tcp_moved(ep);
    if (receive) hm_tcp_receive(ep);
    hm_tcp_receive_callbacks(ep);
    if (ep->state == TCP_HELLO || ep->state == TCP_UP) hm_tcp_send_flush(ep);
    hm_tcp_send_callbacks(ep);
}

static void close_socket(struct tcp_ep *ep)
{
    hm_timer_stop(ep->tcp->loop, &ep->timer);
    hm_tcp_ep_watch(ep, 0);
    SSL_free(ep->ssl);
    ep->ssl = NULL;
    if (ep->watch.fd >= 0) (void)close(ep->watch.fd);
    ep->watch.fd = -1;
}

static void linger_end(struct tcp_ep *ep)
{
    ep->tcp->linger_count--;
    close_socket(ep);
    ep->state = TCP_GONE;
    hm_tcp_ep_release(ep);
}

/* Unread bytes in our socket would make the kernel reset the connection, and the peer lose what we
 * said last. */
static void linger_read(struct tcp_ep *ep)
{
    ssize_t got = 1;
    for (size_t sum = 0; sum < LINGER_READ_BYTES && got > 0; sum += (size_t)got)
        got = recv(ep->watch.fd, ep->tcp->scratch, sizeof ep->tcp->scratch, MSG_DONTWAIT);
    if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return;
    linger_end(ep);
}

static void on_event(struct hm_watch *watch, int events)
{
    struct tcp_ep *ep = watch->arg;
    (void)events; /* a TLS read may wait for writing, and the other way round: both are tried */
    ep->blocked = false;
    switch (ep->state) {
    case TCP_DIALLING: hm_tcp_dial_event(ep); break;
    case TCP_HANDSHAKE:
        handshake_step(ep);
        /* TLS may have read the peer's first frames together with its last handshake message. */
        if (ep->state == TCP_HELLO) move(ep, true);
        break;
    case TCP_HELLO:
    case TCP_UP: move(ep, true); break;
    case TCP_LINGER: linger_read(ep); break;
    case TCP_FAILING:
    case TCP_GONE: break;
    }
}

void hm_tcp_ep_timer(struct hm_timer *timer)
{
    struct tcp_ep *ep = timer->arg;
    if (ep->state == TCP_DIALLING && hm_deadline_left(ep->tcp->loop, ep->deadline) > 0)
        hm_tcp_dial_next(ep);
    else if (ep->state == TCP_LINGER)
        linger_end(ep);
    else if (ep->state == TCP_UP)
        hm_tcp_receive_timer(ep);
    else
        hm_tcp_ep_fail(ep, HM_ERR_PEER_UNREACHABLE);
}

/* ---- the way down -------------------------------------------------------------------------- */

static void count_failure(struct tcp_metrics *metrics, enum hm_status why)
{
    switch (why) {
    case HM_ERR_PEER_UNREACHABLE: metrics->unreachable.value++; break;
    case HM_ERR_PEER_RESET: metrics->reset.value++; break;
    case HM_ERR_PEER_PROTOCOL: metrics->protocol.value++; break;
    case HM_ERR_PEER_VERSION: metrics->version.value++; break;
    case HM_ERR_PEER_DENIED: metrics->denied.value++; break;
    default: break;
    }
}

void hm_tcp_ep_fail(struct tcp_ep *ep, enum hm_status why)
{
    static const char *const phase[] = {[TCP_DIALLING] = "dialling",
                                        [TCP_HANDSHAKE] = "the TLS handshake",
                                        [TCP_HELLO] = "the hello",
                                        [TCP_UP] = "traffic"};
    if (ep->state >= TCP_FAILING) return;
    char text[HM_NODE_ID_TEXT_BYTES] = "a stranger";
    if (ep->state >= TCP_HELLO) (void)hm_node_id_text(&ep->node, text);
    hm_log(HM_LOG_INFO, "tcp", "%s: %s, in %s", text, hm_status_text(why), phase[ep->state]);
    count_failure(&ep->tcp->metrics, why);
    hm_tcp_dial_stop(ep);
    handshake_forget(ep);
    hm_timer_stop(ep->tcp->loop, &ep->timer);
    hm_tcp_ep_watch(ep, 0);
    ep->state = TCP_FAILING;
    ep->why = why;
    ep->say_goodbye = ep->secure;
    hm_tcp_turn_soon(ep);
}

static void linger_or_close(struct tcp_ep *ep)
{
    struct tcp *tcp = ep->tcp;
    bool linger = ep->secure && !tcp->closing && tcp->linger_count < TCP_LINGERS_MAX;
    if (ep->secure) {
        ERR_clear_error();
        (void)SSL_shutdown(ep->ssl); /* says close_notify if that fits, and waits for nothing */
        ERR_clear_error();
        (void)shutdown(ep->watch.fd, SHUT_WR);
    }
    if (linger) {
        ep->state = TCP_LINGER;
        tcp->linger_count++;
        hm_timer_start(tcp->loop, &ep->timer, LINGER_NS);
        if (tcp->loop->ops->watch(tcp->loop, &ep->watch, HM_READABLE) == HM_OK)
            ep->watched = HM_READABLE;
        return;
    }
    close_socket(ep);
    ep->state = TCP_GONE;
}

static void tear_down(struct tcp_ep *ep)
{
    struct tcp *tcp = ep->tcp;
    if (ep->secure) hm_tcp_send_flush(ep);
    hm_tcp_send_abort(ep);
    hm_tcp_receive_abort(ep);
    hm_tcp_receive_callbacks(ep);
    hm_tcp_send_callbacks(ep);
    if (ep->known) tcp->sink.down(tcp->sink.arg, &ep->base, ep->why);
    tcp->ep_count--;
    tcp->metrics.endpoints.value--;
    hm_list_remove(&ep->turn_link);
    linger_or_close(ep);
    hm_tcp_ep_release(ep);
}

void hm_tcp_ep_turn(struct tcp_ep *ep)
{
    bool receive = ep->read_more;
    ep->read_more = false;
    if (ep->state == TCP_FAILING)
        tear_down(ep);
    else if (ep->state == TCP_HELLO || ep->state == TCP_UP)
        move(ep, receive);
}

void hm_tcp_ep_release(struct tcp_ep *ep)
{
    struct tcp *tcp = ep->tcp;
    if (ep->state != TCP_GONE || ep->resolving) return;
    if (ep->inbounds_out == 0) {
        hm_list_remove(&ep->link);
        free(ep->dial);
        free(ep);
    }
    hm_tcp_close_check(tcp);
}
