/* cli/cmd_swarm.c - hivemind swarm: the processes of one launch become a swarm.
 *
 *   meet -> roles -> the lead (first server) opens -> servers open -> trainers open -> part from
 *        MPI -> servers serve, trainers wait for them and train -> trainers done -> servers drain
 *        and save
 *
 * Fails:  somebody cannot take part: everybody ends, one line says who and why.  From the parting
 *         on nobody depends on a single other one: a server that dies is masked out by the
 *         trainers, a trainer that dies is missed by the servers (beat.h). */
#include "cli/beat.h"
#include "cli/launch.h"
#include "cli/serve.h"
#include "cli/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "hivemind swarm - a whole swarm by one command, under mpirun or Slurm.\n"
    "\n"
    "  mpirun --enable-recovery -np 6 hivemind swarm --servers 4 --trainers 2 \\\n"
    "      --experts 'ffn.[0:4].[0:4]' --hidden 64 --data data/digits.csv.gz --state run1\n"
    "  srun --mpi=pmix --kill-on-bad-exit=0 hivemind swarm --servers 4 ...\n"
    "  hivemind swarm --bootstrap file:/shared/run1 --rank 0 --size 3 --servers 2 ...   without "
    "MPI\n"
    "\n"
    "The processes meet through MPI or a shared folder, exchange identities, addresses and a "
    "fresh\n"
    "fabric key, and part from MPI.  Servers share the experts; trainers train; when the trainers "
    "are\n"
    "done the servers save and end.  The first server prints the line that others join with.  "
    "SIGTERM\n"
    "saves every expert; started again with the same --state, servers restore them.\n";

enum { MEETING_POINTS = 3, OPTIONS_MAX = 64, EVENTS_PATH_BYTES = 4096 };

struct swarm_conf {
    const char *bootstrap, *role, *state;
    uint32_t servers, trainers, rank, size;
    hm_ns bootstrap_timeout, trainer_timeout;
    bool check;
};
#define AT(member) offsetof(struct swarm_conf, member)
static const struct hm_option swarm_options[] = {
    {"bootstrap", HM_OPTION_STRING, "auto", "MEANS",
     "how the processes meet: mpi, file:DIR (a fresh shared folder), or auto: mpi", AT(bootstrap),
     0, 0},
    {"servers", HM_OPTION_U32, "0", "COUNT", "processes that serve, the first ones; 0: all others",
     AT(servers), 0, HM_BOOTSTRAP_RANKS_MAX},
    {"trainers", HM_OPTION_U32, "0", "COUNT", "processes that train; 0: all others", AT(trainers),
     0, HM_BOOTSTRAP_RANKS_MAX},
    {"role", HM_OPTION_STRING, NULL, "NAME",
     "of this process, instead of the two above: server or trainer", AT(role), 0, 0},
    {"state", HM_OPTION_STRING, NULL, "DIR",
     "each process keeps key, experts and training in DIR/rank<N>; none: nothing is kept",
     AT(state), 0, 0},
    {"rank", HM_OPTION_U32, "4294967295", "NUMBER",
     "this process's number with file:DIR; default: as the launcher says", AT(rank), 0, 0},
    {"size", HM_OPTION_U32, "0", "COUNT",
     "processes of the launch with file:DIR; 0: as the launcher says", AT(size), 0,
     HM_BOOTSTRAP_RANKS_MAX},
    {"bootstrap-timeout", HM_OPTION_DURATION, "60s", "TIME",
     "how long to wait for the other processes", AT(bootstrap_timeout), 0.1, 3600},
    {"trainer-timeout", HM_OPTION_DURATION, "15s", "TIME",
     "a trainer that is silent so long is dead to the servers", AT(trainer_timeout), 1, 3600},
    {"check", HM_OPTION_BOOL, "false", NULL,
     "say what is wrong with the options and end: before a launch, which would say it once a "
     "process",
     AT(check), 0, 0},
};

struct swarm {
    struct swarm_conf conf;
    struct cli_node_conf node_conf;
    struct serve_conf serve;
    struct train_conf train;
    struct launch launch;
    struct hm_node *node;
    struct cli_stop *stop;
    struct training *training;
    struct beat_node *others; /* a trainer's servers, a server's trainers */
    char *state;
    char events[EVENTS_PATH_BYTES];
    hm_ns started;
};

/* ---- options --------------------------------------------------------------------------------- */

/* The rows of another command without those in `skip` (NULL at the end); a row named `from`
 * becomes `to`. */
static unsigned pick(const struct hm_option *rows, unsigned count, const char *const *skip,
                     const char *from, const char *to, struct hm_option *picked)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < count; i++) {
        bool skipped = false;
        for (const char *const *name = skip; *name && !skipped; name++)
            skipped = strcmp(rows[i].name, *name) == 0;
        if (skipped) continue;
        HM_ASSERT(kept < OPTIONS_MAX);
        picked[kept] = rows[i];
        if (from && strcmp(rows[i].name, from) == 0) picked[kept].name = to;
        kept++;
    }
    return kept;
}

