/* transport/proof.c - proofs of a shared key, bound to one connection.
 *
 * Owns nothing.  A proof is HMAC-SHA-256 (RFC 2104) with the key over: the 24 bytes "hivemind fabric
 * proof 1" with its terminating NUL, one byte 1 (by the dialler) or 2, the connection's binding, the
 * prover's node id, the verifier's.
 * Invariants: a proof holds for one connection, one direction and one pair of nodes, so that it can
 * be neither replayed nor reflected nor passed on by somebody in between. */
#include "transport/transport.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

enum { PROOF_BYTES = 32 };
static const char label[] = "hivemind fabric proof 1";

struct statement {
    char label[sizeof label];
    uint8_t role;
    uint8_t binding[HM_BINDING_BYTES];
    uint8_t prover[HM_NODE_ID_BYTES], verifier[HM_NODE_ID_BYTES];
};
_Static_assert(sizeof(struct statement) == sizeof label + 1 + 3 * 32, "no padding");

static bool proof(const uint8_t key[HM_FABRIC_KEY_BYTES], const struct hm_proof_context *context,
                  uint8_t out[PROOF_BYTES])
{
    struct statement statement;
    size_t bytes = 0;
    memcpy(statement.label, label, sizeof label);
    statement.role = context->by_dialler ? 1 : 2;
    memcpy(statement.binding, context->binding, HM_BINDING_BYTES);
    memcpy(statement.prover, context->prover->byte, HM_NODE_ID_BYTES);
    memcpy(statement.verifier, context->verifier->byte, HM_NODE_ID_BYTES);
    return EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, key, HM_FABRIC_KEY_BYTES,
                     (const uint8_t *)&statement, sizeof statement, out, PROOF_BYTES, &bytes) &&
           bytes == PROOF_BYTES;
}

bool hm_proof_make(const uint8_t key[HM_FABRIC_KEY_BYTES], const struct hm_proof_context *context,
                   struct hm_hello *hello)
{
    bool made = proof(key, context, hello->fabric_proof);
    hello->fabric_proof_bytes = made ? PROOF_BYTES : 0;
    return made;
}

bool hm_proof_check(const uint8_t key[HM_FABRIC_KEY_BYTES], const struct hm_proof_context *context,
                    const struct hm_hello *hello)
{
    uint8_t wanted[PROOF_BYTES];
    return hello->fabric_proof_bytes == PROOF_BYTES && proof(key, context, wanted) &&
           CRYPTO_memcmp(wanted, hello->fabric_proof, PROOF_BYTES) == 0;
}
