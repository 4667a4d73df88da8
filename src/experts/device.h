/* experts/device.h - where tensors live and math runs: cpu (oneDNN); a cuda module fills the same
 * table.
 *
 * The whole op set.  Expert kinds, optimizers and the trainer's local layers are written against it
 * once; tests/conformance/experts/test_ops.c runs every op on every device in modes test and grad.
 *
 * Tensors: f32, dense, row-major [rows, columns]; a leading shape of more dims counts as rows.
 *          Weights are [out, in] as in PyTorch.  Activations are written (=); parameter gradients
 *          are accumulated (+=) (the rule of llm.c).
 * Order:   ops on one stream run in order; the cpu's are done when they return.  Nothing of a
 *          caller's may be freed before `sync` (or a recorded event) says so.
 * Errors:  HM_ERR_DEVICE for the library's failures; shapes are the caller's logic, and asserted.
 * Thread:  one thread a stream.  No op allocates after the first call at a size. */
#ifndef HM_EXPERTS_DEVICE_H
#define HM_EXPERTS_DEVICE_H

#include "tensor/codec.h"
#include "tensor/tensor.h"

struct hm_device;
struct hm_stream {
    struct hm_device *device;
};
/* GELU: exact, with erf, as PyTorch's default */
enum hm_activation { HM_ACT_NONE, HM_ACT_RELU, HM_ACT_GELU };
struct hm_adam {
    float beta1, beta2, epsilon;
    float weight_decay; /* decoupled (Loshchilov & Hutter 2019); 0: plain Adam */
};

