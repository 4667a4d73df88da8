/* tests/unit/transport/support_tcp.h - nodes of the real tcp on a real loop, and time that is spent
 * until something has come true.  Raw peers (raw_tls.h) run in the same thread: world_pump. */
#ifndef HM_TEST_SUPPORT_TCP_H
#define HM_TEST_SUPPORT_TCP_H

#include "test.h"

#include "base/loop_uv.h"
#include "transport/tcp/tcp.h"

enum { KIB = 1 << 10 };

struct node {
    struct hm_transport *transport;
    struct hm_identity *identity;
    struct hm_ep *ep; /* the last that came up */
    unsigned ups, downs, messages, dones;
    hm_ns toil;               /* what each message costs */
    struct hm_ep *latest;     /* the one that came up last, up or not */
    unsigned messages_before; /* its first one */
    enum hm_status why, done_status;
    bool hold, closed;
    bool proof_came, proved; /* of the fabric's key, in the last hello */
    struct hm_inbound *held[1024];
    unsigned held_count;
};

struct world {
    struct hm_loop *loop;
    struct hm_metrics metrics;
    struct node node, other;
    struct hm_identity *stranger;
};

struct node_conf {
    const char *listen;
    size_t receive_bytes_max;
    hm_ns handshake_max;
    unsigned endpoints_max;
    const uint8_t *fabric_key;
};

/* Each case has a world of its own; its nodes are closed with it. */
int world_make(void **state);
int world_take_apart(void **state);
#define CASE(name) cmocka_unit_test_setup_teardown(name, world_make, world_take_apart)

enum hm_status node_try(struct world *world, struct node *node, struct node_conf conf);
void node_open(struct world *world, struct node *node, struct node_conf conf); /* with a new key */
void node_close(struct world *world, struct node *node);
struct hm_addr node_addr(struct node *node);
void node_on_done(void *arg, enum hm_status status); /* of what it sends or pulls; arg: the node */

/* Runs the loop until `until` (NULL: never) says so, or for `limit`; what it says then. */
bool world_run(struct world *world, bool (*until)(void *arg), void *arg, hm_ns limit);
void world_pump(void *world); /* a little */
/* Only a hang takes so long. */
#define await(world, until, arg) assert_true(world_run((world), (until), (arg), 60 * HM_S))
bool is_up(void *node);
bool is_down(void *node);
bool is_empty(void *world); /* no endpoint is left */

unsigned descriptors(void); /* that this process has open */
/* The node still serves: another one dials it and comes up. */
void assert_serves(struct world *world);

#endif