static int parse(struct swarm *s, struct hm_options *options, int argc, char **argv)
{
    static const char *const no_node[] = {"new-swarm", "join", "state", NULL};
    static const char *const no_serve[] = {"share", NULL};
    static const char *const no_train[] = {"experts",       "hidden", "seed",
                                           "save-interval", "json",   NULL};
    static struct hm_option serve[OPTIONS_MAX], node[OPTIONS_MAX], train[OPTIONS_MAX];
    unsigned serves = pick(serve_options, serve_option_count, no_serve, NULL, NULL, serve);
    unsigned nodes = pick(cli_host_options, cli_host_option_count, no_node, NULL, NULL, node);
    unsigned trains =
        pick(train_options, train_option_count, no_train, "rate", "trainer-rate", train);
    hm_options_add(options, "Launch", swarm_options, HM_COUNT_OF(swarm_options), &s->conf);
    hm_options_add(options, "Experts", serve, serves, &s->serve);
    hm_options_add(options, "Training", train, trains, &s->train);
    hm_options_add(options, "Node", node, nodes, &s->node_conf);
    int code = cli_parse(options, usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    s->serve.share = "0/1";
    enum hm_status status = serve_check(&s->serve);
    if (!status && s->conf.role && strcmp(s->conf.role, "server") != 0 &&
        strcmp(s->conf.role, "trainer") != 0)
        status = hm_fail(HM_ERR_INVALID, "--role is '%.100s'; it can be server or trainer",
                         s->conf.role);
    s->train.experts = s->serve.experts;
    s->train.hidden = s->serve.hidden;
    s->train.seed = s->serve.seed;
    s->train.json = s->serve.json;
    s->train.save_interval = s->serve.save_interval;
    if (status) return cli_fail(CLI_USAGE, status);
    return s->conf.check ? CLI_OK : CLI_GO_ON;
}

/* ---- meeting --------------------------------------------------------------------------------- */

static int meet(struct swarm *s)
{
    const struct swarm_conf *conf = &s->conf;
    struct hm_bootstrap_conf how = {.means = conf->bootstrap,
                                    .rank = conf->rank == UINT32_MAX ? -1 : (int)conf->rank,
                                    .size = conf->size == 0 ? -1 : (int)conf->size,
                                    .timeout = conf->bootstrap_timeout};
    enum launch_role role = LAUNCH_ANY;
    if (conf->role) role = strcmp(conf->role, "server") == 0 ? LAUNCH_SERVER : LAUNCH_TRAINER;
    int code = launch_open(&s->launch, &how, role, conf->servers, conf->trainers);
    if (code != CLI_GO_ON) return code;
    s->serve.part = s->train.part = true;
    s->serve.rank = s->train.rank = s->launch.rank;
    if (conf->state) {
        size_t bytes = strlen(conf->state) + 32;
        s->state = malloc(bytes);
        if (!s->state) return cli_fail(CLI_FAILED, HM_ERR_NO_MEMORY);
        snprintf(s->state, bytes, "%s/rank%u", conf->state, s->launch.rank);
        s->node_conf.state = s->state;
    } else if (launch_leads(&s->launch)) {
        fputs("hivemind: no --state: experts are not saved, and identities are new each time\n",
              stderr);
    }
    if (s->train.events) {
        snprintf(s->events, sizeof(s->events), "%s.rank%u", s->train.events, s->launch.rank);
        s->train.events = s->events;
    }
    return CLI_GO_ON;
}

/* Opens this process's node. */
static enum hm_status open_node(struct swarm *s, const char *join)
{
    int code;
    struct launch *launch = &s->launch;
    bool hosts = launch->mine.role == LAUNCH_SERVER;
    s->node_conf.join = join;
    s->node_conf.priority = hosts ? NULL : s->train.priority;
    s->node_conf.fabric_secret =
        launch_leads(launch) ? launch->mine.fabric_key : launch->card[launch->server[0]].fabric_key;
    s->node_conf.new_swarm = hosts && !join;
    if (join) s->node_conf.join_file = NULL; /* the lead's */
    hm_fail_clear();
    enum hm_status status = cli_node_try(&s->node_conf, hosts, &s->node, &code);
    if (status) return status;
    launch->mine.node = *hm_identity_node(s->node->identity);
    if (hosts) status = hm_node_join_line(s->node, launch->mine.join, sizeof(launch->mine.join));
    if (!status && cli_stop_start(s->node, &s->stop) != CLI_GO_ON) status = HM_ERR_NO_MEMORY;
    return status;
}

/* Trainers spread over the first servers, and go on to the next where one does not answer. */
static enum hm_status open_trainer(struct swarm *s)
{
    const struct launch *launch = &s->launch;
    unsigned place = launch_place(launch), points = launch->server_count;
    enum hm_status status = HM_OK;
    if (points > MEETING_POINTS) points = MEETING_POINTS;
    for (unsigned i = 0; i < points; i++) {
        status = open_node(s, launch->card[launch->server[(place + i) % points]].join);
        bool silent = hm_status_scope(status) == HM_SCOPE_PEER || status == HM_ERR_TIMED_OUT;
        if (!silent) break;
    }
    return status;
}

/* The rounds after the roles; all nodes are open at the end, and MPI is done with. */
static int open_all(struct swarm *s)
{
    struct launch *launch = &s->launch;
    bool trains = launch->mine.role == LAUNCH_TRAINER;
    enum hm_status status = HM_OK;
    if (launch_leads(launch)) {
        status = hm_bootstrap_secret(launch->mine.fabric_key, sizeof(launch->mine.fabric_key));
        if (!status) status = open_node(s, NULL);
    } else if (trains) {
        s->train.own = launch_place(launch);
        int code;
        hm_fail_clear();
        status = train_try(&s->train, &s->training, &code);
    }
    if (status) launch_fail(launch, status);
    int code = launch_round(launch);
    if (code != CLI_GO_ON) return code;
    if (!trains && !launch_leads(launch))
        status = open_node(s, launch->card[launch->server[0]].join);
    if (status) launch_fail(launch, status);
    code = launch_round(launch);
    if (code != CLI_GO_ON) return code;
    if (trains) status = open_trainer(s);
    if (status) launch_fail(launch, status);
    code = launch_round(launch);
    if (code == CLI_GO_ON) launch_part(launch);
    return code;
}

/* ---- the roles ------------------------------------------------------------------------------- */

/* The nodes of the other role. */
static enum hm_status others(struct swarm *s, const unsigned *ranks, unsigned count)
{
    s->others = calloc(count ? count : 1, sizeof(*s->others));
    if (!s->others) return HM_ERR_NO_MEMORY;
    for (unsigned i = 0; i < count; i++) {
        const struct launch_card *card = &s->launch.card[ranks[i]];
        struct hm_join join;
        s->others[i].id = card->node;
        if (!card->join[0]) continue;
        enum hm_status status = hm_join_parse(card->join, &join);
        if (status) return status;
        s->others[i].addrs = join.addrs;
    }
    return HM_OK;
}

static void say_up(const struct swarm *s)
{
    const struct launch *launch = &s->launch;
    if (s->serve.json) {
        printf("{\"event\":\"launched\",\"servers\":%u,\"trainers\":%u,\"join\":\"%s\"}\n",
               launch->server_count, launch->trainer_count, launch->mine.join);
    } else {
        printf("swarm of %u servers and %u trainers; join with:\n%s\n", launch->server_count,
               launch->trainer_count, launch->mine.join);
    }
    fflush(stdout);
}

static int run_server(struct swarm *s)
{
    struct hm_server *server = NULL;
    struct beat_watch *watch = NULL;
    enum hm_status status = others(s, s->launch.trainer, s->launch.trainer_count);
    if (!status)
        status = beat_watch_start(s->node, s->others, s->launch.trainer_count,
                                  s->conf.trainer_timeout, &watch);
    s->serve.share_place = launch_place(&s->launch);
    s->serve.share_count = s->launch.server_count;
    int code = status ? cli_fail(CLI_FAILED, status) : CLI_GO_ON;
    if (code == CLI_GO_ON) code = serve_start(s->node, &s->serve, &server);
    if (code == CLI_GO_ON) {
        if (launch_leads(&s->launch)) say_up(s);
        beat_watch_serving(watch, s->stop);
        cli_stop_wait(s->stop);
        code = serve_end(s->node, server, &s->serve);
    }
    beat_watch_end(watch);
    return code;
}

static int run_trainer(struct swarm *s)
{
    struct beat *beat = NULL;
    const struct launch *launch = &s->launch;
    enum hm_status status = others(s, launch->server, launch->server_count);
    if (!status) status = beat_start(s->node, s->others, launch->server_count, &beat);
    if (status) return cli_fail(CLI_FAILED, status);
    unsigned serving = beat_await(beat, s->stop, s->node_conf.join_timeout);
    int code = CLI_OK;
    if (serving == 0 && !cli_stop_asked(s->stop)) {
        code = cli_fail(CLI_FAILED, hm_fail(HM_ERR_TIMED_OUT,
                                            "none of %u servers serves; see what "
                                            "they say above",
                                            launch->server_count));
    } else if (!cli_stop_asked(s->stop)) {
        fprintf(stderr, "rank %u: %u of %u servers serve after %.2f s\n", launch->rank, serving,
                launch->server_count, (double)(hm_thread_clock() - s->started) / 1e9);
        code = train_run(s->training, s->node, s->stop);
    }
    beat_end(beat);
    return code;
}

int cli_swarm(int argc, char **argv)
{
    struct swarm s = {.started = hm_thread_clock()};
    struct hm_options options;
    hm_options_init(&options);
    int code = parse(&s, &options, argc, argv);
    if (code == CLI_GO_ON) {
        code = meet(&s);
        if (code == CLI_GO_ON) code = open_all(&s);
        if (code == CLI_GO_ON)
            code = s.launch.mine.role == LAUNCH_SERVER ? run_server(&s) : run_trainer(&s);
        if (s.stop) cli_stop_end(s.stop);
        hm_node_close(s.node);
        train_free(s.training);
        launch_fini(&s.launch);
    }
    free(s.others);
    free(s.state);
    hm_options_fini(&options);
    return code;
}
