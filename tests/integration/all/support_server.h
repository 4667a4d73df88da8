/* A node that serves and nodes that call it, in one process, over real sockets; calls that a test builds itself; the same
 * experts at hand, to know what the answers should be; and a way to hold the server's lane.
 *
 * Callbacks run on the nodes' loops, where a failing cmocka check would leap from the wrong thread: there HM_ASSERT judges. */
#ifndef HM_TEST_SUPPORT_SERVER_H
#define HM_TEST_SUPPORT_SERVER_H

#include "test.h"

#include "api/node.h"
#include "base/assert.h"
#include "base/rng.h"
#include "experts/expert.h"
#include "moe/call.h"
#include "server/internal.h"

enum {
    COLUMNS = 16,
    WIDE_COLUMNS = 2048,
    BATCH_ROWS = 16,
    QUEUE_ROWS = 64,
    PARTS_MAX = 8,
    ROWS_MAX = 256
};

/* ---- the swarm */

struct swarm {
    char dir[64]; /* the server's state folder; stays over a restart */
    char line[HM_JOIN_LINE_BYTES];
    struct hm_node *a, *b; /* serves; calls, and does not listen */
    struct hm_server *server;
    struct hm_peer *peer; /* a, as b knows it */
    int save_interval_ms;
    const char *codecs; /* that the server takes; NULL: all */
};
/* nop.0, nop.1, wide.0 (a nop of WIDE_COLUMNS), and ffn.0 to ffn.7: adam, equal to local experts of the same uid. */
void swarm_open(struct swarm *swarm, int save_interval_ms);
void swarm_open_taking(struct swarm *swarm, const char *codecs);
void swarm_close(struct swarm *swarm); /* removes the folder too */
/* a and its server, without and with what is in the folder. */
void swarm_serve(struct swarm *swarm);
void swarm_stop(struct swarm *swarm);
struct hm_peer *peer_get(struct hm_node *from, struct hm_node *to);
void peer_put(struct hm_node *from, struct hm_peer *peer);
size_t bytes_used(struct hm_node *node);              /* of its buffers */
uint64_t steps(struct swarm *swarm, const char *uid); /* as an answer says */
void remove_folder(const char *path);
void nap(void); /* 2 ms */

/* ---- calls */

struct answer {
    unsigned count; /* of answers to this part: 1, or something is wrong */
    enum hm_status status;
    struct hm_call_answer head;
    uint8_t *coded; /* as they came */
    float *rows;
};
struct raw {
    struct hm_call_head head;
    struct hm_call_part part[PARTS_MAX];
    const float *x, *dy; /* head.row_count rows each; head.codec (0: none) codes them */
    hm_ns timeout;
    /* Changes what is about to be sent; both buffers have room for 64 bytes more.  NULL: nothing. */
    void (*spoil)(struct raw *raw, uint8_t *header, size_t *header_bytes, uint8_t *payload,
                  size_t *payload_bytes);
    void *arg;
    /* what came */
    struct answer answer[PARTS_MAX];
    enum hm_status whole; /* an answer about the whole call; HM_INPROGRESS: none came */
    unsigned replies, ends;
    enum hm_status end;
    /* its own */
    struct flight *flight;
    struct hm_call call;
    struct hm_buf *payload;
    uint8_t header[HM_CALL_HEADER_BYTES_MAX];
    unsigned pulls;
};
/* Calls on their way together. */
struct flight {
    struct hm_node *from;
    struct hm_peer *to;
    struct raw *raw;
    unsigned count, left;
    struct hm_wait *wait;
};
/* A call without parts of `rows` rows; its sequence is new. */
void raw_init(struct raw *raw, enum hm_pass pass, const float *x, const float *dy, uint32_t rows);
/* Rows [first, first + count) for index NULL.  uid may be malformed. */
void raw_add(struct raw *raw, const char *uid, uint32_t first, uint32_t count,
             const uint32_t *index, const float *scale);
void raw_fini(struct raw *raw);
void flight_start(struct flight *flight, struct hm_node *from, struct hm_peer *to, struct raw *raw,
                  unsigned count);
void flight_wait(struct flight *flight);
void flight_cancel(struct flight *flight);
bool flight_ended(struct flight *flight); /* are all of them? */
void raw_run(struct swarm *swarm, struct raw *raw);
/* One part of all rows to `uid`, run; the part's status. */
enum hm_status pass_run(struct swarm *swarm, const char *uid, enum hm_pass pass, const float *x,
                        const float *dy, uint32_t rows, float *out, uint64_t *step);

/* ---- the same expert here */

struct local {
    struct hm_device *device;
    struct hm_expert *expert;
    struct hm_exec exec;
};
void local_open(struct local *local, const char *uid);
void local_close(struct local *local);
void local_forward(struct local *local, const float *x, uint32_t rows, float *y);
void local_backward(struct local *local, const float *x, const float *dy, uint32_t rows, float *dx);
void fill_normal(float *x, size_t count, uint64_t seed);
/* to[i] = scale[i] (NULL: 1) * from[index[i]], rows of COLUMNS */
void gather_rows(const float *from, const uint32_t *index, const float *scale, uint32_t count,
                 float *to);
/* Norm-wise, relative. */
void assert_rows_near(const float *got, const float *wanted, size_t count, double tolerance);

/* ---- the lane, held */

struct gate {
    struct hm_node *node;
    struct hm_lane *lane;
    struct hm_sched *sched;
    struct hm_pool *pool;
    struct hm_task task;
    struct hm_event entered, released;
    struct hm_wait *wait;
};
/* From here on no batch of the expert's lane runs. */
void gate_shut(struct gate *gate, struct swarm *swarm, const char *uid);
void gate_open(struct gate *gate);
/* Waits until the expert's pool holds so many rows. */
void wait_queued(struct swarm *swarm, const char *uid, enum hm_pass pass, uint32_t rows);

#endif
