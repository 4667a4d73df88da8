/* transport/ucx/context.c - how UCX is set up: environment, interfaces, context and worker.
 *
 * Owns:      the context, the worker and its address; UCX's log.
 * Settings:  a person sets HM_UCX_<NAME> for us, or UCX_<NAME> for all users of UCX; the rest is in
 *            the table below.  UCX 1.13 takes its transports' settings from UCX_* in the environment
 *            only, when a worker is made, so they stand there just that long: another user of UCX in
 *            this process, an MPI, is not disturbed.
 * Failure:   one line that names the variable or the interface.
 * Invariant: no UCX socket listens where a stranger can connect, unless that was asked for: whoever
 *            can, can write into this process. */
#include "transport/ucx/ucx.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ucs/config/global_opts.h>
#include <ucs/debug/log_def.h>

enum { VALUE_BYTES = 512, PIECE_BYTES_MAX = 8 << 10, RENDEZVOUS_BYTES = 1 << 20 };

/* ---- environment --------------------------------------------------------------------------- */

struct setting {
    const char *name, *value; /* NULL: UCX's own */
    bool agreed;              /* both sides need the same */
};
static const struct setting settings[] = {
    /* Else a peer with error handling is refused shared memory, silently. */
    {"POSIX_ERROR_HANDLING", "y", false},
    {"SYSV_ERROR_HANDLING", "y", false},
    {"TCP_KEEPIDLE", "2s", false},
    {"TCP_KEEPINTVL", "1s", false},
    {"TCP_KEEPCNT", "3", false},
    {"TCP_CM_REUSEADDR", "y", false},
    /* Else a peer whose address does not answer stops the loop for as long as SYNs are repeated. */
    {"TCP_CONN_NB", "y", false},
    /* A receiver with smaller segments is overrun. */
    {"TCP_TX_SEG_SIZE", "8k", true},
    {"TCP_RX_SEG_SIZE", "64k", true},
    {"POSIX_SEG_SIZE", NULL, true},
    {"POSIX_FIFO_SIZE", NULL, true},
    {"SYSV_SEG_SIZE", NULL, true},
    {"SYSV_FIFO_SIZE", NULL, true},
    {"UNIFIED_MODE", NULL, true},
    {"PROTO_ENABLE", NULL, true},
};

/* What a person has set: for us, or for all of UCX.  NULL: nothing. */
static const char *given(const char *name)
{
    char variable[64];
    (void)snprintf(variable, sizeof variable, "HM_UCX_%s", name);
    const char *value = getenv(variable);
    return value ? value : getenv(variable + 3);
}

/* UCX_<name> as it was, while ours stands there. */
struct environment {
    char *kept[HM_COUNT_OF(settings)];
};

static void environment_enter(struct environment *environment)
{
    char variable[64];
    for (size_t i = 0; i < HM_COUNT_OF(settings); i++) {
        const char *value = given(settings[i].name);
        (void)snprintf(variable, sizeof variable, "UCX_%s", settings[i].name);
        const char *now = getenv(variable);
        environment->kept[i] = now ? strdup(now) : NULL;
        char *wanted = value ? strdup(value) : NULL;
        if (wanted || settings[i].value)
            (void)setenv(variable, wanted ? wanted : settings[i].value, 1);
        free(wanted);
    }
}

static void environment_leave(struct environment *environment)
{
    char variable[64];
    for (size_t i = 0; i < HM_COUNT_OF(settings); i++) {
        (void)snprintf(variable, sizeof variable, "UCX_%s", settings[i].name);
        if (environment->kept[i])
            (void)setenv(variable, environment->kept[i], 1);
        else
            (void)unsetenv(variable);
        free(environment->kept[i]);
    }
}

