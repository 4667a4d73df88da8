/* dht/contact.c - counted, immutable contacts.  The encoding is checked when a contact is made, so
 * that reading it back cannot fail. */
#include "dht/contact.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

/* As many of the first addresses as fit. */
static size_t encode_addrs(const struct hm_addrs *addrs, uint8_t bytes[HM_CONTACT_ADDR_BYTES_MAX])
{
    struct hm_addrs kept = *addrs;
    for (; kept.count > 0; kept.count--) {
        struct hm_writer writer;
        hm_writer_init(&writer, bytes, HM_CONTACT_ADDR_BYTES_MAX);
        hm_addrs_encode(&kept, &writer);
        if (hm_writer_ok(&writer)) return hm_writer_count(&writer);
    }
    return 0;
}

enum hm_status hm_contact_create(const struct hm_dht_id *id, const struct hm_addrs *addrs,
                                 struct hm_contact **contact)
{
    uint8_t bytes[HM_CONTACT_ADDR_BYTES_MAX];
    size_t byte_count = encode_addrs(addrs, bytes);
    if (byte_count == 0) return HM_ERR_INVALID;
    struct hm_contact *made = malloc(sizeof *made + byte_count);
    if (!made) return HM_ERR_NO_MEMORY;
    made->id = *id;
    made->refs = 1;
    made->addr_bytes = (uint16_t)byte_count;
    memcpy(made->addr, bytes, byte_count);
    *contact = made;
    return HM_OK;
}

struct hm_contact *hm_contact_get(struct hm_contact *contact)
{
    contact->refs++;
    return contact;
}

void hm_contact_put(struct hm_contact *contact)
{
    if (!contact) return;
    HM_ASSERT(contact->refs > 0);
    if (--contact->refs == 0) free(contact);
}

void hm_contact_addrs(const struct hm_contact *contact, struct hm_addrs *addrs)
{
    struct hm_reader reader;
    hm_reader_init(&reader, contact->addr, contact->addr_bytes);
    hm_addrs_decode(&reader, addrs);
    HM_ASSERT(hm_reader_ended(&reader) && addrs->count > 0);
}

struct hm_node_id hm_contact_node(const struct hm_contact *contact)
{
    struct hm_node_id node;
    memcpy(node.byte, contact->id.byte, sizeof node.byte);
    return node;
}

void hm_contact_encode(const struct hm_contact *contact, struct hm_writer *writer)
{
    hm_write_bytes(writer, contact->id.byte, sizeof contact->id.byte);
    hm_write_bytes(writer, contact->addr, contact->addr_bytes);
}

size_t hm_contact_encoded_bytes(const struct hm_contact *contact)
{
    return sizeof contact->id.byte + contact->addr_bytes;
}

struct hm_contact *hm_contact_decode(struct hm_reader *reader)
{
    const void *bytes = hm_read_bytes(reader, HM_NODE_ID_BYTES);
    struct hm_addrs addrs;
    hm_addrs_decode(reader, &addrs);
    if (!hm_reader_ok(reader)) return NULL;
    struct hm_dht_id id;
    memcpy(id.byte, bytes, sizeof id.byte);
    struct hm_contact *contact;
    if (hm_contact_create(&id, &addrs, &contact) == HM_OK) return contact;
    reader->failed = true;
    return NULL;
}
