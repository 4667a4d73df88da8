/* cli/bench_perftest.c - ucx_perftest: how it is called, and what it says.
 *
 * Happy:  a server on a free port of loopback, which only brings the two together; the client is
 *         started until the server listens, and its last line has the figures.
 * Fails:  false, without a word: its figures are left out. */
#include "cli/bench_perftest.h"
#include "cli/child.h"

#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned port_free(void)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t name_bytes = sizeof name;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof name) == 0 &&
                getsockname(fd, (struct sockaddr *)&name, &name_bytes) == 0;
    if (fd >= 0) close(fd);
    return good ? ntohs(name.sin_port) : 0;
}

/* The first two that we may use. */
static void processors(char cpu[2][8])
{
    cpu_set_t all;
    unsigned found = 0;
    strcpy(cpu[0], "0");
    strcpy(cpu[1], "0");
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    for (unsigned i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET(i, &all)) {
            snprintf(cpu[found], sizeof cpu[found], "%u", i);
            if (found++ == 0) strcpy(cpu[1], cpu[0]);
        }
}

/* The line of results: "Final: <iterations> <one way us: median, mean, mean> <MB/s, MB/s>
 * <messages/s, messages/s>". */
static bool final_line(struct child *child, hm_ns timeout, double value[8])
{
    char line[512];
    while (child_line(child, timeout, line, sizeof line) == HM_OK) {
        const char *at = strstr(line, "Final:");
        if (at && sscanf(at + 6, "%lf %lf %lf %lf %lf %lf %lf %lf", &value[0], &value[1], &value[2],
                         &value[3], &value[4], &value[5], &value[6], &value[7]) == 8)
            return true;
    }
    return false;
}

bool bench_perftest_run(const struct bench_perftest *what, struct bench_perftest_result *result)
{
    char port[8], size[24], iterations[24], window[16], cpu[2][8];
    struct child server, client;
    double value[8];
    bool good = false;
    snprintf(port, sizeof port, "%u", port_free());
    snprintf(size, sizeof size, "%zu", what->bytes);
    snprintf(iterations, sizeof iterations, "%.0f", what->count < 100 ? 100 : what->count);
    snprintf(window, sizeof window, "%u", what->window);
    const char *mode = what->sleeps ? "sleep" : "poll";
    bool stream = strcmp(what->test, "ucp_am_bw") == 0;
    processors(cpu);
    const char *listens[] = {"-p", port, "-e", "-E", mode, "-c", cpu[0], NULL};
    const char *asks[] = {"127.0.0.1", "-p",       port, "-e",  "-E", mode,
                          "-t",        what->test, "-s", size,  "-n", iterations,
                          "-c",        cpu[1],     "-w", "100", "-O", stream ? window : "1",
                          NULL};
    if (child_start_program(&server, "ucx_perftest", listens) != HM_OK) return false;
    for (unsigned tries = 0; tries < 20 && !good; tries++) { /* until the server listens */
        if (child_start_program(&client, "ucx_perftest", asks) != HM_OK) break;
        good = final_line(&client, what->timeout, value);
        child_stop(&client, 5 * HM_S);
        if (!good) usleep(50000); /* no loop here */
    }
    child_stop(&server, 5 * HM_S);
    if (good)
        *result = (struct bench_perftest_result){
            .median_us = value[1], .mean_us = value[3], .messages_per_second = value[7]};
    return good;
}

bool bench_perftest_there(void)
{
    struct child child;
    const char *arguments[] = {"-h", NULL};
    char line[64];
    if (child_start_program(&child, "ucx_perftest", arguments) != HM_OK) return false;
    bool there = child_line(&child, 5 * HM_S, line, sizeof line) == HM_OK;
    child_stop(&child, HM_S);
    return there;
}
