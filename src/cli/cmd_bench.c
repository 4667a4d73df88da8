/* cli/cmd_bench.c - hivemind bench: which benchmark; each has a file bench_NAME.c. */
#include "cli/bench.h"
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static const struct bench_kind {
    const char *name, *about; /* about NULL: a process of the benchmark's own */
    int (*run)(int argc, char **argv);
} kinds[] = {
    {"throughput", "rows a second through one server, with the presets of the Python hivemind",
     bench_throughput},
    {"latency", "how long a single call takes, and where that time goes", bench_latency},
    {"overload", "three times the load that saturates: what is answered, and how soon refused",
     bench_overload},
    {"expert", "one expert without a server: forward, training, its optimizer alone", bench_expert},
    {"codec", "rows coded and decoded on one core, beside memcpy", bench_codec},
    {"server", NULL, bench_server},
    {"client", NULL, bench_client},
    {"transport", "latency and bandwidth of a transport alone, beside raw programs",
     bench_transport},
    {"end", NULL, bench_end},
};

static void print_usage(FILE *out)
{
    fprintf(out, "hivemind bench - what this machine does with hivemind.\n\n");
    for (unsigned i = 0; i < HM_COUNT_OF(kinds); i++)
        if (kinds[i].about)
            fprintf(out, "  hivemind bench %-12s %s\n", kinds[i].name, kinds[i].about);
    fprintf(out, "\nEach explains itself and its options: hivemind bench throughput --help\n");
}

int cli_bench(int argc, char **argv)
{
    const char *names[HM_COUNT_OF(kinds)], *what = argc > 1 ? argv[1] : "";
    unsigned count = 0;
    if (strcmp(what, "--help") == 0 || strcmp(what, "-h") == 0) {
        print_usage(stdout);
        return CLI_OK;
    }
    for (unsigned i = 0; i < HM_COUNT_OF(kinds); i++) {
        if (strcmp(what, kinds[i].name) == 0) return kinds[i].run(argc - 1, argv + 1);
        if (kinds[i].about) names[count++] = kinds[i].name;
    }
    const char *near = hm_nearest_name(what, names, count);
    if (*what)
        fprintf(stderr, "hivemind: no benchmark '%s'%s%s; see hivemind bench --help\n", what,
                near ? "; did you mean " : "", near ? near : "");
    else
        fprintf(stderr, "hivemind: bench what? hivemind bench throughput; see hivemind bench "
                        "--help\n");
    return CLI_USAGE;
}
