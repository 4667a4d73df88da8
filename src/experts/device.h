/* experts/device.h - where tensors live and math runs: cpu (oneDNN); a cuda module fills the same
 * table.
 *
 * The whole op set.  Expert kinds, optimizers and the trainer's local layers are written against it
 * once; tests/conformance/experts/test_ops.c runs every op on every device in modes test and grad.
 *
 * Tensors: f32, dense, row-major [rows, columns]; a leading shape of more dims counts as rows.
 *          Weights are [out, in] as in PyTorch, in the strides that hm_weights says.  Activations
 *          are written (=); parameter gradients are written, or accumulated (+=) where asked.
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

/* Where the elements of a weight matrix lie: (o, i) is at o * out_stride + i * in_stride, and one of
 * the strides is 1.  What lies between rows is zero, and stays so. */
struct hm_layout {
    uint32_t out_stride, in_stride;
    size_t elements;
};
/* A weight matrix, or the gradient of one.  Products are in f32, with `data`; or in bf16, where
 * there is a packed copy: both factors rounded to bf16 (to nearest even), sums in f32. */
struct hm_packed;
struct hm_weights {
    uint32_t out, in;
    struct hm_layout layout;
    float *data;
    struct hm_packed *packed; /* of a gradient: NULL, and that of its weights says how */
};
/* Weights in PyTorch's layout. */
struct hm_weights hm_weights_dense(float *data, uint32_t out, uint32_t in);
/* How products in bf16 are computed: in the library's own layout by bf16 instructions, or, where the
 * CPU has none, in f32 from copies of the rounded factors.  The values are the same but for the
 * order of sums. */
enum hm_bf16_way { HM_BF16_ROUNDED, HM_BF16_LIBRARY };

/* What is done to each row of a product: y = product + bias + add; then, if there is a norm,
 * result = act(LN(y)), else y = act(y).  NULL: none.  add may be y's input of the same shape. */
struct hm_norm {
    const struct hm_tensor *scale, *shift;
    float epsilon;
    struct hm_tensor *stats, *result;
};
struct hm_epilogue {
    const struct hm_tensor *bias, *add;
    const struct hm_norm *norm;
    enum hm_activation act;
};

/* One array of an optimizer's pass, with as much of each slot. */
enum { HM_DEVICE_SLOTS_MAX = 2 };
struct hm_update {
    size_t count;
    float *param;
    const float *grad;
    float *slot[HM_DEVICE_SLOTS_MAX];
    struct hm_packed *packed; /* param is its weights' data: packed again in the same pass */
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
    /* Whether loops over so many elements, and f32 products of so many multiplications, are done by the
     * thread that asks for them, alone.  NULL: none are. */
    bool (*is_alone)(const struct hm_device *device, uint64_t elements, uint64_t multiplications);
    /* The layout in which weights are best kept here, with room for `elements`. */
    void (*weights_layout)(struct hm_device *device, uint32_t out, uint32_t in,
                           struct hm_layout *layout);
    /* A copy of w for products in bf16 (w->packed is the caller's to set).  pack: w's data was
     * written by somebody else than an optimizer. */
    HM_MUST_CHECK enum hm_status (*pack_create)(struct hm_device *device,
                                                const struct hm_weights *w,
                                                struct hm_packed **packed);
    void (*pack_destroy)(struct hm_device *device, struct hm_packed *packed);
    HM_MUST_CHECK enum hm_status (*pack)(struct hm_stream *s, struct hm_packed *packed);
    /* For people: "oneDNN, AMX".  *way: how packed copies made from now on work. */
    const char *(*bf16_text)(const struct hm_device *device, enum hm_bf16_way *way);
    /* y = x w^T, then the epilogue (NULL: none).  x [rows, in], y [rows, out]. */
    HM_MUST_CHECK enum hm_status (*linear)(struct hm_stream *s, const struct hm_tensor *x,
                                           const struct hm_weights *w,
                                           const struct hm_epilogue *epilogue, struct hm_tensor *y);
    /* dx = dy w + add; add NULL: none */
    HM_MUST_CHECK enum hm_status (*linear_dx)(struct hm_stream *s, const struct hm_tensor *dy,
                                              const struct hm_weights *w,
                                              const struct hm_tensor *add, struct hm_tensor *dx);
    /* dw = dy^T x, in the way of products with w; dbias = column sums of dy (NULL: not wanted); or
     * += of both */
    HM_MUST_CHECK enum hm_status (*linear_dw)(struct hm_stream *s, const struct hm_tensor *x,
                                              const struct hm_tensor *dy,
                                              const struct hm_weights *w, bool accumulate,
                                              struct hm_weights *dw, struct hm_tensor *dbias);
    /* stats [rows, 2]: mean and 1 / sqrt(variance + epsilon), for the gradient; y may be x */
    HM_MUST_CHECK enum hm_status (*layer_norm)(struct hm_stream *s, const struct hm_tensor *x,
                                               const struct hm_tensor *scale,
                                               const struct hm_tensor *shift, float epsilon,
                                               struct hm_tensor *y, struct hm_tensor *stats);
    /* `relu`: what ReLU made of the norm's result, whose gradient dy then is; NULL: there was none.
     * dx may be dy; dscale and dshift are written, or accumulated. */
    HM_MUST_CHECK enum hm_status (*layer_norm_grad)(
        struct hm_stream *s, const struct hm_tensor *x, const struct hm_tensor *stats,
        const struct hm_tensor *scale, const struct hm_tensor *relu, const struct hm_tensor *dy,
        bool accumulate, struct hm_tensor *dx, struct hm_tensor *dscale, struct hm_tensor *dshift);
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
    /* norm: the square root of the sum of squares; `finite` is whether every value is (so it is
     * also the check for any tensor).  largest: magnitude; infinite if a value is not finite. */
    HM_MUST_CHECK enum hm_status (*norm)(struct hm_stream *s, const float *x, size_t count,
                                         double *norm, bool *finite);
    HM_MUST_CHECK enum hm_status (*largest)(struct hm_stream *s, const struct hm_tensor *x,
                                            float *largest);
    /* optimizers: one pass over parameters, gradients, slots and packed copies.
     * sgd: slot 0 is the velocity; NULL: no momentum. */
    HM_MUST_CHECK enum hm_status (*sgd)(struct hm_stream *s, float rate, float momentum,
                                        float weight_decay, float gradient_scale,
                                        const struct hm_update *updates, unsigned update_count);
    /* Slots m and v.  step counts from 1 (bias correction; Kingma & Ba 2015, algorithm 1). */
    HM_MUST_CHECK enum hm_status (*adam)(struct hm_stream *s, const struct hm_adam *conf,
                                         uint64_t step, float rate, float gradient_scale,
                                         const struct hm_update *updates, unsigned update_count);
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
/* How copies that are packed from now on work; HM_ERR_UNSUPPORTED (with a line) where the CPU or the
 * library cannot.  For tests: a device chooses by itself. */
HM_MUST_CHECK enum hm_status hm_device_cpu_set_bf16(struct hm_device *device, enum hm_bf16_way way);
void hm_device_destroy(struct hm_device *device);

#endif