/* "ucx 1.13.1 x86_64 hm3": version, architecture, our own way of speaking, and what must agree. */
static void settings_describe(struct ucx *ucx)
{
    unsigned major, minor, release;
    ucp_get_version(&major, &minor, &release);
#if defined(__x86_64__)
    const char *machine = "x86_64";
#elif defined(__aarch64__)
    const char *machine = "aarch64";
#else
    const char *machine = "other";
#endif
    size_t room = sizeof ucx->settings;
    int at = snprintf(ucx->settings, room, "ucx %u.%u.%u %s hm3%s", major, minor, release, machine,
                      ucx->rendezvous ? " by rendezvous" : "");
    for (size_t i = 0; i < HM_COUNT_OF(settings) && at > 0 && (size_t)at < room; i++) {
        const char *value = settings[i].agreed ? given(settings[i].name) : NULL;
        if (!value || strcmp(value, settings[i].value ? settings[i].value : "") == 0) continue;
        at += snprintf(ucx->settings + at, room - (size_t)at, " %s=%s", settings[i].name, value);
    }
    for (char *text = ucx->settings; *text; text++)
        if (!isprint((unsigned char)*text)) *text = '?';
}

/* ---- interfaces ---------------------------------------------------------------------------- */

static bool private_v4(uint32_t address)
{
    return address >> 24 == 127 || address >> 24 == 10 || address >> 20 == 0xac1 ||
           address >> 16 == 0xc0a8 || address >> 16 == 0xa9fe ||
           address >> 22 == 0x6440 >> 6; /* 100.64/10, RFC 6598 */
}

static bool private_address(const struct sockaddr *name)
{
    if (name->sa_family == AF_INET)
        return private_v4(ntohl(((const struct sockaddr_in *)(const void *)name)->sin_addr.s_addr));
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)name)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(v6) || IN6_IS_ADDR_LINKLOCAL(v6) || (v6->s6_addr[0] & 0xfe) == 0xfc;
}

/* Whether `name` is in the list "a,b:1,c". */
static bool listed(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',')
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

struct interfaces {
    const char *wanted; /* NULL: whatever is private */
    char list[VALUE_BYTES];
    char open[IF_NAMESIZE]; /* one that has an address which anybody may reach; "" : none */
    bool loopback_too;
};

static void list_add(char list[VALUE_BYTES], const char *name)
{
    size_t length = strlen(list);
    if (listed(list, name) || length + strlen(name) + 2 > VALUE_BYTES) return;
    (void)snprintf(list + length, VALUE_BYTES - length, "%s%s", length ? "," : "", name);
}

static bool ip_address(const struct ifaddrs *at)
{
    return at->ifa_addr && at->ifa_flags & IFF_UP &&
           (at->ifa_addr->sa_family == AF_INET || at->ifa_addr->sa_family == AF_INET6);
}

static bool is_open(const struct ifaddrs *all, const char *name)
{
    for (const struct ifaddrs *at = all; at; at = at->ifa_next)
        if (ip_address(at) && strcmp(at->ifa_name, name) == 0 && !private_address(at->ifa_addr))
            return true;
    return false;
}

static void interfaces_gather(struct interfaces *interfaces)
{
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0) return;
    for (const struct ifaddrs *at = all; at; at = at->ifa_next) {
        if (!ip_address(at)) continue;
        bool loopback = at->ifa_flags & IFF_LOOPBACK, open = is_open(all, at->ifa_name);
        bool wanted = interfaces->wanted ? listed(interfaces->wanted, at->ifa_name) ||
                                               strcmp(interfaces->wanted, "all") == 0
                                         : !open && loopback == interfaces->loopback_too;
        if (!wanted) continue;
        if (open) (void)snprintf(interfaces->open, sizeof interfaces->open, "%s", at->ifa_name);
        list_add(interfaces->list, at->ifa_name);
    }
    freeifaddrs(all);
}

/* "mlx5_0:1" and the like, which a list of network devices must name too. */
static bool rdma_gather(char list[VALUE_BYTES])
{
    DIR *folder = opendir("/sys/class/infiniband");
    if (!folder) return false;
    bool any = false;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        char name[sizeof entry->d_name + 2];
        (void)snprintf(name, sizeof name, "%s:1", entry->d_name);
        list_add(list, name);
        any = true;
    }
    closedir(folder);
    return any;
}

