/* experts/expert.h - an expert: a kind (const code), parameters, optimizer state; no threads, no
 * network.
 *
 * Life:    hm_expert_create -> [hm_checkpoint_load] -> forward / backward from one lane thread ->
 *          hm_expert_destroy.
 * Memory:  parameters, gradients and slots are one device allocation each, made at create. */
#ifndef HM_EXPERTS_EXPERT_H
#define HM_EXPERTS_EXPERT_H

#include "base/loop.h"
#include "experts/device.h"

enum { HM_EXPERT_UID_BYTES = 128, HM_PARAMETERS_MAX = 64, HM_SLOTS_MAX = 2 };

struct hm_expert;
struct hm_expert_conf {
    const char *kind;      /* "ffn", "nop", "nop_delay" */
    uint32_t hidden;       /* columns of a row, in and out */
    const char *optimizer; /* "sgd", "adam", "adamw" */
    float rate;            /* learning rate */
    float clip_norm;       /* gradients of a larger global norm are scaled down to it; 0: never */
    float weight_decay;    /* adamw, sgd */
    float momentum;        /* sgd */
    hm_ns delay;           /* nop_delay: what a batch takes */
    uint64_t seed;         /* of the first parameters: equal seeds and uids give equal experts */
};
/* One parameter tensor: a range of the flat parameter array, with the name it has in checkpoints
 * and in PyTorch. */
struct hm_parameter {
    const char *name; /* "ffn.0.weight" */
    struct hm_shape shape;
    size_t offset; /* elements */
};
struct hm_plan {
    struct hm_schema input, output;
    unsigned parameter_count;
    struct hm_parameter parameter[HM_PARAMETERS_MAX];
    size_t parameter_elements;
    hm_ns delay; /* nop_delay */
    /* forward and backward; the lane's arena holds batch_rows_max times this */
    size_t scratch_bytes_per_row;
};
struct hm_exec { /* one batch's surroundings: the lane's */
    struct hm_device *device;
    struct hm_stream *stream;
    struct hm_span scratch; /* at least rows * scratch_bytes_per_row */
};
struct hm_expert_kind {
    const char *name;
    HM_MUST_CHECK enum hm_status (*plan)(const struct hm_expert_conf *conf, struct hm_plan *plan);
    void (*init)(const struct hm_plan *plan, uint64_t seed, float *parameters); /* host, f32 */
    /* x, y: rows first.  Writes y (=); keeps nothing. */
    HM_MUST_CHECK enum hm_status (*forward)(struct hm_exec *exec, const struct hm_plan *plan,
                                            const float *parameters, const struct hm_tensor *x,
                                            struct hm_tensor *y);
    /* Recomputes forward.  dx is written (=); dparameters is accumulated (+=).  No optimizer
     * step. */
    HM_MUST_CHECK enum hm_status (*backward)(struct hm_exec *exec, const struct hm_plan *plan,
                                             const float *parameters, const struct hm_tensor *x,
                                             const struct hm_tensor *dy, struct hm_tensor *dx,
                                             float *dparameters);
};
struct hm_optimizer {
    const char *name;
    unsigned slot_count;                 /* f32 arrays of state, each as long as the parameters */
    const char *slot_name[HM_SLOTS_MAX]; /* "exp_avg", "exp_avg_sq" */
    HM_MUST_CHECK enum hm_status (*step)(struct hm_exec *exec, const struct hm_expert_conf *conf,
                                         uint64_t step, float gradient_scale, size_t count,
                                         float *param, const float *grad, float *const *slot);
};
/* NULL, and an hm_fail line naming the known ones. */
const struct hm_expert_kind *hm_expert_kind_find(const char *name);
const struct hm_optimizer *hm_optimizer_find(const char *name);

/* Plans, allocates and initialises.  HM_ERR_INVALID (with a line) for a conf that makes no
 * sense. */
HM_MUST_CHECK enum hm_status hm_expert_create(struct hm_device *device, const char *uid,
                                              const struct hm_expert_conf *conf,
                                              struct hm_expert **expert);
void hm_expert_destroy(struct hm_expert *expert);
const char *hm_expert_uid(const struct hm_expert *expert);
const struct hm_expert_conf *hm_expert_conf(const struct hm_expert *expert);
const struct hm_plan *hm_expert_plan(const struct hm_expert *expert);
uint64_t hm_expert_step(const struct hm_expert *expert); /* optimizer steps made so far */
float *hm_expert_parameters(struct hm_expert *expert);
float *hm_expert_slot(struct hm_expert *expert, unsigned slot);
unsigned hm_expert_slot_count(const struct hm_expert *expert);
const struct hm_optimizer *hm_expert_optimizer(const struct hm_expert *expert);
/* A checkpoint was loaded into the arrays. */
void hm_expert_set_step(struct hm_expert *expert, uint64_t step);

/* y [rows, out] = forward(x [rows, in]).
 * Errors:  where y has a non-finite value, HM_ERR_NUMERIC if x has one (the caller's fault), else
 *          HM_ERR_EXPERT_NUMERIC.
 * Thread:  lane. */
HM_MUST_CHECK enum hm_status hm_expert_forward(struct hm_expert *expert, struct hm_exec *exec,
                                               const struct hm_tensor *x, struct hm_tensor *y);
/* Recomputes forward, writes dx, and makes exactly one optimizer step; on any error nothing has
 * been stepped.
 * Errors:  HM_ERR_NUMERIC if x or dy is not finite (the caller's fault), HM_ERR_EXPERT_NUMERIC if
 *          dx or a gradient is not.
 * Thread:  lane.  Cost: 6 * rows * parameters flops, and one pass over parameters and slots. */
HM_MUST_CHECK enum hm_status hm_expert_backward(struct hm_expert *expert, struct hm_exec *exec,
                                                const struct hm_tensor *x,
                                                const struct hm_tensor *dy, struct hm_tensor *dx);

#endif
