/* hivemind.h - the public C API: the only installed header.
 *
 * A node is one process's place in a swarm.  Through it a trainer finds and calls experts on other
 * machines, with gradients (hm_remote_expert, hm_remote_mixture, hm_tape), and a server hosts them
 * (hm_server).
 *
 * Threads: every function may be called from any thread, one thread at a time for each object, and
 * blocks until done or past its deadline; but those that end in _start return at once (hm_queue).
 * Errors:  0 or a negative status; hm_last_error() then has the line a person needs (what was
 * wrong, how to mend it), for the calling thread.  Outputs are written on success only; but
 * what an expert answers is received straight into its output from 64 KiB on, and a call that fails
 * may leave part of that there.
 * Memory:  tensors are the caller's, dense, rows first.  Objects end by their close or put,
 * children before the node.  */
#ifndef HIVEMIND_H
#define HIVEMIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

const char *hm_last_error(void);
const char *hm_version(void);

/* ---- node ------------------------------------------------------------------------------------ */

struct hm_node;
struct hm_node_options {
    const char
        *state_dir;     /* key, checkpoints; made if absent, locked; NULL: an ephemeral identity */
    const char *join;   /* "hm://id@host:port[,host:port...]"; NULL: a new swarm */
    const char *listen; /* "host:port", port 0: any; NULL: dials out only (a trainer) */
    const char
        *advertise;    /* "host:port" that others reach us at, where it differs; NULL: `listen` */
    const char *swarm; /* the swarm's public name; NULL: the join line's, or none */
    size_t memory_bytes_max; /* of message buffers, 16 MiB or more; 0: 2 GiB */
    /* What one other node may have in flight here, however many connections it has; over it its
     * calls are answered HM_ERR_BUSY at once (the DHT's lookups are calls too). */
    unsigned client_calls_max; /* at most 8192; 0: 2048 */
    /* Of its calls' payloads, and of answers that it has not taken; a call that is larger by itself
     * is HM_ERR_TOO_BIG.  0: as many as it leaves to others. */
    size_t client_bytes_max;
    int join_timeout_ms; /* 0: 10,000 */
    /* How urgent its calls say that they are: "inference" (or NULL), "training", "background".  A
     * server's own order of forwards and backwards can only be lowered by it. */
    const char *priority;
    /* The fast path (UCX) to nodes that have the same key: "auto", or the devices that it may use
     * ("mlx5_0:1,eth1"); NULL or "none": none.  Where the module is missing, "auto" goes on without
     * it; with devices or fabric_tcp that is an error. */
    const char *fabric;
    const uint8_t *fabric_key; /* 32 bytes, a secret of the cluster; NULL: no fabric */
    int fabric_tcp;            /* UCX's own TCP too, on private interfaces */
    int fabric_public;         /* ... and on public ones: whoever reaches such a port can write into
                                  this process */
};
/* Joins before it returns: a dead join line is an error here, not later. */
int hm_node_open(const struct hm_node_options *options, struct hm_node **node);
/* The line that others join with; an error for a node that does not listen. */
int hm_node_join_line(struct hm_node *node, char *line, size_t line_bytes);
/* What the node knows of its swarm, as one line of JSON (free() it): experts, servers, load. */
int hm_node_swarm_json(struct hm_node *node, int timeout_ms, char **json);
void hm_node_close(struct hm_node *node); /* NULL is allowed */

/* ---- tensors --------------------------------------------------------------------------------- */

/* f32, dense; the last dimension is the features, all before it are rows. */
enum { HM_ARRAY_DIMS_MAX = 4 };
struct hm_array {
    unsigned dims;
    uint32_t dim[HM_ARRAY_DIMS_MAX];
    float *data;
};

/* ---- remote experts -------------------------------------------------------------------------- */

struct hm_remote_expert; /* one expert on a remote runtime */
struct hm_remote_expert_info {
    char uid[128];
    char kind[32];
    uint32_t hidden;
    uint64_t step; /* optimizer steps it has made */
    uint64_t parameter_count;
};
int hm_remote_expert_find(struct hm_node *node, const char *uid, int timeout_ms,
                          struct hm_remote_expert **expert);
int hm_remote_expert_info(struct hm_remote_expert *expert, int timeout_ms,
                          struct hm_remote_expert_info *info);
/* y has x's shape.  An overloaded server that says when to ask again is asked again, within timeout_ms; if
 * that would be too late: HM_ERR_BUSY or HM_ERR_REFUSED at once.  So backward. */
