/* transport/tcp/tls.c - OpenSSL, set up for nodes that trust keys and not names.
 *
 * Owns nothing after it has returned: contexts and connections are the caller's.
 * Failure:   creating fails only for want of memory.  Handshakes that break the profile (another
 *            version, another kind of key, no certificate) end in hm_tls_error.
 * Invariant: a finished handshake has proved possession of exactly one Ed25519 key. */
#include "transport/tcp/tls.h"

#include <openssl/err.h>
#include <openssl/x509.h>

enum {
    CERTIFICATE_BYTES_MAX = 4096, /* ours has about 300 */
    READ_BUFFER_BYTES = 64 << 10, /* several records a system call */
};

/* RFC 5280 says how a certificate without a meaningful end is dated. */
static bool certificate_fill(X509 *certificate, EVP_PKEY *key)
{
    X509_NAME *name = X509_get_subject_name(certificate);
    return X509_set_version(certificate, X509_VERSION_3) == 1 &&
           ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1) == 1 &&
           ASN1_TIME_set_string_X509(X509_getm_notBefore(certificate), "20000101000000Z") == 1 &&
           ASN1_TIME_set_string_X509(X509_getm_notAfter(certificate), "99991231235959Z") == 1 &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const uint8_t *)"hivemind", -1, -1,
                                      0) == 1 &&
           X509_set_issuer_name(certificate, name) == 1 && X509_set_pubkey(certificate, key) == 1 &&
           X509_sign(certificate, key, NULL) > 0; /* Ed25519 brings its own digest */
}

/* The raw key of a certificate, or false for any other kind of key. */
static bool certificate_key(X509 *certificate, uint8_t key[HM_PUBLIC_KEY_BYTES])
{
    EVP_PKEY *public_key = certificate ? X509_get0_pubkey(certificate) : NULL;
    size_t bytes = HM_PUBLIC_KEY_BYTES;
    return public_key && EVP_PKEY_get_base_id(public_key) == EVP_PKEY_ED25519 &&
           EVP_PKEY_get_raw_public_key(public_key, key, &bytes) == 1 &&
           bytes == HM_PUBLIC_KEY_BYTES;
}

/* Replaces the whole of chain verification.  That the peer holds the key is what TLS itself checks,
 * through CertificateVerify. */
static int verify(X509_STORE_CTX *store, void *arg)
{
    (void)arg;
    uint8_t key[HM_PUBLIC_KEY_BYTES];
    if (certificate_key(X509_STORE_CTX_get0_cert(store), key)) return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_UNSUPPORTED_SIGNATURE_ALGORITHM);
    return 0;
}

static bool profile_set(SSL_CTX *ctx)
{
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                 SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_CIPHER_SERVER_PREFERENCE);
    /* Strangers hold no buffers while they say nothing.  A connection that is up loses the mode, which
     * asks the heap for 80 KiB with every small call: tcp.c lets go of the buffers of idle ones. */
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    /* Without it a read ends at a message that is not data, and the loop goes on to others. */
    SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, verify, NULL);
    SSL_CTX_set_max_cert_list(ctx, CERTIFICATE_BYTES_MAX);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER_BYTES);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_num_tickets(ctx, 0) == 1 &&
           SSL_CTX_set_ciphersuites(
               ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") ==
               1 &&
           SSL_CTX_set1_groups_list(ctx, "X25519:P-256") == 1 &&
           SSL_CTX_set1_sigalgs_list(ctx, "ed25519") == 1 &&
           SSL_CTX_set1_client_sigalgs_list(ctx, "ed25519") == 1;
}

enum hm_status hm_tls_create(const struct hm_identity *identity, SSL_CTX **ctx)
{
    EVP_PKEY *key = hm_identity_evp(identity);
    X509 *certificate = X509_new();
    SSL_CTX *made = SSL_CTX_new(TLS_method());
    bool ok = certificate && made && certificate_fill(certificate, key) && profile_set(made) &&
              SSL_CTX_use_certificate(made, certificate) == 1 &&
              SSL_CTX_use_PrivateKey(made, key) == 1;
    X509_free(certificate);
    if (!ok) {
        char reason[128];
        ERR_error_string_n(ERR_peek_error(), reason, sizeof reason);
        ERR_clear_error();
        SSL_CTX_free(made);
        return hm_fail(HM_ERR_NO_MEMORY, "OpenSSL cannot be set up: %s", reason);
    }
    *ctx = made;
    return HM_OK;
}

SSL *hm_tls_connection(SSL_CTX *ctx, int fd, struct hm_tls_wire *wire, bool client)
{
    SSL *ssl = SSL_new(ctx);
    if (!ssl || !hm_tls_wire_init(wire, ssl, fd)) {
        SSL_free(ssl);
        ERR_clear_error();
        return NULL;
    }
    if (client)
        SSL_set_connect_state(ssl);
    else
        SSL_set_accept_state(ssl);
    return ssl;
}

static void on_message(int writing, int version, int type, const void *bytes, size_t byte_count,
                       SSL *ssl, void *arg)
{
    (void)version, (void)bytes, (void)byte_count, (void)ssl;
    if (!writing && type == SSL3_RT_HANDSHAKE) ++*(unsigned *)arg;
}

void hm_tls_count(SSL *ssl, unsigned *messages)
{
    SSL_set_msg_callback(ssl, on_message);
    SSL_set_msg_callback_arg(ssl, messages);
}

bool hm_tls_peer(const SSL *ssl, struct hm_node_id *node)
{
    uint8_t key[HM_PUBLIC_KEY_BYTES];
    if (!certificate_key(SSL_get0_peer_certificate(ssl), key)) return false;
    hm_node_id_from_key(key, node);
    return true;
}

bool hm_tls_binding(SSL *ssl, uint8_t *binding, size_t byte_count)
{
    static const char label[] =
        "EXPERIMENTAL hivemind fabric"; /* RFC 5705, section 4: unregistered */
    return SSL_export_keying_material(ssl, binding, byte_count, label, sizeof label - 1, NULL, 0,
                                      0) == 1;
}
