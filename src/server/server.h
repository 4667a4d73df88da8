/* server/server.h - hosts experts: calls -> tasks -> replies, announcing, saving, draining.
 *
 * Wiring only: the Runtime is sched/, the math experts/, the network transport/.
 *
 *   create ─► host (experts made or restored) ─► start (serves, announces)
 *          ─► drain (withdraws, finishes, saves) ─► destroy
 *
 * Data takes one way: handle_call.c decodes a request, admit.c makes tasks of its parts, the
 * scheduler forms batches, run.c gathers their rows on the lane and computes, handle_call.c answers
 * each part from the batch's output slab.
 * Thread: loop, except host (before start: any thread that owns the server alone) and run.c. */
#ifndef HM_SERVER_SERVER_H
#define HM_SERVER_SERVER_H

#include "experts/expert.h"
#include "moe/directory.h"
#include "sched/sched.h"
#include "topo/topo.h"

struct hm_expert_server;
struct hm_expert_server_conf {
    struct hm_loop *loop;
    struct hm_rpc *rpc;
    struct hm_directory *directory;
    struct hm_buf_pool *buffers;
    struct hm_metrics *metrics;      /* NULL: none */
    const struct hm_topo_plan *plan; /* lanes; copied */
    const char *checkpoint_dir;      /* NULL: nothing is saved; the caller keeps it alive */
    uint32_t batch_rows_max;         /* of every pool */
    uint32_t queue_rows_max;         /* of every pool */
    uint32_t calls_max;              /* requests being served at once */
    uint32_t experts_max;
    uint64_t codecs; /* a set (tensor/codec.h), none always in it; 0: all */
    hm_ns batch_delay_max;
    uint32_t batch_rows_preferred;
    bool equal_passes;   /* forwards and backwards are one class; else forwards are more urgent */
    hm_ns save_interval; /* 0: at exit only */
    hm_ns declare_interval; /* 0: 30 s; server records live twice as long */
};
HM_MUST_CHECK enum hm_status hm_expert_server_create(const struct hm_expert_server_conf *conf,
                                                     struct hm_expert_server **server);
/* Makes an expert, restored from its newest checkpoint if there is one (*restored_step; 0: new).
 * HM_ERR_CORRUPT: checkpoints exist and none is readable; nothing is overwritten. */
HM_MUST_CHECK enum hm_status hm_expert_server_host(struct hm_expert_server *server,
                                                   const struct hm_uid *uid,
                                                   const struct hm_expert_conf *conf,
                                                   uint64_t *restored_step);
/* Lanes run, methods answer, the first announcement is made; `done` has its status.  On an error
 * from the call itself done never runs, and the server may only be destroyed. */
HM_MUST_CHECK enum hm_status hm_expert_server_start(struct hm_expert_server *server,
                                                    void (*done)(void *arg, enum hm_status status),
                                                    void *arg);
/* Withdraws, refuses new parts (HM_ERR_DRAINING), runs what is queued, saves every expert.  done
 * has the first failure; HM_ERR_TIMED_OUT if calls were still waiting at the deadline: they are
 * refused too. */
void hm_expert_server_drain(struct hm_expert_server *server, hm_ns deadline,
                            void (*done)(void *arg, enum hm_status status), void *arg);
/* After drain, and after rpc has closed, so that no request can come any more. */
void hm_expert_server_destroy(struct hm_expert_server *server);

/* How its bf16 experts compute ("oneDNN, AMX"); NULL: it has none. */
const char *hm_expert_server_bf16_text(const struct hm_expert_server *server);
unsigned hm_expert_server_restored_count(const struct hm_expert_server *server);
uint64_t hm_expert_server_restored_step(const struct hm_expert_server *server); /* the newest */
unsigned hm_expert_server_expert_count(const struct hm_expert_server *server);
uint64_t
hm_expert_server_saved_count(const struct hm_expert_server *server); /* checkpoints written */
/* {"experts":[{"uid":…,"step":…,"rows_queued":…}],"metrics":{…}}: what HM_METHOD_SERVER_STATUS
 * answers. */
void hm_expert_server_status_json(const struct hm_expert_server *server, struct hm_json *json);

#endif