int hm_remote_expert_forward(struct hm_remote_expert *expert, const struct hm_array *x,
                             struct hm_array *y, int timeout_ms);
/* Gradient with respect to x; the expert itself makes one optimizer step on its side.  Applied at
 * most once. */
int hm_remote_expert_backward(struct hm_remote_expert *expert, const struct hm_array *x,
                              const struct hm_array *dy, struct hm_array *dx, int timeout_ms);
/* How its rows and gradients travel from now on: "none", "f16", "bf16" or "u8" (a quarter of the
 * bytes, 0.7 % off).  A server that does not take that gets them plain. */
int hm_remote_expert_set_codec(struct hm_remote_expert *expert, const char *codec);
void hm_remote_expert_put(struct hm_remote_expert *expert); /* calls that were started go on */

/* Calls that a thread starts and waits for later, several at once.  A queue is one thread's at a
 * time; its node's children are closed after it. */
struct hm_queue;
struct hm_completion {
    void *tag;      /* as it was given at the start */
    int status;     /* 0, or why the call failed, and */
    char line[512]; /* the line for a person */
};
int hm_queue_open(struct hm_node *node, unsigned calls_max /* 0: 64; at most 1,024 */,
                  struct hm_queue **queue);
/* As forward and backward, but return at once; what the arrays point to stays until the call has been
 * waited for.  Forwards of few rows to one expert that are started together, by whatever thread of the
 * process, go as one message.  HM_ERR_BUSY: calls_max are under way. */
int hm_remote_expert_forward_start(struct hm_remote_expert *expert, const struct hm_array *x,
                                   struct hm_array *y, int timeout_ms, struct hm_queue *queue,
                                   void *tag);
int hm_remote_expert_backward_start(struct hm_remote_expert *expert, const struct hm_array *x,
                                    const struct hm_array *dy, struct hm_array *dx, int timeout_ms,
                                    struct hm_queue *queue, void *tag);
/* The next call that has ended, in the order of their ends.  HM_ERR_TIMED_OUT: none has yet (a call
 * ends by its own deadline); HM_ERR_NOT_FOUND: none is under way.  A node that does not listen may
 * rest for some 50 ms at a time while nobody waits: start early, wait soon. */
int hm_queue_wait(struct hm_queue *queue, int timeout_ms /* 0: 5,000 */,
                  struct hm_completion *completion);
void hm_queue_close(struct hm_queue *queue); /* waits for what is under way; NULL is allowed */

struct hm_remote_mixture; /* gate + beam search over a grid of experts */
struct hm_remote_mixture_options {
    const char *name; /* "ffn"; never NULL */
    unsigned grid_dims;
    uint32_t grid[4];
    uint32_t hidden;
    uint32_t k_best;            /* experts a row; 0: 4 */
    uint32_t k_min;             /* that must answer each row; 0: 1 */
    uint32_t backward_k_min;    /* that must answer backward; may be 0 */
    int spares;                 /* next best experts of a row, asked in the same forward where one
                                 * refuses (busy, going, gone), up to 64 with k_best; 0: 2, < 0: none */
    int forward_timeout_ms;     /* 0: 5,000 */
    int backward_timeout_ms;    /* 0: 5,000 */
    int timeout_after_k_min_ms; /* once k_min have answered every row; 0: 1,000 */
    float balance;              /* weight of the load-balancing loss; 0: none */
    uint64_t seed;              /* of the gate's first parameters */
    const char *codec;          /* as for hm_remote_expert_set_codec; NULL: "none" */
};
int hm_remote_mixture_open(struct hm_node *node, const struct hm_remote_mixture_options *options,
                           struct hm_remote_mixture **mixture);
/* Which experts are best for each row, to be called by the caller: uid[row * k_best + i] ("" where
 * there are fewer) and the gate's logit of each. */
int hm_remote_mixture_choose(struct hm_remote_mixture *mixture, const struct hm_array *x,
                             char (*uid)[128], float *logit);
void hm_remote_mixture_close(struct hm_remote_mixture *mixture);

/* ---- tape: reverse-mode autograd over local layers and remote experts alike ------------------ */

struct hm_tape;
struct hm_module;          /* a local layer with parameters */
typedef uint32_t hm_value; /* index of a value on the tape; an op on a failed value fails with it */
int hm_module_linear(struct hm_node *node, uint32_t in, uint32_t out, uint64_t seed,
                     struct hm_module **module);
