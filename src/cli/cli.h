/* cli/cli.h - what the commands share: exit codes, the node's options, the wait for a signal, the
 * progress line. */
#ifndef HM_CLI_CLI_H
#define HM_CLI_CLI_H

#include "api/node.h"
#include "base/options.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_GO_ON = -1 };

struct cli_command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit code */
};
int cli_bench(int argc, char **argv);
int cli_dht(int argc, char **argv);
int cli_serve(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_swarm(int argc, char **argv);
int cli_topo(int argc, char **argv);
int cli_train(int argc, char **argv);

/* Prints "hivemind: <line>" (hm_fail_line, or the status' text) on stderr and returns `code`. */
int cli_fail(int code, enum hm_status status);
/* Parses; prints `usage` and the options for --help (CLI_OK), the error line (CLI_USAGE); else
 * CLI_GO_ON. */
int cli_parse(struct hm_options *options, const char *usage, int argc, char **argv);

/* Options of every command that has a node. */
struct cli_node_conf {
    const char *state, *join, *listen, *advertise, *swarm, *join_file, *log;
    size_t memory_bytes, client_bytes_max;
    uint32_t client_calls_max;
    hm_ns join_timeout;
    bool new_swarm;
    const char *fabric, *fabric_key; /* key: the file's name */
    bool fabric_tcp, fabric_public;
    const char *priority;         /* no option of its own: see train.h */
    const uint8_t *fabric_secret; /* no option: a launch's own key, where no file is given */
};
extern const struct hm_option
    cli_join_options[]; /* for trainers and status: they join and do not listen */
extern const unsigned cli_join_option_count;
extern const struct hm_option
    cli_host_options[]; /* for nodes that others reach: the above and listening */
extern const unsigned cli_host_option_count;
/* Checks what is given against each other (CLI_USAGE), opens the node (CLI_FAILED); CLI_GO_ON:
 * *node is open. */
int cli_node_open(const struct cli_node_conf *conf, bool hosts, struct hm_node **node);
/* The same without a word: *code is the exit code that goes with the status. */
enum hm_status cli_node_try(const struct cli_node_conf *conf, bool hosts, struct hm_node **node,
                            int *code);

/* Where the node has a fabric: how many messages of DHT and experts it has sent over it, and over tcp
 * to peers that have proved its key, as fields that follow others: `,"ucx_messages":5,...` with
 * json, ` ucx_messages=5 ...` without.  Else "". */
enum { CLI_FABRIC_FIELDS_BYTES = 128 };
const char *cli_fabric_fields(struct hm_node *node, bool json, char text[CLI_FABRIC_FIELDS_BYTES]);

/* SIGINT and SIGTERM, as a flag that any thread may look at and as something to wait for.  A second
 * signal ends the process at once, unless Slurm or mpirun started it.  Stop it before the node
 * closes. */
struct cli_stop;
int cli_stop_start(struct hm_node *node, struct cli_stop **stop);
bool cli_stop_asked(const struct cli_stop *stop);
void cli_stop_wait(struct cli_stop *stop); /* until a signal comes */
/* As a first signal would; any thread. */
void cli_stop_ask(struct cli_stop *stop);
void cli_stop_end(struct cli_stop *stop);

/* A line that is drawn over on a terminal (stderr), and printed every few seconds where there is
 * none. */
struct cli_progress {
    uint64_t done, total;
    hm_ns started, drawn; /* monotonic, by cli_now */
    bool terminal;
};
hm_ns cli_now(void);
void cli_progress_start(struct cli_progress *progress, uint64_t total);
/* Draws if it is time; `text` is what follows the bar. */
void cli_progress_show(struct cli_progress *progress, uint64_t done, const char *text);
void cli_progress_end(struct cli_progress *progress, const char *text);
/* Ends the line as it stands, before something else is printed. */
void cli_progress_leave(struct cli_progress *progress);

#endif