/* "" or what to tell UCX. */
struct choice {
    char tls[VALUE_BYTES], devices[VALUE_BYTES];
};

static enum hm_status devices_choose(const struct hm_ucx_options *options, struct choice *choice)
{
    struct interfaces found = {.wanted =
                                   options->devices ? options->devices : given("NET_DEVICES")};
    interfaces_gather(&found);
    if (!found.wanted && !found.list[0]) { /* a machine on its own */
        found.loopback_too = true;
        interfaces_gather(&found);
    }
    if (found.open[0] && !options->tcp_anywhere)
        return hm_fail(HM_ERR_INVALID,
                       "fabric over TCP on %s: it has a public address, and whoever reaches a UCX "
                       "port can write into this process; name private interfaces "
                       "(--fabric), or force it with --fabric-public",
                       found.open);
    if (!found.wanted && !found.list[0])
        return hm_fail(HM_ERR_INVALID, "fabric over TCP: no interface has a private address; name "
                                       "one with HM_UCX_NET_DEVICES");
    if (!found.wanted) {
        (void)rdma_gather(found.list);
        (void)snprintf(choice->devices, VALUE_BYTES, "%s", found.list);
    }
    return HM_OK;
}

static bool rdma_exists(const char *name)
{
    char path[VALUE_BYTES + 64];
    const char *port = strchr(name, ':');
    if (!port || strchr(name, '/')) return false;
    (void)snprintf(path, sizeof path, "/sys/class/infiniband/%.*s/ports/%s", (int)(port - name),
                   name, port + 1);
    return access(path, F_OK) == 0;
}

/* UCX itself opens without the devices that it does not find. `from`: who named them. */
static enum hm_status devices_check(const char *devices, const char *from, bool tcp)
{
    char rdma[VALUE_BYTES] = "", name[VALUE_BYTES];
    struct interfaces ip = {.wanted = "all"};
    (void)rdma_gather(rdma);
    interfaces_gather(&ip);
    for (const char *at = devices;;) {
        int length = (int)strcspn(at, ",");
        (void)snprintf(name, sizeof name, "%.*s", length, at);
        bool is_ip = listed(ip.list, name);
        if (is_ip && !tcp)
            return hm_fail(HM_ERR_INVALID,
                           "%s: '%s' is no RDMA device (here: %s), and UCX's own TCP over it has "
                           "to be asked for with --fabric-tcp",
                           from, name, rdma[0] ? rdma : "none");
        if (!is_ip && !rdma_exists(name) && strcmp(name, "all") != 0)
            return hm_fail(HM_ERR_INVALID,
                           "%s: there is no device '%.100s' on this machine; RDMA devices: "
                           "%s; interfaces, with --fabric-tcp: %s",
                           from, name, rdma[0] ? rdma : "none", ip.list[0] ? ip.list : "none");
        at += length;
        if (!*at++) return HM_OK;
    }
}

/* UCX's own TCP is left out, unless it was asked for. */
static enum hm_status transports_choose(const struct hm_ucx_options *options, struct choice *choice)
{
    const char *ours = getenv("HM_UCX_NET_DEVICES");
    enum hm_status status = HM_OK;
    if (options->devices)
        status = devices_check(options->devices, "--fabric", options->tcp);
    else if (ours)
        status = devices_check(ours, "HM_UCX_NET_DEVICES", true); /* without UCX's TCP: unused */
    if (status != HM_OK) return status;
    if (options->devices) (void)snprintf(choice->devices, VALUE_BYTES, "%s", options->devices);
    if (options->tcp) return devices_choose(options, choice);
    const char *tls = given("TLS");
    if (!tls || strcmp(tls, "all") == 0) {
        (void)snprintf(choice->tls, VALUE_BYTES, "^tcp");
        return HM_OK;
    }
    bool without =
        tls[0] == '^' ? listed(tls + 1, "tcp") : !strstr(tls, "tcp") && !listed(tls, "all");
    if (without) return HM_OK;
    return hm_fail(HM_ERR_INVALID,
                   "UCX_TLS=%s has UCX's TCP, on which anybody who connects can write into this "
                   "process; ask for it with --fabric-tcp, or set HM_UCX_TLS=^tcp",
                   tls);
}

