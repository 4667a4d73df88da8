/* base/status.h - what went wrong, and how much of the world it took with it. */
#ifndef HM_BASE_STATUS_H
#define HM_BASE_STATUS_H

#if defined(__GNUC__)
#define HM_MUST_CHECK __attribute__((warn_unused_result))
#define HM_PRINTF(format_index, first_index)                                                       \
    __attribute__((format(printf, format_index, first_index)))
#else
#define HM_MUST_CHECK
#define HM_PRINTF(format_index, first_index)
#endif

/* A status belongs to the largest thing it breaks, and the reaction follows from that scope:
 * CALL -> fix or retry, PEER -> drop it and ask another, EXPERT -> that expert at that peer is
 * suspect, LANE -> its device is out, its experts move, NODE -> drain and stop. */
enum hm_scope {
    HM_SCOPE_NONE,
    HM_SCOPE_CALL,
    HM_SCOPE_PEER,
    HM_SCOPE_EXPERT,
    HM_SCOPE_LANE,
    HM_SCOPE_NODE
};

/*    name                      value scope   text
 * Values are wire format: never reuse or renumber one. */
#define HM_STATUS_TABLE(X)                                                                         \
    X(HM_OK, 0, NONE, "ok")                                                                        \
    X(HM_INPROGRESS, 1, NONE, "accepted, the callback will tell")                                  \
    X(HM_ERR_INVALID, -1, CALL, "invalid argument")                                                \
    X(HM_ERR_NO_MEMORY, -2, CALL, "out of memory")                                                 \
    X(HM_ERR_BUSY, -3, CALL, "a bounded queue is full, try later")                                 \
    X(HM_ERR_NOT_FOUND, -4, CALL, "not found")                                                     \
    X(HM_ERR_TIMED_OUT, -5, CALL, "deadline passed")                                               \
    X(HM_ERR_REFUSED, -6, CALL, "the deadline cannot be met, refused")                             \
    X(HM_ERR_CANCELED, -7, CALL, "canceled")                                                       \
    X(HM_ERR_DUPLICATE, -8, CALL, "already applied, its answer is gone")                           \
    X(HM_ERR_TOO_BIG, -9, CALL, "over a fixed limit")                                              \
    X(HM_ERR_UNSUPPORTED, -10, CALL, "not supported here")                                         \
    X(HM_ERR_NUMERIC, -11, CALL, "non-finite input")                                               \
    X(HM_ERR_CORRUPT, -12, CALL, "stored data is corrupt")                                         \
    X(HM_ERR_SHAPE, -13, CALL, "shape or type does not fit the expert")                            \
    X(HM_ERR_STALE, -14, CALL, "a newer value is already stored")                                  \
    X(HM_ERR_DRAINING, -15, CALL, "the server is shutting down")                                   \
    X(HM_ERR_PEER_UNREACHABLE, -20, PEER, "peer is unreachable")                                   \
    X(HM_ERR_PEER_RESET, -21, PEER, "peer closed the connection")                                  \
    X(HM_ERR_PEER_PROTOCOL, -22, PEER, "peer broke the wire protocol")                             \
    X(HM_ERR_PEER_VERSION, -23, PEER, "peer speaks another wire version")                          \
    X(HM_ERR_PEER_DENIED, -24, PEER, "peer is not who it should be, or may not do that")           \
    X(HM_ERR_EXPERT_GONE, -40, EXPERT, "expert is not served here")                                \
    X(HM_ERR_EXPERT_NUMERIC, -41, EXPERT, "expert produced a non-finite value")                    \
    X(HM_ERR_DEVICE, -60, LANE, "device failed")                                                   \
    X(HM_ERR_STORAGE, -80, NODE, "storage failed")

enum hm_status {
#define X(name, value, scope, text) name = value,
    HM_STATUS_TABLE(X)
#undef X
};

/* Never NULL; an unknown value reads "unknown status". */
const char *hm_status_text(enum hm_status status);
/* "HM_ERR_BUSY" and the like, for logs and JSON. */
const char *hm_status_name(enum hm_status status);
enum hm_scope hm_status_scope(enum hm_status status);
/* Decodes a status that a peer sent.  Scopes are local: a peer's status is about that call, that
 * peer or that expert at that peer, never about us, so LANE and NODE come out as HM_ERR_EXPERT_GONE
 * and what is unknown or not an end (HM_INPROGRESS, positive) as HM_ERR_PEER_PROTOCOL. */
enum hm_status hm_status_from_wire(int value);

/* ---- the line a person needs --------------------------------------------- */

enum { HM_ERROR_LINE_BYTES = 512 };
/* Keeps one line (what was wrong, how to mend it) for this thread and gives `status`, so that the
 * place which decides an error can write `return hm_fail(HM_ERR_INVALID, "...", ...)`.  Not for hot
 * paths.  A macro, so that the compiler sees that what comes out is an error, and does not warn of
 * outputs that are written only on success; it evaluates `status` twice. */
#define hm_fail(status, ...) (hm_fail_keep((status), __VA_ARGS__), hm_status_itself(status))
void hm_fail_keep(enum hm_status status, const char *format, ...) HM_PRINTF(2, 3);
static inline enum hm_status hm_status_itself(enum hm_status status)
{
    return status;
}
/* The last line kept on this thread; "" if there is none.  Valid until the next hm_fail on this
 * thread. */
const char *hm_fail_line(void);
/* That line if it was kept with this status, else the status' own text: a status that comes without
 * a line of its own (from a peer, from a callback) is not explained by another failure's. */
const char *hm_fail_line_of(enum hm_status status);
void hm_fail_clear(void);

#endif
