/* cli/train.c - a training: a classifier on a data file, its mixtures in the swarm.
 *
 * A step that fails (fewer than k_min experts answered some row) is tried again with the same
 * rows; only many in a row end the training.  SIGINT ends it after the step, with the result so
 * far.  With a state folder it is saved now and then and at its end, and goes on from there. */
#include "cli/train.h"

#include "api/swarm.h"
#include "base/log.h"
#include "base/map.h"
#include "cli/grid.h"
#include "cli/model.h"
#include "cli/train_state.h"
#include "moe/dataset.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVALUATE_ROWS_MAX = 1024, EVALUATE_TRIES = 5 };

#define AT(member) offsetof(struct train_conf, member)
const struct hm_option train_options[] = {
    {"data", HM_OPTION_STRING, NULL, "FILE", "rows to learn from", AT(data), 0, 0},
    {"experts", HM_OPTION_STRING, "ffn.[0:4].[0:4]", "GRID",
     "the grid to choose from, as name.[0:a].[0:b]", AT(experts), 0, 0},
    {"hidden", HM_OPTION_U32, "64", "COLUMNS", "features of a row between the layers: the experts'",
     AT(hidden), 1, 65536},
    {"layers", HM_OPTION_U32, "2", "COUNT", "mixture layers", AT(layers), 1, MODEL_LAYERS_MAX},
    {"k-best", HM_OPTION_U32, "4", "COUNT", "experts that each row goes to", AT(k_best), 1, 64},
    {"k-min", HM_OPTION_U32, "1", "COUNT", "that must answer each row", AT(k_min), 1, 64},
    {"backward-k-min", HM_OPTION_U32, "0", "COUNT", "that must answer each row's gradient",
     AT(backward_k_min), 0, 64},
    {"spares", HM_OPTION_U32, "2", "COUNT",
     "next best experts of a row, asked in the same step where one refuses (busy, going, gone)",
     AT(spares), 0, 63},
    {"codec", HM_OPTION_STRING, "none", "NAME",
     "how rows and gradients travel: none, f16, bf16 or u8 (a quarter of the bytes)", AT(codec), 0,
     0},
    {"steps", HM_OPTION_U64, "400", "COUNT", "optimizer steps", AT(steps), 1, 1e12},
    {"batch", HM_OPTION_U32, "64", "ROWS", "rows a step", AT(batch), 1, 65536},
    {"rate", HM_OPTION_F32, "0.003", "RATE",
     "learning rate of the local layers, falling to a tenth", AT(rate), 1e-9, 100},
    {"balance", HM_OPTION_F32, "0.01", "WEIGHT", "of the load-balancing loss", AT(balance), 0, 100},
    {"seed", HM_OPTION_U64, "0", "SEED", "of the split, the order of rows and the local layers",
     AT(seed), 0, 0},
    {"train-fraction", HM_OPTION_F32, "0.8", "PART", "of the rows that is trained on",
     AT(train_fraction), 0.01, 0.99},
    {"timeout", HM_OPTION_DURATION, "5s", "TIME", "for a mixture's forward or backward",
     AT(timeout), 0.01, 600},
    {"timeout-after-k-min", HM_OPTION_DURATION, "500ms", "TIME",
     "wait for the rest once k-min have answered", AT(timeout_after_k_min), 0.001, 600},
    {"failures-max", HM_OPTION_U32, "20", "COUNT", "give up after so many failed steps in a row",
     AT(failures_max), 1, 1e6},
    {"priority", HM_OPTION_STRING, "training", "NAME",
     "of its calls: inference, training or background; servers never take it for more than they "
     "allow",
     AT(priority), 0, 0},
    {"save-interval", HM_OPTION_DURATION, "60s", "TIME",
     "save the training so often (needs --state); started again it goes on from there",
     AT(save_interval), 0.1, 86400},
    {"events", HM_OPTION_STRING, NULL, "FILE", "write a line of JSON a step into a new file",
     AT(events), 0, 0},
    {"json", HM_OPTION_BOOL, "false", NULL, "the result as one line of JSON", AT(json), 0, 0},
};
const unsigned train_option_count = HM_COUNT_OF(train_options);

