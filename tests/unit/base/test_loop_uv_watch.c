/* tests/unit/base/test_loop_uv_watch.c - the real loop's watches: they tell what is ready, and end
 * anywhere. */
#include "support_loop.h"

#include "base/assert.h"
#include "death.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static void run(struct loop_fixture *f)
{
    loop_run(f, 30 * HM_S);
}

struct reader {
    struct hm_watch watch;
    struct loop_fixture *fixture;
    int bytes, calls, last_events, limit;
};

static void on_readable(struct hm_watch *watch, int events)
{
    struct reader *reader = watch->arg;
    char byte;
    reader->calls++;
    reader->last_events = events;
    if (!(events & HM_READABLE)) return;
    while (read(watch->fd, &byte, 1) == 1) reader->bytes++;
    if (reader->bytes >= reader->limit) hm_loop_uv_stop(reader->fixture->loop);
}

static void socket_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static enum hm_status watch(struct loop_fixture *f, struct hm_watch *watch, int events)
{
    return f->loop->ops->watch(f->loop, watch, events);
}

static void a_watch_tells_what_is_ready(void **state)
{
    struct loop_fixture *f = *state;
    int fds[2];
    socket_pair(fds);
    struct reader reader = {.fixture = f, .limit = 3};
    reader.watch = (struct hm_watch){.fd = fds[0], .cb = on_readable, .arg = &reader};
    assert_ok(watch(f, &reader.watch, HM_READABLE));
    assert_int_equal(write(fds[1], "abc", 3), 3);
    run(f);
    assert_int_equal(reader.bytes, 3);
    assert_int_equal(reader.last_events, HM_READABLE);
    assert_ok(watch(f, &reader.watch, 0));
    assert_ok(watch(f, &reader.watch, 0));
    assert_null(reader.watch.impl);
    assert_true(fcntl(fds[0], F_GETFD) >= 0); /* the descriptor is the user's */
    close(fds[0]);
    close(fds[1]);
}

static void on_writable_once(struct hm_watch *watched, int events)
{
    struct reader *reader = watched->arg;
    reader->calls++;
    assert_int_equal(events, HM_WRITABLE);
    assert_ok(watch(reader->fixture, watched, HM_READABLE)); /* writable no more */
}

static void events_that_are_no_longer_wanted_do_not_come(void **state)
{
    struct loop_fixture *f = *state;
    int fds[2];
    socket_pair(fds);
    struct reader reader = {.fixture = f};
    struct hm_timer end = {.cb = loop_stop_from_timer, .arg = f->loop};
    reader.watch = (struct hm_watch){.fd = fds[0], .cb = on_writable_once, .arg = &reader};
    assert_ok(watch(f, &reader.watch, HM_READABLE));
    assert_ok(
        watch(f, &reader.watch, HM_READABLE | HM_WRITABLE)); /* changed before it was polled */
    hm_timer_start(f->loop, &end, 20 * HM_MS);
    run(f);
    assert_int_equal(reader.calls, 1);
    assert_ok(watch(f, &reader.watch, 0));
    close(fds[0]);
    close(fds[1]);
}

static void a_peer_that_closes_makes_the_watch_readable(void **state)
{
    struct loop_fixture *f = *state;
    int fds[2];
    socket_pair(fds);
    struct reader reader = {.fixture = f};
    reader.watch = (struct hm_watch){.fd = fds[0], .cb = on_readable, .arg = &reader};
    assert_ok(watch(f, &reader.watch, HM_READABLE));
    close(fds[1]);
    run(f);
    assert_int_equal(reader.calls, 1);
    assert_ok(watch(f, &reader.watch, 0));
    close(fds[0]);
}

static void on_refused(struct hm_watch *watched, int events)
{
    struct reader *reader = watched->arg;
    int error = 0;
    socklen_t bytes = sizeof error;
    assert_true(events & HM_WRITABLE);
    if (++reader->calls < 3) return; /* watching goes on: the error must be told again */
    assert_int_equal(getsockopt(watched->fd, SOL_SOCKET, SO_ERROR, &error, &bytes), 0);
    assert_int_equal(error, ECONNREFUSED);
    hm_loop_uv_stop(reader->fixture->loop);
}

static void a_refused_connection_is_told_as_ready(void **state)
{
    struct loop_fixture *f = *state;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    /* A port that is bound and does not listen refuses, and nobody else gets it meanwhile. */
    int bound = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(bound, (struct sockaddr *)&address, bytes), 0);
    assert_int_equal(getsockname(bound, (struct sockaddr *)&address, &bytes), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    (void)connect(fd, (struct sockaddr *)&address, bytes);
    struct reader reader = {.fixture = f};
    reader.watch = (struct hm_watch){.fd = fd, .cb = on_refused, .arg = &reader};
    assert_ok(watch(f, &reader.watch, HM_READABLE | HM_WRITABLE));
    run(f);
    assert_ok(watch(f, &reader.watch, 0));
    close(fd);
    close(bound);
}

