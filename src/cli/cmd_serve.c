/* cli/cmd_serve.c - hivemind serve: hosts experts until SIGINT or SIGTERM, then drains and
 * saves. */
#include "cli/serve.h"

static const char usage[] =
    "hivemind serve - host experts in a swarm.\n"
    "\n"
    "  hivemind serve --new-swarm --experts 'ffn.[0:4].[0:4]' --hidden 64 --state ~/.hivemind/a\n"
    "  hivemind serve --join hm://... --experts 'ffn.[4:8].[0:4],ffn.8.0' --hidden 64 --state "
    "~/.hivemind/b\n"
    "\n"
    "It prints the line that others join with, serves, and announces its experts.  SIGINT or "
    "SIGTERM withdraws them,\n"
    "finishes what is queued, saves every expert and exits 0; a second signal ends at once.  With "
    "--state its key and its\n"
    "experts are kept: started again, it restores them at the step of their newest checkpoint.\n";

int cli_serve(int argc, char **argv)
{
    struct cli_node_conf node_conf = {0};
    struct serve_conf conf = {0};
    struct hm_options options;
    struct hm_node *node = NULL;
    struct cli_stop *stop = NULL;
    struct hm_server *server = NULL;
    hm_options_init(&options);
    hm_options_add(&options, "Node", cli_host_options, cli_host_option_count, &node_conf);
    hm_options_add(&options, "Experts", serve_options, serve_option_count, &conf);
    int code = cli_parse(&options, usage, argc, argv);
    if (code == CLI_GO_ON) {
        enum hm_status status = serve_check(&conf);
        if (status) code = cli_fail(CLI_USAGE, status);
    }
    if (code == CLI_GO_ON) code = cli_node_open(&node_conf, true, &node);
    if (code == CLI_GO_ON) code = cli_stop_start(node, &stop);
    if (code == CLI_GO_ON) {
        code = serve_start(node, &conf, &server);
        if (code == CLI_GO_ON) {
            cli_stop_wait(stop);
            code = serve_end(node, server, &conf);
        }
        cli_stop_end(stop);
    }
    hm_node_close(node);
    hm_options_fini(&options);
    return code;
}
