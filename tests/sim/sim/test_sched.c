/* The scheduler's promises, on the virtual clock, for many seeds: random pools, lanes, tasks,
 * deadlines, cancels and failures.  Every promise of sched/sched.h is checked after every event. */
#include "support_sched.h"

#include "base/rng.h"

#include <stdio.h>

enum { SEEDS = 220, JOBS = 400, BENCHES_MAX = 6, LANES_MAX = 3, WORKLOAD = 77 };

/* ---- the promise about starving, checked where the choice is made
 * ------------------------------ */

static unsigned choices;

static bool could_run(const struct hm_line_view *line, hm_ns now)
{
    return line->full || now >= line->oldest + line->batch_delay_max;
}

static bool has_aged(const struct hm_line_view *line, hm_ns now)
{
    hm_ns since = line->picked > line->oldest ? line->picked : line->oldest;
    return now - since >= line->priority * HM_AGING_NS;
}

/* Who has aged and could run sees each other line go before it once at most: only one whose last
 * turn is longer ago. */
static int watched_pick(const struct hm_line_view *lines, unsigned count, hm_ns now, hm_ns *again)
{
    int picked = hm_policy_in_turn.pick(lines, count, now, again);
    for (unsigned i = 0; i < count; i++) {
        assert_true(lines[i].rows > 0 && lines[i].oldest <= now);
        assert_true(lines[i].earliest_deadline > 0);
        if (picked < 0) /* whoever waits is looked at again in time */
            assert_true(!could_run(&lines[i], now) && *again > now &&
                        *again <= lines[i].oldest + lines[i].batch_delay_max);
        else if (could_run(&lines[i], now) && has_aged(&lines[i], now))
            assert_true(lines[picked].turn <= lines[i].turn);
    }
    choices++;
    return picked;
}
static const struct hm_policy watched = {.name = "watched", .pick = watched_pick};

/* ---- a random run
 * ------------------------------------------------------------------------------ */

struct load {
    struct stage stage;
    struct hm_rng rng;
    struct bench bench[BENCHES_MAX];
    unsigned bench_count, next, accepted, not_accepted[32];
    unsigned ended[64]; /* by -status */
    unsigned split;
    uint64_t starved;
    struct job job[JOBS];
    struct hm_timer arrival, release[JOBS], cancel[JOBS];
    hm_ns gap_max, deadline_max;
    unsigned cancel_percent, keep_percent, endless_percent, clients;
};
static struct load load;

static uint64_t below(uint64_t bound)
{
    return hm_rng_below(&load.rng, bound);
}

static void on_release(struct hm_timer *timer)
{
    job_release(timer->arg);
}

static void on_cancel(struct hm_timer *timer)
{
    struct job *job = timer->arg;
    if (job->submitted && !job->ended && !job->canceled) job_cancel(job);
}

/* Ends reach into the scheduler, as a server's do: they cancel others, also of the same batch, and
 * let go of their rows later. */
static void on_end(struct job *job)
{
    load.ended[-(int)job->status]++;
    if (job->rows.slab) {
        struct hm_timer *timer = &load.release[job - load.job];
        *timer = (struct hm_timer){.cb = on_release, .arg = job};
        hm_timer_start(load.stage.loop, timer, below(20) * HM_MS);
    }
    if (below(100) >= load.cancel_percent) return;
    struct job *other = &load.job[below(JOBS)];
    if (other->submitted && !other->ended && !other->canceled) job_cancel(other);
}

