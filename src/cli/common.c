/* cli/common.c - errors, options and nodes, the same for every command. */
#include "cli/cli.h"

#include "base/file.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

int cli_fail(int code, enum hm_status status)
{
    fprintf(stderr, "hivemind: %s\n", hm_fail_line_of(status));
    return code;
}

int cli_parse(struct hm_options *options, const char *usage, int argc, char **argv)
{
    enum hm_status status = hm_options_parse(options, argc, argv);
    if (options->help) {
        fputs(usage, stdout);
        fputc('\n', stdout);
        hm_options_help(options, stdout);
        return CLI_OK;
    }
    if (status) return cli_fail(CLI_USAGE, status);
    if (options->positional_count > 0) {
        const char *end = strstr(usage, " - "); /* "hivemind bench codec - ..." */
        HM_ASSERT(end);
        fprintf(stderr, "hivemind: what is '%s'? Options start with --; see %.*s --help\n",
                options->positional[0], (int)(end - usage), usage);
        return CLI_USAGE;
    }
    return CLI_GO_ON;
}

#define COMMON_ROWS                                                                                \
    {"join",                                                                                       \
     HM_OPTION_STRING,                                                                             \
     NULL,                                                                                         \
     "hm://…",                                                                                     \
     "the swarm to join: a line that another node printed",                                        \
     offsetof(struct cli_node_conf, join),                                                         \
     0,                                                                                            \
     0},                                                                                           \
        {"join-timeout",                                                                           \
         HM_OPTION_DURATION,                                                                       \
         "10s",                                                                                    \
         "TIME",                                                                                   \
         "give up when nobody has answered by then",                                               \
         offsetof(struct cli_node_conf, join_timeout),                                             \
         0.01,                                                                                     \
         3600},                                                                                    \
        {"state",                                                                                  \
         HM_OPTION_STRING,                                                                         \
         NULL,                                                                                     \
         "DIR",                                                                                    \
         "folder of this node's key, checkpoints and training; none: a fresh identity",            \
         offsetof(struct cli_node_conf, state),                                                    \
         0,                                                                                        \
         0},                                                                                       \
        {"memory",                                                                                 \
         HM_OPTION_BYTES,                                                                          \
         "2G",                                                                                     \
         "BYTES",                                                                                  \
         "bound on buffers for messages and batches",                                              \
         offsetof(struct cli_node_conf, memory_bytes),                                             \
         16 << 20,                                                                                 \
         1e15},                                                                                    \
        {"fabric",                                                                                 \
         HM_OPTION_STRING,                                                                         \
         "auto",                                                                                   \
         "auto|none|DEVICES",                                                                      \
         "fast path (UCX) to nodes with the same --fabric-key: over what there is, or over these", \
         offsetof(struct cli_node_conf, fabric),                                                   \
         0,                                                                                        \
         0},                                                                                       \
        {"fabric-key",                                                                             \
         HM_OPTION_STRING,                                                                         \
         NULL,                                                                                     \
         "FILE",                                                                                   \
         "the cluster's secret, 32 bytes or 64 hex digits, mode 0600; none: no fabric",            \
         offsetof(struct cli_node_conf, fabric_key),                                               \
         0,                                                                                        \
         0},                                                                                       \
        {"fabric-tcp",                                                                             \
         HM_OPTION_BOOL,                                                                           \
         "false",                                                                                  \
         NULL,                                                                                     \
         "UCX's own TCP too, on private networks: where there is no RDMA between machines",        \
         offsetof(struct cli_node_conf, fabric_tcp),                                               \
         0,                                                                                        \
         0},                                                                                       \
        {"fabric-public",                                                                          \
         HM_OPTION_BOOL,                                                                           \
         "false",                                                                                  \
         NULL,                                                                                     \
         "... on public networks too: who reaches such a port can write into this process",        \
         offsetof(struct cli_node_conf, fabric_public),                                            \
         0,                                                                                        \
         0},                                                                                       \
    {                                                                                              \
        "log", HM_OPTION_STRING, "warn", "LEVEL", "error, warn, info or debug, on stderr",         \
            offsetof(struct cli_node_conf, log), 0, 0                                              \
    }

const struct hm_option cli_join_options[] = {COMMON_ROWS};
const unsigned cli_join_option_count = HM_COUNT_OF(cli_join_options);
const struct hm_option cli_host_options[] = {
    {"new-swarm", HM_OPTION_BOOL, "false", NULL, "start a swarm instead of joining one",
     offsetof(struct cli_node_conf, new_swarm), 0, 0},
    COMMON_ROWS,
    {"listen", HM_OPTION_STRING, "0.0.0.0:0", "HOST:PORT",
     "where others reach this node; port 0: any free one", offsetof(struct cli_node_conf, listen),
     0, 0},
    {"advertise", HM_OPTION_STRING, NULL, "HOST:PORT",
     "the address to tell others, where it is not --listen's",
     offsetof(struct cli_node_conf, advertise), 0, 0},
    {"client-calls-max", HM_OPTION_U32, "2048", "COUNT",
     "calls of one other node in flight here; over it it is told BUSY",
     offsetof(struct cli_node_conf, client_calls_max), 1, 8192},
    {"client-bytes-max", HM_OPTION_BYTES, NULL, "BYTES",
     "payloads of one other node in flight here; none given: as many as it leaves to others",
     offsetof(struct cli_node_conf, client_bytes_max), 4096, 1e15},
    {"swarm", HM_OPTION_STRING, NULL, "NAME",
     "public name of a new swarm; nodes of another one are refused",
     offsetof(struct cli_node_conf, swarm), 0, 0},
    {"join-file", HM_OPTION_STRING, NULL, "FILE",
     "write the line that others join with into this file, for scripts",
     offsetof(struct cli_node_conf, join_file), 0, 0},
};
const unsigned cli_host_option_count = HM_COUNT_OF(cli_host_options);

