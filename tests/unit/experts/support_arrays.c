#include "support_arrays.h"

#include "test.h"

float *array_get(struct hm_expert *expert, unsigned array)
{
    const struct hm_plan *plan = hm_expert_plan(expert);
    float *dense = malloc((plan->parameter_elements + 1) * sizeof *dense);
    assert_non_null(dense);
    for (unsigned i = 0; i < plan->parameter_count; i++)
        hm_parameter_get(&hm_expert_places(expert)[i], &plan->parameter[i],
                         hm_expert_array(expert, array), dense + plan->parameter[i].offset);
    return dense;
}

void array_put(struct hm_expert *expert, unsigned array, const float *dense)
{
    const struct hm_plan *plan = hm_expert_plan(expert);
    for (unsigned i = 0; i < plan->parameter_count; i++)
        hm_parameter_put(&hm_expert_places(expert)[i], &plan->parameter[i],
                         hm_expert_array(expert, array), dense + plan->parameter[i].offset);
}
