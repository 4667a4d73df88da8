/* perf/raw_ffn.c - the limit of an ffn expert on this machine: the reference's block in plain
 * oneDNN and OpenMP, without any of our layers.
 *
 *   perf-raw_ffn [--pass forward|train|adam] [--rows R[xCOUNT],...] [--hidden H]
 *                [--dtype f32|bf16] [--layout plain|padded|packed|best] [--seconds S] [--json]
 *
 *   a1 = W0 x + b0,  r1 = ReLU(LN(a1)),  a2 = W3 r1 + b3,  r2 = ReLU(LN(a2)),  y = x + W6 r2 + b6
 *
 * forward: that.  train: that, its gradients to parameters and input, and Adam as one pass over
 * the parameters.  adam: the pass alone, over as many parameters (and gradients that were written:
 * what never was is one page of zeros, which costs no memory to read).
 * --rows 32x5,64x1: five batches of 32 rows and one of 64; the figure is theirs together.
 * plain:   weights [out, in], dnnl_sgemm.
 * padded:  weights [in, out + 16], dnnl_sgemm: rows a power of two apart share their cache sets.
 * packed:  matmul primitives, weights in the layout that they ask for (format any), kept twice
 *          (forward, input gradient) and repacked after Adam; the only one for bf16.
 * best:    the fastest of those in a short trial.
 * One line of JSON a run; exit code 77 where the CPU has no such primitives. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#if DNNL_VERSION_MAJOR != 2
#error "written for the descriptors of oneDNN 2"
#endif

enum { LAYERS = 3, SIZES_MAX = 64, PAD = 16, UNSUPPORTED = 77 };
enum layout { PLAIN, PADDED, PACKED, BEST };
static const char *const layout_names[] = {"plain", "padded", "packed", "best"};

static struct {
    const char *pass, *dtype;
    enum layout layout;
    int hidden, sizes, rows[SIZES_MAX], count[SIZES_MAX];
    double seconds;
} option = {"forward", "f32", BEST, 1024, 1, {32}, {1}, 2};

static dnnl_engine_t engine;
static dnnl_stream_t stream;

static void must(bool holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "raw_ffn: %s failed\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *map(size_t bytes)
{
    void *at = mmap(NULL, bytes + 64, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(at != MAP_FAILED, "mmap");
    (void)madvise(at, bytes, MADV_HUGEPAGE);
    return at;
}

/* ---- oneDNN ----------------------------------------------------------------------------------- */

static dnnl_memory_desc_t matrix(int rows, int columns, dnnl_data_type_t type, int row_stride,
                                 int column_stride)
{
    dnnl_memory_desc_t d;
    dnnl_dims_t dims = {rows, columns}, strides = {row_stride, column_stride};
    must(dnnl_memory_desc_init_by_strides(&d, 2, dims, type, strides) == dnnl_success, "desc");
    return d;
}

static dnnl_memory_t memory(const dnnl_memory_desc_t *d, void *at)
{
    dnnl_memory_t m;
    if (!at) at = map(dnnl_memory_desc_get_size(d));
    must(dnnl_memory_create(&m, d, engine, at) == dnnl_success, "memory");
    return m;
}

/* y [rows, columns] = x w (+ bias) as one matmul primitive. */
struct product {
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y, bias, scratch;
};

/* w NULL: in the layout that the primitive asks for, which goes to *asked. */
static bool product_create(struct product *p, const dnnl_memory_desc_t *x,
                           const dnnl_memory_desc_t *w, const dnnl_memory_desc_t *y, bool bias,
                           dnnl_memory_desc_t *asked)
{
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t made;
    dnnl_primitive_attr_t attr;
    dnnl_memory_desc_t any, b = matrix(1, (int)y->dims[1], dnnl_f32, (int)y->dims[1], 1);
    dnnl_dims_t dims = {x->dims[1], y->dims[1]};
    dnnl_memory_desc_init_by_tag(&any, 2, dims, x->data_type, dnnl_format_tag_any);
    dnnl_primitive_attr_create(&attr);
    dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    must(dnnl_matmul_desc_init(&matmul, x, w ? w : &any, bias ? &b : NULL, y) == dnnl_success,
         "matmul");
    if (dnnl_primitive_desc_create(&made, &matmul, attr, engine, NULL) != dnnl_success)
        return false;
    if (asked) *asked = *dnnl_primitive_desc_query_md(made, dnnl_query_weights_md, 0);
    must(dnnl_primitive_create(&p->primitive, made) == dnnl_success, "matmul");
    p->scratch = memory(dnnl_primitive_desc_query_md(made, dnnl_query_scratchpad_md, 0), NULL);
    dnnl_primitive_desc_destroy(made);
    dnnl_primitive_attr_destroy(attr);
    return true;
}

