/* moe/dispatch.h - many (expert, rows) at once: one call a server, each row sent once, answers part
 * by part.
 *
 *      start ──► ADDRESSES (of servers not connected yet) ──► RUNNING ──► cb, exactly once
 *
 * An operation groups its parts by server, copies the rows that a server needs into a pooled slab
 * (the wire never refers to the caller's memory) and collects the answers.  It ends, with what is
 * still running cancelled and masked as late:
 *   - when every part is answered or has failed;
 *   - timeout_after_k_min after every row has k_min answers;
 *   - at once when some row cannot reach k_min any more;
 *   - at its deadline.
 * A forward part that a server refuses (busy, too late or too big there, draining, gone) or cannot be sent may
 * go elsewhere in the same operation, if its user knows somebody (op->more); until he has said so its
 * rows are not without hope.  A backward never does.
 * Where a row would be without hope, and a server that turned it away has said when it could take it, that
 * part waits and is asked again (HM_INPROGRESS), as long as its time comes before the deadline: after what the
 * server said, no sooner than 1 ms and twice as late each time, and up to a quarter later, so that clients do
 * not come back together.
 * Failed calls teach the directory at once: PEER scope (and HM_ERR_DRAINING) suspects the server,
 * HM_ERR_EXPERT_GONE the expert there; a server that was silent until the deadline while another
 * answered is suspected too.  Backward calls carry this client's incarnation and a growing
 * sequence; one is repeated only where its server has refused it, with the same sequence, so that an expert
 * that has stepped nevertheless takes it for the duplicate that it is.  Rows go coded to servers whose record says that they take the
 * codec; who refuses one nevertheless (HM_ERR_UNSUPPORTED) gets plain rows from the next call on.
 *
 * Thread: loop; the callback never runs inside a call made by the user. */
#ifndef HM_MOE_DISPATCH_H
#define HM_MOE_DISPATCH_H

#include "moe/call.h"
#include "moe/directory.h"

#define HM_MOE_TIMEOUT_MAX (3600 * HM_S) /* longer ones are cut to it: everything ends */

/* This node as a client of experts: one a node, shared by all mixtures and remote experts. */
struct hm_dispatch;
struct hm_dispatch_conf {
    struct hm_rpc *rpc;
    struct hm_directory *directory;
    uint8_t priority;   /* of its calls, < HM_CALL_PRIORITIES */
    unsigned calls_max; /* to servers at once, those that ended operations left included; 0: 1024 */
    struct hm_metrics *metrics; /* NULL: none */
};
HM_MUST_CHECK enum hm_status hm_dispatch_create(const struct hm_dispatch_conf *conf,
                                                struct hm_dispatch **dispatch);
/* Every operation must have ended.  What they left on the wire is cancelled; then done, and
 * dispatch is gone.  Before hm_rpc_close and hm_directory_destroy. */
void hm_dispatch_close(struct hm_dispatch *dispatch, void (*done)(void *arg), void *arg);
struct hm_loop *hm_dispatch_loop(const struct hm_dispatch *dispatch);
struct hm_directory *hm_dispatch_directory(const struct hm_dispatch *dispatch);
struct hm_rpc *hm_dispatch_rpc(const struct hm_dispatch *dispatch);
struct hm_shared_calls; /* moe/shared_call.h */
struct hm_shared_calls *hm_dispatch_shared(struct hm_dispatch *dispatch);

/* Asks for stage times (moe/stages.h) with one call in `every` (at first HM_STAGES_EVERY; 1: with
 * each, 0: never), and forgets those measured so far. */
void hm_dispatch_time(struct hm_dispatch *dispatch, uint32_t every);
const struct hm_stages *hm_dispatch_stages(const struct hm_dispatch *dispatch);

/* Whether the expert there has asked not to be asked yet, by calls that have so much time left. */
bool hm_dispatch_refusal_likely(const struct hm_dispatch *dispatch, const struct hm_node_id *server,
                                const struct hm_uid *uid, uint8_t pass, hm_ns left);

struct hm_dispatch_stats {        /* since create */
    uint64_t calls, calls_failed; /* to servers; failed: without all answers, cancels not counted */
    uint64_t calls_coded;         /* with rows of a codec */
    uint64_t parts, parts_failed; /* failed: answered with a status, late or lost */
    uint64_t rows;                /* sent, each once a call */
};
void hm_dispatch_stats(const struct hm_dispatch *dispatch,
                       struct hm_dispatch_stats *stats); /* any thread */

/* From so many bytes on (of f32 rows that go uncoded one behind the other) rows are lent to the wire, and
 * answers pulled to where they belong; below, a copy costs less than another piece to send. */
enum { HM_DISPATCH_LEND_BYTES_MIN = 64 << 10 };