static void what_cannot_be_watched_is_a_status(void **state)
{
    struct loop_fixture *f = *state;
    FILE *file = tmpfile();
    int fds[2];
    assert_non_null(file);
    struct hm_watch plain = {.fd = fileno(file), .cb = on_readable};
    assert_status(watch(f, &plain, HM_READABLE), HM_ERR_INVALID);
    assert_null(plain.impl);
    fclose(file);
    struct hm_watch closed = {.fd = 1000000, .cb = on_readable};
    assert_status(watch(f, &closed, HM_READABLE), HM_ERR_INVALID);
    socket_pair(fds);
    struct hm_watch first = {.fd = fds[0], .cb = on_readable}, second = first;
    assert_ok(watch(f, &first, HM_READABLE));
    assert_status(watch(f, &second, HM_READABLE), HM_ERR_INVALID);
    assert_ok(watch(f, &first, 0));
    assert_ok(watch(f, &second, HM_READABLE)); /* the first is out at once */
    assert_ok(watch(f, &second, 0));
    close(fds[0]);
    close(fds[1]);
}

/* Several watches, all ready in one turn; the first that is called ends all of them: stops, closes
 * and frees. */
enum { VICTIMS = 8 };
struct massacre {
    struct loop_fixture *fixture;
    struct hm_watch *watch[VICTIMS];
    int far_end[VICTIMS];
    int calls;
};

static void on_massacre(struct hm_watch *watched, int events)
{
    struct massacre *massacre = watched->arg;
    (void)events;
    massacre->calls++;
    for (int i = 0; i < VICTIMS; i++) {
        assert_ok(watch(massacre->fixture, massacre->watch[i], 0));
        close(massacre->watch[i]->fd);
        memset(massacre->watch[i], 0xdd, sizeof *massacre->watch[i]);
        free(massacre->watch[i]);
        massacre->watch[i] = NULL;
    }
    /* The numbers are used again at once: what was ready before is not news about these. */
    for (int i = 0; i < VICTIMS / 2; i++) {
        int fds[2];
        socket_pair(fds);
        massacre->watch[i] = malloc(sizeof *massacre->watch[i]);
        assert_non_null(massacre->watch[i]);
        *massacre->watch[i] = (struct hm_watch){.fd = fds[0], .cb = on_massacre, .arg = massacre};
        assert_ok(watch(massacre->fixture, massacre->watch[i], HM_READABLE));
        close(massacre->far_end[i]);
        massacre->far_end[i] = fds[1];
    }
}

static void a_callback_may_end_every_watch_of_the_turn(void **state)
{
    struct loop_fixture *f = *state;
    for (int round = 0; round < 50; round++) {
        struct massacre massacre = {.fixture = f};
        struct hm_timer end = {.cb = loop_stop_from_timer, .arg = f->loop};
        for (int i = 0; i < VICTIMS; i++) {
            int fds[2];
            socket_pair(fds);
            massacre.far_end[i] = fds[1];
            massacre.watch[i] = malloc(sizeof *massacre.watch[i]);
            assert_non_null(massacre.watch[i]);
            *massacre.watch[i] =
                (struct hm_watch){.fd = fds[0], .cb = on_massacre, .arg = &massacre};
            assert_ok(watch(f, massacre.watch[i], HM_READABLE | HM_WRITABLE));
            assert_int_equal(write(fds[1], "x", 1), 1);
        }
        hm_timer_start(f->loop, &end, 2 * HM_MS);
        run(f);
        assert_int_equal(massacre.calls, 1);
        for (int i = 0; i < VICTIMS; i++) {
            close(massacre.far_end[i]);
            if (!massacre.watch[i]) continue;
            assert_ok(watch(f, massacre.watch[i], 0));
            close(massacre.watch[i]->fd);
            free(massacre.watch[i]);
        }
    }
}

static void a_broken_pipe_is_a_status_of_write(void **state)
{
    (void)state;
    int fds[2];
    socket_pair(fds);
    close(fds[0]);
    assert_int_equal(write(fds[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    close(fds[1]);
}

static void what_still_runs_at_the_end_aborts(void **state)
{
    struct loop_fixture *f = *state;
    struct hm_timer timer = {.cb = loop_stop_from_timer, .arg = f->loop};
    int fds[2];
    socket_pair(fds);
    struct hm_watch watched = {.fd = fds[0], .cb = on_readable};
    hm_timer_start(f->loop, &timer, HM_S);
    assert_aborts(hm_loop_uv_destroy(f->loop));
    hm_timer_stop(f->loop, &timer);
    assert_ok(watch(f, &watched, HM_READABLE));
    assert_aborts(hm_loop_uv_destroy(f->loop));
    assert_ok(watch(f, &watched, 0));
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_watch_tells_what_is_ready),
        CASE(events_that_are_no_longer_wanted_do_not_come),
        CASE(a_peer_that_closes_makes_the_watch_readable),
        CASE(a_refused_connection_is_told_as_ready),
        CASE(what_cannot_be_watched_is_a_status),
        CASE(a_callback_may_end_every_watch_of_the_turn),
        CASE(a_broken_pipe_is_a_status_of_write),
        CASE(what_still_runs_at_the_end_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
