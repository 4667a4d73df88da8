/* What the expert server keeps: which backwards it has applied, its checkpoints, and its ends, orderly and not. */
#include "support_server.h"

#include "experts/checkpoint.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static struct swarm swarm;
static float x[ROWS_MAX * COLUMNS], dy[ROWS_MAX * COLUMNS];

static int setup(void **state)
{
    (void)state;
    fill_normal(x, ROWS_MAX * COLUMNS, 3);
    fill_normal(dy, ROWS_MAX * COLUMNS, 4);
    swarm_open(&swarm, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    swarm_close(&swarm);
    return 0;
}

/* A backward of 8 rows, with a sequence of the caller's choice (0: a new one, which is returned). */
static enum hm_status backward(struct swarm *to, const char *uid, uint64_t *sequence,
                               const float *in, hm_ns timeout, uint64_t *step)
{
    struct raw raw;
    raw_init(&raw, HM_PASS_BACKWARD, in, dy, 8);
    raw_add(&raw, uid, 0, 8, NULL, NULL);
    raw.timeout = timeout;
    if (*sequence) raw.head.sequence = *sequence;
    *sequence = raw.head.sequence;
    raw_run(to, &raw);
    enum hm_status status = raw.end ? raw.end : raw.answer[0].status;
    if (!raw.end) assert_int_equal(raw.answer[0].count, 1);
    if (!raw.end && step) *step = raw.answer[0].head.step;
    raw_fini(&raw);
    return status;
}

/* ---- at most once ------------------------------------------------------------------------------- */

static void the_same_backward_sent_again_is_applied_once(void **state)
{
    (void)state;
    enum { COPIES = 4 };
    struct raw raw[COPIES];
    struct flight flight;
    struct gate gate;
    uint64_t step = 0;
    unsigned applied = 0, duplicates = 0;
    gate_shut(&gate, &swarm, "ffn.0");
    for (unsigned i = 0; i < COPIES; i++) {
        raw_init(&raw[i], HM_PASS_BACKWARD, x, dy, 8);
        raw_add(&raw[i], "ffn.0", 0, 8, NULL, NULL);
        raw[i].head.sequence = raw[0].head.sequence;
    }
    flight_start(&flight, swarm.b, swarm.peer, raw, COPIES);
    wait_queued(&swarm, "ffn.0", HM_PASS_BACKWARD, 8); /* one copy */
    gate_open(&gate);
    flight_wait(&flight);
    for (unsigned i = 0; i < COPIES; i++) {
        assert_int_equal(raw[i].answer[0].count, 1);
        applied += raw[i].answer[0].status == HM_OK;
        duplicates += raw[i].answer[0].status == HM_ERR_DUPLICATE;
        raw_fini(&raw[i]);
    }
    assert_int_equal(applied, 1);
    assert_int_equal(duplicates, COPIES - 1);
    uint64_t sequence = raw[0].head.sequence;
    assert_status(backward(&swarm, "ffn.0", &sequence, x, 20 * HM_S, &step), HM_ERR_DUPLICATE);
    assert_int_equal(step, 1); /* a duplicate is told where the expert is */
    assert_int_equal(steps(&swarm, "ffn.0"), 1);
    /* To another expert the same call is another backward. */
    assert_ok(backward(&swarm, "ffn.1", &sequence, x, 20 * HM_S, &step));
    assert_int_equal(step, 1);
}

static void clients_do_not_share_their_sequences(void **state)
{
    (void)state;
    struct hm_node *node;
    struct raw raw;
    struct swarm other = swarm;
    uint64_t sequence = 0, step = 0;
    assert_ok(backward(&swarm, "ffn.1", &sequence, x, 20 * HM_S, NULL));
    assert_ok(hm_node_open(&(struct hm_node_options){.join = swarm.line}, &node));
    other.b = node;
    other.peer = peer_get(node, swarm.a);
    uint64_t before = steps(&swarm, "ffn.1");
    assert_ok(backward(&other, "ffn.1", &sequence, x, 20 * HM_S, &step));
    assert_int_equal(step, before + 1);
    /* The same node in its next life. */
    raw_init(&raw, HM_PASS_BACKWARD, x, dy, 8);
    raw_add(&raw, "ffn.1", 0, 8, NULL, NULL);
    raw.head.sequence = sequence;
    raw.head.incarnation++;
    raw_run(&swarm, &raw);
    assert_ok(raw.answer[0].status);
    assert_int_equal(raw.answer[0].head.step, before + 2);
    raw_fini(&raw);
    peer_put(node, other.peer);
    hm_node_close(node);
}

static void a_backward_that_ended_without_a_step_may_be_repeated(void **state)
{
    (void)state;
    float bad[8 * COLUMNS];
    struct gate gate;
    uint64_t refused = 0, late = 0, step = 0;
    memcpy(bad, x, sizeof(bad));
    bad[5] = NAN;
    assert_status(backward(&swarm, "ffn.2", &refused, bad, 20 * HM_S, NULL), HM_ERR_NUMERIC);
    gate_shut(&gate, &swarm, "ffn.2");
    assert_status(backward(&swarm, "ffn.2", &late, x, 100 * HM_MS, NULL), HM_ERR_TIMED_OUT);
    wait_queued(&swarm, "ffn.2", HM_PASS_BACKWARD, 0);
    gate_open(&gate);
    assert_int_equal(steps(&swarm, "ffn.2"), 0);
    assert_ok(backward(&swarm, "ffn.2", &refused, x, 20 * HM_S, &step));
    assert_int_equal(step, 1);
    assert_ok(backward(&swarm, "ffn.2", &late, x, 20 * HM_S, &step));
    assert_int_equal(step, 2);
    assert_status(backward(&swarm, "ffn.2", &refused, x, 20 * HM_S, NULL), HM_ERR_DUPLICATE);
    assert_status(backward(&swarm, "ffn.2", &late, x, 20 * HM_S, NULL), HM_ERR_DUPLICATE);
    assert_int_equal(steps(&swarm, "ffn.2"), 2);
}

static void a_backward_has_one_part_an_expert(void **state)
{
    (void)state;
    struct raw raw;
    raw_init(&raw, HM_PASS_BACKWARD, x, dy, 8);
    raw_add(&raw, "ffn.3", 0, 4, NULL, NULL);
    raw_add(&raw, "ffn.3", 4, 4, NULL, NULL);
    raw_add(&raw, "ffn.4", 4, 4, NULL, NULL);
    raw_run(&swarm, &raw);
    assert_ok(raw.answer[0].status);
    assert_status(raw.answer[1].status, HM_ERR_DUPLICATE);
    assert_ok(raw.answer[2].status);
    raw_fini(&raw);
    assert_int_equal(steps(&swarm, "ffn.3"), 1);
}

static void restart(void)
{
    peer_put(swarm.b, swarm.peer);
    swarm_stop(&swarm);
    swarm_serve(&swarm);
    swarm.peer = peer_get(swarm.b, swarm.a);
}

static void a_restarted_server_has_its_experts_and_knows_what_it_has_applied(void **state)
{
    (void)state;
    enum { BACKWARDS = 5 };
    float before[8 * COLUMNS], after[8 * COLUMNS];
    uint64_t sequence[BACKWARDS] = {0}, step = 0, never = 0;
    for (unsigned i = 0; i < BACKWARDS; i++)
        assert_ok(backward(&swarm, "ffn.5", &sequence[i], x + i * COLUMNS, 20 * HM_S, &step));
    assert_int_equal(step, BACKWARDS);
    assert_ok(pass_run(&swarm, "ffn.5", HM_PASS_FORWARD, x, NULL, 8, before, NULL));
    restart();
    assert_ok(pass_run(&swarm, "ffn.5", HM_PASS_FORWARD, x, NULL, 8, after, &step));
    assert_memory_equal(before, after, sizeof(before));
    assert_int_equal(step, BACKWARDS);
    for (unsigned i = 0; i < BACKWARDS; i++)
        assert_status(backward(&swarm, "ffn.5", &sequence[i], x, 20 * HM_S, NULL),
                      HM_ERR_DUPLICATE);
    assert_int_equal(steps(&swarm, "ffn.5"), BACKWARDS);
    assert_ok(backward(&swarm, "ffn.5", &never, x, 20 * HM_S, &step));
    assert_int_equal(step, BACKWARDS + 1);
}

/* ---- the end ------------------------------------------------------------------------------------ */

struct drain {
    struct hm_server *server;
    int timeout_ms, status;
    struct hm_thread *thread;
};

static void run_drain(void *arg)
{
    struct drain *drain = arg;
    drain->status = hm_server_drain(drain->server, drain->timeout_ms);
}

static void drain_start(struct drain *drain, int timeout_ms)
{
    *drain = (struct drain){.server = swarm.server, .timeout_ms = timeout_ms};
    assert_ok(
        hm_thread_start(&(struct hm_place){.name = "drain"}, run_drain, drain, &drain->thread));
}

/* What the server says to a call that it would refuse anyway. */
static enum hm_status ask(void)
{
    struct raw raw;
    raw_init(&raw, HM_PASS_FORWARD, x, NULL, 1);
    raw_add(&raw, "ffn.8", 0, 1, NULL, NULL);
    raw_run(&swarm, &raw);
    enum hm_status status = raw.whole != HM_INPROGRESS ? raw.whole : raw.answer[0].status;
    raw_fini(&raw);
    return status;
}

static void wait_draining(void)
{
    enum hm_status status = HM_ERR_EXPERT_GONE;
    for (unsigned i = 0; i < 5000 && status == HM_ERR_EXPERT_GONE; i++) {
        nap();
        status = ask();
    }
    assert_status(status, HM_ERR_DRAINING);
}

/* The step of the checkpoint in the folder. */
static uint64_t saved_step(const char *dir, const char *uid)
{
    char folder[128];
    struct local local;
    void *window;
    size_t window_bytes;
    snprintf(folder, sizeof(folder), "%s/experts", dir);
    local_open(&local, uid);
    assert_ok(hm_checkpoint_load(folder, local.expert, &window, &window_bytes));
    uint64_t step = hm_expert_step(local.expert);
    free(window);
    local_close(&local);
    return step;
}

/* Does the swarm know of a server or an expert, as seen by a node that has just come? */
static bool known_to_a_newcomer(void)
{
    struct hm_node *node;
    char *json;
    assert_ok(hm_node_open(&(struct hm_node_options){.join = swarm.line}, &node));
    assert_ok(hm_node_swarm_json(node, 5000, &json));
    bool known = !strstr(json, "\"servers\":[]") || !strstr(json, "\"experts\":[]");
    free(json);
    hm_node_close(node);
    return known;
}

static void draining_answers_what_was_accepted_saves_all_and_withdraws(void **state)
{
    (void)state;
    struct raw raw[3], more;
    struct flight flight;
    struct gate gate;
    struct drain drain;
    struct hm_remote_expert *expert;
    float y[COLUMNS];
    struct hm_array in = {.dims = 2, .dim = {1, COLUMNS}, .data = x};
    struct hm_array out = {.dims = 2, .dim = {1, COLUMNS}, .data = y};
    char uid[16];
    assert_true(known_to_a_newcomer());
    assert_ok(hm_remote_expert_find(swarm.b, "ffn.6", 5000, &expert));
    gate_shut(&gate, &swarm, "ffn.6");
    for (unsigned i = 0; i < 3; i++) {
        raw_init(&raw[i], HM_PASS_BACKWARD, x, dy, 16);
        raw_add(&raw[i], "ffn.6", 0, 16, NULL, NULL);
    }
    flight_start(&flight, swarm.b, swarm.peer, raw, 3);
    wait_queued(&swarm, "ffn.6", HM_PASS_BACKWARD, 48);
    drain_start(&drain, 20000);
    wait_draining();
    raw_init(&more, HM_PASS_BACKWARD, x, dy, 8);
    raw_add(&more, "ffn.6", 0, 8, NULL, NULL);
    raw_run(&swarm, &more);
    assert_status(more.whole, HM_ERR_DRAINING);
    raw_fini(&more);
    gate_open(&gate);
    hm_thread_join(drain.thread);
    assert_ok(drain.status);
    flight_wait(&flight);
    for (unsigned i = 0; i < 3; i++) {
        assert_ok(raw[i].answer[0].status);
        raw_fini(&raw[i]);
    }
    assert_int_equal(saved_step(swarm.dir, "ffn.6"), 3);
    for (unsigned i = 0; i < 8; i++) { /* also those that never stepped */
        snprintf(uid, sizeof(uid), "ffn.%u", i);
        (void)saved_step(swarm.dir, uid);
    }
    for (unsigned i = 0; known_to_a_newcomer(); i++) {
        assert_true(i < 200);
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    /* One that remembers the server looks again after its first call. */
    assert_status(hm_remote_expert_forward(expert, &in, &out, 5000), HM_ERR_DRAINING);
    int status = HM_ERR_DRAINING;
    for (unsigned i = 0; i < 2000 && status == HM_ERR_DRAINING; i++) {
        status = hm_remote_expert_forward(expert, &in, &out, 5000);
        nap();
    }
    assert_status(status, HM_ERR_NOT_FOUND);
    hm_remote_expert_put(expert);
    assert_status(hm_server_drain(swarm.server, 1000), HM_ERR_INVALID);
    restart();
    assert_int_equal(steps(&swarm, "ffn.6"), 3);
}

static void what_still_waits_when_draining_takes_too_long_is_refused_and_steps_nothing(void **state)
{
    (void)state;
    struct raw raw;
    struct flight flight;
    struct gate gate;
    struct drain drain;
    uint64_t before = steps(&swarm, "ffn.7"), first = 0, step = 0;
    assert_ok(backward(&swarm, "ffn.7", &first, x, 20 * HM_S, NULL));
    gate_shut(&gate, &swarm, "ffn.7");
    raw_init(&raw, HM_PASS_BACKWARD, x, dy, 8);
    raw_add(&raw, "ffn.7", 0, 8, NULL, NULL);
    flight_start(&flight, swarm.b, swarm.peer, &raw, 1);
    wait_queued(&swarm, "ffn.7", HM_PASS_BACKWARD, 8);
    drain_start(&drain, 200);
    flight_wait(&flight); /* while the lane is held */
    assert_ok(raw.end);
    assert_status(raw.answer[0].status, HM_ERR_DRAINING);
    gate_open(&gate);
    hm_thread_join(drain.thread);
    assert_status(drain.status, HM_ERR_TIMED_OUT);
    uint64_t sequence = raw.head.sequence;
    raw_fini(&raw);
    assert_int_equal(saved_step(swarm.dir, "ffn.7"), before + 1);
    restart();
    /* It was never applied, so it may come again. */
    assert_ok(backward(&swarm, "ffn.7", &sequence, x, 20 * HM_S, &step));
    assert_int_equal(step, before + 2);
}

static void a_server_may_be_closed_at_every_stage(void **state)
{
    (void)state;
    struct hm_server_options options = {.save_interval_ms = 1};
    struct hm_expert_options nop = {.kind = "nop", .hidden = COLUMNS};
    struct hm_node_options listening = {.state_dir = "", .listen = "127.0.0.1:0"};
    struct hm_server *opened, *hosted, *empty, *first, *second;
    struct hm_node *node;
    char dir[] = "/tmp/hm-server-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    listening.state_dir = dir;
    assert_ok(hm_node_open(&listening, &node));
    assert_ok(hm_server_open(node, &options, &opened));
    hm_server_close(opened);
    assert_ok(hm_server_open(node, &options, &hosted));
    assert_ok(hm_server_host(hosted, "nop.[0:4]", &nop));
    assert_status(hm_server_host(hosted, "nop.3", &nop), HM_ERR_INVALID); /* twice */
    assert_status(hm_server_host(hosted, "nop.[0", &nop), HM_ERR_INVALID);
    assert_status(hm_server_drain(hosted, 0), HM_ERR_INVALID);
    hm_server_close(hosted);
    assert_ok(hm_server_open(node, &options, &empty));
    assert_status(hm_server_start(empty), HM_ERR_INVALID);
    hm_server_close(empty);
    assert_ok(hm_server_open(node, &options, &first));
    assert_ok(hm_server_host(first, "nop.[0:4]", &nop));
    assert_ok(hm_server_start(first));
    assert_status(hm_server_start(first), HM_ERR_INVALID);
    /* A node has one server: a second one fails in its start, after its lanes and pools were made. */
    assert_ok(hm_server_open(node, &options, &second));
    assert_ok(hm_server_host(second, "nop.[4:8]", &nop));
    assert_status(hm_server_start(second), HM_ERR_INVALID);
    assert_status(hm_server_drain(second, 0), HM_ERR_INVALID);
    for (unsigned i = 0; i < 20; i++) nap(); /* saving would come due, and must not */
    snprintf(path, sizeof(path), "%s/experts/nop.4", dir);
    assert_int_equal(access(path, F_OK), -1);
    hm_server_close(second);
    hm_server_close(first);
    hm_server_close(NULL);
    hm_node_close(node);
    remove_folder(dir);
}

static void a_server_record_says_the_advertised_address(void **state)
{
    (void)state;
    struct hm_expert_options nop = {.kind = "nop", .hidden = COLUMNS};
    struct hm_node *node;
    struct hm_server *server;
    char *json, line[HM_JOIN_LINE_BYTES];
    assert_ok(hm_node_open(
        &(struct hm_node_options){.listen = "127.0.0.1:0", .advertise = "home.example:4242"},
        &node));
    assert_ok(hm_server_open(node, &(struct hm_server_options){0}, &server));
    assert_ok(hm_server_host(server, "nop.0", &nop));
    assert_ok(hm_server_start(server));
    assert_ok(hm_node_join_line(node, line, sizeof(line)));
    assert_non_null(strstr(line, "home.example:4242"));
    assert_ok(hm_node_swarm_json(node, 5000, &json));
    assert_non_null(strstr(json, "\"tcp:home.example:4242\""));
    assert_null(strstr(json, "127.0.0.1"));
    free(json);
    hm_server_close(server);
    hm_node_close(node);
}

/* ---- saving while it trains --------------------------------------------------------------------- */

static bool copy_file(const char *from, const char *to)
{
    FILE *in = fopen(from, "rb"), *out = in ? fopen(to, "wb") : NULL;
    char block[4096];
    size_t bytes;
    bool ok = in && out;
    while (ok && (bytes = fread(block, 1, sizeof(block), in)) > 0)
        ok = fwrite(block, 1, bytes, out) == bytes;
    if (out) ok = fclose(out) == 0 && ok;
    if (in) fclose(in);
    return ok;
}

/* What a crash at this moment would leave of an expert; a generation that goes meanwhile is none. */
static void copy_checkpoints(const char *from_dir, const char *to_dir, const char *uid)
{
    char from[256], to[256], name_from[600], name_to[600];
    unsigned copied = 0;
    snprintf(to, sizeof(to), "%s/experts", to_dir);
    assert_int_equal(mkdir(to, 0700), 0);
    snprintf(from, sizeof(from), "%s/experts/%s", from_dir, uid);
    snprintf(to, sizeof(to), "%s/experts/%s", to_dir, uid);
    assert_int_equal(mkdir(to, 0700), 0);
    DIR *dir = opendir(from);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name);
        if (length < 3 || strcmp(entry->d_name + length - 3, ".h5") != 0) continue;
        snprintf(name_from, sizeof(name_from), "%s/%s", from, entry->d_name);
        snprintf(name_to, sizeof(name_to), "%s/%s", to, entry->d_name);
        copied += copy_file(name_from, name_to);
    }
    closedir(dir);
    assert_true(copied > 0);
}

