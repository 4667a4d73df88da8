/* Attackers over UCX, see the header. */
#include "support_ucx_attack.h"

#ifdef HM_TEST_UCX

#include "base/loop_uv.h"
#include "base/map.h"
#include "transport/transport.h"

#include <ucp/api/ucp.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BARE = 1, EAGER = 2, CONTROL = 3 };
enum { HELLO = 1, ANNOUNCE, PULL, DROP, DATA, DONE, CREDIT, BEGIN, MORE };

struct message {    /* a control message as on the wire; then up to 2 KiB of header */
    uint64_t token; /* of others this alone */
    uint32_t type, zero;
    uint64_t id, value;
    uint8_t header[2048];
};

static struct attacker {
    struct hm_loop *loop;
    struct hm_transport *control;
    struct hm_ep *ep;
    struct hm_hook hook;
    struct hm_buf_pool *buffers;
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h fabric;
    uint64_t token; /* the victim's */
    unsigned kind, sent;
    bool heard, pulled; /* its hello; a PULL of what was announced */
    bool by_rendezvous; /* so pieces go there */
    hm_ns began;
} self;

static void must(int holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "attacker: %s\n", what);
    _exit(9);
}

static void send_raw(unsigned id, struct message *message, size_t head_bytes, size_t payload_bytes)
{
    static uint8_t payload[64 << 10];
    const ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                       .flags = UCP_AM_SEND_FLAG_EAGER};
    ucs_status_ptr_t request =
        ucp_am_send_nbx(self.fabric, id, message, head_bytes, payload, payload_bytes, &param);
    while (UCS_PTR_IS_PTR(request) && ucp_request_check_status(request) == UCS_INPROGRESS)
        ucp_worker_progress(self.worker);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
}

static void say(unsigned type, uint64_t id, uint64_t value)
{
    struct message message = {.token = self.token, .type = type, .id = id, .value = value};
    send_raw(CONTROL, &message, offsetof(struct message, header), 0);
}

static void announce(unsigned number, uint64_t bytes)
{
    struct message message = {.token = self.token,
                              .type = ANNOUNCE,
                              .id = (uint64_t)(number + 1) << 8 | (number & 255),
                              .value = bytes};
    uint32_t kind = 1; /* the suite's own numbered header */
    memcpy(message.header, &kind, sizeof kind);
    memcpy(message.header + 4, &number, sizeof number);
    memcpy(message.header + 8, &bytes, sizeof bytes);
    send_raw(CONTROL, &message, offsetof(struct message, header) + 24, 0);
}

static void attack_announces(void)
{
    for (unsigned i = 0; i < 100 && self.sent < 100000; i++) announce(self.sent++ % 65536, 1 << 20);
}

static void attack_huge_announce(void)
{
    if (self.sent++ == 0) announce(0, UINT64_MAX);
}

static void attack_over_credit(void)
{
    struct message message = {.token = self.token};
    if (self.sent++ < 1000) send_raw(EAGER, &message, offsetof(struct message, type), 30000);
}

static void attack_large_eager(void)
{
    struct message message = {.token = self.token};
    if (self.sent++ == 0) send_raw(EAGER, &message, offsetof(struct message, type), 64000);
}

static void attack_long_header(void)
{
    struct message message = {.token = self.token};
    if (self.sent++ == 0) send_raw(BARE, &message, offsetof(struct message, type) + 1025, 0);
}

static void attack_type(void)
{
    if (self.sent++ == 0) say(200, 0, 0);
}

static void attack_pull(void)
{
    if (self.sent++ == 0) say(PULL, 77 << 8, 0);
}

static void attack_done(void)
{
    if (self.sent++ == 0) say(DONE, 77 << 8 | 5, 0);
}

static void attack_data(void)
{
    struct message message = {.token = self.token, .type = DATA, .id = 77 << 8};
    if (self.sent++ == 0) send_raw(CONTROL, &message, offsetof(struct message, header), 1000);
}

static void attack_credit(void)
{
    if (self.sent++ == 0) say(CREDIT, 0, UINT64_MAX);
}

static void attack_second_hello(void)
{
    if (self.sent++ == 0) say(HELLO, 0, 1 << 20);
}

