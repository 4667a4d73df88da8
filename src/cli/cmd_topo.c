/* cli/cmd_topo.c - hivemind topo: which thread, GPU, memory and network card a server would use
 * here, and why. */
#include "cli/cli.h"
#include "topo/topo.h"

#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "hivemind topo - the placement plan of this machine, or of a stored one, drawn and explained.\n"
    "\n"
    "  hivemind topo\n"
    "  hivemind topo --device cpu --lane-threads 8\n"
    "  lstopo --of xml node7.xml   (on another machine)\n"
    "  hivemind topo --topology node7.xml --json\n"
    "\n"
    "The plan is made for what this process may use: cgroups, taskset, Slurm's and mpirun's "
    "bindings "
    "and\n"
    "CUDA_VISIBLE_DEVICES count.  Every GPU that is visible gets a lane; a server needs a module "
    "for "
    "GPUs to follow.\n";

struct topo_conf {
    const char *topology, *device;
    uint32_t cpu_lanes, lane_threads;
    bool json;
};
#define AT(member) offsetof(struct topo_conf, member)
static const struct hm_option topo_options[] = {
    {"topology", HM_OPTION_STRING, NULL, "FILE", "a stored machine (hwloc XML) instead of this one",
     AT(topology), 0, 0},
    {"device", HM_OPTION_STRING, "auto", "NAME", "plan for auto, cpu or one GPU: cuda0", AT(device),
     0, 0},
    {"cpu-lanes", HM_OPTION_U32, "0", "COUNT", "CPU lanes; 0: one a NUMA node", AT(cpu_lanes), 0,
     HM_LANES_MAX},
    {"lane-threads", HM_OPTION_U32, "0", "COUNT",
     "threads that compute in a CPU lane; 0: one a processor", AT(lane_threads), 0, 1024},
    {"json", HM_OPTION_BOOL, "false", NULL, "one line of JSON, for programs", AT(json), 0, 0},
};

static int show(const struct topo_conf *conf, struct hm_topo *topo, struct hm_topo_plan *plan)
{
    struct hm_topo_wish wish = {.device = conf->device,
                                .gpus = true,
                                .cpu_lanes = conf->cpu_lanes,
                                .lane_threads = conf->lane_threads,
                                .lane_nice = 5};
    enum hm_status status = hm_topo_discover(conf->topology, topo);
    if (!status) status = hm_topo_plan(topo, &wish, plan);
    if (status) return cli_fail(CLI_FAILED, status);
    if (!conf->json) {
        hm_topo_print(topo, plan, stdout);
        return CLI_OK;
    }
    struct hm_json json;
    hm_json_init(&json);
    hm_topo_json(topo, plan, &json, NULL);
    const char *text = hm_json_text(&json);
    int code = text ? CLI_OK : cli_fail(CLI_FAILED, HM_ERR_NO_MEMORY);
    if (text) printf("%s\n", text);
    hm_json_fini(&json);
    return code;
}

int cli_topo(int argc, char **argv)
{
    struct topo_conf conf;
    struct hm_options options;
    hm_options_init(&options);
    hm_options_add(&options, "Placement", topo_options, HM_COUNT_OF(topo_options), &conf);
    int code = cli_parse(&options, usage, argc, argv);
    if (code == CLI_GO_ON) {
        struct hm_topo *topo = malloc(sizeof(*topo));
        struct hm_topo_plan *plan = malloc(sizeof(*plan));
        code = topo && plan ? show(&conf, topo, plan) : cli_fail(CLI_FAILED, HM_ERR_NO_MEMORY);
        free(topo);
        free(plan);
    }
    hm_options_fini(&options);
    return code;
}
