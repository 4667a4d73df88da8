/* What somebody who has proved the fabric's key may offer as his worker's address, and what is left of
 * the process that is offered it: each victim is a process of its own, since UCX aborts.  Seeded; a
 * failure names the offer.  Skipped where the module is not there. */
#include "test.h"

#include "base/loop_uv.h"
#include "base/map.h"
#include "base/module.h"
#include "base/rng.h"
#include "transport/transport.h"
#include "transport/ucx_options.h"

#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MARK = 16, ROUNDS = 400, VICTIM_S = 120 };

static const struct hm_transport_ops *ucx_ops;
static bool over_tcp;
static int peer_pid;

/* What a victim leaves behind, however it ends. */
static struct record {
    unsigned tried, refused, unreachable, taken, ups;
} * record;

/* ---- a node with a fabric and nothing else ----------------------------------------------------- */

struct node {
    struct hm_loop *loop;
    struct hm_transport *transport;
    struct hm_timer timer;
    unsigned downs, ups;
    bool closed;
};

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *id,
                  const struct hm_hello *hello)
{
    struct node *node = arg;
    (void)ep, (void)id, (void)hello;
    node->ups++;
}

static void on_message(void *arg, struct hm_ep *ep, const void *bytes, size_t byte_count,
                       struct hm_inbound *in)
{
    (void)arg, (void)ep, (void)bytes, (void)byte_count;
    hm_inbound_drop(in);
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    (void)arg, (void)ep;
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct node *node = arg;
    (void)ep, (void)why;
    node->downs++;
    hm_loop_uv_stop(node->loop);
}

static void on_timer(struct hm_timer *timer)
{
    hm_loop_uv_stop(((struct node *)timer->arg)->loop);
}

static void run(struct node *node, hm_ns time)
{
    hm_timer_start(node->loop, &node->timer, time);
    hm_loop_uv_run(node->loop);
    hm_timer_stop(node->loop, &node->timer);
}

static bool node_open(struct node *node)
{
    static const struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR};
    static struct hm_ucx_options options;
    options.tcp = over_tcp;
    const struct hm_transport_conf conf = {.hello = &hello,
                                           .endpoints_max = 64,
                                           .receive_bytes_max = 1 << 20,
                                           .handshake_max = 60 * HM_S,
                                           .world = &options};
    const struct hm_transport_sink sink = {on_up, on_message, on_writable, on_down, node};
    *node = (struct node){.timer = {.cb = on_timer, .arg = node}};
    if (hm_loop_uv_create(1, &node->loop) != HM_OK) return false;
    return ucx_ops->open(&conf, node->loop, &sink, &node->transport) == HM_OK;
}

static struct hm_ep *offer(struct node *node, struct hm_fabric_offer *ours)
{
    static const struct hm_node_id id = {{7}};
    struct hm_ep *ep;
    enum hm_status status = ucx_ops->fabric->offer(node->transport, &id, ours, &ep);
    return status == HM_OK ? ep : NULL;
}

/* ---- processes ---------------------------------------------------------------------------------- */

/* One that makes an offer and runs until it is killed. */
static int peer_start(struct hm_fabric_offer *theirs)
{
    int ends[2], pid;
    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        struct node node;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!node_open(&node) || !offer(&node, theirs)) _exit(3);
        if (write(ends[1], theirs, sizeof *theirs) != (ssize_t)sizeof *theirs) _exit(4);
        for (;;) run(&node, HM_S);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], theirs, sizeof *theirs), sizeof *theirs);
    close(ends[0]);
    peer_pid = pid;
    return pid;
}

