/* cli/serve.c - hosts experts on a node: options, start, orderly end. */
#include "cli/serve.h"

#include "moe/uid.h"
#include "server/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UIDS_MAX = 65536 };

#define AT(member) offsetof(struct serve_conf, member)
const struct hm_option serve_options[] = {
    {"experts", HM_OPTION_STRING, NULL, "PATTERN",
     "uids to host, comma-separated: ffn.0.1 or ffn.[0:4].[0:4] (end exclusive)", AT(experts), 0,
     0},
    {"share", HM_OPTION_STRING, "0/1", "I/N",
     "host the I-th of N parts of the experts only, counted from 0", AT(share), 0, 0},
    {"kind", HM_OPTION_STRING, "ffn", "KIND",
     "what the experts compute: ffn, nop (gives back its input), or nop_delay (sleeps as well)",
     AT(kind), 0, 0},
    {"hidden", HM_OPTION_U32, "1024", "COLUMNS", "features of a row, in and out", AT(hidden), 1,
     65536},
    {"dtype", HM_OPTION_STRING, "f32", "NAME",
     "what experts multiply in: f32 or bf16; parameters and checkpoints stay f32", AT(dtype), 0, 0},
    {"optimizer", HM_OPTION_STRING, "adam", "NAME", "sgd, adam or adamw", AT(optimizer), 0, 0},
    {"rate", HM_OPTION_F32, "0.001", "RATE", "learning rate of the experts", AT(rate), 1e-9, 100},
    {"clip-norm", HM_OPTION_F32, "0", "NORM", "scale larger gradients down to this norm; 0: never",
     AT(clip_norm), 0, 1e9},
    {"weight-decay", HM_OPTION_F32, "0", "DECAY", "of sgd and adamw", AT(weight_decay), 0, 10},
    {"seed", HM_OPTION_U64, "0", "SEED",
     "of new experts' parameters; the same seed gives the same experts", AT(seed), 0, 0},
    {"delay", HM_OPTION_DURATION, NULL, "TIME", "what a batch of a nop_delay takes", AT(delay),
     1e-6, 60},
    {"device", HM_OPTION_STRING, "auto", "NAME", "where they run: auto or cpu", AT(device), 0, 0},
    {"lane-threads", HM_OPTION_U32, "0", "COUNT", "threads that compute; 0: one a processor",
     AT(lane_threads), 0, 1024},
    {"batch-rows-max", HM_OPTION_U32, "2048", "ROWS", "never run more rows at once",
     AT(batch_rows_max), 1, 1 << 20},
    {"batch-delay-max", HM_OPTION_DURATION, NULL, "TIME",
     "a lane that is free waits so long for more rows; none given: not at all", AT(batch_delay_max),
     0, 60},
    {"batch-rows-preferred", HM_OPTION_U32, NULL, "ROWS",
     "a batch of so many does not wait; none given: a full one (with --batch-delay-max)",
     AT(batch_rows_preferred), 1, 1 << 20},
    {"equal-passes", HM_OPTION_BOOL, "false", NULL,
     "forwards and backwards in turn; else forwards go first, and backwards move on all the same",
     AT(equal_passes), 0, 0},
    {"queue-rows-max", HM_OPTION_U32, "65536", "ROWS",
     "an expert's queue; over it callers are told BUSY", AT(queue_rows_max), 1, 1 << 30},
    {"codecs", HM_OPTION_STRING, "none,f16,bf16,u8", "NAMES",
     "how rows may be coded on the wire; who asks for another is served without", AT(codecs), 0, 0},
    {"save-interval", HM_OPTION_DURATION, "60s", "TIME",
     "save what has changed so often (needs --state)", AT(save_interval), 0.1, 86400},
    {"drain-timeout", HM_OPTION_DURATION, "10s", "TIME",
     "how long an orderly end may wait for running calls", AT(drain_timeout), 0, 3600},
    {"json", HM_OPTION_BOOL, "false", NULL, "say what happens as lines of JSON", AT(json), 0, 0},
};
const unsigned serve_option_count = HM_COUNT_OF(serve_options);

