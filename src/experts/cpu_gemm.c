/* experts/cpu_gemm.c - the one file that knows oneDNN.
 *
 * All GEMMs go through dnnl_sgemm: it stands unchanged in oneDNN 2.x and 3.x (whose primitive
 * descriptors differ), needs no engine, stream or cache of primitives, and at 32 rows x 4096 x 4096
 * runs the same kernel as a matmul primitive does (measured with 2.6: 119 GFLOP/s both, also with
 * weights in the layout that the primitive asks for). It packs into memory of its own, which it
 * allocates; nothing else on the hot path does.
 *
 * Failure modes: HM_ERR_DEVICE with oneDNN's status in the line (out of memory is the one that can
 * happen). */
#include "experts/cpu.h"

#include <oneapi/dnnl/dnnl.h>

enum hm_status hm_cpu_gemm(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k,
                           const float *a, const float *b, float beta, float *c)
{
    if (m == 0 || n == 0) return HM_OK;
    if (k == 0) { /* an empty sum; oneDNN wants leading dimensions of at least 1 */
        for (size_t i = 0; i < m * n; i++) c[i] = beta == 0.0f ? 0.0f : beta * c[i];
        return HM_OK;
    }
    size_t lda = transpose_a ? m : k, ldb = transpose_b ? k : n;
    dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N',
                                      (dnnl_dim_t)m, (dnnl_dim_t)n, (dnnl_dim_t)k, 1.0f, a,
                                      (dnnl_dim_t)lda, b, (dnnl_dim_t)ldb, beta, c, (dnnl_dim_t)n);
    if (status == dnnl_success) return HM_OK;
    return hm_fail(HM_ERR_DEVICE, "oneDNN's sgemm failed with status %d; is there memory left?",
                   (int)status);
}