static void peer_kill(int pid)
{
    int status;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

/* Its bytes, and a mark that fits: who holds the key can make one. */
static void seal(struct hm_fabric_offer *theirs, size_t bytes)
{
    uint64_t sum = hm_hash(theirs->address + MARK, bytes, 0);
    memcpy(theirs->address + 8, &sum, sizeof sum);
    theirs->address_bytes = (uint16_t)(MARK + bytes);
}

/* Changes what was a good offer; false: there are no more. */
typedef bool (*spoil)(struct hm_fabric_offer *theirs, unsigned index, struct hm_rng *rng);

static void victim(const struct hm_fabric_offer *good, spoil change)
{
    struct node node;
    struct hm_rng rng;
    struct hm_ep *ep;
    hm_rng_init(&rng, 20261123, 0);
    alarm(VICTIM_S);
    if (!node_open(&node)) _exit(3);
    for (unsigned i = 0;; i++) {
        struct hm_fabric_offer theirs = *good, ours;
        if (!change(&theirs, i, &rng)) break;
        record->tried = i + 1;
        if (!(ep = offer(&node, &ours))) _exit(5);
        enum hm_status status = ucx_ops->fabric->accept(ep, &theirs);
        record->refused += status == HM_ERR_PEER_PROTOCOL;
        record->unreachable += status == HM_ERR_PEER_UNREACHABLE;
        record->taken += status == HM_OK;
        unsigned downs = node.downs;
        if (status == HM_OK) run(&node, 3 * HM_MS);
        if (node.downs == downs) ucx_ops->disconnect(ep);
        while (node.downs == downs) run(&node, 100 * HM_MS);
    }
    record->ups = node.ups;
    _exit(0);
}

/* The victim lives through all of them. */
static void endure(const char *what, const struct hm_fabric_offer *good, spoil change)
{
    int status;
    *record = (struct record){0};
    fflush(NULL);
    int pid = fork();
    if (pid == 0) victim(good, change);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    print_message("%s: %u offers, %u refused, %u lead nowhere, %u taken\n", what, record->tried,
                  record->refused, record->unreachable, record->taken);
    if (WIFSIGNALED(status))
        fail_msg("%s: offer %u ended the process by signal %d", what, record->tried - 1,
                 WTERMSIG(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- offers ------------------------------------------------------------------------------------- */

static bool random_bytes(struct hm_fabric_offer *theirs, unsigned index, struct hm_rng *rng)
{
    size_t bytes = 1 + hm_rng_next(rng) % (index % 4 ? 300 : sizeof theirs->address - MARK);
    size_t kept = index % 3; /* the first bytes are right */
    for (size_t i = kept; i < bytes; i++) theirs->address[MARK + i] = (uint8_t)hm_rng_next(rng);
    seal(theirs, bytes);
    return index < ROUNDS;
}

static bool cut(struct hm_fabric_offer *theirs, unsigned index, struct hm_rng *rng)
{
    (void)rng;
    if (index + 1u >= (unsigned)theirs->address_bytes - MARK) return false;
    seal(theirs, index + 1);
    return true;
}

static bool one_bit(struct hm_fabric_offer *theirs, unsigned index, struct hm_rng *rng)
{
    (void)rng;
    size_t bytes = theirs->address_bytes - (size_t)MARK;
    if (index / 8 >= bytes) return false;
    theirs->address[MARK + index / 8] ^= (uint8_t)(1u << index % 8);
    seal(theirs, bytes);
    return true;
}

static bool some_bytes(struct hm_fabric_offer *theirs, unsigned index, struct hm_rng *rng)
{
    size_t bytes = theirs->address_bytes - (size_t)MARK;
    for (unsigned i = 0; i < 1 + index % 5; i++)
        theirs->address[MARK + hm_rng_next(rng) % bytes] = (uint8_t)hm_rng_next(rng);
    seal(theirs, bytes);
    return index < ROUNDS;
}

static bool something_behind(struct hm_fabric_offer *theirs, unsigned index, struct hm_rng *rng)
{
    size_t bytes = theirs->address_bytes - (size_t)MARK;
    size_t room = sizeof theirs->address - theirs->address_bytes;
    size_t more = index % 2 ? room : 1 + hm_rng_next(rng) % 64;
    for (size_t i = 0; i < more; i++) theirs->address[MARK + bytes + i] = (uint8_t)hm_rng_next(rng);
    seal(theirs, bytes + more);
    return index < ROUNDS / 8;
}

static bool unchanged(struct hm_fabric_offer *theirs, unsigned index, struct hm_rng *rng)
{
    (void)theirs, (void)rng;
    return index < ROUNDS / 8;
}

/* The peer's memory is a descriptor of the victim's own, 30 bits of process and descriptor each. */
static bool an_open_file(struct hm_fabric_offer *theirs, unsigned index, struct hm_rng *rng)
{
    static FILE *file;
    const uint64_t form = (uint64_t)15 << 60, pid_mask = ((uint64_t)1 << 30) - 1;
    size_t bytes = theirs->address_bytes - (size_t)MARK, found = 0;
    (void)rng;
    if (index > 0) return false;
    if (!(file = tmpfile())) _exit(6);
    for (size_t i = 9; i + 8 <= bytes; i++) {
        uint64_t segment;
        memcpy(&segment, theirs->address + MARK + i, sizeof segment);
        if (!(segment >> 63) || (segment & pid_mask) != (uint64_t)peer_pid) continue;
        segment = (segment & form) | (uint64_t)fileno(file) << 30 | (uint64_t)getpid();
        memcpy(theirs->address + MARK + i, &segment, sizeof segment);
        found++;
    }
    if (found == 0) _exit(7);
    seal(theirs, bytes);
    return true;
}

/* ---- cases -------------------------------------------------------------------------------------- */

static void bytes_that_are_no_address_are_refused(void **state)
{
    struct hm_fabric_offer good;
    (void)state;
    int peer = peer_start(&good);
    endure("random bytes", &good, random_bytes);
    assert_int_equal(record->refused, record->tried);
    endure("an address cut short", &good, cut);
    assert_int_equal(record->refused, record->tried);
    endure("an address with something behind it", &good, something_behind);
    assert_int_equal(record->refused, record->tried);
    endure("the address", &good, unchanged);
    assert_int_equal(record->taken, record->tried);
    peer_kill(peer);
}

static void an_address_that_is_slightly_wrong_ends_no_process(void **state)
{
    struct hm_fabric_offer good;
    (void)state;
    int peer = peer_start(&good);
    endure("one bit", &good, one_bit);
    endure("some bytes", &good, some_bytes);
    peer_kill(peer);
}

static void a_file_that_a_process_has_open_is_no_memory_of_a_peer(void **state)
{
    struct hm_fabric_offer good;
    (void)state;
    if (over_tcp) skip();
    int peer = peer_start(&good);
    endure("an open file", &good, an_open_file);
    assert_int_equal(record->tried, 1);
    assert_int_equal(record->refused, 1);
    peer_kill(peer);
}

static void the_address_of_a_dead_process_never_comes_up(void **state)
{
    struct hm_fabric_offer good;
    (void)state;
    peer_kill(peer_start(&good));
    endure("a dead process", &good, unchanged);
    assert_int_equal(record->unreachable + record->taken, record->tried);
    assert_int_equal(record->ups, 0);
}

static int choose_memory(void **state)
{
    (void)state;
    over_tcp = false;
    setenv("HM_UCX_TLS", "posix,cma", 1);
    return 0;
}

static int choose_default(void **state)
{
    (void)state;
    over_tcp = false;
    unsetenv("HM_UCX_TLS");
    return 0;
}

static int choose_tcp(void **state)
{
    (void)state;
    over_tcp = true;
    setenv("HM_UCX_TLS", "tcp", 1);
    setenv("HM_UCX_NET_DEVICES", "lo", 1);
    return 0;
}

int main(void)
{
    const void *ops;
    if (hm_module_load("ucx", &ops) != HM_OK) {
        printf("skipped: %s\n", hm_fail_line());
        return 77;
    }
    ucx_ops = ops;
    record = mmap(NULL, sizeof *record, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (record == MAP_FAILED) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_that_are_no_address_are_refused),
        cmocka_unit_test(an_address_that_is_slightly_wrong_ends_no_process),
        cmocka_unit_test(a_file_that_a_process_has_open_is_no_memory_of_a_peer),
        cmocka_unit_test(the_address_of_a_dead_process_never_comes_up),
    };
    int failed = cmocka_run_group_tests_name("shared memory", tests, choose_memory, NULL);
    failed +=
        cmocka_run_group_tests_name("what a node takes by itself", tests, choose_default, NULL);
    return failed + cmocka_run_group_tests_name("UCX's TCP", tests, choose_tcp, NULL) > 0;
}
