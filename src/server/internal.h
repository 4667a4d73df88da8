/* server/internal.h - the server's own structures, shared by its files. */
#ifndef HM_SERVER_INTERNAL_H
#define HM_SERVER_INTERNAL_H

#include "base/thread.h"
#include "experts/checkpoint.h"
#include "experts/dedupe.h"
#include "moe/call.h"
#include "server/server.h"

/* One device and the thread that owns it; its buffers are touched while a batch runs, and so by one
 * thread at a time. */
struct hm_served_lane {
    struct hm_lane *lane;
    struct hm_pool *snapshots; /* saving takes its turn between batches, like any other work */
    struct hm_exec exec;
    struct hm_span x, dy; /* gathered rows of a batch */
    struct hm_span out;   /* its output, before it is coded; a row longer than the batch */
    unsigned team;
};

enum { HM_PASSES = 2 };
/* What a pool's batches are about: which expert, which pass. */
struct hm_served_pass {
    struct hm_hosted *hosted;
    enum hm_pass pass;
    struct hm_pool *pool;
};
struct hm_hosted {
    struct hm_map_node node; /* by uid */
    struct hm_link link;     /* in hosting order */
    struct hm_expert_server *server;
    struct hm_served_lane *lane;
    struct hm_uid uid;
    struct hm_expert *expert; /* the lane's once the server has started */
    struct hm_dedupe *dedupe; /* the loop's */
    struct hm_served_pass pass[HM_PASSES];
    uint64_t step;       /* the loop's copy, as of the last part that came back */
    uint64_t saved_step; /* of the newest checkpoint; UINT64_MAX: never saved */
};

/* A part of a call: its task, and what the lane needs to gather its rows.  Lives in its call's
 * `parts` buffer. */
struct hm_served_part {
    struct hm_task task;
    struct hm_served_call *call;
    struct hm_hosted *hosted;
    struct hm_call_part view;
    const void *x, *dy; /* the call's rows, coded; dy NULL in a forward */
    bool admitted;      /* its task is the scheduler's */
    hm_ns queued;       /* of a timed call, on hm_loop_clock; 0: not admitted */
    /* Written by the lane, read by the loop once the task has ended. */
    uint64_t step;
    bool stepped; /* an optimizer step was made with its rows */
    bool echoed;  /* its answer is its rows, where they arrived */
    /* Why it fails although its batch did not: HM_ERR_NUMERIC, its rows are not finite and were
     * left out; else what they made of the expert when they ran by themselves. */
    enum hm_status failed;
};
struct hm_served_call {
    struct hm_link link; /* calls_free or calls_busy */
    struct hm_expert_server *server;
    struct hm_request *request;
    struct hm_call_head head;
    struct hm_client_id client;
    struct hm_buf *slab;  /* table and rows */
    struct hm_buf *parts; /* struct hm_served_part[head.part_count] */
    unsigned parts_left;  /* to be answered; 0 while the payload is still being pulled */
    bool gone;            /* nobody listens any more */
    bool timed;           /* its answers say where the time went */
    hm_ns pull;           /* timed and announced: when its pull began, then how long it took */
};

struct hm_save;
struct hm_expert_server {
    struct hm_expert_server_conf conf;
    struct hm_topo_plan plan;
    struct hm_sched *sched;
    struct hm_device *cpu;
    struct hm_served_lane lane[HM_LANES_MAX];
    unsigned lane_count;
    struct hm_map hosted;
    struct hm_link hosted_list;
    uint64_t hash_seed;
    struct hm_served_call *calls; /* calls_max of them */
    struct hm_link calls_free, calls_busy;
    struct hm_method methods[3];
    bool started, draining;
    unsigned restored_count;
    uint64_t restored_step; /* the newest */
    /* announce.c */
    struct hm_timer announce_timer;
    uint64_t announce_count;
    unsigned announcing; /* declarations under way */
    int64_t started_wall_ns;
    uint64_t rows_done, rows_done_before; /* for the load in the server record */
    hm_ns rows_since;
    void (*start_done)(void *arg, enum hm_status status);
    void *start_arg;
    /* save.c */
    struct hm_worker *io;
    struct hm_save *save;
    uint64_t saved_count;
    /* drain.c */
    hm_ns drain_deadline;
    struct hm_timer drain_timer;
    enum hm_status drain_status;
    char drain_line[HM_ERROR_LINE_BYTES];
    void (*drain_done)(void *arg, enum hm_status status);
    void *drain_arg;
    struct hm_metric parts_ok, parts_failed, parts_refused, parts_duplicate;
    struct hm_metric checkpoints_saved, checkpoints_failed;
    struct hm_stages stages;
};

struct hm_hosted *hm_expert_server_find(const struct hm_expert_server *server, const char *uid);

static inline const struct hm_codec *hm_served_codec(const struct hm_served_part *part)
{
    return hm_codec_find(part->call->head.codec); /* known: the head was decoded */
}

/* handle_call.c */
void hm_expert_server_handle_call(void *arg, struct hm_request *request, const void *header,
                                  size_t header_bytes, struct hm_inbound *in);
void hm_expert_server_call_gone(void *arg, struct hm_request *request);
/* Cancels what of it still waits for a batch; its parts end in later turns. */
void hm_expert_server_call_cancel(struct hm_served_call *call);
/* Bytes of a coded row of the part's answer. */
size_t hm_expert_server_out_row_bytes(const struct hm_served_part *part);
/* Answers one part; its call is finished, and its memory gone, with the last one. */
void hm_expert_server_answer(struct hm_served_part *part, enum hm_status status,
                             const struct hm_rows *rows);
/* admit.c: HM_OK: the task is queued and will end.  Else nothing was kept; the status is the
 * answer. */
HM_MUST_CHECK enum hm_status hm_expert_server_admit(struct hm_served_part *part);
/* run.c: lane thread, and the loop's for brief batches; `arg` is a struct hm_served_pass. */
enum hm_status hm_expert_server_run_batch(void *arg, struct hm_batch *batch);
bool hm_expert_server_may_be_brief(void *arg, uint32_t row_count);
/* handle_info.c */
void hm_expert_server_handle_info(void *arg, struct hm_request *request, const void *header,
                                  size_t header_bytes, struct hm_inbound *in);
void hm_expert_server_handle_status(void *arg, struct hm_request *request, const void *header,
                                    size_t header_bytes, struct hm_inbound *in);
/* announce.c */
void hm_expert_server_announce_start(struct hm_expert_server *server);
void hm_expert_server_announce_stop(struct hm_expert_server *server);
void hm_expert_server_withdraw(struct hm_expert_server *server, hm_directory_cb cb);
/* save.c */
HM_MUST_CHECK enum hm_status hm_expert_server_save_start(struct hm_expert_server *server);
/* Saves every expert that has stepped since its last checkpoint; done has the first failure. */
void hm_expert_server_save_all(struct hm_expert_server *server,
                               void (*done)(struct hm_expert_server *server,
                                            enum hm_status status));
void hm_expert_server_save_stop(struct hm_expert_server *server); /* no save may be running */
enum hm_status hm_expert_server_run_snapshot(void *arg, struct hm_batch *batch); /* lane thread */

#endif
