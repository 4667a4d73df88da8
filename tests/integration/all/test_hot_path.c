/* tests/integration/all/test_hot_path.c - once warm, a call asks the heap for nothing, neither on the
 * caller's side nor on the server's.
 *
 * The heap is counted by interposing it for the whole process, OpenSSL with it; sanitizers have heaps of
 * their own, so there is nothing to count there. */
#include "test.h"

#include "hivemind.h"

#include <stdatomic.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTED 0
#else
#define COUNTED 1
#endif

static _Atomic uint64_t asked;

#if COUNTED
/* glibc's own names of what is replaced. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

static void count(void)
{
    atomic_fetch_add_explicit(&asked, 1, memory_order_relaxed);
}

void *malloc(size_t bytes)
{
    count();
    return __libc_malloc(bytes);
}

void *calloc(size_t count_, size_t bytes)
{
    count();
    return __libc_calloc(count_, bytes);
}

void *realloc(void *old, size_t bytes)
{
    count();
    return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    count();
    return __libc_memalign(alignment, bytes);
}
#endif

/* The DHT and the announcements go on meanwhile, by the clock: seldom, and then with a signature, for
 * which OpenSSL asks some fifty times. */
enum { BY_THE_CLOCK_MAX = 32 }; /* a second */
enum { COLUMNS = 64, ROWS_MAX = 2048, LINE_BYTES = 4096 };

struct pair {
    struct hm_node *a, *b; /* serves; calls */
    struct hm_server *server;
    struct hm_remote_expert *expert;
};

static int setup(void **state)
{
    static struct pair pair;
    char line[LINE_BYTES];
    const struct hm_node_options serves = {.listen = "127.0.0.1:0"};
    const struct hm_server_options options = {.lane_threads = 1};
    const struct hm_expert_options nop = {.kind = "nop", .hidden = COLUMNS};
    assert_ok(hm_node_open(&serves, &pair.a));
    assert_ok(hm_server_open(pair.a, &options, &pair.server));
    assert_ok(hm_server_host(pair.server, "nop.0", &nop));
    assert_ok(hm_server_start(pair.server));
    assert_ok(hm_node_join_line(pair.a, line, sizeof line));
    const struct hm_node_options calls = {.join = line};
    assert_ok(hm_node_open(&calls, &pair.b));
    assert_ok(hm_remote_expert_find(pair.b, "nop.0", 20000, &pair.expert));
    *state = &pair;
    return 0;
}

static int teardown(void **state)
{
    struct pair *pair = *state;
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
    uint64_t got = asked_by(pair, rows, calls);
    uint64_t seconds = (uint64_t)(time(NULL) - start);
    print_message("%u calls of %u rows: %llu allocations in %llu s\n", calls, rows,
                  (unsigned long long)got, (unsigned long long)seconds);
    if (got > calls / 1000 + (seconds + 1) * BY_THE_CLOCK_MAX)
        fail_msg("%llu allocations in %u calls", (unsigned long long)got, calls);
}

static void small_calls_ask_the_heap_for_nothing(void **state)
{
    check(*state, 1, 20000);
}

static void large_calls_ask_the_heap_for_nothing(void **state)
{
    check(*state, ROWS_MAX, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_calls_ask_the_heap_for_nothing),
        cmocka_unit_test(large_calls_ask_the_heap_for_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
