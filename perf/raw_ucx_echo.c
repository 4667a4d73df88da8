/* perf/raw_ucx_echo.c - the limit of the fabric plane on this machine: UCX active messages, without
 * any of our layers.
 *
 *   perf-raw_ucx_echo [--mode bulk|single|latency|stream|both] [--clients N] [--calls C] [--rows R]
 *                     [--hidden H] [--bytes B] [--seconds S] [--wait wakeup|busy]
 *                     [--transport posix|tcp]
 *
 * bulk:     N client processes; each sends R rows of H f32, gets them back, and again.
 * single:   N client processes with C calls in flight each, of one row.
 * latency:  one client, one message of B bytes at a time; how long until it is back.
 * stream:   one client sends messages of B bytes one way, C in flight; the clock stops when the
 *           server has all of them in its own memory.
 * both:     bulk and single.
 *
 * A worker a process, endpoints with peer error handling and keep-alive set as our provider sets
 * them, addresses exchanged through memory that the processes share.  UCX chooses the protocol.
 * wakeup: progress until nothing moves, arm, poll; BUSY looks again,
 * and gives the processor away if that happens some times in a row.  busy: progress
 * for ever.  One JSON line a mode. */
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <ucp/api/ucp.h>

enum { CLIENTS_MAX = 256, CALLS_MAX = 256, ADDRESS_BYTES_MAX = 900, SAMPLES_MAX = 1 << 22 };
enum { AM_DATA = 1, AM_HELLO = 2, AM_END = 3 };
static struct {
    int clients, calls, rows, hidden;
    long bytes;
    double seconds;
    const char *mode, *wait, *transport;
} option = {8, 1, 2048, 1024, 8, 2, "both", "wakeup", "posix"};

/* What the processes of one run share. */
struct shared {
    _Atomic int ready, served, go;
    _Atomic uint64_t calls;
    size_t address_bytes;
    uint8_t address[ADDRESS_BYTES_MAX]; /* the server's */
    double seconds, mean_us, p50_us, p99_us, p999_us;
};
static struct shared *shared;
static ucp_worker_h worker;
static int worker_fd;
static bool busy, streaming, pair;
static size_t message_bytes;

/* A message on its way out, or one that is being received: its head must live as long. */
struct call {
    struct {
        uint32_t client, slot;
    } head;
    uint8_t *bytes;
    void *kept; /* UCX's own memory, echoed as it is */
    struct call *next;
};
static ucp_ep_h client_ep[CLIENTS_MAX]; /* of a client: [0] is the server */
static struct call *spare;
static unsigned sends_out;

static void must(bool holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "raw_ucx_echo: %s failed\n", what);
    exit(1);
}

static void must_ok(ucs_status_t status, const char *what)
{
    if (status == UCS_OK) return;
    fprintf(stderr, "raw_ucx_echo: %s failed: %s\n", what, ucs_status_string(status));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Two processes that wait for each other get a processor each. */
static void pin(int number)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    int skip = number % CPU_COUNT(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || skip-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)sched_setaffinity(0, sizeof one, &one);
        return;
    }
}

/* ---- UCX ------------------------------------------------------------------------------------- */

static void on_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    (void)ep;
    if (!arg || status == UCS_ERR_CANCELED) return; /* a client that is done */
    must_ok(status, "the server");
}

static void worker_open(void)
{
    ucp_config_t *config;
    ucp_context_h context;
    setenv("UCX_TLS", option.transport, 1);
    setenv("UCX_POSIX_ERROR_HANDLING", "y", 1);
    setenv("UCX_KEEPALIVE_INTERVAL", "1s", 1);
    setenv("UCX_LOG_LEVEL", "fatal", 0); /* clients end without a word */
    if (strstr(option.transport, "tcp")) setenv("UCX_NET_DEVICES", "lo", 0);
    must_ok(ucp_config_read(NULL, NULL, &config), "ucp_config_read");
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    must_ok(ucp_init(&params, config, &context), "ucp_init");
    ucp_config_release(config);
    ucp_worker_params_t worker_params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                         .thread_mode = UCS_THREAD_MODE_SINGLE};
    must_ok(ucp_worker_create(context, &worker_params, &worker), "ucp_worker_create");
    must_ok(ucp_worker_get_efd(worker, &worker_fd), "ucp_worker_get_efd");
}

