/* experts/cpu.h - shared by the files of the CPU device only: its ops, and how a loop is spread
 * over the team.
 *
 * An op is a loop over rows (or blocks of columns, or chunks of a flat array) around a small
 * kernel.  The loop is OpenMP's; the kernel is compiled for several instruction sets, and the one
 * for this machine is chosen when the program is loaded. Every reduction has a fixed shape (16
 * partial sums, 64 chunks), and nothing is contracted or reassociated: a result depends neither on
 * the number of threads nor on the instruction set.  (GEMMs are oneDNN's and promise less: equal
 * results for equal shapes and teams.) */
#ifndef HM_EXPERTS_CPU_H
#define HM_EXPERTS_CPU_H

#include "base/assert.h"
#include "experts/device.h"

/* ifunc resolvers run before a sanitizer is up; a build without optimisation gains nothing from
 * clones. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__) &&    \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HM_CPU_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HM_CPU_CLONES
#endif

/* Below this many elements the wake-up of a team costs more than the loop. */
enum { HM_CPU_PARALLEL_MIN = 256 * 1024 };
/* Up to this many multiplications one thread does them: at 80 G a second and core they take 0.1 ms,
 * which the wake-up of a team that waits passively costs as well, and more on a machine that other
 * processes share (measured). */
enum { HM_CPU_TEAM_PRODUCT_MIN = 8 << 20 };
#define HM_CPU_PRAGMA(text) _Pragma(#text)
#if defined(_OPENMP) && !defined(__SANITIZE_THREAD__)
#define HM_CPU_PARALLEL(elements)                                                                  \
    HM_CPU_PRAGMA(omp parallel for schedule(static) if ((elements) >= HM_CPU_PARALLEL_MIN))
#else
#define HM_CPU_PARALLEL(elements)
#endif

/* Before an element-wise loop whose output may be exactly one of its inputs: without it gcc tests
 * for overlap at run time, and runs the loop one element at a time where the two are the same. */
#if defined(__GNUC__) && !defined(__clang__)
#define HM_CPU_IN_PLACE _Pragma("GCC ivdep")
#else
#define HM_CPU_IN_PLACE
#endif

/* A CPU device's stream: memory for what an op needs beside its tensors, and products that the library
 * has prepared. */
struct hm_cpu_products;
enum hm_cpu_work {
    HM_CPU_WORK_X,
    HM_CPU_WORK_DY,
    HM_CPU_WORK_OUT,
    HM_CPU_WORK_LIBRARY,
    HM_CPU_WORKS
};
struct hm_cpu_stream {
    struct hm_stream stream;
    struct hm_span work[HM_CPU_WORKS];
    struct hm_cpu_products *products; /* cpu_library.c; NULL until the first */
};
struct hm_cpu_library;
struct hm_cpu_device {
    struct hm_device device;
    struct hm_cpu_library *library; /* NULL: the CPU or the library has no products in bf16 */
    enum hm_bf16_way bf16_way;
};
static inline struct hm_cpu_stream *hm_cpu_stream_of(struct hm_stream *s)
{
    return HM_CONTAINER_OF(s, struct hm_cpu_stream, stream);
}
static inline struct hm_cpu_device *hm_cpu_device_of(const struct hm_device *device)
{
    return HM_CONTAINER_OF(device, struct hm_cpu_device, device);
}
static inline struct hm_cpu_library *hm_cpu_library_of(const struct hm_stream *s)
{
    return hm_cpu_device_of(s->device)->library;
}
/* device_cpu.c: at least that much memory of the stream's, until the next call for the same work; it
 * grows in powers of two, so that no size is met twice. */
HM_MUST_CHECK enum hm_status hm_cpu_work(struct hm_stream *s, enum hm_cpu_work work, size_t bytes,
                                         void **base);

/* cpu_gemm.c: C [m, n] = op(A) op(B) + beta C, row-major, op(A) [m, k], op(B) [k, n]; a transposed
 * operand is stored the other way round (A as [k, m]).  Strides: elements between stored rows.
 * m, n or k may be 0. */
