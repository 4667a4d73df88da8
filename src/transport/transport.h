/* transport/transport.h - active messages between authenticated nodes: the second part of the seam.
 *
 * Providers: tcp (transport/tcp), ucx (transport/ucx, a module), sim (sim/net.c).  All pass
 * tests/conformance; a provider that fails it does not exist.  Contract, for every provider:
 *   - nothing blocks; the sink and callbacks never run inside a call made by the user;
 *   - an endpoint is nobody until up() names its node; down() is the last word about it, and comes
 *     exactly once for every endpoint that connect() returned or up() named, after the callbacks of
 *     its accepted sends and pulls have run;
 *   - a message arrives at most once; no order is promised (sim reorders on purpose);
 *   - payloads up to eager_bytes_max come with the message, against the receiver's credit; larger
 *     ones are announced, and come only when pulled; an unpulled one delays nobody else's message;
 *   - an accepted send or pull calls back exactly once; its buffers are referenced until the wire
 *     lets go;
 *   - a send whose payload the receiver drops ends with HM_ERR_CANCELED;
 *   - HM_ERR_BUSY is back-pressure: keep the message, wait for writable();
 *   - what a peer can make us hold is bounded: announced inbounds, eager bytes not yet pulled or
 *     dropped, endpoints that have not finished their handshake, and the time for it; over a bound
 *     the endpoint goes down with HM_ERR_PEER_PROTOCOL. */
#ifndef HM_TRANSPORT_TRANSPORT_H
#define HM_TRANSPORT_TRANSPORT_H

#include "base/buf.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "transport/address.h"
#include "transport/identity.h"

enum { HM_SPANS_MAX = 8, HM_HEADER_BYTES_MAX = 1024, HM_PROOF_BYTES_MAX = 64 };
enum { HM_WIRE_MAJOR = 1, HM_WIRE_MINOR = 1 };
#define HM_PAYLOAD_BYTES_MAX ((size_t)1 << 30) /* of one message */

/* What each side says first on a new endpoint; authenticated as everything after the handshake. */
struct hm_hello {
    uint16_t wire_major, wire_minor; /* major must agree, minor adds */
    uint64_t features;               /* bits; none yet */
    struct hm_addrs listening;       /* where this node can be dialled; empty: dials out only */
    /* Public name of the swarm; both set and different: HM_ERR_PEER_DENIED. */
    char swarm[HM_SWARM_NAME_BYTES];
    /* Room for a proof of a shared swarm key (none yet), and the proof of a shared fabric key
     * (hm_proof_make). */
    uint8_t swarm_proof_bytes, fabric_proof_bytes;
    uint8_t swarm_proof[HM_PROOF_BYTES_MAX], fabric_proof[HM_PROOF_BYTES_MAX];
    bool fabric_proved; /* of up()'s only, not on the wire: the provider has checked fabric_proof */
};
void hm_hello_encode(const struct hm_hello *hello, struct hm_writer *writer);
/* Total; HM_ERR_PEER_VERSION for another major, HM_ERR_PEER_PROTOCOL for garbage. */
HM_MUST_CHECK enum hm_status hm_hello_decode(const void *bytes, size_t byte_count,
                                             struct hm_hello *hello);

/* ---- proofs of a shared key: both sides of a connection hold the same secret, and neither tells
 * it (proof.c) */
enum { HM_FABRIC_KEY_BYTES = 32, HM_BINDING_BYTES = 32 };
/* What a proof is about.  `binding` is a secret of this very connection that both sides have and
 * nobody else (tcp: TLS exporter, RFC 9266's idea with a label of our own): a proof that was heard
 * elsewhere says nothing here.  Direction and names keep a side from sending back what it was
 * sent. */
struct hm_proof_context {
    uint8_t binding[HM_BINDING_BYTES];
    bool by_dialler; /* the prover dialled */
    const struct hm_node_id *prover, *verifier;
};
/* hello->fabric_proof: HMAC-SHA-256 with the key.  False (no proof is set): OpenSSL is out of
 * memory. */
bool hm_proof_make(const uint8_t key[HM_FABRIC_KEY_BYTES], const struct hm_proof_context *context,
                   struct hm_hello *hello);
/* In constant time. */
HM_MUST_CHECK bool hm_proof_check(const uint8_t key[HM_FABRIC_KEY_BYTES],
                                  const struct hm_proof_context *context,
                                  const struct hm_hello *hello);

