/* The open plane is a transport: the suite over real sockets, with puppets in processes of their own. */
#include "support_suite.h"

#include "base/loop_uv.h"
#include "raw_tls.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { SILENT_MAX = 4 };
struct impl {
    int silent_fd[SILENT_MAX];
    unsigned silent_count;
};

static const struct provider tcp_provider;

static void tcp_start(struct suite *suite)
{
    suite->impl = calloc(1, sizeof(struct impl));
    HM_ASSERT(suite->impl && hm_loop_uv_create(suite_seed, &suite->loop) == HM_OK);
}

static void tcp_stop(struct suite *suite)
{
    struct impl *impl = suite->impl;
    for (unsigned i = 0; i < impl->silent_count; i++) close(impl->silent_fd[i]);
    hm_loop_uv_destroy(suite->loop);
    free(impl);
}

/* ---- time ---------------------------------------------------------------------------------- */

struct run {
    struct hm_loop *loop;
    struct hm_hook hook;
    struct hm_timer limit, tick;
    bool (*until)(void *arg);
    void *arg;
    bool over;
};

static bool look(struct hm_hook *hook)
{
    struct run *run = hook->arg;
    if (run->over || run->until(run->arg)) hm_loop_uv_stop(run->loop);
    return true;
}

static void on_limit(struct hm_timer *timer)
{
    ((struct run *)timer->arg)->over = true;
}

/* Conditions may be about other processes, which wake nobody here. */
static void on_tick(struct hm_timer *timer)
{
    hm_timer_start(((struct run *)timer->arg)->loop, timer, 5 * HM_MS);
}

static bool tcp_run(struct suite *suite, bool (*until)(void *arg), void *arg, hm_ns limit)
{
    struct run run = {.loop = suite->loop, .until = until, .arg = arg};
    run.hook = (struct hm_hook){.before_sleep = look, .arg = &run};
    run.limit = (struct hm_timer){.cb = on_limit, .arg = &run};
    suite->loop->ops->hook(suite->loop, &run.hook);
    run.tick = (struct hm_timer){.cb = on_tick, .arg = &run};
    hm_timer_start(suite->loop, &run.limit, limit);
    hm_timer_start(suite->loop, &run.tick, 0);
    hm_loop_uv_run(suite->loop);
    hm_timer_stop(suite->loop, &run.limit);
    hm_timer_stop(suite->loop, &run.tick);
    suite->loop->ops->unhook(suite->loop, &run.hook);
    return until(arg);
}

/* ---- puppets: this program again, told what to be ------------------------------------------- */

struct introduction {
    struct hm_addr addr;
    struct hm_node_id id;
};

/* Starts "test role argument"; the child's introduction is read from the pipe if there is to be one. */
static int child_start(const char *role, const char *argument, struct introduction *introduction)
{
    int pipe_fd[2];
    HM_ASSERT(pipe(pipe_fd) == 0);
    int pid = fork();
    HM_ASSERT(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nobody behind */
        dup2(pipe_fd[1], 3);
        if (pipe_fd[1] != 3) close(pipe_fd[1]);
        if (pipe_fd[0] != 3) close(pipe_fd[0]);
        execl("/proc/self/exe", "conformance-transport-tcp", role, argument, (char *)NULL);
        _exit(127);
    }
    close(pipe_fd[1]);
    if (introduction)
        HM_ASSERT(read(pipe_fd[0], introduction, sizeof *introduction) == sizeof *introduction);
    close(pipe_fd[0]);
    return pid;
}

