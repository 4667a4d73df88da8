/* transport/tcp/dial.c - from "tcp:host:port" to a connected socket.
 *
 * Owns:      struct tcp_dial: the addresses of one endpoint, and the look-up that finds them.
 * Happy path: a numeric address is connected to at once; a name is looked up first.  Its addresses
 *            are tried in turn, each with an equal share of the time that is left.
 * Failure:   HM_ERR_INVALID at once for what is no address; HM_ERR_PEER_UNREACHABLE later.
 * Invariant: the struct outlives the look-up: `resolving` keeps the endpoint from being freed. */
#include "base/log.h"
#include "transport/tcp/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool hm_tcp_numeric(const char *host, uint16_t port, struct sockaddr_storage *address)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    char bare[INET6_ADDRSTRLEN];
    const char *zone = strchr(host, '%');
    size_t bytes = zone ? (size_t)(zone - host) : strlen(host);
    if (bytes >= sizeof bare) return false;
    memcpy(bare, host, bytes);
    bare[bytes] = '\0';
    memset(address, 0, sizeof *address);
    if (!zone && inet_pton(AF_INET, bare, &v4.sin_addr) == 1) {
        memcpy(address, &v4, sizeof v4);
        return true;
    }
    if (inet_pton(AF_INET6, bare, &v6.sin6_addr) != 1) return false;
    if (zone) v6.sin6_scope_id = if_nametoindex(zone + 1);
    memcpy(address, &v6, sizeof v6);
    return true;
}

socklen_t hm_tcp_address_bytes(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void socket_close(struct tcp_ep *ep)
{
    hm_tcp_ep_watch(ep, 0);
    if (ep->watch.fd >= 0) (void)close(ep->watch.fd);
    ep->watch.fd = -1;
}

/* Begins to connect to one address; false: it cannot even begin. */
static bool attempt(struct tcp_ep *ep, const struct sockaddr_storage *address)
{
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            hm_log(HM_LOG_WARN, "tcp", "cannot dial: %s; raise ulimit -n", strerror(errno));
        return false;
    }
    int failed = connect(fd, (const struct sockaddr *)address, hm_tcp_address_bytes(address));
    if (failed && errno != EINPROGRESS) {
        (void)close(fd);
        return false;
    }
    ep->watch.fd = fd;
    hm_tcp_ep_watch(ep, HM_WRITABLE);
    return true;
}

void hm_tcp_dial_next(struct tcp_ep *ep)
{
    struct tcp_dial *dial = ep->dial;
    struct hm_loop *loop = ep->tcp->loop;
    socket_close(ep);
    while (ep->state == TCP_DIALLING && dial->tried < dial->resolve.address_count) {
        unsigned left = dial->resolve.address_count - dial->tried;
        if (!attempt(ep, &dial->resolve.address[dial->tried++])) continue;
        hm_timer_start(loop, &ep->timer, hm_deadline_left(loop, ep->deadline) / left);
        return;
    }
    hm_tcp_ep_fail(ep, HM_ERR_PEER_UNREACHABLE);
}

void hm_tcp_dial_event(struct tcp_ep *ep)
{
    int error = 0;
    socklen_t bytes = sizeof error;
    if (getsockopt(ep->watch.fd, SOL_SOCKET, SO_ERROR, &error, &bytes) || error)
        hm_tcp_dial_next(ep);
    else
        hm_tcp_ep_connected(ep, ep->watch.fd, true);
}

static void on_resolved(struct hm_resolve *resolve, enum hm_status status)
{
    struct tcp_ep *ep = resolve->arg;
    ep->resolving = false;
    if (ep->state != TCP_DIALLING) {
        hm_tcp_ep_release(ep);
        return;
    }
    if (status == HM_OK)
        hm_tcp_dial_next(ep);
    else
        hm_tcp_ep_fail(ep, HM_ERR_PEER_UNREACHABLE);
}

enum hm_status hm_tcp_dial(struct tcp_ep *ep, const struct hm_addr *to)
{
    static const char prefix[] = "tcp:";
    char host[HM_ADDR_BYTES_MAX];
    uint16_t port;
    if (strncmp(to->text, prefix, sizeof prefix - 1) != 0)
        return hm_fail(HM_ERR_INVALID, "'%.*s' is not a tcp address; write tcp:host:port",
                       HM_ADDR_BYTES_MAX - 1, to->text);
    enum hm_status status =
        hm_host_port_parse(to->text + sizeof prefix - 1, -1, host, sizeof host, &port);
    if (status != HM_OK) return status;
    if (!host[0] || port == 0)
        return hm_fail(HM_ERR_INVALID, "'%s' cannot be dialled: it needs a host and a port",
                       to->text);
    struct tcp_dial *dial = calloc(1, sizeof *dial);
    if (!dial) return HM_ERR_NO_MEMORY;
    ep->dial = dial;
    dial->resolve.cb = on_resolved;
    dial->resolve.arg = ep;
    if (hm_tcp_numeric(host, port, &dial->resolve.address[0])) {
        dial->resolve.address_count = 1;
        hm_tcp_dial_next(ep);
        return HM_OK;
    }
    struct hm_loop *loop = ep->tcp->loop;
    hm_timer_start(loop, &ep->timer, hm_deadline_left(loop, ep->deadline));
    ep->resolving = true;
    if (hm_loop_uv_resolve(loop, &dial->resolve, host, port) != HM_OK) {
        ep->resolving = false;
        hm_tcp_ep_fail(ep, HM_ERR_PEER_UNREACHABLE);
    }
    return HM_OK;
}

void hm_tcp_dial_stop(struct tcp_ep *ep)
{
    if (ep->resolving) hm_loop_uv_resolve_cancel(ep->tcp->loop, &ep->dial->resolve);
}
