/* tests/integration/all/test_hot_path.c - once warm, a call asks the heap for nothing, neither on the
 * caller's side nor on the server's; over tcp, and over ucx.
 *
 * The heap is counted by interposing it for the whole process, OpenSSL with it; sanitizers have heaps of
 * their own, so there is nothing to count there.  What UCX asks for is counted by who called, apart: it
 * must be as little. */
#include "test.h"

#include "api/fabric.h"
#include "hivemind.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTED 0
#else
#define COUNTED 1
#endif

static _Atomic uint64_t asked, asked_by_ucx;
static _Atomic bool tell_apart; /* who asks: costs time */

#if COUNTED
/* glibc's own names of what is replaced. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

static void count(const void *caller)
{
    Dl_info info;
    bool ucx = atomic_load_explicit(&tell_apart, memory_order_relaxed) &&
               dladdr(caller, &info) != 0 && strstr(info.dli_fname, "/libuc") != NULL;
    atomic_fetch_add_explicit(ucx ? &asked_by_ucx : &asked, 1, memory_order_relaxed);
}

void *malloc(size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_malloc(bytes);
}

void *calloc(size_t count_, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_calloc(count_, bytes);
}

void *realloc(void *old, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}
#endif

/* The DHT and the announcements go on meanwhile, by the clock: seldom, and then with a signature, for
 * which OpenSSL asks some fifty times. */
enum { BY_THE_CLOCK_MAX = 32 }; /* a second */
enum { COLUMNS = 64, ROWS_OF_16_KIB = 64, ROWS_MAX = 2048, LINE_BYTES = 4096 };
static unsigned small_calls = 20000; /* or the program's argument: a million take some minutes */

struct pair {
    struct hm_node *a, *b; /* serves; calls */
    struct hm_server *server;
    struct hm_remote_expert *expert;
};

static void open_pair(struct pair *opened, const uint8_t *fabric_key)
{
    struct pair pair;
    char line[LINE_BYTES];
    const char *fabric = fabric_key ? "auto" : NULL;
    const struct hm_node_options serves = {
        .listen = "127.0.0.1:0", .fabric = fabric, .fabric_key = fabric_key};
    const struct hm_server_options options = {.lane_threads = 1};
    const struct hm_expert_options nop = {.kind = "nop", .hidden = COLUMNS};
    assert_ok(hm_node_open(&serves, &pair.a));
    assert_ok(hm_server_open(pair.a, &options, &pair.server));
    assert_ok(hm_server_host(pair.server, "nop.0", &nop));
    assert_ok(hm_server_start(pair.server));
    assert_ok(hm_node_join_line(pair.a, line, sizeof line));
    const struct hm_node_options calls = {.join = line, .fabric = fabric, .fabric_key = fabric_key};
    assert_ok(hm_node_open(&calls, &pair.b));
    assert_ok(hm_remote_expert_find(pair.b, "nop.0", 20000, &pair.expert));
    *opened = pair;
}

static int setup(void **state)
{
    static struct pair pair;
    open_pair(&pair, NULL);
    *state = &pair;
    return 0;
}

static int setup_ucx(void **state)
{
    static struct pair pair;
    static const uint8_t key[HM_FABRIC_KEY_BYTES] = {1, 2, 3};
    if (COUNTED) open_pair(&pair, key);
    *state = &pair;
    return 0;
}

static int teardown(void **state)
{
    struct pair *pair = *state;
    if (!pair->a) return 0;
    hm_remote_expert_put(pair->expert);
    hm_node_close(pair->b);
    hm_server_close(pair->server);
    hm_node_close(pair->a);
    return 0;
}

/* How often the heap is asked during `calls` calls of `rows` rows. */
static uint64_t asked_by(const struct pair *pair, uint32_t rows, unsigned calls)
{
    static float from[ROWS_MAX * COLUMNS], to[ROWS_MAX * COLUMNS];
    const struct hm_array x = {.dims = 2, .dim = {rows, COLUMNS}, .data = from};
    struct hm_array y = x;
    y.data = to;
    uint64_t before = atomic_load(&asked);
    for (unsigned i = 0; i < calls; i++) {
        from[0] = (float)i;
        assert_ok(hm_remote_expert_forward(pair->expert, &x, &y, 60000));
        assert_near(to[0], from[0], 0);
    }
    return atomic_load(&asked) - before;
}

static void check(const struct pair *pair, uint32_t rows, unsigned calls)
{
    if (!COUNTED) skip();
    (void)asked_by(pair, rows, calls / 4); /* pools grow to their load */
    time_t start = time(NULL);
    uint64_t ucx_before = atomic_load(&asked_by_ucx), got = asked_by(pair, rows, calls);
    uint64_t ucx = atomic_load(&asked_by_ucx) - ucx_before;
    uint64_t seconds = (uint64_t)(time(NULL) - start);
    print_message("%u calls of %u rows: %llu allocations and %llu of UCX in %llu s\n", calls, rows,
                  (unsigned long long)got, (unsigned long long)ucx, (unsigned long long)seconds);
    if (got > calls / 1000 + (seconds + 1) * BY_THE_CLOCK_MAX)
        fail_msg("%llu allocations in %u calls", (unsigned long long)got, calls);
    if (ucx > calls / 1000 + (seconds + 1) * BY_THE_CLOCK_MAX)
        fail_msg("UCX made %llu in %u calls", (unsigned long long)ucx, calls);
}

static void small_calls_ask_the_heap_for_nothing(void **state)
{
    check(*state, 1, small_calls);
}

static void large_calls_ask_the_heap_for_nothing(void **state)
{
    check(*state, ROWS_MAX, 1000);
}

static void check_ucx(const struct pair *pair, uint32_t rows, unsigned calls)
{
    struct hm_node_paths paths;
    if (!COUNTED) skip();
    assert_ok(hm_node_paths(pair->b, &paths));
    if (!paths.fabric) {
        print_message("SKIP: no ucx module here\n");
        skip();
    }
    assert_int_equal(paths.peers_fabric, 1);
    atomic_store(&tell_apart, true);
    check(pair, rows, calls);
    atomic_store(&tell_apart, false);
}

static void small_calls_over_ucx_ask_the_heap_for_nothing(void **state)
{
    check_ucx(*state, 1, small_calls);
}

/* Of two segments: UCX would put them together in memory of its own, once a message. */
static void calls_of_several_segments_over_ucx_ask_the_heap_for_nothing(void **state)
{
    check_ucx(*state, ROWS_OF_16_KIB, small_calls);
}

static void large_calls_over_ucx_ask_the_heap_for_nothing(void **state)
{
    check_ucx(*state, ROWS_MAX, 1000);
}

int main(int argc, char **argv)
{
    if (argc > 1) small_calls = (unsigned)strtoul(argv[1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_calls_ask_the_heap_for_nothing),
        cmocka_unit_test(large_calls_ask_the_heap_for_nothing),
    };
    const struct CMUnitTest tests_ucx[] = {
        cmocka_unit_test(small_calls_over_ucx_ask_the_heap_for_nothing),
        cmocka_unit_test(calls_of_several_segments_over_ucx_ask_the_heap_for_nothing),
        cmocka_unit_test(large_calls_over_ucx_ask_the_heap_for_nothing),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    return failed + cmocka_run_group_tests(tests_ucx, setup_ucx, teardown);
}