static void product_run(const struct product *p)
{
    const dnnl_exec_arg_t arg[] = {{DNNL_ARG_SRC, p->x},
                                   {DNNL_ARG_WEIGHTS, p->w},
                                   {DNNL_ARG_DST, p->y},
                                   {DNNL_ARG_SCRATCHPAD, p->scratch},
                                   {DNNL_ARG_BIAS, p->bias}};
    must(dnnl_primitive_execute(p->primitive, stream, p->bias ? 5 : 4, arg) == dnnl_success,
         "matmul");
}

/* A packed copy of a layer's weights and the reorder that makes it. */
struct packed {
    dnnl_memory_t from, to;
    dnnl_primitive_t reorder;
};

static void packed_create(struct packed *p, const dnnl_memory_desc_t *from, float *weights,
                          const dnnl_memory_desc_t *to)
{
    dnnl_primitive_desc_t made;
    p->from = memory(from, weights);
    p->to = memory(to, NULL);
    must(dnnl_reorder_primitive_desc_create(&made, from, engine, to, engine, NULL) ==
                 dnnl_success &&
             dnnl_primitive_create(&p->reorder, made) == dnnl_success,
         "reorder");
    dnnl_primitive_desc_destroy(made);
}

static void packed_refresh(const struct packed *p)
{
    const dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, p->from}, {DNNL_ARG_TO, p->to}};
    must(dnnl_primitive_execute(p->reorder, stream, 2, arg) == dnnl_success, "reorder");
}

/* ---- a model ---------------------------------------------------------------------------------- */

struct vector { /* parameters, gradient */
    float *p, *g;
};
struct layer {
    int in, out, stride; /* of a stored row of weights */
    float *w, *dw;
    struct vector bias, scale, shift; /* scale and shift: of the norm after it, if there is one */
    struct packed forward, backward;
};
struct sized { /* primitives for one number of rows */
    int rows;
    struct product forward[LAYERS], backward[LAYERS], weights[LAYERS];
};
struct model {
    enum layout layout;
    bool train;
    dnnl_data_type_t type;
    struct layer layer[LAYERS];
    float *p, *g, *m, *v; /* all parameters, their gradients and moments */
    size_t count;
    float *x, *dy, *y, *dx;
    float *a[2], *r[2], *d[2], *mean[2], *inverse[2]; /* d: gradients between layers */
    uint16_t *narrow[2];                              /* bf16 inputs of a product */
    struct sized sized[SIZES_MAX];
    double step;
};

static float *take(float **at, size_t count)
{
    float *here = *at;
    *at += count;
    return here;
}

static void fill(float *x, size_t count, float range)
{
    static uint32_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = range * ((float)(state >> 8) / (float)(1 << 23) - 1.0f);
    }
}

/* Makes layer l's primitives; false: this CPU has none of the type. */
static bool create_products(struct model *model, int size, int l)
{
    struct layer *layer = &model->layer[l];
    struct sized *s = &model->sized[size];
    int rows = s->rows, in = layer->in, out = layer->out;
    float *outputs[] = {model->a[0], model->a[1], model->y};
    dnnl_data_type_t type = model->type;
    dnnl_memory_desc_t x = matrix(rows, in, type, in, 1), y = matrix(rows, out, dnnl_f32, out, 1);
    dnnl_memory_desc_t dy = matrix(rows, out, type, out, 1), dx = matrix(rows, in, dnnl_f32, in, 1);
    dnnl_memory_desc_t xt = matrix(in, rows, type, 1, in), dw = matrix(in, out, dnnl_f32, out, 1);
    dnnl_memory_desc_t asked;
    dnnl_memory_desc_t *fixed = NULL, *fixed_back = NULL, first, first_back;
    const dnnl_memory_desc_t *d;
    if (size > 0) {
        dnnl_memory_get_memory_desc(layer->forward.to, &d);
        first = *d;
        fixed = &first;
    }
    if (size > 0 && model->train) {
        dnnl_memory_get_memory_desc(layer->backward.to, &d);
        first_back = *d;
        fixed_back = &first_back;
    }
    void *narrow_x = model->narrow[0], *narrow_dy = model->narrow[1];
    struct product *p = &s->forward[l];
    if (!product_create(p, &x, fixed, &y, true, &asked)) return false;
    /* Weights are stored as [in, out] here. */
    dnnl_memory_desc_t stored = matrix(in, out, dnnl_f32, out, 1),
                       turned = matrix(out, in, dnnl_f32, 1, out),
                       bias = matrix(1, out, dnnl_f32, out, 1);
    if (size == 0) packed_create(&layer->forward, &stored, layer->w, &asked);
    p->x = memory(&x, narrow_x), p->w = layer->forward.to, p->y = memory(&y, outputs[l]);
    p->bias = memory(&bias, layer->bias.p);
    if (!model->train) return true;
    float *inputs_d[] = {model->dx, model->d[0], model->d[1]};
    p = &s->backward[l];
    if (!product_create(p, &dy, fixed_back, &dx, false, &asked)) return false;
    if (size == 0) packed_create(&layer->backward, &turned, layer->w, &asked);
    p->x = memory(&dy, narrow_dy), p->w = layer->backward.to, p->y = memory(&dx, inputs_d[l]);
    p = &s->weights[l];
    if (!product_create(p, &xt, &dy, &dw, false, NULL)) return false;
    p->x = memory(&xt, narrow_x), p->w = memory(&dy, narrow_dy), p->y = memory(&dw, layer->dw);
    return true;
}

