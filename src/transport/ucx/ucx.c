/* transport/ucx/ucx.c - the fabric plane as a provider: the transport itself.
 *
 * Owns:      the pools of sends, operations and inbounds, the endpoints' table, the hook that drives
 *            the worker, and the turn: what must not happen inside a user's call or UCX's.
 * Happy path: open, offer and accept, messages, close.
 * Waking:    the worker is progressed in the loop's before-sleep hook, then armed, and its
 *            descriptor watched.  It is armed for arrivals only: with sends in mind UCX says BUSY as
 *            long as anything waits for a peer's queue, which may be for ever (the peer is stopped).
 *            So while operations are in UCX's hands the hook looks again by itself: at once a while
 *            (giving the processor away, or a peer on the same core never gets to empty its queue),
 *            then by a timer that gets slower.  After a message went or came it looks on for as long
 *            as a sleep would cost.  While pieces are due it looks a while, too: whoever
 *            sleeps between two of them costs the sender a system call and a wake-up for each.
 * Failure:   open gives a status with a line and leaves nothing behind.
 * Invariant: UCX is entered from the thread that runs the loop only, and progressed in the hook only. */
#include "transport/ucx/ucx.h"

#include "base/module.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_OBJECTS = 16,
    PROGRESS_MAX = 16,   /* calls in a look; each brings up to 16 messages */
    LOOKS_A_CLOCK = 16,  /* or as much work: then the loop is asked whether we may stay */
    VAIN_LOOK = 4,       /* the work of one that finds nothing: others may have had the processor */
    YIELD_AFTER = 3,     /* looks in a row without anything */
    PIECE_LOOKS = 8,     /* in vain for the next piece, without giving way: it is on its way */
    PIECE_YIELDS = 64,   /* and so many that do: the sender has others, or needs this processor */
    IDLE_YIELDS = 200,   /* looks in a row for what does not move, before we sleep */
    ARM_BUSY_MAX = 2000, /* somebody died while he wrote into our queue: do not burn the core */
};
#define LINGER_NS   (50 * HM_US)  /* as long as a sleep and a wake-up take */
#define STAY_NS     (100 * HM_US) /* in the hook, while others wait for their descriptors */
#define POLL_NS_MIN (50 * HM_US)
#define POLL_NS_MAX (5 * HM_MS)

/* ---- pools --------------------------------------------------------------------------------- */

struct chunk {
    struct hm_link link;
    max_align_t objects[];
};

static struct hm_link *pool_get(struct ucx *ucx, struct hm_link *spare, size_t object_bytes,
                                size_t link_offset)
{
    struct hm_link *link = hm_list_pop(spare);
    if (link) return link;
    struct chunk *chunk = malloc(sizeof *chunk + CHUNK_OBJECTS * object_bytes);
    if (!chunk) return NULL;
    hm_list_push(&ucx->chunks, &chunk->link);
    for (size_t i = 0; i < CHUNK_OBJECTS; i++)
        hm_list_push_front(
            spare, (struct hm_link *)((char *)chunk->objects + i * object_bytes + link_offset));
    return hm_list_pop(spare);
}

struct ucx_send *hm_ucx_send_get(struct ucx *ucx)
{
    struct hm_link *link =
        pool_get(ucx, &ucx->spare_sends, sizeof(struct ucx_send), offsetof(struct ucx_send, link));
    if (!link) return NULL;
    return HM_CONTAINER_OF(link, struct ucx_send, link);
}

void hm_ucx_send_put(struct ucx *ucx, struct ucx_send *send)
{
    hm_list_push_front(&ucx->spare_sends, &send->link);
}

struct ucx_op *hm_ucx_op_get(struct ucx *ucx)
{
    struct hm_link *link =
        pool_get(ucx, &ucx->spare_ops, sizeof(struct ucx_op), offsetof(struct ucx_op, link));
    if (!link) return NULL;
    return HM_CONTAINER_OF(link, struct ucx_op, link);
}

void hm_ucx_op_put(struct ucx *ucx, struct ucx_op *op)
{
    hm_list_push_front(&ucx->spare_ops, &op->link);
}

struct ucx_inbound *hm_ucx_inbound_get(struct ucx *ucx)
{
    struct hm_link *link = pool_get(ucx, &ucx->spare_inbounds, sizeof(struct ucx_inbound),
                                    offsetof(struct ucx_inbound, link));
    if (!link) return NULL;
    return HM_CONTAINER_OF(link, struct ucx_inbound, link);
}

