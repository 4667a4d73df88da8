/* experts/expert.h - an expert: a kind (const code), parameters, optimizer state; no threads, no
 * network.
 *
 * Life:    hm_expert_create -> [hm_checkpoint_load] -> forward / backward from one lane thread ->
 *          hm_expert_destroy.
 * Memory:  parameters, gradients and slots are one device allocation each, made at create; their
 *          matrices lie in the layout that the device computes with.  A bf16 expert has a packed
 *          copy of each matrix as well; the parameters stay f32. */
#ifndef HM_EXPERTS_EXPERT_H
#define HM_EXPERTS_EXPERT_H

#include "base/loop.h"
#include "experts/device.h"

enum { HM_EXPERT_UID_BYTES = 128, HM_PARAMETERS_MAX = 64, HM_SLOTS_MAX = HM_DEVICE_SLOTS_MAX };

struct hm_expert;
struct hm_expert_conf {
    const char *kind;      /* "ffn", "nop", "nop_delay" */
    uint32_t hidden;       /* columns of a row, in and out */
    enum hm_dtype dtype;   /* of products: HM_F32 or HM_BF16 */
    const char *optimizer; /* "sgd", "adam", "adamw" */
    float rate;            /* learning rate */
    float clip_norm;       /* gradients of a larger global norm are scaled down to it; 0: never */
    float weight_decay;    /* adamw, sgd */
    float momentum;        /* sgd */
    hm_ns delay;           /* nop_delay: what a batch takes */
    uint64_t seed;         /* of the first parameters: equal seeds and uids give equal experts */
};
/* One parameter tensor with the name it has in checkpoints and in PyTorch.  Two dims are weights
 * [out, in], one is a vector.  The offset is where it begins when all lie dense, one behind the
 * other. */
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
    hm_ns delay;   /* nop_delay */
    bool identity; /* forward gives back its input: y may be x, and nothing is copied then */
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
    /* dense, host, f32 */
    void (*init)(const struct hm_plan *plan, uint64_t seed, float *parameters);
    /* x, y: rows first; parameters: one of each of the plan's, a vector as a matrix of one input.
     * Writes y (=); keeps nothing. */
    HM_MUST_CHECK enum hm_status (*forward)(struct hm_exec *exec, const struct hm_plan *plan,
                                            const struct hm_weights *parameters,
                                            const struct hm_tensor *x, struct hm_tensor *y);
    /* Recomputes forward.  dx and gradients are written (=).  No optimizer step.
     * *bound: no gradient is larger than this; infinite if that is not known. */
    HM_MUST_CHECK enum hm_status (*backward)(struct hm_exec *exec, const struct hm_plan *plan,
                                             const struct hm_weights *parameters,
                                             const struct hm_tensor *x, const struct hm_tensor *dy,
                                             struct hm_tensor *dx, struct hm_weights *gradients,
                                             double *bound);
};
struct hm_optimizer {
    const char *name;
    unsigned slot_count;                 /* f32 arrays of state, each as long as the parameters */
    const char *slot_name[HM_SLOTS_MAX]; /* "exp_avg", "exp_avg_sq" */
    HM_MUST_CHECK enum hm_status (*step)(struct hm_exec *exec, const struct hm_expert_conf *conf,
                                         uint64_t step, float gradient_scale,
                                         const struct hm_update *updates, unsigned update_count);
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
/* Where parameter i lies in each of the expert's arrays, from the element at `offset` on. */
struct hm_parameter_place {
    size_t offset;
    struct hm_layout layout;
};
const struct hm_parameter_place *
hm_expert_places(const struct hm_expert *expert); /* one a parameter */
/* Array 0 is the parameters, array 1 + i slot i; `elements` of each, with what lies between rows. */
float *hm_expert_array(struct hm_expert *expert, unsigned array);
size_t hm_expert_array_elements(const struct hm_expert *expert);
/* One parameter out of an array, or into it; dense: [out, in] as in PyTorch. */
void hm_parameter_get(const struct hm_parameter_place *place, const struct hm_parameter *parameter,
                      const float *array, float *dense);
void hm_parameter_put(const struct hm_parameter_place *place, const struct hm_parameter *parameter,
                      float *array, const float *dense);
unsigned hm_expert_slot_count(const struct hm_expert *expert);
const struct hm_optimizer *hm_expert_optimizer(const struct hm_expert *expert);
/* The arrays were written, by a checkpoint: packs what is packed.  Thread: before the lane, or the
 * lane. */
HM_MUST_CHECK enum hm_status hm_expert_loaded(struct hm_expert *expert, uint64_t step);

/* Whether a forward or a backward of so many rows is the calling thread's work alone, whichever it is:
 * it asks for no team, prepares nothing and does not sleep.  (How long it takes is another matter.)
 * Thread:  any. */
bool hm_expert_is_alone(const struct hm_expert *expert, uint32_t rows);
/* y [rows, out] = forward(x [rows, in]).  Where the plan says identity y may be x: then nothing is
 * done but the kind's delay, and no value is looked at.
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
/* The optimizer's pass alone, once more with the last backward's gradients: for measurements.
 * Thread:  lane.  Cost: one pass over parameters, gradients, slots and packed copies. */
HM_MUST_CHECK enum hm_status hm_expert_optimize(struct hm_expert *expert, struct hm_exec *exec);

#endif
