#include "support_device.h"

#include "base/rng.h"

struct hm_device *device;
struct hm_stream *stream;

int device_setup(void **state)
{
    (void)state;
    assert_ok(hm_device_cpu_create(&device));
    assert_ok(device->ops->stream_create(device, &stream));
    assert_ptr_equal(stream->device, device);
    return 0;
}

int device_teardown(void **state)
{
    (void)state;
    device->ops->stream_destroy(stream);
    hm_device_destroy(device);
    return 0;
}

void fill(float *x, size_t count, uint64_t seed)
{
    struct hm_rng rng;
    hm_rng_init(&rng, seed, 1);
    for (size_t i = 0; i < count; i++) x[i] = hm_rng_normal(&rng);
}

float *normal(size_t count, uint64_t seed)
{
    float *x = malloc((count + 1) * sizeof *x);
    assert_non_null(x);
    fill(x, count, seed);
    return x;
}
