/* tests/unit/base/test_loop_uv_system.c - signals and names on the real loop. */
#include "support_loop.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

static void run(struct loop_fixture *f)
{
    loop_run(f, 60 * HM_S);
}

/* ---- signals ------------------------------------------------------------- */

struct catcher {
    struct loop_fixture *fixture;
    struct hm_signal signal;
    int number, calls;
    bool stop_itself;
};

static void on_signal(struct hm_signal *signal, int number)
{
    struct catcher *catcher = signal->arg;
    catcher->number = number;
    catcher->calls++;
    if (catcher->stop_itself) hm_loop_uv_signal_stop(catcher->fixture->loop, signal);
    hm_loop_uv_stop(catcher->fixture->loop);
}

static void a_signal_arrives_as_a_callback(void **state)
{
    struct loop_fixture *f = *state;
    struct catcher catcher = {.fixture = f};
    catcher.signal = (struct hm_signal){.cb = on_signal, .arg = &catcher};
    assert_ok(hm_loop_uv_signal_start(f->loop, &catcher.signal, SIGUSR1));
    kill(getpid(), SIGUSR1);
    run(f);
    assert_int_equal(catcher.calls, 1);
    assert_int_equal(catcher.number, SIGUSR1);
    hm_loop_uv_signal_stop(f->loop, &catcher.signal);
    hm_loop_uv_signal_stop(f->loop, &catcher.signal);
}

static void a_signal_may_be_stopped_in_its_callback(void **state)
{
    struct loop_fixture *f = *state;
    struct catcher catcher = {.fixture = f, .stop_itself = true};
    catcher.signal = (struct hm_signal){.cb = on_signal, .arg = &catcher};
    assert_ok(hm_loop_uv_signal_start(f->loop, &catcher.signal, SIGUSR2));
    kill(getpid(), SIGUSR2);
    run(f);
    assert_int_equal(catcher.calls, 1);
    assert_null(catcher.signal.impl);
}

static void a_signal_that_cannot_be_caught_is_a_status(void **state)
{
    struct loop_fixture *f = *state;
    struct hm_signal signal = {.cb = on_signal};
    assert_status(hm_loop_uv_signal_start(f->loop, &signal, SIGKILL), HM_ERR_INVALID);
    assert_null(signal.impl);
}

/* ---- names --------------------------------------------------------------- */

struct asker {
    struct loop_fixture *fixture;
    struct hm_resolve resolve;
    enum hm_status status;
    int calls;
};

static void on_resolved(struct hm_resolve *resolve, enum hm_status status)
{
    struct asker *asker = resolve->arg;
    asker->calls++;
    asker->status = status;
    hm_loop_uv_stop(asker->fixture->loop);
}

static struct asker asker_of(struct loop_fixture *f)
{
    return (struct asker){.fixture = f, .resolve = {.cb = on_resolved}};
}

static void an_address_in_digits_is_answered_but_not_inside_the_call(void **state)
{
    struct loop_fixture *f = *state;
    struct asker asker = asker_of(f);
    asker.resolve.arg = &asker;
    assert_ok(hm_loop_uv_resolve(f->loop, &asker.resolve, "192.0.2.7", 4242));
    assert_int_equal(asker.calls, 0);
    run(f);
    assert_int_equal(asker.calls, 1);
    assert_status(asker.status, HM_OK);
    assert_int_equal(asker.resolve.address_count, 1);
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&asker.resolve.address[0];
    assert_int_equal(v4->sin_family, AF_INET);
    assert_int_equal(ntohs(v4->sin_port), 4242);
    assert_int_equal(ntohl(v4->sin_addr.s_addr), 0xc0000207);

    assert_ok(hm_loop_uv_resolve(f->loop, &asker.resolve, "2001:db8::1", 7)); /* used again */
    run(f);
    assert_status(asker.status, HM_OK);
    assert_int_equal(asker.resolve.address_count, 1);
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&asker.resolve.address[0];
    assert_int_equal(v6->sin6_family, AF_INET6);
    assert_int_equal(ntohs(v6->sin6_port), 7);
    assert_int_equal(v6->sin6_addr.s6_addr[0], 0x20);
    assert_int_equal(v6->sin6_addr.s6_addr[15], 1);
}

