/* transport/tcp/listen.c - the listening socket.
 *
 * Owns:      the socket, and the timer that pauses it.
 * Happy path: bind one socket (IPv6 ones take IPv4 too where the host is empty), accept what comes.
 * Failure:   at open HM_ERR_INVALID with a line.  Later: where descriptors or memory have run out
 *            accepting pauses for a moment instead of spinning; a connection over a limit is closed
 *            at once.
 * Invariant: at most handshakes_max accepted endpoints are not up.  When they are that many, or no
 *            place is free, the one that is oldest makes room once it has had HANDSHAKE_GRACE:
 *            silent strangers cannot keep others out. */
#include "base/log.h"
#include "transport/tcp/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 1024, ACCEPTS_MAX = 64 /* of one event */ };
#define PAUSE           (100 * HM_MS)
#define HANDSHAKE_GRACE (250 * HM_MS)

/* ---- accepting ----------------------------------------------------------------------------- */

static bool make_room(struct tcp *tcp)
{
    if (tcp->ep_count < tcp->endpoints_max && tcp->handshake_count < tcp->handshakes_max)
        return true;
    if (hm_list_empty(&tcp->handshakes))
        return false; /* the places are those of endpoints in use */
    struct tcp_ep *oldest = HM_CONTAINER_OF(tcp->handshakes.next, struct tcp_ep, handshake_link);
    if (hm_loop_now(tcp->loop) - oldest->since < HANDSHAKE_GRACE) return false;
    hm_tcp_ep_fail(oldest, HM_ERR_PEER_UNREACHABLE);
    return true;
}

static void accepted(struct tcp *tcp, int fd)
{
    struct tcp_ep *ep = make_room(tcp) ? hm_tcp_ep_create(tcp) : NULL;
    if (!ep) {
        tcp->metrics.refused.value++;
        (void)close(fd);
        return;
    }
    hm_list_push(&tcp->handshakes, &ep->handshake_link);
    tcp->handshake_count++;
    hm_tcp_ep_connected(ep, fd, false);
}

static bool passing(int error)
{
    return error == EAGAIN || error == EINTR || error == ECONNABORTED || error == EPROTO ||
           error == ENETDOWN || error == EHOSTUNREACH || error == ENETUNREACH;
}

static void on_listener(struct hm_watch *watch, int events)
{
    struct tcp *tcp = watch->arg;
    (void)events;
    for (unsigned i = 0; i < ACCEPTS_MAX; i++) {
        int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            tcp->accept_failed = false;
            accepted(tcp, fd);
        } else if (passing(errno)) {
            return; /* the loop asks again if there is more */
        } else {
            if (!tcp->accept_failed)
                hm_log(HM_LOG_WARN, "tcp", "cannot accept: %s; trying again (raise ulimit -n)",
                       strerror(errno));
            tcp->accept_failed = true; /* said once, until it works again */
            enum hm_status status = tcp->loop->ops->watch(tcp->loop, watch, 0);
            HM_ASSERT(status == HM_OK);
            hm_timer_start(tcp->loop, &tcp->listen_pause, PAUSE);
            return;
        }
    }
}

static void on_pause_over(struct hm_timer *timer)
{
    struct tcp *tcp = timer->arg;
    if (tcp->loop->ops->watch(tcp->loop, &tcp->listener, HM_READABLE) != HM_OK)
        hm_timer_start(tcp->loop, timer, PAUSE);
}

/* ---- opening ------------------------------------------------------------------------------- */

static bool is_any(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET)
        return ((const struct sockaddr_in *)address)->sin_addr.s_addr == htonl(INADDR_ANY);
    return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