static void handle(unsigned id, ucp_am_recv_callback_t cb)
{
    ucp_am_handler_param_t param = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                                                  UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                                                  UCP_AM_HANDLER_PARAM_FIELD_CB,
                                    .id = id,
                                    .flags = UCP_AM_FLAG_WHOLE_MSG | UCP_AM_FLAG_PERSISTENT_DATA,
                                    .cb = cb};
    must_ok(ucp_worker_set_am_recv_handler(worker, &param), "ucp_worker_set_am_recv_handler");
}

static ucp_ep_h ep_open(const void *address, void *arg)
{
    ucp_ep_h ep;
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                                            UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                            UCP_EP_PARAM_FIELD_ERR_HANDLER,
                              .address = address,
                              .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                              .err_handler = {.cb = on_error, .arg = arg}};
    must_ok(ucp_ep_create(worker, &params, &ep), "ucp_ep_create");
    return ep;
}

static void step(void)
{
    static unsigned empty;
    if (ucp_worker_progress(worker) > 0 || busy) {
        empty = 0;
        return;
    }
    ucs_status_t status = ucp_worker_arm(worker);
    if (status == UCS_ERR_BUSY) {
        if (++empty > 3) sched_yield();
        return;
    }
    empty = 0;
    must_ok(status, "ucp_worker_arm");
    struct pollfd wait = {.fd = worker_fd, .events = POLLIN};
    poll(&wait, 1, 100);
}

static struct call *call_get(void)
{
    struct call *call = spare;
    if (call) {
        spare = call->next;
        return call;
    }
    call = calloc(1, sizeof *call);
    must(call, "memory");
    return call;
}

static void call_put(struct call *call)
{
    if (call->kept) ucp_am_data_release(worker, call->kept);
    call->kept = NULL;
    call->next = spare;
    spare = call;
}

static void on_sent(void *request, ucs_status_t status, void *arg)
{
    (void)status; /* a client that is done */
    ucp_request_free(request);
    sends_out--;
    if (arg) call_put(arg);
}

/* False: it is over already. */
static bool post(ucp_ep_h ep, unsigned id, const void *head, size_t head_bytes, const void *bytes,
                 size_t count, struct call *call)
{
    ucp_request_param_t param = {.op_attr_mask =
                                     UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                 .cb.send = on_sent,
                                 .user_data = call};
    ucs_status_ptr_t request = ucp_am_send_nbx(ep, id, head, head_bytes, bytes, count, &param);
    if (!UCS_PTR_IS_PTR(request)) return false;
    sends_out++;
    return true;
}

/* ---- the server ------------------------------------------------------------------------------ */

static uint64_t received;
static int said_hello, ended;
static uint8_t *sink; /* of a stream: all goes into the same memory */

static ucs_status_t on_hello(void *arg, const void *head, size_t head_bytes, void *data,
                             size_t bytes, const ucp_am_recv_param_t *param)
{
    uint32_t client;
    (void)arg, (void)data, (void)bytes, (void)param;
    memcpy(&client, head, sizeof client);
    must(head_bytes > sizeof client && client < CLIENTS_MAX, "hello");
    client_ep[client] = ep_open((const uint8_t *)head + sizeof client, NULL);
    said_hello++;
    return UCS_OK;
}

static ucs_status_t on_end(void *arg, const void *head, size_t head_bytes, void *data, size_t bytes,
                           const ucp_am_recv_param_t *param)
{
    (void)arg, (void)head, (void)head_bytes, (void)data, (void)bytes, (void)param;
    ended++;
    return UCS_OK;
}

static void on_received(void *request, ucs_status_t status, size_t bytes, void *arg)
{
    struct call *call = arg;
    ucp_request_free(request);
    must_ok(status, "receiving");
    received++;
    if (streaming || !post(client_ep[call->head.client], AM_DATA, &call->head, sizeof call->head,
                           call->bytes, bytes, call))
        call_put(call);
}

