/* moe/stages.c - the names of the stages, and their life as metrics. */
#include "moe/stages.h"

static const struct {
    const char *server, *trainer, *help;
} names[HM_STAGES] = {
    [HM_STAGE_ADMIT] = {"server.admit_ns", "moe.admit_ns",
                        "timed calls: arrival to queue, in the server"},
    [HM_STAGE_WAIT] = {"server.batch_wait_ns", "moe.batch_wait_ns",
                       "timed calls: queued until the lane begins"},
    [HM_STAGE_COMPUTE] = {"server.compute_ns", "moe.compute_ns",
                          "timed calls: their batch on the lane"},
    [HM_STAGE_REPLY] = {"server.reply_ns", "moe.reply_ns",
                        "timed calls: computed until given to rpc"},
    [HM_STAGE_QUEUE] = {NULL, "moe.queue_ns", "timed calls: asked for until given to rpc"},
    [HM_STAGE_WIRE] = {NULL, "moe.wire_ns", "timed calls: the time that no other stage has"},
};

void hm_stages_init(struct hm_stages *stages, bool of_server, struct hm_metrics *metrics)
{
    stages->count = of_server ? HM_SERVER_STAGES : HM_STAGES;
    hm_stages_clear(stages);
    for (unsigned i = 0; i < stages->count; i++) {
        stages->metric[i] =
            (struct hm_metric){.name = of_server ? names[i].server : names[i].trainer,
                               .help = names[i].help,
                               .kind = HM_HISTOGRAM,
                               .histogram = &stages->ns[i]};
        hm_list_init(&stages->metric[i].link);
        if (metrics) hm_metrics_add(metrics, &stages->metric[i]);
    }
}

void hm_stages_fini(struct hm_stages *stages)
{
    for (unsigned i = 0; i < stages->count; i++)
        if (hm_list_linked(&stages->metric[i].link)) hm_metrics_remove(&stages->metric[i]);
    stages->count = 0;
}

void hm_stages_clear(struct hm_stages *stages)
{
    for (unsigned i = 0; i < stages->count; i++) hm_histogram_init(&stages->ns[i]);
}
