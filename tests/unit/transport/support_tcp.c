#include "support_tcp.h"

#include <dirent.h>
#include <limits.h>

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *id,
                  const struct hm_hello *h)
{
    (void)id;
    struct node *node = arg;
    node->proof_came = h->fabric_proof_bytes > 0;
    node->proved = h->fabric_proved;
    node->ep = node->latest = ep;
    node->messages_before = UINT_MAX;
    node->ups++;
}

static void on_message(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes,
                       struct hm_inbound *in)
{
    (void)header, (void)header_bytes;
    struct node *node = arg;
    hm_ns until = hm_loop_uv_clock() + node->toil;
    while (node->toil > 0 && hm_loop_uv_clock() < until) continue;
    if (ep == node->latest && node->messages_before == UINT_MAX)
        node->messages_before = node->messages;
    node->messages++;
    if (node->hold && node->held_count < HM_COUNT_OF(node->held))
        node->held[node->held_count++] = in;
    else
        hm_inbound_drop(in);
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    (void)arg, (void)ep;
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct node *node = arg;
    if (node->ep == ep) node->ep = NULL;
    node->why = why;
    node->downs++;
}

void node_on_done(void *arg, enum hm_status status)
{
    struct node *node = arg;
    node->dones++;
    node->done_status = status;
}

static void on_closed(void *arg)
{
    ((struct node *)arg)->closed = true;
}

enum hm_status node_try(struct world *world, struct node *node, struct node_conf conf)
{
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    struct hm_transport_conf transport_conf = {
        .identity = node->identity,
        .hello = &hello,
        .listen = conf.listen,
        .metrics = &world->metrics,
        .endpoints_max = conf.endpoints_max ? conf.endpoints_max : 64,
        .receive_bytes_max = conf.receive_bytes_max ? conf.receive_bytes_max : 256 * KIB,
        .handshake_max = conf.handshake_max ? conf.handshake_max : 5 * HM_S,
        .fabric_key = conf.fabric_key,
    };
    struct hm_transport_sink sink = {
        .up = on_up, .message = on_message, .writable = on_writable, .down = on_down, .arg = node};
    return hm_transport_tcp.open(&transport_conf, world->loop, &sink, &node->transport);
}

void node_open(struct world *world, struct node *node, struct node_conf conf)
{
    assert_ok(hm_identity_create(NULL, &node->identity));
    assert_ok(node_try(world, node, conf));
}

struct hm_addr node_addr(struct node *node)
{
    struct hm_addrs addrs;
    assert_ok(hm_transport_tcp.address(node->transport, &addrs));
    return addrs.addr[0];
}

struct wait {
    struct hm_loop *loop;
    struct hm_hook hook;
    struct hm_timer limit;
    bool (*until)(void *arg);
    void *arg;
    bool over;
};

static bool look(struct hm_hook *hook)
{
    struct wait *wait = hook->arg;
    if (wait->over || (wait->until && wait->until(wait->arg))) hm_loop_uv_stop(wait->loop);
    return true;
}

static void on_limit(struct hm_timer *timer)
{
    ((struct wait *)timer->arg)->over = true;
}

bool world_run(struct world *world, bool (*until)(void *arg), void *arg, hm_ns limit)
{
    struct wait wait = {.loop = world->loop, .until = until, .arg = arg};
    wait.hook = (struct hm_hook){.before_sleep = look, .arg = &wait};
    wait.limit = (struct hm_timer){.cb = on_limit, .arg = &wait};
    world->loop->ops->hook(world->loop, &wait.hook);
    hm_timer_start(world->loop, &wait.limit, limit);
    hm_loop_uv_run(world->loop);
    hm_timer_stop(world->loop, &wait.limit);
    world->loop->ops->unhook(world->loop, &wait.hook);
    return !until || until(arg);
}

void world_pump(void *arg)
{
    struct world *world = arg;
    (void)world_run(world, NULL, NULL, HM_MS / 2);
}

bool is_down(void *arg)
{
    return ((struct node *)arg)->downs > 0;
}

bool is_up(void *arg)
{
    return ((struct node *)arg)->ups > 0;
}

static bool is_closed(void *arg)
{
    return ((struct node *)arg)->closed;
}

bool is_empty(void *arg)
{
    return hm_metrics_value(&((struct world *)arg)->metrics, "tcp.endpoints") == 0;
}

void node_close(struct world *world, struct node *node)
{
    if (!node->transport) return;
    while (node->held_count > 0) hm_inbound_drop(node->held[--node->held_count]);
    hm_transport_tcp.close(node->transport, on_closed, node);
    await(world, is_closed, node);
    node->transport = NULL;
}

int world_make(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    hm_metrics_init(&world->metrics);
    if (hm_loop_uv_create(1, &world->loop) != HM_OK) return -1;
    if (hm_identity_create(NULL, &world->stranger) != HM_OK) return -1;
    *state = world;
    return 0;
}

int world_take_apart(void **state)
{
    struct world *world = *state;
    node_close(world, &world->node);
    node_close(world, &world->other);
    hm_identity_destroy(world->node.identity);
    hm_identity_destroy(world->other.identity);
    hm_identity_destroy(world->stranger);
    hm_loop_uv_destroy(world->loop); /* asserts that nothing is watched or timed any more */
    free(world);
    return 0;
}

unsigned descriptors(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) count++;
    if (dir) closedir(dir);
    return count;
}

void assert_serves(struct world *world)
{
    struct hm_addr addr = node_addr(&world->node);
    struct hm_ep *ep;
    world->other.ups = 0;
    if (!world->other.transport) {
        if (!world->other.identity) assert_ok(hm_identity_create(NULL, &world->other.identity));
        assert_ok(node_try(world, &world->other, (struct node_conf){0}));
    }
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr,
                                       hm_identity_node(world->node.identity), &ep));
    await(world, is_up, &world->other);
    hm_transport_tcp.disconnect(ep);
}