/* A stale peer's, a stranger's, and what is too short to be anybody's. */
static void attack_tokens(void)
{
    struct message message = {.token = self.token ^ (uint64_t)1 << 40};
    if (self.sent == 0) self.began = hm_loop_now(self.loop);
    if (hm_loop_now(self.loop) - self.began > 300 * HM_MS) _exit(0);
    if (self.sent++ > 50) return;
    send_raw(BARE, &message, offsetof(struct message, type), 0);
    message.token = UINT64_MAX;
    send_raw(EAGER, &message, offsetof(struct message, type), 500);
    message.token = self.token;
    send_raw(BARE, &message, 5, 0);
    send_raw(BARE, &message, 0, 100);
    send_raw(EAGER, &message, 7, 100);
    message.type = ANNOUNCE;
    send_raw(CONTROL, &message, 31, 0);
}

/* A bare message that has a payload after all, and a control message that should have none. */
static void attack_bare(void)
{
    struct message message = {.token = self.token};
    if (self.sent++ == 0) send_raw(BARE, &message, offsetof(struct message, type), 100);
}

static void attack_control(void)
{
    struct message message = {.token = self.token, .type = CREDIT};
    if (self.sent++ == 0) send_raw(CONTROL, &message, offsetof(struct message, header), 100);
}

static void piece(uint64_t offset, size_t bytes)
{
    struct message message = {.token = self.token, .type = DATA, .id = 1 << 8, .value = offset};
    send_raw(CONTROL, &message, offsetof(struct message, header), bytes);
}

/* As many bytes as were announced, with a hole. */
static void attack_repeated_piece(void)
{
    if (self.sent == 0) announce(self.sent++, 2000);
    if (!self.pulled || self.sent++ > 1) return;
    piece(0, 1000);
    piece(0, 1000);
}

static void attack_later_piece(void)
{
    if (self.sent == 0) announce(self.sent++, 2000);
    if (self.pulled && self.sent++ == 1) piece(1000, 1000);
}

static void attack_empty_piece(void)
{
    if (self.sent == 0) announce(self.sent++, 2000);
    if (self.pulled && self.sent++ == 1) piece(0, 0);
}

/* By rendezvous, where nobody has agreed to that; else, a piece that is not the next.  Nobody waits
 * for the end of it: it may have none. */
static void attack_rendezvous(void)
{
    static uint8_t payload[2000];
    static struct message message;
    const ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                       .flags = UCP_AM_SEND_FLAG_RNDV};
    if (self.sent == 0) announce(self.sent++, sizeof payload);
    if (!self.pulled || self.sent++ > 1) return;
    message = (struct message){
        .token = self.token, .type = DATA, .id = 1 << 8, .value = self.by_rendezvous ? 1000 : 0};
    (void)ucp_am_send_nbx(self.fabric, CONTROL, &message, offsetof(struct message, header), payload,
                          sizeof payload, &param);
}

static void part(unsigned type, uint64_t value, size_t header_bytes, size_t bytes)
{
    struct message message = {.token = self.token, .type = type, .value = value};
    send_raw(CONTROL, &message, offsetof(struct message, header) + header_bytes, bytes);
}

static void attack_more_of_nothing(void)
{
    if (self.sent++ == 0) part(MORE, 0, 0, 1000);
}

static void attack_begun_twice(void)
{
    if (self.sent++ > 0) return;
    part(BEGIN, 20000, 0, 4000);
    part(BEGIN, 20000, 0, 4000);
}

static void attack_hole(void)
{
    if (self.sent++ > 0) return;
    part(BEGIN, 20000, 0, 4000);
    part(MORE, 8000, 0, 4000);
}

static void attack_overlap(void)
{
    if (self.sent++ > 0) return;
    part(BEGIN, 20000, 0, 4000);
    part(MORE, 3999, 0, 4000);
}

static void attack_too_long(void)
{
    if (self.sent++ > 0) return;
    part(BEGIN, 5000, 0, 4000);
    part(MORE, 4000, 0, 1001);
}

static void attack_empty_more(void)
{
    if (self.sent++ > 0) return;
    part(BEGIN, 5000, 0, 4000);
    part(MORE, 4000, 0, 0);
}

static void attack_begun_too_large(void)
{
    if (self.sent++ == 0) part(BEGIN, (32 << 10) + 1, 0, 4000);
}

static void attack_begun_whole(void)
{
    if (self.sent++ == 0) part(BEGIN, 4000, 0, 4000);
}

