/* moe/mixture_spare.c - who takes the rows of an expert that refuses: their next best, in the same
 * forward; and, while it has asked not to be asked yet, from the beginning of the next ones.
 *
 *   refused parts ──► each of their rows: its best candidate that has not been asked ──► by expert,
 *                                                                                        new parts
 *
 * Whoever has refused, failed or gone in this pass is not asked again; one on a server that has
 * refused somebody only if there is nobody else, since what is overloaded there is likely the lane
 * that both share.  So too one that is likely to refuse (moe/refusals.h).
 *
 * Invariants: a row asks each of its candidates once, so there are at most `spares` further tries a
 * row, and memory for all of them was there before the pass began. */
#include "base/assert.h"
#include "moe/mixture_internal.h"

#include <stdlib.h>

/* LIKELY: to refuse, as it did; DOUBTFUL: its server has refused somebody in this pass. */
enum standing { OPEN, LIKELY, DOUBTFUL, CLOSED };

/* The row's next candidate -> *k. */
static bool next_of(const struct hm_mixture_op *op, uint32_t row, uint32_t *k)
{
    uint32_t count = hm_mixture_candidates(op, row), doubtful = count;
    for (uint32_t i = 0; i < count; i++) {
        if (*hm_mixture_slot(op, row, i) != HM_NO_SLOT) continue;
        uint8_t standing = op->standing[hm_mixture_candidate(op, row, i)->expert];
        if (standing != CLOSED && doubtful == count) doubtful = i;
        if (standing != OPEN) continue;
        *k = i;
        return true;
    }
    *k = doubtful;
    return doubtful < count;
}

void hm_mixture_ask_first(struct hm_mixture_op *op)
{
    const struct hm_beam_op *beam = &op->beam;
    struct hm_dispatch *dispatch = hm_mixture_conf(op->mixture)->dispatch;
    hm_ns left = hm_deadline_left(hm_dispatch_loop(dispatch), op->deadline);
    for (unsigned i = 0; i < beam->expert_count; i++) {
        const struct hm_beam_expert *expert = &beam->expert[i];
        bool likely =
            beam->spares > 0 && hm_dispatch_refusal_likely(dispatch, &expert->server, &expert->uid,
                                                           HM_PASS_FORWARD, left);
        op->standing[i] = likely ? LIKELY : OPEN;
    }
    for (uint32_t row = 0; row < op->row_count; row++) {
        uint32_t k;
        for (uint32_t i = 0; i < beam->k_best + beam->spares; i++)
            *hm_mixture_slot(op, row, i) = HM_NO_SLOT;
        for (uint32_t i = 0; i < beam->choice_count[row] && next_of(op, row, &k); i++)
            *hm_mixture_slot(op, row, k) = 0; /* taken */
    }
}

/* What the failures say about the beam's experts: those since the last round, as who has failed is
 * CLOSED from then on. */
static void judge(struct hm_mixture_op *op)
{
    const struct hm_beam_op *beam = &op->beam;
    for (unsigned p = 0; p < op->part_count; p++) {
        const struct hm_dispatch_part *part = &op->part[p];
        uint8_t *own = &op->standing[op->part_expert[p]], before = *own;
        if (part->status == HM_OK || part->status == HM_INPROGRESS || before == CLOSED) continue;
        bool server_gone =
            hm_status_scope(part->status) == HM_SCOPE_PEER || part->status == HM_ERR_DRAINING;
        bool server_busy = part->turned_away || part->status == HM_ERR_TOO_BIG;
        uint8_t standing = server_gone ? CLOSED : server_busy ? DOUBTFUL : OPEN;
        *own = CLOSED;
        if (standing <= before) continue; /* its server is known for that */
        for (unsigned i = 0; i < beam->expert_count; i++)
            if (op->standing[i] < standing &&
                hm_node_id_equal(&beam->expert[i].server, &part->server))
                op->standing[i] = standing;
    }
}

static int compare_moves(const void *left, const void *right)
{
    const struct hm_mixture_move *a = left, *b = right;
    if (a->expert != b->expert) return a->expert < b->expert ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Rows of one expert -> a part; their slots lie together. */
static void add_part(struct hm_mixture_op *op, const struct hm_mixture_move *move, uint32_t count)
{
    const struct hm_beam_expert *expert = &op->beam.expert[move[0].expert];
    unsigned number = op->part_count++;
    op->part_expert[number] = move[0].expert;
    op->part[number] = (struct hm_dispatch_part){
        .uid = expert->uid,
        .server = expert->server,
        .row = op->slot_row + op->slot_count,
        .row_count = count,
        .answer = op->answer + (size_t)op->slot_count * hm_mixture_conf(op->mixture)->hidden,
    };
    HM_ASSERT(count <= op->slots_max - op->slot_count);
    for (uint32_t i = 0; i < count; i++, op->slot_count++) {
        op->slot_row[op->slot_count] = move[i].row;
        op->slot_part[op->slot_count] = number;
        *hm_mixture_slot(op, move[i].row, move[i].k) = op->slot_count;
    }
}

unsigned hm_mixture_more(struct hm_dispatch_op *dispatch)
{
    struct hm_mixture_op *op = dispatch->arg;
    unsigned before = op->part_count;
    size_t moves = 0;
    judge(op);
    for (unsigned p = 0; p < before; p++) {
        const struct hm_dispatch_part *part = &op->part[p];
        for (uint32_t i = 0; part->refused && i < part->row_count; i++) {
            uint32_t row = part->row[i], k;
            if (!next_of(op, row, &k)) continue;
            *hm_mixture_slot(op, row, k) = 0; /* taken; which one it is comes below */
            op->move[moves++] =
                (struct hm_mixture_move){hm_mixture_candidate(op, row, k)->expert, row, k};
        }
    }
    qsort(op->move, moves, sizeof *op->move, compare_moves);
    for (size_t at = 0, end; at < moves; at = end) {
        for (end = at + 1; end < moves && op->move[end].expert == op->move[at].expert;) end++;
        if (op->part_count < op->part_max) {
            add_part(op, &op->move[at], (uint32_t)(end - at));
            continue;
        }
        for (size_t i = at; i < end; i++)
            *hm_mixture_slot(op, op->move[i].row, op->move[i].k) = HM_NO_SLOT;
    }
    return op->part_count - before;
}