struct hm_transport_ops;
struct hm_transport { /* providers embed it first */
    const struct hm_transport_ops *ops;
};
/* Providers embed it first; theirs from connect() or up() until down() has returned. */
struct hm_ep {
    struct hm_transport *transport;
    void *user; /* the sink's, for its own state of this endpoint; NULL at first */
};
/* A payload that has arrived or is announced.  The provider's until it is pulled or dropped, which
 * must happen once. */
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
    bool sends_lent, pulls_lent; /* spans of lent buffers (base/buf.h) may be sent, pulled into */
};
struct hm_transport_sink {
    /* hello NULL: an endpoint of a fabric; the control connection's said it all. */
    void (*up)(void *arg, struct hm_ep *ep, const struct hm_node_id *node,
               const struct hm_hello *hello);
    /* The header is valid until this returns.  The payload (in; never NULL, bytes may be 0) must be
     * pulled or dropped, now or later; the receiver chooses where to: a slab, pinned or on a
     * GPU. */
    void (*message)(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes,
                    struct hm_inbound *in);
    void (*writable)(void *arg, struct hm_ep *ep); /* after HM_ERR_BUSY: worth trying again */
    /* Inbounds of this endpoint that were neither pulled nor dropped must still be dropped. */
    void (*down)(void *arg, struct hm_ep *ep, enum hm_status why);
    void *arg;
};
struct hm_transport_conf {
    const struct hm_identity *identity;
    /* Copied; `listening` is filled in by the provider if empty and it listens. */
    const struct hm_hello *hello;
    /* tcp: "host:port" (port 0: any); sim: "sim:7", or anything: any; NULL: dial out only. */
    const char *listen;
    struct hm_buf_pool *buffers; /* for what the provider has to buffer */
    struct hm_metrics *metrics;  /* NULL: none */
    unsigned endpoints_max;
    size_t receive_bytes_max; /* eager bytes a peer may have in flight to us: its credit */
    hm_ns handshake_max;      /* from connect or accept to up() */
    /* 32 bytes, copied; NULL: none.  Each hello proves that we have it, and up() says whether the
     * other side has (hello->fabric_proved).  Not for fabrics: their endpoints have no hello. */
    const uint8_t *fabric_key;
    /* The provider's own: sim: struct hm_world *, ucx: const struct hm_ucx_options * or NULL. */
    void *world;
};

/* ---- endpoints of a fabric -------------------------------------------------------------------
 *
 * A fabric (ucx) has addresses that are opaque, only for those who are trusted already, and good
 * for this incarnation of the transport alone; and it knows nobody's name.  So its endpoints are
 * not dialled.  Two nodes that have an authenticated connection (the control connection, on tcp)
 * exchange *offers* over it, and both make the endpoint from what they got:
 *
 *     A: offer(node B) -> ep, offer A   ---- control --->  B: offer(node A) -> ep, offer B;
 *                                                             accept(ep, offer A)
 *     A: accept(ep, offer B)            <--- control ----
 *
 * in any order, each side once.  up() comes when this side has accepted *and* has heard the other
 * side over the fabric, so a fast path that does not carry (no route, a firewall) never comes up
 * and goes down after handshake_max.  Afterwards it is an endpoint like any other: same sends,
 * credit, announcements, same last word.
 *
 * Token:    drawn for each endpoint by the side that offers it; whatever arrives for it carries it.
 *           What carries another one (a stale peer's, a stranger's) is dropped unread and counted.
 * Settings: text that must be the same on both sides (library version, segment sizes), since the
 *           wire of the fabric is not the same otherwise; accept refuses another one.
 * Life:     the control connection is the peer: when it goes down the user says lost for the fabric
 *           endpoint.  A fabric endpoint that goes down by itself says only that the fast path is
 *           gone (HM_ERR_PEER_RESET or _UNREACHABLE). Offers are secrets of the two nodes: they
 *           travel over the control connection only. */
enum { HM_FABRIC_ADDRESS_BYTES_MAX = 2048, HM_FABRIC_SETTINGS_BYTES = 192 };
/* Encoded. */
enum { HM_FABRIC_OFFER_BYTES_MAX = HM_FABRIC_ADDRESS_BYTES_MAX + HM_FABRIC_SETTINGS_BYTES + 16 };
struct hm_fabric_offer {
    uint64_t token; /* never 0 */
    char settings[HM_FABRIC_SETTINGS_BYTES];
    uint16_t address_bytes;
    uint8_t address[HM_FABRIC_ADDRESS_BYTES_MAX];
};
void hm_fabric_offer_encode(const struct hm_fabric_offer *offer, struct hm_writer *writer);
/* Total; HM_ERR_PEER_PROTOCOL for garbage.  What it holds is judged by accept. */
HM_MUST_CHECK enum hm_status hm_fabric_offer_decode(const void *bytes, size_t byte_count,
                                                    struct hm_fabric_offer *offer);

