/* cli/child.c - starting, reading and ending other processes, mostly of our own program. */
#include "cli/child.h"

#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARGUMENTS_MAX = 64 };

/* In the new process.  It ends with its parent, however that one ends: nobody else knows of it. */
static _Noreturn void become(pid_t parent, int in, int out, const char *program, char **argv)
{
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == parent &&
        dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0)
        execvp(program ? program : "/proc/self/exe", argv);
    _exit(127);
}

enum hm_status child_start(struct child *child, const char *const *arguments)
{
    return child_start_program(child, NULL, arguments);
}

enum hm_status child_start_program(struct child *child, const char *program,
                                   const char *const *arguments)
{
    int in[2], out[2];
    char *argv[ARGUMENTS_MAX + 2] = {(char *)(program ? program : "hivemind")};
    for (unsigned i = 0; arguments[i]; i++) {
        HM_ASSERT(i < ARGUMENTS_MAX);
        argv[i + 1] = (char *)arguments[i];
    }
    *child = (struct child){.in = -1, .out = -1};
    if (pipe2(in, O_CLOEXEC))
        return hm_fail(HM_ERR_NO_MEMORY, "no pipe for a process (%s)", strerror(errno));
    if (pipe2(out, O_CLOEXEC)) {
        close(in[0]);
        close(in[1]);
        return hm_fail(HM_ERR_NO_MEMORY, "no pipe for a process (%s)", strerror(errno));
    }
    pid_t parent = getpid();
    child->pid = fork(); /* this process has one thread */
    if (child->pid == 0) become(parent, in[0], out[1], program, argv);
    int error = errno;
    close(in[0]);
    close(out[1]);
    if (child->pid < 0) {
        child->pid = 0;
        close(in[1]);
        close(out[0]);
        return hm_fail(HM_ERR_NO_MEMORY, "cannot start a process (%s)", strerror(error));
    }
    child->in = in[1];
    child->out = out[0];
    return HM_OK;
}

enum hm_status child_line(struct child *child, hm_ns timeout, char *line, size_t line_bytes)
{
    hm_ns end = cli_now() + timeout;
    for (;;) {
        char *newline = memchr(child->buffer, '\n', child->bytes);
        if (newline) {
            size_t length = (size_t)(newline - child->buffer);
            size_t copied = length < line_bytes - 1 ? length : line_bytes - 1;
            memcpy(line, child->buffer, copied);
            line[copied] = 0;
            child->bytes -= length + 1;
            memmove(child->buffer, newline + 1, child->bytes);
            return HM_OK;
        }
        if (child->bytes == sizeof(child->buffer)) return HM_ERR_TOO_BIG;
        hm_ns now = cli_now();
        struct pollfd wait = {.fd = child->out, .events = POLLIN};
        int ready = now >= end ? 0 : poll(&wait, 1, (int)((end - now) / HM_MS) + 1);
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) return HM_ERR_TIMED_OUT;
        ssize_t got =
            read(child->out, child->buffer + child->bytes, sizeof(child->buffer) - child->bytes);
        if (got <= 0) return HM_ERR_PEER_RESET;
        child->bytes += (size_t)got;
    }
}

enum hm_status child_say(struct child *child, const char *text)
{
    size_t bytes = strlen(text);
    return write(child->in, text, bytes) == (ssize_t)bytes ? HM_OK : HM_ERR_PEER_RESET;
}

bool child_stop(struct child *child, hm_ns grace)
{
    int status = 0;
    if (child->pid == 0) return false;
    close(child->in);
    kill(child->pid, SIGTERM);
    hm_ns end = cli_now() + grace;
    pid_t ended;
    while ((ended = waitpid(child->pid, &status, WNOHANG)) == 0 && cli_now() < end)
        poll(NULL, 0, 5);
    if (ended == 0) {
        kill(child->pid, SIGKILL);
        waitpid(child->pid, &status, 0);
    }
    close(child->out);
    child->pid = 0;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
