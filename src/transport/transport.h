/* transport/transport.h - active messages between authenticated nodes: the second part of the seam.
 *
 * Providers: tcp (transport/tcp), ucx (a module, later), sim (sim/net.c).  All pass tests/conformance; a provider that fails
 * it does not exist.  Contract, for every provider:
 *   - nothing blocks; the sink and callbacks never run inside a call made by the user;
 *   - an endpoint is nobody until up() names its node; down() is the last word about it, and comes exactly once for every
 *     endpoint that connect() returned or up() named, after the callbacks of its accepted sends and pulls have run;
 *   - a message arrives at most once; no order is promised (sim reorders on purpose);
 *   - payloads up to eager_bytes_max come with the message, against the receiver's credit; larger ones are announced, and come
 *     only when pulled; an unpulled one delays nobody else's message;
 *   - an accepted send or pull calls back exactly once; its buffers are referenced until the wire lets go;
 *   - a send whose payload the receiver drops ends with HM_ERR_CANCELED;
 *   - HM_ERR_BUSY is back-pressure: keep the message, wait for writable();
 *   - what a peer can make us hold is bounded: announced inbounds, eager bytes not yet pulled or dropped, endpoints that have
 *     not finished their handshake, and the time for it; over a bound the endpoint goes down with HM_ERR_PEER_PROTOCOL. */
#ifndef HM_TRANSPORT_TRANSPORT_H
#define HM_TRANSPORT_TRANSPORT_H

#include "base/buf.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "transport/address.h"
#include "transport/identity.h"

enum { HM_SPANS_MAX = 8, HM_HEADER_BYTES_MAX = 1024, HM_PROOF_BYTES_MAX = 64 };
enum { HM_WIRE_MAJOR = 1, HM_WIRE_MINOR = 0 };
#define HM_PAYLOAD_BYTES_MAX ((size_t)1 << 30) /* of one message */

/* What each side says first on a new endpoint; authenticated as everything after the handshake. */
struct hm_hello {
    uint16_t wire_major, wire_minor; /* major must agree, minor adds */
    uint64_t features;               /* bits; none yet */
    struct hm_addrs listening;       /* where this node can be dialled; empty: dials out only */
    char swarm[HM_SWARM_NAME_BYTES]; /* public name of the swarm; both set and different: HM_ERR_PEER_DENIED */
    /* Room for proofs of a shared swarm key and fabric key (HMACs over the TLS exporter); none yet. */
    uint8_t swarm_proof_bytes, fabric_proof_bytes;
    uint8_t swarm_proof[HM_PROOF_BYTES_MAX], fabric_proof[HM_PROOF_BYTES_MAX];
};
void hm_hello_encode(const struct hm_hello *hello, struct hm_writer *writer);
/* Total; HM_ERR_PEER_VERSION for another major, HM_ERR_PEER_PROTOCOL for garbage. */
HM_MUST_CHECK enum hm_status hm_hello_decode(const void *bytes, size_t byte_count, struct hm_hello *hello);

struct hm_transport_ops;
struct hm_transport { /* providers embed it first */
    const struct hm_transport_ops *ops;
};
struct hm_ep { /* providers embed it first; theirs from connect() or up() until down() has returned */
    struct hm_transport *transport;
    void *user; /* the sink's, for its own state of this endpoint; NULL at first */
};
/* A payload that has arrived or is announced.  The provider's until it is pulled or dropped, which must happen once. */
struct hm_inbound {
    const struct hm_transport_ops *ops;
    size_t bytes;
    /* Eager: the payload itself, readable until pull or drop.  NULL: announced (or bytes is 0). */
    const void *data;
};

