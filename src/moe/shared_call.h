/* moe/shared_call.h - callers of one process share a call: forwards of few rows to one expert that
 * begin in one turn of the loop go to its server as one call, one part with the rows of all.
 *
 *      forward ──► open ──► (others join, in this turn) ──► found ──► alone, as if nobody could join
 *              └─► join: goes with the one that is open             └► start: all in one call
 *
 * Nobody waits for company: who is the first of its turn asks the directory at once, whose answer comes
 * in the next turn at the earliest, and until that turn others join.
 *
 * Of one call are operations of the same node, expert, codec and columns, and so of one priority; a
 * deadline that is no earlier than the first one's, and later by 1/64 of what is left at most: the first
 * one's counts.  Together they have HM_SHARED_ROWS_MAX rows and HM_SHARED_BYTES_MAX bytes at most, so that
 * what goes with its message alone still does together.  Backwards never share: a sequence number is
 * one operation's.
 *
 * A shared call that fails for what may be one operation's fault, or the fault of all being one, is made
 * again by each operation alone and by its own deadline; what is wrong with the server is everybody's.
 * Who is too late there (HM_ERR_REFUSED) waits and asks again as one call, and fails as one: an overloaded
 * server is not asked as often as there are callers.  Where the queue has no room for all
 * (HM_ERR_BUSY) it may have some for each, who then waits for himself.
 *
 * Thread: loop. */
#ifndef HM_MOE_SHARED_CALL_H
#define HM_MOE_SHARED_CALL_H

#include "base/metrics.h"
#include "moe/remote_expert.h"

enum {
    HM_SHARED_ROWS_MAX = 16,
    HM_SHARED_BYTES_MAX = (32 << 10) - 256, /* the rest of what UCX takes at once: the part table */
    HM_SHARED_LOOK_MAX = 16                 /* calls that an operation may join, at most */
};

struct hm_shared_calls { /* of a dispatch */
    struct hm_link open; /* operations of this turn, that others may join; the newest first */
    uint64_t turn;
    struct hm_metric calls, callers;
};
/* metrics NULL: none. */
void hm_shared_calls_init(struct hm_shared_calls *shared, struct hm_metrics *metrics);
void hm_shared_calls_fini(struct hm_shared_calls *shared);

/* A forward about to begin: whether it goes with another.  If not, it may be opened once it asks the
 * directory: others can join until it is closed, which is before its memory goes. */
HM_MUST_CHECK bool hm_shared_call_join(struct hm_shared_calls *shared, struct hm_moe_expert_op *op);
void hm_shared_call_open(struct hm_shared_calls *shared, struct hm_moe_expert_op *op);
void hm_shared_call_close(struct hm_moe_expert_op *op);
/* Of an operation that others have joined (first->next), once it is closed: calls first->server for all.
 * Each ends, or goes on alone. */
void hm_shared_call_start(struct hm_shared_calls *shared, struct hm_moe_expert_op *first);
/* The operation and those that have joined it end, with this thread's line. */
void hm_shared_call_end(struct hm_moe_expert_op *first, enum hm_status status);

/* remote_expert.c: calls op->server for this operation alone; ends it. */
void hm_moe_expert_alone(struct hm_moe_expert_op *op);
void hm_moe_expert_end(struct hm_moe_expert_op *op, enum hm_status status);

#endif