struct hm_device_ops {
    const char *name;
    /* setup */
    HM_MUST_CHECK enum hm_status (*stream_create)(struct hm_device *device,
                                                  struct hm_stream **stream);
    void (*stream_destroy)(struct hm_stream *stream);
    HM_MUST_CHECK enum hm_status (*alloc)(struct hm_device *device, size_t bytes,
                                          struct hm_span *out); /* zeroed */
    void (*free)(struct hm_device *device, struct hm_span *span);
    HM_MUST_CHECK enum hm_status (*sync)(struct hm_stream *s);
    HM_MUST_CHECK enum hm_status (*zero)(struct hm_stream *s, void *base, size_t bytes);
    /* rows: to[i] = scale[i] * from[index[i]]; index NULL: i; scale NULL: 1. */
    HM_MUST_CHECK enum hm_status (*gather)(struct hm_stream *s, const struct hm_tensor *from,
                                           const uint32_t *index, const float *scale,
                                           struct hm_tensor *to);
    /* gather out of coded rows (tensor/codec.h), in one pass: the first half of every batch.
     * `finite`: every value is; else what is in `to` means nothing.  encode: coded row i of `to` is
     * row i of `from`; `finite`: likewise, and the codec can say them. */
    HM_MUST_CHECK enum hm_status (*decode)(struct hm_stream *s, const struct hm_codec *codec,
                                           const void *from, const uint32_t *index,
                                           const float *scale, struct hm_tensor *to, bool *finite);
    HM_MUST_CHECK enum hm_status (*encode)(struct hm_stream *s, const struct hm_codec *codec,
                                           const struct hm_tensor *from, void *to, bool *finite);
    /* y = act(x w^T + bias); bias NULL: none.  x [rows, in], w [out, in], y [rows, out]. */
    HM_MUST_CHECK enum hm_status (*linear)(struct hm_stream *s, const struct hm_tensor *x,
                                           const struct hm_tensor *w, const struct hm_tensor *bias,
                                           enum hm_activation act, struct hm_tensor *y);
    /* dx = dy w */
    HM_MUST_CHECK enum hm_status (*linear_dx)(struct hm_stream *s, const struct hm_tensor *dy,
                                              const struct hm_tensor *w, struct hm_tensor *dx);
    /* dw += dy^T x; dbias += column sums of dy; either may be NULL */
    HM_MUST_CHECK enum hm_status (*linear_dw)(struct hm_stream *s, const struct hm_tensor *x,
                                              const struct hm_tensor *dy, struct hm_tensor *dw,
                                              struct hm_tensor *dbias);
    /* stats [rows, 2]: mean and 1 / sqrt(variance + epsilon), for the gradient */
    HM_MUST_CHECK enum hm_status (*layer_norm)(struct hm_stream *s, const struct hm_tensor *x,
                                               const struct hm_tensor *scale,
                                               const struct hm_tensor *shift, float epsilon,
                                               struct hm_tensor *y, struct hm_tensor *stats);
    /* dx may be dy; dscale and dshift are accumulated */
    HM_MUST_CHECK enum hm_status (*layer_norm_grad)(struct hm_stream *s, const struct hm_tensor *x,
                                                    const struct hm_tensor *stats,
                                                    const struct hm_tensor *scale,
                                                    const struct hm_tensor *dy,
                                                    struct hm_tensor *dx, struct hm_tensor *dscale,
                                                    struct hm_tensor *dshift);
    /* x is what went into the activation (for RELU its output does as well); dx may be dy. */
    HM_MUST_CHECK enum hm_status (*activation)(struct hm_stream *s, enum hm_activation act,
                                               const struct hm_tensor *x, struct hm_tensor *y);
    HM_MUST_CHECK enum hm_status (*activation_grad)(struct hm_stream *s, enum hm_activation act,
                                                    const struct hm_tensor *x,
                                                    const struct hm_tensor *dy,
                                                    struct hm_tensor *dx);
    /* y = a + b; y may be a or b */
    HM_MUST_CHECK enum hm_status (*add)(struct hm_stream *s, const struct hm_tensor *a,
                                        const struct hm_tensor *b, struct hm_tensor *y);
    /* y = softmax over the columns of x (-inf gives 0 where another column is finite); y may be x.
     * dx = (dy - sum(dy * y)) * y; dx may be dy. */
    HM_MUST_CHECK enum hm_status (*softmax)(struct hm_stream *s, const struct hm_tensor *x,
                                            struct hm_tensor *y);
    HM_MUST_CHECK enum hm_status (*softmax_grad)(struct hm_stream *s, const struct hm_tensor *y,
                                                 const struct hm_tensor *dy, struct hm_tensor *dx);
    /* loss: mean over rows of -log softmax(logits)[label]; dlogits: its gradient times `scale`.
     * rows >= 1; labels in [0, columns) are the caller's to check. */
    HM_MUST_CHECK enum hm_status (*cross_entropy)(struct hm_stream *s,
                                                  const struct hm_tensor *logits,
                                                  const int64_t *label, float scale, float *loss,
                                                  struct hm_tensor *dlogits);
    /* optimizer: one pass over parameters, gradients and slots.  norm: the square root of the sum
     * of squares; `finite` is whether every value is (so it is also the check for any tensor). */
    HM_MUST_CHECK enum hm_status (*norm)(struct hm_stream *s, const float *x, size_t count,
                                         double *norm, bool *finite);
    HM_MUST_CHECK enum hm_status (*sgd)(struct hm_stream *s, float rate, float momentum,
                                        float weight_decay, float gradient_scale, size_t count,
                                        float *param, const float *grad,
                                        float *velocity /* NULL: no momentum */);
    /* step counts from 1 (bias correction; Kingma & Ba 2015, algorithm 1) */
    HM_MUST_CHECK enum hm_status (*adam)(struct hm_stream *s, const struct hm_adam *conf,
                                         uint64_t step, float rate, float gradient_scale,
                                         size_t count, float *param, const float *grad, float *m,
                                         float *v);
};
struct hm_device {
    const struct hm_device_ops *ops;
};

/* The CPU.  Its team of threads is OpenMP's, of the thread that calls: the lane's cpuset bounds
 * it. */
HM_MUST_CHECK enum hm_status hm_device_cpu_create(struct hm_device **device);
/* Threads of the calling thread's OpenMP team from now on; 0: as many as its cpuset has
 * processors. */
void hm_device_cpu_team(unsigned threads);
void hm_device_destroy(struct hm_device *device);

#endif
