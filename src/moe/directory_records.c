/* moe/directory_records.c - what the directory stores in the DHT, byte by byte.
 *
 *   expert record   key "expert:<prefix>", subkey the child's coordinate as decimal text;
 *                   value u8 version, u32 experts under it
 *   name record     key "experts:", subkey the name; value u8 version, u8 dimensions
 *   server record   key "server:<node id in hex>", subkey "self"; value u8 version, string version,
 *                   addresses, u32 experts, u32 rows queued, u32 rows a second, u64 codecs,
 *                   u64 started (wall clock)
 *
 * Failure modes: a record that does not read is skipped by readers and refused by the validators,
 *                which every DHT node of the swarm runs.  A server record is only taken under the
 *                key of its own owner, so nobody fills the dictionary of another.
 * Invariants:    a value written here passes the validator. */
#include "moe/directory_records.h"

#include "base/assert.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_VERSION = 1, EXPERT_VALUE_BYTES = 5, NAME_VALUE_BYTES = 2 };
static const char server_subkey[] = "self";

/* ---- keys ------------------------------------------------------------------------------------ */

void hm_directory_expert_key(const char *prefix, struct hm_dht_id *key)
{
    char raw[HM_UID_BYTES + 16];
    int length = snprintf(raw, sizeof raw, "expert:%s", prefix);
    HM_ASSERT(length > 0 && (size_t)length < sizeof raw);
    hm_dht_key(raw, (size_t)length, key);
}

void hm_directory_server_key(const struct hm_node_id *server, struct hm_dht_id *key)
{
    char raw[HM_NODE_ID_TEXT_BYTES + 16], text[HM_NODE_ID_TEXT_BYTES];
    int length = snprintf(raw, sizeof raw, "server:%s", hm_node_id_text(server, text));
    HM_ASSERT(length > 0 && (size_t)length < sizeof raw);
    hm_dht_key(raw, (size_t)length, key);
}