static void attack_begun_long_header(void)
{
    if (self.sent++ == 0) part(BEGIN, 20000, 1025, 4000);
}

/* Begins as often as it may, and never comes to an end: the endpoint's own end must free it. */
static void attack_never_whole(void)
{
    if (self.sent == 0) self.began = hm_loop_now(self.loop);
    if (hm_loop_now(self.loop) - self.began > 100 * HM_MS) _exit(0);
    if (self.sent++ == 0) part(BEGIN, 20000, 100, 4000);
}

const struct ucx_attack ucx_attacks[] = {
    {"announces without end", 0, 0},
    {"a huge announce", 0, 0},
    {"more than the credit", 0, 0},
    {"a large eager message", 0, 0},
    {"a long header", 0, 0},
    {"an unknown type", 0, 0},
    {"a pull of nothing", 0, 0},
    {"a done of nothing", 0, 0},
    {"data of nothing", 0, 0},
    {"too much credit", 0, 0},
    {"a second hello", 0, 0},
    {"foreign tokens", 1, 0},
    {"a payload on a bare one", 0, 0},
    {"a payload on a control message", 0, 0},
    {"a repeated piece", 0, 1},
    {"a piece before its turn", 0, 1},
    {"an empty piece", 0, 1},
    {"a piece by rendezvous", 0, 1},
    {"more of nothing", 0, 0},
    {"a second beginning", 0, 0},
    {"a hole in a message", 0, 0},
    {"parts that overlap", 0, 0},
    {"a part too long", 0, 0},
    {"an empty part", 0, 0},
    {"a beginning of too much", 0, 0},
    {"a beginning that is all", 0, 0},
    {"a beginning with a long header", 0, 0},
    {"a message that never ends", 1, 0},
};
const size_t ucx_attack_count = sizeof ucx_attacks / sizeof *ucx_attacks;
static void (*const runs[])(void) = {
    attack_announces,
    attack_huge_announce,
    attack_over_credit,
    attack_large_eager,
    attack_long_header,
    attack_type,
    attack_pull,
    attack_done,
    attack_data,
    attack_credit,
    attack_second_hello,
    attack_tokens,
    attack_bare,
    attack_control,
    attack_repeated_piece,
    attack_later_piece,
    attack_empty_piece,
    attack_rendezvous,
    attack_more_of_nothing,
    attack_begun_twice,
    attack_hole,
    attack_overlap,
    attack_too_long,
    attack_empty_more,
    attack_begun_too_large,
    attack_begun_whole,
    attack_begun_long_header,
    attack_never_whole,
};
_Static_assert(sizeof runs / sizeof *runs == sizeof ucx_attacks / sizeof *ucx_attacks,
               "a row each");

/* ---- becoming a peer ------------------------------------------------------------------------- */

static bool before_sleep(struct hm_hook *hook)
{
    (void)hook;
    if (!self.worker) return true;
    ucp_worker_progress(self.worker);
    if (self.fabric && self.heard) runs[self.kind]();
    return false;
}

static ucs_status_t on_am(void *arg, const void *header, size_t header_bytes, void *data,
                          size_t bytes, const ucp_am_recv_param_t *param)
{
    uint32_t type = 0;
    (void)arg;
    (void)data;
    (void)bytes;
    (void)param;
    self.heard = true; /* its hello: it is up, for all that it knows */
    if (header_bytes == offsetof(struct message, header))
        memcpy(&type, (const uint8_t *)header + offsetof(struct message, type), sizeof type);
    if (type == PULL) self.pulled = true;
    return UCS_OK;
}

