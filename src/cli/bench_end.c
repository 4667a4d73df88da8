/* cli/bench_end.c - one of the two processes of `hivemind bench transport`: a transport, and nothing
 * above it.
 *
 * Happy:  it says how it can be met ("offer <hex>", or "dial <address>"), is told how to meet the
 *         other, and the endpoint comes up.  latency: the client sends a payload, the server sends
 *         it back.  stream: the client sends payloads, some in flight; then ENOUGH with their count,
 *         and the server answers when it has them all.  The client reports a line.
 *         A payload that comes with its message is copied out of it, a larger one is pulled; both
 *         into the same memory each time.
 * Fails:  an endpoint that does not come up, or goes down before the report. */
#include "base/loop_uv.h"
#include "base/module.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "transport/transport.h"
#include "transport/ucx_options.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = 2 * HM_FABRIC_OFFER_BYTES_MAX + 32, RECEIVE_BYTES_MAX = 1 << 20 };
enum { PAYLOAD = 1, ENOUGH = 2 };
struct head {
    uint32_t kind, count;
};

struct end_conf {
    const char *transport, *mode;
    bool client, busy;
    size_t bytes;
    uint32_t window, processor;
    hm_ns duration;
};

struct end {
    struct end_conf conf;
    bool streaming;
    struct hm_identity *identity;
    struct hm_loop *loop;
    const struct hm_transport_ops *ops;
    struct hm_transport *transport;
    struct hm_ep *ep;
    struct hm_buf_pool *pool;
    struct hm_buf *out, *in;
    struct hm_histogram round_trip_ns;
    hm_ns begin, warm, end, asked;
    uint32_t sent, received, expected; /* expected 0: not known yet */
    unsigned in_flight;
    bool enough_due, reported;
    enum hm_status status;
};

/* ---- sending --------------------------------------------------------------------------------- */

static void leave(struct end *end, enum hm_status status)
{
    if (!end->reported) end->status = status;
    end->ops->disconnect(end->ep); /* down() follows */
}

static void pump(struct end *end);

static void on_sent(void *arg, enum hm_status status)
{
    struct end *end = arg;
    end->in_flight--;
    if (status == HM_OK) pump(end);
}

/* False: later. */
static bool send_payload(struct end *end, struct hm_buf *buf, hm_wire_cb done)
{
    struct head head = {.kind = PAYLOAD};
    struct hm_span span = hm_buf_part(buf, 0, end->conf.bytes);
    enum hm_status status = end->ops->send(end->ep, &head, sizeof head, &span, 1, done, end);
    if (status != HM_OK && status != HM_ERR_BUSY) leave(end, status);
    return status == HM_OK;
}

static void send_enough(struct end *end)
{
    struct head head = {.kind = ENOUGH, .count = (uint32_t)end->sent};
    enum hm_status status = end->ops->send(end->ep, &head, sizeof head, NULL, 0, NULL, NULL);
    end->enough_due = status == HM_ERR_BUSY;
    if (status != HM_OK && !end->enough_due) leave(end, status);
}

static void ask(struct end *end, hm_ns now)
{
    end->asked = now;
    if (!send_payload(end, end->out, NULL) && end->status == HM_OK) leave(end, HM_ERR_BUSY);
}

/* A stream is filled up again. */
static void pump(struct end *end)
{
    if (!end->conf.client || !end->streaming || end->enough_due || end->expected) return;
    while (end->in_flight < end->conf.window) {
        if (end->sent % 32 == 0 && cli_now() >= end->end) {
            end->expected = end->sent;
            send_enough(end);
            return;
        }
        if (!send_payload(end, end->out, on_sent)) return;
        end->in_flight++;
        end->sent++;
    }
}

/* ---- receiving ------------------------------------------------------------------------------- */

static void report(struct end *end)
{
    double seconds = (double)(cli_now() - end->begin) / 1e9;
    const struct hm_histogram *h = &end->round_trip_ns;
    end->reported = true;
    end->status = HM_OK;
    if (end->streaming)
        printf("done %.1f %.1f\n", (double)end->sent / seconds,
               (double)end->sent * (double)end->conf.bytes / seconds / 1e6);
    else
        printf("done %.4f %.4f %.4f %.4f %llu\n", hm_histogram_mean(h) / 1e3,
               (double)hm_histogram_quantile(h, 0.5) / 1e3,
               (double)hm_histogram_quantile(h, 0.99) / 1e3,
               (double)hm_histogram_quantile(h, 0.999) / 1e3, (unsigned long long)h->count);
    fflush(stdout);
    leave(end, HM_OK);
}

