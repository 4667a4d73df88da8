/* tests/conformance/transport/support_suite.c - the suite itself: waiting and claiming, puppets, and the
 * run of every case. */
#include "support_suite.h"

#include <stdio.h>

#define WAIT_LIMIT (120 * HM_S) /* only a hang takes so long */

uint64_t suite_seed;

/* ---- waiting and claiming -------------------------------------------------------------------- */

void suite_claim(struct suite *suite, bool holds, const char *text, const char *file, int line)
{
    if (holds || suite->failure[0]) return;
    snprintf(suite->failure, sizeof suite->failure, "%s:%d: not true in a callback: %s", file, line,
             text);
}

struct wait {
    struct suite *suite;
    bool (*until)(void *arg);
    void *arg;
};

static bool wait_over(void *arg)
{
    struct wait *wait = arg;
    return wait->suite->failure[0] || (wait->until && wait->until(wait->arg));
}

void suite_await(struct suite *suite, bool (*until)(void *arg), void *arg, const char *text,
                 const char *file, int line)
{
    struct wait wait = {.suite = suite, .until = until, .arg = arg};
    bool came = wait_over(&wait) || suite->provider->run(suite, wait_over, &wait, WAIT_LIMIT);
    if (suite->failure[0]) fail_msg("%s", suite->failure);
    if (!came) fail_msg("%s:%d: waited in vain for %s", file, line, text);
}

void suite_let_pass(struct suite *suite, hm_ns duration)
{
    struct wait wait = {.suite = suite};
    (void)suite->provider->run(suite, wait_over, &wait, duration);
    if (suite->failure[0]) fail_msg("%s", suite->failure);
}

bool end_is_up(void *arg)
{
    struct end *end = arg;
    return end->ups > 0;
}

bool end_is_down(void *arg)
{
    struct end *end = arg;
    return end->downs > 0;
}

bool end_is_settled(void *arg)
{
    return end_is_up(arg) || end_is_down(arg);
}

bool node_ops_done(void *arg)
{
    struct node *node = arg;
    return node->ops_open == 0;
}

bool node_is_closed(void *arg)
{
    struct node *node = arg;
    return node->closed;
}

bool node_ends_down(void *arg)
{
    struct node *node = arg;
    for (unsigned i = 0; i < node->end_count; i++)
        if (node->end[i].downs == 0) return false;
    return true;
}

bool node_has_messages(void *arg)
{
    struct node *node = arg;
    return node->messages >= *(unsigned *)node->arg;
}

bool node_has_verified(void *arg)
{
    struct node *node = arg;
    return node->verified >= *(unsigned *)node->arg;
}

/* ---- puppets --------------------------------------------------------------------------------- */

static size_t one_mebibyte(struct node *node, unsigned number)
{
    (void)node;
    (void)number;
    return MIB;
}

static void hoard(struct end *end)
{
    end_pump(end, 0, 100, one_mebibyte);
}

void puppet_play(struct suite *suite, struct puppet *puppet)
{
    struct node_conf conf = {.take = puppet->role == PUPPET_HOARDS ? TAKE_HOLD : TAKE_DROP};
    puppet->node = node_open(suite, &conf);
    if (puppet->role == PUPPET_HOARDS) puppet->node->on_up = hoard;
    node_addr(puppet->node, &puppet->addr);
    puppet->id = *node_id(puppet->node);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static const struct provider *suite_provider;

struct suite *suite_create(const struct provider *provider)
{
    struct suite *suite = calloc(1, sizeof *suite);
    HM_ASSERT(suite);
    suite->provider = provider;
    hm_rng_init(&suite->rng, suite_seed, 0);
    assert_ok(hm_buf_pool_create((size_t)2 << 30, &suite->payloads));
    provider->start(suite);
    return suite;
}

void suite_finish(struct suite *suite)
{
    for (unsigned i = 0; i < suite->node_count; i++) node_take_held(suite->node[i], TAKE_DROP);
    for (unsigned i = 0; i < suite->node_count; i++)
        if (!suite->node[i]->closed) node_close(suite->node[i]);
    for (unsigned i = 0; i < suite->node_count; i++)
        for (unsigned j = 0; j < suite->node[i]->op_count; j++)
            assert_true(suite->node[i]->op[j].called);
    suite->finished = true;
}

void suite_destroy(struct suite *suite)
{
    for (unsigned i = 0; i < suite->node_count; i++) node_free(suite->node[i]);
    suite->node_count = 0;
    suite->provider->stop(suite);
    assert_int_equal(hm_buf_pool_bytes_used(suite->payloads), 0);
    hm_buf_pool_destroy(suite->payloads);
    free(suite);
}

static int case_setup(void **state)
{
    *state = suite_create(suite_provider);
    return 0;
}

/* What a failed case leaves behind is left alone: to take it apart would only hide its failure. */
static int case_teardown(void **state)
{
    struct suite *suite = *state;
    if (suite->finished) suite_destroy(suite);
    return 0;
}

size_t suite_bulk_bytes(void)
{
    const char *text = getenv("HM_CONFORMANCE_BULK_BYTES");
    if (text) return (size_t)strtoull(text, NULL, 10);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 32 * MIB;
#else
    return 256 * MIB;
#endif
}

int suite_main(const struct provider *provider, uint64_t seed)
{
    struct CMUnitTest tests[64];
    size_t count = 0;
    const struct {
        const struct CMUnitTest *tests;
        size_t count;
    } part[] = {
        {suite_cases_link, suite_cases_link_count},
        {suite_cases_message, suite_cases_message_count},
        {suite_cases_flow, suite_cases_flow_count},
        {suite_cases_lent, suite_cases_lent_count},
        {suite_cases_end, suite_cases_end_count},
    };
    for (size_t i = 0; i < HM_COUNT_OF(part); i++)
        for (size_t j = 0; j < part[i].count; j++) {
            HM_ASSERT(count < HM_COUNT_OF(tests));
            tests[count] = part[i].tests[j];
            tests[count].setup_func = case_setup;
            tests[count].teardown_func = case_teardown;
            count++;
        }
    const char *only = getenv("HM_CONFORMANCE_ONLY"); /* a pattern of names, for a person */
    if (only) cmocka_set_test_filter(only);
    suite_provider = provider;
    suite_seed = seed;
    char name[64];
    snprintf(name, sizeof name, "%s seed %llu", provider->name, (unsigned long long)seed);
    return _cmocka_run_group_tests(name, tests, count, NULL, NULL);
}