static bool model_create(struct model *model, enum layout layout, bool train)
{
    int h = option.hidden, inner = 4 * h, rows = 0;
    *model = (struct model){.layout = layout, .train = train};
    model->type = strcmp(option.dtype, "bf16") == 0 ? dnnl_bf16 : dnnl_f32;
    int in[] = {h, inner, inner}, out[] = {inner, inner, h};
    for (int l = 0; l < LAYERS; l++) {
        struct layer *layer = &model->layer[l];
        int stored = layout == PLAIN ? in[l] : out[l], other = layout == PLAIN ? out[l] : in[l];
        *layer = (struct layer){.in = in[l], .out = out[l]};
        layer->stride = stored + (layout == PADDED ? PAD : 0);
        model->count += (size_t)layer->stride * (size_t)other + 3 * (size_t)inner;
    }
    size_t bytes = model->count * sizeof(float);
    model->p = map(bytes);
    if (train) model->g = map(bytes), model->m = map(bytes), model->v = map(bytes);
    float *p = model->p, *g = model->g;
    for (int l = 0; l < LAYERS; l++) {
        struct layer *layer = &model->layer[l];
        size_t count = (size_t)layer->stride * (size_t)(layout == PLAIN ? layer->out : layer->in);
        layer->w = take(&p, count), layer->dw = take(&g, count);
        fill(layer->w, count, 1.0f / sqrtf((float)layer->in));
        struct vector *vectors[] = {&layer->bias, &layer->scale, &layer->shift};
        for (int i = 0; i < 3; i++)
            *vectors[i] = (struct vector){take(&p, (size_t)inner), take(&g, (size_t)inner)};
        for (int c = 0; c < inner; c++) layer->scale.p[c] = 1.0f;
    }
    for (int i = 0; i < option.sizes; i++) rows = option.rows[i] > rows ? option.rows[i] : rows;
    size_t narrow = (size_t)rows * (size_t)h * sizeof(float), wide = 4 * narrow;
    model->x = map(narrow), model->dy = map(narrow), model->y = map(narrow);
    model->dx = map(narrow);
    fill(model->x, (size_t)rows * (size_t)h, 1.0f);
    fill(model->dy, (size_t)rows * (size_t)h, 1e-3f);
    if (train) fill(model->g, model->count, 1e-3f);
    for (int i = 0; i < 2; i++) {
        model->a[i] = map(wide), model->r[i] = map(wide), model->d[i] = map(wide);
        model->mean[i] = map((size_t)rows * 4), model->inverse[i] = map((size_t)rows * 4);
        model->narrow[i] = map(wide);
    }
    for (int i = 0; i < option.sizes; i++) {
        model->sized[i].rows = option.rows[i];
        for (int l = 0; layout == PACKED && l < LAYERS; l++)
            if (!create_products(model, i, l)) return false;
    }
    for (int l = 0; layout == PACKED && l < LAYERS; l++) {
        packed_refresh(&model->layer[l].forward);
        if (train) packed_refresh(&model->layer[l].backward);
    }
    return true;
}

/* ---- forward and backward --------------------------------------------------------------------- */

