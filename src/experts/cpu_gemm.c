/* experts/cpu_gemm.c - products in f32: oneDNN's sgemm.
 *
 * dnnl_sgemm stands unchanged in oneDNN 2.x and 3.x (whose primitive descriptors differ) and needs
 * no engine, stream or cache of primitives.  With 2.6 on AVX2 its matmul primitives run the same
 * kernels, and the layout that they ask for weights (format any) is a slower one; what counts there
 * is that no row of weights begins a power of two behind another (hm_cpu_weights_layout).  It packs
 * into memory of its own, which it allocates; nothing else on the hot path does.
 *
 * Failure modes: HM_ERR_DEVICE with oneDNN's status in the line (out of memory is the one that can
 * happen). */
#include "experts/cpu.h"

#include <oneapi/dnnl/dnnl.h>

#include <omp.h>

/* The team that dnnl_sgemm gets; ThreadSanitizer cannot see OpenMP's barriers, and would call a
 * team's work a race. */
static int team_for(size_t m, size_t n, size_t k)
{
#ifdef __SANITIZE_THREAD__
    (void)m, (void)n, (void)k;
    return 1;
#else
    return (double)m * (double)n * (double)k < HM_CPU_TEAM_PRODUCT_MIN ? 1 : omp_get_max_threads();
#endif
}

enum hm_status hm_cpu_gemm(size_t m, size_t n, size_t k, struct hm_cpu_matrix a,
                           struct hm_cpu_matrix b, float beta, float *c, size_t c_stride)
{
    if (m == 0 || n == 0) return HM_OK;
    if (k == 0) { /* an empty sum; oneDNN wants leading dimensions of at least 1 */
        for (size_t i = 0; i < m * n; i++) {
            float *to = &c[i / n * c_stride + i % n];
            *to = beta == 0.0f ? 0.0f : beta * *to;
        }
        return HM_OK;
    }
    int threads = omp_get_max_threads(); /* of teams of this thread; nobody else's */
    omp_set_num_threads(team_for(m, n, k));
    dnnl_status_t status =
        dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', (dnnl_dim_t)m, (dnnl_dim_t)n,
                   (dnnl_dim_t)k, 1.0f, a.data, (dnnl_dim_t)a.stride, b.data, (dnnl_dim_t)b.stride,
                   beta, c, (dnnl_dim_t)c_stride);
    omp_set_num_threads(threads);
    if (status == dnnl_success) return HM_OK;
    return hm_fail(HM_ERR_DEVICE, "oneDNN's sgemm failed with status %d; is there memory left?",
                   (int)status);
}