struct training {
    const struct train_conf *conf;
    struct hm_node *node;
    struct cli_stop *stop;
    struct hm_dataset data;
    struct hm_remote_mixture_options grid; /* its name is uid_name */
    char uid_name[HM_UID_BYTES];
    struct model model;
    FILE *events;
    struct train_at at;
    char *path;    /* of its state; NULL: nothing is kept */
    uint64_t what; /* that it trains, hashed */
    float *x;
    int64_t *label;
    uint64_t rows, steps_failed; /* of this process */
    unsigned experts_alive;
    hm_ns look_next, save_next, started;
};

/* ---- set-up ---------------------------------------------------------------------------------- */

static enum hm_status open_events(struct training *t)
{
    if (!t->conf->events) return HM_OK;
    t->events = fopen(t->conf->events, "wx"); /* x: nothing is overwritten */
    if (!t->events)
        return hm_fail(
            HM_ERR_STORAGE,
            "cannot make the new file %s (%s); name one that does not exist with --events",
            t->conf->events, strerror(errno));
    setvbuf(t->events, NULL, _IOLBF, 0);
    return HM_OK;
}

static enum hm_status training_alloc(struct training *t)
{
    const struct hm_dataset *data = &t->data;
    uint32_t rows = t->conf->batch > data->row_count ? t->conf->batch : data->row_count;
    t->at.order = malloc(data->train_count * sizeof(*t->at.order));
    t->x = malloc((size_t)rows * data->columns * sizeof(*t->x));
    t->label = malloc(rows * sizeof(*t->label));
    if (!t->at.order || !t->x || !t->label) return HM_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < data->train_count; i++) t->at.order[i] = i;
    t->at.order_at = t->at.order_count = data->train_count;
    hm_rng_init(&t->at.rng, t->conf->seed + t->conf->own, 1);
    return HM_OK;
}

/* ---- what is kept ---------------------------------------------------------------------------- */

/* What it trains on and into, which has to stay: places among the rows and layers' sizes follow. */
static uint64_t what_it_is(const struct training *t)
{
    const struct train_conf *conf = t->conf;
    const struct hm_dataset *data = &t->data;
    uint64_t fact[] = {conf->seed,        conf->own,       conf->hidden,
                       conf->layers,      data->row_count, data->train_count,
                       data->class_count, data->columns,   t->grid.grid_dims};
    uint64_t hash = hm_hash(fact, sizeof(fact), 0);
    hash = hm_hash(t->grid.grid, t->grid.grid_dims * sizeof(t->grid.grid[0]), hash);
    return hm_hash(t->uid_name, strlen(t->uid_name), hash);
}

static enum hm_status resume(struct training *t)
{
    t->what = what_it_is(t);
    t->path = hm_node_path(t->node, "trainer.state");
    if (!t->path) return t->node->state_dir ? HM_ERR_NO_MEMORY : HM_OK;
    enum hm_status status = train_state_load(t->model.tape, t->path, t->what, &t->at);
    if (status == HM_ERR_NOT_FOUND) return HM_OK;
    if (status) return status;
    if (t->conf->part) fprintf(stderr, "rank %u: ", t->conf->rank);
    fprintf(stderr, "the training goes on at step %llu\n", (unsigned long long)t->at.step);
    return HM_OK;
}

static enum hm_status save(struct training *t)
{
    t->save_next = cli_now() + t->conf->save_interval;
    if (!t->path) return HM_OK;
    return train_state_save(t->model.tape, t->path, t->what, &t->at);
}

/* ---- steps ---------------------------------------------------------------------------------- */

static void next_batch(struct training *t)
{
    size_t columns = t->data.columns;
    for (uint32_t i = 0; i < t->conf->batch; i++) {
        if (t->at.order_at == t->data.train_count) {
            hm_rng_shuffle(&t->at.rng, t->at.order, t->data.train_count);
            t->at.order_at = 0;
        }
        uint32_t row = t->at.order[t->at.order_at++];
        memcpy(t->x + i * columns, t->data.feature + row * columns, columns * sizeof(float));
        t->label[i] = t->data.label[row];
    }
}

