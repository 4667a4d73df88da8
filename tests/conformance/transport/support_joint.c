/* The transport made of two; test code of the suite, see the header. */
#include "support_joint.h"
#include "support_networks.h"

#include "base/assert.h"
#include "base/list.h"

#include <stdlib.h>
#include <string.h>

struct joint_parts joint_parts;

struct joint {
    struct hm_transport base;
    struct hm_transport *control, *fabric;
    struct hm_transport_sink sink;
    unsigned network;  /* of the fabric's sockets */
    unsigned closings; /* halves that are not closed yet */
    void (*done)(void *arg);
    void *done_arg;
};

struct joint_ep {
    struct hm_ep base;
    struct joint *joint;
    struct hm_ep *control, *fabric;
    bool known, up, ending, unsaid; /* unsaid: the offer has met BUSY */
    enum hm_status why;
    struct hm_node_id node;
    struct hm_hello hello;
    struct hm_fabric_offer ours;
};

static struct joint *joint_of(struct hm_transport *base)
{
    return HM_CONTAINER_OF(base, struct joint, base);
}

/* Around whatever may make a socket of the fabric. */
static unsigned enter(const struct joint *joint)
{
    return joint_parts.networks ? networks_enter(joint->network) : 0;
}
static void leave(unsigned was)
{
    if (joint_parts.networks) (void)networks_enter(was);
}

static struct joint_ep *ep_create(struct joint *joint, struct hm_ep *control)
{
    struct joint_ep *ep = calloc(1, sizeof *ep);
    HM_ASSERT(ep);
    ep->base.transport = &joint->base;
    ep->joint = joint;
    ep->control = control;
    control->user = ep;
    return ep;
}

static void end(struct joint_ep *ep, enum hm_status why)
{
    if (!ep->ending) ep->why = why;
    ep->ending = true;
    ep->up = false;
    if (ep->control) joint_parts.control->disconnect(ep->control);
    if (!ep->fabric) return;
    if (ep->why == HM_ERR_CANCELED)
        joint_parts.fabric->disconnect(ep->fabric);
    else
        joint_parts.fabric->fabric->lost(ep->fabric, ep->why);
}

static void half_down(struct joint_ep *ep, enum hm_status why)
{
    end(ep, why);
    if (ep->control || ep->fabric) return;
    if (ep->known) ep->joint->sink.down(ep->joint->sink.arg, &ep->base, ep->why);
    free(ep);
}

/* ---- control --------------------------------------------------------------------------------- */