void hm_directory_names_key(struct hm_dht_id *key)
{
    hm_dht_key("experts:", strlen("experts:"), key);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The subkey as text, if it is one of a grid: it is put after "x." (a coordinate) or before ".0" (a
 * name) and parsed. */
static bool subkey_parses(const struct hm_record *record, const char *before, const char *after,
                          struct hm_uid *uid)
{
    char text[HM_UID_BYTES];
    size_t used = strlen(before), after_bytes = strlen(after);
    if (record->subkey_bytes == 0 || record->subkey_bytes + used + after_bytes >= sizeof text)
        return false;
    memcpy(text, before, used);
    memcpy(text + used, record->subkey, record->subkey_bytes);
    memcpy(text + used + record->subkey_bytes, after, after_bytes + 1);
    if (memchr(text, 0, used + record->subkey_bytes)) return false;
    if (hm_uid_parse(text, uid) != HM_OK) {
        hm_fail_clear();
        return false;
    }
    return uid->dim_count == 1;
}

bool hm_directory_expert_decode(const struct hm_record *record, uint32_t *coordinate)
{
    struct hm_uid uid;
    const uint8_t *value = record->value;
    if (record->schema != HM_SCHEMA_EXPERT || record->value_bytes != EXPERT_VALUE_BYTES ||
        value[0] != VALUE_VERSION)
        return false;
    if (!subkey_parses(record, "x.", "", &uid)) return false;
    *coordinate = uid.coordinate[0];
    return true;
}

bool hm_directory_name_decode(const struct hm_record *record, struct hm_grid_name *name)
{
    struct hm_uid uid;
    const uint8_t *value = record->value;
    if (record->schema != HM_SCHEMA_NAMES || record->value_bytes != NAME_VALUE_BYTES ||
        value[0] != VALUE_VERSION)
        return false;
    if (value[1] < 1 || value[1] > HM_GRID_DIMS_MAX || !subkey_parses(record, "", ".0", &uid))
        return false;
    memset(name, 0, sizeof *name);
    memcpy(name->name, record->subkey, record->subkey_bytes);
    name->dim_count = value[1];
    return true;
}

static bool printable(const char *text)
{
    while (*text >= ' ' && *text <= '~') text++;
    return !*text;
}

bool hm_directory_server_decode(const struct hm_record *record, struct hm_server_info *info)
{
    struct hm_dht_id key;
    struct hm_server_info decoded = {.node = record->owner};
    if (record->schema != HM_SCHEMA_SERVER || record->subkey_bytes != sizeof server_subkey - 1 ||
        memcmp(record->subkey, server_subkey, sizeof server_subkey - 1) != 0)
        return false;
    hm_directory_server_key(&record->owner, &key);
    if (memcmp(&key, &record->key, sizeof key) != 0) return false;
    struct hm_reader reader;
    hm_reader_init(&reader, record->value, record->value_bytes);
    if (hm_read_u8(&reader) != VALUE_VERSION) return false;
    hm_read_string(&reader, decoded.version, sizeof decoded.version);
    if (!printable(decoded.version)) return false; /* it is shown on terminals */
    hm_addrs_decode(&reader, &decoded.addrs);
    decoded.expert_count = hm_read_u32(&reader);
    decoded.rows_queued = hm_read_u32(&reader);
    decoded.rows_per_second = hm_read_u32(&reader);
    decoded.codecs = hm_read_u64(&reader);
    decoded.started_wall_ns = (int64_t)hm_read_u64(&reader);
    if (!hm_reader_ended(&reader)) return false;
    *info = decoded;
    return true;
}

static enum hm_status accept_expert(void *arg, const struct hm_record *record)
{
    (void)arg;
    uint32_t coordinate;
    return hm_directory_expert_decode(record, &coordinate) ? HM_OK : HM_ERR_INVALID;
}

static enum hm_status accept_server(void *arg, const struct hm_record *record)
{
    (void)arg;
    struct hm_server_info info;
    return hm_directory_server_decode(record, &info) ? HM_OK : HM_ERR_INVALID;
}

static enum hm_status accept_name(void *arg, const struct hm_record *record)
{
    (void)arg;
    struct hm_grid_name name;
    return hm_directory_name_decode(record, &name) ? HM_OK : HM_ERR_INVALID;
}

const struct hm_validator hm_directory_validators[] = {
    {HM_SCHEMA_EXPERT, accept_expert, NULL},
    {HM_SCHEMA_SERVER, accept_server, NULL},
    {HM_SCHEMA_NAMES, accept_name, NULL},
};
const unsigned hm_directory_validator_count = HM_COUNT_OF(hm_directory_validators);

/* ---- writing --------------------------------------------------------------------------------- */

/* A branch is a uid cut after one of its coordinates: "ffn.3" is the child 3 of "ffn.", "ffn.3.1"
 * the child 1 of "ffn.3.". */
struct branch {
    char text[HM_UID_BYTES];
    uint8_t name_bytes, dim_count, grid_dims;
    uint32_t expert_count;
};

static int compare_branches(const void *a, const void *b)
{
    return strcmp(((const struct branch *)a)->text, ((const struct branch *)b)->text);
}

/* Every branch of every uid, each once, with the number of experts under it. */
static unsigned make_branches(const struct hm_uid *uids, unsigned uid_count, struct branch *branch)
{
    size_t count = 0;
    for (unsigned i = 0; i < uid_count; i++) {
        for (unsigned dims = 1; dims <= uids[i].dim_count; dims++) {
            struct branch *next = &branch[count++];
            *next = (struct branch){.name_bytes = uids[i].name_bytes,
                                    .dim_count = (uint8_t)dims,
                                    .grid_dims = uids[i].dim_count,
                                    .expert_count = 1};
            if (dims == uids[i].dim_count)
                memcpy(next->text, uids[i].text, sizeof next->text);
            else
                next->text[hm_uid_prefix(&uids[i], dims, next->text) - 1] = '\0';
        }
    }
    qsort(branch, count, sizeof *branch, compare_branches);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && strcmp(branch[kept - 1].text, branch[i].text) == 0)
            branch[kept - 1].expert_count++;
        else
            branch[kept++] = branch[i];
    }
    return (unsigned)kept;
}

struct maker {
    struct hm_record *record;
    unsigned count;
    struct hm_writer memory;
    int64_t wall_ns;
    bool withdraw;
};

static struct hm_record *make_record(struct maker *maker, uint16_t schema, const char *subkey,
                                     size_t subkey_bytes, hm_ns life)
{
    struct hm_record *record = &maker->record[maker->count++];
    *record = (struct hm_record){.schema = schema,
                                 .expires_wall_ns = maker->wall_ns + (int64_t)life,
                                 .subkey = maker->memory.at,
                                 .subkey_bytes = (uint16_t)subkey_bytes};
    hm_write_bytes(&maker->memory, subkey, subkey_bytes);
    record->value = maker->memory.at;
    return record;
}

static void end_record(struct maker *maker, struct hm_record *record)
{
    HM_ASSERT(hm_writer_ok(&maker->memory));
    record->value_bytes = (uint16_t)(maker->memory.at - (const uint8_t *)record->value);
    HM_ASSERT(record->value_bytes <= HM_RECORD_VALUE_BYTES_MAX);
}

