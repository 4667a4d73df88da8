/* dht/fetch.h - the bytes of a payload that has arrived or is announced. */
#ifndef HM_DHT_FETCH_H
#define HM_DHT_FETCH_H

#include "transport/transport.h"

struct hm_fetch;
/* HM_OK: the bytes, readable until this returns.  Else why there are none. */
typedef void (*hm_fetch_cb)(void *arg, enum hm_status status, const void *bytes, size_t byte_count);
/* Takes over `in`.  HM_OK: cb has run already, inside.  HM_INPROGRESS: cb follows, unless *fetch is
 * abandoned before; what is pulled goes to a buffer of `pool`.  Errors (HM_ERR_BUSY: no buffer):
 * cb will not run. */
HM_MUST_CHECK enum hm_status hm_fetch_start(struct hm_buf_pool *pool, struct hm_inbound *in,
                                            hm_fetch_cb cb, void *arg, struct hm_fetch **fetch);
/* cb will not run.  The buffer goes back when the wire has let go of it. */
void hm_fetch_abandon(struct hm_fetch *fetch);

#endif
