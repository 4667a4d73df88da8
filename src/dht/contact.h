/* dht/contact.h - a node that may be asked: its id and where it can be dialled.
 *
 * Contacts do not change, so that the routing table and any number of queries share one; what is
 * learnt anew about a node is a new contact.  Addresses are kept as their wire encoding: a few
 * dozen bytes, where struct hm_addrs has two thousand.  Thread: loop. */
#ifndef HM_DHT_CONTACT_H
#define HM_DHT_CONTACT_H

#include "dht/record.h"
#include "transport/address.h"

enum { HM_CONTACT_ADDR_BYTES_MAX = 512 };
struct hm_contact {
    struct hm_dht_id id;
    uint32_t refs;
    uint16_t addr_bytes; /* of the encoding of struct hm_addrs */
    uint8_t addr[];
};

/* One reference.  Addresses beyond HM_CONTACT_ADDR_BYTES_MAX encoded bytes are left out.
 * HM_ERR_INVALID: there is no address; HM_ERR_NO_MEMORY. */
HM_MUST_CHECK enum hm_status hm_contact_create(const struct hm_dht_id *id,
                                               const struct hm_addrs *addrs,
                                               struct hm_contact **contact);
struct hm_contact *hm_contact_get(struct hm_contact *contact); /* one more reference */
void hm_contact_put(struct hm_contact *contact);               /* NULL is allowed */
void hm_contact_addrs(const struct hm_contact *contact, struct hm_addrs *addrs);
struct hm_node_id hm_contact_node(const struct hm_contact *contact);

/* node id 32, then addresses as hm_addrs_encode writes them. */
void hm_contact_encode(const struct hm_contact *contact, struct hm_writer *writer);
size_t hm_contact_encoded_bytes(const struct hm_contact *contact);
/* NULL, and the reader has failed, on anything malformed, without an address, or without memory. */
struct hm_contact *hm_contact_decode(struct hm_reader *reader);

#endif
