/* api/swarm.c - walks the directory from its names down the grid to the experts, then asks for
 * their servers.
 *
 *   names ──► children of "ffn." ──► of "ffn.0.", "ffn.1.", … ──► experts ──► server records ──► end
 *
 * One lookup answers a whole level of the grid.  Bounded: EXPERTS_MAX experts, SERVERS_MAX servers;
 * what is beyond is not counted, and the status says HM_ERR_TOO_BIG. */
#include "api/swarm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXPERTS_MAX = 65536, SERVERS_MAX = 4096, PREFIXES_A_LOOKUP = 64 };

struct look {
    struct hm_node *node;
    struct hm_swarm *swarm;
    struct hm_wait *wait;
    hm_ns timeout, deadline;
    /* Prefixes still to be looked at, a queue: [at, count). */
    struct prefix {
        char text[HM_UID_BYTES];
        unsigned dims_left; /* below its children */
    } * prefix;
    unsigned prefix_at, prefix_count, asked;
    enum hm_status status; /* the first failure; the walk goes on with what there is */
};

static void ask_next(struct look *look);

static void note(struct look *look, enum hm_status status)
{
    if (status && !look->status) look->status = status;
}

static void add_prefix(struct look *look, const char *text, unsigned dims_left)
{
    if (look->prefix_count == EXPERTS_MAX) {
        note(look, HM_ERR_TOO_BIG);
        return;
    }
    struct prefix *prefix = &look->prefix[look->prefix_count++];
    strcpy(prefix->text, text); /* < HM_UID_BYTES: the callers saw to it */
    prefix->dims_left = dims_left;
}

static void add_expert(struct look *look, const char *uid, const struct hm_node_id *server)
{
    struct hm_swarm *swarm = look->swarm;
    if (swarm->expert_count == EXPERTS_MAX) {
        note(look, HM_ERR_TOO_BIG);
        return;
    }
    struct hm_swarm_expert *expert = &swarm->expert[swarm->expert_count];
    if (hm_uid_parse(uid, &expert->uid)) return;
    expert->server = *server;
    swarm->expert_count++;
}

/* ---- servers --------------------------------------------------------------------------------- */

static void servers_found(void *arg, enum hm_status status, const struct hm_server_info *info,
                          unsigned count)
{
    struct look *look = arg;
    note(look, status);
    look->swarm->server = malloc((count + 1) * sizeof(*info));
    if (look->swarm->server) {
        if (count > 0) memcpy(look->swarm->server, info, count * sizeof(*info));
        look->swarm->server_count = count;
    } else {
        note(look, HM_ERR_NO_MEMORY);
    }
    hm_wait_end(look->wait, look->status);
}

static int by_id(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct hm_node_id));
}

static void ask_servers(struct look *look)
{
    struct hm_swarm *swarm = look->swarm;
    struct hm_node_id *id = malloc((swarm->expert_count + 1) * sizeof(*id));
    enum hm_status status = id ? HM_OK : HM_ERR_NO_MEMORY;
    unsigned count = 0;
    if (!status) {
        for (unsigned i = 0; i < swarm->expert_count; i++) id[i] = swarm->expert[i].server;
        qsort(id, swarm->expert_count, sizeof(*id), by_id);
        for (unsigned i = 0; i < swarm->expert_count && count < SERVERS_MAX; i++)
            if (i == 0 || !hm_node_id_equal(&id[i], &id[i - 1])) id[count++] = id[i];
    }
    if (!status && count > 0)
        status = hm_directory_servers(look->node->directory, id, count, look->deadline,
                                      servers_found, look);
    free(id);
    if (status || count == 0) {
        note(look, status);
        hm_wait_end(look->wait, look->status);
    }
}

/* ---- names, prefixes, experts ---------------------------------------------------------------- */

static void children_found(void *arg, enum hm_status status, const struct hm_children *children,
                           unsigned count)
{
    struct look *look = arg;
    note(look, status);
    for (unsigned i = 0; i < count; i++) {
        const struct prefix *prefix = &look->prefix[look->prefix_at + i];
        for (unsigned j = 0; j < children[i].count; j++) {
            const struct hm_provider *provider = &children[i].provider[j];
            char text[HM_UID_BYTES + 16];
            int bytes = snprintf(text, sizeof(text), "%s%u%s", prefix->text, provider->coordinate,
                                 prefix->dims_left ? "." : "");
            if (bytes >= HM_UID_BYTES) continue;
            if (prefix->dims_left)
                add_prefix(look, text, prefix->dims_left - 1);
            else
                for (unsigned k = 0; k < provider->server_count; k++)
                    add_expert(look, text, &provider->server[k]);
        }
    }
    look->prefix_at += look->asked;
    ask_next(look);
}

static void ask_next(struct look *look)
{
    const char *text[PREFIXES_A_LOOKUP];
    look->asked = look->prefix_count - look->prefix_at;
    if (look->asked > PREFIXES_A_LOOKUP) look->asked = PREFIXES_A_LOOKUP;
    if (look->asked == 0) {
        ask_servers(look);
        return;
    }
    for (unsigned i = 0; i < look->asked; i++) text[i] = look->prefix[look->prefix_at + i].text;
    enum hm_status status = hm_directory_children(look->node->directory, text, look->asked,
                                                  look->deadline, children_found, look);
    if (!status) return;
    note(look, status);
    ask_servers(look);
}

