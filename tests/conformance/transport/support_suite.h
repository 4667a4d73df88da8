/* The conformance suite of transports: one set of cases, written from the words of
 * src/transport/transport.h, run over
 * every provider.  A provider that does not pass does not exist.
 *
 * A test program gives a struct provider (how to make a loop, let time pass, and do harm) and calls
 * suite_main.
 * Nodes of the suite check what every contract line promises at every callback, whatever the case
 * is about:
 * never inside a user's call, up once, down once and last, each accepted send and pull back exactly
 * once before it,
 * buffers referenced until then, each message at most once and with the bytes that were sent. */
#ifndef HM_CONFORMANCE_SUITE_H
#define HM_CONFORMANCE_SUITE_H

#include "test.h"

#include "base/assert.h"
#include "base/map.h"
#include "base/rng.h"
#include "transport/transport.h"

#include <stdio.h>

enum { NODES_MAX = 8, ENDS_MAX = 128, OPS_MAX = 32768, HELD_MAX = 32768, NUMBERS_MAX = 65536 };
enum { KIB = 1 << 10, MIB = 1 << 20 };

struct suite;
struct node;

/* A node of its own that can be stopped and killed: a process where the provider has them. */
enum puppet_role {
    PUPPET_DROPS,  /* answers pings, drops everything else */
    PUPPET_HOARDS, /* pulls nothing, announces as much as it may to whoever connects */
};
struct puppet {
    enum puppet_role role;
    struct hm_addr addr;
    struct hm_node_id id;
    struct node *node; /* where it lives in this process */
    int pid;           /* where it does not */
};

struct provider {
    const char *name;
    const struct hm_transport_ops *ops;
    const char *listen;
    size_t bulk_bytes;                  /* "a very large payload" */
    void (*start)(struct suite *suite); /* makes suite->loop */
    void (*stop)(struct suite *suite);
    void *(*world)(struct suite *suite); /* for conf.world; NULL: none */
    /* Runs the loop until the condition holds (true) or there is no hope that it will (false). */
    bool (*run)(struct suite *suite, bool (*until)(void *arg), void *arg, hm_ns limit);
    void (*puppet_start)(struct suite *suite, struct puppet *puppet);
    void (*puppet_pause)(struct suite *suite, struct puppet *puppet, bool paused);
    void (*puppet_kill)(struct suite *suite, struct puppet *puppet);
    /* An address where somebody listens who never says a word. */
    void (*silent_addr)(struct suite *suite, struct hm_addr *addr);
    /* Connects to `victim` as a proper node, then announces without end; true: the victim has let
     * go of it. */
    bool (*announce_flood)(struct suite *suite, struct node *victim);
};

enum take { TAKE_PULL, TAKE_DROP, TAKE_HOLD };

/* One side of a connection, as its node saw it. */
struct end {
    struct node *node;
    struct hm_ep *ep; /* NULL once it is down */
    unsigned ups, downs;
    enum hm_status why;
    struct hm_node_id id;
    struct hm_hello hello;
    unsigned ops_open; /* accepted sends and pulls that have not called back */
    unsigned writables;
    unsigned pongs;
    hm_ns pinged, round_trip;
    /* What is still to be sent: numbers [next, last), tried again after writable. */
    unsigned next, last;
    size_t (*size_of)(struct node *node, unsigned number);
    unsigned busy; /* sends that met BUSY */
};

struct op {
    struct end *end;
    struct hm_buf *buf; /* the payload's or the target's */
    bool pull, called;
    enum hm_status status;
    unsigned number;
    size_t bytes;
    uint64_t hash;
};

struct held {
    struct hm_inbound *in;
    struct end *end;
    unsigned number;
    uint64_t hash;
};

struct node {
    struct suite *suite;
    struct hm_transport *transport;
    struct hm_identity *identity;
    struct hm_buf_pool *buffers; /* the provider's */
    struct hm_transport_caps caps;
    struct end end[ENDS_MAX];
    unsigned end_count;
    struct op *op; /* OPS_MAX */
    unsigned op_count, ops_open;
    struct held *held; /* HELD_MAX */
    unsigned held_count;
    uint8_t *got;                /* NUMBERS_MAX: how often each number has come */
    unsigned messages, verified; /* numbered ones: arrived; pulled with the right bytes */
    unsigned sends_ok, sends_canceled, sends_failed, pulls_failed;
    unsigned announced; /* inbounds with bytes and without data */
    enum take take;
    bool closed;
    /* NULL: numbered messages and pings, as below. */
    void (*on_message)(struct node *node, struct end *end, const void *header, size_t header_bytes,
                       struct hm_inbound *in);
    void (*on_up)(struct end *end);
    void *arg;
};