/* After a failed step or evaluation: servers that have just died need time to come back. */
static void pause_after(struct training *t, unsigned failures)
{
    hm_ns end = cli_now() + (failures < 20 ? failures : 20) * 50 * HM_MS;
    while (cli_now() < end && !cli_stop_asked(t->stop)) poll(NULL, 0, 10);
}

/* Accuracy on the rows kept for testing, so many at once that servers have room for them.  Each
 * lot is tried again while a server has just died. */
static enum hm_status evaluate(struct training *t)
{
    uint32_t first = t->data.train_count, count = t->data.row_count - first;
    uint64_t right = 0;
    for (uint32_t at = 0; at < count;) {
        uint32_t rows = count - at < EVALUATE_ROWS_MAX ? count - at : EVALUATE_ROWS_MAX;
        const float *x = t->data.feature + (size_t)(first + at) * t->data.columns;
        struct model_step step;
        enum hm_status status = HM_ERR_INVALID;
        for (unsigned try = 1; status && try <= EVALUATE_TRIES; try++) {
            status = model_run(&t->model, x, t->data.label + first + at, rows, 0, &step);
            if (status && try < EVALUATE_TRIES) pause_after(t, try);
        }
        if (status) return status;
        right += step.right;
        at += rows;
    }
    t->at.accuracy = (float)((double)right / count);
    t->at.evaluated = true;
    return HM_OK;
}

/* Counts the live experts once a second; where a look takes long (a node that is gone is waited
 * for) less often, so that training has at least three quarters of the time. */
static void look_around(struct training *t)
{
    hm_ns before = cli_now();
    if (before < t->look_next) return;
    struct hm_swarm swarm;
    if (!hm_swarm_look(t->node, 500 * HM_MS, &swarm)) {
        t->experts_alive = 0;
        for (unsigned i = 0; i < swarm.expert_count; i++)
            for (unsigned j = 0; j < swarm.server_count; j++)
                t->experts_alive +=
                    hm_node_id_equal(&swarm.expert[i].server, &swarm.server[j].node) &&
                    swarm.server[j].addrs.count > 0;
    }
    hm_swarm_fini(&swarm);
    hm_ns took = cli_now() - before;
    t->look_next = before + took + (3 * took > HM_S ? 3 * took : HM_S);
}

static double rows_per_second(const struct training *t)
{
    double seconds = (double)(cli_now() - t->started) / 1e9;
    return seconds > 0 ? (double)t->rows / seconds : 0;
}

static void report(struct training *t, struct cli_progress *progress, enum hm_status status)
{
    struct hm_dispatch_stats stats;
    char text[160], accuracy[16] = "-"; /* not known before the first epoch has ended */
    hm_dispatch_stats(t->node->dispatch, &stats);
    if (t->at.evaluated) snprintf(accuracy, sizeof(accuracy), "%.3f", (double)t->at.accuracy);
    snprintf(text, sizeof(text), "loss %.3f  accuracy %s  %.0f rows/s  experts %u  failed %llu",
             (double)t->at.loss, accuracy, rows_per_second(t), t->experts_alive,
             (unsigned long long)stats.calls_failed);
    cli_progress_show(progress, t->at.step, text);
    if (t->events)
        fprintf(
            t->events,
            "{\"step\":%llu,\"loss\":%.5f,\"accuracy\":%.4f,\"seconds\":%.3f,\"experts_alive\":%u,"
            "\"calls_failed\":%llu,\"status\":\"%s\"}\n",
            (unsigned long long)t->at.step, (double)t->at.loss, (double)t->at.accuracy,
            (double)(cli_now() - t->started) / 1e9, t->experts_alive,
            (unsigned long long)stats.calls_failed, hm_status_name(status));
}

/* A cosine from the first rate down to a tenth of it. */
static float rate_at(const struct training *t)
{
    float part = (float)t->at.step / (float)t->conf->steps;
    return t->conf->rate * (0.1f + 0.9f * 0.5f * (1.0f + __builtin_cosf(3.14159265f * part)));
}

/* The experts do not take our rows: asks one what it takes, so that the line says how to mend
 * it. */
