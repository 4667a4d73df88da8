/* experts/cpu_library.c - products in bf16 by oneDNN's matmul primitives.
 *
 * Weights are kept twice, in the layout that the primitives ask for (format any): as [in, out] for
 * y = x w^T, and as [out, in] for dx = dy w.  Activations are rounded into the stream's memory;
 * results are f32.  A primitive is of one shape, so rows are rounded up to a size of a ladder (below
 * a quarter more), which bounds how many shapes there are; each is made at its first use and kept
 * by the stream, with memory objects whose addresses are set before each run.
 *
 * Failure modes: HM_ERR_DEVICE with oneDNN's status.  A CPU without bf16 products is found out when
 * the device is made: then there is no library here, and products are rounded f32 (cpu_packed.c).
 * Invariants:    weights of one shape have one layout, whatever the number of rows.
 *
 * oneDNN 3 has other descriptors; built with it this file says that there is no library. */
#include "experts/cpu.h"

#include <oneapi/dnnl/dnnl.h>

#include <stdlib.h>
#include <string.h>

#if DNNL_VERSION_MAJOR == 2

struct onednn {
    struct hm_cpu_library library;
    dnnl_engine_t engine;
};

static dnnl_engine_t engine_of(struct hm_cpu_library *library)
{
    return HM_CONTAINER_OF(library, struct onednn, library)->engine;
}

static enum hm_status failed(const char *what, dnnl_status_t status)
{
    return hm_fail(HM_ERR_DEVICE, "oneDNN's %s failed with status %d; is there memory left?", what,
                   (int)status);
}

/* A matrix [rows, columns] with these strides, in elements. */
static dnnl_memory_desc_t matrix(uint32_t rows, uint32_t columns, dnnl_data_type_t type,
                                 uint32_t row_stride, uint32_t column_stride)
{
    dnnl_memory_desc_t desc;
    dnnl_dims_t dims = {rows, columns}, strides = {row_stride, column_stride};
    dnnl_status_t status = dnnl_memory_desc_init_by_strides(&desc, 2, dims, type, strides);
    HM_ASSERT(status == dnnl_success);
    return desc;
}

static dnnl_memory_desc_t any_layout(uint32_t rows, uint32_t columns)
{
    dnnl_memory_desc_t desc;
    dnnl_dims_t dims = {rows, columns};
    dnnl_status_t status =
        dnnl_memory_desc_init_by_tag(&desc, 2, dims, dnnl_bf16, dnnl_format_tag_any);
    HM_ASSERT(status == dnnl_success);
    return desc;
}

/* ---- the library: is it there? --------------------------------------------------------------- */

static dnnl_status_t describe(dnnl_engine_t engine, const dnnl_memory_desc_t *x,
                              const dnnl_memory_desc_t *w, const dnnl_memory_desc_t *bias,
                              const dnnl_memory_desc_t *y, const_dnnl_primitive_attr_t attr,
                              dnnl_primitive_desc_t *made)
{
    dnnl_matmul_desc_t matmul;
    dnnl_status_t status = dnnl_matmul_desc_init(&matmul, x, w, bias, y);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(made, &matmul, attr, engine, NULL);
    return status;
}

