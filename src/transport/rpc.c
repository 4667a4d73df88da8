/* transport/rpc.c - opening and closing of rpc, its tables and its methods.
 *
 * Owns struct hm_rpc: all memory is taken in hm_rpc_open, in arrays of fixed size whose unused
 * pages cost nothing.
 *
 *   open --> running --> hm_rpc_close --> closing (next turn: calls end, requests go, the transport
 *                                            |     closes)
 *                                            +--> when the transports are closed, every call has
 *                                                 ended and every request has been answered last:
 *                                                 it is gone, then done
 *
 * Invariant: rpc is freed in a turn of its own, with no function of this folder on the stack. */
#include "transport/rpc_fast.h"

#include "base/rng.h"

#include <stdio.h>

enum { PEERS_MAX = 1024, CALLS_MAX = 4096, REQUESTS_MAX = 4096 }; /* where conf says 0 */

static void on_close_timer(struct hm_timer *timer);

static void tables_fini(struct hm_rpc *rpc)
{
    hm_map_fini(&rpc->peers);
    hm_map_fini(&rpc->calls);
    hm_map_fini(&rpc->requests_by_id);
    rpc->peer_slots.used = 0; /* known peers, needed by nobody */
    hm_slots_fini(&rpc->peer_slots);
    hm_slots_fini(&rpc->conn_slots);
    hm_slots_fini(&rpc->send_slots);
    hm_slots_fini(&rpc->request_slots);
    hm_slots_fini(&rpc->dial_slots);
    hm_slots_fini(&rpc->fast_slots);
    hm_slots_fini(&rpc->fast_in_slots);
}

/* What a failed one leaves, tables_fini takes (all fields are zero before). */
static enum hm_status tables_init(struct hm_rpc *rpc)
{
    const struct hm_rpc_conf *conf = &rpc->conf;
    unsigned conns_max = conf->transport_conf.endpoints_max;
    if (conns_max == 0) conns_max = 2 * conf->peers_max;
    unsigned fasts_max = conf->fabric ? conns_max : 1;
    unsigned sends_max = conf->calls_max + 4 * conf->requests_max + HM_RPC_QUEUE_CALLS_MAX;
    enum hm_status status = hm_map_init(&rpc->peers, conf->peers_max);
    if (status == HM_OK) status = hm_map_init(&rpc->calls, conf->calls_max);
    if (status == HM_OK) status = hm_map_init(&rpc->requests_by_id, conf->requests_max);
    if (status == HM_OK)
        status = hm_slots_init(&rpc->peer_slots, sizeof(struct hm_peer), conf->peers_max);
    if (status == HM_OK)
        status = hm_slots_init(&rpc->conn_slots, sizeof(struct hm_conn), conns_max);
    if (status == HM_OK)
        status = hm_slots_init(&rpc->send_slots, sizeof(struct hm_send), sends_max);
    if (status == HM_OK)
        status = hm_slots_init(&rpc->request_slots, sizeof(struct hm_request), conf->requests_max);
    if (status == HM_OK)
        status = hm_slots_init(&rpc->dial_slots, sizeof(struct hm_dial), HM_RPC_DIALS_MAX);
    if (status == HM_OK)
        status = hm_slots_init(&rpc->fast_slots, sizeof(struct hm_fast), fasts_max);
    if (status == HM_OK)
        status = hm_slots_init(&rpc->fast_in_slots, sizeof(struct hm_fast_in),
                               conf->fabric ? 4 * (conf->calls_max + conf->requests_max) : 1);
    return status;
}

