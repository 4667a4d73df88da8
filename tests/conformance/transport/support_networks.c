/* The namespaces, and a loop that enters them. */
#include "support_networks.h"

#include "base/assert.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

enum { NETWORKS = 2 };
static int network_fd[NETWORKS] = {-1, -1}; /* not CLOEXEC: processes inherit them */
static unsigned network_here;

static bool shell(const char *command)
{
    return system(command) == 0; /* NOLINT: a constant */
}

/* A network of its own for this thread, kept by a descriptor. */
static bool make(unsigned network)
{
    if (unshare(CLONE_NEWNET) != 0) return false;
    network_fd[network] = open("/proc/thread-self/ns/net", O_RDONLY);
    network_here = network;
    return network_fd[network] >= 0 && shell("ip link set lo up");
}

/* Linux says that a cable is plugged in up to a second after it was; UCX takes no card before. */
static bool wait_for_cable(unsigned network)
{
    unsigned was = networks_enter(network);
    bool up = shell("for i in $(seq 500); do ip link show eth0 | grep -q 'state UP' && exit 0; "
                    "sleep 0.02; done; exit 1");
    (void)networks_enter(was);
    return up;
}

bool networks_make(void)
{
    char command[128], fds[32];
    /* UCX looks for cards in /sys, which shows those of the network it was mounted in: both have an
     * eth0. */
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        !make(1) || !make(0) || mount("sysfs", "/sys", "sysfs", 0, NULL) != 0)
        return false;
    snprintf(command, sizeof command,
             "ip link add eth0 type veth peer name eth0 netns /proc/%d/fd/%d", (int)getpid(),
             network_fd[1]);
    if (!shell(command) || !shell("ip addr add 10.91.0.1/24 dev eth0 && ip link set eth0 up"))
        return false;
    (void)networks_enter(1);
    bool up = shell("ip addr add 10.91.0.2/24 dev eth0 && ip link set eth0 up");
    (void)networks_enter(0);
    snprintf(fds, sizeof fds, "%d,%d", network_fd[0], network_fd[1]);
    return up && wait_for_cable(0) && wait_for_cable(1) && setenv("HM_TEST_NETWORKS", fds, 1) == 0;
}

bool networks_inherit(void)
{
    const char *fds = getenv("HM_TEST_NETWORKS");
    return fds && sscanf(fds, "%d,%d", &network_fd[0], &network_fd[1]) == 2;
}

unsigned networks_enter(unsigned network)
{
    unsigned was = network_here;
    HM_ASSERT(network < NETWORKS);
    if (network == was) return was;
    int failed = setns(network_fd[network], CLONE_NEWNET);
    HM_ASSERT(!failed);
    network_here = network;
    return was;
}

void networks_cable(bool plugged_in)
{
    unsigned was = networks_enter(1);
    bool done = shell(plugged_in ? "ip link set eth0 up" : "ip link set eth0 down");
    (void)networks_enter(was);
    HM_ASSERT(done && (!plugged_in || (wait_for_cable(0) && wait_for_cable(1))));
}

uint64_t networks_bytes(void)
{
    unsigned long long bytes = 0;
    FILE *file = fopen("/sys/class/net/eth0/statistics/rx_bytes", "r");
    HM_ASSERT(file);
    if (fscanf(file, "%llu", &bytes) != 1) bytes = 0;
    fclose(file);
    return bytes;
}

/* ---- the loop -------------------------------------------------------------------------------- */

struct network_loop {
    struct hm_loop base;
    struct hm_loop *inner;
    unsigned network;
    struct hm_hook outer, *user; /* one is enough for a provider */
};

static struct hm_loop *inner_of(struct hm_loop *base)
{
    return HM_CONTAINER_OF(base, struct network_loop, base)->inner;
}
static hm_ns net_now(struct hm_loop *base)
{
    return hm_loop_now(inner_of(base));
}
static hm_ns net_clock(struct hm_loop *base)
{
    return hm_loop_clock(inner_of(base));
}
static int64_t net_wall_ns(struct hm_loop *base)
{
    return hm_loop_wall_ns(inner_of(base));
}
static uint64_t net_random(struct hm_loop *base, enum hm_random_stream stream)
{
    return hm_loop_random(inner_of(base), stream);
}
static void net_timer_start(struct hm_loop *base, struct hm_timer *timer, hm_ns after)
{
    hm_timer_start(inner_of(base), timer, after);
}
static void net_timer_stop(struct hm_loop *base, struct hm_timer *timer)
{
    hm_timer_stop(inner_of(base), timer);
}
static enum hm_status net_watch(struct hm_loop *base, struct hm_watch *watch, int events)
{
    return inner_of(base)->ops->watch(inner_of(base), watch, events);
}
static bool net_stay(struct hm_loop *base)
{
    return inner_of(base)->ops->stay(inner_of(base));
}
static void net_post(struct hm_loop *base, struct hm_post *post)
{
    hm_loop_post(inner_of(base), post);
}
static uint64_t net_turn(struct hm_loop *base)
{
    return inner_of(base)->ops->turn(inner_of(base));
}

static bool before_sleep(struct hm_hook *hook)
{
    struct network_loop *loop = hook->arg;
    unsigned was = networks_enter(loop->network);
    bool may_sleep = loop->user->before_sleep(loop->user);
    (void)networks_enter(was);
    return may_sleep;
}
static void net_hook(struct hm_loop *base, struct hm_hook *hook)
{
    struct network_loop *loop = HM_CONTAINER_OF(base, struct network_loop, base);
    HM_ASSERT(!loop->user);
    loop->user = hook;
    loop->inner->ops->hook(loop->inner, &loop->outer);
}
static void net_unhook(struct hm_loop *base, struct hm_hook *hook)
{
    struct network_loop *loop = HM_CONTAINER_OF(base, struct network_loop, base);
    HM_ASSERT(loop->user == hook || !loop->user);
    loop->inner->ops->unhook(loop->inner, &loop->outer);
}

static const struct hm_loop_ops network_loop_ops = {
    .now = net_now,
    .clock = net_clock,
    .wall_ns = net_wall_ns,
    .random = net_random,
    .timer_start = net_timer_start,
    .timer_stop = net_timer_stop,
    .watch = net_watch,
    .hook = net_hook,
    .unhook = net_unhook,
    .stay = net_stay,
    .post = net_post,
    .turn = net_turn,
};

struct hm_loop *networks_loop(struct hm_loop *inner, unsigned network)
{
    struct network_loop *loop = calloc(1, sizeof *loop);
    HM_ASSERT(loop);
    loop->base.ops = &network_loop_ops;
    loop->inner = inner;
    loop->network = network;
    loop->outer = (struct hm_hook){.before_sleep = before_sleep, .arg = loop};
    return &loop->base;
}
