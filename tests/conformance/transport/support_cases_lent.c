/* Lent memory (base/buf.h): once it is taken back nobody reads or writes it.  Its pages are given
 * back to the kernel here, so that who does is killed. */
#include "support_suite.h"

#include <sys/mman.h>

enum { LENT_BYTES = 8 * MIB, FULL = 0x5a, GONE = 0xff };

struct transfer {
    struct suite *suite;
    struct node *from, *to;
    struct end *at_from;
    uint8_t *memory; /* the lender's */
    struct hm_buf *lent, *other;
    bool sent, pulled;
    enum hm_status send_status, pull_status;
};

static void on_sent(void *arg, enum hm_status status)
{
    struct transfer *transfer = arg;
    claim(transfer->suite, !transfer->sent);
    transfer->sent = true;
    transfer->send_status = status;
}

static void on_pulled(void *arg, enum hm_status status)
{
    struct transfer *transfer = arg;
    claim(transfer->suite, !transfer->pulled);
    transfer->pulled = true;
    transfer->pull_status = status;
}

static bool has_come(void *arg)
{
    struct transfer *transfer = arg;
    return transfer->to->held_count == 1;
}

static bool is_over(void *arg)
{
    struct transfer *transfer = arg;
    return transfer->sent && transfer->pulled;
}

static void transfer_open(struct transfer *transfer, struct suite *suite)
{
    struct end *at_to;
    *transfer = (struct transfer){.suite = suite};
    transfer->from = node_open(suite, NULL);
    transfer->to = node_open(suite, NULL);
    transfer->to->on_message = node_hold_any;
    nodes_connect(transfer->from, transfer->to, &transfer->at_from, &at_to);
    transfer->memory =
        mmap(NULL, LENT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(transfer->memory != MAP_FAILED);
    assert_ok(hm_buf_lend(suite->payloads, transfer->memory, LENT_BYTES, &transfer->lent));
    assert_ok(hm_buf_pool_get(suite->payloads, LENT_BYTES, &transfer->other));
}

static void transfer_send(struct transfer *transfer, struct hm_buf *buf)
{
    struct hm_span span = hm_buf_span(buf);
    transfer->suite->inside++;
    assert_ok(transfer->from->transport->ops->send(transfer->at_from->ep, "lent", 4, &span, 1,
                                                   on_sent, transfer));
    transfer->suite->inside--;
    await(transfer->suite, has_come, transfer);
}

static void transfer_pull(struct transfer *transfer, struct hm_buf *buf)
{
    struct hm_span into = hm_buf_span(buf);
    transfer->suite->inside++;
    assert_ok(hm_inbound_pull(transfer->to->held[0].in, &into, on_pulled, transfer));
    transfer->suite->inside--;
    transfer->to->held_count = 0;
}

static void take_back(struct transfer *transfer)
{
    hm_buf_reclaim(transfer->lent);
    hm_buf_put(transfer->lent);
    assert_int_equal(munmap(transfer->memory, LENT_BYTES), 0);
}

static void transfer_close(struct transfer *transfer)
{
    await(transfer->suite, is_over, transfer);
    assert_ok(transfer->send_status);
    assert_ok(transfer->pull_status);
    hm_buf_put(transfer->other);
    suite_finish(transfer->suite);
}

/* This provider has no use for lent memory there. */
static void skip_case(struct transfer *transfer)
{
    hm_buf_put(transfer->other);
    take_back(transfer);
    suite_finish(transfer->suite);
    skip();
}

static bool half_is_here(void *arg)
{
    struct transfer *transfer = arg;
    const uint8_t *bytes = transfer->pulled ? NULL : transfer->other->base;
    return !bytes || bytes[LENT_BYTES / 4] == FULL;
}

static void what_a_sender_takes_back_is_not_read_again(void **state)
{
    struct transfer transfer;
    transfer_open(&transfer, *state);
    if (!transfer.from->caps.sends_lent) skip_case(&transfer);
    memset(transfer.memory, FULL, LENT_BYTES);
    memset(transfer.other->base, 0, LENT_BYTES);
    transfer_send(&transfer, transfer.lent);
    transfer_pull(&transfer, transfer.other);
    await(transfer.suite, half_is_here, &transfer);
    bool all = transfer.pulled; /* by a simulated network that has no pieces */
    take_back(&transfer);
    await(transfer.suite, is_over, &transfer);
    const uint8_t *bytes = transfer.other->base;
    size_t good = 0;
    while (good < LENT_BYTES && bytes[good] == FULL) good++;
    assert_true(good > LENT_BYTES / 4 && (good == LENT_BYTES) == all);
    for (size_t i = good; i < LENT_BYTES; i++) assert_true(bytes[i] == GONE);
    transfer_close(&transfer);
}

static void what_is_taken_back_before_it_is_pulled_arrives_as_nothing(void **state)
{
    struct transfer transfer;
    transfer_open(&transfer, *state);
    if (!transfer.from->caps.sends_lent) skip_case(&transfer);
    transfer_send(&transfer, transfer.lent);
    take_back(&transfer);
    transfer_pull(&transfer, transfer.other);
    await(transfer.suite, is_over, &transfer);
    const uint8_t *bytes = transfer.other->base;
    for (size_t i = 0; i < LENT_BYTES; i++) assert_true(bytes[i] == GONE);
    transfer_close(&transfer);
}

static bool some_was_written(void *arg)
{
    struct transfer *transfer = arg;
    return transfer->pulled || transfer->memory[LENT_BYTES / 4] == FULL;
}

static void what_a_receiver_takes_back_is_not_written_again(void **state)
{
    struct transfer transfer;
    transfer_open(&transfer, *state);
    if (!transfer.to->caps.pulls_lent) skip_case(&transfer);
    memset(transfer.other->base, FULL, LENT_BYTES);
    transfer_send(&transfer, transfer.other);
    transfer_pull(&transfer, transfer.lent);
    await(transfer.suite, some_was_written, &transfer);
    take_back(&transfer);
    transfer_close(&transfer);
}

const struct CMUnitTest suite_cases_lent[] = {
    cmocka_unit_test(what_a_sender_takes_back_is_not_read_again),
    cmocka_unit_test(what_is_taken_back_before_it_is_pulled_arrives_as_nothing),
    cmocka_unit_test(what_a_receiver_takes_back_is_not_written_again),
};
const size_t suite_cases_lent_count = HM_COUNT_OF(suite_cases_lent);
