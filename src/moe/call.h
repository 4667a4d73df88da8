/* moe/call.h - the wire format of HM_METHOD_EXPERT_CALL, shared by trainers and servers.
 *
 * One call carries each input row once, and parts: (expert, rows).  Request:
 *
 *   header   u8 version, u8 pass, u8 codec, u8 priority, schema of x, u32 row_count,
 *            u16 part_count, u32 table_bytes, u64 incarnation (of the client, drawn at its start),
 *            u64 sequence (of the call; grows), u8 flags (absent: none; HM_CALL_TIMED)
 *   payload  part table, zero-padded to 64 bytes | x rows | for backward: dy rows (as many)
 *   table    a part: string uid, u8 flags, u32 row_count, zeros up to a multiple of 4 bytes from the
 *            table's start, then either u32 first (contiguous) or u32 index[row_count], and for
 *            backward with HM_PART_SCALED f32 scale[row_count]: dy of the part's row i is
 *            scale[i] * dy[index[i]]
 *
 * A backward names an expert in one part only: it is remembered by (client, sequence) and expert, so
 * that a second part to the same expert is a duplicate.
 *
 * x, dy and the rows of the answers are coded by the call's codec (tensor/codec.h).
 *
 * Each part is answered by one reply of its own, in any order:  header u16 part, u8 codec (the
 * call's), u32 row_count, u64 step (of the expert, after this part), u32 retry_after_us and u32
 * load_us (with HM_ERR_BUSY and HM_ERR_REFUSED; else 0: when a part like it could start, and the
 * work of everybody that the expert's lane has before it), schema of the rows, and where the call is HM_CALL_TIMED
 * 4 x u64 ns that the part spent in the server (admit, batch wait, compute, reply: moe/stages.h);
 * payload the rows (y or dx). A part that fails is answered by its status and no rows.  The last
 * part's reply is the call's last.  A failing reply without a header is about the whole call: every
 * part that has not been answered yet ends with its status.  So is a call of a codec that the server
 * does not know or take refused: HM_ERR_UNSUPPORTED.
 *
 * HM_METHOD_EXPERT_INFO: request header string uid; reply header: schema in, schema out, u64 step,
 * u64 parameter_count, u32 batch_rows_max, string kind.  HM_ERR_EXPERT_GONE where the expert is not
 * served.
 *
 * Everything from a peer is checked here: decoders are total, bounded, and leave nothing for later
 * layers to check but uid and schema. */
#ifndef HM_MOE_CALL_H
#define HM_MOE_CALL_H

#include "base/wire.h"
#include "moe/stages.h"
#include "moe/uid.h"
#include "tensor/codec.h"
#include "tensor/tensor.h"

enum {
    HM_CALL_VERSION = 1,
    HM_CALL_PARTS_MAX = 256,
    HM_CALL_ROWS_MAX = 1 << 20,
    HM_CALL_ALIGN = 64
};
enum { HM_CALL_PRIORITIES = 3 }; /* as many as enum hm_priority of the scheduler has */
enum hm_pass { HM_PASS_FORWARD = 0, HM_PASS_BACKWARD = 1 };
enum { HM_PART_CONTIGUOUS = 1, HM_PART_SCALED = 2 };
/* Of a call; only for peers whose hello says wire minor 1 or more. */
enum { HM_CALL_TIMED = 1, HM_CALL_FLAGS = HM_CALL_TIMED, HM_CALL_FLAGS_MINOR = 1 };

struct hm_call_head {
    uint8_t pass, codec, priority;
    struct hm_schema
        schema; /* of a row of x (and of dy: the expert's output schema equals its input's today) */
    uint32_t row_count;
    uint16_t part_count;
    uint32_t table_bytes;           /* padded */
    uint64_t incarnation, sequence; /* sequence >= 1 */
    uint8_t flags;                  /* HM_CALL_TIMED */
};
struct hm_call_part { /* views into the table */
    struct hm_uid uid;
    uint32_t row_count;    /* 1 to head.row_count */
    uint32_t first;        /* contiguous rows from here, if index is NULL */
    const uint32_t *index; /* each < head.row_count; aligned */
    const float *scale;    /* NULL: 1 */
};
struct hm_call_answer {
    uint16_t part;
    uint8_t codec;
    uint32_t row_count;
    uint64_t step;
    uint32_t retry_after_us, load_us;
    struct hm_schema schema;
    bool timed; /* `times` was asked for */
    struct hm_server_times times;
};
void hm_call_head_encode(const struct hm_call_head *head, struct hm_writer *writer);
/* HM_ERR_PEER_PROTOCOL, HM_ERR_TOO_BIG, HM_ERR_UNSUPPORTED (version or codec) */
HM_MUST_CHECK enum hm_status hm_call_head_decode(const void *bytes, size_t byte_count,
                                                 struct hm_call_head *head);
/* Payload bytes that a head implies. */
HM_MUST_CHECK enum hm_status hm_call_payload_bytes(const struct hm_call_head *head,
                                                   uint64_t *bytes);
size_t hm_call_table_bytes(const struct hm_call_part *parts, unsigned part_count); /* padded */
void hm_call_table_encode(const struct hm_call_part *parts, unsigned part_count,
                          struct hm_writer *writer);
/* parts[head->part_count].  HM_ERR_PEER_PROTOCOL unless every part, index and scale is in bounds.
 * A part with a malformed uid is no error of the table: its uid.text is empty, and that part alone
 * is refused. */
HM_MUST_CHECK enum hm_status hm_call_table_decode(const struct hm_call_head *head,
                                                  const void *table, struct hm_call_part *parts);
/* Bytes of `row_count` coded rows of the schema: each tensor's rows lie together; the codec is for
 * f32 ones, others are as they are. */
HM_MUST_CHECK enum hm_status hm_call_rows_bytes(const struct hm_schema *schema, uint8_t codec,
                                                uint32_t row_count, uint64_t *bytes);
void hm_call_answer_encode(const struct hm_call_answer *answer, struct hm_writer *writer);
HM_MUST_CHECK enum hm_status hm_call_answer_decode(const void *bytes, size_t byte_count,
                                                   struct hm_call_answer *answer);

enum { HM_EXPERT_KIND_BYTES = 32 };
struct hm_expert_info { /* what a server says of one of its experts */
    struct hm_schema input, output;
    uint64_t step, parameter_count;
    uint32_t batch_rows_max;
    char kind[HM_EXPERT_KIND_BYTES];
};
void hm_expert_info_encode(const struct hm_expert_info *info, struct hm_writer *writer);
HM_MUST_CHECK enum hm_status hm_expert_info_decode(const void *bytes, size_t byte_count,
                                                   struct hm_expert_info *info);
/* The request: a malformed uid comes out with an empty text, as in a table. */
void hm_expert_query_encode(const struct hm_uid *uid, struct hm_writer *writer);
HM_MUST_CHECK enum hm_status hm_expert_query_decode(const void *bytes, size_t byte_count,
                                                    struct hm_uid *uid);

#endif
