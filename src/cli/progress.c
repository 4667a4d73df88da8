/* cli/progress.c - one line that people look at while they wait. */
#include "cli/cli.h"

#include <stdio.h>
#include <time.h> /* a command's own clock: it has no loop to ask while it draws */
#include <unistd.h>

enum { BAR_CELLS = 24 };
static const hm_ns redraw_ns = 100 * HM_MS, line_every_ns = 5 * HM_S;

hm_ns cli_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* not on the loop's thread */
    return (hm_ns)now.tv_sec * HM_S + (hm_ns)now.tv_nsec;
}

void cli_progress_start(struct cli_progress *progress, uint64_t total)
{
    *progress = (struct cli_progress){
        .total = total, .started = cli_now(), .terminal = isatty(STDERR_FILENO)};
}

static void draw(const struct cli_progress *progress, const char *text)
{
    if (!progress->terminal) {
        fprintf(stderr, "%llu/%llu %s\n", (unsigned long long)progress->done,
                (unsigned long long)progress->total, text);
        return;
    }
    char bar[BAR_CELLS + 1];
    uint64_t filled = progress->total ? progress->done * BAR_CELLS / progress->total : 0;
    for (unsigned i = 0; i < BAR_CELLS; i++) bar[i] = i < filled ? '#' : '.';
    bar[BAR_CELLS] = 0;
    fprintf(stderr, "\r[%s] %llu/%llu %s\033[K", bar, (unsigned long long)progress->done,
            (unsigned long long)progress->total, text);
    fflush(stderr);
}

void cli_progress_show(struct cli_progress *progress, uint64_t done, const char *text)
{
    hm_ns now = cli_now(), every = progress->terminal ? redraw_ns : line_every_ns;
    progress->done = done;
    if (progress->drawn && now - progress->drawn < every) return;
    progress->drawn = now;
    draw(progress, text);
}

void cli_progress_end(struct cli_progress *progress, const char *text)
{
    draw(progress, text);
    if (progress->terminal) fputc('\n', stderr);
}