void hm_ucx_inbound_put(struct ucx *ucx, struct ucx_inbound *in)
{
    hm_list_push_front(&ucx->spare_inbounds, &in->link);
}

/* ---- the hook ------------------------------------------------------------------------------ */

void hm_ucx_turn_soon(struct ucx_ep *ep)
{
    if (ep->state != UCX_GONE && !hm_list_linked(&ep->turn_link))
        hm_list_push(&ep->ucx->turn_eps, &ep->turn_link);
}

/* What is asked for during this turn waits for the next. */
static unsigned turn(struct ucx *ucx)
{
    struct hm_link now, *link;
    unsigned count = 0;
    if (hm_list_empty(&ucx->turn_eps)) return 0;
    hm_list_init(&now);
    while ((link = hm_list_pop(&ucx->turn_eps)) != NULL) hm_list_push(&now, link);
    while ((link = hm_list_pop(&now)) != NULL) {
        hm_ucx_ep_turn(HM_CONTAINER_OF(link, struct ucx_ep, turn_link));
        count++;
    }
    return count;
}

static void ucx_free(struct ucx *ucx)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&ucx->chunks)) != NULL)
        free(HM_CONTAINER_OF(link, struct chunk, link));
    hm_buf_pool_destroy(ucx->pool);
    free(ucx->slot);
    free(ucx);
}

static void close_finish(struct ucx *ucx)
{
    struct hm_loop *loop = ucx->loop;
    loop->ops->unhook(loop, &ucx->hook);
    hm_timer_stop(loop, &ucx->poll);
    (void)!loop->ops->watch(loop, &ucx->watch, 0);
    struct hm_metric *metric = &ucx->metrics.messages_sent;
    for (size_t i = 0; i < sizeof ucx->metrics / sizeof *metric; i++)
        if (metric[i].link.next) hm_metrics_remove(&metric[i]);
    hm_ucx_context_close(ucx);
    void (*done)(void *arg) = ucx->close_done;
    void *arg = ucx->close_arg;
    ucx_free(ucx);
    if (done) done(arg);
}

static void poll_later(struct ucx *ucx)
{
    unsigned slower = ucx->idle - IDLE_YIELDS;
    hm_ns after = POLL_NS_MIN << (slower / 8 < 8 ? slower / 8 : 8);
    if (!hm_timer_active(&ucx->poll))
        hm_timer_start(ucx->loop, &ucx->poll, after < POLL_NS_MAX ? after : POLL_NS_MAX);
}

static void on_poll(struct hm_timer *timer)
{
    (void)timer; /* the loop is awake: the hook looks */
}

static bool lingers(struct ucx *ucx)
{
    return hm_linger(&ucx->linger, ucx->metrics.messages_sent.value,
                     ucx->metrics.messages_received.value, LINGER_NS, hm_loop_now(ucx->loop));
}

/* Nothing has moved.  May the loop sleep? */
static bool settle(struct ucx *ucx)
{
    if (ucx->pulling > 0 && ucx->piece_looks < PIECE_LOOKS + PIECE_YIELDS) {
        if (++ucx->piece_looks > PIECE_LOOKS) sched_yield();
        return false;
    }
    if (!ucx->busy_poll && lingers(ucx)) {
        sched_yield(); /* whoever else wants this processor has it */
        return false;
    }
    ucx->idle++;
    if (ucx->busy_poll) return false;
    bool waits = ucx->wire_ops > 0 && ucx->idle < IDLE_YIELDS;
    if (waits || ucp_worker_arm(ucx->worker) == UCS_ERR_BUSY) {
        if (ucx->idle > YIELD_AFTER) sched_yield();
        if (ucx->idle < ARM_BUSY_MAX) return false;
        poll_later(ucx);
        return true;
    }
    if (ucx->wire_ops > 0)
        poll_later(ucx);
    else
        ucx->idle = 0;
    return true;
}

/* One look: what has come, and what follows from it. */
static unsigned look(struct ucx *ucx)
{
    unsigned moved = 0, count;
    for (unsigned i = 0; i < PROGRESS_MAX; i++, moved += count)
        if ((count = ucp_worker_progress(ucx->worker)) == 0) break;
    return moved + turn(ucx);
}

/* A round of the loop costs as much as several messages, so the hook looks again by itself as long
 * as nobody else has something to do. */