/* A payload is in our memory. */
static void taken(struct end *end)
{
    end->received++;
    if (!end->conf.client) {
        if (!end->streaming && !send_payload(end, end->in, NULL) && end->status == HM_OK)
            leave(end, HM_ERR_BUSY);
        if (end->received == end->expected) send_enough(end);
        return;
    }
    hm_ns now = cli_now();
    if (end->asked >= end->warm) hm_histogram_add(&end->round_trip_ns, now - end->asked);
    if (now < end->end)
        ask(end, now);
    else
        report(end);
}

static void on_pulled(void *arg, enum hm_status status)
{
    if (status == HM_OK) taken(arg);
}

static void on_message(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes,
                       struct hm_inbound *in)
{
    struct end *end = arg;
    struct head head = {0};
    (void)ep;
    if (header_bytes == sizeof head) memcpy(&head, header, sizeof head);
    bool good = head.kind == PAYLOAD  ? in->bytes == end->conf.bytes
                : head.kind == ENOUGH ? in->bytes == 0
                                      : false;
    if (!good || head.kind == ENOUGH || in->data) {
        if (good && in->data) memcpy(end->in->base, in->data, in->bytes);
        hm_inbound_drop(in);
        if (!good) {
            leave(end, HM_ERR_PEER_PROTOCOL);
        } else if (head.kind == PAYLOAD) {
            taken(end);
        } else if (end->conf.client) {
            report(end);
        } else {
            end->expected = head.count;
            if (end->received == end->expected) send_enough(end);
        }
        return;
    }
    struct hm_span into = hm_buf_part(end->in, 0, end->conf.bytes);
    enum hm_status status = hm_inbound_pull(in, &into, on_pulled, end);
    if (status != HM_OK) leave(end, status);
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    struct end *end = arg;
    (void)ep;
    if (end->enough_due)
        send_enough(end);
    else
        pump(end);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *node,
                  const struct hm_hello *hello)
{
    struct end *end = arg;
    (void)node, (void)hello;
    end->ep = ep;
    if (!end->conf.client) return;
    end->begin = cli_now();
    end->warm = end->begin + end->conf.duration / 10;
    end->end = end->begin + end->conf.duration;
    if (end->streaming)
        pump(end);
    else
        ask(end, end->begin);
}

static void on_closed(void *arg)
{
    struct end *end = arg;
    hm_loop_uv_stop(end->loop);
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct end *end = arg;
    (void)ep;
    if (end->conf.client && !end->reported && end->status == HM_OK) end->status = why;
    end->ops->close(end->transport, on_closed, end);
}

/* To that processor among those that we may use, so that two ends are not two on one of them. */
static void pin(unsigned number)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    unsigned skip = number % (unsigned)CPU_COUNT(&all);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || skip-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)sched_setaffinity(0, sizeof one, &one); /* else measured where it runs */
        return;
    }
}

static enum hm_status make(struct end *end)
{
    static const struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    bool ucx = strcmp(end->conf.transport, "ucx") == 0;
    const void *ops = &hm_transport_tcp;
    struct hm_ucx_options options = {.busy_poll = end->conf.busy};
    const struct hm_transport_sink sink = {on_up, on_message, on_writable, on_down, end};
    enum hm_status status = hm_identity_create(NULL, &end->identity);
    if (!status) status = hm_loop_uv_create(hm_rng_os_seed(), &end->loop);
    if (!status) status = hm_buf_pool_create((size_t)1 << 30, &end->pool);
    if (!status) status = hm_buf_pool_get(end->pool, end->conf.bytes, &end->out);
    if (!status) status = hm_buf_pool_get(end->pool, end->conf.bytes, &end->in);
    if (!status && ucx) status = hm_module_load("ucx", &ops);
    if (status) return status;
    memset(end->out->base, 1, end->conf.bytes);
    memset(end->in->base, 2, end->conf.bytes);
    const struct hm_transport_conf conf = {.identity = end->identity,
                                           .hello = &hello,
                                           .listen = end->conf.client ? NULL : "127.0.0.1:0",
                                           .buffers = end->pool,
                                           .endpoints_max = 4,
                                           .receive_bytes_max = RECEIVE_BYTES_MAX,
                                           .handshake_max = 10 * HM_S,
                                           .world = ucx ? &options : NULL};
    end->ops = ops;
    return end->ops->open(&conf, end->loop, &sink, &end->transport);
}

