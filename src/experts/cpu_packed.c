/* experts/cpu_packed.c - how weights are kept: their layout, and their copies for products in bf16.
 *
 * f32:      the parameters themselves, input-major with rows that are a little longer than a multiple
 *           of a power of two.  They never have to be packed: gradients and slots have the same
 *           layout, and only checkpoints see PyTorch's.
 * ROUNDED:  a second array in that layout, of rounded values.
 * LIBRARY:  two matrices of bf16 in the library's layout, for y and for dx (cpu_library.c).
 *
 * Invariant: a copy is as its weights' data are after create, after pack, and after every
 * optimizer's pass. */
#include "experts/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { PAD = 16, PAD_FROM = 256, PAD_UNLESS = 64, ROUND_PIECE = 16 << 10 };

/* On AVX2 with oneDNN 2.6, weights of 4096 x 4096, GFLOP/s on two cores at 32 / 64 / 256 rows:
 *   forward   [out, in] 127 / 154 / 160,   [in, out] 80 / 86 / 90,   [in, out + 16] 161 / 187 / 185
 *   dx        [out, in]  80 / 86 / 90,     [in, out + 16] 127 / 153 / 163
 * Rows a power of two apart fall into the same few sets of the caches. */
void hm_cpu_weights_layout(struct hm_device *device, uint32_t out, uint32_t in,
                           struct hm_layout *layout)
{
    (void)device;
    uint32_t stride = out >= PAD_FROM && out % PAD_UNLESS == 0 ? out + PAD : out;
    *layout = (struct hm_layout){1, stride, (size_t)stride * in};
}

/* ---- rounding -------------------------------------------------------------------------------- */

/* The bits of x as bf16 in the upper half: to nearest even; a NaN keeps its sign and is quiet. */
static inline __attribute__((always_inline)) uint32_t rounded_bits(const float *x)
{
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1);
    return (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : nearest;
}

HM_CPU_CLONES void hm_cpu_round(const float *from, float *to, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = rounded_bits(&from[i]) & 0xffff0000;
        memcpy(&to[i], &bits, sizeof bits);
    }
}

HM_CPU_CLONES void hm_cpu_narrow(const float *from, uint16_t *to, size_t count)
{
    for (size_t i = 0; i < count; i++) to[i] = (uint16_t)(rounded_bits(&from[i]) >> 16);
}

enum hm_status hm_cpu_round_matrix(struct hm_stream *s, enum hm_cpu_work work,
                                   const struct hm_tensor *x, const float **rounded)
{
    uint32_t rows = hm_rows(x), columns = hm_columns(x);
    void *base;
    enum hm_status status = hm_cpu_work(s, work, (size_t)rows * columns * sizeof(float), &base);
    if (status != HM_OK) return status;
    float *to = base;
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++)
        hm_cpu_round(hm_f32(x) + (size_t)r * columns, to + (size_t)r * columns, columns);
    *rounded = to;
    return HM_OK;
}

/* ---- copies ---------------------------------------------------------------------------------- */

static enum hm_status pack_all(const struct hm_packed *packed)
{
    unsigned pieces = hm_cpu_pack_pieces(packed);
    atomic_bool good = true;
    HM_CPU_PARALLEL(packed->weights.layout.elements)
    for (unsigned i = 0; i < pieces; i++)
        if (!hm_cpu_pack_piece(packed, i)) atomic_store(&good, false);
    return good ? HM_OK
                : hm_fail(HM_ERR_DEVICE, "oneDNN could not pack weights; is there memory left?");
}

enum hm_status hm_cpu_pack_create(struct hm_device *device, const struct hm_weights *w,
                                  struct hm_packed **packed)
{
    struct hm_cpu_device *cpu = hm_cpu_device_of(device);
    struct hm_packed *p = calloc(1, sizeof *p);
    if (!p) return HM_ERR_NO_MEMORY;
    p->way = cpu->bf16_way;
    p->weights = *w;
    p->weights.packed = NULL;
    p->library = p->way == HM_BF16_LIBRARY ? cpu->library : NULL;
    enum hm_status status =
        p->library ? p->library->weights_create(p->library, w, &p->copies)
                   : device->ops->alloc(device, w->layout.elements * sizeof(float), &p->rounded);
    if (status == HM_OK) status = pack_all(p);
    if (status != HM_OK) {
        hm_cpu_pack_destroy(device, p);
        return status;
    }
    *packed = p;
    return HM_OK;
}

void hm_cpu_pack_destroy(struct hm_device *device, struct hm_packed *packed)
{
    if (!packed) return;
    device->ops->free(device, &packed->rounded);
    if (packed->copies) packed->library->weights_destroy(packed->copies);
    free(packed);
}

unsigned hm_cpu_pack_pieces(const struct hm_packed *packed)
{
    const struct hm_weights *w = &packed->weights;
    if (packed->library) return (w->in + HM_CPU_LIBRARY_PIECE - 1) / HM_CPU_LIBRARY_PIECE;
    return (unsigned)((w->layout.elements + ROUND_PIECE - 1) / ROUND_PIECE);
}

void hm_cpu_pack_range(const struct hm_packed *packed, unsigned piece, size_t *first, size_t *count)
{
    const struct hm_layout *layout = &packed->weights.layout;
    size_t each = packed->library ? (size_t)HM_CPU_LIBRARY_PIECE * layout->in_stride : ROUND_PIECE;
    *first = piece * each;
    *count = layout->elements - *first < each ? layout->elements - *first : each;
}

bool hm_cpu_pack_piece(const struct hm_packed *packed, unsigned piece)
{
    if (packed->library) return packed->library->pack_piece(packed->copies, piece);
    size_t first, count;
    hm_cpu_pack_range(packed, piece, &first, &count);
    hm_cpu_round(packed->weights.data + first, (float *)packed->rounded.base + first, count);
    return true;
}

enum hm_status hm_cpu_pack(struct hm_stream *s, struct hm_packed *packed)
{
    (void)s;
    return pack_all(packed);
}