/* ---- log ----------------------------------------------------------------------------------- */

/* A peer's death is not news for stdout, where UCX would print it. */
static ucs_log_func_rc_t on_log(const char *file, unsigned line, const char *function,
                                ucs_log_level_t level, const ucs_log_component_config_t *config,
                                const char *format, va_list arguments)
{
    char text[400];
    (void)config;
    if (level > UCS_LOG_LEVEL_WARN || level == UCS_LOG_LEVEL_FATAL) return UCS_LOG_FUNC_RC_CONTINUE;
    (void)vsnprintf(text, sizeof text, format, arguments);
    (void)file;
    (void)line;
    hm_log(HM_LOG_INFO, "ucx", "%s (in %s)", text, function);
    return UCS_LOG_FUNC_RC_STOP;
}

/* ---- descriptors --------------------------------------------------------------------------- */

static void descriptors_note(struct ucx *ucx)
{
    for (int fd = 0; fd < (int)HM_COUNT_OF(ucx->inherited); fd++)
        ucx->inherited[fd] = fcntl(fd, F_GETFD) >= 0;
}

void hm_ucx_descriptors_close_on_exec(const struct ucx *ucx)
{
    for (int fd = 3; fd < (int)HM_COUNT_OF(ucx->inherited); fd++) {
        int flags = ucx->inherited[fd] ? -1 : fcntl(fd, F_GETFD);
        if (flags >= 0 && !(flags & FD_CLOEXEC)) (void)fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
    }
}

/* ---- open and close ------------------------------------------------------------------------ */

static enum hm_status failed(const char *what, ucs_status_t status)
{
    return hm_fail(HM_ERR_UNSUPPORTED,
                   "UCX cannot %s: %s; HM_UCX_LOG_LEVEL=info and ucx_info -d say more, and without "
                   "--fabric everything goes over tcp",
                   what, ucs_status_string(status));
}

static enum hm_status context_make(struct ucx *ucx, const struct choice *choice)
{
    ucp_config_t *config;
    ucs_status_t status = ucp_config_read("HM", NULL, &config);
    if (status != UCS_OK) return failed("read its settings", status);
    if (!given("KEEPALIVE_INTERVAL")) (void)ucp_config_modify(config, "KEEPALIVE_INTERVAL", "1s");
    (void)ucp_config_modify(config, "WARN_UNUSED_ENV_VARS", "n");
    if (choice->tls[0]) (void)ucp_config_modify(config, "TLS", choice->tls);
    if (choice->devices[0]) (void)ucp_config_modify(config, "NET_DEVICES", choice->devices);
    const ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
        .mt_workers_shared = 0,
    };
    status = ucp_init(&params, config, &ucx->context);
    ucp_config_release(config);
    if (status == UCS_OK) return HM_OK;
    ucx->context = NULL;
    return failed("start", status);
}

static enum hm_status worker_make(struct ucx *ucx)
{
    const ucp_worker_params_t params = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS,
        .thread_mode = UCS_THREAD_MODE_SERIALIZED, /* guests of the loop (base/loop_uv_guest.c) */
        .events = UCP_WAKEUP_RX,                   /* ucx.c says why */
    };
    ucs_status_t status = ucp_worker_create(ucx->context, &params, &ucx->worker);
    if (status != UCS_OK) {
        ucx->worker = NULL;
        return failed("make a worker", status);
    }
    status = ucp_worker_get_address(ucx->worker, &ucx->address, &ucx->address_bytes);
    if (status != UCS_OK) {
        ucx->address = NULL;
        return failed("tell its address", status);
    }
    if (ucx->address_bytes <= HM_FABRIC_ADDRESS_BYTES_MAX - 16) return HM_OK;
    return hm_fail(HM_ERR_UNSUPPORTED,
                   "this worker's address has %zu bytes, too many to offer; name fewer devices "
                   "with HM_UCX_NET_DEVICES",
                   ucx->address_bytes);
}

