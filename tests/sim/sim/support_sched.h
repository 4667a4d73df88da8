/* A scheduler in a world, with tasks whose every row can be checked; for the tests of sched. */
#ifndef HM_SUPPORT_SCHED_H
#define HM_SUPPORT_SCHED_H

#include "test.h"

#include "base/assert.h"
#include "sched/sched.h"
#include "sim/lane.h"
#include "sim/world.h"

struct stage { /* one scheduler on the virtual clock */
    struct hm_world *world;
    struct hm_loop *loop;
    struct hm_buf_pool *buffers;
    struct hm_metrics metrics;
    struct hm_sched *sched;
    bool draining, drained;
};
/* A task with a number: run writes (number, row) into each of its rows, end checks them. */
struct job {
    struct hm_task task;
    struct stage *stage;
    struct bench *bench;
    uint32_t number;
    uint64_t client;
    enum hm_priority priority;
    bool submitted, ended, canceled, keep;
    enum hm_status status;
    hm_ns ended_at, ran_at; /* ran_at: when its last rows did */
    struct hm_rows rows;    /* kept, with a reference, if `keep` */
    void (*then)(struct job *job);
};
enum { BENCH_CLIENTS_MAX = 16 };
/* What the run function of a pool has seen. */
struct bench {
    struct hm_pool *pool;
    struct hm_lane *lane;
    uint32_t rows_max;
    bool lane_fails; /* some batches never get to run */
    size_t row_bytes;
    unsigned batches;
    uint32_t rows_most;
    /* Of each client in each class: who was served last, and the row after the last one run. */
    struct {
        uint32_t number, end;
    } last[BENCH_CLIENTS_MAX][HM_PRIORITIES];
    uint32_t batch_rows[64];
    uint32_t fail_every; /* batches; 0: never */
};

void stage_open(struct stage *stage, uint64_t seed, size_t buffer_bytes,
                const struct hm_policy *policy);
/* As stage_open, with fewer flows than there may be clients. */
void stage_open_flows(struct stage *stage, uint64_t seed, size_t buffer_bytes,
                      const struct hm_policy *policy, unsigned flows_max);
void stage_drain(struct stage *stage); /* begins; stage->drained tells the end */
/* Drains, within a virtual hour, and closes everything.  Gives the hash of the whole trace. */
uint64_t stage_close(struct stage *stage);
void stage_run_for(struct stage *stage, hm_ns duration); /* checks the scheduler after each event */
struct hm_lane *stage_lane(struct stage *stage, const struct hm_sim_lane_conf *conf);
/* Fills what is 0 in conf: run, arg, name, bounds that do not bind. */
void bench_open(struct stage *stage, struct bench *bench, struct hm_lane *lane,
                struct hm_pool_conf conf);
/* deadline: absolute.  Of job->client (< BENCH_CLIENTS_MAX), and class job->priority. */
enum hm_status job_submit(struct stage *stage, struct bench *bench, struct job *job,
                          uint32_t number, uint32_t rows, hm_ns deadline);
void job_cancel(struct job *job);
void job_release(struct job *job); /* checks the kept rows again and lets go of them */

#endif
