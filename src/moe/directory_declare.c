/* moe/directory_declare.c - what this node tells the directory: its server's records into the DHT, and
 * what calls have taught about other servers into the cache. */
#include "moe/directory_internal.h"

#include <stdlib.h>

struct declare {
    struct hm_directory *directory;
    struct hm_declaration declaration;
    unsigned stored; /* records handed to the DHT so far */
    hm_ns deadline;
    hm_directory_cb cb;
    void *arg;
    struct hm_dht_query *query;
};

static void declare_end(struct declare *declare, enum hm_status status)
{
    declare->directory->declarations--;
    hm_declaration_fini(&declare->declaration);
    declare->cb(declare->arg, status);
    free(declare);
}

static enum hm_status store_next(struct declare *declare);

static void stored(void *arg, enum hm_status status, const uint8_t *replicas, unsigned record_count)
{
    (void)replicas, (void)record_count;
    struct declare *declare = arg;
    if (status == HM_OK && declare->stored < declare->declaration.count)
        status = store_next(declare);
    else if (status == HM_OK) {
        declare_end(declare, HM_OK);
        return;
    }
    if (status != HM_OK) declare_end(declare, status);
}

static enum hm_status store_next(struct declare *declare)
{
    unsigned count = declare->declaration.count - declare->stored;
    if (count > HM_DHT_QUERY_RECORDS_MAX) count = HM_DHT_QUERY_RECORDS_MAX;
    const struct hm_record *record = declare->declaration.record + declare->stored;
    enum hm_status status = hm_dht_store(declare->directory->dht, record, count, declare->deadline,
                                         stored, declare, &declare->query);
    if (status == HM_INPROGRESS) status = HM_OK;
    if (status == HM_OK) declare->stored += count;
    return status;
}

enum hm_status hm_directory_declare(struct hm_directory *directory,
                                    const struct hm_server_info *info, const struct hm_uid *uids,
                                    unsigned uid_count, bool withdraw, hm_ns deadline,
                                    hm_directory_cb cb, void *arg)
{
    struct declare *declare = calloc(1, sizeof *declare);
    if (!declare) return hm_fail(HM_ERR_NO_MEMORY, "no memory to declare %u experts", uid_count);
    *declare = (struct declare){.directory = directory, .deadline = deadline, .cb = cb, .arg = arg};
    enum hm_status status =
        hm_declaration_make(info, uids, uids ? uid_count : 0, withdraw,
                            hm_loop_wall_ns(directory->loop), &declare->declaration);
    if (status != HM_OK) {
        free(declare);
        return status;
    }
    status = store_next(declare);
    if (status != HM_OK) {
        hm_declaration_fini(&declare->declaration);
        free(declare);
        return status;
    }
    directory->declarations++;
    return HM_OK;
}

/* ---- what calls teach ------------------------------------------------------------------------ */

void hm_directory_suspect(struct hm_directory *directory, const struct hm_node_id *server,
                          hm_ns hold)
{
    hm_directory_cache_suspect(directory->cache, server, hold);
}

void hm_directory_trust(struct hm_directory *directory, const struct hm_node_id *server)
{
    hm_directory_cache_trust(directory->cache, server);
}

const struct hm_codec *hm_directory_codec(struct hm_directory *directory,
                                          const struct hm_node_id *server,
                                          const struct hm_codec *wanted)
{
    return hm_directory_cache_codec(directory->cache, server, wanted);
}

void hm_directory_refused_codec(struct hm_directory *directory, const struct hm_node_id *server)
{
    hm_directory_cache_refused_codec(directory->cache, server);
}

void hm_directory_suspect_expert(struct hm_directory *directory, const struct hm_node_id *server,
                                 const struct hm_uid *uid)
{
    hm_directory_cache_suspect_expert(directory->cache, server, uid);
}
