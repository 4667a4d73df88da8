/* base/loop_uv_system.c - signals and name resolution on the real loop.
 *
 * A resolution:
 *
 *     hm_loop_uv_resolve --numeric-----------------------------> posted --+
 *            |                                                            |
 *            +--name--> looked up on libuv's thread pool --answer---------+--> cb, once
 *                               |                                         |
 *                               +--cancel--> posted (CANCELED) -----------+
 *                                    \-> the answer, when it comes, finds nobody
 *
 * Owns a request for each: it lives until its callback has run and libuv is done with it, which may
 * be later than the user's hm_resolve.  Nothing calls back from inside a call of the user's. */
#include "base/loop_uv.h"

#include "base/assert.h"
#include "base/loop_uv_impl.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More at once is a fault of the caller's; libuv's pool looks up four at a time. */
enum { RESOLVES_MAX = 256 };

struct signal_slot {
    uv_signal_t handle;
    struct loop_uv *loop;
    struct hm_signal *signal; /* NULL: stopped */
};

struct request {
    uv_getaddrinfo_t lookup;
    struct loop_uv *loop;
    struct hm_resolve *resolve; /* NULL: told */
    struct hm_post post;
    enum hm_status status; /* what the post will tell */
    uint16_t port;
    bool looking, posted; /* who still holds the request */
};

/* ---- signals ------------------------------------------------------------- */

static void on_signal(uv_signal_t *handle, int number)
{
    struct signal_slot *slot = handle->data;
    if (!slot->signal) return;
    hm_loop_uv_batch_begin(slot->loop);
    slot->signal->cb(slot->signal, number);
}

static void on_signal_closed(uv_handle_t *handle)
{
    free(handle->data);
}

enum hm_status hm_loop_uv_signal_start(struct hm_loop *base, struct hm_signal *signal, int number)
{
    struct loop_uv *loop = hm_loop_uv_of(base);
    HM_ASSERT(!signal->impl && signal->cb);
    struct signal_slot *slot = calloc(1, sizeof *slot);
    if (!slot) return hm_fail(HM_ERR_NO_MEMORY, "no memory to catch signal %d", number);
    *slot = (struct signal_slot){.loop = loop, .signal = signal};
    int error = uv_signal_init(&loop->uv, &slot->handle);
    if (error) {
        free(slot);
        return hm_fail(HM_ERR_NO_MEMORY, "signal %d: %s", number, uv_strerror(error));
    }
    slot->handle.data = slot;
    error = uv_signal_start(&slot->handle, on_signal, number);
    if (error) {
        uv_close((uv_handle_t *)&slot->handle, on_signal_closed);
        return hm_fail(HM_ERR_INVALID, "signal %d cannot be caught: %s", number,
                       uv_strerror(error));
    }
    signal->impl = slot;
    loop->signal_count++;
    return HM_OK;
}

void hm_loop_uv_signal_stop(struct hm_loop *base, struct hm_signal *signal)
{
    struct signal_slot *slot = signal->impl;
    if (!slot) return;
    HM_ASSERT(slot->loop == hm_loop_uv_of(base) && slot->signal == signal);
    slot->signal = NULL;
    signal->impl = NULL;
    slot->loop->signal_count--;
    uv_close((uv_handle_t *)&slot->handle, on_signal_closed);
}

/* ---- names --------------------------------------------------------------- */

static void release(struct request *request)
{
    if (!request->looking && !request->posted) free(request);
}

/* The user's callback may free his hm_resolve. */
static void tell(struct request *request, enum hm_status status)
{
    struct hm_resolve *resolve = request->resolve;
    request->resolve = NULL;
    resolve->impl = NULL;
    request->loop->resolve_count--;
    resolve->cb(resolve, status);
}

static void on_posted(struct hm_post *post)
{
    struct request *request = post->arg;
    request->posted = false;
    if (request->resolve) tell(request, request->status);
    release(request);
}

static void post_status(struct request *request, enum hm_status status)
{
    request->status = status;
    request->posted = true;
    request->post = (struct hm_post){.cb = on_posted, .arg = request};
    hm_loop_post(&request->loop->base, &request->post);
}