static void tcp_puppet_start(struct suite *suite, struct puppet *puppet)
{
    (void)suite;
    struct introduction introduction;
    puppet->pid =
        child_start(puppet->role == PUPPET_HOARDS ? "hoards" : "drops", "", &introduction);
    puppet->addr = introduction.addr;
    puppet->id = introduction.id;
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

static int puppet_main(enum puppet_role role)
{
    suite_seed = 977; /* another identity than our parent's nodes */
    struct suite *suite = suite_create(&tcp_provider);
    struct puppet puppet = {.role = role};
    puppet_play(suite, &puppet);
    struct introduction introduction = {.addr = puppet.addr, .id = puppet.id};
    HM_ASSERT(write(3, &introduction, sizeof introduction) == sizeof introduction);
    close(3);
    (void)tcp_run(suite, never, NULL, 600 * HM_S);
    return 1;
}

static void tcp_puppet_pause(struct suite *suite, struct puppet *puppet, bool paused)
{
    (void)suite;
    HM_ASSERT(kill(puppet->pid, paused ? SIGSTOP : SIGCONT) == 0);
    int status;
    if (paused) HM_ASSERT(waitpid(puppet->pid, &status, WUNTRACED) == puppet->pid);
}

static void tcp_puppet_kill(struct suite *suite, struct puppet *puppet)
{
    (void)suite;
    HM_ASSERT(kill(puppet->pid, SIGKILL) == 0);
    int status;
    HM_ASSERT(waitpid(puppet->pid, &status, 0) == puppet->pid);
}

/* ---- bad company --------------------------------------------------------------------------- */

/* The kernel accepts, and that is all. */
static void tcp_silent_addr(struct suite *suite, struct hm_addr *addr)
{
    struct impl *impl = suite->impl;
    HM_ASSERT(impl->silent_count < SILENT_MAX);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t bytes = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    HM_ASSERT(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 8) == 0);
    HM_ASSERT(getsockname(fd, (struct sockaddr *)&at, &bytes) == 0);
    HM_ASSERT(hm_addr_tcp("127.0.0.1", ntohs(at.sin_port), addr));
    impl->silent_fd[impl->silent_count++] = fd;
}

/* 0: let go of, after more announces than anybody should take. */
static int flood_main(const char *port)
{
    struct hm_identity *identity;
    struct raw_peer peer = {0};
    signal(SIGPIPE, SIG_IGN);
    HM_ASSERT(hm_identity_create(NULL, &identity) == HM_OK);
    if (!raw_tls(&peer, identity, raw_connect((uint16_t)atoi(port)), true)) return 2;
    if (!raw_hello(&peer, HM_WIRE_MAJOR, 0)) return 3;
    struct hm_frame announce = {.type = HM_FRAME_ANNOUNCE, .value = MIB};
    for (unsigned i = 0; i < 10 * 1000 * 1000; i++)
        if (!raw_frame(&peer, announce, NULL, NULL)) return i > 100 ? 0 : 4;
    return 5;
}

struct child {
    int pid, status;
    bool ended;
};

static bool child_ended(void *arg)
{
    struct child *child = arg;
    if (!child->ended) child->ended = waitpid(child->pid, &child->status, WNOHANG) == child->pid;
    return child->ended;
}

/* The suite's numbered header is not what a flood sends: the victim must not look into it. */
static void hold_any(struct node *node, struct end *end, const void *header, size_t header_bytes,
                     struct hm_inbound *in)
{
    (void)header, (void)header_bytes;
    claim(node->suite, node->held_count < HELD_MAX);
    if (node->held_count < HELD_MAX)
        node->held[node->held_count++] = (struct held){.in = in, .end = end};
}

static bool tcp_announce_flood(struct suite *suite, struct node *victim)
{
    struct hm_addr addr;
    char port[8];
    node_addr(victim, &addr);
    snprintf(port, sizeof port, "%u", (unsigned)raw_port(&addr));
    struct child child = {.pid = child_start("floods", port, NULL)};
    victim->on_message = hold_any;
    bool ended = tcp_run(suite, child_ended, &child, 60 * HM_S);
    victim->on_message = NULL;
    if (!ended) {
        kill(child.pid, SIGKILL);
        waitpid(child.pid, &child.status, 0);
    }
    return ended && WIFEXITED(child.status) && WEXITSTATUS(child.status) == 0;
}

static const struct provider tcp_provider = {
    .name = "tcp",
    .ops = &hm_transport_tcp,
    .listen = "127.0.0.1:0",
    .bulk_bytes = (size_t)256 * MIB,
    .start = tcp_start,
    .stop = tcp_stop,
    .run = tcp_run,
    .puppet_start = tcp_puppet_start,
    .puppet_pause = tcp_puppet_pause,
    .puppet_kill = tcp_puppet_kill,
    .silent_addr = tcp_silent_addr,
    .announce_flood = tcp_announce_flood,
};

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "hoards") == 0) return puppet_main(PUPPET_HOARDS);
    if (argc > 2 && strcmp(argv[1], "drops") == 0) return puppet_main(PUPPET_DROPS);
    if (argc > 2 && strcmp(argv[1], "floods") == 0) return flood_main(argv[2]);
    return suite_main(&tcp_provider, 1);
}