static void make_server(struct maker *maker, const struct hm_server_info *info)
{
    struct hm_record *record = make_record(maker, HM_SCHEMA_SERVER, server_subkey,
                                           sizeof server_subkey - 1, HM_DIRECTORY_SERVER_LIFE);
    hm_directory_server_key(&info->node, &record->key);
    /* All addresses at their longest would pass the value's limit; the first ones are the best
     * ones. */
    struct hm_addrs addrs = info->addrs;
    if (maker->withdraw) addrs.count = 0; /* those who remember it must see that it has gone */
    size_t bytes = 0, room = HM_RECORD_VALUE_BYTES_MAX - 128;
    for (unsigned i = 0; i < addrs.count; i++) {
        bytes += strlen(addrs.addr[i].text) + 2;
        if (bytes > room) addrs.count = i;
    }
    hm_write_u8(&maker->memory, VALUE_VERSION);
    hm_write_string(&maker->memory, info->version);
    hm_addrs_encode(&addrs, &maker->memory);
    hm_write_u32(&maker->memory, info->expert_count);
    hm_write_u32(&maker->memory, info->rows_queued);
    hm_write_u32(&maker->memory, info->rows_per_second);
    hm_write_u64(&maker->memory, info->codecs);
    hm_write_u64(&maker->memory, (uint64_t)info->started_wall_ns);
    end_record(maker, record);
}

static hm_ns expert_life(const struct maker *maker)
{
    return maker->withdraw ? HM_S : HM_DIRECTORY_EXPERT_LIFE;
}

static void make_child(struct maker *maker, const struct branch *branch)
{
    const char *child = strrchr(branch->text, '.') + 1;
    struct hm_record *record =
        make_record(maker, HM_SCHEMA_EXPERT, child, strlen(child), expert_life(maker));
    char prefix[HM_UID_BYTES];
    snprintf(prefix, sizeof prefix, "%.*s", (int)(child - branch->text), branch->text);
    hm_directory_expert_key(prefix, &record->key);
    hm_write_u8(&maker->memory, VALUE_VERSION);
    hm_write_u32(&maker->memory, branch->expert_count);
    end_record(maker, record);
}

static void make_name(struct maker *maker, const struct branch *branch)
{
    struct hm_record *record =
        make_record(maker, HM_SCHEMA_NAMES, branch->text, branch->name_bytes, expert_life(maker));
    hm_directory_names_key(&record->key);
    hm_write_u8(&maker->memory, VALUE_VERSION);
    hm_write_u8(&maker->memory, branch->grid_dims);
    end_record(maker, record);
}

enum hm_status hm_declaration_make(const struct hm_server_info *info, const struct hm_uid *uids,
                                   unsigned uid_count, bool withdraw, int64_t wall_ns,
                                   struct hm_declaration *declaration)
{
    size_t branches_max = (size_t)uid_count * HM_GRID_DIMS_MAX;
    struct branch *branch = calloc(branches_max + 1, sizeof *branch);
    if (!branch) return hm_fail(HM_ERR_NO_MEMORY, "no memory to declare %u experts", uid_count);
    unsigned branch_count = make_branches(uids, uid_count, branch);
    size_t records_max = 1 + 2 * (size_t)branch_count; /* server, children, at most as many names */
    size_t bytes = HM_RECORD_VALUE_BYTES_MAX + 64 + records_max * (HM_UID_BYTES + 16);
    struct maker maker = {.record = calloc(records_max, sizeof *maker.record),
                          .wall_ns = wall_ns,
                          .withdraw = withdraw};
    char *memory = malloc(bytes);
    if (!maker.record || !memory) {
        free(maker.record);
        free(memory);
        free(branch);
        return hm_fail(HM_ERR_NO_MEMORY, "no memory to declare %u experts", uid_count);
    }
    hm_writer_init(&maker.memory, memory, bytes);
    make_server(&maker, info);
    const struct branch *named =
        NULL; /* branches are sorted, so those of one name follow each other */
    for (unsigned i = 0; i < branch_count; i++) {
        make_child(&maker, &branch[i]);
        if (named && named->name_bytes == branch[i].name_bytes &&
            memcmp(named->text, branch[i].text, named->name_bytes) == 0)
            continue;
        named = &branch[i];
        make_name(&maker, named);
    }
    free(branch);
    *declaration =
        (struct hm_declaration){.record = maker.record, .count = maker.count, .memory = memory};
    return HM_OK;
}

void hm_declaration_fini(struct hm_declaration *declaration)
{
    free(declaration->record);
    free(declaration->memory);
    *declaration = (struct hm_declaration){0};
}
