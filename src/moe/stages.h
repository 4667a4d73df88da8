/* moe/stages.h - where the time of a call goes: one histogram a stage, the trainer's six and the
 * server's four of them.
 *
 *   queue       asked for by the caller, until handed to rpc (trainer: loop, directory, slab)
 *   wire        the rest: both kernels, TLS, and the pull of an announced payload
 *   admit       the message is in the server's hands, until its part is queued or refused
 *   batch wait  queued, until the lane begins with it: other batches, and the lane's wake-up
 *   compute     its batch on the lane
 *   reply       until the answer is handed to rpc: the loop's wake-up, and what it does before
 *
 * Measured for calls that ask for it (HM_CALL_TIMED): one in HM_STAGES_EVERY, or each, as
 * hm_dispatch_time says.  The clocks of two machines never meet: durations travel, times do not.
 * Thread: the loop's. */
#ifndef HM_MOE_STAGES_H
#define HM_MOE_STAGES_H

#include "base/loop.h"
#include "base/metrics.h"

enum { HM_STAGES_EVERY = 64 };
enum hm_stage {
    HM_STAGE_ADMIT, /* the server's first: as they stand in an answer */
    HM_STAGE_WAIT,
    HM_STAGE_COMPUTE,
    HM_STAGE_REPLY,
    HM_SERVER_STAGES,
    HM_STAGE_QUEUE = HM_SERVER_STAGES,
    HM_STAGE_WIRE,
    HM_STAGES
};
struct hm_server_times {
    uint64_t stage[HM_SERVER_STAGES]; /* ns */
};
/* Metrics "server.admit_ns", ... or "moe.admit_ns", ... "moe.wire_ns". */
struct hm_stages {
    struct hm_histogram ns[HM_STAGES];
    struct hm_metric metric[HM_STAGES];
    unsigned count;
};
/* metrics NULL: none.  The memory stays where it is until fini. */
void hm_stages_init(struct hm_stages *stages, bool of_server, struct hm_metrics *metrics);
void hm_stages_fini(struct hm_stages *stages);
void hm_stages_clear(struct hm_stages *stages);

#endif
