/* api/fabric.c - the fast path of a node: key file, module, and what can be seen of it.
 *
 * Owns what struct hm_node_fabric holds.  Nothing of the module is touched by a node without a key.
 * Failure modes: a bad key file is an error.  Without the module, or where it finds no interface,
 * "auto" says so in the log and goes on over tcp; where interfaces are named, or UCX's TCP is asked
 * for, it is an error. */
#include "api/fabric.h"

#include "api/node.h"
#include "base/log.h"
#include "base/module.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>

enum { HEX_BYTES = 2 * HM_FABRIC_KEY_BYTES };

/* ---- the key file */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool key_parse(const char *text, size_t bytes, uint8_t key[HM_FABRIC_KEY_BYTES])
{
    if (bytes == HM_FABRIC_KEY_BYTES) {
        memcpy(key, text, bytes);
        return true;
    }
    while (bytes > HEX_BYTES && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r')) bytes--;
    if (bytes != HEX_BYTES) return false;
    for (size_t i = 0; i < HM_FABRIC_KEY_BYTES; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        key[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static enum hm_status key_read(const char *path, int fd, uint8_t key[HM_FABRIC_KEY_BYTES])
{
    struct stat stat;
    char text[HEX_BYTES + 4];
    size_t bytes = 0;
    if (fstat(fd, &stat) || !S_ISREG(stat.st_mode))
        return hm_fail(HM_ERR_STORAGE, "'%s' is not a file, so it cannot hold the fabric's key",
                       path);
    if (stat.st_mode & 077)
        return hm_fail(HM_ERR_STORAGE,
                       "the fabric's key '%s' can be read by others (mode %03o); run: chmod 600 "
                       "'%s'",
                       path, (unsigned)(stat.st_mode & 0777), path);
    while (bytes < sizeof text) {
        ssize_t got = read(fd, text + bytes, sizeof text - bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return hm_fail(HM_ERR_STORAGE, "cannot read the fabric's key '%s': %s", path,
                           strerror(errno));
        if (got == 0) break;
        bytes += (size_t)got;
    }
    bool good = key_parse(text, bytes, key);
    OPENSSL_cleanse(text, sizeof text);
    if (good) return HM_OK;
    return hm_fail(HM_ERR_STORAGE,
                   "'%s' is no fabric key: it has 32 bytes, or 64 hexadecimal digits; make one "
                   "with: (umask 077; openssl rand -hex 32 > '%s')",
                   path, path);
}

enum hm_status hm_fabric_key_load(const char *path, uint8_t key[HM_FABRIC_KEY_BYTES])
{
    uint8_t read_key[HM_FABRIC_KEY_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hang us */
    if (fd < 0)
        return hm_fail(HM_ERR_STORAGE,
                       "cannot read the fabric's key '%s': %s; make one with: (umask 077; openssl "
                       "rand -hex 32 > '%s')",
                       path, strerror(errno), path);
    enum hm_status status = key_read(path, fd, read_key);
    (void)close(fd);
    if (status == HM_OK) memcpy(key, read_key, sizeof read_key);
    OPENSSL_cleanse(read_key, sizeof read_key);
    return status;
}

/* ---- opening */

enum hm_status hm_node_fabric_load(const struct hm_node_options *options,
                                   struct hm_node_fabric *fabric)
{
    const char *how = options->fabric ? options->fabric : "none";
    *fabric = (struct hm_node_fabric){0};
    if (strcmp(how, "none") == 0) return HM_OK;
    bool tcp = options->fabric_tcp || options->fabric_public, named = strcmp(how, "auto") != 0;
    fabric->wanted = named || tcp;
    if (!options->fabric_key) {
        if (!fabric->wanted) return HM_OK;
        return hm_fail(HM_ERR_INVALID,
                       "the fabric on %.100s needs a key that all its nodes have; give "
                       "--fabric-key FILE",
                       named ? how : "UCX's TCP");
    }
    const void *ops;
    fabric->has_key = true;
    enum hm_status status = hm_module_load("ucx", &ops);
    if (status != HM_OK && fabric->wanted) return status;
    if (status != HM_OK) {
        hm_log(HM_LOG_WARN, "fabric", "%s; messages to all nodes go over tcp", hm_fail_line());
        hm_fail_clear();
        return HM_OK;
    }
    if (named) {
        fabric->devices = strdup(how);
        if (!fabric->devices) return HM_ERR_NO_MEMORY;
    }
    fabric->ops = ops;
    fabric->ucx = (struct hm_ucx_options){
        .tcp = tcp, .tcp_anywhere = options->fabric_public, .devices = fabric->devices};
    memcpy(fabric->key, options->fabric_key, sizeof fabric->key);
    return HM_OK;
}

void hm_node_fabric_conf(const struct hm_node_fabric *fabric, struct hm_rpc_conf *conf)
{
    if (!fabric->ops) return;
    conf->fabric = fabric->ops;
    conf->fabric_conf.world = (void *)&fabric->ucx;
    conf->transport_conf.fabric_key = fabric->key;
}

enum hm_status hm_node_fabric_check(const struct hm_node_fabric *fabric, const struct hm_rpc *rpc)
{
    const char *error = hm_rpc_fabric_error(rpc);
    if (!error[0]) return HM_OK;
    if (fabric->wanted) return hm_fail(HM_ERR_INVALID, "%s", error);
    hm_log(HM_LOG_WARN, "fabric", "%s; messages to all nodes go over tcp", error);
    return HM_OK;
}

void hm_node_fabric_fini(struct hm_node_fabric *fabric)
{
    free(fabric->devices);
    OPENSSL_cleanse(fabric->key, sizeof fabric->key);
    *fabric = (struct hm_node_fabric){0};
}

/* ---- what can be seen */

static void visit(void *arg, const struct hm_peer *peer)
{
    struct hm_node_paths *paths = arg;
    struct hm_peer_path path;
    hm_peer_path(peer, &path);
    if (!path.provider) return;
    if (strcmp(path.provider, "tcp") != 0) {
        paths->peers_fabric++;
        return;
    }
    if (paths->has_key && !path.why[0]) /* rpc has not been given it: there is no module */
        (void)snprintf(path.why, sizeof path.why, "this node has no fabric");
    if (paths->peers_tcp < HM_NODE_PATHS_MAX)
        paths->tcp[paths->peers_tcp] = (struct hm_node_path){*hm_peer_node(peer), path};
    paths->peers_tcp++;
}

struct paths_op {
    struct hm_node *node;
    struct hm_node_paths *paths;
};

static void paths_on_loop(struct hm_wait *wait, void *arg)
{
    const struct paths_op *op = arg;
    const struct hm_metrics *metrics = &op->node->metrics;
    struct hm_node_paths *paths = op->paths;
    const struct hm_node_fabric *fabric = &op->node->fabric;
    memset(paths, 0, sizeof *paths);
    paths->has_key = fabric->has_key;
    if (fabric->ops && !hm_rpc_fabric_error(op->node->rpc)[0]) paths->fabric = fabric->ops->name;
    hm_rpc_each_peer(op->node->rpc, visit, paths);
    paths->messages = hm_metrics_value(metrics, "rpc.fabric_dht") +
                      hm_metrics_value(metrics, "rpc.fabric_expert");
    paths->messages_tcp_after_join = hm_metrics_value(metrics, "rpc.tcp_after_join");
    hm_wait_end(wait, HM_OK);
}

enum hm_status hm_node_paths(struct hm_node *node, struct hm_node_paths *paths)
{
    return hm_node_run(node, paths_on_loop, &(struct paths_op){node, paths});
}
