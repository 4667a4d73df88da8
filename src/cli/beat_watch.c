/* cli/beat_watch.c - a server of a launch hears its trainers, and ends when they have.
 *
 * Owns:   the method HM_METHOD_LAUNCH_BEAT of its node, a row a trainer, a timer.
 * Happy:  a trainer calls now and then; says "done"; once all have, the server is asked to stop.
 * Fails:  a trainer that is silent for too long counts as done: it was killed, or its node was.
 * Keeps:  only trainers of the launch count; the clock starts when this server serves. */
#include "cli/beat.h"

#include "base/log.h"

#include <stdlib.h>

enum { VERSION = 1, STATE_DONE = 2, HEADER_BYTES = 2 };
static const hm_ns look_interval = 200 * HM_MS;

struct trainer {
    struct hm_node_id id;
    hm_ns heard; /* on the loop's clock */
    bool done;
};
struct beat_watch {
    struct hm_node *node;
    struct hm_method method;
    struct hm_timer timer;
    struct cli_stop *stop; /* NULL: not serving yet */
    hm_ns silence_max;
    unsigned trainer_count;
    struct trainer trainer[];
};

static void handle(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                   struct hm_inbound *in)
{
    struct beat_watch *watch = arg;
    const uint8_t *byte = header;
    struct trainer *trainer = NULL;
    hm_inbound_drop(in);
    for (unsigned i = 0; i < watch->trainer_count && !trainer; i++)
        if (hm_node_id_equal(&watch->trainer[i].id, hm_request_from(request)))
            trainer = &watch->trainer[i];
    if (!trainer || header_bytes < HEADER_BYTES || byte[0] != VERSION) {
        hm_request_reply(request, true, trainer ? HM_ERR_PEER_PROTOCOL : HM_ERR_PEER_DENIED, NULL,
                         0, NULL, 0);
        return;
    }
    trainer->heard = hm_loop_now(watch->node->loop);
    trainer->done = trainer->done || byte[1] == STATE_DONE;
    const uint8_t reply[HEADER_BYTES] = {VERSION, watch->stop != NULL};
    hm_request_reply(request, true, HM_OK, reply, sizeof(reply), NULL, 0);
}

static void look(struct hm_timer *timer)
{
    struct beat_watch *watch = timer->arg;
    hm_ns now = hm_loop_now(watch->node->loop);
    unsigned over = 0;
    for (unsigned i = 0; i < watch->trainer_count; i++) {
        struct trainer *trainer = &watch->trainer[i];
        if (!trainer->done && now - trainer->heard > watch->silence_max) {
            char id[HM_NODE_ID_TEXT_BYTES];
            hm_log(HM_LOG_WARN, "swarm",
                   "trainer %.16s has been silent for %.0f s: the job goes on without it",
                   hm_node_id_text(&trainer->id, id), (double)watch->silence_max / 1e9);
            trainer->done = true;
        }
        over += trainer->done;
    }
    if (over == watch->trainer_count)
        cli_stop_ask(watch->stop);
    else
        hm_timer_start(watch->node->loop, timer, look_interval);
}

static void start_on_loop(struct hm_wait *wait, void *arg)
{
    struct beat_watch *watch = arg;
    hm_wait_end(wait, hm_rpc_serve(watch->node->rpc, &watch->method, 1));
}

enum hm_status beat_watch_start(struct hm_node *node, const struct beat_node *trainers,
                                unsigned count, hm_ns silence_max, struct beat_watch **out)
{
    struct beat_watch *watch = calloc(1, sizeof(*watch) + count * sizeof(watch->trainer[0]));
    if (!watch) return HM_ERR_NO_MEMORY;
    watch->node = node;
    watch->silence_max = silence_max;
    watch->trainer_count = count;
    for (unsigned i = 0; i < count; i++) watch->trainer[i].id = trainers[i].id;
    watch->method = (struct hm_method){
        .id = HM_METHOD_LAUNCH_BEAT, .name = "launch_beat", .handle = handle, .arg = watch};
    enum hm_status status = hm_node_run(node, start_on_loop, watch);
    if (status) {
        free(watch);
        return status;
    }
    *out = watch;
    return HM_OK;
}

struct serving_op {
    struct beat_watch *watch;
    struct cli_stop *stop;
};

static void serving_on_loop(struct hm_wait *wait, void *arg)
{
    struct serving_op *op = arg;
    struct beat_watch *watch = op->watch;
    watch->stop = op->stop;
    for (unsigned i = 0; i < watch->trainer_count; i++)
        watch->trainer[i].heard = hm_loop_now(watch->node->loop);
    watch->timer = (struct hm_timer){.cb = look, .arg = watch};
    if (watch->trainer_count > 0) hm_timer_start(watch->node->loop, &watch->timer, look_interval);
    hm_wait_end(wait, HM_OK);
}

void beat_watch_serving(struct beat_watch *watch, struct cli_stop *stop)
{
    enum hm_status status = hm_node_run(watch->node, serving_on_loop,
                                        &(struct serving_op){.watch = watch, .stop = stop});
    HM_ASSERT(status == HM_OK);
}

static void end_on_loop(struct hm_wait *wait, void *arg)
{
    struct beat_watch *watch = arg;
    hm_timer_stop(watch->node->loop, &watch->timer);
    hm_rpc_unserve(watch->node->rpc, &watch->method, 1);
    hm_wait_end(wait, HM_OK);
}

void beat_watch_end(struct beat_watch *watch)
{
    if (!watch) return;
    enum hm_status status = hm_node_run(watch->node, end_on_loop, watch);
    HM_ASSERT(status == HM_OK);
    free(watch);
}