static bool address_text(const struct sockaddr *address, uint16_t port, struct hm_addr *addr)
{
    char host[INET6_ADDRSTRLEN];
    const void *raw = address->sa_family == AF_INET
                          ? (const void *)&((const struct sockaddr_in *)address)->sin_addr
                          : (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr;
    return inet_ntop(address->sa_family, raw, host, sizeof host) && hm_addr_tcp(host, port, addr);
}

/* Could another machine dial this one of our interfaces?  Link-local ones need a zone that means
 * nothing elsewhere. */
static bool is_useful(const struct ifaddrs *interface, int family, bool loopback)
{
    const struct sockaddr *address = interface->ifa_addr;
    if (!address || !(interface->ifa_flags & IFF_UP)) return false;
    if (!(interface->ifa_flags & IFF_LOOPBACK) == loopback) return false;
    if (address->sa_family == AF_INET) return true;
    return address->sa_family == AF_INET6 && family == AF_INET6 &&
           !IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

/* A socket bound to every interface is reached by the addresses of each, or, on a machine that has
 * no network, by the loopback. */
static void addresses_of_interfaces(struct tcp *tcp, int family, uint16_t port)
{
    struct hm_addrs *addrs = &tcp->listening;
    struct ifaddrs *interfaces = NULL;
    if (getifaddrs(&interfaces)) return;
    for (int loopback = 0; loopback <= 1 && addrs->count == 0; loopback++)
        for (struct ifaddrs *at = interfaces; at && addrs->count < HM_ADDRS_MAX; at = at->ifa_next)
            if (is_useful(at, family, loopback == 1) &&
                address_text(at->ifa_addr, port, &addrs->addr[addrs->count]))
                addrs->count++;
    freeifaddrs(interfaces);
}

static enum hm_status listen_parse(const char *listen, struct sockaddr_storage *address)
{
    char host[HM_ADDR_BYTES_MAX];
    uint16_t port;
    enum hm_status status = hm_host_port_parse(listen, -1, host, sizeof host, &port);
    if (status != HM_OK) return status;
    const char *name = host[0] == '\0' ? "::" : strcmp(host, "localhost") ? host : "127.0.0.1";
    if (hm_tcp_numeric(name, port, address)) return HM_OK;
    return hm_fail(HM_ERR_INVALID,
                   "cannot listen on '%s': the host has to be an address of this machine, such as "
                   "127.0.0.1, [::] or 0.0.0.0",
                   listen);
}

/* -1 and errno, or a listening socket. */
static int listener_open(const struct sockaddr_storage *address)
{
    static const int on = 1, off = 0;
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    bool ok = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0;
    if (address->ss_family == AF_INET6 && is_any(address))
        ok = ok && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0;
    ok = ok && bind(fd, (const struct sockaddr *)address, hm_tcp_address_bytes(address)) == 0 &&
         listen(fd, BACKLOG) == 0;
    if (ok) return fd;
    int error = errno;
    (void)close(fd);
    errno = error;
    return -1;
}

enum hm_status hm_tcp_listen(struct tcp *tcp, const char *listen)
{
    struct sockaddr_storage address;
    enum hm_status status = listen_parse(listen, &address);
    if (status != HM_OK) return status;
    int fd = listener_open(&address);
    if (fd < 0 && errno == EAFNOSUPPORT && listen[0] == ':') {
        /* A kernel without IPv6. */
        struct sockaddr_in *v4 = (struct sockaddr_in *)&address;
        uint16_t port = ((struct sockaddr_in6 *)&address)->sin6_port;
        memset(&address, 0, sizeof address);
        v4->sin_family = AF_INET;
        v4->sin_port = port;
        fd = listener_open(&address);
    }
    if (fd < 0)
        return hm_fail(HM_ERR_INVALID, "cannot listen on '%s': %s; choose another host:port%s",
                       listen, strerror(errno),
                       errno == EADDRINUSE ? " (port 0 takes any free one)" : "");
    socklen_t bytes = sizeof address;
    int failed = getsockname(fd, (struct sockaddr *)&address, &bytes);
    HM_ASSERT(!failed);
    uint16_t port =
        ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                           : ((struct sockaddr_in6 *)&address)->sin6_port);
    if (is_any(&address))
        addresses_of_interfaces(tcp, address.ss_family, port);
    else if (address_text((struct sockaddr *)&address, port, &tcp->listening.addr[0]))
        tcp->listening.count = 1;
    tcp->listener = (struct hm_watch){.fd = fd, .cb = on_listener, .arg = tcp};
    tcp->listen_pause = (struct hm_timer){.cb = on_pause_over, .arg = tcp};
    status = tcp->loop->ops->watch(tcp->loop, &tcp->listener, HM_READABLE);
    if (status != HM_OK) hm_tcp_unlisten(tcp);
    return status;
}

void hm_tcp_unlisten(struct tcp *tcp)
{
    if (tcp->listener.fd < 0) return;
    hm_timer_stop(tcp->loop, &tcp->listen_pause);
    enum hm_status status = tcp->loop->ops->watch(tcp->loop, &tcp->listener, 0);
    HM_ASSERT(status == HM_OK);
    (void)close(tcp->listener.fd);
    tcp->listener.fd = -1;
}