/* The uids of all patterns, in order (malloc'ed). */
static enum hm_status expand(const char *patterns, struct hm_uid **all, unsigned *count)
{
    char *list = strdup(patterns), *rest = list, *pattern;
    struct hm_uid *made = malloc(UIDS_MAX * sizeof(*made)), *uids;
    enum hm_status status = list && made ? HM_OK : HM_ERR_NO_MEMORY;
    unsigned total = 0, some;
    while (!status && (pattern = strsep(&rest, ","))) {
        status = hm_uid_expand(pattern, UIDS_MAX, &uids, &some);
        if (status) break;
        if (some > UIDS_MAX - total)
            status = hm_fail(HM_ERR_TOO_BIG, "--experts names more than %d experts", UIDS_MAX);
        else
            memcpy(made + total, uids, some * sizeof(*made));
        total += status ? 0 : some;
        free(uids);
    }
    free(list);
    if (status) {
        free(made);
        return status;
    }
    *all = made;
    *count = total;
    return HM_OK;
}

static enum hm_status share_parse(const struct serve_conf *conf, unsigned *place, unsigned *count)
{
    char more;
    if (conf->share_count > 0) {
        *place = conf->share_place;
        *count = conf->share_count;
        return HM_OK;
    }
    if (sscanf(conf->share, "%u/%u%c", place, count, &more) == 2 && *count > 0 && *place < *count)
        return HM_OK;
    return hm_fail(HM_ERR_INVALID, "--share is '%.100s'; it is I/N with I from 0 to N-1: 0/3",
                   conf->share);
}

/* Part `place` of `count` of the experts, in order. */
static enum hm_status host(struct hm_server *server, const struct serve_conf *conf)
{
    struct hm_expert_options expert = {.kind = conf->kind,
                                       .hidden = conf->hidden,
                                       .dtype = conf->dtype,
                                       .optimizer = conf->optimizer,
                                       .rate = conf->rate,
                                       .clip_norm = conf->clip_norm,
                                       .weight_decay = conf->weight_decay,
                                       .seed = conf->seed,
                                       .delay_us = (uint32_t)(conf->delay / HM_US)};
    struct hm_uid *uids;
    unsigned total, place, count;
    enum hm_status status = share_parse(conf, &place, &count);
    if (!status) status = expand(conf->experts, &uids, &total);
    if (status) return status;
    uint64_t first = (uint64_t)place * total / count, end = (uint64_t)(place + 1) * total / count;
    if (first == end)
        status = hm_fail(HM_ERR_INVALID, "%u servers cannot share %u experts; start fewer servers",
                         count, total);
    for (uint64_t i = first; i < end && !status; i++)
        status = hm_server_host(server, uids[i].text, &expert);
    free(uids);
    return status;
}

enum hm_status serve_check(const struct serve_conf *conf)
{
    struct hm_uid *uids;
    unsigned total, place, count;
    if (!conf->experts)
        return hm_fail(HM_ERR_INVALID,
                       "name the experts to host, for example --experts 'ffn.[0:4].[0:4]'");
    if (!hm_expert_kind_find(conf->kind) || !hm_optimizer_find(conf->optimizer))
        return HM_ERR_INVALID;
    if (strcmp(conf->dtype, "f32") != 0 && strcmp(conf->dtype, "bf16") != 0)
        return hm_fail(HM_ERR_INVALID, "--dtype is '%.20s'; it can be f32 or bf16", conf->dtype);
    bool sleeps = strcmp(conf->kind, "nop_delay") == 0;
    if (sleeps != (conf->delay > 0))
        return hm_fail(HM_ERR_INVALID, sleeps ? "--kind nop_delay needs the time that a batch "
                                                "takes: --delay 2ms"
                                              : "--delay belongs to --kind nop_delay");
    if (conf->batch_rows_preferred > conf->batch_rows_max)
        return hm_fail(HM_ERR_INVALID,
                       "--batch-rows-preferred %u is more than a batch (--batch-rows-max %u)",
                       conf->batch_rows_preferred, conf->batch_rows_max);
    if (conf->batch_rows_preferred > 0 && conf->batch_delay_max == 0)
        return hm_fail(HM_ERR_INVALID,
                       "--batch-rows-preferred says when a batch does not wait; let it "
                       "wait with --batch-delay-max 1ms");
    if (conf->queue_rows_max < conf->batch_rows_max)
        return hm_fail(HM_ERR_INVALID,
                       "--queue-rows-max %u is less than one batch (--batch-rows-max %u)",
                       conf->queue_rows_max, conf->batch_rows_max);
    uint64_t codecs;
    enum hm_status status = hm_codec_set_parse(conf->codecs, &codecs);
    if (!status) status = share_parse(conf, &place, &count);
    if (!status) status = expand(conf->experts, &uids, &total);
    if (!status) free(uids);
    return status;
}