/* The layout that products of a usual number of rows want for factors [rows, columns]. */
static dnnl_status_t ask_layout(dnnl_engine_t engine, uint32_t rows, uint32_t columns,
                                dnnl_memory_desc_t *layout)
{
    enum { ROWS = 64 };
    dnnl_memory_desc_t x = matrix(ROWS, rows, dnnl_bf16, rows, 1), w = any_layout(rows, columns);
    dnnl_memory_desc_t y = matrix(ROWS, columns, dnnl_f32, columns, 1);
    dnnl_primitive_desc_t made;
    dnnl_status_t status = describe(engine, &x, &w, NULL, &y, NULL, &made);
    if (status != dnnl_success) return status;
    *layout = *dnnl_primitive_desc_query_md(made, dnnl_query_weights_md, 0);
    dnnl_primitive_desc_destroy(made);
    return dnnl_success;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* One of the two copies: `to` in the library's layout; a piece is packed by the reorder of full
 * pieces or, the last, by its own. */
struct copy {
    dnnl_memory_desc_t layout;
    void *data;
    dnnl_primitive_t reorder[2]; /* full piece, last piece */
    dnnl_memory_t *from, *to;    /* of each piece */
};
struct hm_cpu_library_weights {
    struct hm_weights weights;
    unsigned pieces;
    dnnl_stream_t stream; /* runs in the calling thread, and has no state */
    struct copy forward, backward;
};

static uint32_t piece_columns(const struct hm_weights *w, unsigned piece)
{
    uint32_t first = piece * HM_CPU_LIBRARY_PIECE;
    return w->in - first < HM_CPU_LIBRARY_PIECE ? w->in - first : HM_CPU_LIBRARY_PIECE;
}

/* Memory objects of one piece: of the weights' data, and of its place in the copy. */
static dnnl_status_t piece_create(struct copy *copy, dnnl_engine_t engine,
                                  const struct hm_weights *w, bool forward, unsigned piece)
{
    uint32_t first = piece * HM_CPU_LIBRARY_PIECE, count = piece_columns(w, piece);
    uint32_t stride = w->layout.in_stride;
    float *data = w->data + (size_t)first * stride;
    dnnl_dims_t dims = {forward ? count : w->out, forward ? w->out : count};
    dnnl_dims_t offsets = {forward ? first : 0, forward ? 0 : first};
    dnnl_memory_desc_t from = forward ? matrix(count, w->out, dnnl_f32, stride, 1)
                                      : matrix(w->out, count, dnnl_f32, 1, stride);
    dnnl_memory_desc_t to;
    dnnl_status_t status = dnnl_memory_desc_init_submemory(&to, &copy->layout, dims, offsets);
    if (status != dnnl_success) return status;
    /* The offset moves into the address, so that all pieces have one description. */
    uint16_t *place = (uint16_t *)copy->data + to.offset0;
    to.offset0 = 0;
    dnnl_primitive_t *reorder = &copy->reorder[count < HM_CPU_LIBRARY_PIECE];
    if (!*reorder) {
        dnnl_primitive_desc_t made;
        status = dnnl_reorder_primitive_desc_create(&made, &from, engine, &to, engine, NULL);
        if (status != dnnl_success) return status;
        status = dnnl_primitive_create(reorder, made);
        dnnl_primitive_desc_destroy(made);
        if (status != dnnl_success) return status;
    }
    status = dnnl_memory_create(&copy->from[piece], &from, engine, data);
    if (status != dnnl_success) return status;
    return dnnl_memory_create(&copy->to[piece], &to, engine, place);
}

static void copy_fini(struct copy *copy, unsigned pieces)
{
    for (unsigned i = 0; copy->from && i < pieces; i++)
        if (copy->from[i]) dnnl_memory_destroy(copy->from[i]);
    for (unsigned i = 0; copy->to && i < pieces; i++)
        if (copy->to[i]) dnnl_memory_destroy(copy->to[i]);
    for (unsigned i = 0; i < HM_COUNT_OF(copy->reorder); i++)
        if (copy->reorder[i]) dnnl_primitive_destroy(copy->reorder[i]);
    free(copy->from);
    free(copy->to);
    free(copy->data);
}

static enum hm_status copy_init(struct copy *copy, dnnl_engine_t engine, const struct hm_weights *w,
                                bool forward, unsigned pieces)
{
    enum { ALIGNMENT = 64 };
    dnnl_status_t status =
        ask_layout(engine, forward ? w->in : w->out, forward ? w->out : w->in, &copy->layout);
    if (status != dnnl_success) return failed("layout of weights", status);
    size_t bytes = dnnl_memory_desc_get_size(&copy->layout);
    bytes = (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    copy->data = aligned_alloc(ALIGNMENT, bytes);
    copy->from = calloc(pieces, sizeof *copy->from);
    copy->to = calloc(pieces, sizeof *copy->to);
    if (!copy->data || !copy->from || !copy->to)
        return hm_fail(HM_ERR_NO_MEMORY, "no %zu bytes left for packed weights", bytes);
    memset(copy->data, 0, bytes); /* the layout's padding */
    for (unsigned i = 0; i < pieces; i++) {
        status = piece_create(copy, engine, w, forward, i);
        if (status != dnnl_success) return failed("packing of weights", status);
    }
    return HM_OK;
}

static void weights_destroy(struct hm_cpu_library_weights *p)
{
    if (!p) return;
    copy_fini(&p->forward, p->pieces);
    copy_fini(&p->backward, p->pieces);
    if (p->stream) dnnl_stream_destroy(p->stream);
    free(p);
}

static enum hm_status weights_create(struct hm_cpu_library *library, const struct hm_weights *w,
                                     struct hm_cpu_library_weights **packed)
{
    struct hm_cpu_library_weights *p = calloc(1, sizeof *p);
    if (!p) return HM_ERR_NO_MEMORY;
    HM_ASSERT(w->layout.out_stride == 1 && w->layout.in_stride >= w->out);
    p->weights = *w;
    p->pieces = (w->in + HM_CPU_LIBRARY_PIECE - 1) / HM_CPU_LIBRARY_PIECE;
    dnnl_status_t made =
        dnnl_stream_create(&p->stream, engine_of(library), dnnl_stream_default_flags);
    enum hm_status status = made == dnnl_success ? HM_OK : failed("stream", made);
    if (status == HM_OK) status = copy_init(&p->forward, engine_of(library), w, true, p->pieces);
    if (status == HM_OK) status = copy_init(&p->backward, engine_of(library), w, false, p->pieces);
    if (status != HM_OK) {
        weights_destroy(p);
        return status;
    }
    *packed = p;
    return HM_OK;
}

static bool copy_piece(const struct hm_cpu_library_weights *p, const struct copy *copy,
                       unsigned piece)
{
    const dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, copy->from[piece]},
                                   {DNNL_ARG_TO, copy->to[piece]}};
    bool last = piece_columns(&p->weights, piece) < HM_CPU_LIBRARY_PIECE;
    return dnnl_primitive_execute(copy->reorder[last], p->stream, 2, arg) == dnnl_success;
}

