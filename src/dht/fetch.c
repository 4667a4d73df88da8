/* dht/fetch.c - a pull with an owner that may leave.
 *
 * A peer decides when a pull ends; a query or a request must not wait for that beyond its own
 * time.  So the pull is an object of its own, which needs nothing but its buffer once it is
 * abandoned. */
#include "dht/fetch.h"

#include <stdlib.h>

struct hm_fetch {
    struct hm_buf *buf;
    hm_fetch_cb cb; /* NULL: abandoned */
    void *arg;
};

static void on_pulled(void *arg, enum hm_status status)
{
    struct hm_fetch *fetch = arg;
    if (fetch->cb)
        fetch->cb(fetch->arg, status, status == HM_OK ? fetch->buf->base : NULL,
                  status == HM_OK ? fetch->buf->bytes : 0);
    hm_buf_put(fetch->buf);
    free(fetch);
}

enum hm_status hm_fetch_start(struct hm_buf_pool *pool, struct hm_inbound *in, hm_fetch_cb cb,
                              void *arg, struct hm_fetch **started)
{
    *started = NULL;
    if (in->data || in->bytes == 0) {
        cb(arg, HM_OK, in->data, in->bytes);
        hm_inbound_drop(in);
        return HM_OK;
    }
    struct hm_fetch *fetch = malloc(sizeof *fetch);
    struct hm_buf *buf = NULL;
    enum hm_status status =
        fetch ? hm_buf_pool_get(pool, in->bytes, &buf) : hm_fail(HM_ERR_NO_MEMORY, "no memory");
    if (status != HM_OK) {
        hm_inbound_drop(in);
        goto free_fetch;
    }
    *fetch = (struct hm_fetch){.buf = buf, .cb = cb, .arg = arg};
    struct hm_span into = hm_buf_span(buf);
    status = hm_inbound_pull(in, &into, on_pulled, fetch);
    if (status != HM_OK) goto put_buf;
    *started = fetch;
    return HM_INPROGRESS;
put_buf:
    hm_buf_put(buf);
free_fetch:
    free(fetch);
    return status;
}

void hm_fetch_abandon(struct hm_fetch *fetch)
{
    fetch->cb = NULL;
}
