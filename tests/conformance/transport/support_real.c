/* What every provider on a real loop shares: running it, and puppets in processes of their own. */
#include "support_real.h"

#include "base/loop_uv.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the loop ------------------------------------------------------------------------------- */

struct real_run {
    struct suite *suite;
    bool (*until)(void *arg);
    void *arg;
    struct hm_hook hook;
    struct hm_timer timer, tick;
    bool came, expired;
};

static bool check_before_sleep(struct hm_hook *hook)
{
    struct real_run *run = hook->arg;
    if (run->until(run->arg)) run->came = true;
    if (run->came || run->expired) hm_loop_uv_stop(run->suite->loop);
    return true;
}

static void run_expired(struct hm_timer *timer)
{
    struct real_run *run = timer->arg;
    run->expired = true;
}

/* Conditions may be about what wakes nobody here: other processes, descriptors. */
static void run_tick(struct hm_timer *timer)
{
    struct real_run *run = timer->arg;
    hm_timer_start(run->suite->loop, timer, 5 * HM_MS);
}

bool real_run(struct suite *suite, bool (*until)(void *arg), void *arg, hm_ns limit)
{
    struct hm_loop *loop = suite->loop;
    struct real_run run = {.suite = suite, .until = until, .arg = arg};
    run.hook = (struct hm_hook){.before_sleep = check_before_sleep, .arg = &run};
    run.timer = (struct hm_timer){.cb = run_expired, .arg = &run};
    loop->ops->hook(loop, &run.hook);
    run.tick = (struct hm_timer){.cb = run_tick, .arg = &run};
    hm_timer_start(loop, &run.timer, limit);
    hm_timer_start(loop, &run.tick, 5 * HM_MS);
    hm_loop_uv_run(loop);
    hm_timer_stop(loop, &run.timer);
    hm_timer_stop(loop, &run.tick);
    loop->ops->unhook(loop, &run.hook);
    return run.came;
}

struct real_impl {
    int silent_fd; /* -1: none */
};

void real_start(struct suite *suite)
{
    struct real_impl *impl = calloc(1, sizeof *impl);
    HM_ASSERT(impl);
    impl->silent_fd = -1;
    suite->impl = impl;
    assert_ok(hm_loop_uv_create(suite_seed, &suite->loop));
}

void real_stop(struct suite *suite)
{
    struct real_impl *impl = suite->impl;
    hm_loop_uv_destroy(suite->loop); /* asserts that no timer runs and nothing is watched */
    if (impl->silent_fd >= 0) close(impl->silent_fd);
    free(impl);
}

/* Connections to it are taken by the kernel and never answered. */
void real_silent_addr(struct suite *suite, struct hm_addr *addr)
{
    struct real_impl *impl = suite->impl;
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t name_bytes = sizeof name;
    impl->silent_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(impl->silent_fd >= 0);
    assert_return_code(bind(impl->silent_fd, (struct sockaddr *)&name, sizeof name), 0);
    assert_return_code(listen(impl->silent_fd, 8), 0);
    assert_return_code(getsockname(impl->silent_fd, (struct sockaddr *)&name, &name_bytes), 0);
    snprintf(addr->text, sizeof addr->text, "tcp:127.0.0.1:%u", ntohs(name.sin_port));
}

/* ---- other processes ------------------------------------------------------------------------- */

int real_spawn(char *const argv[], int *output)
{
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), 0);
    int pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], STDOUT_FILENO);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    close(ends[1]);
    *output = ends[0];
    return pid;
}

void real_puppet_start(struct suite *suite, struct puppet *puppet)
{
    (void)suite;
    char role[16], seed[32], line[HM_ADDR_BYTES_MAX + HM_NODE_ID_TEXT_BYTES + 4];
    snprintf(role, sizeof role, "%d", puppet->role);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)suite_seed + 1000);
    char *argv[] = {"puppet", "--puppet", role, seed, NULL};
    int output;
    puppet->pid = real_spawn(argv, &output);
    FILE *from = fdopen(output, "r");
    assert_non_null(from);
    if (!fgets(line, sizeof line, from)) fail_msg("the puppet has not started");
    fclose(from);
    char id[HM_NODE_ID_TEXT_BYTES];
    assert_int_equal(sscanf(line, "%255s %64s", puppet->addr.text, id), 2);
    assert_ok(hm_node_id_parse(id, strlen(id), &puppet->id));
}

void real_puppet_pause(struct suite *suite, struct puppet *puppet, bool paused)
{
    (void)suite;
    assert_return_code(kill(puppet->pid, paused ? SIGSTOP : SIGCONT), 0);
    int status;
    if (paused) assert_int_equal(waitpid(puppet->pid, &status, WUNTRACED), puppet->pid);
}

void real_puppet_kill(struct suite *suite, struct puppet *puppet)
{
    (void)suite;
    int status;
    assert_return_code(kill(puppet->pid, SIGKILL), 0);
    assert_int_equal(waitpid(puppet->pid, &status, 0), puppet->pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* it had not failed */
}

static bool never(void *arg)
{
    struct suite *suite = arg;
    if (suite->failure[0]) {
        fprintf(stderr, "puppet: %s\n", suite->failure);
        _exit(3);
    }
    return false;
}

int real_puppet_main(const struct provider *provider, const char *role, const char *seed)
{
    struct puppet puppet = {.role = (enum puppet_role)atoi(role)};
    char id[HM_NODE_ID_TEXT_BYTES];
    suite_seed = strtoull(seed, NULL, 10);
    struct suite *suite = suite_create(provider);
    puppet_play(suite, &puppet);
    printf("%s %s\n", puppet.addr.text, hm_node_id_text(&puppet.id, id));
    fflush(stdout);
    (void)real_run(suite, never, suite, 300 * HM_S);
    return 4; /* nobody has killed it */
}