static bool pack_piece(const struct hm_cpu_library_weights *p, unsigned piece)
{
    return copy_piece(p, &p->forward, piece) && copy_piece(p, &p->backward, piece);
}

/* ---- products -------------------------------------------------------------------------------- */

enum product_kind { PRODUCT_Y, PRODUCT_DX, PRODUCT_DW, PRODUCT_DW_ADD };
enum { PRODUCTS_MAX = 512 };
struct product {
    enum product_kind kind;
    uint32_t rows, in, out, dw_stride;
    uint64_t used; /* when last; 0: free */
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y, scratch;
    size_t scratch_bytes;
};
struct hm_cpu_products {
    dnnl_stream_t stream;
    uint64_t clock;
    struct product product[PRODUCTS_MAX];
};

/* Rows as a product is made for them: 1, 2, 4, 8, 16, then steps of an eighth to a quarter. */
static uint32_t ladder(uint32_t rows)
{
    uint32_t size = 1;
    while (size < rows && size < 16) size *= 2;
    if (rows <= 16) return size;
    while (size * 2 < rows) size *= 2; /* size < rows <= 2 size */
    uint32_t step = size < 64 ? 16 : size / 4;
    return (rows + step - 1) / step * step;
}

static void product_destroy(struct product *p)
{
    dnnl_memory_t memories[] = {p->x, p->w, p->y, p->scratch};
    for (unsigned i = 0; i < HM_COUNT_OF(memories); i++)
        if (memories[i]) dnnl_memory_destroy(memories[i]);
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    *p = (struct product){0};
}