int hm_module_layer_norm(struct hm_node *node, uint32_t columns, struct hm_module **module);
int hm_module_relu(struct hm_node *node, struct hm_module **module);
/* After every tape that has used it; so too hm_remote_mixture_close. */
void hm_module_close(struct hm_module *module);

int hm_tape_open(struct hm_node *node, struct hm_tape **tape);
hm_value hm_tape_input(struct hm_tape *tape, const struct hm_array *x);
hm_value hm_tape_apply(struct hm_tape *tape, struct hm_module *module, hm_value x);
hm_value hm_tape_add(struct hm_tape *tape, hm_value a, hm_value b);
hm_value hm_tape_remote_expert(struct hm_tape *tape, struct hm_remote_expert *expert,
                               int timeout_ms, hm_value x);
hm_value hm_tape_remote_mixture(struct hm_tape *tape, struct hm_remote_mixture *mixture,
                                hm_value x);
/* Mean over rows of -log softmax(logits)[label]. */
hm_value hm_tape_cross_entropy(struct hm_tape *tape, hm_value logits, const int64_t *label);
/* The values themselves; the array points into the tape, until reset. */
int hm_tape_read(struct hm_tape *tape, hm_value value, struct hm_array *array);
/* First error of the whole pass, also of the forward ops.  Parameters of modules and mixtures get
 * their gradients; remote experts make their own steps. */
int hm_tape_backward(struct hm_tape *tape, hm_value loss);
/* One Adam step of every module and gate that has gradients, and forgets the gradients. */
int hm_tape_step(struct hm_tape *tape, float rate);
void hm_tape_reset(struct hm_tape *tape); /* forgets values and gradients, keeps memory */
/* What it takes to go on elsewhere: the modules and gates that the tape has used, in the order of
 * first use, with their Adam, and `more` of the caller's.  The file is the old one or the new one,
 * also after a power cut. */
int hm_tape_save(struct hm_tape *tape, const char *path, const void *more, uint32_t more_bytes);
/* Into a tape that has used nothing yet: modules and gates become what they were when they are first
 * used, in the same order.  `more` has to be as long as it was.  HM_ERR_NOT_FOUND: no such file;
 * HM_ERR_CORRUPT, HM_ERR_SHAPE (of another model: perhaps only at that first use). */
int hm_tape_load(struct hm_tape *tape, const char *path, void *more, uint32_t more_bytes);
/* Before the modules and mixtures that it has used: it keeps the moments of their Adam. */
void hm_tape_close(struct hm_tape *tape);

/* ---- server: hosts experts ------------------------------------------------------------------- */

struct hm_server; /* wraps the runtime (pools, lanes) and announces its experts in the DHT */
struct hm_server_options {
    const char *device;                      /* NULL: "auto" */
    uint32_t batch_rows_max, queue_rows_max; /* 0: 2,048 and 65,536 */
    /* A lane that is free waits so long for batch_rows_preferred rows (0: for a full batch). */
    uint32_t batch_delay_max_us, batch_rows_preferred; /* 0: it does not wait */
    int equal_passes;      /* forwards and backwards take turns; else forwards go first */
    int save_interval_ms;  /* 0: at exit only; needs the node's state_dir */
    unsigned lane_threads; /* 0: all that the lane's place has */
    const char *codecs;    /* that callers may use besides none: "f16,u8"; NULL: all */
};
struct hm_expert_options {
    const char *kind; /* "ffn", "nop", "nop_delay"; NULL: "ffn" */
    uint32_t hidden;
    const char *dtype;     /* of products: "f32", "bf16"; NULL: "f32"; what is kept is f32 */
    const char *optimizer; /* NULL: "adam" */
    float rate;            /* learning rate; 0: 0.001 */
    float clip_norm;       /* 0: no clipping */
    float weight_decay;
    uint64_t seed;
    uint32_t delay_us; /* nop_delay: what a batch takes, asleep */
};
int hm_server_open(struct hm_node *node, const struct hm_server_options *options,
                   struct hm_server **server);
/* A uid or a pattern ("ffn.[0:4].[0:4]"), before start; experts are restored from their
 * checkpoints. */
int hm_server_host(struct hm_server *server, const char *pattern,
                   const struct hm_expert_options *options);
int hm_server_start(struct hm_server *server);                 /* serves and announces */
int hm_server_drain(struct hm_server *server, int timeout_ms); /* withdraw, finish, save */
/* Drains if that has not been done; its memory goes with the node's. */
void hm_server_close(struct hm_server *server);

#ifdef __cplusplus
}
#endif
#endif