static void narrow(const struct model *model, const float *from, uint16_t *to, size_t count)
{
    if (model->type == dnnl_f32) {
        memcpy(to, from, count * sizeof *from);
        return;
    }
#pragma omp parallel for if (count > 1 << 16)
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        to[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

static void sgemm(bool ta, bool tb, int m, int n, int k, const float *a, int lda, const float *b,
                  int ldb, float *c, int ldc)
{
    must(dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, 0.0f, c, ldc) ==
             dnnl_success,
         "sgemm");
}

static void linear(const struct model *model, const struct sized *s, int l, const float *x,
                   float *y)
{
    const struct layer *layer = &model->layer[l];
    int rows = s->rows, in = layer->in, out = layer->out;
    if (model->layout == PACKED) {
        narrow(model, x, model->narrow[0], (size_t)rows * (size_t)in);
        product_run(&s->forward[l]);
        return;
    }
    sgemm(false, model->layout == PLAIN, rows, out, in, x, in, layer->w, layer->stride, y, out);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < out; c++) y[(size_t)r * (size_t)out + (size_t)c] += layer->bias.p[c];
}

/* r = ReLU(LN(a)) */
static void norm_forward(struct model *model, int l, int rows)
{
    const struct layer *layer = &model->layer[l];
    int n = layer->out;
#pragma omp parallel for if (rows * n > 1 << 17)
    for (int i = 0; i < rows; i++) {
        const float *a = model->a[l] + (size_t)i * (size_t)n;
        float *r = model->r[l] + (size_t)i * (size_t)n, sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (int c = 0; c < n; c++) sum += a[c];
        float mean = sum / (float)n;
#pragma omp simd reduction(+ : squares)
        for (int c = 0; c < n; c++) squares += (a[c] - mean) * (a[c] - mean);
        float inverse = 1.0f / sqrtf(squares / (float)n + 1e-5f);
        for (int c = 0; c < n; c++) {
            float z = (a[c] - mean) * inverse * layer->scale.p[c] + layer->shift.p[c];
            r[c] = z > 0 ? z : 0;
        }
        model->mean[l][i] = mean, model->inverse[l][i] = inverse;
    }
}

/* d, the gradient of r, becomes that of a; gradients of scale and shift. */
static void norm_backward(struct model *model, int l, int rows)
{
    const struct layer *layer = &model->layer[l];
    int n = layer->out;
    float *dscale = layer->scale.g, *dshift = layer->shift.g, *dbias = layer->bias.g;
    enum { BLOCK = 256 };
#pragma omp parallel if (rows * n > 1 << 17)
    {
#pragma omp for
        for (int first = 0; first < n; first += BLOCK) {
            int end = first + BLOCK < n ? first + BLOCK : n;
            for (int c = first; c < end; c++) dscale[c] = dshift[c] = dbias[c] = 0;
            for (int i = 0; i < rows; i++) {
                size_t at = (size_t)i * (size_t)n;
                const float *a = model->a[l] + at, *r = model->r[l] + at;
                float *d = model->d[l] + at, mean = model->mean[l][i],
                      inverse = model->inverse[l][i];
                for (int c = first; c < end; c++) {
                    d[c] = r[c] > 0 ? d[c] : 0;
                    dscale[c] += d[c] * ((a[c] - mean) * inverse);
                    dshift[c] += d[c];
                }
            }
        }
#pragma omp for
        for (int i = 0; i < rows; i++) {
            size_t at = (size_t)i * (size_t)n;
            const float *a = model->a[l] + at;
            float *d = model->d[l] + at, mean = model->mean[l][i], inverse = model->inverse[l][i];
            float g = 0, gx = 0;
#pragma omp simd reduction(+ : g, gx)
            for (int c = 0; c < n; c++) {
                g += d[c] * layer->scale.p[c];
                gx += d[c] * layer->scale.p[c] * (a[c] - mean) * inverse;
            }
            g /= (float)n, gx /= (float)n;
            for (int c = 0; c < n; c++)
                d[c] = inverse * (d[c] * layer->scale.p[c] - g - (a[c] - mean) * inverse * gx);
        }
    }
}