struct hm_cpu_matrix {
    const float *data;
    size_t stride;
    bool transposed;
};
HM_MUST_CHECK enum hm_status hm_cpu_gemm(size_t m, size_t n, size_t k, struct hm_cpu_matrix a,
                                         struct hm_cpu_matrix b, float beta, float *c,
                                         size_t c_stride);

/* cpu_packed.c: copies of weights for products in bf16 */
struct hm_packed {
    enum hm_bf16_way way;
    struct hm_weights weights;      /* of which it is the copy */
    struct hm_span rounded;         /* ROUNDED: as the weights' data, each value rounded */
    struct hm_cpu_library *library; /* LIBRARY */
    struct hm_cpu_library_weights *copies;
};
void hm_cpu_weights_layout(struct hm_device *device, uint32_t out, uint32_t in,
                           struct hm_layout *layout);
enum hm_status hm_cpu_pack_create(struct hm_device *device, const struct hm_weights *w,
                                  struct hm_packed **packed);
void hm_cpu_pack_destroy(struct hm_device *device, struct hm_packed *packed);
enum hm_status hm_cpu_pack(struct hm_stream *s, struct hm_packed *packed);
/* Packing goes by pieces, each by one thread: piece i is of elements [*first, *first + *count) of
 * the weights' data.  False: the library failed. */
unsigned hm_cpu_pack_pieces(const struct hm_packed *packed);
void hm_cpu_pack_range(const struct hm_packed *packed, unsigned piece, size_t *first,
                       size_t *count);
HM_MUST_CHECK bool hm_cpu_pack_piece(const struct hm_packed *packed, unsigned piece);
/* To nearest even; NaN stays NaN. */
void hm_cpu_round(const float *from, float *to, size_t count);     /* as f32 */
void hm_cpu_narrow(const float *from, uint16_t *to, size_t count); /* as bf16 */
/* A matrix rounded into the stream's memory. */
HM_MUST_CHECK enum hm_status hm_cpu_round_matrix(struct hm_stream *s, enum hm_cpu_work work,
                                                 const struct hm_tensor *x, const float **rounded);

/* cpu_library.c: products in bf16 by the library's primitives, weights in its own layout.  A table,
 * since there may be none: NULL where this CPU, or the release of the library that this program was
 * built with, has no such products. */
struct hm_cpu_library_weights;
enum { HM_CPU_LIBRARY_PIECE = 64 };
struct hm_cpu_library {
    const char *text; /* "oneDNN, AMX" */
    bool fast;        /* with instructions of its own for bf16 */
    void (*destroy)(struct hm_cpu_library *library);
    enum hm_status (*weights_create)(struct hm_cpu_library *library, const struct hm_weights *w,
                                     struct hm_cpu_library_weights **packed);
    void (*weights_destroy)(struct hm_cpu_library_weights *packed);
    /* Packs the weights of HM_CPU_LIBRARY_PIECE inputs; false: the library failed. */
    bool (*pack_piece)(const struct hm_cpu_library_weights *packed, unsigned piece);
    enum hm_status (*linear)(struct hm_stream *s, const struct hm_tensor *x,
                             const struct hm_packed *w, struct hm_tensor *y);
    enum hm_status (*linear_dx)(struct hm_stream *s, const struct hm_tensor *dy,
                                const struct hm_packed *w, struct hm_tensor *dx);
    enum hm_status (*linear_dw)(struct hm_stream *s, const struct hm_tensor *x,
                                const struct hm_tensor *dy, const struct hm_packed *w,
                                bool accumulate, struct hm_weights *dw);
    void (*products_destroy)(struct hm_cpu_products *products);
};
struct hm_cpu_library *hm_cpu_library_create(void);

/* cpu_linear.c: what stands around the GEMMs, and activations */
enum hm_status hm_cpu_linear(struct hm_stream *s, const struct hm_tensor *x,
                             const struct hm_weights *w, const struct hm_epilogue *epilogue,
                             struct hm_tensor *y);
enum hm_status hm_cpu_linear_dx(struct hm_stream *s, const struct hm_tensor *dy,
                                const struct hm_weights *w, const struct hm_tensor *add,
                                struct hm_tensor *dx);