static void fabric_open(const struct hm_fabric_offer *victim, struct hm_fabric_offer *ours)
{
    ucp_config_t *config;
    const ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                                 .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    const ucp_worker_params_t worker = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                        .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucp_address_t *address;
    size_t bytes;
    setenv("UCX_POSIX_ERROR_HANDLING", "y", 1); /* as ours: others crash the receiver's UCX */
    setenv("UCX_TCP_TX_SEG_SIZE", "8k", 1);
    setenv("UCX_TCP_RX_SEG_SIZE", "64k", 1);
    must(ucp_config_read("HM", NULL, &config) == UCS_OK, "config");
    must(ucp_init(&params, config, &self.context) == UCS_OK, "context");
    ucp_config_release(config);
    must(ucp_worker_create(self.context, &worker, &self.worker) == UCS_OK, "worker");
    for (unsigned id = BARE; id <= CONTROL; id++) { /* without one UCX 1.13 crashes */
        const ucp_am_handler_param_t handler = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                                                              UCP_AM_HANDLER_PARAM_FIELD_CB,
                                                .id = id,
                                                .cb = on_am};
        must(ucp_worker_set_am_recv_handler(self.worker, &handler) == UCS_OK, "handler");
    }
    must(ucp_worker_get_address(self.worker, &address, &bytes) == UCS_OK, "address");
    *ours = *victim;
    self.by_rendezvous = strstr(victim->settings, "by rendezvous") != NULL;
    ours->token = 4711;
    ours->address_bytes = (uint16_t)(16 + bytes);
    uint64_t sum = hm_hash(address, bytes, 0);
    memcpy(ours->address + 8, &sum, sizeof sum);
    memcpy(ours->address + 16, address, bytes);
    ucp_worker_release_address(self.worker, address);
}

static void fabric_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    (void)arg;
    (void)ep;
    (void)status; /* the control connection tells */
}

static void fabric_connect(const struct hm_fabric_offer *victim)
{
    const ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = (const ucp_address_t *)(victim->address + 16),
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = fabric_error},
    };
    must(ucp_ep_create(self.worker, &params, &self.fabric) == UCS_OK, "endpoint");
    self.token = victim->token;
    say(HELLO, 0, 1 << 20);
}

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *node,
                  const struct hm_hello *hello)
{
    (void)arg;
    (void)ep;
    (void)node;
    (void)hello;
}

static void on_message(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes,
                       struct hm_inbound *in)
{
    static uint8_t bytes[HM_FABRIC_OFFER_BYTES_MAX];
    struct hm_fabric_offer victim, ours;
    struct hm_writer writer;
    (void)arg;
    (void)header;
    must(header_bytes == 5 && in->data, "an offer");
    must(hm_fabric_offer_decode(in->data, in->bytes, &victim) == HM_OK, "a good offer");
    hm_inbound_drop(in);
    fabric_open(&victim, &ours);
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_fabric_offer_encode(&ours, &writer);
    const struct hm_span span = {.base = bytes, .bytes = hm_writer_count(&writer)};
    must(hm_transport_tcp.send(ep, "offer", 5, &span, 1, NULL, NULL) == HM_OK, "send");
    fabric_connect(&victim);
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    (void)arg;
    (void)ep;
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    (void)arg;
    (void)ep;
    (void)why;
    _exit(self.sent > 0 ? 0 : 8); /* hung up upon */
}

static void on_late(struct hm_timer *timer)
{
    (void)timer;
    must(0, "nobody has hung up");
}

int ucx_attack_main(const char *number, const char *address)
{
    struct hm_identity *identity;
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    struct hm_addr to = {0};
    struct hm_timer late = {.cb = on_late};
    const struct hm_transport_sink sink = {on_up, on_message, on_writable, on_down, NULL};
    self.kind = (unsigned)atoi(number);
    must(self.kind < ucx_attack_count, "a known attack");
    must(hm_loop_uv_create(1, &self.loop) == HM_OK, "loop");
    must(hm_identity_create(NULL, &identity) == HM_OK, "identity");
    must(hm_buf_pool_create(8 << 20, &self.buffers) == HM_OK, "buffers");
    const struct hm_transport_conf conf = {.identity = identity,
                                           .hello = &hello,
                                           .buffers = self.buffers,
                                           .endpoints_max = 4,
                                           .receive_bytes_max = 1 << 20,
                                           .handshake_max = 10 * HM_S};
    must(hm_transport_tcp.open(&conf, self.loop, &sink, &self.control) == HM_OK, "tcp");
    snprintf(to.text, sizeof to.text, "%s", address);
    must(hm_transport_tcp.connect(self.control, &to, NULL, &self.ep) == HM_OK, "connect");
    self.hook = (struct hm_hook){.before_sleep = before_sleep};
    self.loop->ops->hook(self.loop, &self.hook);
    hm_timer_start(self.loop, &late, 30 * HM_S);
    hm_loop_uv_run(self.loop);
    return 7;
}

#else

const struct ucx_attack ucx_attacks[1] = {{"none", 1, 0}};
const size_t ucx_attack_count = 0;

int ucx_attack_main(const char *number, const char *address)
{
    (void)number;
    (void)address;
    return 7;
}

#endif