/* What can be told from the options alone is a usage error, said before anything is opened. */
static enum hm_status check(const struct cli_node_conf *conf, bool hosts)
{
    struct hm_join join;
    char host[HM_ADDR_BYTES_MAX];
    uint16_t port;
    enum hm_log_level level;
    enum hm_status status = hm_log_level_parse(conf->log, &level);
    if (status)
        return hm_fail(HM_ERR_INVALID, "--log is '%s'; it can be error, warn, info or debug",
                       conf->log);
    hm_log_set_level(level);
    if (hosts && conf->new_swarm && conf->join)
        return hm_fail(HM_ERR_INVALID, "give --new-swarm or --join, not both");
    if (hosts && !conf->new_swarm && !conf->join)
        return hm_fail(HM_ERR_INVALID,
                       "give --join hm://… (a line that another node printed), or --new-swarm");
    if (!hosts && !conf->join)
        return hm_fail(HM_ERR_INVALID,
                       "give --join hm://…: the line that a node of the swarm printed");
    if (hosts && conf->client_bytes_max > conf->memory_bytes)
        return hm_fail(HM_ERR_INVALID,
                       "--client-bytes-max %zu is more than all buffers have (--memory %zu)",
                       conf->client_bytes_max, conf->memory_bytes);
    if (hosts && conf->swarm && !hm_swarm_name_valid(conf->swarm))
        return hm_fail(HM_ERR_INVALID,
                       "--swarm is '%.100s'; a name has 1 to %d letters, digits, '.', '-' and '_'",
                       conf->swarm, HM_SWARM_NAME_BYTES - 1);
    bool wants_fabric = strcmp(conf->fabric, "none") != 0;
    bool devices = wants_fabric && strcmp(conf->fabric, "auto") != 0;
    bool tcp = wants_fabric && (conf->fabric_tcp || conf->fabric_public);
    if ((devices || tcp) && !conf->fabric_key && !conf->fabric_secret)
        return hm_fail(HM_ERR_INVALID,
                       "%s%.100s needs a key that all its nodes have; give --fabric-key FILE",
                       devices ? "--fabric " : "",
                       devices            ? conf->fabric
                       : conf->fabric_tcp ? "--fabric-tcp"
                                          : "--fabric-public");
    if (conf->join) status = hm_join_parse(conf->join, &join);
    if (!status && hosts) status = hm_host_port_parse(conf->listen, -1, host, sizeof(host), &port);
    if (!status && conf->advertise)
        status = hm_host_port_parse(conf->advertise, -1, host, sizeof(host), &port);
    return status;
}

static enum hm_status join_file_write(struct hm_node *node, const char *path)
{
    char line[HM_JOIN_LINE_BYTES + 1];
    enum hm_status status = hm_node_join_line(node, line, HM_JOIN_LINE_BYTES);
    if (status) return status;
    strcat(line, "\n");
    return hm_file_publish(path, line, strlen(line));
}

enum hm_status cli_node_try(const struct cli_node_conf *conf, bool hosts, struct hm_node **node,
                            int *code)
{
    uint8_t key[HM_FABRIC_KEY_BYTES];
    enum hm_status status = check(conf, hosts);
    *code = CLI_USAGE;
    bool wants_fabric = strcmp(conf->fabric, "none") != 0;
    if (!status && conf->fabric_key && wants_fabric)
        status = hm_fabric_key_load(conf->fabric_key, key);
    if (status) return status;
    *code = CLI_FAILED;
    struct hm_node_options options = {.state_dir = conf->state,
                                      .join = conf->join,
                                      .listen = hosts ? conf->listen : NULL,
                                      .advertise = conf->advertise,
                                      .swarm = conf->swarm,
                                      .memory_bytes_max = conf->memory_bytes,
                                      .client_calls_max = hosts ? conf->client_calls_max : 0,
                                      .client_bytes_max = hosts ? conf->client_bytes_max : 0,
                                      .join_timeout_ms = (int)(conf->join_timeout / HM_MS),
                                      .priority = conf->priority,
                                      .fabric = conf->fabric,
                                      .fabric_key = conf->fabric_key ? key : conf->fabric_secret,
                                      .fabric_tcp = conf->fabric_tcp,
                                      .fabric_public = conf->fabric_public};
    status = hm_node_open(&options, node);
    OPENSSL_cleanse(key, sizeof key);
    if (!status && hosts && conf->join_file) {
        status = join_file_write(*node, conf->join_file);
        if (status) {
            hm_node_close(*node);
            *node = NULL;
        }
    }
    return status;
}

int cli_node_open(const struct cli_node_conf *conf, bool hosts, struct hm_node **node)
{
    int code;
    enum hm_status status = cli_node_try(conf, hosts, node, &code);
    return status ? cli_fail(code, status) : CLI_GO_ON;
}

const char *cli_fabric_fields(struct hm_node *node, bool json, char text[CLI_FABRIC_FIELDS_BYTES])
{
    struct hm_node_paths paths;
    text[0] = 0;
    if (hm_node_paths(node, &paths) != HM_OK || !paths.fabric) return text;
    (void)snprintf(text, CLI_FABRIC_FIELDS_BYTES,
                   json ? ",\"%s_messages\":%llu,\"tcp_messages_after_join\":%llu"
                        : " %s_messages=%llu tcp_messages_after_join=%llu",
                   paths.fabric, (unsigned long long)paths.messages,
                   (unsigned long long)paths.messages_tcp_after_join);
    return text;
}
