/* moe/directory_records.h - the directory's records: keys, values, validators.  Internal to
 * src/moe. */
#ifndef HM_MOE_DIRECTORY_RECORDS_H
#define HM_MOE_DIRECTORY_RECORDS_H

#include "moe/directory.h"

void hm_directory_expert_key(const char *prefix, struct hm_dht_id *key);
void hm_directory_server_key(const struct hm_node_id *server, struct hm_dht_id *key);
void hm_directory_names_key(struct hm_dht_id *key);
/* Records off the DHT -> what they say; false: nothing that we understand (the record is skipped).
 * */
bool hm_directory_expert_decode(const struct hm_record *record, uint32_t *coordinate);
bool hm_directory_name_decode(const struct hm_record *record, struct hm_grid_name *name);
bool hm_directory_server_decode(const struct hm_record *record, struct hm_server_info *info);

/* Everything that a declaration stores, and the memory behind it. */
struct hm_declaration {
    struct hm_record *record;
    unsigned count;
    char *memory;
};
/* Life of the records: the kind's own; when withdrawing that of a server record without addresses, and a second for the
 * others. */
HM_MUST_CHECK enum hm_status hm_declaration_make(const struct hm_server_info *info,
                                                 const struct hm_uid *uids, unsigned uid_count,
                                                 bool withdraw, int64_t wall_ns,
                                                 struct hm_declaration *declaration);
void hm_declaration_fini(struct hm_declaration *declaration);

#endif
