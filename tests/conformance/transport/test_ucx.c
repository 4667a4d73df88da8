/* ucx is a transport: the suite over shared memory, then over UCX's own TCP on loopback, with tcp as
 * the control connection.  Skipped where the module is not there. */
#include "support_joint.h"
#include "support_real.h"

#include "base/module.h"
#include "transport/ucx_options.h"

static struct hm_ucx_options options;
static struct joint_parts parts = {.control = &hm_transport_tcp, .fabric_world = &options};

static const struct provider ucx_provider = {
    .ops = &joint_ops,
    .listen = "127.0.0.1:0",
    .start = real_start,
    .stop = real_stop,
    .run = real_run,
    .puppet_start = real_puppet_start,
    .puppet_pause = real_puppet_pause,
    .puppet_kill = real_puppet_kill,
    .silent_addr = real_silent_addr,
};

/* Puppets inherit the environment, and with it the choice. */
static void choose(const char *transports, const char *piece_bytes)
{
    setenv("HM_UCX_TLS", transports, 1);
    setenv("HM_UCX_NET_DEVICES", "lo", 1);
    setenv("HM_TEST_PIECE_BYTES", piece_bytes, 1);
}

static int module_find(void)
{
    const void *ops;
    if (hm_module_load("ucx", &ops) != HM_OK) return 77;
    options.tcp = strstr(getenv("HM_UCX_TLS"), "tcp") != NULL;
    options.piece_bytes = strtoull(getenv("HM_TEST_PIECE_BYTES"), NULL, 10);
    parts.fabric = ops;
    joint_begin(&parts);
    return 0;
}

static int suite_over(const char *name, const char *transports, const char *piece_bytes)
{
    struct provider provider = ucx_provider;
    const char *only = getenv("HM_TEST_UCX_ONLY");
    if (only && strcmp(only, name) != 0) return 0;
    choose(transports, piece_bytes);
    if (module_find() != 0) return 1;
    provider.name = name;
    provider.bulk_bytes = suite_bulk_bytes();
    return suite_main(&provider, 1);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--puppet") == 0) {
        if (module_find() != 0) return 5;
        return real_puppet_main(&ucx_provider, argv[2], argv[3]);
    }
    if (getenv("HM_TEST_LOG")) hm_log_set_level(HM_LOG_DEBUG);
    choose("posix,cma", "0");
    if (module_find() != 0) {
        printf("skipped: %s\n", hm_fail_line());
        return 77;
    }
    int failed = suite_over("ucx-shm", "posix,cma", "0");
    failed += suite_over("ucx-tcp", "tcp", "0");
    failed += suite_over("ucx-shm-rendezvous", "posix,cma", "262144");
    return failed > 0;
}