/* Every metric with its row. */
static void metrics_each(struct hm_rpc *rpc,
                         void (*each)(struct hm_rpc *rpc, struct hm_metric *metric,
                                      const struct hm_metric *row))
{
    const struct {
        struct hm_metric *metric, row;
    } all[] = {
        {&rpc->calls_total, {.name = "rpc.calls", .help = "calls made"}},
        {&rpc->calls_failed,
         {.name = "rpc.calls_failed", .help = "calls that ended without all replies"}},
        {&rpc->requests_total, {.name = "rpc.requests", .help = "requests received"}},
        {&rpc->requests_refused,
         {.name = "rpc.requests_refused", .help = "requests that met no handler"}},
        {&rpc->connections, {.name = "rpc.connections", .help = "connections", .kind = HM_GAUGE}},
        {&rpc->sent_control[HM_CLASS_CONTROL],
         {.name = "rpc.tcp_control", .help = "calls and replies of rpc, sent over connections"}},
        {&rpc->sent_control[HM_CLASS_DHT],
         {.name = "rpc.tcp_dht", .help = "messages of the DHT, sent over connections"}},
        {&rpc->sent_control[HM_CLASS_EXPERT],
         {.name = "rpc.tcp_expert", .help = "messages of experts, sent over connections"}},
        {&rpc->sent_fabric[HM_CLASS_CONTROL],
         {.name = "rpc.fabric_control", .help = "calls and replies of rpc, sent over the fabric"}},
        {&rpc->sent_fabric[HM_CLASS_DHT],
         {.name = "rpc.fabric_dht", .help = "messages of the DHT, sent over the fabric"}},
        {&rpc->sent_fabric[HM_CLASS_EXPERT],
         {.name = "rpc.fabric_expert", .help = "messages of experts, sent over the fabric"}},
        {&rpc->sent_control_after_join,
         {.name = "rpc.tcp_after_join",
          .help = "messages of DHT and experts, sent over connections to peers of our fabric"}},
        {&rpc->fabric_peers,
         {.name = "rpc.fabric_peers", .help = "fast paths that are up", .kind = HM_GAUGE}},
        {&rpc->fabric_lost, {.name = "rpc.fabric_lost", .help = "fast paths that went down"}},
    };
    for (size_t i = 0; i < HM_COUNT_OF(all); i++) each(rpc, all[i].metric, &all[i].row);
}

static void metric_add(struct hm_rpc *rpc, struct hm_metric *metric, const struct hm_metric *row)
{
    struct hm_metrics *metrics = rpc->conf.transport_conf.metrics;
    *metric = *row;
    hm_list_init(&metric->link);
    if (metrics) hm_metrics_add(metrics, metric);
}

static void metric_remove(struct hm_rpc *rpc, struct hm_metric *metric, const struct hm_metric *row)
{
    (void)row;
    if (rpc->conf.transport_conf.metrics) hm_metrics_remove(metric);
}

/* Without a fabric everything goes over the control connections. */
static void fabric_open(struct hm_rpc *rpc)
{
    struct hm_transport_conf conf = rpc->conf.fabric_conf;
    const struct hm_transport_conf *control = &rpc->conf.transport_conf;
    if (!rpc->conf.fabric) return;
    HM_ASSERT(rpc->conf.fabric->fabric && control->fabric_key);
    conf.identity = control->identity;
    conf.hello = control->hello;
    conf.buffers = control->buffers;
    conf.metrics = control->metrics;
    if (!conf.endpoints_max) conf.endpoints_max = control->endpoints_max;
    if (!conf.receive_bytes_max) conf.receive_bytes_max = control->receive_bytes_max;
    if (!conf.handshake_max) conf.handshake_max = control->handshake_max;
    struct hm_transport_sink sink = hm_fast_sink;
    sink.arg = rpc;
    hm_fail_clear();
    enum hm_status status = rpc->conf.fabric->open(&conf, rpc->loop, &sink, &rpc->fabric);
    if (status == HM_OK) return;
    rpc->fabric = NULL;
    const char *line = hm_fail_line();
    (void)snprintf(rpc->fabric_error, sizeof rpc->fabric_error, "%s",
                   line[0] ? line : hm_status_text(status));
}

const char *hm_rpc_fabric_error(const struct hm_rpc *rpc)
{
    return rpc->fabric_error;
}

