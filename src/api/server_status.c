/* api/server_status.c - what servers say of themselves (HM_METHOD_SERVER_STATUS), all asked at once.
 *
 *   ask ──► peer ──► call ──► reply ──► pull ──► one JSON value, or nothing
 *
 * A server that cannot be reached, is late, or answers anything else leaves a NULL. */
#include "api/swarm.h"

#include <stdlib.h>
#include <string.h>

enum { STATUS_BYTES_MAX = 1 << 20 };

struct asking {
    struct hm_node *node;
    struct hm_swarm *swarm;
    struct hm_wait *wait;
    hm_ns timeout;
    struct one *one;
    unsigned left;
};
struct one {
    struct asking *asking;
    struct hm_peer *peer;
    struct hm_call call;
    struct hm_buf *buf; /* being pulled, or pulled */
    bool ended, pulling;
};

static void settle(struct one *one)
{
    struct asking *asking = one->asking;
    if (!one->ended || one->pulling) return;
    if (one->peer) hm_peer_put(one->peer);
    hm_buf_put(one->buf);
    if (--asking->left == 0) hm_wait_end(asking->wait, HM_OK);
}

static void pulled(void *arg, enum hm_status status)
{
    struct one *one = arg;
    struct asking *asking = one->asking;
    one->pulling = false;
    if (!status && hm_json_valid(one->buf->base, one->buf->bytes))
        asking->swarm->server_status[one - asking->one] =
            strndup(one->buf->base, one->buf->bytes); /* NULL: as if it had not answered */
    settle(one);
}

static void reply(struct hm_call *call, enum hm_status status, const void *header,
                  size_t header_bytes, struct hm_inbound *in)
{
    struct one *one = call->arg;
    struct hm_buf_pool *buffers = one->asking->node->buffers;
    (void)header, (void)header_bytes;
    if (status || one->buf || in->bytes == 0 || in->bytes > STATUS_BYTES_MAX ||
        hm_buf_pool_get(buffers, in->bytes, &one->buf)) {
        hm_inbound_drop(in);
        return;
    }
    struct hm_span into = hm_buf_span(one->buf);
    one->pulling = hm_inbound_pull(in, &into, pulled, one) == HM_OK;
}

static void ended(struct hm_call *call, enum hm_status status)
{
    struct one *one = call->arg;
    (void)status; /* without a reply there is nothing to show */
    one->ended = true;
    settle(one);
}

static void ask(struct asking *asking, unsigned index)
{
    struct one *one = &asking->one[index];
    const struct hm_server_info *server = &asking->swarm->server[index];
    struct hm_node *node = asking->node;
    *one = (struct one){.asking = asking};
    one->call = (struct hm_call){.method = HM_METHOD_SERVER_STATUS,
                                 .deadline = hm_deadline_after(node->loop, asking->timeout),
                                 .reply = reply,
                                 .end = ended,
                                 .arg = one};
    if (server->addrs.count == 0 ||
        hm_peer_get(node->rpc, &server->node, &server->addrs, &one->peer)) {
        one->peer = NULL;
        one->ended = true;
    } else if (hm_rpc_call(one->peer, &one->call)) {
        one->ended = true;
    }
}

static void ask_on_loop(struct hm_wait *wait, void *arg)
{
    struct asking *asking = arg;
    unsigned count = asking->swarm->server_count;
    asking->wait = wait;
    asking->left = count + 1; /* one is ours, so that it does not end in between */
    for (unsigned i = 0; i < count; i++) ask(asking, i);
    for (unsigned i = 0; i < count; i++)
        if (asking->one[i].ended) settle(&asking->one[i]);
    if (--asking->left == 0) hm_wait_end(wait, HM_OK);
}

enum hm_status hm_swarm_ask_servers(struct hm_node *node, hm_ns timeout, struct hm_swarm *swarm)
{
    HM_ASSERT(!swarm->server_status);
    struct asking asking = {.node = node, .swarm = swarm, .timeout = timeout};
    asking.one = calloc(swarm->server_count + 1, sizeof(*asking.one));
    swarm->server_status = calloc(swarm->server_count + 1, sizeof(char *));
    enum hm_status status = HM_ERR_NO_MEMORY;
    if (asking.one && swarm->server_status) status = hm_node_run(node, ask_on_loop, &asking);
    free(asking.one);
    return status;
}