struct saved_op {
    struct hm_expert_server *server;
    uint64_t count;
};

static void read_saved(struct hm_wait *wait, void *arg)
{
    struct saved_op *op = arg;
    op->count = hm_expert_server_saved_count(op->server);
    hm_wait_end(wait, HM_OK);
}

static uint64_t count_saved(struct swarm *at)
{
    struct saved_op op = {.server = hm_server_inner(at->server)};
    assert_ok(hm_node_run(at->a, read_saved, &op));
    return op.count;
}

/* Opened from the folder as it is, while its server goes on. */
static enum hm_status load(struct local *local, const char *dir)
{
    char folder[128];
    void *window = NULL;
    size_t window_bytes;
    snprintf(folder, sizeof(folder), "%s/experts", dir);
    enum hm_status status = hm_checkpoint_load(folder, local->expert, &window, &window_bytes);
    free(window);
    return status;
}

static void saving_goes_on_beside_training_and_every_checkpoint_is_of_one_moment(void **state)
{
    (void)state;
    enum { STEPS_MAX = 4000, STEPS_MIN = 40, SAVES = 6 };
    static float probe[STEPS_MAX + 1][COLUMNS];
    struct swarm saving;
    unsigned step = 0, loads = 0;
    uint64_t loaded_step = 0;
    swarm_open(&saving, 10);
    while (step < STEPS_MIN || loads < SAVES) {
        uint64_t sequence = 0, now = 0;
        float y[COLUMNS];
        struct local local;
        assert_true(step < STEPS_MAX);
        assert_ok(backward(&saving, "ffn.0", &sequence, x + step % 64 * COLUMNS, 20 * HM_S, &now));
        assert_int_equal(now, ++step);
        assert_ok(pass_run(&saving, "ffn.0", HM_PASS_FORWARD, x, NULL, 1, probe[step], &now));
        assert_int_equal(now, step);
        local_open(&local, "ffn.0");
        enum hm_status status = load(&local, saving.dir);
        now = hm_expert_step(local.expert);
        if (!status && now > loaded_step) { /* a step from the middle of all this */
            assert_true(now <= step);
            local_forward(&local, x, 1, y);
            assert_rows_near(y, probe[now], COLUMNS, 1e-5);
            loaded_step = now;
            loads++;
        } else if (status) {
            assert_status(status, HM_ERR_NOT_FOUND); /* before the first save */
        }
        local_close(&local);
        if (step > STEPS_MIN) nap(); /* the disk is slow */
    }
    assert_true(count_saved(&saving) >= SAVES);
    swarm_close(&saving);
}