/* What every way can. */
static void learn_caps(struct hm_rpc *rpc)
{
    struct hm_transport_caps caps;
    rpc->conf.transport->caps(rpc->transport, &caps);
    rpc->sends_lent = caps.sends_lent;
    rpc->pulls_lent = caps.pulls_lent;
    if (!rpc->fabric) return;
    rpc->conf.fabric->caps(rpc->fabric, &caps);
    rpc->sends_lent = rpc->sends_lent && caps.sends_lent;
    rpc->pulls_lent = rpc->pulls_lent && caps.pulls_lent;
}

enum hm_status hm_rpc_open(const struct hm_rpc_conf *conf, struct hm_rpc **opened)
{
    struct hm_rpc *rpc = calloc(1, sizeof *rpc);
    if (!rpc) return hm_fail(HM_ERR_NO_MEMORY, "no memory for rpc");
    rpc->conf = *conf;
    rpc->loop = conf->loop;
    if (!rpc->conf.peers_max) rpc->conf.peers_max = PEERS_MAX;
    if (!rpc->conf.calls_max) rpc->conf.calls_max = CALLS_MAX;
    if (!rpc->conf.requests_max) rpc->conf.requests_max = REQUESTS_MAX;
    if (!rpc->conf.requests_max_per_peer) rpc->conf.requests_max_per_peer = rpc->conf.requests_max;
    if (!rpc->conf.request_bytes_max_per_peer) rpc->conf.request_bytes_max_per_peer = SIZE_MAX;
    if (!rpc->conf.ping_interval) rpc->conf.ping_interval = 10 * HM_S;
    rpc->self = hm_identity_node(conf->transport_conf.identity);
    rpc->close_timer.cb = on_close_timer;
    rpc->close_timer.arg = rpc;
    rpc->call_id_next = hm_loop_random(rpc->loop, HM_RANDOM_IDS) >> 1; /* never wraps */
    rpc->hash_seed = hm_loop_random(rpc->loop, HM_RANDOM_IDS);
    struct hm_link *heads[] = {&rpc->idle, &rpc->requests, &rpc->requests_gone, &rpc->dials};
    for (size_t i = 0; i < HM_COUNT_OF(heads); i++) hm_list_init(heads[i]);
    enum hm_status status = tables_init(rpc);
    if (status != HM_OK) {
        status = hm_fail(HM_ERR_NO_MEMORY, "no memory for %u peers, %u calls and %u requests",
                         rpc->conf.peers_max, rpc->conf.calls_max, rpc->conf.requests_max);
        goto free_tables;
    }
    struct hm_transport_sink sink = hm_rpc_sink;
    sink.arg = rpc;
    status = conf->transport->open(&conf->transport_conf, conf->loop, &sink, &rpc->transport);
    if (status != HM_OK) goto free_tables;
    fabric_open(rpc);
    learn_caps(rpc);
    metrics_each(rpc, metric_add);
    *opened = rpc;
    return HM_OK;
free_tables:
    tables_fini(rpc);
    free(rpc);
    return status;
}

/* ---- close */

static void finish(struct hm_rpc *rpc)
{
    void (*closed)(void *arg) = rpc->closed;
    void *arg = rpc->closed_arg;
    metrics_each(rpc, metric_remove);
    tables_fini(rpc);
    free(rpc);
    if (closed) closed(arg);
}

static void on_transport_closed(void *arg)
{
    struct hm_rpc *rpc = arg;
    rpc->transport = NULL;
    hm_rpc_settle(rpc);
}

static void on_fabric_closed(void *arg)
{
    struct hm_rpc *rpc = arg;
    rpc->fabric = NULL;
    hm_rpc_settle(rpc);
}

void hm_rpc_settle(struct hm_rpc *rpc)
{
    if (rpc->closing && !rpc->transport && !rpc->fabric && !rpc->call_count &&
        !rpc->request_count && !rpc->fast_in_slots.used && !rpc->fast_slots.used)
        hm_timer_start(rpc->loop, &rpc->close_timer, 0);
}

