/* cli/beat.c - a trainer's calls to every server of its launch.
 *
 * Owns:   a peer and one call a server, on the node's loop.
 * Happy:  every 100 ms until all serve, then every second; at the end 100 ms again until all know.
 * Fails:  a server that does not answer is asked again; who waits has a deadline of its own.
 * Keeps:  one call in flight a server, and memory until the last has ended. */
#include "cli/beat.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { VERSION = 1, STATE_TRAINING = 1, STATE_DONE = 2, HEADER_BYTES = 2 };
static const hm_ns interval_short = 100 * HM_MS, interval_long = HM_S, call_max = 2 * HM_S,
                   goodbye_max = 2 * HM_S;

struct beat_line { /* to one server */
    struct beat *beat;
    struct hm_peer *peer;
    struct hm_call call;
    uint8_t header[HEADER_BYTES];
    bool in_flight, serving, told;
};
struct beat {
    struct hm_node *node;
    struct hm_timer timer;
    struct hm_wait *ending; /* set once ending */
    unsigned line_count, in_flight;
    atomic_uint serving, told;
    atomic_bool done; /* the training is */
    struct beat_line line[];
};

static void end_if_idle(struct beat *beat)
{
    if (!beat->ending || beat->in_flight > 0) return;
    for (unsigned i = 0; i < beat->line_count; i++)
        if (beat->line[i].peer) hm_peer_put(beat->line[i].peer);
    hm_wait_end(beat->ending, HM_OK);
}

static void replied(struct hm_call *call, enum hm_status status, const void *header,
                    size_t header_bytes, struct hm_inbound *in)
{
    struct beat_line *line = call->arg;
    const uint8_t *byte = header;
    hm_inbound_drop(in);
    if (status || header_bytes < HEADER_BYTES || byte[0] != VERSION) return;
    if (byte[1] == 1 && !line->serving) {
        line->serving = true;
        atomic_fetch_add(&line->beat->serving, 1);
    }
    if (line->header[1] == STATE_DONE && !line->told) {
        line->told = true;
        atomic_fetch_add(&line->beat->told, 1);
    }
}

static void ended(struct hm_call *call, enum hm_status status)
{
    struct beat_line *line = call->arg;
    (void)status;
    line->in_flight = false;
    line->beat->in_flight--;
    end_if_idle(line->beat);
}

static void tick(struct hm_timer *timer)
{
    struct beat *beat = timer->arg;
    struct hm_loop *loop = beat->node->loop;
    bool done = atomic_load(&beat->done);
    for (unsigned i = 0; i < beat->line_count; i++) {
        struct beat_line *line = &beat->line[i];
        if (!line->peer || line->in_flight || line->told) continue;
        line->header[0] = VERSION;
        line->header[1] = done ? STATE_DONE : STATE_TRAINING;
        line->call = (struct hm_call){.method = HM_METHOD_LAUNCH_BEAT,
                                      .deadline = hm_deadline_after(loop, call_max),
                                      .header = line->header,
                                      .header_bytes = HEADER_BYTES,
                                      .reply = replied,
                                      .end = ended,
                                      .arg = line};
        if (hm_rpc_call(line->peer, &line->call)) continue; /* away or busy: at the next tick */
        line->in_flight = true;
        beat->in_flight++;
    }
    bool hurry = done || atomic_load(&beat->serving) < beat->line_count;
    hm_timer_start(loop, timer, hurry ? interval_short : interval_long);
}

struct start_op {
    struct beat *beat;
    const struct beat_node *servers;
};

static void start_on_loop(struct hm_wait *wait, void *arg)
{
    struct start_op *op = arg;
    struct beat *beat = op->beat;
    enum hm_status status = HM_OK;
    for (unsigned i = 0; i < beat->line_count && !status; i++) {
        beat->line[i].beat = beat;
        status = hm_peer_get(beat->node->rpc, &op->servers[i].id, &op->servers[i].addrs,
                             &beat->line[i].peer);
    }
    for (unsigned i = 0; i < beat->line_count && status; i++)
        if (beat->line[i].peer) hm_peer_put(beat->line[i].peer);
    beat->timer = (struct hm_timer){.cb = tick, .arg = beat};
    if (!status) hm_timer_start(beat->node->loop, &beat->timer, 0);
    hm_wait_end(wait, status);
}

enum hm_status beat_start(struct hm_node *node, const struct beat_node *servers, unsigned count,
                          struct beat **out)
{
    struct beat *beat = calloc(1, sizeof(*beat) + count * sizeof(beat->line[0]));
    if (!beat) return HM_ERR_NO_MEMORY;
    beat->node = node;
    beat->line_count = count;
    enum hm_status status =
        hm_node_run(node, start_on_loop, &(struct start_op){.beat = beat, .servers = servers});
    if (status) {
        free(beat);
        return status;
    }
    *out = beat;
    return HM_OK;
}

unsigned beat_await(struct beat *beat, const struct cli_stop *stop, hm_ns timeout)
{
    hm_ns end = hm_thread_clock() + timeout;
    while (atomic_load(&beat->serving) < beat->line_count && !cli_stop_asked(stop) &&
           hm_thread_clock() < end)
        hm_thread_sleep(5 * HM_MS);
    return atomic_load(&beat->serving);
}

static void end_on_loop(struct hm_wait *wait, void *arg)
{
    struct beat *beat = arg;
    hm_timer_stop(beat->node->loop, &beat->timer);
    beat->ending = wait;
    for (unsigned i = 0; i < beat->line_count; i++)
        if (beat->line[i].in_flight) hm_rpc_cancel(&beat->line[i].call);
    end_if_idle(beat);
}

static void hurry_on_loop(struct hm_wait *wait, void *arg)
{
    struct beat *beat = arg;
    hm_timer_start(beat->node->loop, &beat->timer, 0);
    hm_wait_end(wait, HM_OK);
}

void beat_end(struct beat *beat)
{
    if (!beat) return;
    hm_ns end = hm_thread_clock() + goodbye_max;
    atomic_store(&beat->done, true);
    enum hm_status status = hm_node_run(beat->node, hurry_on_loop, beat);
    while (!status && atomic_load(&beat->told) < beat->line_count && hm_thread_clock() < end)
        hm_thread_sleep(5 * HM_MS);
    status = hm_node_run(beat->node, end_on_loop, beat);
    HM_ASSERT(status == HM_OK);
    free(beat);
}
