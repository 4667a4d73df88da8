/* transport/tcp/socket.c - how a connected socket is set up.
 *
 * Owns nothing.  Failure: none; the kernel's defaults are good enough to work with. */
#include "transport/tcp/tcp.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* A cut link is found after half a minute even if nobody pings: by data that is not acknowledged,
 * or by keepalives where there is none. */
enum {
    USER_TIMEOUT_MS = 30000,
    KEEPALIVE_IDLE_S = 15,
    KEEPALIVE_INTERVAL_S = 5,
    KEEPALIVE_COUNT = 3,
    UNSENT_BYTES = 256 << 10, /* what the kernel may hold back: a new message queues behind it */
    /* The same on this machine, and what the kernel keeps of what has arrived (it doubles it): between
     * two processes here the wire is memory, and what is on it should still be in the cache when it is
     * read.  A long link needs its product of rate and round trip in flight; this one has none. */
    LOCAL_UNSENT_BYTES = 64 << 10,
    LOCAL_RECEIVE_BYTES = 256 << 10,
};

static void set(int fd, int level, int name, int value)
{
    /* Where one is unknown the connection works without; rpc's pings find a cut link as well. */
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

/* Both ends have one address. */
static bool is_local(int fd)
{
    struct sockaddr_storage end[2] = {0};
    socklen_t here = sizeof end[0], there = sizeof end[1];
    if (getsockname(fd, (struct sockaddr *)&end[0], &here) != 0 ||
        getpeername(fd, (struct sockaddr *)&end[1], &there) != 0)
        return false;
    if (end[0].ss_family != end[1].ss_family) return false;
    if (end[0].ss_family == AF_INET)
        return ((struct sockaddr_in *)&end[0])->sin_addr.s_addr ==
               ((struct sockaddr_in *)&end[1])->sin_addr.s_addr;
    return end[0].ss_family == AF_INET6 &&
           IN6_ARE_ADDR_EQUAL(&((struct sockaddr_in6 *)&end[0])->sin6_addr,
                              &((struct sockaddr_in6 *)&end[1])->sin6_addr);
}

void hm_tcp_socket_options(int fd)
{
    bool local = is_local(fd);
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
    set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, local ? LOCAL_UNSENT_BYTES : UNSENT_BYTES);
    if (local) set(fd, SOL_SOCKET, SO_RCVBUF, LOCAL_RECEIVE_BYTES);
}