/* Descriptions of the factors and the result. */
static void product_descs(const struct product *p, const struct hm_packed *packed,
                          dnnl_memory_desc_t *x, dnnl_memory_desc_t *w, dnnl_memory_desc_t *y)
{
    switch (p->kind) {
    case PRODUCT_Y:
        *x = matrix(p->rows, p->in, dnnl_bf16, p->in, 1);
        *w = packed->copies->forward.layout;
        *y = matrix(p->rows, p->out, dnnl_f32, p->out, 1);
        break;
    case PRODUCT_DX:
        *x = matrix(p->rows, p->out, dnnl_bf16, p->out, 1);
        *w = packed->copies->backward.layout;
        *y = matrix(p->rows, p->in, dnnl_f32, p->in, 1);
        break;
    case PRODUCT_DW:
    case PRODUCT_DW_ADD:
        *x = matrix(p->in, p->rows, dnnl_bf16, 1, p->in);
        *w = matrix(p->rows, p->out, dnnl_bf16, p->out, 1);
        *y = matrix(p->in, p->out, dnnl_f32, p->dw_stride, 1);
        break;
    }
}

static dnnl_status_t make_primitive(struct product *p, dnnl_engine_t engine,
                                    const_dnnl_primitive_attr_t attr,
                                    const struct hm_packed *packed)
{
    dnnl_memory_desc_t x, w, y;
    dnnl_primitive_desc_t made;
    product_descs(p, packed, &x, &w, &y);
    dnnl_status_t status = describe(engine, &x, &w, NULL, &y, attr, &made);
    if (status != dnnl_success) return status;
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(made, dnnl_query_scratchpad_md, 0);
    p->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    status = dnnl_primitive_create(&p->primitive, made);
    if (status == dnnl_success)
        status = dnnl_memory_create(&p->scratch, scratch, engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success) status = dnnl_memory_create(&p->x, &x, engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success) status = dnnl_memory_create(&p->w, &w, engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success) status = dnnl_memory_create(&p->y, &y, engine, DNNL_MEMORY_NONE);
    dnnl_primitive_desc_destroy(made);
    return status;
}

static enum hm_status product_create(struct product *p, dnnl_engine_t engine,
                                     const struct hm_packed *packed)
{
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t sum;
    dnnl_status_t status = dnnl_primitive_attr_create(&attr);
    if (status != dnnl_success) return failed("attributes", status);
    status = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (status == dnnl_success && p->kind == PRODUCT_DW_ADD) {
        status = dnnl_post_ops_create(&sum);
        if (status == dnnl_success) {
            status = dnnl_post_ops_append_sum(sum, 1.0f);
            if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(attr, sum);
            dnnl_post_ops_destroy(sum);
        }
    }
    if (status == dnnl_success) status = make_primitive(p, engine, attr, packed);
    dnnl_primitive_attr_destroy(attr);
    if (status == dnnl_success) return HM_OK;
    product_destroy(p);
    return failed("matmul", status);
}

static enum hm_status products_of(struct hm_stream *s, struct hm_cpu_products **products)
{
    struct hm_cpu_stream *cpu = hm_cpu_stream_of(s);
    if (!cpu->products) {
        struct hm_cpu_products *made = calloc(1, sizeof *made);
        if (!made) return HM_ERR_NO_MEMORY;
        dnnl_status_t status = dnnl_stream_create(&made->stream, engine_of(hm_cpu_library_of(s)),
                                                  dnnl_stream_default_flags);
        if (status != dnnl_success) {
            free(made);
            return failed("stream", status);
        }
        cpu->products = made;
    }
    *products = cpu->products;
    return HM_OK;
}

static void products_destroy(struct hm_cpu_products *products)
{
    if (!products) return;
    for (unsigned i = 0; i < PRODUCTS_MAX; i++)
        if (products->product[i].used) product_destroy(&products->product[i]);
    dnnl_stream_destroy(products->stream);
    free(products);
}

/* The product of this shape: made, if it has not been met; the one that was not used for longest
 * makes room. */
