/* cli/bench_client.c - a client process of `hivemind bench`: it says "ready", waits for "go", and
 * reports one line. */
#include "base/rng.h"
#include "cli/bench.h"
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>

struct client {
    const struct bench_conf *conf;
    struct hm_node *node;
    struct hm_remote_expert **experts;
    struct hm_thread *thread;
    struct hm_rng rng;
    float *x, *y, *dx;
    struct hm_histogram latency_us;
    uint64_t calls, failed;
    enum hm_status status;
};

static void run_client(void *arg)
{
    struct client *client = arg;
    const struct bench_conf *conf = client->conf;
    int timeout_ms = (int)(conf->timeout / HM_MS);
    struct hm_array x = {.dims = 2, .dim = {conf->rows, conf->hidden}, .data = client->x}, y = x,
                    dx = x;
    y.data = client->y;
    dx.data = client->dx;
    for (uint32_t i = 0; i < conf->batches; i++) {
        struct hm_remote_expert *expert =
            client->experts[hm_rng_below(&client->rng, conf->experts)];
        hm_ns before = cli_now();
        enum hm_status status = hm_remote_expert_forward(expert, &x, &y, timeout_ms);
        client->calls++;
        /* Which gradient does not matter to the time: y is one of the right shape. */
        if (!status && conf->backward) {
            status = hm_remote_expert_backward(expert, &x, &y, &dx, timeout_ms);
            client->calls++;
        }
        hm_histogram_add(&client->latency_us, (cli_now() - before) / HM_US);
        if (status) {
            client->failed++;
            client->status = status;
        }
    }
}

static int client_alloc(struct client *client, const struct bench_conf *conf, struct hm_node *node,
                        struct hm_remote_expert **experts, unsigned index)
{
    size_t count = (size_t)conf->rows * conf->hidden;
    *client = (struct client){.conf = conf, .node = node, .experts = experts};
    hm_rng_init(&client->rng, conf->seed, index);
    hm_histogram_init(&client->latency_us);
    client->x = malloc(count * sizeof(float));
    client->y = malloc(count * sizeof(float));
    client->dx = malloc(count * sizeof(float));
    if (!client->x || !client->y || !client->dx) return HM_ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++) client->x[i] = hm_rng_normal(&client->rng);
    return HM_OK;
}

static void report(struct client *clients, unsigned count)
{
    static struct hm_histogram latency;
    uint64_t calls = 0, failed = 0;
    enum hm_status status = HM_OK;
    hm_histogram_init(&latency);
    for (unsigned i = 0; i < count; i++) {
        calls += clients[i].calls;
        failed += clients[i].failed;
        if (clients[i].status) status = clients[i].status;
        hm_histogram_merge(&latency, &clients[i].latency_us);
    }
    printf("done %llu %llu %llu %llu %s\n", (unsigned long long)calls, (unsigned long long)failed,
           (unsigned long long)hm_histogram_quantile(&latency, 0.5),
           (unsigned long long)hm_histogram_quantile(&latency, 0.99), hm_status_name(status));
    fflush(stdout);
}

/* Finds every expert; one call each also opens the connections, so that they are not measured. */
static enum hm_status find_experts(const struct bench_conf *conf, struct hm_node *node,
                                   struct hm_remote_expert **experts)
{
    for (uint32_t i = 0; i < conf->experts; i++) {
        char uid[32];
        snprintf(uid, sizeof(uid), "expert.%u", i);
        enum hm_status status = hm_remote_expert_find(node, uid, 10000, &experts[i]);
        if (status) return status;
    }
    return HM_OK;
}

int bench_client(const struct bench_conf *conf)
{
    struct hm_node *node = NULL;
    struct hm_node_options options = {.join = conf->join};
    struct hm_remote_expert **experts = calloc(conf->experts, sizeof(*experts));
    struct client *clients = calloc(conf->clients, sizeof(*clients));
    unsigned started = 0;
    char line[16];
    enum hm_status status = experts && clients ? HM_OK : HM_ERR_NO_MEMORY;
    if (!status) status = hm_node_open(&options, &node);
    if (!status) status = find_experts(conf, node, experts);
    for (uint32_t i = 0; i < conf->clients && !status; i++)
        status = client_alloc(&clients[i], conf, node, experts, i);
    if (!status) {
        printf("ready\n");
        fflush(stdout);
        if (!fgets(line, sizeof(line), stdin)) status = HM_ERR_CANCELED;
    }
    for (; started < conf->clients && !status; started++)
        status = hm_thread_start(&(struct hm_place){.name = "hm-client"}, run_client,
                                 &clients[started], &clients[started].thread);
    if (status && started > 0) started--; /* the one that failed */
    for (unsigned i = 0; i < started; i++) hm_thread_join(clients[i].thread);
    if (!status) report(clients, conf->clients);
    for (uint32_t i = 0; clients && i < conf->clients; i++) {
        free(clients[i].x);
        free(clients[i].y);
        free(clients[i].dx);
    }
    for (uint32_t i = 0; experts && i < conf->experts; i++)
        if (experts[i]) hm_remote_expert_put(experts[i]);
    hm_node_close(node);
    free(clients);
    free(experts);
    return status ? cli_fail(CLI_FAILED, status) : CLI_OK;
}