typedef void (*hm_wire_cb)(void *arg, enum hm_status status);
struct hm_transport_caps {
    bool memory[3]; /* by enum hm_mem: what send and pull can touch */
    size_t eager_bytes_max;
};
struct hm_transport_sink {
    void (*up)(void *arg, struct hm_ep *ep, const struct hm_node_id *node, const struct hm_hello *hello);
    /* The header is valid until this returns.  The payload (in; never NULL, bytes may be 0) must be pulled or dropped, now or
     * later; the receiver chooses where to: a slab, pinned or on a GPU. */
    void (*message)(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes, struct hm_inbound *in);
    void (*writable)(void *arg, struct hm_ep *ep); /* after HM_ERR_BUSY: worth trying again */
    /* Inbounds of this endpoint that were neither pulled nor dropped must still be dropped. */
    void (*down)(void *arg, struct hm_ep *ep, enum hm_status why);
    void *arg;
};
struct hm_transport_conf {
    const struct hm_identity *identity;
    const struct hm_hello *hello; /* copied; `listening` is filled in by the provider if empty and it listens */
    const char *listen;           /* tcp: "host:port" (port 0: any); sim: "sim:7", or anything: any; NULL: dial out only */
    struct hm_buf_pool *buffers;  /* for what the provider has to buffer */
    struct hm_metrics *metrics;   /* NULL: none */
    unsigned endpoints_max;
    size_t receive_bytes_max;     /* eager bytes a peer may have in flight to us: its credit */
    hm_ns handshake_max;          /* from connect or accept to up() */
    void *world;                  /* sim: struct hm_world * */
};

struct hm_transport_ops {
    const char *name;
    /* HM_ERR_INVALID (with a line) for a listen address that does not parse or cannot be bound. */
    HM_MUST_CHECK enum hm_status (*open)(const struct hm_transport_conf *conf, struct hm_loop *loop,
                                         const struct hm_transport_sink *sink, struct hm_transport **transport);
    /* Every endpoint goes down (HM_ERR_CANCELED); accepted sends may be lost.  Then done, and the transport is gone.  done may
     * wait for inbounds that are still held; where it does not, they can still be dropped after it. */
    void (*close)(struct hm_transport *transport, void (*done)(void *arg), void *arg);
    void (*caps)(struct hm_transport *transport, struct hm_transport_caps *caps);
    /* Where this transport can be dialled, as its hello says; HM_ERR_NOT_FOUND if it does not listen. */
    HM_MUST_CHECK enum hm_status (*address)(struct hm_transport *transport, struct hm_addrs *addrs);
    /* `expect` NULL: whoever answers; else a different node goes down with HM_ERR_PEER_DENIED and is never up. */
    HM_MUST_CHECK enum hm_status (*connect)(struct hm_transport *transport, const struct hm_addr *to,
                                            const struct hm_node_id *expect, struct hm_ep **ep);
    /* down() follows, in a later turn, with HM_ERR_CANCELED; idempotent. What was sent before and fits the wire is tried. */
    void (*disconnect)(struct hm_ep *ep);
    /* The header is copied; payload spans are referenced through their owners until done() has run (done NULL: nobody
     * asks).  HM_OK from done: the wire has taken it all (eager) or the receiver has pulled it all (announced).
     * Errors: HM_ERR_BUSY; HM_ERR_TOO_BIG; HM_ERR_PEER_UNREACHABLE: not up (yet, or any more). */
    HM_MUST_CHECK enum hm_status (*send)(struct hm_ep *ep, const void *header, size_t header_bytes,
                                         const struct hm_span *payload, unsigned span_count, hm_wire_cb done, void *arg);
    /* into->bytes >= in->bytes; exactly in->bytes are written.  The inbound is gone after this call. */
    HM_MUST_CHECK enum hm_status (*pull)(struct hm_inbound *in, const struct hm_span *into, hm_wire_cb done, void *arg);
    void (*drop)(struct hm_inbound *in);
};
extern const struct hm_transport_ops hm_transport_tcp;

static inline enum hm_status hm_inbound_pull(struct hm_inbound *in, const struct hm_span *into, hm_wire_cb done, void *arg)
{
    return in->ops->pull(in, into, done, arg);
}
static inline void hm_inbound_drop(struct hm_inbound *in) { in->ops->drop(in); }

#endif