struct applied {
    uint64_t sequence, step;
};

static void a_crash_while_saving_leaves_no_step_that_could_be_made_twice(void **state)
{
    (void)state;
    enum { FLIGHTS_MIN = 20, FLIGHTS_MAX = 4000, CALLS = 4, SAVES = 3, REPEATS = 40 };
    static struct applied applied[FLIGHTS_MAX * CALLS];
    struct raw raw[CALLS];
    struct flight flight;
    struct swarm saving, crashed = {.dir = "/tmp/hm-server-XXXXXX"};
    unsigned flights = 0, repeated = 0;
    assert_non_null(mkdtemp(crashed.dir));
    swarm_open(&saving, 5);
    while (count_saved(&saving) < 10) nap(); /* the first round */
    uint64_t saved = count_saved(&saving);
    for (bool enough = false; !enough; flights++) {
        assert_true(flights < FLIGHTS_MAX);
        enough = flights >= FLIGHTS_MIN && count_saved(&saving) >= saved + SAVES;
        for (unsigned j = 0; j < CALLS; j++) { /* two batches, while checkpoints are written */
            raw_init(&raw[j], HM_PASS_BACKWARD, x, dy, 8);
            raw_add(&raw[j], "ffn.0", 0, 8, NULL, NULL);
        }
        flight_start(&flight, saving.b, saving.peer, raw, CALLS);
        if (enough) copy_checkpoints(saving.dir, crashed.dir, "ffn.0");
        flight_wait(&flight);
        for (unsigned j = 0; j < CALLS; j++) {
            assert_ok(raw[j].answer[0].status);
            applied[flights * CALLS + j] =
                (struct applied){raw[j].head.sequence, raw[j].answer[0].head.step};
            raw_fini(&raw[j]);
        }
        if (flights > FLIGHTS_MIN) nap(); /* the disk is slow */
    }
    swarm_serve(&crashed);
    crashed.b = saving.b; /* the same client */
    crashed.peer = peer_get(saving.b, crashed.a);
    uint64_t restored = steps(&crashed, "ffn.0");
    assert_true(restored > 0);
    for (unsigned i = flights * CALLS; i-- > 0 && repeated < REPEATS;) {
        if (applied[i].step > restored) continue;
        assert_status(backward(&crashed, "ffn.0", &applied[i].sequence, x, 20 * HM_S, NULL),
                      HM_ERR_DUPLICATE);
        repeated++;
    }
    assert_true(repeated > 0);
    assert_int_equal(steps(&crashed, "ffn.0"), restored);
    peer_put(saving.b, crashed.peer);
    crashed.b = NULL;
    swarm_close(&crashed);
    swarm_close(&saving);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_backward_sent_again_is_applied_once),
        cmocka_unit_test(clients_do_not_share_their_sequences),
        cmocka_unit_test(a_backward_that_ended_without_a_step_may_be_repeated),
        cmocka_unit_test(a_backward_has_one_part_an_expert),
        cmocka_unit_test(a_restarted_server_has_its_experts_and_knows_what_it_has_applied),
        cmocka_unit_test(draining_answers_what_was_accepted_saves_all_and_withdraws),
        cmocka_unit_test(
            what_still_waits_when_draining_takes_too_long_is_refused_and_steps_nothing),
        cmocka_unit_test(a_server_may_be_closed_at_every_stage),
        cmocka_unit_test(a_server_record_says_the_advertised_address),
        cmocka_unit_test(saving_goes_on_beside_training_and_every_checkpoint_is_of_one_moment),
        cmocka_unit_test(a_crash_while_saving_leaves_no_step_that_could_be_made_twice),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
