/* api/tape.h - the inside of hm_tape, for tape.c and tape_state.c. */
#ifndef HM_API_TAPE_H
#define HM_API_TAPE_H

#include "base/wire.h"
#include "hivemind.h"
#include "moe/local_optimizer.h"
#include "moe/tape.h"

enum { HM_TAPE_LAYERS_MAX = 256, HM_TAPE_BALANCED_MAX = 64 };

struct hm_module {
    struct hm_layer *layer;
};
/* A layer that this tape trains, with the moments of its own Adam. */
struct hm_tape_trained {
    struct hm_layer *layer;
    struct hm_local_optimizer *optimizer;
    bool used; /* since the last step */
};
struct hm_tape {
    struct hm_node *node;
    struct hm_moe_tape *tape;
    struct hm_tape_trained trained[HM_TAPE_LAYERS_MAX];
    unsigned trained_count;
    /* Mixtures of this pass whose balance loss joins the loss. */
    struct {
        hm_moe_value value;
        float weight;
    } balanced[HM_TAPE_BALANCED_MAX];
    unsigned balanced_count;
    /* Of hm_tape_load: what layers that are not used yet will start from, in their order. */
    void *loaded;            /* malloc'ed; NULL: nothing */
    struct hm_reader layers; /* in it */
};

/* A layer's part of what was loaded, at its first use.  HM_ERR_SHAPE with a line. */
HM_MUST_CHECK enum hm_status hm_tape_restore(struct hm_tape *tape, struct hm_tape_trained *trained);

#endif