static void on_close_timer(struct hm_timer *timer)
{
    struct hm_rpc *rpc = timer->arg;
    struct hm_map_node *node;
    if (rpc->closed_transports) {
        finish(rpc);
        return;
    }
    rpc->closed_transports = true;
    while ((node = hm_map_next(&rpc->calls, NULL)))
        hm_call_finish(HM_CONTAINER_OF(node, struct hm_call, node), HM_ERR_CANCELED);
    while (!hm_list_empty(&rpc->requests))
        hm_request_lose(HM_CONTAINER_OF(rpc->requests.next, struct hm_request, link));
    while (!hm_list_empty(&rpc->dials))
        hm_dial_finish(HM_CONTAINER_OF(rpc->dials.next, struct hm_dial, link), HM_ERR_CANCELED,
                       NULL);
    for (node = hm_map_next(&rpc->peers, NULL); node; node = hm_map_next(&rpc->peers, node))
        hm_peer_dial_end(HM_CONTAINER_OF(node, struct hm_peer, node));
    if (rpc->fabric) rpc->conf.fabric->close(rpc->fabric, on_fabric_closed, rpc);
    rpc->conf.transport->close(rpc->transport, on_transport_closed, rpc);
}

void hm_rpc_close(struct hm_rpc *rpc, void (*done)(void *arg), void *arg)
{
    HM_ASSERT(!rpc->closing);
    rpc->closing = true;
    rpc->closed = done;
    rpc->closed_arg = arg;
    hm_timer_start(rpc->loop, &rpc->close_timer, 0);
}

/* ---- what users ask */

struct hm_loop *hm_rpc_loop(const struct hm_rpc *rpc)
{
    return rpc->loop;
}

struct hm_buf_pool *hm_rpc_buffers(const struct hm_rpc *rpc)
{
    return rpc->conf.transport_conf.buffers;
}

bool hm_rpc_sends_lent(const struct hm_rpc *rpc)
{
    return rpc->sends_lent;
}

bool hm_rpc_pulls_lent(const struct hm_rpc *rpc)
{
    return rpc->pulls_lent;
}

const struct hm_identity *hm_rpc_identity(const struct hm_rpc *rpc)
{
    return rpc->conf.transport_conf.identity;
}

enum hm_status hm_rpc_address(struct hm_rpc *rpc, struct hm_addrs *addrs)
{
    return rpc->conf.transport->address(rpc->transport, addrs);
}

void hm_rpc_on_peer(struct hm_rpc *rpc, void (*up)(void *arg, struct hm_peer *peer),
                    void (*down)(void *arg, struct hm_peer *peer, enum hm_status why), void *arg)
{
    rpc->up = up;
    rpc->down = down;
    rpc->up_arg = arg;
}

enum hm_status hm_rpc_serve(struct hm_rpc *rpc, const struct hm_method *methods, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (methods[i].id < HM_METHOD_DHT_FIND || methods[i].id >= HM_RPC_METHOD_IDS ||
            rpc->method[methods[i].id])
            return hm_fail(HM_ERR_INVALID, "method %u (%s) is taken or outside %d to %d",
                           methods[i].id, methods[i].name, HM_METHOD_DHT_FIND,
                           HM_RPC_METHOD_IDS - 1);
    for (unsigned i = 0; i < count; i++) rpc->method[methods[i].id] = &methods[i];
    return HM_OK;
}

void hm_rpc_unserve(struct hm_rpc *rpc, const struct hm_method *methods, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        HM_ASSERT(rpc->method[methods[i].id] == &methods[i]);
        rpc->method[methods[i].id] = NULL;
    }
    struct hm_link *heads[] = {&rpc->requests, &rpc->requests_gone};
    for (size_t i = 0; i < HM_COUNT_OF(heads); i++)
        HM_LIST_EACH (link, heads[i]) {
            const struct hm_method *used = HM_CONTAINER_OF(link, struct hm_request, link)->method;
            HM_ASSERT(used < methods || used >= methods + count);
        }
}
