/* transport/identity.h - who a node is: an Ed25519 key; its id is the SHA-256 of the 32-byte public key. */
#ifndef HM_TRANSPORT_IDENTITY_H
#define HM_TRANSPORT_IDENTITY_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HM_NODE_ID_BYTES = 32,
    HM_PUBLIC_KEY_BYTES = 32,
    HM_SIGNATURE_BYTES = 64,
    HM_DIGEST_BYTES = 32,
    HM_NODE_ID_TEXT_BYTES = 2 * HM_NODE_ID_BYTES + 1,
};
struct hm_node_id {
    uint8_t byte[HM_NODE_ID_BYTES];
};

struct hm_identity;
/* A fresh key; `seed` NULL draws it from the operating system, else 32 bytes that decide it (tests, simulator). */
HM_MUST_CHECK enum hm_status hm_identity_create(const uint8_t *seed, struct hm_identity **identity);
/* The key in `path` (PEM, mode 0600); made there first if the file does not exist.  HM_ERR_STORAGE with a line for a file
 * that others can read, that is damaged, or that cannot be written. */
HM_MUST_CHECK enum hm_status hm_identity_load(const char *path, struct hm_identity **identity);
void hm_identity_destroy(struct hm_identity *identity);
const struct hm_node_id *hm_identity_node(const struct hm_identity *identity);
const uint8_t *hm_identity_public_key(const struct hm_identity *identity); /* HM_PUBLIC_KEY_BYTES */
/* The EVP_PKEY, for the TLS provider. */
void *hm_identity_evp(const struct hm_identity *identity);
/* 35 us. */
HM_MUST_CHECK enum hm_status hm_identity_sign(const struct hm_identity *identity, const void *bytes,
                                              size_t byte_count,
                                              uint8_t signature[HM_SIGNATURE_BYTES]);
/* 92 us.  Total: any bytes may be passed. */
bool hm_signature_valid(const uint8_t public_key[HM_PUBLIC_KEY_BYTES], const void *bytes,
                        size_t byte_count, const uint8_t signature[HM_SIGNATURE_BYTES]);
void hm_node_id_from_key(const uint8_t public_key[HM_PUBLIC_KEY_BYTES], struct hm_node_id *node);
void hm_sha256(const void *bytes, size_t byte_count, uint8_t digest[HM_DIGEST_BYTES]);

static inline bool hm_node_id_equal(const struct hm_node_id *a, const struct hm_node_id *b)
{
    return __builtin_memcmp(a->byte, b->byte, HM_NODE_ID_BYTES) == 0;
}
/* 64 lower-case hexadecimal digits and a terminator; returns text. */
const char *hm_node_id_text(const struct hm_node_id *node, char text[HM_NODE_ID_TEXT_BYTES]);
HM_MUST_CHECK enum hm_status hm_node_id_parse(const char *text, size_t text_bytes,
                                              struct hm_node_id *node);

#endif