static enum hm_status explain_shape(struct training *t)
{
    struct hm_remote_expert *expert = NULL;
    struct hm_remote_expert_info info = {0};
    struct hm_swarm swarm;
    enum hm_status status = hm_swarm_look(t->node, 2 * HM_S, &swarm);
    const char *name = t->model.conf.mixture.name;
    for (unsigned i = 0; i < swarm.expert_count && !expert; i++) {
        const struct hm_uid *uid = &swarm.expert[i].uid;
        if (strlen(name) == uid->name_bytes && memcmp(uid->text, name, uid->name_bytes) == 0)
            (void)hm_remote_expert_find(t->node, uid->text, 2000, &expert);
    }
    hm_swarm_fini(&swarm);
    if (expert) {
        status = hm_remote_expert_info(expert, 2000, &info);
        hm_remote_expert_put(expert);
    }
    if (!status && info.hidden != t->conf->hidden && info.hidden > 0)
        return hm_fail(HM_ERR_SHAPE,
                       "expert %s takes rows of %u columns, this model has %u; give --hidden %u",
                       info.uid, info.hidden, t->conf->hidden, info.hidden);
    return hm_fail(HM_ERR_SHAPE,
                   "the experts do not take rows of %u columns; give --hidden as their servers do",
                   t->conf->hidden);
}

static int give_up(struct cli_progress *progress, enum hm_status status)
{
    cli_progress_leave(progress);
    return cli_fail(CLI_FAILED, status);
}

static int train(struct training *t, struct cli_progress *progress)
{
    const struct train_conf *conf = t->conf;
    uint64_t epoch_steps = (t->data.train_count + conf->batch - 1) / conf->batch;
    unsigned failures = 0;
    cli_progress_start(progress, conf->steps);
    progress->done = t->at.step;
    t->started = cli_now();
    t->save_next = t->started + conf->save_interval;
    while (t->at.step < conf->steps && !cli_stop_asked(t->stop)) {
        struct model_step step;
        if (failures == 0) next_batch(t);
        enum hm_status status =
            model_run(&t->model, t->x, t->label, conf->batch, rate_at(t), &step);
        if (status) {
            t->steps_failed++;
            bool empty = status == HM_ERR_NOT_FOUND && t->at.step == 0;
            if (status == HM_ERR_SHAPE) status = explain_shape(t);
            if (conf->part && cli_stop_asked(t->stop)) break;
            if (empty || status == HM_ERR_SHAPE || ++failures == conf->failures_max)
                return give_up(progress, status);
            pause_after(t, failures);
        } else {
            failures = 0;
            t->at.step++;
            t->rows += conf->batch;
            t->at.loss = t->at.step == 1 ? step.loss : 0.9f * t->at.loss + 0.1f * step.loss;
            /* One that fails leaves the figure of the epoch before. */
            if (t->at.step % epoch_steps == 0 && t->at.step < conf->steps) status = evaluate(t);
        }
        look_around(t);
        report(t, progress, status);
        if (cli_now() >= t->save_next && save(t))
            hm_log(HM_LOG_WARN, "train", "%s", hm_fail_line_of(HM_ERR_STORAGE));
    }
    /* A launch that is told to end has seconds, and its servers drain: the last epoch's accuracy
     * has to do. */
    if (conf->part && cli_stop_asked(t->stop)) return CLI_OK;
    enum hm_status status = evaluate(t);
    return status ? give_up(progress, status) : CLI_OK;
}