struct hm_dispatch_part { /* one expert and its rows */
    struct hm_uid uid;
    struct hm_node_id server;
    const uint32_t *row; /* [row_count], of x, each at most once */
    uint32_t row_count;  /* >= 1 */
    const float *scale;  /* backward: its dy of row i is scale[i] * dy[row[i]]; NULL: 1 */
    float *answer;       /* [row_count, columns]; good if status is HM_OK; never touched after cb */
    /* results; HM_INPROGRESS until decided */
    bool refused;          /* its rows may go elsewhere: during op->more */
    enum hm_status status; /* late: HM_ERR_TIMED_OUT */
    uint64_t step;         /* of the expert, after this part */
    /* Of HM_ERR_BUSY and HM_ERR_REFUSED, as the server said (moe/call.h); else, or unknown: 0. */
    uint32_t retry_after_us, load_us;
    bool turned_away; /* that status is its server's word, not this node's own */
    /* dispatch's: asked again after a refusal */
    bool waits;          /* for ask_at; meanwhile HM_INPROGRESS, and this is what was said: */
    enum hm_status said; /* HM_ERR_BUSY, HM_ERR_REFUSED */
    uint8_t refusals;
    hm_ns ask_at; /* 0: never again */
};
struct hm_dispatch_op;
/* HM_OK: every row has k_min answers (or as many as it has parts, if fewer); look at the parts.
 * HM_ERR_TIMED_OUT: the deadline came before; else the status of the first failed part.  With a
 * line (hm_fail). */
typedef void (*hm_dispatch_cb)(struct hm_dispatch_op *op, enum hm_status status);
struct hm_dispatch_op { /* caller's memory, until cb has run; zero it first */
    /* the caller's */
    uint8_t pass;                  /* enum hm_pass */
    const struct hm_codec *codec;  /* of servers that take it, the others get none; NULL: none */
    struct hm_schema schema;       /* of one row, f32 */
    const float *x, *dy;           /* [row_count, columns]; dy for backward; until cb */
    uint32_t row_count;            /* 1 to HM_CALL_ROWS_MAX */
    struct hm_dispatch_part *part; /* of a backward, no (server, uid) twice */
    unsigned part_count;           /* >= 1; grows by what `more` adds */
    /* Forward: parts have been refused since it was last asked (part[i].refused).  May fill parts from
     * part[part_count] on for their rows, in memory that was there before the start, and answers how
     * many; each row gets at most as many as it has lost.  In a turn of its own.  NULL: nobody. */
    unsigned (*more)(struct hm_dispatch_op *op);
    uint32_t k_min;      /* answers that every row needs; >= 1 */
    bool refusals_final; /* nobody is asked a second time */
    bool busy_final;     /* nor who has no room in his queue: for so many rows */
    bool optional;       /* a row without them is no error: k_min only starts timeout_after_k_min */
    hm_ns deadline;      /* not HM_NS_NEVER */
    hm_ns
        asked; /* when the user did, on hm_loop_clock: the first stage begins there; 0: at start */
    hm_ns timeout_after_k_min; /* HM_NS_NEVER: wait for all */
    hm_dispatch_cb cb;
    void *arg;
    /* dispatch's */
    struct hm_dispatch *dispatch;
    struct hm_link calls;   /* its calls to servers */
    struct hm_timer timer;  /* deadline, or k_min's */
    struct hm_timer turn;   /* start's own failures and the end, in a later turn */
    struct hm_timer again;  /* asks for more */
    struct hm_timer retry;  /* asks those again that wait */
    unsigned refused;       /* parts that it will ask for */
    struct hm_buf *scratch; /* the next five */
    uint32_t *answered;     /* [row_count]: answers so far */
    uint32_t *hopeful;      /* [row_count]: answers so far or still possible */
    uint32_t *need;         /* [row_count]: answers wanted */
    uint32_t *local;        /* [row_count]: a row's place in the call that is being made */
    uint32_t *order;        /* [row_count]: the row at each place of it */
    uint32_t rows_short;    /* rows that lack answers */
    unsigned parts_open, parts_waiting; /* the latter are of the former */
    uint32_t columns;
    hm_ns began;       /* `asked`, or its start */
    uint64_t sequence; /* of a backward */
    bool looking;      /* the directory holds it: its callback comes first */
    bool desperate;    /* a row may have nobody left */
    bool hopeless, ending;
    bool waited, late;   /* a timer has ended it: the one after k_min, or the deadline (late) */
    struct hm_link link; /* of the dispatch's operations */
};
/* HM_OK: cb will come.  HM_ERR_INVALID, HM_ERR_TOO_BIG (with a line), HM_ERR_BUSY (no buffers now):
 * nothing was started. */
HM_MUST_CHECK enum hm_status hm_dispatch_start(struct hm_dispatch *dispatch,
                                               struct hm_dispatch_op *op);

#endif
