/* transport/fabric_offer.c - the bytes of an offer, as the control connection carries them.
 *
 * Owns nothing.  Layout (little-endian): u64 token, settings (u16 bytes, text), u16 address bytes,
 * the address.  Nothing may follow: settings name a version, so an offer has one form. */
#include "transport/transport.h"

#include <string.h>

void hm_fabric_offer_encode(const struct hm_fabric_offer *offer, struct hm_writer *writer)
{
    hm_write_u64(writer, offer->token);
    hm_write_string(writer, offer->settings);
    hm_write_u16(writer, offer->address_bytes);
    hm_write_bytes(writer, offer->address, offer->address_bytes);
}

/* Printable, since it goes into lines for people. */
static bool settings_valid(const char *settings)
{
    for (const char *at = settings; *at; at++)
        if (*at < ' ' || *at > '~') return false;
    return true;
}

enum hm_status hm_fabric_offer_decode(const void *bytes, size_t byte_count,
                                      struct hm_fabric_offer *offer)
{
    struct hm_reader reader;
    struct hm_fabric_offer read = {0};
    hm_reader_init(&reader, bytes, byte_count);
    read.token = hm_read_u64(&reader);
    hm_read_string(&reader, read.settings, sizeof read.settings);
    read.address_bytes = hm_read_u16(&reader);
    if (read.address_bytes > sizeof read.address) return HM_ERR_PEER_PROTOCOL;
    const void *address = hm_read_bytes(&reader, read.address_bytes);
    if (!hm_reader_ended(&reader) || !address) return HM_ERR_PEER_PROTOCOL;
    if (read.token == 0 || read.address_bytes == 0 || !settings_valid(read.settings))
        return HM_ERR_PEER_PROTOCOL;
    memcpy(read.address, address, read.address_bytes);
    *offer = read;
    return HM_OK;
}