static enum hm_status product_find(struct hm_stream *s, const struct hm_packed *packed,
                                   enum product_kind kind, uint32_t rows, uint32_t dw_stride,
                                   struct product **found)
{
    struct hm_cpu_products *products;
    uint32_t in = packed->weights.in, out = packed->weights.out;
    enum hm_status status = products_of(s, &products);
    if (status != HM_OK) return status;
    struct product *oldest = &products->product[0];
    for (unsigned i = 0; i < PRODUCTS_MAX; i++) {
        struct product *p = &products->product[i];
        if (p->used && p->kind == kind && p->rows == rows && p->in == in && p->out == out &&
            p->dw_stride == dw_stride) {
            p->used = ++products->clock;
            *found = p;
            return HM_OK;
        }
        if (p->used < oldest->used) oldest = p;
    }
    if (oldest->used) product_destroy(oldest);
    *oldest =
        (struct product){.kind = kind, .rows = rows, .in = in, .out = out, .dw_stride = dw_stride};
    status = product_create(oldest, engine_of(hm_cpu_library_of(s)), packed);
    if (status != HM_OK) return status;
    oldest->used = ++products->clock;
    *found = oldest;
    return HM_OK;
}

static enum hm_status product_run(struct hm_stream *s, struct product *p, void *x, void *w, void *y)
{
    void *scratch;
    enum hm_status status = hm_cpu_work(s, HM_CPU_WORK_LIBRARY, p->scratch_bytes, &scratch);
    if (status != HM_OK) return status;
    const struct {
        dnnl_memory_t memory;
        void *at;
    } bind[] = {{p->x, x}, {p->w, w}, {p->y, y}, {p->scratch, scratch}};
    dnnl_status_t done = dnnl_success;
    for (unsigned i = 0; i < HM_COUNT_OF(bind) && done == dnnl_success; i++)
        done = dnnl_memory_set_data_handle(bind[i].memory, bind[i].at);
    const dnnl_exec_arg_t arg[] = {{DNNL_ARG_SRC, p->x},
                                   {DNNL_ARG_WEIGHTS, p->w},
                                   {DNNL_ARG_DST, p->y},
                                   {DNNL_ARG_SCRATCHPAD, p->scratch}};
    dnnl_stream_t stream = hm_cpu_stream_of(s)->products->stream;
    if (done == dnnl_success)
        done = dnnl_primitive_execute(p->primitive, stream, HM_COUNT_OF(arg), arg);
    if (done == dnnl_success) done = dnnl_stream_wait(stream);
    return done == dnnl_success ? HM_OK : failed("matmul", done);
}

/* x as bf16 in the stream's memory, with rows up to `padded` of zeros. */
static enum hm_status narrow(struct hm_stream *s, enum hm_cpu_work work, const struct hm_tensor *x,
                             uint32_t padded, void **base)
{
    uint32_t rows = hm_rows(x), columns = hm_columns(x);
    enum hm_status status = hm_cpu_work(s, work, (size_t)padded * columns * sizeof(uint16_t), base);
    if (status != HM_OK) return status;
    uint16_t *to = *base;
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++)
        hm_cpu_narrow(hm_f32(x) + (size_t)r * columns, to + (size_t)r * columns, columns);
    if (padded > rows)
        memset(to + (size_t)rows * columns, 0,
               (size_t)(padded - rows) * columns * sizeof(uint16_t));
    return HM_OK;
}