static bool before_sleep(struct hm_hook *hook)
{
    struct ucx *ucx = hook->arg;
    struct hm_loop *loop = ucx->loop;
    hm_ns begin = hm_loop_now(loop);
    for (unsigned work = 0;;) {
        unsigned moved = look(ucx);
        if (ucx->closing && hm_list_empty(&ucx->eps)) {
            close_finish(ucx);
            return false; /* done may have changed anything */
        }
        if (loop->leaving && hm_list_empty(&ucx->turn_eps)) return false;
        if (moved > 0 || !hm_list_empty(&ucx->turn_eps)) {
            ucx->idle = 0;
        } else {
            if (!loop->ops->stay(loop)) return false; /* it does not sleep: no need to arm */
            if (settle(ucx)) return true;
        }
        work += moved > 0 ? 1 + moved : VAIN_LOOK;
        if (work < LOOKS_A_CLOCK) continue;
        work = 0;
        if (!loop->ops->stay(loop) || hm_loop_now(loop) - begin > STAY_NS) return false;
    }
}

static void on_event(struct hm_watch *watch, int events)
{
    (void)watch;
    (void)events; /* the hook does the work, before the loop sleeps again */
}

/* ---- open and close ------------------------------------------------------------------------ */

static void metrics_add(struct ucx *ucx, struct hm_metrics *metrics)
{
    static const struct {
        const char *name, *help;
        enum hm_metric_kind kind;
    } row[] = {
        {"ucx.messages_sent", "messages given to UCX", HM_COUNTER},
        {"ucx.messages_received", "messages delivered", HM_COUNTER},
        {"ucx.bytes_sent", "payload bytes given to UCX", HM_COUNTER},
        {"ucx.bytes_received", "payload bytes that arrived", HM_COUNTER},
        {"ucx.bytes_copied", "bytes of payloads copied out of what UCX has received", HM_COUNTER},
        {"ucx.endpoints", "endpoints, those not up included", HM_GAUGE},
        {"ucx.ups", "endpoints that came up", HM_COUNTER},
        {"ucx.stale", "messages dropped for their token", HM_COUNTER},
        {"ucx.broken", "endpoints that UCX gave up", HM_COUNTER},
        {"ucx.failures_protocol", "endpoints closed for breaking a bound", HM_COUNTER},
    };
    struct hm_metric *metric = &ucx->metrics.messages_sent;
    _Static_assert(sizeof ucx->metrics == HM_COUNT_OF(row) * sizeof *metric, "a row a metric");
    for (size_t i = 0; i < HM_COUNT_OF(row); i++) {
        metric[i].name = row[i].name;
        metric[i].help = row[i].help;
        metric[i].kind = row[i].kind;
        if (metrics) hm_metrics_add(metrics, &metric[i]);
    }
}

/* Every eager byte that every peer may have in flight to us, and twice as much for headers and for
 * rounding (4,097 bytes and 1 KiB of header may get a buffer of 10 KiB): memory is taken as it is used. */
static size_t pool_bytes_max(const struct ucx *ucx)
{
    const size_t ceiling = (size_t)1 << 44;
    size_t each = ucx->receive_bytes_max < ceiling ? 3 * ucx->receive_bytes_max : ceiling;
    return each > ceiling / ucx->endpoints_max ? ceiling : each * ucx->endpoints_max;
}

static struct ucx *ucx_make(const struct hm_transport_conf *conf, struct hm_loop *loop,
                            const struct hm_transport_sink *sink)
{
    struct ucx *ucx = calloc(1, sizeof *ucx);
    if (!ucx) return NULL;
    ucx->base.ops = &hm_ucx_ops;
    ucx->loop = loop;
    ucx->sink = *sink;
    ucx->endpoints_max =
        conf->endpoints_max < UCX_ENDPOINTS_MAX ? conf->endpoints_max : UCX_ENDPOINTS_MAX;
    ucx->receive_bytes_max = conf->receive_bytes_max;
    ucx->handshake_max = conf->handshake_max;
    ucx->watch = (struct hm_watch){.fd = -1, .cb = on_event, .arg = ucx};
    ucx->hook = (struct hm_hook){.before_sleep = before_sleep, .arg = ucx};
    ucx->poll = (struct hm_timer){.cb = on_poll, .arg = ucx};
    struct hm_link *const lists[] = {&ucx->eps,       &ucx->turn_eps,       &ucx->spare_sends,
                                     &ucx->spare_ops, &ucx->spare_inbounds, &ucx->chunks};
    for (size_t i = 0; i < HM_COUNT_OF(lists); i++) hm_list_init(lists[i]);
    /* Twice as many places as endpoints: those that are down may still be in UCX's hands. */
    ucx->slot = calloc((size_t)2 * ucx->endpoints_max, sizeof *ucx->slot);
    if (ucx->slot && hm_buf_pool_create(pool_bytes_max(ucx), &ucx->pool) == HM_OK) return ucx;
    free(ucx->slot);
    free(ucx);
    return NULL;
}

