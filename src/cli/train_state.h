/* cli/train_state.h - how far a training has come, and its file: <state>/trainer.state. */
#ifndef HM_CLI_TRAIN_STATE_H
#define HM_CLI_TRAIN_STATE_H

#include "base/rng.h"
#include "base/status.h"
#include "hivemind.h"

#include <stdbool.h>

struct train_at {
    uint64_t step;
    float loss, accuracy;
    bool evaluated;
    struct hm_rng rng;
    uint32_t *order; /* training rows, shuffled anew every time they have all been used */
    uint32_t order_count, order_at;
};
/* `what`: a hash of what a training cannot change on its way.  Both with a line; the tape's errors,
 * and HM_ERR_SHAPE for another `what`. */
HM_MUST_CHECK enum hm_status train_state_save(struct hm_tape *tape, const char *path, uint64_t what,
                                              const struct train_at *at);
/* HM_ERR_NOT_FOUND: there is none.  *at is written on success only. */
HM_MUST_CHECK enum hm_status train_state_load(struct hm_tape *tape, const char *path, uint64_t what,
                                              struct train_at *at);

#endif