/* Large payloads are received and sent from memory of its own; of small ones what UCX has. */
static ucs_status_t on_call(void *arg, const void *head, size_t head_bytes, void *data,
                            size_t bytes, const ucp_am_recv_param_t *param)
{
    struct call *call = call_get();
    (void)arg;
    must(head_bytes == sizeof call->head, "head");
    memcpy(&call->head, head, sizeof call->head);
    bool rendezvous = param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV;
    if (streaming)
        call->bytes = sink;
    else if (rendezvous && !call->bytes)
        call->bytes = malloc(message_bytes);
    must(call->bytes || !rendezvous, "memory");
    if (!rendezvous && streaming) {
        memcpy(sink, data, bytes);
        received++;
        call_put(call);
        return UCS_OK;
    }
    if (!rendezvous) {
        bool kept = param->recv_attr & UCP_AM_RECV_ATTR_FLAG_DATA;
        bool waits = post(client_ep[call->head.client], AM_DATA, &call->head, sizeof call->head,
                          data, bytes, call);
        must(kept || !waits, "keeping");
        if (waits)
            call->kept = data;
        else
            call_put(call);
        return waits ? UCS_INPROGRESS : UCS_OK;
    }
    const ucp_request_param_t into = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                      UCP_OP_ATTR_FIELD_USER_DATA |
                                                      UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
                                      .cb.recv_am = on_received,
                                      .user_data = call};
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker, data, call->bytes, bytes, &into);
    must(UCS_PTR_IS_PTR(request), "ucp_am_recv_data_nbx");
    return UCS_INPROGRESS;
}

static _Noreturn void serve(int clients)
{
    ucp_address_t *address;
    worker_open();
    sink = calloc(1, message_bytes);
    must(sink, "memory");
    handle(AM_DATA, on_call);
    handle(AM_HELLO, on_hello);
    handle(AM_END, on_end);
    must_ok(ucp_worker_get_address(worker, &address, &shared->address_bytes), "address");
    must(shared->address_bytes <= ADDRESS_BYTES_MAX, "address");
    memcpy(shared->address, address, shared->address_bytes);
    shared->ready++;
    while (said_hello < clients) step();
    shared->served = 1;
    while (!ended) step();
    shared->calls = received;
    uint8_t nothing = 0;
    post(client_ep[0], AM_END, &nothing, sizeof nothing, NULL, 0, NULL);
    for (;;) step();
}

/* ---- a client -------------------------------------------------------------------------------- */

static uint8_t *out, *back;
static uint64_t answers;
static struct call slots[CALLS_MAX];
static bool over;

static void ask(unsigned slot)
{
    struct call *call = &slots[slot];
    post(client_ep[0], AM_DATA, &call->head, sizeof call->head, out, message_bytes, NULL);
}

static void answered(unsigned slot)
{
    answers++;
    if (!over) ask(slot);
}

static void on_answer_received(void *request, ucs_status_t status, size_t bytes, void *arg)
{
    (void)bytes;
    ucp_request_free(request);
    must_ok(status, "receiving");
    answered(((struct call *)arg)->head.slot);
}

static ucs_status_t on_answer(void *arg, const void *head, size_t head_bytes, void *data,
                              size_t bytes, const ucp_am_recv_param_t *param)
{
    struct call read;
    (void)arg;
    must(head_bytes == sizeof read.head && bytes == message_bytes, "answer");
    memcpy(&read.head, head, sizeof read.head);
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
        memcpy(back, data, bytes);
        answered(read.head.slot);
        return UCS_OK;
    }
    const ucp_request_param_t into = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                      UCP_OP_ATTR_FIELD_USER_DATA |
                                                      UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
                                      .cb.recv_am = on_answer_received,
                                      .user_data = &slots[read.head.slot]};
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker, data, back, bytes, &into);
    must(UCS_PTR_IS_PTR(request), "ucp_am_recv_data_nbx");
    return UCS_INPROGRESS;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void measure_latency(void)
{
    uint32_t *sample = malloc(SAMPLES_MAX * sizeof *sample);
    must(sample, "memory");
    uint64_t warm = now_ns() + (uint64_t)(option.seconds * 1e8), begin = 0, before = 0, last = 0;
    uint64_t end = warm + (uint64_t)(option.seconds * 1e9), count = 0;
    over = true; /* the answer does not ask again */
    for (uint64_t at = now_ns(); at < end; at = last) {
        before = answers;
        ask(0);
        while (answers == before) step();
        last = now_ns();
        if (last < warm) continue;
        if (!begin) begin = at;
        sample[count++ % SAMPLES_MAX] = (uint32_t)(last - at);
    }
    uint64_t kept = count < SAMPLES_MAX ? count : SAMPLES_MAX;
    qsort(sample, kept, sizeof *sample, by_value);
    shared->seconds = (double)(last - begin) / 1e9;
    shared->mean_us = (double)(last - begin) / 1e3 / (double)count;
    shared->p50_us = sample[kept / 2] / 1e3;
    shared->p99_us = sample[kept * 99 / 100] / 1e3;
    shared->p999_us = sample[kept * 999 / 1000] / 1e3;
    shared->calls = count;
    free(sample);
}