static enum hm_status ucx_open(const struct hm_transport_conf *conf, struct hm_loop *loop,
                               const struct hm_transport_sink *sink,
                               struct hm_transport **transport)
{
    static const struct hm_ucx_options standard;
    HM_ASSERT(conf->endpoints_max > 0 && conf->handshake_max > 0);
    struct ucx *ucx = ucx_make(conf, loop, sink);
    if (!ucx) return hm_fail(HM_ERR_NO_MEMORY, "no memory for the ucx transport");
    enum hm_status status = hm_ucx_context_open(ucx, conf->world ? conf->world : &standard);
    if (status != HM_OK) goto free_ucx;
    status = hm_ucx_receive_register(ucx);
    if (status != HM_OK) goto close_context;
    ucs_status_t got = ucp_worker_get_efd(ucx->worker, &ucx->watch.fd);
    if (got != UCS_OK) {
        status = hm_fail(HM_ERR_UNSUPPORTED, "UCX has no wake-up here: %s", ucs_status_string(got));
        goto close_context;
    }
    status = loop->ops->watch(loop, &ucx->watch, HM_READABLE);
    if (status != HM_OK) goto close_context;
    loop->ops->hook(loop, &ucx->hook);
    metrics_add(ucx, conf->metrics);
    *transport = &ucx->base;
    return HM_OK;

close_context:
    hm_ucx_context_close(ucx);
free_ucx:
    ucx_free(ucx);
    return status;
}

static void ucx_close(struct hm_transport *base, void (*done)(void *arg), void *arg)
{
    struct ucx *ucx = ucx_of(base);
    HM_ASSERT(!ucx->closing);
    ucx->closing = true;
    ucx->close_done = done;
    ucx->close_arg = arg;
    HM_LIST_EACH_SAFE (link, &ucx->eps) {
        struct ucx_ep *ep = HM_CONTAINER_OF(link, struct ucx_ep, link);
        hm_ucx_ep_fail(ep, HM_ERR_CANCELED);
        if (ep->state == UCX_GONE) hm_ucx_ep_close_now(ep);
    }
    /* The hook ends it; the loop may be asleep. */
    hm_timer_start(ucx->loop, &ucx->poll, 0);
}

/* ---- the rest of the vtable ---------------------------------------------------------------- */

static void ucx_caps(struct hm_transport *base, struct hm_transport_caps *caps)
{
    struct ucx *ucx = ucx_of(base);
    /* By rendezvous UCX, or a network card, holds on to memory for as long as the other side takes. */
    *caps = (struct hm_transport_caps){.eager_bytes_max = UCX_EAGER_BYTES_MAX,
                                       .sends_lent = !ucx->rendezvous,
                                       .pulls_lent = !ucx->rendezvous};
    memcpy(caps->memory, ucx->memory, sizeof caps->memory);
}

static enum hm_status ucx_address(struct hm_transport *base, struct hm_addrs *addrs)
{
    (void)base;
    (void)addrs;
    return HM_ERR_NOT_FOUND;
}

static enum hm_status ucx_connect(struct hm_transport *base, const struct hm_addr *to,
                                  const struct hm_node_id *expect, struct hm_ep **connected)
{
    (void)base;
    (void)expect;
    (void)connected;
    return hm_fail(HM_ERR_UNSUPPORTED, "'%s': ucx has no addresses to dial; peers on tcp offer it",
                   to->text);
}

static void ucx_disconnect(struct hm_ep *base)
{
    hm_ucx_ep_fail(ucx_ep_of(base), HM_ERR_CANCELED);
}

const struct hm_transport_ops hm_ucx_ops = {
    .name = "ucx",
    .open = ucx_open,
    .close = ucx_close,
    .caps = ucx_caps,
    .address = ucx_address,
    .connect = ucx_connect,
    .disconnect = ucx_disconnect,
    .send = hm_ucx_send,
    .pull = hm_ucx_pull,
    .drop = hm_ucx_drop,
    .fabric = &hm_ucx_fabric,
};

HM_MODULE("ucx", &hm_ucx_ops);