static void say_result(struct training *t, struct cli_progress *progress)
{
    struct hm_dispatch_stats stats;
    char text[160], fabric[CLI_FABRIC_FIELDS_BYTES];
    t->look_next = 0;
    look_around(t);
    hm_dispatch_stats(t->node->dispatch, &stats);
    double seconds = (double)(cli_now() - t->started) / 1e9;
    snprintf(text, sizeof(text), "loss %.3f  accuracy %.3f  done", (double)t->at.loss,
             (double)t->at.accuracy);
    cli_progress_end(progress, text);
    if (t->conf->json) printf("{");
    if (t->conf->part) printf(t->conf->json ? "\"rank\":%u," : "rank=%u ", t->conf->rank);
    printf(
        t->conf->json
            ? "\"accuracy\":%.4f,\"loss\":%.4f,\"steps\":%llu,\"steps_failed\":%llu,\"seconds\":%."
              "2f,"
              "\"rows_per_second\":%.0f,\"experts_alive\":%u,\"calls\":%llu,\"calls_coded\":%llu,"
              "\"calls_failed\":%llu,\"parts_failed\":%llu%s}\n"
            : "accuracy=%.4f loss=%.4f steps=%llu steps_failed=%llu seconds=%.2f "
              "rows_per_second=%.0f "
              "experts_alive=%u calls=%llu calls_coded=%llu calls_failed=%llu "
              "parts_failed=%llu%s\n",
        (double)t->at.accuracy, (double)t->at.loss, (unsigned long long)t->at.step,
        (unsigned long long)t->steps_failed, seconds, rows_per_second(t), t->experts_alive,
        (unsigned long long)stats.calls, (unsigned long long)stats.calls_coded,
        (unsigned long long)stats.calls_failed, (unsigned long long)stats.parts_failed,
        cli_fabric_fields(t->node, t->conf->json, fabric));
    fflush(stdout);
}

int train_run(struct training *t, struct hm_node *node, struct cli_stop *stop)
{
    const struct hm_remote_mixture_options *grid = &t->grid;
    const struct train_conf *conf = t->conf;
    struct model_conf model = {
        .inputs = t->data.columns,
        .classes = t->data.class_count,
        .layers = conf->layers,
        .seed = conf->seed + conf->own,
        .mixture = {.name = grid->name,
                    .grid_dims = grid->grid_dims,
                    .hidden = conf->hidden,
                    .k_best = conf->k_best,
                    .k_min = conf->k_min,
                    .backward_k_min = conf->backward_k_min,
                    .spares = conf->spares ? (int)conf->spares : -1,
                    .forward_timeout_ms = (int)(conf->timeout / HM_MS),
                    .backward_timeout_ms = (int)(conf->timeout / HM_MS),
                    .timeout_after_k_min_ms = (int)(conf->timeout_after_k_min / HM_MS),
                    .balance = conf->balance,
                    .codec = conf->codec}};
    struct cli_progress progress;
    memcpy(model.mixture.grid, grid->grid, sizeof(grid->grid));
    t->node = node;
    t->stop = stop;
    enum hm_status status = grid_check(node, grid);
    if (!status) status = training_alloc(t);
    if (!status) status = open_events(t);
    if (!status) status = model_open(t->node, &model, &t->model);
    if (!status) status = resume(t);
    int code = status ? cli_fail(CLI_FAILED, status) : train(t, &progress);
    if (code == CLI_OK && (status = save(t))) code = give_up(&progress, status);
    if (code == CLI_OK) say_result(t, &progress);
    model_close(&t->model);
    if (t->events) fclose(t->events);
    return code;
}

enum hm_status train_try(const struct train_conf *conf, struct training **out, int *code)
{
    struct training *t = calloc(1, sizeof(*t));
    *code = CLI_FAILED;
    if (!t) return HM_ERR_NO_MEMORY;
    t->conf = conf;
    *code = CLI_USAGE;
    enum hm_status status = grid_parse(conf->experts, t->uid_name, &t->grid);
    if (!status && !conf->data) status = hm_fail(HM_ERR_INVALID, "name a data file with --data");
    if (!status && !hm_codec_by_name(conf->codec)) status = HM_ERR_INVALID;
    if (!status && conf->k_min > conf->k_best)
        status = hm_fail(HM_ERR_INVALID, "--k-min %u is more than --k-best %u", conf->k_min,
                         conf->k_best);
    if (!status) {
        *code = CLI_FAILED;
        status = hm_dataset_load(conf->data, conf->seed, (double)conf->train_fraction, &t->data);
    }
    if (status) {
        train_free(t);
        return status;
    }
    *out = t;
    return HM_OK;
}

int train_prepare(const struct train_conf *conf, struct training **training)
{
    int code;
    enum hm_status status = train_try(conf, training, &code);
    return status ? cli_fail(code, status) : CLI_GO_ON;
}

void train_free(struct training *t)
{
    if (!t) return;
    if (t->data.feature) hm_dataset_fini(&t->data);
    free(t->at.order);
    free(t->path);
    free(t->x);
    free(t->label);
    free(t);
}
