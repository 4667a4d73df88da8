/* transport/tcp/tls.h - the TLS profile of the open plane: 1.3 only, both sides prove an Ed25519
 * key, nothing else is trusted or checked.  A node is its key, so there are no names, authorities
 * or dates. */
#ifndef HM_TRANSPORT_TCP_TLS_H
#define HM_TRANSPORT_TCP_TLS_H

#include "transport/identity.h"

#include <openssl/ssl.h>

/* One context for both roles, with a certificate made and signed here by the identity. */
HM_MUST_CHECK enum hm_status hm_tls_create(const struct hm_identity *identity, SSL_CTX **ctx);
/* A connection on `fd`, which stays the caller's.  NULL: no memory. */
SSL *hm_tls_connection(SSL_CTX *ctx, int fd, bool client);
/* After the handshake: the node that the peer has proved to be.  False: it proved nothing. */
HM_MUST_CHECK bool hm_tls_peer(const SSL *ssl, struct hm_node_id *node);
/* After the handshake: a secret of this connection, the same on both sides (RFC 8446, 7.5). */
HM_MUST_CHECK bool hm_tls_binding(SSL *ssl, uint8_t *binding, size_t byte_count);
/* Counts the handshake messages of a connection.  After the handshake none is needed, but a peer
 * may send key updates, each of which costs us as much as it costs him, within one call of
 * SSL_read. */
void hm_tls_count(SSL *ssl, unsigned *messages);
/* Before every SSL call: what another connection left in this thread's queue would be taken for its
 * own.  Cheap where there is nothing, unlike clearing. */
void hm_tls_forget_errors(void);
/* What an SSL call that returned `result` <= 0 means: HM_ERR_BUSY (*events: what to wait for), or
 * why the connection is over: HM_ERR_PEER_RESET, HM_ERR_PEER_UNREACHABLE (the network says so),
 * HM_ERR_PEER_PROTOCOL. */
enum hm_status hm_tls_error(const SSL *ssl, int result, int *events);

#endif
