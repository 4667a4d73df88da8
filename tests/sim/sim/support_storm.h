/* tests/sim/sim/support_storm.h - nodes that call each other with payloads of every size while a test
 * breaks what carries them.
 *
 * Always claimed: each call ends exactly once, by its deadline, and no reply comes after that; a
 * request is handled at most once; every byte is the right one; nothing leaks.  What breaks, and
 * which calls must be answered all the same, is the test's. */
#ifndef HM_TEST_SUPPORT_STORM_H
#define HM_TEST_SUPPORT_STORM_H

#include "support_rpc.h"

#include "base/rng.h"

enum { STORM_NODES_MAX = 5, STORM_CALLS_MAX = 400, STORM_TOKENS = 4000 };

struct storm;
struct storm_node {
    struct rpc_node node;
    struct storm *storm;
    struct hm_method method;
    unsigned index;
    bool down; /* crashed or closing: calls nobody, and may be called */
};
struct storm_conf {
    unsigned nodes, calls; /* calls: at once */
    uint16_t method;
    unsigned parts_max; /* of an answer */
    size_t payload_max;
    unsigned empty_in, drop_in; /* one call in so many is empty (0: none); one reply in so many is
                                   dropped */
    hm_ns think_max;            /* a third of the requests is not pulled before (0: none) */
    hm_ns answer_max, part_max; /* from the pull to the first part, and to each next one */
    hm_ns cancel_max;           /* one call in ten is cancelled before */
    bool lossless;              /* only a cancel may end a call early */
    hm_ns (*patience)(struct storm *storm); /* until a call's deadline */
    void (*open)(struct storm_node *at);    /* its `node` */
};
struct storm_call {
    struct hm_call call;
    struct storm_node *from;
    struct hm_timer cancel;
    uint8_t header[8];
    uint32_t token;
    size_t bytes;
    unsigned parts, replies;
    hm_ns deadline;
    bool live, canceled, must_succeed;
};
struct storm {
    struct storm_conf conf;
    struct hm_world *world;
    struct hm_loop *loop;
    struct hm_rng rng;
    struct storm_node nodes[STORM_NODES_MAX];
    struct storm_call calls[STORM_CALLS_MAX];
    uint8_t handled[STORM_TOKENS];
    bool canceled[STORM_TOKENS];
    unsigned live, jobs; /* calls, and requests that are being answered */
    unsigned made, refused, succeeded, failed;
    uint32_t token_next;
    bool calm; /* from here on every call must be answered */
};

/* `stream`: of the seed's random numbers. */
struct storm *storm_open(const struct storm_conf *conf, uint64_t seed, uint64_t stream);
uint64_t storm_close(struct storm *storm); /* nothing is left over; the trace's hash */
void storm_node_start(struct storm *storm, unsigned index);
uint64_t storm_below(struct storm *storm, uint64_t bound);
void storm_make_calls(struct storm *storm, unsigned count);
/* Calls for 150 steps of up to `step_max`, with a fault after each fourth one. */
void storm_blow(struct storm *storm, hm_ns step_max, void (*fault)(struct storm *storm));
unsigned long storm_seeds(void); /* HM_SEEDS, or 40 */

#endif