/* y or dx: rows of x, rounded, times packed weights; what the ladder added is left out. */
static enum hm_status multiply(struct hm_stream *s, const struct hm_tensor *x,
                               const struct hm_packed *w, enum product_kind kind,
                               struct hm_tensor *y)
{
    uint32_t rows = hm_rows(x), columns = hm_columns(y), padded = ladder(rows);
    struct copy *copy = kind == PRODUCT_Y ? &w->copies->forward : &w->copies->backward;
    struct product *product;
    void *from, *to = hm_f32(y);
    if (rows == 0) return HM_OK;
    enum hm_status status = product_find(s, w, kind, padded, 0, &product);
    if (status == HM_OK) status = narrow(s, HM_CPU_WORK_X, x, padded, &from);
    if (status == HM_OK && padded > rows)
        status = hm_cpu_work(s, HM_CPU_WORK_OUT, (size_t)padded * columns * sizeof(float), &to);
    if (status == HM_OK) status = product_run(s, product, from, copy->data, to);
    if (status == HM_OK && padded > rows)
        memcpy(hm_f32(y), to, (size_t)rows * columns * sizeof(float));
    return status;
}

static enum hm_status linear(struct hm_stream *s, const struct hm_tensor *x,
                             const struct hm_packed *w, struct hm_tensor *y)
{
    return multiply(s, x, w, PRODUCT_Y, y);
}

static enum hm_status linear_dx(struct hm_stream *s, const struct hm_tensor *dy,
                                const struct hm_packed *w, struct hm_tensor *dx)
{
    return multiply(s, dy, w, PRODUCT_DX, dx);
}

static enum hm_status linear_dw(struct hm_stream *s, const struct hm_tensor *x,
                                const struct hm_tensor *dy, const struct hm_packed *w,
                                bool accumulate, struct hm_weights *dw)
{
    uint32_t rows = hm_rows(x), padded = ladder(rows);
    struct product *product;
    void *left, *right;
    HM_ASSERT(dw->layout.out_stride == 1 && dw->layout.in_stride >= dw->out);
    if (rows == 0) { /* an empty sum */
        if (!accumulate) memset(dw->data, 0, dw->layout.elements * sizeof(float));
        return HM_OK;
    }
    enum hm_status status = product_find(s, w, accumulate ? PRODUCT_DW_ADD : PRODUCT_DW, padded,
                                         dw->layout.in_stride, &product);
    if (status == HM_OK) status = narrow(s, HM_CPU_WORK_X, x, padded, &left);
    if (status == HM_OK) status = narrow(s, HM_CPU_WORK_DY, dy, padded, &right);
    if (status == HM_OK) status = product_run(s, product, left, right, dw->data);
    return status;
}

/* ---- the table ------------------------------------------------------------------------------- */

static void library_destroy(struct hm_cpu_library *library)
{
    struct onednn *onednn = HM_CONTAINER_OF(library, struct onednn, library);
    dnnl_engine_destroy(onednn->engine);
    free(onednn);
}

static bool has(dnnl_cpu_isa_t isa, dnnl_cpu_isa_t wanted)
{
    return (isa & wanted) == wanted;
}

struct hm_cpu_library *hm_cpu_library_create(void)
{
    struct onednn *onednn = calloc(1, sizeof *onednn);
    dnnl_memory_desc_t layout;
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    if (!onednn) return NULL;
    if (dnnl_engine_create(&onednn->engine, dnnl_cpu, 0) != dnnl_success) goto free_library;
    if (ask_layout(onednn->engine, 64, 64, &layout) != dnnl_success) goto destroy_engine;
    bool fast = has(isa, dnnl_cpu_isa_avx512_core_bf16);
    onednn->library = (struct hm_cpu_library){
        .text = has(isa, dnnl_cpu_isa_avx512_core_amx) ? "oneDNN, AMX"
                : fast                                 ? "oneDNN, AVX-512 bf16"
                                                       : "oneDNN, bf16 emulated with AVX-512",
        .fast = fast,
        .destroy = library_destroy,
        .weights_create = weights_create,
        .weights_destroy = weights_destroy,
        .pack_piece = pack_piece,
        .linear = linear,
        .linear_dx = linear_dx,
        .linear_dw = linear_dw,
        .products_destroy = products_destroy,
    };
    return &onednn->library;
destroy_engine:
    dnnl_engine_destroy(onednn->engine);
free_library:
    free(onednn);
    return NULL;
}

#else

struct hm_cpu_library *hm_cpu_library_create(void)
{
    return NULL;
}

#endif
