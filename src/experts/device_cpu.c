/* experts/device_cpu.c - the CPU device: memory, streams, the table of ops, and the size of the
 * calling thread's team.
 *
 * Happy path:    a lane thread, already bound to its cpuset, calls hm_device_cpu_team once; OpenMP
 *                then starts its workers from that thread, and they inherit its cpuset.
 * Failure modes: HM_ERR_NO_MEMORY from setup; ops fail only where oneDNN does.
 * Invariants:    a span that alloc gave is freed as it was given: its size says whether it was
 *                mapped. */
#include "experts/cpu.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <omp.h>

/* From here on memory is mapped: zero pages until they are touched, and huge pages where the kernel
 * has them. */
enum { MAP_BYTES_MIN = 1 << 20, ALIGNMENT = 64 };

static enum hm_status cpu_alloc(struct hm_device *device, size_t bytes, struct hm_span *out)
{
    (void)device;
    void *base = NULL;
    if (bytes >= MAP_BYTES_MIN) {
        base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) base = NULL;
        /* A hint: kernels without huge pages refuse it, and nothing is lost. */
        if (base) (void)madvise(base, bytes, MADV_HUGEPAGE);
    } else {
        size_t rounded =
            (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT; /* at least one line, also for 0 bytes */
        base = aligned_alloc(ALIGNMENT, rounded);
        if (base) memset(base, 0, rounded);
    }
    if (!base)
        return hm_fail(HM_ERR_NO_MEMORY, "no %zu bytes of memory left for the cpu device", bytes);
    *out = (struct hm_span){.base = base, .bytes = bytes, .mem = HM_MEM_HOST};
    return HM_OK;
}

static void cpu_free(struct hm_device *device, struct hm_span *span)
{
    (void)device;
    if (!span->base) return;
    if (span->bytes >= MAP_BYTES_MIN) {
        int unmapped = munmap(span->base, span->bytes);
        HM_ASSERT(unmapped == 0);
    } else {
        free(span->base);
    }
    *span = (struct hm_span){0};
}

static enum hm_status cpu_stream_create(struct hm_device *device, struct hm_stream **stream)
{
    struct hm_cpu_stream *s = calloc(1, sizeof *s);
    if (!s) return HM_ERR_NO_MEMORY;
    s->stream.device = device;
    *stream = &s->stream;
    return HM_OK;
}

static void cpu_stream_destroy(struct hm_stream *stream)
{
    struct hm_cpu_stream *s = hm_cpu_stream_of(stream);
    for (unsigned i = 0; i < HM_CPU_WORKS; i++) cpu_free(stream->device, &s->work[i]);
    if (s->products) hm_cpu_library_of(stream)->products_destroy(s->products);
    free(s);
}

enum hm_status hm_cpu_work(struct hm_stream *s, enum hm_cpu_work work, size_t bytes, void **base)
{
    struct hm_span *span = &hm_cpu_stream_of(s)->work[work];
    if (!span->base || span->bytes < bytes) {
        size_t rounded = 64 << 10;
        while (rounded < bytes) rounded *= 2;
        cpu_free(s->device, span);
        enum hm_status status = cpu_alloc(s->device, rounded, span);
        if (status != HM_OK) return status;
    }
    *base = span->base;
    return HM_OK;
}

static enum hm_status cpu_sync(struct hm_stream *s)
{
    (void)s; /* every op is done when it returns */
    return HM_OK;
}

static enum hm_status cpu_zero(struct hm_stream *s, void *base, size_t bytes)
{
    (void)s;
    enum { PIECE = 1 << 20 };
    size_t pieces = (bytes + PIECE - 1) / PIECE;
    HM_CPU_PARALLEL(bytes / sizeof(float))
    for (size_t i = 0; i < pieces; i++) {
        size_t first = i * PIECE, count = bytes - first < PIECE ? bytes - first : PIECE;
        memset((char *)base + first, 0, count);
    }
    return HM_OK;
}