static void measure_stream(void)
{
    uint8_t nothing = 0;
    uint64_t begin = now_ns(), end = begin + (uint64_t)(option.seconds * 1e9);
    for (unsigned sent = 0; (sent & 63) || now_ns() < end; sent++) {
        ask(0);
        while (sends_out >= (unsigned)option.calls) step();
    }
    while (sends_out > 0) step();
    post(client_ep[0], AM_END, &nothing, sizeof nothing, NULL, 0, NULL);
    while (!ended) step();
    shared->seconds = (double)(now_ns() - begin) / 1e9;
}

static void measure_calls(void)
{
    uint64_t end = now_ns() + (uint64_t)(option.seconds * 1e9);
    for (unsigned slot = 0; slot < (unsigned)option.calls; slot++) ask(slot);
    while (now_ns() < end) step();
    over = true;
    shared->calls += answers;
}

static _Noreturn void client(uint32_t number)
{
    ucp_address_t *address;
    size_t address_bytes;
    uint8_t hello[sizeof number + ADDRESS_BYTES_MAX];
    worker_open();
    handle(AM_DATA, on_answer);
    handle(AM_END, on_end);
    must((out = malloc(message_bytes)) && (back = calloc(1, message_bytes)), "memory");
    memset(out, 1, message_bytes); /* or the kernel has one page of zeros for all of it */
    for (unsigned slot = 0; slot < CALLS_MAX; slot++)
        slots[slot].head.client = number, slots[slot].head.slot = slot;
    must_ok(ucp_worker_get_address(worker, &address, &address_bytes), "address");
    must(address_bytes <= ADDRESS_BYTES_MAX, "address");
    memcpy(hello, &number, sizeof number);
    memcpy(hello + sizeof number, address, address_bytes);
    client_ep[0] = ep_open(shared->address, &number);
    post(client_ep[0], AM_HELLO, hello, sizeof number + address_bytes, NULL, 0, NULL);
    while (!shared->served) ucp_worker_progress(worker), sched_yield();
    shared->ready++;
    while (!shared->go) ucp_worker_progress(worker), usleep(100);
    if (!strcmp(option.mode, "latency"))
        measure_latency();
    else if (streaming)
        measure_stream();
    else
        measure_calls();
    _exit(0);
}

/* ---- a run ----------------------------------------------------------------------------------- */

static void report(const char *mode, int clients, double seconds)
{
    double calls = (double)shared->calls;
    printf("{\"program\":\"raw_ucx_echo\",\"mode\":\"%s\",\"transport\":\"%s\",\"wait\":\"%s\","
           "\"bytes\":%zu,",
           mode, option.transport, option.wait, message_bytes);
    if (!strcmp(mode, "latency"))
        printf("\"round_trips\":%.0f,\"mean_us\":%.3f,\"p50_us\":%.3f,\"p99_us\":%.3f,"
               "\"p999_us\":%.3f}\n",
               calls, shared->mean_us, shared->p50_us, shared->p99_us, shared->p999_us);
    else if (!strcmp(mode, "stream"))
        printf("\"calls_in_flight\":%d,\"seconds\":%.3f,\"messages_per_second\":%.0f,"
               "\"megabytes_per_second\":%.1f}\n",
               option.calls, shared->seconds, calls / shared->seconds,
               calls * (double)message_bytes / shared->seconds / 1e6);
    else
        printf("\"clients\":%d,\"calls_in_flight\":%d,\"rows\":%d,\"hidden\":%d,\"seconds\":%.3f,"
               "\"rows_per_second\":%.0f,\"calls_per_second\":%.1f}\n",
               clients, option.calls, !strcmp(mode, "bulk") ? option.rows : 1, option.hidden,
               seconds, calls * (!strcmp(mode, "bulk") ? option.rows : 1) / seconds,
               calls / seconds);
    fflush(stdout);
}