static void add_address(struct hm_resolve *resolve, const struct sockaddr *address, size_t bytes,
                        uint16_t port)
{
    if (resolve->address_count == HM_RESOLVED_MAX) return;
    struct sockaddr_storage *to = &resolve->address[resolve->address_count];
    *to = (struct sockaddr_storage){0};
    memcpy(to, address, bytes);
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)to)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)to)->sin_port = htons(port);
    resolve->address_count++;
}

static enum hm_status lookup_status(int error)
{
    switch (error) {
    case UV_ECANCELED:
    case UV_EAI_CANCELED: return HM_ERR_CANCELED;
    case UV_EAI_MEMORY:
    case UV_ENOMEM: return HM_ERR_NO_MEMORY;
    case UV_EAI_AGAIN: return HM_ERR_TIMED_OUT; /* the resolver did not answer */
    default: return HM_ERR_NOT_FOUND;
    }
}

static void on_lookup(uv_getaddrinfo_t *lookup, int error, struct addrinfo *found)
{
    struct request *request = lookup->data;
    request->looking = false;
    if (request->resolve && !request->posted) {
        hm_loop_uv_batch_begin(request->loop);
        struct hm_resolve *resolve = request->resolve;
        for (const struct addrinfo *at = error ? NULL : found; at; at = at->ai_next)
            if (at->ai_family == AF_INET || at->ai_family == AF_INET6)
                add_address(resolve, at->ai_addr, at->ai_addrlen, request->port);
        enum hm_status status = error ? lookup_status(error) : HM_OK;
        if (status == HM_OK && resolve->address_count == 0) status = HM_ERR_NOT_FOUND;
        if (status != HM_OK && error)
            (void)hm_fail(status, "the name does not resolve: %s", uv_strerror(error));
        tell(request, status);
    }
    uv_freeaddrinfo(found);
    release(request);
}

/* Fills in an address written in digits; true if `host` is one. */
static bool resolve_numeric(struct hm_resolve *resolve, const char *host, uint16_t port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1)
        add_address(resolve, (const struct sockaddr *)&v4, sizeof v4, port);
    else if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1)
        add_address(resolve, (const struct sockaddr *)&v6, sizeof v6, port);
    return resolve->address_count > 0;
}

enum hm_status hm_loop_uv_resolve(struct hm_loop *base, struct hm_resolve *resolve,
                                  const char *host, uint16_t port)
{
    struct loop_uv *loop = hm_loop_uv_of(base);
    HM_ASSERT(!resolve->impl && resolve->cb);
    if (loop->resolve_count == RESOLVES_MAX)
        return hm_fail(HM_ERR_BUSY, "more than %d names are being looked up", RESOLVES_MAX);
    struct request *request = calloc(1, sizeof *request);
    if (!request) return hm_fail(HM_ERR_NO_MEMORY, "no memory to look up '%s'", host);
    *request = (struct request){.loop = loop, .resolve = resolve, .port = port};
    request->lookup.data = request;
    resolve->address_count = 0;
    if (resolve_numeric(resolve, host, port)) {
        post_status(request, HM_OK);
    } else {
        /* AI_ADDRCONFIG is left out: it hides ::1 on machines whose only IPv6 address is the
         * loopback's. */
        const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
        int error = uv_getaddrinfo(&loop->uv, &request->lookup, on_lookup, host, NULL, &hints);
        if (error) {
            free(request);
            return hm_fail(error == UV_ENOMEM ? HM_ERR_NO_MEMORY : HM_ERR_INVALID,
                           "'%s' is no host name: %s", host, uv_strerror(error));
        }
        request->looking = true;
    }
    resolve->impl = request;
    loop->resolve_count++;
    return HM_OK;
}

void hm_loop_uv_resolve_cancel(struct hm_loop *base, struct hm_resolve *resolve)
{
    struct request *request = resolve->impl;
    if (!request) return;
    HM_ASSERT(request->loop == hm_loop_uv_of(base) && request->resolve == resolve);
    resolve->address_count = 0;
    if (request->posted) {
        request->status = HM_ERR_CANCELED;
        return;
    }
    /* A lookup that a pool thread has begun cannot be stopped; the user need not wait for it. */
    (void)uv_cancel((uv_req_t *)&request->lookup);
    post_status(request, HM_ERR_CANCELED);
}