static void localhost_is_looked_up_and_carries_the_port(void **state)
{
    struct loop_fixture *f = *state;
    struct asker asker = asker_of(f);
    asker.resolve.arg = &asker;
    assert_ok(hm_loop_uv_resolve(f->loop, &asker.resolve, "localhost", 99));
    assert_int_equal(asker.calls, 0);
    run(f);
    assert_int_equal(asker.calls, 1);
    assert_status(asker.status, HM_OK);
    assert_in_range(asker.resolve.address_count, 1, HM_RESOLVED_MAX);
    for (unsigned i = 0; i < asker.resolve.address_count; i++) {
        const struct sockaddr_storage *address = &asker.resolve.address[i];
        in_port_t port = address->ss_family == AF_INET6
                             ? ((const struct sockaddr_in6 *)address)->sin6_port
                             : ((const struct sockaddr_in *)address)->sin_port;
        assert_int_equal(ntohs(port), 99);
    }
}

static void a_name_that_does_not_exist_is_not_found(void **state)
{
    struct loop_fixture *f = *state;
    struct asker asker = asker_of(f);
    asker.resolve.arg = &asker;
    /* A label over 63 bytes exists nowhere, and no resolver is asked for it. */
    char host[80];
    memset(host, 'x', 70);
    strcpy(host + 70, ".invalid");
    enum hm_status status = hm_loop_uv_resolve(f->loop, &asker.resolve, host, 1);
    if (status == HM_OK) {
        run(f);
        assert_int_equal(asker.calls, 1);
        status = asker.status;
        assert_int_equal(asker.resolve.address_count, 0);
    }
    assert_true(status == HM_ERR_NOT_FOUND || status == HM_ERR_INVALID);
    assert_string_not_equal(hm_fail_line(), "");
}

static void a_canceled_resolution_is_told_once_and_not_inside_the_call(void **state)
{
    struct loop_fixture *f = *state;
    static const char *const hosts[] = {"127.0.0.1", "localhost", "hivemind.invalid"};
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        struct asker *asker = malloc(sizeof *asker);
        assert_non_null(asker);
        *asker = asker_of(f);
        asker->resolve.arg = asker;
        assert_ok(hm_loop_uv_resolve(f->loop, &asker->resolve, hosts[i], 1));
        hm_loop_uv_resolve_cancel(f->loop, &asker->resolve);
        hm_loop_uv_resolve_cancel(f->loop, &asker->resolve);
        assert_int_equal(asker->calls, 0);
        run(f);
        assert_int_equal(asker->calls, 1);
        assert_status(asker->status, HM_ERR_CANCELED);
        assert_int_equal(asker->resolve.address_count, 0);
        free(asker); /* the lookup itself may still run; the loop's end waits for it */
    }
}

static void canceling_what_is_over_does_nothing(void **state)
{
    struct loop_fixture *f = *state;
    struct asker asker = asker_of(f);
    asker.resolve.arg = &asker;
    hm_loop_uv_resolve_cancel(f->loop, &asker.resolve);
    assert_ok(hm_loop_uv_resolve(f->loop, &asker.resolve, "::1", 1));
    run(f);
    hm_loop_uv_resolve_cancel(f->loop, &asker.resolve);
    assert_int_equal(asker.calls, 1);
    assert_status(asker.status, HM_OK);
}

static void too_many_at_once_are_busy(void **state)
{
    enum { MANY = 257 };
    struct loop_fixture *f = *state;
    static struct asker askers[MANY];
    int accepted = 0;
    for (int i = 0; i < MANY; i++) {
        askers[i] = asker_of(f);
        askers[i].resolve.arg = &askers[i];
        enum hm_status status = hm_loop_uv_resolve(f->loop, &askers[i].resolve, "127.0.0.1", 1);
        assert_true(status == HM_OK || status == HM_ERR_BUSY);
        accepted += status == HM_OK;
    }
    assert_int_equal(accepted, 256);
    run(f);
    for (int i = 0; i < MANY; i++) assert_int_equal(askers[i].calls, i < accepted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_signal_arrives_as_a_callback),
        CASE(a_signal_may_be_stopped_in_its_callback),
        CASE(a_signal_that_cannot_be_caught_is_a_status),
        CASE(an_address_in_digits_is_answered_but_not_inside_the_call),
        CASE(localhost_is_looked_up_and_carries_the_port),
        CASE(a_name_that_does_not_exist_is_not_found),
        CASE(a_canceled_resolution_is_told_once_and_not_inside_the_call),
        CASE(canceling_what_is_over_does_nothing),
        CASE(too_many_at_once_are_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