/* A line of what the other needs. */
static enum hm_status introduce(struct end *end)
{
    uint8_t bytes[HM_FABRIC_OFFER_BYTES_MAX];
    struct hm_fabric_offer offer;
    struct hm_addrs addrs;
    struct hm_writer writer;
    enum hm_status status = HM_OK;
    if (!end->ops->fabric) {
        if (!end->conf.client) status = end->ops->address(end->transport, &addrs);
        if (!status) printf("dial %s\n", end->conf.client ? "-" : addrs.addr[0].text);
        fflush(stdout);
        return status;
    }
    status =
        end->ops->fabric->offer(end->transport, hm_identity_node(end->identity), &offer, &end->ep);
    if (status) return status;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_fabric_offer_encode(&offer, &writer);
    printf("offer ");
    for (size_t i = 0; i < hm_writer_count(&writer); i++) printf("%02x", bytes[i]);
    printf("\n");
    fflush(stdout);
    return HM_OK;
}

static enum hm_status meet(struct end *end, const char *line)
{
    uint8_t bytes[HM_FABRIC_OFFER_BYTES_MAX];
    struct hm_fabric_offer offer;
    struct hm_addr addr = {0};
    size_t count = 0;
    if (!end->ops->fabric) {
        if (!end->conf.client) return HM_OK;
        if (sscanf(line, "dial %255s", addr.text) != 1) return HM_ERR_INVALID;
        return end->ops->connect(end->transport, &addr, NULL, &end->ep);
    }
    if (strncmp(line, "offer ", 6) != 0) return HM_ERR_INVALID;
    for (const char *at = line + 6; count < sizeof bytes; at += 2) {
        unsigned byte;
        if (sscanf(at, "%2x", &byte) != 1) break;
        bytes[count++] = (uint8_t)byte;
    }
    enum hm_status status = hm_fabric_offer_decode(bytes, count, &offer);
    return status ? status : end->ops->fabric->accept(end->ep, &offer);
}

static void unmake(struct end *end)
{
    if (end->in) hm_buf_put(end->in);
    if (end->out) hm_buf_put(end->out);
    if (end->loop && !end->transport) hm_loop_uv_destroy(end->loop);
    if (end->pool && !end->transport) hm_buf_pool_destroy(end->pool);
    hm_identity_destroy(end->identity);
}

#define AT(member) offsetof(struct end_conf, member)
static const struct hm_option options_of_end[] = {
    {"transport", HM_OPTION_STRING, "ucx", "NAME", "tcp or ucx", AT(transport), 0, 0},
    {"mode", HM_OPTION_STRING, "latency", "NAME", "latency or stream", AT(mode), 0, 0},
    {"client", HM_OPTION_BOOL, "false", NULL, "the side that asks", AT(client), 0, 0},
    {"busy", HM_OPTION_BOOL, "false", NULL, "never sleep", AT(busy), 0, 0},
    {"size", HM_OPTION_BYTES, "8", "BYTES", "of a payload", AT(bytes), 1, 1 << 28},
    {"window", HM_OPTION_U32, "32", "COUNT", "payloads in flight", AT(window), 1, 4096},
    {"seconds", HM_OPTION_DURATION, "1s", "TIME", "to measure", AT(duration), 0.01, 600},
    {"processor", HM_OPTION_U32, "0", "NUMBER", "of those that it may use", AT(processor), 0, 1023},
};

int bench_end(int argc, char **argv)
{
    static struct end end;
    static char line[LINE_BYTES];
    struct hm_options options;
    hm_options_init(&options);
    hm_options_add(&options, "End", options_of_end, HM_COUNT_OF(options_of_end), &end.conf);
    int code = cli_parse(&options, "hivemind bench end - a process of hivemind bench transport",
                         argc, argv);
    if (code != CLI_GO_ON) goto fini_options;
    end.streaming = strcmp(end.conf.mode, "stream") == 0;
    hm_histogram_init(&end.round_trip_ns);
    pin(end.conf.processor);
    end.status = make(&end);
    if (!end.status) end.status = introduce(&end);
    if (!end.status && !fgets(line, sizeof line, stdin)) end.status = HM_ERR_CANCELED;
    if (!end.status) end.status = meet(&end, line);
    if (!end.status) {
        hm_loop_uv_run(end.loop);
        end.transport = NULL;
    }
    code = end.status ? cli_fail(CLI_FAILED, end.status) : CLI_OK;
    unmake(&end);
fini_options:
    hm_options_fini(&options);
    return code;
}