static void submit_one(struct job *job)
{
    struct bench *bench = &load.bench[below(load.bench_count)];
    uint32_t rows = 1 + (uint32_t)below(bench->rows_max);
    if (below(10) == 0) rows = 1 + (uint32_t)below(5 * bench->rows_max);
    hm_ns now = hm_loop_now(load.stage.loop), deadline = HM_NS_NEVER;
    if (below(100) >= load.endless_percent) deadline = now + below(load.deadline_max);
    job->keep = below(100) < load.keep_percent;
    job->then = on_end;
    job->client = below(load.clients);
    job->priority = below(3) ? HM_PRIORITY_INFERENCE : (enum hm_priority)below(HM_PRIORITIES);
    enum hm_status status =
        job_submit(&load.stage, bench, job, (uint32_t)(job - load.job), rows, deadline);
    hm_world_trace(load.stage.world, "submit", rows, (uint64_t)(int64_t)status);
    if (status != HM_OK) {
        assert_true(status == HM_ERR_BUSY || status == HM_ERR_REFUSED || status == HM_ERR_TOO_BIG);
        load.not_accepted[-(int)status]++;
        return;
    }
    load.accepted++;
    if (rows > bench->rows_max) load.split++;
    if (below(100) >= load.cancel_percent) return;
    struct hm_timer *timer = &load.cancel[job - load.job];
    *timer = (struct hm_timer){.cb = on_cancel, .arg = job};
    hm_timer_start(load.stage.loop, timer, below(10) * HM_MS);
}

static void on_arrival(struct hm_timer *timer)
{
    unsigned burst = below(4) == 0 ? 1 + (unsigned)below(40) : 1;
    for (; burst > 0 && load.next < JOBS; burst--) submit_one(&load.job[load.next++]);
    if (load.next < JOBS) hm_timer_start(load.stage.loop, timer, below(load.gap_max));
}

static void lanes_and_benches(void)
{
    static const size_t row_bytes[] = {0, 8, 64, 4096};
    struct hm_lane *lane[LANES_MAX];
    bool fails[LANES_MAX];
    unsigned lanes = 1 + (unsigned)below(LANES_MAX);
    for (unsigned i = 0; i < lanes; i++) {
        struct hm_sim_lane_conf conf = {
            .seed = below(UINT64_MAX),
            .base_ns = below(2) * below(below(2) ? 10 * HM_MS : HM_MS),
            .row_ns = below(2) * below(below(2) ? 100 * HM_US : 5 * HM_US),
            .jitter_percent = (uint32_t)below(200),
            .fail_per_million = below(3) ? 0 : 50000,
            .run_at_launch = below(2),
            .batches_max = 1 + (unsigned)below(HM_LANE_BATCHES_MAX),
            .ahead_max = below(2) * below(2 * HM_MS),
        };
        lane[i] = stage_lane(&load.stage, &conf);
        fails[i] = conf.fail_per_million > 0;
    }
    load.bench_count = 1 + (unsigned)below(BENCHES_MAX);
    for (unsigned i = 0; i < load.bench_count; i++) {
        struct hm_pool_conf conf = {
            .batch_rows_max = 1 + (uint32_t)below(below(2) ? 8 : 300),
            .queue_tasks_max = 1 + (uint32_t)below(below(3) ? 200 : 8),
            .batch_delay_max = below(2) * below(10 * HM_MS),
            .priority = (enum hm_priority)below(HM_PRIORITIES),
            .out_row_bytes = row_bytes[below(HM_COUNT_OF(row_bytes))],
        };
        conf.queue_rows_max = conf.batch_rows_max * (1 + (uint32_t)below(20));
        if (below(2)) conf.batch_rows_preferred = 1 + (uint32_t)below(conf.batch_rows_max);
        load.bench[i].fail_every = below(4) ? 0 : 1 + (uint32_t)below(20);
        unsigned on = (unsigned)below(lanes);
        load.bench[i].lane_fails = fails[on];
        bench_open(&load.stage, &load.bench[i], lane[on], conf);
    }
}

static void job_check(const struct job *job)
{
    assert_true(!job->submitted || job->ended);
    assert_null(job->rows.slab);
}