/* A piece that fits a segment needs no rendezvous, no reassembly and no memory of UCX's. */
static enum hm_status pieces_measure(struct ucx *ucx, const struct hm_ucx_options *options)
{
    char rdma[VALUE_BYTES] = "";
    ucp_worker_attr_t attr = {.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER};
    ucs_status_t status = ucp_worker_query(ucx->worker, &attr);
    if (status != UCS_OK) return failed("describe its worker", status);
    size_t segment = attr.max_am_header > 1024 ? attr.max_am_header - 64 : 960;
    if (segment > PIECE_BYTES_MAX) segment = PIECE_BYTES_MAX;
    segment &= ~(size_t)63;
    size_t wanted = options->piece_bytes;
    if (wanted == 0 && rdma_gather(rdma)) wanted = RENDEZVOUS_BYTES;
    ucx->piece_bytes = wanted ? wanted : segment;
    ucx->rendezvous = ucx->piece_bytes > segment;
    return HM_OK;
}

/* Debian's UCX knows no GPU memory: it would read a device pointer with the CPU.  Nor do our own
 * copies, so callers stage GPU buffers through pinned ones. */
static void memory_probe(struct ucx *ucx)
{
    ucp_context_attr_t attr = {.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES};
    ucx->memory[HM_MEM_HOST] = ucx->memory[HM_MEM_PINNED] = true;
    if (ucp_context_query(ucx->context, &attr) == UCS_OK)
        hm_log(HM_LOG_DEBUG, "ucx", "memory types 0x%llx", (unsigned long long)attr.memory_types);
}

enum hm_status hm_ucx_context_open(struct ucx *ucx, const struct hm_ucx_options *options)
{
    static bool logging;
    const char *log_level = getenv("HM_UCX_LOG_LEVEL"); /* UCX_LOG_LEVEL it has read at loading */
    descriptors_note(ucx);
    if (!logging) ucs_log_push_handler(on_log);
    logging = true;
    if (log_level && ucs_global_opts_set_value("LOG_LEVEL", log_level) != UCS_OK)
        return hm_fail(HM_ERR_INVALID,
                       "HM_UCX_LOG_LEVEL=%.40s is no level of UCX; say warn, info or debug",
                       log_level);
    struct choice choice = {.tls = ""};
    enum hm_status status = transports_choose(options, &choice);
    if (status != HM_OK) return status;
    ucx->busy_poll = options->busy_poll;
    ucx->tcp = options->tcp;
    struct environment environment;
    environment_enter(&environment);
    status = context_make(ucx, &choice);
    if (status == HM_OK) status = worker_make(ucx);
    environment_leave(&environment);
    if (status == HM_OK) status = pieces_measure(ucx, options);
    if (status == HM_OK) status = hm_ucx_lent_open(ucx);
    if (status != HM_OK) {
        hm_ucx_context_close(ucx);
        return status;
    }
    settings_describe(ucx);
    memory_probe(ucx);
    hm_ucx_descriptors_close_on_exec(ucx);
    hm_log(HM_LOG_INFO, "ucx", "%s, pieces of %zu bytes%s, address of %zu", ucx->settings,
           ucx->piece_bytes, ucx->rendezvous ? " by rendezvous" : "", ucx->address_bytes);
    return HM_OK;
}

void hm_ucx_context_close(struct ucx *ucx)
{
    if (ucx->address) ucp_worker_release_address(ucx->worker, ucx->address);
    if (ucx->worker) ucp_worker_destroy(ucx->worker);
    if (ucx->context) ucp_cleanup(ucx->context);
    hm_ucx_lent_close(ucx);
    ucx->address = NULL;
    ucx->worker = NULL;
    ucx->context = NULL;
}
