/* experts/place.c - parameters between an expert's arrays, in the device's layout, and the dense
 * ones of checkpoints.
 *
 * Weights are transposed in squares that a cache holds: else every element of one side would touch
 * a line of its own. */
#include "experts/expert.h"

#include "base/assert.h"

#include <string.h>

enum { SQUARE = 32 };

struct sides {
    float *array, *dense;
    const struct hm_layout *layout;
    uint32_t out, in;
    bool get; /* array -> dense */
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void copy_square(const struct sides *s, uint32_t first_out, uint32_t first_in)
{
    uint32_t out_end = least(first_out + SQUARE, s->out), in_end = least(first_in + SQUARE, s->in);
    for (uint32_t o = first_out; o < out_end; o++) {
        for (uint32_t i = first_in; i < in_end; i++) {
            float *a =
                &s->array[(size_t)o * s->layout->out_stride + (size_t)i * s->layout->in_stride];
            float *d = &s->dense[(size_t)o * s->in + i];
            *(s->get ? d : a) = *(s->get ? a : d);
        }
    }
}

static void copy(const struct sides *s)
{
    for (uint32_t o = 0; o < s->out; o += SQUARE)
        for (uint32_t i = 0; i < s->in; i += SQUARE) copy_square(s, o, i);
}

static struct sides sides_of(const struct hm_parameter_place *place,
                             const struct hm_parameter *parameter, float *array, float *dense,
                             bool get)
{
    const struct hm_shape *shape = &parameter->shape;
    HM_ASSERT(shape->dim_count == 1 || shape->dim_count == 2);
    return (struct sides){array + place->offset,
                          dense,
                          &place->layout,
                          shape->dim[0],
                          shape->dim_count == 2 ? shape->dim[1] : 1,
                          get};
}

void hm_parameter_get(const struct hm_parameter_place *place, const struct hm_parameter *parameter,
                      const float *array, float *dense)
{
    /* read only */
    struct sides s = sides_of(place, parameter, (float *)(uintptr_t)array, dense, true);
    copy(&s);
}

void hm_parameter_put(const struct hm_parameter_place *place, const struct hm_parameter *parameter,
                      float *array, const float *dense)
{
    struct sides s = sides_of(place, parameter, array, (float *)(uintptr_t)dense, false);
    copy(&s);
}
