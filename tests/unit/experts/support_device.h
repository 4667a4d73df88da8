/* The CPU device and a stream of it, open for a whole group of cases. */
#ifndef HM_SUPPORT_DEVICE_H
#define HM_SUPPORT_DEVICE_H

#include "test.h"

#include "experts/device.h"

extern struct hm_device *device;
extern struct hm_stream *stream;
int device_setup(void **state);
int device_teardown(void **state);

void fill(float *x, size_t count, uint64_t seed); /* normal */
float *normal(size_t count, uint64_t seed);       /* malloc'ed */

#endif