static void names_found(void *arg, enum hm_status status, const struct hm_grid_name *names,
                        unsigned count)
{
    struct look *look = arg;
    note(look, status);
    for (unsigned i = 0; i < count; i++) {
        char prefix[HM_UID_BYTES];
        int bytes = snprintf(prefix, sizeof(prefix), "%s.", names[i].name);
        if (bytes < HM_UID_BYTES && names[i].dim_count > 0)
            add_prefix(look, prefix, names[i].dim_count - 1);
    }
    ask_next(look);
}

static void look_on_loop(struct hm_wait *wait, void *arg)
{
    struct look *look = arg;
    look->wait = wait;
    look->deadline = hm_deadline_after(look->node->loop, look->timeout);
    look->swarm->contacts = hm_dht_contacts(look->node->dht);
    look->swarm->records = hm_dht_records(look->node->dht);
    enum hm_status status =
        hm_directory_names(look->node->directory, look->deadline, names_found, look);
    if (status) hm_wait_end(wait, status);
}

enum hm_status hm_swarm_look(struct hm_node *node, hm_ns timeout, struct hm_swarm *swarm)
{
    *swarm = (struct hm_swarm){.expert = malloc(EXPERTS_MAX * sizeof(*swarm->expert))};
    struct look look = {.node = node, .swarm = swarm, .timeout = timeout};
    look.prefix = malloc(EXPERTS_MAX * sizeof(*look.prefix));
    enum hm_status status = HM_ERR_NO_MEMORY;
    if (swarm->expert && look.prefix) status = hm_node_run(node, look_on_loop, &look);
    free(look.prefix);
    if (!status || status == HM_ERR_TIMED_OUT) {
        enum hm_status paths = hm_node_paths(node, &swarm->paths);
        if (!status) status = paths;
    }
    return status;
}

void hm_swarm_fini(struct hm_swarm *swarm)
{
    for (unsigned i = 0; swarm->server_status && i < swarm->server_count; i++)
        free(swarm->server_status[i]);
    free(swarm->server_status);
    free(swarm->expert);
    free(swarm->server);
    *swarm = (struct hm_swarm){0};
}

void hm_swarm_json(const struct hm_swarm *swarm, struct hm_json *json)
{
    char id[HM_NODE_ID_TEXT_BYTES], codecs[HM_CODEC_SET_TEXT_BYTES];
    hm_json_object_begin(json, NULL);
    hm_json_array_begin(json, "servers");
    for (unsigned i = 0; i < swarm->server_count; i++) {
        const struct hm_server_info *server = &swarm->server[i];
        hm_json_object_begin(json, NULL);
        hm_json_string(json, "id", hm_node_id_text(&server->node, id));
        hm_json_bool(json, "alive", server->addrs.count > 0);
        hm_json_array_begin(json, "addresses");
        for (unsigned j = 0; j < server->addrs.count; j++)
            hm_json_string(json, NULL, server->addrs.addr[j].text);
        hm_json_array_end(json);
        hm_json_string(json, "version", server->version);
        hm_json_string(json, "codecs", hm_codec_set_text(server->codecs, codecs));
        hm_json_uint(json, "experts", server->expert_count);
        hm_json_uint(json, "rows_queued", server->rows_queued);
        hm_json_uint(json, "rows_per_second", server->rows_per_second);
        if (swarm->server_status && swarm->server_status[i])
            hm_json_raw(json, "status", swarm->server_status[i]);
        hm_json_object_end(json);
    }
    hm_json_array_end(json);
    hm_json_array_begin(json, "experts");
    for (unsigned i = 0; i < swarm->expert_count; i++) {
        hm_json_object_begin(json, NULL);
        hm_json_string(json, "uid", swarm->expert[i].uid.text);
        hm_json_string(json, "server", hm_node_id_text(&swarm->expert[i].server, id));
        hm_json_object_end(json);
    }
    hm_json_array_end(json);
    hm_json_object_begin(json, "paths");
    hm_json_string(json, "fabric", swarm->paths.fabric ? swarm->paths.fabric : "none");
    hm_json_uint(json, "fabric_peers", swarm->paths.peers_fabric);
    hm_json_uint(json, "tcp_peers", swarm->paths.peers_tcp);
    hm_json_array_begin(json, "tcp");
    for (unsigned i = 0; i < swarm->paths.peers_tcp && i < HM_NODE_PATHS_MAX; i++) {
        hm_json_object_begin(json, NULL);
        hm_json_string(json, "id", hm_node_id_text(&swarm->paths.tcp[i].node, id));
        hm_json_string(json, "why", swarm->paths.tcp[i].path.why);
        hm_json_object_end(json);
    }
    hm_json_array_end(json);
    hm_json_object_end(json);
    hm_json_uint(json, "dht_contacts", swarm->contacts);
    hm_json_uint(json, "dht_records", swarm->records);
    hm_json_object_end(json);
}

int hm_node_swarm_json(struct hm_node *node, int timeout_ms, char **text)
{
    struct hm_swarm swarm;
    struct hm_json json;
    char *copy = NULL;
    enum hm_status status = hm_swarm_look(node, hm_node_timeout(timeout_ms, 5000), &swarm);
    if (!status) {
        hm_json_init(&json);
        hm_swarm_json(&swarm, &json);
        if (hm_json_text(&json)) copy = strdup(hm_json_text(&json));
        hm_json_fini(&json);
        if (!copy) status = HM_ERR_NO_MEMORY;
    }
    hm_swarm_fini(&swarm);
    if (!status) *text = copy;
    return status;
}
