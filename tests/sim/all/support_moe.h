/* A simulated swarm with a minimal expert server written on rpc: linear experts, faults on order,
 * and a log of what it was asked.  Nothing of src/server is used: what the trainer sends is checked
 * by eyes of its own. */
#ifndef HM_TEST_SUPPORT_MOE_H
#define HM_TEST_SUPPORT_MOE_H

#include "test.h"

#include "moe/bridge.h"
#include "moe/mixture.h"
#include "moe/remote_expert.h"
#include "sim/net.h"

enum {
    MOE_HIDDEN = 6,
    MOE_SERVERS_MAX = 4,
    MOE_EXPERTS_MAX = 32,
    MOE_GRID = 3,
    MOE_LOG_MAX = 4096
};

struct moe_swarm;
struct moe_node {
    struct moe_swarm *swarm;
    unsigned index; /* decides its key and its number in the network */
    bool open, flag;
    struct hm_identity *identity;
    struct hm_buf_pool *buffers;
    struct hm_metrics metrics;
    struct hm_rpc *rpc;
    struct hm_dht *dht;
    struct hm_directory *directory;
    struct hm_node_id id;
};

enum { MOE_LOAD_US = 345600 }; /* said with every failure */
enum moe_behaviour { MOE_GOOD, MOE_FAILS, MOE_SILENT, MOE_NAN, MOE_WRONG_ROWS, MOE_TWICE };
struct moe_expert {
    struct hm_uid uid;
    enum moe_behaviour forward, backward;
    enum hm_status fails_with;
    uint32_t retry_after_us; /* said with failures; 0: nothing */
    unsigned fails_first;    /* so many parts fail, of both passes; then it is good */
    unsigned failed;         /* parts answered with fails_with */
    uint64_t stepped_by[2];  /* (incarnation, sequence) of its last step */
    hm_ns delay;             /* 0: 1 to 3 ms */
    uint64_t step;
    unsigned forwards, backwards; /* parts answered well */
    uint32_t
        rows_forward[256]; /* x[0] of each row of the last forward part, as bits: which rows came */
    uint32_t row_count_forward, row_count_backward;
    float scale_sum; /* of the last backward part */
};
struct moe_server {
    struct moe_node node;
    struct moe_expert expert[MOE_EXPERTS_MAX];
    unsigned expert_count;
    enum hm_status refuses; /* every call at once; HM_OK: none */
    uint64_t codecs_not;    /* its record says that it takes the others */
    bool refuses_coded;     /* whatever its record says */
    unsigned calls, calls_coded;
    uint32_t rows_last; /* in the last call */
    struct hm_timer redeclare;
    uint32_t rows_queued; /* as it says of itself */
    bool declaring, silent_redeclare;
    /* (incarnation, sequence) of every backward call */
    uint64_t log[MOE_LOG_MAX][2];
    unsigned log_count;
    struct hm_link served;
};
struct moe_swarm {
    struct hm_world *world;
    struct hm_loop *loop;
    struct moe_node boot, trainer;
    struct moe_server server[MOE_SERVERS_MAX];
    unsigned server_count;
    struct hm_dispatch *dispatch; /* the trainer's */
    struct hm_bridge bridge;      /* runs the world */
    hm_ns negative_cache_max;
};

/* A bootstrap node, `servers` servers that share the grid "ffn.[0:MOE_GRID].[0:MOE_GRID]" in turn,
 * all declared, and a trainer that dials out only. */
void moe_swarm_open(struct moe_swarm *swarm, uint64_t seed, unsigned servers);
void moe_swarm_close(struct moe_swarm *swarm);
unsigned moe_number(unsigned index); /* of a node that listens; server i is node i + 1 */
void moe_run(struct moe_swarm *swarm, hm_ns duration);
void moe_wait(struct moe_swarm *swarm, const bool *done, hm_ns limit);
void moe_server_open(struct moe_swarm *swarm,
                     unsigned index); /* with the experts it has (from before, too) */
void moe_server_host(struct moe_server *server, const char *uid);
void moe_server_declare(struct moe_server *server, bool experts, bool withdraw); /* and waits */
void moe_server_crash(struct moe_server *server);
/* How it answers calls and questions. */
void moe_server_methods(struct moe_server *server, struct hm_method methods[2]);
/* NULL: it does not host that. */
struct moe_expert *moe_server_find(struct moe_server *server, const char *uid);
struct moe_expert *moe_expert(struct moe_swarm *swarm, const char *uid, struct moe_server **server);
/* What the expert computes: y[i] = a x[i] + b x[i + 1], a and b by its uid; and its gradient. */
void moe_expert_forward(const struct hm_uid *uid, const float *x, float *y);
void moe_expert_backward(const struct hm_uid *uid, const float *dy, float *dx);

/* Operations that are waited for. */
struct moe_result {
    bool done;
    enum hm_status status;
    char line[HM_ERROR_LINE_BYTES];
    hm_ns took;
};
struct moe_waiting { /* for one expert; op.arg: itself */
    struct hm_moe_expert_op op;
    struct moe_result result;
};
void moe_waiting_ended(struct hm_moe_expert_op *op, enum hm_status status);
struct moe_pass { /* one mixture with one op, x and logits drawn at random */
    struct moe_swarm *swarm;
    struct hm_mixture *mixture;
    struct hm_mixture_op op;
    uint32_t rows;
    float x[64 * MOE_HIDDEN], y[64 * MOE_HIDDEN], dy[64 * MOE_HIDDEN], dx[64 * MOE_HIDDEN];
    float logits[64 * 2 * MOE_GRID], dlogits[64 * 2 * MOE_GRID];
    struct moe_result result;
    hm_ns started;
};
void moe_conf(struct moe_swarm *swarm, struct hm_mixture_conf *conf); /* k_best 4, k_min 1, 10 s */
void moe_pass_init(struct moe_pass *pass, struct moe_swarm *swarm,
                   const struct hm_mixture_conf *conf, uint32_t rows, uint64_t seed);
void moe_pass_fini(struct moe_pass *pass);
void moe_forward_start(struct moe_pass *pass);
void moe_backward_start(struct moe_pass *pass);
enum hm_status moe_forward(struct moe_pass *pass); /* and waits */
enum hm_status moe_backward(struct moe_pass *pass);
enum hm_status moe_choose(struct moe_pass *pass);

/* The same, computed directly with all experts at hand: the k best of the whole grid, softmax over
 * those that `alive` (NULL: all) lets take part. */
typedef bool (*moe_alive)(void *arg, uint32_t row, const char *uid);
void moe_direct_forward(const struct moe_pass *pass, uint32_t k_best, moe_alive alive, void *arg,
                        float *y);
/* dx and dlogits for pass->dy; `back` (NULL: all): who answered backward too. */
void moe_direct_backward(const struct moe_pass *pass, uint32_t k_best, moe_alive alive,
                         moe_alive back, void *arg, float *dx, float *dlogits);
void moe_assert_near(const float *a, const float *b, size_t count, float tolerance);

#endif
