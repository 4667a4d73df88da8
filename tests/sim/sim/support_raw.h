/* A node of the simulated network without rpc: it sends any bytes, keeps what it gets, and pulls
 * nothing unless told. */
#ifndef HM_TEST_SUPPORT_RAW_H
#define HM_TEST_SUPPORT_RAW_H

#include "test.h"

#include "sim/net.h"
#include "transport/rpc_internal.h"

struct raw {
    struct hm_world *world;
    struct hm_identity *identity;
    struct hm_buf_pool *buffers;
    struct hm_transport *transport;
    struct hm_ep *ep; /* NULL: down */
    bool up, closed, hoards;
    struct hm_inbound *hoard[512];
    unsigned hoarded, messages, downs, busy;
    struct hm_rpc_header last;
    enum hm_status why;
    /* Its payload is readable in the callback if it came with the message; else in->data is NULL. */
    void (*on_message)(struct raw *raw, const struct hm_rpc_header *header,
                       const struct hm_inbound *in);
    void *arg;
};
/* fabric_key: it proves that; NULL: none. */
void raw_open(struct raw *raw, struct hm_world *world, unsigned key, const char *listen,
              const uint8_t *fabric_key);
void raw_connect(struct raw *raw); /* to sim:1, and runs the world until it is up */
/* A header with user_bytes zeros after it; the payload is zeros. */
void raw_send(struct raw *raw, const struct hm_rpc_header *header, size_t user_bytes,
              size_t payload_bytes);
void raw_send_bytes(struct raw *raw, struct hm_ep *ep, const void *header, size_t header_bytes,
                    const void *payload, size_t payload_bytes);
void raw_close(struct raw *raw);

#endif
