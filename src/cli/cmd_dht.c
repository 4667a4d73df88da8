/* cli/cmd_dht.c - hivemind dht: a node that only keeps the phone book. */
#include "cli/cli.h"

#include <stdio.h>

static const char usage[] =
    "hivemind dht - a DHT node without experts: the meeting point of a swarm.\n"
    "\n"
    "  hivemind dht --new-swarm --listen 0.0.0.0:4242 --state ~/.hivemind/dht     first node; "
    "prints the join line\n"
    "  hivemind dht --join hm://... --listen 0.0.0.0:4242                         one more\n"
    "\n"
    "It prints the line that others join with and runs until SIGINT or SIGTERM.  With --state it "
    "keeps its identity, and\n"
    "with a fixed port its join line, over restarts.\n";

int cli_dht(int argc, char **argv)
{
    struct cli_node_conf conf = {0};
    struct hm_options options;
    struct hm_node *node = NULL;
    struct cli_stop *stop = NULL;
    char line[HM_JOIN_LINE_BYTES];
    hm_options_init(&options);
    hm_options_add(&options, "Node", cli_host_options, cli_host_option_count, &conf);
    int code = cli_parse(&options, usage, argc, argv);
    if (code == CLI_GO_ON) code = cli_node_open(&conf, true, &node);
    if (code == CLI_GO_ON) code = cli_stop_start(node, &stop);
    if (code == CLI_GO_ON) {
        enum hm_status status = hm_node_join_line(node, line, sizeof(line));
        if (status) {
            code = cli_fail(CLI_FAILED, status);
        } else {
            printf("%s\n", line);
            fflush(stdout);
            cli_stop_wait(stop);
            if (cli_fabric_fields(node, false, line)[0]) printf("stopped;%s\n", line);
            code = CLI_OK;
        }
        cli_stop_end(stop);
    }
    hm_node_close(node);
    hm_options_fini(&options);
    return code;
}
