/* cli/main.c - hivemind <command>: finds the command and runs it. */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct cli_command commands[] = {
    {"serve", "host experts: a server in a swarm, or the first of a new one", cli_serve},
    {"dht", "a DHT node without experts: a swarm's meeting point", cli_dht},
    {"train", "train a model whose mixture-of-experts layers live in the swarm", cli_train},
    {"status", "the swarm as a table: servers, experts, load", cli_status},
    {"swarm", "a whole swarm, or a part of it, under mpirun or Slurm: servers and trainers by rank",
     cli_swarm},
    {"topo", "which processors, GPU, memory and network card each thread gets here, and why",
     cli_topo},
    {"bench", "throughput and latency of calls, codecs and transports, beside raw programs",
     cli_bench},
};

static void help(FILE *to)
{
    fputs("hivemind - decentralised mixtures of experts\n"
          "\n"
          "Experts are small networks that live on many machines and are found through a DHT.  "
          "Some people host them,\n"
          "others train against them.\n"
          "\n"
          "  hivemind serve --new-swarm --experts 'ffn.[0:4].[0:4]' --hidden 64     prints a join "
          "line, hm://...\n"
          "  hivemind serve --join hm://... --experts 'ffn.[4:8].[0:4]' --hidden 64  on another "
          "machine\n"
          "  hivemind train --join hm://... --experts 'ffn.[0:4].[0:4]' --hidden 64 --data "
          "data/digits.csv.gz\n"
          "  hivemind status --join hm://...\n"
          "\n"
          "Commands:\n",
          to);
    for (unsigned i = 0; i < HM_COUNT_OF(commands); i++)
        fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].summary);
    fputs("\n"
          "  hivemind COMMAND --help    its options; each is also a variable HM_... and a line of "
          "--config FILE\n"
          "  hivemind --version\n"
          "\n"
          "Exit codes: 0 done, 1 failed, 2 wrong usage.\n",
          to);
}

/* Several processes share a machine, so the math library's teams must sleep while they wait:
 * spinning, one team keeps the others from their cores.  OpenMP's runtime reads this once, before
 * main, hence the second start. */
static void wait_passively(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("OMP_WAIT_POLICY", "passive", 1) == 0) execv("/proc/self/exe", argv);
    /* Where that cannot be done it only costs time. */
}

int main(int argc, char **argv)
{
    wait_passively(argv);
    const char *name = argc > 1 ? argv[1] : "--help";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        help(argc > 1 ? stdout : stderr);
        return argc > 1 ? CLI_OK : CLI_USAGE;
    }
    if (strcmp(name, "--version") == 0) {
        printf("hivemind %s, wire %d.%d\n", HM_VERSION, HM_WIRE_MAJOR, HM_WIRE_MINOR);
        return CLI_OK;
    }
    const char *names[HM_COUNT_OF(commands)];
    for (unsigned i = 0; i < HM_COUNT_OF(commands); i++) {
        if (strcmp(name, commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
        names[i] = commands[i].name;
    }
    const char *near = hm_nearest_name(name, names, HM_COUNT_OF(commands));
    if (near)
        fprintf(stderr, "hivemind: no command '%s'; did you mean '%s'?\n", name, near);
    else
        fprintf(stderr, "hivemind: no command '%s'; hivemind --help lists them\n", name);
    return CLI_USAGE;
}