static void say_started(const struct serve_conf *conf, struct hm_server *server, const char *line)
{
    const struct hm_expert_server *inner = hm_server_inner(server);
    unsigned experts = hm_expert_server_expert_count(inner),
             restored = hm_expert_server_restored_count(inner);
    uint64_t step = hm_expert_server_restored_step(inner);
    const char *bf16 = hm_expert_server_bf16_text(inner);
    if (conf->json) {
        struct hm_json json;
        hm_json_init(&json);
        hm_json_object_begin(&json, NULL);
        hm_json_string(&json, "event", "serving");
        if (conf->part) hm_json_uint(&json, "rank", conf->rank);
        hm_json_string(&json, "join", line);
        hm_json_uint(&json, "experts", experts);
        hm_json_string(&json, "dtype", conf->dtype);
        if (bf16) hm_json_string(&json, "bf16", bf16);
        hm_json_uint(&json, "restored", restored);
        hm_json_uint(&json, "restored_step", step);
        hm_json_object_end(&json);
        printf("%s\n", hm_json_text(&json));
        hm_json_fini(&json);
    } else {
        if (conf->part) printf("rank=%u ", conf->rank);
        printf("serving %u experts (%s, %u columns%s%s)", experts, conf->kind, conf->hidden,
               bf16 ? ", bf16: " : "", bf16 ? bf16 : "");
        if (restored)
            printf(", %u restored from checkpoints, the newest at step %llu", restored,
                   (unsigned long long)step);
        if (conf->part)
            printf("\n");
        else
            printf("\njoin with:\n%s\n", line);
    }
    fflush(stdout);
}

int serve_start(struct hm_node *node, const struct serve_conf *conf, struct hm_server **out)
{
    struct hm_server *server = NULL;
    char line[HM_JOIN_LINE_BYTES];
    struct hm_server_options options = {.device = conf->device,
                                        .batch_rows_max = conf->batch_rows_max,
                                        .queue_rows_max = conf->queue_rows_max,
                                        .batch_delay_max_us =
                                            (uint32_t)(conf->batch_delay_max / HM_US),
                                        .batch_rows_preferred = conf->batch_rows_preferred,
                                        .equal_passes = conf->equal_passes,
                                        .save_interval_ms = (int)(conf->save_interval / HM_MS),
                                        .lane_threads = conf->lane_threads,
                                        .codecs = conf->codecs};
    enum hm_status status = hm_server_open(node, &options, &server);
    if (!status) status = host(server, conf);
    if (!status) status = hm_server_start(server);
    if (!status) status = hm_node_join_line(node, line, sizeof(line));
    if (status) {
        int code = cli_fail(CLI_FAILED, status);
        hm_server_close(server);
        return code;
    }
    say_started(conf, server, line);
    *out = server;
    return CLI_GO_ON;
}

int serve_end(struct hm_node *node, struct hm_server *server, const struct serve_conf *conf)
{
    char fabric[CLI_FABRIC_FIELDS_BYTES];
    enum hm_status status = hm_server_drain(server, (int)(conf->drain_timeout / HM_MS));
    uint64_t saved = hm_expert_server_saved_count(hm_server_inner(server));
    if (conf->part && !conf->json) printf("rank=%u ", conf->rank);
    if (conf->json)
        printf("{\"event\":\"stopped\",\"checkpoints_written\":%llu,\"status\":\"%s\"%s}\n",
               (unsigned long long)saved, hm_status_name(status),
               cli_fabric_fields(node, true, fabric));
    else
        printf("stopped; %llu checkpoints written%s\n", (unsigned long long)saved,
               cli_fabric_fields(node, false, fabric));
    fflush(stdout);
    hm_server_close(server);
    return status ? cli_fail(CLI_FAILED, status) : CLI_OK;
}
