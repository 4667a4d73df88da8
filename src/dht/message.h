/* dht/message.h - the payloads of FIND and STORE (docs/wire.md, section "DHT").
 *
 * Decoders are total: anything malformed is HM_ERR_PEER_PROTOCOL, and a sink is called only for a
 * message that is sound as a whole. */
#ifndef HM_DHT_MESSAGE_H
#define HM_DHT_MESSAGE_H

#include "dht/contact.h"
#include "dht/dht.h"

enum {
    HM_FIND_KEYS_MAX = HM_DHT_QUERY_KEYS_MAX,
    HM_FIND_REQUEST_BYTES_MAX = 1 + 2 + 34 * HM_FIND_KEYS_MAX,
    HM_FIND_CONTACTS_MAX = 512,
    HM_FIND_CONTACT_BYTES_MAX = 64 * 1024, /* of all contacts of a reply */
    HM_FIND_REPLY_BYTES_MAX = 256 * 1024,
    HM_STORE_RECORDS_MAX = 256,
    HM_STORE_REQUEST_BYTES_MAX = 256 * 1024,
    HM_STORE_REPLY_BYTES_MAX = 2 + HM_STORE_RECORDS_MAX,
};

struct hm_find_key {
    struct hm_dht_id id;
    uint16_t skip; /* entries of the dictionary that the asker has got from this node already */
};
struct hm_find_request {
    bool nodes_only; /* no entries wanted */
    unsigned key_count;
    struct hm_find_key key[HM_FIND_KEYS_MAX];
};
void hm_find_request_encode(const struct hm_find_request *request, struct hm_writer *writer);
HM_MUST_CHECK enum hm_status hm_find_request_decode(const void *bytes, size_t byte_count,
                                                    struct hm_find_request *request);

/* A reply is written piece by piece: contacts_begin, a contact each, keys_begin, then for each key
 * key_begin, its records with hm_record_encode. */
void hm_find_reply_contacts_begin(struct hm_writer *writer, unsigned contact_count);
void hm_find_reply_keys_begin(struct hm_writer *writer, unsigned key_count);
/* nearest: indices into the contacts.  held: live entries of the dictionary; given: that follow. */
void hm_find_reply_key_begin(struct hm_writer *writer, const uint16_t *nearest,
                             unsigned nearest_count, unsigned held, unsigned given);
size_t hm_find_reply_key_bytes(unsigned nearest_count);
struct hm_find_sink {
    /* Contact number `index`, with the caller's reference; may be NULL (no memory). */
    void (*contact)(void *arg, unsigned index, struct hm_contact *contact);
    void (*nearest)(void *arg, unsigned key, unsigned contact);
    void (*record)(void *arg, unsigned key, const struct hm_record *record);
    void (*key_end)(void *arg, unsigned key, unsigned held, unsigned given);
};
/* HM_ERR_PEER_PROTOCOL too if it does not answer exactly `key_count` keys.  Nothing is verified. */
HM_MUST_CHECK enum hm_status hm_find_reply_decode(const void *bytes, size_t byte_count,
                                                  unsigned key_count,
                                                  const struct hm_find_sink *sink, void *arg);

/* u16 count, then records. */
void hm_store_request_begin(struct hm_writer *writer, unsigned record_count);
HM_MUST_CHECK enum hm_status hm_store_request_decode(const void *bytes, size_t byte_count,
                                                     struct hm_record *records, unsigned max,
                                                     unsigned *record_count);
void hm_store_reply_encode(const enum hm_status *statuses, unsigned count,
                           struct hm_writer *writer);
HM_MUST_CHECK enum hm_status hm_store_reply_decode(const void *bytes, size_t byte_count,
                                                   enum hm_status *statuses, unsigned count);

#endif