enum hm_status hm_cpu_linear_dw(struct hm_stream *s, const struct hm_tensor *x,
                                const struct hm_tensor *dy, const struct hm_weights *w,
                                bool accumulate, struct hm_weights *dw, struct hm_tensor *dbias);
enum hm_status hm_cpu_activation(struct hm_stream *s, enum hm_activation act,
                                 const struct hm_tensor *x, struct hm_tensor *y);
enum hm_status hm_cpu_activation_grad(struct hm_stream *s, enum hm_activation act,
                                      const struct hm_tensor *x, const struct hm_tensor *dy,
                                      struct hm_tensor *dx);
enum hm_status hm_cpu_add(struct hm_stream *s, const struct hm_tensor *a, const struct hm_tensor *b,
                          struct hm_tensor *y);
enum hm_status hm_cpu_gather(struct hm_stream *s, const struct hm_tensor *from,
                             const uint32_t *index, const float *scale, struct hm_tensor *to);

/* cpu_codec.c: coded rows */
enum hm_status hm_cpu_decode(struct hm_stream *s, const struct hm_codec *codec, const void *from,
                             const uint32_t *index, const float *scale, struct hm_tensor *to,
                             bool *finite);
enum hm_status hm_cpu_encode(struct hm_stream *s, const struct hm_codec *codec,
                             const struct hm_tensor *from, void *to, bool *finite);

/* cpu_norm.c: layer norm, softmax, cross entropy */
enum hm_status hm_cpu_layer_norm(struct hm_stream *s, const struct hm_tensor *x,
                                 const struct hm_tensor *scale, const struct hm_tensor *shift,
                                 float epsilon, struct hm_tensor *y, struct hm_tensor *stats);
enum hm_status hm_cpu_layer_norm_grad(struct hm_stream *s, const struct hm_tensor *x,
                                      const struct hm_tensor *stats, const struct hm_tensor *scale,
                                      const struct hm_tensor *relu, const struct hm_tensor *dy,
                                      bool accumulate, struct hm_tensor *dx,
                                      struct hm_tensor *dscale, struct hm_tensor *dshift);
/* One row: y = LN(x), ReLU of it if asked; y may be x; stat: two values */
void hm_cpu_norm_row(const float *x, const float *scale, const float *shift, float epsilon,
                     bool relu, float *y, float *stat, size_t n);
enum hm_status hm_cpu_softmax(struct hm_stream *s, const struct hm_tensor *x, struct hm_tensor *y);
enum hm_status hm_cpu_softmax_grad(struct hm_stream *s, const struct hm_tensor *y,
                                   const struct hm_tensor *dy, struct hm_tensor *dx);
enum hm_status hm_cpu_cross_entropy(struct hm_stream *s, const struct hm_tensor *logits,
                                    const int64_t *label, float scale, float *loss,
                                    struct hm_tensor *dlogits);

/* cpu_optimizer.c: one pass over flat arrays */
enum hm_status hm_cpu_norm(struct hm_stream *s, const float *x, size_t count, double *norm,
                           bool *finite);
enum hm_status hm_cpu_largest(struct hm_stream *s, const struct hm_tensor *x, float *largest);
enum hm_status hm_cpu_sgd(struct hm_stream *s, float rate, float momentum, float weight_decay,
                          float gradient_scale, const struct hm_update *updates,
                          unsigned update_count);
enum hm_status hm_cpu_adam(struct hm_stream *s, const struct hm_adam *conf, uint64_t step,
                           float rate, float gradient_scale, const struct hm_update *updates,
                           unsigned update_count);

/* Asserts that t is an f32 matrix of this size. */
static inline void hm_cpu_check(const struct hm_tensor *t, uint32_t rows, uint32_t columns)
{
    HM_ASSERT(t->dtype == HM_F32 && hm_rows(t) == rows && hm_columns(t) == columns);
}

/* Asserts that t is an f32 vector (bias, scale) of this many elements. */
static inline void hm_cpu_check_vector(const struct hm_tensor *t, uint32_t elements)
{
    HM_ASSERT(t->dtype == HM_F32 && (uint64_t)hm_rows(t) * hm_columns(t) == elements);
}

#endif
