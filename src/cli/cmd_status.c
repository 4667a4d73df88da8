/* cli/cmd_status.c - hivemind status: the swarm as a table, or as JSON. */
#include "api/swarm.h"
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
    "hivemind status - the swarm as a table: servers with their load, and "
    "the experts that each serves.\n"
    "\n"
    "  hivemind status --join hm://...\n"
    "  hivemind status --join hm://... --json | jq '.experts[].uid'\n"
    "  hivemind status --join hm://... --json --metrics | jq '.servers[].status.metrics'\n"
    "  hivemind status --join hm://... --fabric-key KEY   which of its peers "
    "this node reaches over UCX, and\n"
    "                                                     why not the "
    "others\n";

struct status_conf {
    hm_ns timeout;
    bool json, experts, metrics;
};
static const struct hm_option status_options[] = {
    {"timeout", HM_OPTION_DURATION, "5s", "TIME", "for the whole look around",
     offsetof(struct status_conf, timeout), 0.1, 600},
    {"experts", HM_OPTION_BOOL, "false", NULL, "list every expert, not only their number",
     offsetof(struct status_conf, experts), 0, 0},
    {"metrics", HM_OPTION_BOOL, "false", NULL,
     "with --json: ask each server for its experts and counters, and where the time of calls goes",
     offsetof(struct status_conf, metrics), 0, 0},
    {"json", HM_OPTION_BOOL, "false", NULL, "one line of JSON, for programs",
     offsetof(struct status_conf, json), 0, 0},
};

static void print_table(const struct hm_swarm *swarm, bool experts)
{
    char id[HM_NODE_ID_TEXT_BYTES], codecs[HM_CODEC_SET_TEXT_BYTES];
    unsigned alive = 0, served = 0;
    printf("%-16s  %-28s  %7s  %11s  %8s  %-7s  %s\n", "server", "address", "experts",
           "rows queued", "rows/s", "version", "codecs");
    for (unsigned i = 0; i < swarm->server_count; i++) {
        const struct hm_server_info *server = &swarm->server[i];
        bool up = server->addrs.count > 0;
        alive += up;
        printf("%.16s  %-28s  %7u  %11u  %8u  %-7s  %s\n", hm_node_id_text(&server->node, id),
               up ? server->addrs.addr[0].text : "(gone)", server->expert_count,
               server->rows_queued, server->rows_per_second, up ? server->version : "-",
               up ? hm_codec_set_text(server->codecs, codecs) : "-");
    }
    for (unsigned i = 0; i < swarm->expert_count; i++) {
        const struct hm_swarm_expert *expert = &swarm->expert[i];
        served++;
        if (experts)
            printf("  %-24s %.16s\n", expert->uid.text, hm_node_id_text(&expert->server, id));
    }
    const struct hm_node_paths *paths = &swarm->paths;
    if (paths->has_key) {
        printf("this node's own peers: %u over %s, %u over tcp\n", paths->peers_fabric,
               paths->fabric ? paths->fabric : "the fabric", paths->peers_tcp);
        for (unsigned i = 0; i < paths->peers_tcp && i < HM_NODE_PATHS_MAX; i++)
            printf("  %.16s  tcp: %s\n", hm_node_id_text(&paths->tcp[i].node, id),
                   paths->tcp[i].path.why);
    }
    printf("%u servers, %u experts; this node's DHT: %u contacts, %u records\n", alive, served,
           swarm->contacts, swarm->records);
}

int cli_status(int argc, char **argv)
{
    struct cli_node_conf node_conf = {0};
    struct status_conf conf;
    struct hm_options options;
    struct hm_node *node = NULL;
    hm_options_init(&options);
    hm_options_add(&options, "Node", cli_join_options, cli_join_option_count, &node_conf);
    hm_options_add(&options, "Status", status_options, HM_COUNT_OF(status_options), &conf);
    int code = cli_parse(&options, usage, argc, argv);
    if (code == CLI_GO_ON && conf.metrics && !conf.json)
        code = cli_fail(CLI_USAGE, hm_fail(HM_ERR_INVALID, "--metrics goes with --json"));
    if (code == CLI_GO_ON) code = cli_node_open(&node_conf, false, &node);
    if (code == CLI_GO_ON) {
        struct hm_swarm swarm;
        struct hm_json json;
        enum hm_status status = hm_swarm_look(node, conf.timeout, &swarm);
        if (!status && conf.metrics) status = hm_swarm_ask_servers(node, conf.timeout, &swarm);
        code = CLI_OK;
        if (status) {
            code = cli_fail(CLI_FAILED, status);
        } else if (conf.json) {
            hm_json_init(&json);
            hm_swarm_json(&swarm, &json);
            printf("%s\n", hm_json_text(&json));
            hm_json_fini(&json);
        } else {
            print_table(&swarm, conf.experts);
        }
        hm_swarm_fini(&swarm);
    }
    hm_node_close(node);
    hm_options_fini(&options);
    return code;
}