static void offer_say(struct joint_ep *ep)
{
    uint8_t bytes[HM_FABRIC_OFFER_BYTES_MAX];
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_fabric_offer_encode(&ep->ours, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    static struct hm_buf_pool *pool;
    struct hm_buf *buf;
    if (!pool) HM_ASSERT(hm_buf_pool_create(16 << 20, &pool) == HM_OK);
    HM_ASSERT(hm_buf_pool_get(pool, hm_writer_count(&writer), &buf) == HM_OK);
    memcpy(buf->base, bytes, hm_writer_count(&writer));
    struct hm_span span = hm_buf_span(buf);
    enum hm_status status =
        joint_parts.control->send(ep->control, "offer", 5, &span, 1, NULL, NULL);
    hm_buf_put(buf);
    ep->unsaid = status == HM_ERR_BUSY;
    if (status != HM_OK && !ep->unsaid) end(ep, status);
}

static void control_up(void *arg, struct hm_ep *control, const struct hm_node_id *node,
                       const struct hm_hello *hello)
{
    struct joint *joint = arg;
    struct joint_ep *ep = control->user ? control->user : ep_create(joint, control);
    ep->node = *node;
    ep->hello = *hello;
    if (ep->ending) return;
    unsigned was = enter(joint);
    enum hm_status status =
        joint_parts.fabric->fabric->offer(joint->fabric, node, &ep->ours, &ep->fabric);
    leave(was);
    if (status != HM_OK) {
        end(ep, status);
        return;
    }
    ep->fabric->user = ep;
    offer_say(ep);
}

static void control_message(void *arg, struct hm_ep *control, const void *header,
                            size_t header_bytes, struct hm_inbound *in)
{
    struct joint_ep *ep = control->user;
    struct hm_fabric_offer theirs;
    (void)arg;
    (void)header;
    HM_ASSERT(header_bytes == 5 && in->data);
    enum hm_status status = hm_fabric_offer_decode(in->data, in->bytes, &theirs);
    hm_inbound_drop(in);
    unsigned was = enter(ep->joint);
    if (status == HM_OK && ep->fabric)
        status = joint_parts.fabric->fabric->accept(ep->fabric, &theirs);
    leave(was);
    if (status != HM_OK) end(ep, status);
}

static void control_writable(void *arg, struct hm_ep *control)
{
    struct joint_ep *ep = control->user;
    (void)arg;
    if (ep->unsaid) offer_say(ep);
}

static void control_down(void *arg, struct hm_ep *control, enum hm_status why)
{
    struct joint_ep *ep = control->user;
    (void)arg;
    ep->control = NULL;
    half_down(ep, why);
}

/* ---- fabric ---------------------------------------------------------------------------------- */

static void fabric_up(void *arg, struct hm_ep *fabric, const struct hm_node_id *node,
                      const struct hm_hello *hello)
{
    struct joint *joint = arg;
    struct joint_ep *ep = fabric->user;
    HM_ASSERT(!hello && hm_node_id_equal(node, &ep->node));
    if (ep->ending) return;
    ep->up = ep->known = true;
    joint->sink.up(joint->sink.arg, &ep->base, node, &ep->hello);
}

static void fabric_message(void *arg, struct hm_ep *fabric, const void *header, size_t header_bytes,
                           struct hm_inbound *in)
{
    struct joint *joint = arg;
    struct joint_ep *ep = fabric->user;
    if (ep->up)
        joint->sink.message(joint->sink.arg, &ep->base, header, header_bytes, in);
    else
        hm_inbound_drop(in);
}

static void fabric_writable(void *arg, struct hm_ep *fabric)
{
    struct joint *joint = arg;
    struct joint_ep *ep = fabric->user;
    if (ep->up) joint->sink.writable(joint->sink.arg, &ep->base);
}

static void fabric_down(void *arg, struct hm_ep *fabric, enum hm_status why)
{
    struct joint_ep *ep = fabric->user;
    (void)arg;
    ep->fabric = NULL;
    half_down(ep, why);
}

/* ---- the vtable ------------------------------------------------------------------------------ */

static enum hm_status joint_open(const struct hm_transport_conf *conf, struct hm_loop *loop,
                                 const struct hm_transport_sink *sink,
                                 struct hm_transport **transport)
{
    struct joint *joint = calloc(1, sizeof *joint);
    HM_ASSERT(joint);
    joint->base.ops = &joint_ops;
    joint->sink = *sink;
    const struct hm_transport_sink control = {control_up, control_message, control_writable,
                                              control_down, joint};
    const struct hm_transport_sink fabric = {fabric_up, fabric_message, fabric_writable,
                                             fabric_down, joint};
    struct hm_transport_conf fabric_conf = *conf;
    fabric_conf.listen = NULL;
    fabric_conf.world = joint_parts.fabric_world ? joint_parts.fabric_world : conf->world;
    enum hm_status status = joint_parts.control->open(conf, loop, &control, &joint->control);
    HM_ASSERT(status == HM_OK);
    if (joint_parts.networks) {
        joint->network = joint_parts.first_network++ % 2;
        loop = networks_loop(loop, joint->network);
    }
    unsigned was = enter(joint);
    status = joint_parts.fabric->open(&fabric_conf, loop, &fabric, &joint->fabric);
    leave(was);
    if (status != HM_OK) return status; /* the case fails with its line */
    *transport = &joint->base;
    return HM_OK;
}

static void half_closed(void *arg)
{
    struct joint *joint = arg;
    if (--joint->closings > 0) return;
    void (*done)(void *arg) = joint->done;
    void *done_arg = joint->done_arg;
    free(joint);
    done(done_arg);
}

static void joint_close(struct hm_transport *base, void (*done)(void *arg), void *arg)
{
    struct joint *joint = joint_of(base);
    joint->done = done;
    joint->done_arg = arg;
    joint->closings = 2;
    joint_parts.control->close(joint->control, half_closed, joint);
    joint_parts.fabric->close(joint->fabric, half_closed, joint);
}

static void joint_caps(struct hm_transport *base, struct hm_transport_caps *caps)
{
    joint_parts.fabric->caps(joint_of(base)->fabric, caps);
}

static enum hm_status joint_address(struct hm_transport *base, struct hm_addrs *addrs)
{
    return joint_parts.control->address(joint_of(base)->control, addrs);
}

static enum hm_status joint_connect(struct hm_transport *base, const struct hm_addr *to,
                                    const struct hm_node_id *expect, struct hm_ep **connected)
{
    struct joint *joint = joint_of(base);
    struct hm_ep *control;
    enum hm_status status = joint_parts.control->connect(joint->control, to, expect, &control);
    if (status != HM_OK) return status;
    struct joint_ep *ep = ep_create(joint, control);
    ep->known = true;
    *connected = &ep->base;
    return HM_OK;
}

static void joint_disconnect(struct hm_ep *base)
{
    end(HM_CONTAINER_OF(base, struct joint_ep, base), HM_ERR_CANCELED);
}

static enum hm_status joint_send(struct hm_ep *base, const void *header, size_t header_bytes,
                                 const struct hm_span *payload, unsigned span_count,
                                 hm_wire_cb done, void *arg)
{
    struct joint_ep *ep = HM_CONTAINER_OF(base, struct joint_ep, base);
    if (!ep->up) return HM_ERR_PEER_UNREACHABLE;
    unsigned was = enter(ep->joint);
    enum hm_status status =
        joint_parts.fabric->send(ep->fabric, header, header_bytes, payload, span_count, done, arg);
    leave(was);
    return status;
}

struct hm_transport_ops joint_ops = {
    .open = joint_open,
    .close = joint_close,
    .caps = joint_caps,
    .address = joint_address,
    .connect = joint_connect,
    .disconnect = joint_disconnect,
    .send = joint_send,
    /* pull and drop: an inbound names the fabric's own */
};

void joint_begin(const struct joint_parts *parts)
{
    joint_parts = *parts;
    joint_ops.name = parts->control->name;
}
