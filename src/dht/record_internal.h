/* dht/record_internal.h - what only the DHT's own files need of records. */
#ifndef HM_DHT_RECORD_INTERNAL_H
#define HM_DHT_RECORD_INTERNAL_H

#include "dht/record.h"

enum { HM_RECORD_BYTES_MIN = 32 + 32 + 8 + 8 + 2 + 2 + 2 + 2 };

/* SHA-256 of 0x00 and everything but the proof: the record's leaf in its announcement's tree. */
void hm_record_leaf(const struct hm_record *record, uint8_t digest[HM_DIGEST_BYTES]);
size_t hm_record_encoded_bytes(const struct hm_record *record);

#endif
