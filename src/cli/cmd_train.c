/* cli/cmd_train.c - hivemind train: one trainer in a swarm. */
#include "cli/train.h"

static const char usage[] =
    "hivemind train - train a classifier whose mixture-of-experts layers live in the swarm.\n"
    "\n"
    "  hivemind train --join hm://... --experts 'ffn.[0:4].[0:4]' --hidden 64 --data "
    "data/digits.csv.gz\n"
    "\n"
    "The data file is comma-separated (.csv or .csv.gz): features, then an integer label.  A "
    "seeded fifth of the rows is\n"
    "kept for testing.  The model is linear, then --layers times (mixture of remote experts + "
    "residual, layer norm), then\n"
    "linear.  --hidden must be what the servers' experts have.\n";

enum { EVALUATE_ROWS_MAX = 1024, EVALUATE_TRIES = 5 };

int cli_train(int argc, char **argv)
{
    struct cli_node_conf node_conf = {0};
    struct train_conf conf = {0};
    struct hm_options options;
    struct hm_node *node = NULL;
    struct cli_stop *stop = NULL;
    struct training *training = NULL;
    hm_options_init(&options);
    hm_options_add(&options, "Node", cli_join_options, cli_join_option_count, &node_conf);
    hm_options_add(&options, "Training", train_options, train_option_count, &conf);
    int code = cli_parse(&options, usage, argc, argv);
    node_conf.priority = conf.priority;
    if (code == CLI_GO_ON) code = train_prepare(&conf, &training);
    if (code == CLI_GO_ON) code = cli_node_open(&node_conf, false, &node);
    if (code == CLI_GO_ON) code = cli_stop_start(node, &stop);
    if (code == CLI_GO_ON) {
        code = train_run(training, node, stop);
        cli_stop_end(stop);
    }
    hm_node_close(node);
    train_free(training);
    hm_options_fini(&options);
    return code;
}