static const char *cpu_bf16_text(const struct hm_device *device, enum hm_bf16_way *way)
{
    const struct hm_cpu_device *cpu = hm_cpu_device_of(device);
    *way = cpu->bf16_way;
    if (cpu->bf16_way == HM_BF16_LIBRARY) return cpu->library->text;
    return "f32 products of rounded values, as the CPU has no bf16 instructions";
}

static bool cpu_is_alone(const struct hm_device *device, uint64_t elements,
                         uint64_t multiplications)
{
    (void)device;
    return elements < HM_CPU_PARALLEL_MIN && multiplications < HM_CPU_TEAM_PRODUCT_MIN;
}

static const struct hm_device_ops cpu_ops = {
    .name = "cpu",
    .stream_create = cpu_stream_create,
    .stream_destroy = cpu_stream_destroy,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .sync = cpu_sync,
    .zero = cpu_zero,
    .gather = hm_cpu_gather,
    .decode = hm_cpu_decode,
    .encode = hm_cpu_encode,
    .is_alone = cpu_is_alone,
    .weights_layout = hm_cpu_weights_layout,
    .pack_create = hm_cpu_pack_create,
    .pack_destroy = hm_cpu_pack_destroy,
    .pack = hm_cpu_pack,
    .bf16_text = cpu_bf16_text,
    .linear = hm_cpu_linear,
    .linear_dx = hm_cpu_linear_dx,
    .linear_dw = hm_cpu_linear_dw,
    .layer_norm = hm_cpu_layer_norm,
    .layer_norm_grad = hm_cpu_layer_norm_grad,
    .activation = hm_cpu_activation,
    .activation_grad = hm_cpu_activation_grad,
    .add = hm_cpu_add,
    .softmax = hm_cpu_softmax,
    .softmax_grad = hm_cpu_softmax_grad,
    .cross_entropy = hm_cpu_cross_entropy,
    .norm = hm_cpu_norm,
    .largest = hm_cpu_largest,
    .sgd = hm_cpu_sgd,
    .adam = hm_cpu_adam,
};

enum hm_status hm_device_cpu_create(struct hm_device **device)
{
    struct hm_cpu_device *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return HM_ERR_NO_MEMORY;
    cpu->device.ops = &cpu_ops;
    cpu->library = hm_cpu_library_create();
    cpu->bf16_way = cpu->library && cpu->library->fast ? HM_BF16_LIBRARY : HM_BF16_ROUNDED;
    *device = &cpu->device;
    return HM_OK;
}

enum hm_status hm_device_cpu_set_bf16(struct hm_device *device, enum hm_bf16_way way)
{
    struct hm_cpu_device *cpu = hm_cpu_device_of(device);
    HM_ASSERT(device->ops == &cpu_ops);
    if (way == HM_BF16_LIBRARY && !cpu->library)
        return hm_fail(HM_ERR_UNSUPPORTED, "oneDNN has no products in bf16 on this CPU");
    cpu->bf16_way = way;
    return HM_OK;
}

void hm_device_destroy(struct hm_device *device)
{
    if (!device) return;
    HM_ASSERT(device->ops == &cpu_ops);
    struct hm_cpu_device *cpu = hm_cpu_device_of(device);
    if (cpu->library) cpu->library->destroy(cpu->library);
    free(cpu);
}

struct hm_weights hm_weights_dense(float *data, uint32_t out, uint32_t in)
{
    return (struct hm_weights){
        .out = out, .in = in, .layout = {in, 1, (size_t)out * in}, .data = data};
}

void hm_device_cpu_team(unsigned threads)
{
    if (threads == 0) {
        cpu_set_t set; /* of the calling thread; one that does not fit (over 1024 processors) means
                          OpenMP's own count */
        threads = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set)
                                                              : (unsigned)omp_get_num_procs();
    }
    omp_set_num_threads((int)threads);
}