struct hm_fabric_ops {
    /* An endpoint to `node`, the other side of the control connection, and what that side must be
     * told.  down() follows for it as for one of connect(): at the latest handshake_max from now,
     * if it is not up by then.
     * Errors:  HM_ERR_BUSY: endpoints_max.  HM_ERR_CANCELED: closing. */
    HM_MUST_CHECK enum hm_status (*offer)(struct hm_transport *transport,
                                          const struct hm_node_id *node,
                                          struct hm_fabric_offer *offer, struct hm_ep **ep);
    /* The other side's offer has come.  Once for an endpoint.  On an error the endpoint is as it
     * was: disconnect it.
     * Errors:  HM_ERR_PEER_VERSION: other settings; a line says which.
     *          HM_ERR_PEER_UNREACHABLE: there is no way to that address; a line.
     *          HM_ERR_PEER_PROTOCOL: the offer is garbage. */
    HM_MUST_CHECK enum hm_status (*accept)(struct hm_ep *ep, const struct hm_fabric_offer *theirs);
    /* The control connection has gone down, and with it the peer: as disconnect, but sends, pulls
     * and down() end with that status, and nothing more is tried on the wire. */
    void (*lost)(struct hm_ep *ep, enum hm_status why);
};

struct hm_transport_ops {
    const char *name;
    /* HM_ERR_INVALID (with a line) for a listen address that does not parse or cannot be bound. */
    HM_MUST_CHECK enum hm_status (*open)(const struct hm_transport_conf *conf, struct hm_loop *loop,
                                         const struct hm_transport_sink *sink,
                                         struct hm_transport **transport);
    /* Every endpoint goes down (HM_ERR_CANCELED); accepted sends may be lost.  Then done, and the
     * transport is gone.  done may wait for inbounds that are still held; where it does not, they
     * can still be dropped after it. */
    void (*close)(struct hm_transport *transport, void (*done)(void *arg), void *arg);
    void (*caps)(struct hm_transport *transport, struct hm_transport_caps *caps);
    /* Where this transport can be dialled, as its hello says; HM_ERR_NOT_FOUND if it does not
     * listen. */
    HM_MUST_CHECK enum hm_status (*address)(struct hm_transport *transport, struct hm_addrs *addrs);
    /* `expect` NULL: whoever answers; else a different node goes down with HM_ERR_PEER_DENIED and
     * is never up. */
    HM_MUST_CHECK enum hm_status (*connect)(struct hm_transport *transport,
                                            const struct hm_addr *to,
                                            const struct hm_node_id *expect, struct hm_ep **ep);
    /* down() follows, in a later turn, with HM_ERR_CANCELED; idempotent. What was sent before and
     * fits the wire is tried. */
    void (*disconnect)(struct hm_ep *ep);
    /* The header is copied; payload spans are referenced through their owners until done() has run
     * (done NULL: nobody asks).  HM_OK from done: the wire has taken it all (eager) or the receiver
     * has pulled it all (announced).
     * Errors: HM_ERR_BUSY; HM_ERR_TOO_BIG; HM_ERR_PEER_UNREACHABLE: not up (yet, or any more). */
    HM_MUST_CHECK enum hm_status (*send)(struct hm_ep *ep, const void *header, size_t header_bytes,
                                         const struct hm_span *payload, unsigned span_count,
                                         hm_wire_cb done, void *arg);
    /* into->bytes >= in->bytes; exactly in->bytes are written.  The inbound is gone after this
     * call. */
    HM_MUST_CHECK enum hm_status (*pull)(struct hm_inbound *in, const struct hm_span *into,
                                         hm_wire_cb done, void *arg);
    void (*drop)(struct hm_inbound *in);
    /* NULL: this provider's endpoints are dialled.  Not NULL: a fabric; connect may be
     * HM_ERR_UNSUPPORTED, and there is no listening: address is HM_ERR_NOT_FOUND. */
    const struct hm_fabric_ops *fabric;
};
extern const struct hm_transport_ops hm_transport_tcp;

static inline enum hm_status hm_inbound_pull(struct hm_inbound *in, const struct hm_span *into,
                                             hm_wire_cb done, void *arg)
{
    return in->ops->pull(in, into, done, arg);
}
static inline void hm_inbound_drop(struct hm_inbound *in)
{
    in->ops->drop(in);
}

#endif
