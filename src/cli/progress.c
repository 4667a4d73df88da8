/* cli/progress.c - one line that people look at while they wait. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h> /* a command's own clock: it has no loop to ask while it draws */
#include <unistd.h>

enum { BAR_CELLS = 24, BAR_CELLS_MIN = 4, COLUMNS_STANDARD = 80 };
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

static unsigned terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || size.ws_col == 0) return COLUMNS_STANDARD;
    return size.ws_col;
}

/* A line that reached the terminal's edge would wrap, and the next would be drawn below it: so the
 * bar gives way to the text, and what still does not fit is cut.  (What is drawn is ASCII: bytes
 * are columns.) */
static void draw(const struct cli_progress *progress, const char *text)
{
    if (!progress->terminal) {
        fprintf(stderr, "%llu/%llu %s\n", (unsigned long long)progress->done,
                (unsigned long long)progress->total, text);
        return;
    }
    char line[256], bar[BAR_CELLS + 4] = "";
    snprintf(line, sizeof(line), "%llu/%llu %s", (unsigned long long)progress->done,
             (unsigned long long)progress->total, text);
    int columns = (int)terminal_columns() - 1, cells = columns - (int)strlen(line) - 3;
    if (cells > BAR_CELLS) cells = BAR_CELLS;
    if (cells >= BAR_CELLS_MIN) {
        int filled = progress->total
                         ? (int)((double)cells * (double)progress->done / (double)progress->total)
                         : 0;
        bar[0] = '[';
        memset(bar + 1, '.', (size_t)cells);
        memset(bar + 1, '#', (size_t)(filled < cells ? filled : cells));
        memcpy(bar + 1 + cells, "] ", 3);
        columns -= cells + 3;
    }
    fprintf(stderr, "\r%s%.*s\033[K", bar, columns, line);
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
    progress->drawn = cli_now();
    draw(progress, text);
    cli_progress_leave(progress);
}

void cli_progress_leave(struct cli_progress *progress)
{
    if (progress->terminal && progress->drawn) fputc('\n', stderr);
    progress->drawn = 0;
}
