/* tests/support/raw_tls.h - a peer that speaks TLS and frames by hand, to break rules that ours
 * keeps.
 *
 * Blocking, for a process of its own, or non-blocking with `pump` called wherever it would wait. */
#ifndef HM_TEST_RAW_TLS_H
#define HM_TEST_RAW_TLS_H

#include "base/assert.h"
#include "base/loop.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/tls.h"
#include "transport/transport.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>

struct raw_peer {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
    void (*pump)(void *arg); /* NULL: block */
    void *arg;
};

/* "tcp:127.0.0.1:4242" */
static inline uint16_t raw_port(const struct hm_addr *addr)
{
    return (uint16_t)atoi(strrchr(addr->text, ':') + 1);
}

static inline int raw_connect(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) {
        if (fd >= 0) close(fd);
        return -1;
    }
    return fd;
}

static inline bool raw_retry(struct raw_peer *peer, int result)
{
    int error = SSL_get_error(peer->ssl, result);
    if (!peer->pump || (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE))
        return false;
    peer->pump(peer->arg);
    return true;
}

/* Takes fd.  False: the other side would not have us. */
static inline bool raw_tls(struct raw_peer *peer, const struct hm_identity *identity, int fd,
                           bool client)
{
    peer->fd = fd;
    peer->ctx = NULL;
    peer->ssl = NULL;
    if (fd < 0 || hm_tls_create(identity, &peer->ctx) != HM_OK) return false;
    struct hm_tls_wire wire; /* not for a struct that is copied: OpenSSL's own does here */
    peer->ssl = hm_tls_connection(peer->ctx, fd, &wire, client);
    if (!peer->ssl || SSL_set_fd(peer->ssl, fd) != 1) return false;
    if (peer->pump) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    for (;;) {
        ERR_clear_error();
        int result = SSL_do_handshake(peer->ssl);
        if (result == 1) return true;
        if (!raw_retry(peer, result)) return false;
    }
}

static inline void raw_close(struct raw_peer *peer)
{
    SSL_free(peer->ssl);
    SSL_CTX_free(peer->ctx);
    if (peer->fd >= 0) close(peer->fd);
    peer->ssl = NULL;
    peer->ctx = NULL;
    peer->fd = -1;
}

static inline bool raw_write(struct raw_peer *peer, const void *bytes, size_t byte_count)
{
    const uint8_t *at = bytes;
    while (byte_count > 0) {
        size_t done = 0;
        ERR_clear_error();
        int result = SSL_write_ex(peer->ssl, at, byte_count, &done);
        if (result > 0)
            at += done, byte_count -= done;
        else if (!raw_retry(peer, result))
            return false;
    }
    return true;
}

static inline bool raw_read(struct raw_peer *peer, void *bytes, size_t byte_count)
{
    uint8_t *at = bytes;
    while (byte_count > 0) {
        size_t done = 0;
        ERR_clear_error();
        int result = SSL_read_ex(peer->ssl, at, byte_count, &done);
        if (result > 0)
            at += done, byte_count -= done;
        else if (!raw_retry(peer, result))
            return false;
    }
    return true;
}

static inline bool raw_frame(struct raw_peer *peer, struct hm_frame frame, const void *header,
                             const void *payload)
{
    uint8_t bytes[HM_FRAME_BYTES];
    hm_frame_encode(&frame, bytes);
    return raw_write(peer, bytes, sizeof bytes) && raw_write(peer, header, frame.header_bytes) &&
           raw_write(peer, payload, frame.payload_bytes);
}

static inline bool raw_hello(struct raw_peer *peer, uint16_t wire_major, uint64_t credit)
{
    uint8_t bytes[HM_FRAME_HELLO_BYTES_MAX];
    struct hm_hello hello = {.wire_major = wire_major, .wire_minor = HM_WIRE_MINOR};
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_hello_encode(&hello, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    struct hm_frame frame = {.type = HM_FRAME_HELLO,
                             .header_bytes = (uint16_t)hm_writer_count(&writer),
                             .value = credit};
    return raw_frame(peer, frame, bytes, NULL);
}

/* Reads one frame; its header and payload go to `body` (64 KiB). */
static inline bool raw_next(struct raw_peer *peer, struct hm_frame *frame, uint8_t *body)
{
    uint8_t bytes[HM_FRAME_BYTES];
    return raw_read(peer, bytes, sizeof bytes) && hm_frame_decode(bytes, frame) == HM_OK &&
           raw_read(peer, body, frame->header_bytes) &&
           raw_read(peer, body + frame->header_bytes, frame->payload_bytes);
}

#endif
