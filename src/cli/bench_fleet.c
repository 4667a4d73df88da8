/* cli/bench_fleet.c - starting the processes of a benchmark, and taking them through a round. */
#include "cli/bench_fleet.h"

#include "cli/bench_raw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <openssl/crypto.h>

enum { PATH_BYTES = 4096 };
static const hm_ns start_max = 60 * HM_S, report_max = 60 * HM_S;

static enum hm_status start(struct bench_fleet *fleet, struct child *child, const char *what,
                            const struct bench_conf *conf)
{
    static struct bench_arguments arguments;
    bench_arguments(&arguments, "bench", what, conf);
    enum hm_status status = child_start(child, arguments.argument);
    if (!status && fleet->key[0]) status = child_say(child, fleet->key);
    return status;
}

/* The processes count what they ask of the heap, if what does that has been built.  Somebody else's
 * preload stays alone. */
static bool preload(void)
{
    char path[PATH_BYTES];
    return !getenv("LD_PRELOAD") && bench_raw_find("count_heap.so", path, sizeof path) &&
           setenv("LD_PRELOAD", path, 1) == 0;
}

static enum hm_status server_start(struct bench_fleet *fleet)
{
    char line[HM_JOIN_LINE_BYTES + 256];
    enum hm_status status = start(fleet, &fleet->server, "server", fleet->conf);
    if (!status) status = child_line(&fleet->server, start_max, line, sizeof(line));
    if (status)
        return hm_fail(status, "the benchmark's server did not start (%s)", hm_status_text(status));
    const char *join = strstr(line, "hm://");
    size_t bytes = join ? strcspn(join, "\"") : 0;
    if (bytes == 0 || bytes >= sizeof(fleet->join))
        return hm_fail(HM_ERR_CORRUPT, "the benchmark's server printed no join line");
    memcpy(fleet->join, join, bytes);
    fleet->join[bytes] = 0;
    return HM_OK;
}

/* All start at once: their handshakes and first calls overlap. */
static enum hm_status clients_start(struct bench_fleet *fleet)
{
    struct bench_conf conf = *fleet->conf;
    enum hm_status status = HM_OK;
    char line[64];
    conf.join = fleet->join;
    for (unsigned i = 0; i < conf.client_processes && !status; i++) {
        conf.place = i;
        conf.share =
            conf.clients / conf.client_processes + (i < conf.clients % conf.client_processes);
        status = start(fleet, &fleet->client[i], "client", &conf);
    }
    hm_ns first = start_max + 2 * conf.timeout * (1 + conf.experts / conf.client_processes);
    for (unsigned i = 0; i < conf.client_processes && !status; i++) {
        status = child_line(&fleet->client[i], first, line, sizeof(line));
        if (!status && strcmp(line, "ready") != 0) status = HM_ERR_CORRUPT;
        if (status)
            status = hm_fail(status, "a client process of the benchmark did not get ready (%s)",
                             hm_status_text(status));
    }
    return status;
}

static enum hm_status key_make(struct bench_fleet *fleet)
{
    uint8_t key[HM_FABRIC_KEY_BYTES];
    if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
        return hm_fail(HM_ERR_NO_MEMORY, "no random bytes for a fabric key");
    for (unsigned i = 0; i < sizeof(key); i++)
        snprintf(fleet->key + 2 * i, 3, "%02x", (unsigned)key[i]);
    strcat(fleet->key, "\n");
    OPENSSL_cleanse(key, sizeof(key));
    return HM_OK;
}

enum hm_status bench_fleet_open(struct bench_fleet *fleet, const struct bench_conf *conf)
{
    memset(fleet, 0, sizeof(*fleet));
    fleet->conf = conf;
    enum hm_status status = strcmp(conf->transport, "ucx") == 0 ? key_make(fleet) : HM_OK;
    bool preloaded = preload();
    if (!status) status = server_start(fleet);
    if (!status) status = clients_start(fleet);
    if (preloaded) unsetenv("LD_PRELOAD");
    OPENSSL_cleanse(fleet->key, sizeof(fleet->key));
    return status;
}

static enum hm_status server_report(struct bench_fleet *fleet, struct bench_report *report)
{
    memset(report, 0, sizeof(*report));
    enum hm_status status = child_say(&fleet->server, "report\n");
    if (!status) status = bench_report_read(report, &fleet->server, report_max);
    if (status) return hm_fail(status, "the benchmark's server ended without its report");
    return HM_OK;
}

enum hm_status bench_fleet_round(struct bench_fleet *fleet, struct bench_round *round)
{
    const struct bench_conf *conf = fleet->conf;
    unsigned count = conf->client_processes;
    uint64_t pairs = conf->batches ? conf->batches : 1;
    hm_ns longest = conf->duration + 2 * conf->timeout * pairs;
    if (longest > 24 * 3600 * HM_S) longest = 24 * 3600 * HM_S;
    char go[32];
    snprintf(go, sizeof(go), "go %u\n", fleet->arrivals);
    memset(&round->clients, 0, sizeof(round->clients));
    enum hm_status status = server_report(fleet, &round->before);
    if (status) return status;
    hm_ns before = cli_now();
    for (unsigned i = 0; i < count && !status; i++) status = child_say(&fleet->client[i], go);
    for (unsigned i = 0; i < count && !status; i++)
        status = bench_report_read(&round->clients, &fleet->client[i], longest + report_max);
    hm_ns ended = bench_report_find(&round->clients, "ended_ns")->max; /* one clock a machine */
    round->seconds = ended > before ? (double)(ended - before) / 1e9 : 0;
    if (status)
        return hm_fail(status, "a client process of the benchmark ended without its report");
    return server_report(fleet, &round->after);
}

void bench_fleet_close(struct bench_fleet *fleet)
{
    for (unsigned i = 0; i < fleet->conf->client_processes; i++)
        child_stop(&fleet->client[i], 5 * HM_S);
    child_stop(&fleet->server, 15 * HM_S);
}