/* number -1: the server. */
static pid_t start(int number, int clients)
{
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid > 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (pair) pin(number + 1);
    if (number < 0) serve(clients);
    client((uint32_t)number);
}

/* Until so many are ready; nobody may end before. */
static void await(int count)
{
    for (int status; shared->ready < count; usleep(1000))
        must(waitpid(-1, &status, WNOHANG) == 0, "a process");
}

static void run(const char *mode)
{
    bool bulk = !strcmp(mode, "bulk"), single = !strcmp(mode, "single");
    int clients = bulk || single ? option.clients : 1;
    streaming = !strcmp(mode, "stream");
    pair = !bulk && !single;
    message_bytes = bulk || single
                        ? (size_t)(bulk ? option.rows : 1) * (size_t)option.hidden * sizeof(float)
                        : (size_t)option.bytes;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(shared != MAP_FAILED, "mmap");
    pid_t server = start(-1, clients);
    await(1);
    for (int i = 0; i < clients; i++) (void)start(i, clients);
    await(1 + clients);
    uint64_t begin = now_ns();
    shared->go = 1;
    for (int ended_count = 0, status; ended_count < clients; ended_count++)
        must(wait(&status) != server && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a process");
    double seconds = (double)(now_ns() - begin) / 1e9;
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    report(mode, clients, seconds);
    munmap(shared, sizeof *shared);
}

static _Noreturn void usage(void)
{
    fprintf(stderr,
            "perf-raw_ucx_echo [--mode bulk|single|latency|stream|both] [--clients 1..%d] "
            "[--calls 1..%d] [--rows N] [--hidden N] [--bytes N] [--seconds S] "
            "[--wait wakeup|busy] [--transport posix|tcp]\n",
            CLIENTS_MAX, CALLS_MAX);
    exit(2);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (i + 1 == argc) usage();
        if (!strcmp(name, "--mode"))
            option.mode = value;
        else if (!strcmp(name, "--clients"))
            option.clients = atoi(value);
        else if (!strcmp(name, "--calls"))
            option.calls = atoi(value);
        else if (!strcmp(name, "--rows"))
            option.rows = atoi(value);
        else if (!strcmp(name, "--hidden"))
            option.hidden = atoi(value);
        else if (!strcmp(name, "--bytes"))
            option.bytes = atol(value);
        else if (!strcmp(name, "--seconds"))
            option.seconds = atof(value);
        else if (!strcmp(name, "--wait"))
            option.wait = value;
        else if (!strcmp(name, "--transport"))
            option.transport = value;
        else
            usage();
    }
    busy = !strcmp(option.wait, "busy");
    bool both = !strcmp(option.mode, "both");
    if (option.clients < 1 || option.clients > CLIENTS_MAX || option.calls < 1 ||
        option.calls > CALLS_MAX || option.rows < 1 || option.hidden < 1 || option.bytes < 1 ||
        option.bytes > 1 << 30 || option.seconds <= 0 || (!busy && strcmp(option.wait, "wakeup")))
        usage();
    if (!both && strcmp(option.mode, "bulk") && strcmp(option.mode, "single") &&
        strcmp(option.mode, "latency") && strcmp(option.mode, "stream"))
        usage();
    if (both || !strcmp(option.mode, "bulk")) run("bulk");
    if (!strcmp(option.mode, "bulk")) return 0;
    run(both ? "single" : option.mode);
    return 0;
}
