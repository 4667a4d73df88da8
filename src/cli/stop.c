/* cli/stop.c - SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once. */
#include "cli/cli.h"

#include "transport/bootstrap.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct cli_stop {
    struct hm_node *node;
    struct hm_signal interrupt, terminate;
    struct hm_event event;
    atomic_bool asked;
    bool signalled;
    bool launched; /* a second signal says nothing new */
};

static void signalled(struct hm_signal *signal_, int number)
{
    struct cli_stop *stop = signal_->arg;
    (void)number;
    if (stop->signalled && !stop->launched) {
        static const char text[] = "hivemind: second signal, ending without saving\n";
        (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
        _exit(CLI_FAILED);
    }
    stop->signalled = true;
    cli_stop_ask(stop);
}

static void start_on_loop(struct hm_wait *wait, void *arg)
{
    struct cli_stop *stop = arg;
    stop->interrupt = (struct hm_signal){.cb = signalled, .arg = stop};
    stop->terminate = (struct hm_signal){.cb = signalled, .arg = stop};
    enum hm_status status = hm_loop_uv_signal_start(stop->node->loop, &stop->interrupt, SIGINT);
    if (!status) {
        status = hm_loop_uv_signal_start(stop->node->loop, &stop->terminate, SIGTERM);
        if (status) hm_loop_uv_signal_stop(stop->node->loop, &stop->interrupt);
    }
    hm_wait_end(wait, status);
}

static void end_on_loop(struct hm_wait *wait, void *arg)
{
    struct cli_stop *stop = arg;
    hm_loop_uv_signal_stop(stop->node->loop, &stop->interrupt);
    hm_loop_uv_signal_stop(stop->node->loop, &stop->terminate);
    hm_wait_end(wait, HM_OK);
}

int cli_stop_start(struct hm_node *node, struct cli_stop **out)
{
    struct cli_stop *stop = calloc(1, sizeof(*stop));
    if (!stop) return cli_fail(CLI_FAILED, HM_ERR_NO_MEMORY);
    stop->node = node;
    stop->launched = hm_bootstrap_launched(isatty(STDIN_FILENO));
    enum hm_status status = hm_node_run(node, start_on_loop, stop);
    if (status) {
        free(stop);
        return cli_fail(CLI_FAILED, status);
    }
    *out = stop;
    return CLI_GO_ON;
}

void cli_stop_ask(struct cli_stop *stop)
{
    if (!atomic_exchange(&stop->asked, true)) hm_event_set(&stop->event);
}

bool cli_stop_asked(const struct cli_stop *stop)
{
    return atomic_load(&stop->asked);
}

void cli_stop_wait(struct cli_stop *stop)
{
    while (!cli_stop_asked(stop)) hm_event_wait(&stop->event);
}

void cli_stop_end(struct cli_stop *stop)
{
    enum hm_status status = hm_node_run(stop->node, end_on_loop, stop);
    HM_ASSERT(status == HM_OK);
    free(stop);
}
