/* moe/dispatch_explain.c - the line that a person gets when an operation has too few answers: which row, which
 * expert where, why, and what its server said of its load. */
#include "moe/dispatch_internal.h"

#include <inttypes.h>
#include <stdio.h>

/* A row that lacks answers; one that is without hope, if that is why we end. */
static uint32_t short_row(const struct hm_dispatch_op *op)
{
    for (uint32_t row = 0; row < op->row_count; row++) {
        uint32_t count = op->hopeless ? op->hopeful[row] : op->answered[row];
        if (count < op->need[row]) return row;
    }
    HM_ASSERT(false);
    return 0;
}

/* The first part of a row that has failed; where none has, the first that is late. */
static const struct hm_dispatch_part *bad_part(const struct hm_dispatch_op *op, uint32_t row)
{
    const struct hm_dispatch_part *late = NULL;
    for (unsigned i = 0; i < op->part_count; i++) {
        const struct hm_dispatch_part *part = &op->part[i];
        bool has_row = false;
        for (uint32_t k = 0; part->status != HM_OK && k < part->row_count && !has_row; k++)
            has_row = part->row[k] == row;
        if (!has_row) continue;
        if (part->status != HM_INPROGRESS) return part;
        if (!late) late = part;
    }
    HM_ASSERT(late);
    return late;
}

enum { LOAD_TEXT_BYTES = 96 };
/* What a server that turned the part away has said of its load, or that nobody but us did; "" if nothing. */
static const char *load_text(const struct hm_dispatch_part *part, char text[LOAD_TEXT_BYTES])
{
    int length = 0;
    text[0] = 0;
    if (part->status == HM_ERR_BUSY && !part->turned_away)
        snprintf(text, LOAD_TEXT_BYTES, " (a queue of this node's, not of the server's)");
    if (part->load_us > 0)
        length = snprintf(text, LOAD_TEXT_BYTES, ": %.1f ms of work queued", part->load_us / 1e3);
    if (part->retry_after_us > 0)
        snprintf(text + length, LOAD_TEXT_BYTES - (size_t)length, "%s ask again in %.1f ms",
                 length ? "," : ":", part->retry_after_us / 1e3);
    return text;
}

enum hm_status hm_dispatch_explain(const struct hm_dispatch_op *op)
{
    uint32_t row = short_row(op);
    const struct hm_dispatch_part *bad = bad_part(op, row);
    enum hm_status why = bad->status == HM_INPROGRESS ? HM_ERR_TIMED_OUT : bad->status;
    char server[HM_NODE_ID_TEXT_BYTES], load[LOAD_TEXT_BYTES];
    return hm_fail(op->late ? HM_ERR_TIMED_OUT : why,
                   "%s: row %" PRIu32 " has %" PRIu32 " of the %" PRIu32
                   " answers it needs; %s at server %.8s: %s%s",
                   op->pass == HM_PASS_FORWARD ? "forward" : "backward", row, op->answered[row],
                   op->need[row], bad->uid.text, hm_node_id_text(&bad->server, server),
                   hm_status_text(why), load_text(bad, load));
}
