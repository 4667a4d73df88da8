/* sim/lane.h - the simulated lane: a timer with a cost model in the place of a device.
 *
 * It runs the pool's real function, inline, so that what comes back is checked row by row; only the
 * time that passes is made up.  Batches are served one after another, in the order of launching.
 * Thread: the world's. */
#ifndef HM_SIM_LANE_H
#define HM_SIM_LANE_H

#include "sched/sched.h"

struct hm_sim_lane_conf {
    uint64_t seed;             /* of jitter and failures: two lanes want two seeds */
    hm_ns base_ns, row_ns;     /* a batch takes base_ns + rows * row_ns */
    uint32_t jitter_percent;   /* and up to this much longer */
    uint32_t fail_per_million; /* of batches: they end with `failure`, before or after they ran */
    enum hm_status failure;    /* HM_OK: HM_ERR_DEVICE */
    bool run_at_launch;   /* the function runs when the batch is launched, else when it is back */
    unsigned batches_max; /* at the lane at once; 0: 1 */
    hm_ns ahead_max;      /* hm_lane.ahead_max */
};

/* The scheduler must run on a world's loop.  Ends with hm_lane_destroy. */
HM_MUST_CHECK enum hm_status hm_sim_lane_create(struct hm_sched *sched, const char *device,
                                                const struct hm_sim_lane_conf *conf,
                                                struct hm_lane **lane);
/* A device that gets slow, fails or heals: from the next launch on.  Its seed,
 * batches_max, ahead_max and run_at_launch stay as they are. */
void hm_sim_lane_change(struct hm_lane *lane, const struct hm_sim_lane_conf *conf);

#endif
