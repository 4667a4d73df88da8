/* An expert's arrays as checkpoints have them: dense, one parameter behind the other. */
#ifndef HM_SUPPORT_ARRAYS_H
#define HM_SUPPORT_ARRAYS_H

#include "experts/expert.h"

/* Array 0 is the parameters, array 1 + i slot i; malloc'ed, the plan's parameter_elements. */
float *array_get(struct hm_expert *expert, unsigned array);
void array_put(struct hm_expert *expert, unsigned array, const float *dense);

#endif
