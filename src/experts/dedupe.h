/* experts/dedupe.h - which backwards an expert has already applied: an anti-replay window a client
 * (as RFC 6479's).
 *
 * A client numbers its backward calls to an expert with a growing sequence.  The window keeps, for
 * each of the last clients_max clients, the highest sequence seen and one bit for each of the
 * HM_DEDUPE_WINDOW below it; what is older than the window counts as applied.  So memory is bounded
 * and a gradient is applied at most once, also after a restart, because the window is stored in the
 * checkpoint with the parameters that it speaks of.
 *
 * When a new client finds the table full, one of the node that has the most clients in it is
 * forgotten, of these (and of several such nodes) the one unseen for longest.  So a node that comes
 * again and again in new lives forgets its own, and nobody else's. */
#ifndef HM_EXPERTS_DEDUPE_H
#define HM_EXPERTS_DEDUPE_H

#include "base/status.h"
#include "base/wire.h"

#include <stdbool.h>

enum { HM_DEDUPE_WINDOW = 1024, HM_CLIENT_ID_BYTES = 16 };
/* Who: the first half is a digest of the client's node id, the second of node id and incarnation (drawn
 * at its start). */
struct hm_client_id {
    uint8_t byte[HM_CLIENT_ID_BYTES];
};
struct hm_dedupe;
HM_MUST_CHECK enum hm_status hm_dedupe_create(unsigned clients_max, struct hm_dedupe **dedupe);
void hm_dedupe_destroy(struct hm_dedupe *dedupe);
/* True: seen before (or too old to tell); apply nothing.  False: not seen. */
bool hm_dedupe_seen(const struct hm_dedupe *dedupe, const struct hm_client_id *client, uint64_t sequence);
/* Remembers it.  Sequences start at 1; 0 is asserted. */
void hm_dedupe_add(struct hm_dedupe *dedupe, const struct hm_client_id *client, uint64_t sequence);
/* Takes it back: the backward ended without stepping, a retry may apply it. */
void hm_dedupe_remove(struct hm_dedupe *dedupe, const struct hm_client_id *client, uint64_t sequence);
size_t hm_dedupe_encoded_bytes(const struct hm_dedupe *dedupe);
void hm_dedupe_encode(const struct hm_dedupe *dedupe, struct hm_writer *writer);
/* HM_ERR_CORRUPT, and the window left empty, for bytes that encode did not write. */
HM_MUST_CHECK enum hm_status hm_dedupe_decode(struct hm_dedupe *dedupe, const void *bytes, size_t byte_count);

#endif