/* Gradients of layer l's weights and bias, and of its input. */
static void linear_backward(struct model *model, const struct sized *s, int l, const float *x,
                            const float *dy, float *dx)
{
    const struct layer *layer = &model->layer[l];
    int rows = s->rows, in = layer->in, out = layer->out;
    float *db = layer->bias.g;
    for (int c = 0; c < out; c++) db[c] = 0;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < out; c++) db[c] += dy[(size_t)r * (size_t)out + (size_t)c];
    if (model->layout == PACKED) {
        narrow(model, x, model->narrow[0], (size_t)rows * (size_t)in);
        narrow(model, dy, model->narrow[1], (size_t)rows * (size_t)out);
        product_run(&s->weights[l]);
        product_run(&s->backward[l]);
    } else if (model->layout == PLAIN) {
        sgemm(true, false, out, in, rows, dy, out, x, in, layer->dw, layer->stride);
        sgemm(false, false, rows, in, out, dy, out, layer->w, layer->stride, dx, in);
    } else {
        sgemm(true, false, in, out, rows, x, in, dy, out, layer->dw, layer->stride);
        sgemm(false, true, rows, in, out, dy, out, layer->w, layer->stride, dx, in);
    }
}

static void add(float *y, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) y[i] += x[i];
}

static void forward(struct model *model, const struct sized *s)
{
    linear(model, s, 0, model->x, model->a[0]);
    norm_forward(model, 0, s->rows);
    linear(model, s, 1, model->r[0], model->a[1]);
    norm_forward(model, 1, s->rows);
    linear(model, s, 2, model->r[1], model->y);
    add(model->y, model->x, (size_t)s->rows * (size_t)option.hidden);
}

/* Kingma & Ba 2015, algorithm 1, with the bias corrections folded into two factors. */
static void adam(struct model *model)
{
    model->step++;
    const float b1 = 0.9f, b2 = 0.999f, epsilon = 1e-8f;
    const float rate = (float)(1e-3 / (1 - pow(b1, model->step)));
    const float second = (float)(1 / sqrt(1 - pow(b2, model->step)));
    float *restrict p = model->p, *restrict m = model->m, *restrict v = model->v;
    const float *restrict g = model->g;
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < model->count; i++) {
        m[i] = b1 * m[i] + (1 - b1) * g[i];
        v[i] = b2 * v[i] + (1 - b2) * g[i] * g[i];
        p[i] -= rate * m[i] / (sqrtf(v[i]) * second + epsilon);
    }
    for (int l = 0; model->layout == PACKED && l < LAYERS; l++) {
        packed_refresh(&model->layer[l].forward);
        packed_refresh(&model->layer[l].backward);
    }
}

static void train(struct model *model, const struct sized *s)
{
    forward(model, s);
    linear_backward(model, s, 2, model->r[1], model->dy, model->d[1]);
    norm_backward(model, 1, s->rows);
    linear_backward(model, s, 1, model->r[0], model->d[1], model->d[0]);
    norm_backward(model, 0, s->rows);
    linear_backward(model, s, 0, model->x, model->d[0], model->dx);
    add(model->dx, model->dy, (size_t)s->rows * (size_t)option.hidden);
    adam(model);
}

/* ---- runs ------------------------------------------------------------------------------------- */

static void batch_of(struct model *model, int size)
{
    if (strcmp(option.pass, "adam") == 0)
        adam(model);
    else if (model->train)
        train(model, &model->sized[size]);
    else
        forward(model, &model->sized[size]);
}

/* Seconds of a batch of one size, over at least `seconds`; the first is not counted. */
static double measure_size(struct model *model, int size, double seconds)
{
    int batches = 0;
    batch_of(model, size);
    double start = now(), end = start;
    for (; batches < 2 || end < start + seconds; batches++) {
        batch_of(model, size);
        end = now();
    }
    return (end - start) / batches;
}

/* Seconds of all batches of the list; each size gets its share of the time, by its rows. */
static double measure(struct model *model, double seconds)
{
    double total = 0, rows = 0;
    for (int i = 0; i < option.sizes; i++) rows += (double)option.rows[i] * option.count[i];
    for (int i = 0; i < option.sizes; i++)
        total += option.count[i] *
                 measure_size(model, i, seconds * option.rows[i] * option.count[i] / rows);
    return total;
}

