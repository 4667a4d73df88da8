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

/* C [m, n] = op(A) op(B) + beta C, row-major, op(A) [m, k], op(B) [k, n]; a transposed operand is
 * stored the other way round (A as [k, m]).  Dense: the leading dimensions are the stored columns.
 * m, n or k may be 0. */
HM_MUST_CHECK enum hm_status hm_cpu_gemm(bool transpose_a, bool transpose_b, size_t m, size_t n,
                                         size_t k, const float *a, const float *b, float beta,
                                         float *c);

/* cpu_linear.c: what stands around the GEMMs, and activations */
enum hm_status hm_cpu_linear(struct hm_stream *s, const struct hm_tensor *x,
                             const struct hm_tensor *w, const struct hm_tensor *bias,
                             enum hm_activation act, struct hm_tensor *y);
enum hm_status hm_cpu_linear_dx(struct hm_stream *s, const struct hm_tensor *dy,
                                const struct hm_tensor *w, struct hm_tensor *dx);
enum hm_status hm_cpu_linear_dw(struct hm_stream *s, const struct hm_tensor *x,
                                const struct hm_tensor *dy, struct hm_tensor *dw,
                                struct hm_tensor *dbias);
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
                                      const struct hm_tensor *dy, struct hm_tensor *dx,
                                      struct hm_tensor *dscale, struct hm_tensor *dshift);
enum hm_status hm_cpu_softmax(struct hm_stream *s, const struct hm_tensor *x, struct hm_tensor *y);
enum hm_status hm_cpu_softmax_grad(struct hm_stream *s, const struct hm_tensor *y,
                                   const struct hm_tensor *dy, struct hm_tensor *dx);
enum hm_status hm_cpu_cross_entropy(struct hm_stream *s, const struct hm_tensor *logits,
                                    const int64_t *label, float scale, float *loss,
                                    struct hm_tensor *dlogits);

/* cpu_optimizer.c: one pass over flat arrays */
enum hm_status hm_cpu_norm(struct hm_stream *s, const float *x, size_t count, double *norm,
                           bool *finite);
enum hm_status hm_cpu_sgd(struct hm_stream *s, float rate, float momentum, float weight_decay,
                          float gradient_scale, size_t count, float *param, const float *grad,
                          float *velocity);
enum hm_status hm_cpu_adam(struct hm_stream *s, const struct hm_adam *conf, uint64_t step,
                           float rate, float gradient_scale, size_t count, float *param,
                           const float *grad, float *m, float *v);

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
