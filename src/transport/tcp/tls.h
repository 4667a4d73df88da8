/* transport/tcp/tls.h - the TLS profile of the open plane: 1.3 only, both sides prove an Ed25519
 * key, nothing else is trusted or checked.  A node is its key, so there are no names, authorities
 * or dates. */
#ifndef HM_TRANSPORT_TCP_TLS_H
#define HM_TRANSPORT_TCP_TLS_H

#include "transport/identity.h"

#include <openssl/ssl.h>

/* One context for both roles, with a certificate made and signed here by the identity. */
HM_MUST_CHECK enum hm_status hm_tls_create(const struct hm_identity *identity, SSL_CTX **ctx);

/* Between a connection and its socket (tls_wire.c).  The caller's memory, for as long as the
 * connection. */
struct hm_tls_wire {
    int fd;
    int error;    /* errno of what ended it; 0: nothing has */
    bool ended;   /* the peer will send no more */
    bool starved; /* the last call got no further for want of bytes from the peer */
    bool blocked; /* the last call got no further since the kernel takes no more */
    bool drained; /* the socket has given all that it had; hm_tls_wire_begin asks again */
    bool sparing; /* a read that gives less than was asked for drains */
    bool more;    /* the kernel may keep what is written until more comes, which is at once */
};

/* A connection on `fd`, which stays the caller's, through `wire`.  NULL: no memory. */
SSL *hm_tls_connection(SSL_CTX *ctx, int fd, struct hm_tls_wire *wire, bool client);
HM_MUST_CHECK bool hm_tls_wire_init(struct hm_tls_wire *wire, SSL *ssl, int fd);
/* The loop has spoken: the socket may have bytes, or room. */
void hm_tls_wire_begin(struct hm_tls_wire *wire);
/* Reads, or writes one record, of a connection whose handshake is done.  False: hm_tls_error says why
 * not.  `more`: another write follows at once, in this very turn. */
HM_MUST_CHECK bool hm_tls_read(struct hm_tls_wire *wire, SSL *ssl, void *into, size_t wanted,
                               size_t *count);
HM_MUST_CHECK bool hm_tls_write(struct hm_tls_wire *wire, SSL *ssl, const void *from,
                                size_t byte_count, bool more, size_t *count);
/* After the handshake: the node that the peer has proved to be.  False: it proved nothing. */
HM_MUST_CHECK bool hm_tls_peer(const SSL *ssl, struct hm_node_id *node);
/* After the handshake: a secret of this connection, the same on both sides (RFC 8446, 7.5). */
HM_MUST_CHECK bool hm_tls_binding(SSL *ssl, uint8_t *binding, size_t byte_count);
/* Counts the handshake messages of a connection.  After the handshake none is needed, but a peer
 * may send key updates, each of which costs us as much as it costs him, within one call of
 * SSL_read. */
void hm_tls_count(SSL *ssl, unsigned *messages);
/* What an SSL call that failed means: HM_ERR_BUSY (*events: what to wait for), or why the connection
 * is over: HM_ERR_PEER_RESET, HM_ERR_PEER_UNREACHABLE (the network says so), HM_ERR_PEER_PROTOCOL.
 * What other connections have left in this thread's queue of errors is not looked at. */
enum hm_status hm_tls_error(const struct hm_tls_wire *wire, const SSL *ssl, int *events);
/* This thread is in a call that takes small blocks and gives them back at its end (tls_heap.c). */
void hm_tls_hot(bool begins);

#endif
