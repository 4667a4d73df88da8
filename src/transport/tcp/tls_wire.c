/* transport/tcp/tls_wire.c - between TLS and its socket: how records leave and come in.
 *
 * OpenSSL's own socket BIO makes a packet of every record and reads until the kernel says that there is
 * nothing more.  This one
 *   - lets the kernel keep a record back (MSG_MORE) while its sender says that another one follows at
 *     once: four records of 16 KiB make one packet of the loopback's size, and one wake-up of who
 *     reads them;
 *   - knows that a read which gave less than was asked for has emptied the socket, and spares the one
 *     that would say so;
 *   - remembers how the last transfer ended, so that "nothing for now", by far the most frequent end, is
 *     told without OpenSSL's queue of errors.
 *
 * Owns:      the BIO's method, for the life of the process.  The struct is its endpoint's.
 * Failure:   what the socket said is in `error` and `ended`, for hm_tls_error. */
#include "base/loop.h"
#include "transport/tcp/tls.h"

#include <errno.h>
#include <sys/socket.h>

#include <openssl/err.h>

static int wire_send(BIO *bio, const char *from, int count)
{
    struct hm_tls_wire *wire = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t sent = send(wire->fd, from, (size_t)count, MSG_NOSIGNAL | (wire->more ? MSG_MORE : 0));
    if (sent > 0) return (int)sent;
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
        wire->blocked = true;
        BIO_set_retry_write(bio);
    } else {
        wire->error = sent < 0 ? errno : ECONNRESET;
    }
    return -1;
}

static int wire_recv(BIO *bio, char *into, int count)
{
    struct hm_tls_wire *wire = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t got = wire->drained ? -1 : recv(wire->fd, into, (size_t)count, 0);
    if (got > 0) {
        wire->drained = wire->sparing && got < count;
        return (int)got;
    }
    if (got == 0) {
        wire->ended = true;
        return 0;
    }
    if (wire->drained || errno == EAGAIN || errno == EINTR) {
        wire->starved = true;
        BIO_set_retry_read(bio);
    } else {
        wire->error = errno;
    }
    return -1;
}

static long wire_ctrl(BIO *bio, int command, long number, void *arg)
{
    (void)number, (void)arg;
    const struct hm_tls_wire *wire = BIO_get_data(bio);
    if (command == BIO_CTRL_EOF) return wire->ended;
    return command == BIO_CTRL_FLUSH; /* nothing is kept here; all else is unknown */
}

static BIO_METHOD *method;

static void method_make(void)
{
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "hivemind socket");
    if (!method) return;
    (void)BIO_meth_set_write(method, wire_send);
    (void)BIO_meth_set_read(method, wire_recv);
    (void)BIO_meth_set_ctrl(method, wire_ctrl);
}

bool hm_tls_wire_init(struct hm_tls_wire *wire, SSL *ssl, int fd)
{
    static CRYPTO_ONCE once = CRYPTO_ONCE_STATIC_INIT;
    *wire = (struct hm_tls_wire){.fd = fd};
    BIO *bio = CRYPTO_THREAD_run_once(&once, method_make) == 1 && method ? BIO_new(method) : NULL;
    if (!bio) return false;
    BIO_set_data(bio, wire);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    return true;
}

void hm_tls_wire_begin(struct hm_tls_wire *wire)
{
    wire->starved = wire->blocked = wire->drained = false;
}

bool hm_tls_read(struct hm_tls_wire *wire, SSL *ssl, void *into, size_t wanted, size_t *count)
{
    wire->starved = wire->blocked = false;
    wire->sparing = true;
    hm_tls_hot(true);
    int result = SSL_read_ex(ssl, into, wanted, count);
    hm_tls_hot(false);
    wire->sparing = false;
    return result > 0;
}

bool hm_tls_write(struct hm_tls_wire *wire, SSL *ssl, const void *from, size_t byte_count,
                  bool more, size_t *count)
{
    wire->starved = wire->blocked = false;
    wire->more = more;
    hm_tls_hot(true);
    int result = SSL_write_ex(ssl, from, byte_count, count);
    hm_tls_hot(false);
    wire->more = false;
    return result > 0;
}

static enum hm_status errno_status(int error)
{
    switch (error) {
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN: return HM_ERR_PEER_UNREACHABLE;
    default: return HM_ERR_PEER_RESET;
    }
}

enum hm_status hm_tls_error(const struct hm_tls_wire *wire, const SSL *ssl, int *events)
{
    *events = wire->blocked ? HM_WRITABLE : HM_READABLE;
    if (wire->starved || wire->blocked) return HM_ERR_BUSY;
    /* With an empty queue OpenSSL answers from the state of this connection alone, whatever others have
     * left on this thread. */
    ERR_clear_error();
    switch (SSL_get_error(ssl, 0)) {
    case SSL_ERROR_WANT_READ: *events = HM_READABLE; return HM_ERR_BUSY;
    case SSL_ERROR_WANT_WRITE: *events = HM_WRITABLE; return HM_ERR_BUSY;
    case SSL_ERROR_ZERO_RETURN: return HM_ERR_PEER_RESET;
    default: break;
    }
    if (wire->error) return errno_status(wire->error);
    return wire->ended ? HM_ERR_PEER_RESET : HM_ERR_PEER_PROTOCOL;
}