/* The fastest layout in a trial of the first size, a tenth of the time each; -1: none works here. */
static int choose(bool trains)
{
    int best = -1;
    double least = 0;
    for (int layout = PLAIN; layout < BEST; layout++) {
        if (option.layout != BEST && option.layout != (enum layout)layout) continue;
        if (strcmp(option.dtype, "bf16") == 0 && layout != PACKED) continue;
        fflush(stdout);
        int ends[2];
        must(pipe(ends) == 0, "pipe");
        pid_t child = fork(); /* of its own: what a trial maps is gone with it */
        if (child == 0) {
            static struct model model;
            double seconds = -1;
            dnnl_engine_create(&engine, dnnl_cpu, 0);
            dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
            if (model_create(&model, (enum layout)layout, trains))
                seconds = measure_size(&model, 0, option.seconds / 10);
            must(write(ends[1], &seconds, sizeof seconds) == sizeof seconds, "write");
            _exit(0);
        }
        double seconds = -1;
        close(ends[1]);
        if (read(ends[0], &seconds, sizeof seconds) != sizeof seconds) seconds = -1;
        close(ends[0]);
        must(waitpid(child, NULL, 0) == child, "a trial");
        if (seconds > 0 && (best < 0 || seconds < least)) best = layout, least = seconds;
    }
    return best;
}

static void usage(void)
{
    fprintf(stderr, "perf-raw_ffn [--pass forward|train|adam] [--rows R[xCOUNT],...] "
                    "[--hidden H] [--dtype f32|bf16] [--layout plain|padded|packed|best] "
                    "[--seconds S] [--json]\n");
    exit(2);
}

static void parse_rows(char *text)
{
    option.sizes = 0;
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
        int rows, count = 1;
        if (option.sizes == SIZES_MAX || sscanf(item, "%dx%d", &rows, &count) < 1 || rows < 1 ||
            rows > 1 << 20 || count < 1)
            usage();
        option.rows[option.sizes] = rows;
        option.count[option.sizes++] = count;
    }
    if (option.sizes == 0) usage();
}

static void parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json")) continue; /* it has no other output */
        if (i + 1 == argc) usage();
        char *value = argv[++i];
        if (!strcmp(argv[i - 1], "--pass"))
            option.pass = value;
        else if (!strcmp(argv[i - 1], "--rows"))
            parse_rows(value);
        else if (!strcmp(argv[i - 1], "--hidden"))
            option.hidden = atoi(value);
        else if (!strcmp(argv[i - 1], "--dtype"))
            option.dtype = value;
        else if (!strcmp(argv[i - 1], "--seconds"))
            option.seconds = atof(value);
        else if (!strcmp(argv[i - 1], "--layout")) {
            for (option.layout = PLAIN;
                 option.layout < BEST && strcmp(value, layout_names[option.layout]) != 0;)
                option.layout++;
            if (strcmp(value, layout_names[option.layout]) != 0) usage();
        } else
            usage();
    }
    bool pass = !strcmp(option.pass, "forward") || !strcmp(option.pass, "train") ||
                !strcmp(option.pass, "adam");
    if (!pass || (strcmp(option.dtype, "f32") && strcmp(option.dtype, "bf16")) ||
        option.hidden < 1 || option.hidden > 8192 || !(option.seconds > 0))
        usage();
}

int main(int argc, char **argv)
{
    static struct model model;
    int rows = 0, batches = 0;
    /* Passive, as a server's teams have to be: they share the machine. */
    if (!getenv("OMP_WAIT_POLICY") && setenv("OMP_WAIT_POLICY", "passive", 1) == 0)
        execv("/proc/self/exe", argv);
    parse(argc, argv);
    bool trains = strcmp(option.pass, "forward") != 0;
    int layout = choose(trains);
    if (layout < 0) {
        fprintf(stderr, "raw_ffn: this CPU has no %s matmul in oneDNN %d.%d\n", option.dtype,
                dnnl_version()->major, dnnl_version()->minor);
        return UNSUPPORTED;
    }
    dnnl_engine_create(&engine, dnnl_cpu, 0);
    dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    must(model_create(&model, (enum layout)layout, trains), "a model");
    double seconds = measure(&model, option.seconds);
    for (int i = 0; i < option.sizes; i++) {
        rows += option.rows[i] * option.count[i];
        batches += option.count[i];
    }
    bool alone = strcmp(option.pass, "adam") == 0;
    printf("{\"program\":\"raw_ffn\",\"pass\":\"%s\",\"dtype\":\"%s\",\"layout\":\"%s\","
           "\"hidden\":%d,\"threads\":%d,\"parameters\":%zu,\"ms\":%.3f,"
           "\"rows_per_second\":%.1f}\n",
           option.pass, option.dtype, layout_names[layout], option.hidden, omp_get_max_threads(),
           model.count, seconds * 1e3 / batches, alone ? 0 : rows / seconds);
    return 0;
}