static uint64_t run_seed(uint64_t seed)
{
    memset(&load, 0, sizeof load);
    hm_rng_init(&load.rng, seed, WORKLOAD);
    /* From "one reserve a lane and little more" to plenty. */
    size_t buffer_bytes = below(2) ? (size_t)64 << 20 : (size_t)6 << 20;
    stage_open(&load.stage, seed, buffer_bytes, &watched);
    lanes_and_benches();
    load.gap_max = 1 + below(below(2) ? HM_MS : 20 * HM_MS);
    load.deadline_max = 1 + below(below(2) ? 20 * HM_MS : 500 * HM_MS);
    load.cancel_percent = below(2) ? 0 : (unsigned)below(30);
    load.keep_percent = (unsigned)below(100);
    load.endless_percent = (unsigned)below(100);
    load.clients = 1 + (unsigned)below(below(2) ? 3 : BENCH_CLIENTS_MAX);
    load.arrival = (struct hm_timer){.cb = on_arrival};
    hm_timer_start(load.stage.loop, &load.arrival, 0);
    while (load.next < JOBS) {
        assert_true(hm_world_step(load.stage.world));
        hm_sched_check(load.stage.sched);
    }
    struct hm_metrics *metrics = &load.stage.metrics;
    assert_int_equal(hm_metrics_value(metrics, "sched.tasks"), load.accepted);
    assert_int_equal(hm_metrics_value(metrics, "sched.busy"), load.not_accepted[-HM_ERR_BUSY]);
    load.starved = hm_metrics_value(metrics, "sched.starved");
    uint64_t hash = stage_close(&load.stage);
    unsigned ended = 0;
    for (unsigned i = 0; i < HM_COUNT_OF(load.ended); i++) ended += load.ended[i];
    assert_int_equal(ended, load.accepted);
    for (unsigned i = 0; i < JOBS; i++) job_check(&load.job[i]);
    for (unsigned i = 0; i < load.bench_count; i++)
        assert_true(load.bench[i].rows_most <= load.bench[i].rows_max);
    return hash;
}

static void every_promise_holds_for_every_seed_and_a_seed_replays(void **state)
{
    (void)state;
    unsigned ended[64] = {0}, not_accepted[32] = {0};
    uint64_t all = 0, starved = 0, split = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        uint64_t hash = run_seed(seed);
        for (unsigned i = 0; i < HM_COUNT_OF(ended); i++) ended[i] += load.ended[i];
        for (unsigned i = 0; i < HM_COUNT_OF(not_accepted); i++)
            not_accepted[i] += load.not_accepted[i];
        starved += load.starved;
        split += load.split;
        if (run_seed(seed) != hash) fail_msg("seed %u does not replay", (unsigned)seed);
        all = all * 31 + hash;
    }
    /* The runs must have met what they are there to meet. */
    assert_true(ended[-HM_OK] > 1000 && ended[-HM_ERR_TIMED_OUT] > 100);
    assert_true(ended[-HM_ERR_CANCELED] > 100 && ended[-HM_ERR_EXPERT_NUMERIC] > 100);
    assert_true(ended[-HM_ERR_DEVICE] > 10);
    assert_true(not_accepted[-HM_ERR_BUSY] > 100 && not_accepted[-HM_ERR_REFUSED] > 10 &&
                not_accepted[-HM_ERR_TOO_BIG] > 10);
    assert_true(choices > 1000 && starved > 10 && split > 100);
    print_message(
        "trace of %d seeds: %016llx; ok %u, timed out %u, canceled %u, failed %u, busy %u, "
        "refused %u, split %u, starved %u\n",
        SEEDS, (unsigned long long)all, ended[-HM_OK], ended[-HM_ERR_TIMED_OUT],
        ended[-HM_ERR_CANCELED], ended[-HM_ERR_EXPERT_NUMERIC] + ended[-HM_ERR_DEVICE],
        not_accepted[-HM_ERR_BUSY], not_accepted[-HM_ERR_REFUSED], (unsigned)split,
        (unsigned)starved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_promise_holds_for_every_seed_and_a_seed_replays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
