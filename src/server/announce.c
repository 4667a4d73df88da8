/* server/announce.c - keeps the swarm's phone book true about this server.
 *
 * The server record goes out every declare_interval and lives twice as long; the expert records
 * change when experts do (here: at start and at the end) and go out with every fourth server
 * record, so that nodes that came later hold them too.  A declaration that fails is tried again at
 * the next turn: a swarm that cannot be reached now may come back. */
#include "server/internal.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { EXPERTS_EVERY = 4 };

static hm_ns interval(const struct hm_expert_server *server)
{
    return server->conf.declare_interval ? server->conf.declare_interval : 30 * HM_S;
}

static void fill_info(struct hm_expert_server *server, struct hm_server_info *info)
{
    struct hm_loop *loop = server->conf.loop;
    *info = (struct hm_server_info){.expert_count = server->hosted.count,
                                    .started_wall_ns = server->started_wall_ns};
    info->node = *hm_identity_node(hm_rpc_identity(server->conf.rpc));
    if (hm_rpc_address(server->conf.rpc, &info->addrs)) info->addrs.count = 0;
    strncpy(info->version, HM_VERSION, sizeof(info->version) - 1);
    info->codecs = server->conf.codecs;
    HM_LIST_EACH (link, &server->hosted_list) {
        const struct hm_hosted *hosted = HM_CONTAINER_OF(link, struct hm_hosted, link);
        for (unsigned pass = 0; pass < HM_PASSES; pass++)
            info->rows_queued += hm_pool_rows_queued(hosted->pass[pass].pool);
    }
    hm_ns now = hm_loop_now(loop), span = now - server->rows_since;
    uint64_t rows = server->rows_done - server->rows_done_before;
    if (span > 0) info->rows_per_second = (uint32_t)((double)rows * 1e9 / (double)span);
    server->rows_done_before = server->rows_done;
    server->rows_since = now;
}

static enum hm_status declare(struct hm_expert_server *server, bool experts, bool withdraw,
                              hm_directory_cb cb)
{
    struct hm_server_info info;
    struct hm_uid *uids = NULL;
    unsigned count = 0;
    if (experts) {
        uids = malloc(server->hosted.count * sizeof(*uids) + 1);
        if (!uids) return HM_ERR_NO_MEMORY;
        HM_LIST_EACH (link, &server->hosted_list)
            uids[count++] = HM_CONTAINER_OF(link, struct hm_hosted, link)->uid;
    }
    fill_info(server, &info);
    hm_ns deadline = hm_deadline_after(server->conf.loop, interval(server) / 2);
    enum hm_status status = hm_directory_declare(server->conf.directory, &info, uids, count,
                                                 withdraw, deadline, cb, server);
    free(uids);
    return status;
}

static void declared(void *arg, enum hm_status status)
{
    struct hm_expert_server *server = arg;
    server->announcing--;
    if (status)
        hm_log(HM_LOG_WARN, "server", "announcing failed (%s), will try again",
               hm_status_text(status));
    if (!server->start_done) return;
    void (*done)(void *, enum hm_status) = server->start_done;
    server->start_done = NULL;
    done(server->start_arg, status);
}

static void announce(struct hm_timer *timer)
{
    struct hm_expert_server *server = timer->arg;
    if (server->draining) return;
    hm_timer_start(server->conf.loop, timer, interval(server));
    if (server->announcing) return; /* the one before is still under way */
    server->announcing++;
    bool experts = server->announce_count++ % EXPERTS_EVERY == 0;
    enum hm_status status = declare(server, experts, false, declared);
    if (status) declared(server, status);
}

void hm_expert_server_announce_start(struct hm_expert_server *server)
{
    server->started_wall_ns = hm_loop_wall_ns(server->conf.loop);
    server->rows_since = hm_loop_now(server->conf.loop);
    server->announce_timer = (struct hm_timer){.cb = announce, .arg = server};
    hm_timer_start(server->conf.loop, &server->announce_timer, 0);
}

void hm_expert_server_announce_stop(struct hm_expert_server *server)
{
    hm_timer_stop(server->conf.loop, &server->announce_timer);
}

void hm_expert_server_withdraw(struct hm_expert_server *server, hm_directory_cb cb)
{
    hm_expert_server_announce_stop(server);
    enum hm_status status = declare(server, true, true, cb);
    if (status) cb(server, status);
}