struct node_conf {
    bool dials_only;
    uint16_t wire_major; /* 0: ours */
    const char *swarm;
    unsigned endpoints_max;   /* 0: 64 */
    size_t receive_bytes_max; /* 0: 1 MiB */
    size_t buffer_bytes_max;  /* 0: 64 MiB */
    hm_ns handshake_max;      /* 0: 10 s */
    enum take take;
};

struct suite {
    const struct provider *provider;
    void *impl;
    struct hm_loop *loop;
    struct hm_buf_pool *payloads;
    struct hm_rng rng;
    struct node *node[NODES_MAX];
    unsigned node_count;
    unsigned inside; /* user's calls that are running */
    char failure[512];
    bool finished;
};

/* Runs every case; the result of main.  The seed decides identities, sizes, the world. */
int suite_main(const struct provider *provider, uint64_t seed);
extern uint64_t suite_seed;
/* "A very large payload" where bytes really move: HM_CONFORMANCE_BULK_BYTES, else 256 MiB, or 32
 * MiB
 * under a sanitizer. */
size_t suite_bulk_bytes(void);

/* In callbacks, where cmocka must not jump out: keeps the first failure, which ends the wait. */
#define claim(suite, condition) suite_claim((suite), (condition), #condition, __FILE__, __LINE__)
void suite_claim(struct suite *suite, bool holds, const char *text, const char *file, int line);
/* Waits; fails the case if the condition does not come true. */
#define await(suite, until, arg) suite_await((suite), (until), (arg), #until, __FILE__, __LINE__)
void suite_await(struct suite *suite, bool (*until)(void *arg), void *arg, const char *text,
                 const char *file, int line);
void suite_let_pass(struct suite *suite, hm_ns duration);
/* The end of every case: closes every node, and checks that nothing is left. */
void suite_finish(struct suite *suite);
struct suite *suite_create(const struct provider *provider);
void suite_destroy(struct suite *suite);

struct node *node_open(struct suite *suite,
                       const struct node_conf *conf); /* conf NULL: all standard */
void node_close_begin(struct node *node);
void node_close(struct node *node);
void node_addr(struct node *node, struct hm_addr *addr);
const struct hm_node_id *node_id(const struct node *node);

struct end *node_connect(struct node *node, const struct hm_addr *to,
                         const struct hm_node_id *expect);
/* Both sides up. */
void nodes_connect(struct node *a, struct node *b, struct end **at_a, struct end **at_b);

/* Sends `bytes` bytes that are made from `number`, in `span_count` spans (1 is usual), and lets go
 * of the buffer. */
enum hm_status end_send(struct end *end, unsigned number, size_t bytes, unsigned span_count);
/* Header only, without payload and callback; counted by nobody. */
enum hm_status end_send_header(struct end *end, const void *header, size_t header_bytes);
enum hm_status end_ping(struct end *end);
/* Sends numbers [first, last) of the sizes given, as fast as BUSY allows. */
void end_pump(struct end *end, unsigned first, unsigned last,
              size_t (*size_of)(struct node *node, unsigned number));
void end_disconnect(struct end *end);
enum hm_status end_pull(struct held *held);
void node_take_held(struct node *node, enum take take);
/* An on_message that holds whatever came, without a look at it. */
void node_hold_any(struct node *node, struct end *end, const void *header, size_t header_bytes,
                   struct hm_inbound *in);

bool end_is_up(void *end);
bool end_is_down(void *end);
bool end_is_settled(void *end); /* up or down */
bool node_ops_done(void *node);
bool node_is_closed(void *node);
bool node_ends_down(void *node);
/* node->messages has reached *node->arg (unsigned). */
bool node_has_messages(void *node);
bool node_has_verified(void *node);

void puppet_play(struct suite *suite, struct puppet *puppet); /* opens puppet->node in its role */

/* ---- between the suite's own files */

/* The header of the suite's own messages. */
enum { MESSAGE_DATA = 1, MESSAGE_PING, MESSAGE_PONG };
struct numbered {
    uint32_t kind, number;
    uint64_t bytes, hash;
};
void suite_drop(struct suite *suite, struct hm_inbound *in);
void end_pump_on(struct end *end); /* what BUSY has kept back */
void node_free(struct node *node);

extern const struct CMUnitTest suite_cases_link[], suite_cases_message[], suite_cases_flow[],
    suite_cases_lent[], suite_cases_end[];
extern const size_t suite_cases_link_count, suite_cases_message_count, suite_cases_flow_count,
    suite_cases_lent_count, suite_cases_end_count;

#endif
