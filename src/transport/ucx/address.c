/* transport/ucx/address.c - is that a worker address?  UCX has no call that says so.
 *
 * Owns nothing.  ucp_ep_create() is given no length: it walks the bytes it gets as its own writing,
 * and aborts the process, or reads on behind them, where they are not.  So they are walked here first.
 *
 * Layout of UCX 1.13, "version 1" (its src/ucp/wireup/address.c):
 *
 *     u8 head, u64 worker, and for each device
 *         u8 memory domain and flags, u8 length and flags, [u8 paths], [u8 place], the device's address
 *         and, unless it is empty, for each transport on it
 *             u16 name's checksum, f32 overhead, f32 bandwidth, f32 latency, u32 what it can,
 *             u8 length and flags, the transport's address
 *
 * Failure modes: another UCX writes another layout.  Then our own address cannot be walked either, and
 * theirs, which comes from the same version (endpoint.c compares settings), is taken as it is.
 * Invariant: what is accepted ends where it should; every transport of it that we have too has as much
 * of an address as ours has at least; and memory of this machine that it names is memory like ours, not
 * some file that a process has open, into which UCX would write. */
#include "transport/ucx/ucx.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/stat.h>

enum {
    HEAD_BYTES = 1 + 8,
    TRANSPORTS_MAX = 64,
    MD_EMPTY = 0x80, /* a device without transports */
    LAST = 0x80,
    DEVICE_PATHS = 0x40,
    DEVICE_PLACE = 0x20,
    DEVICE_LENGTH = 0x1f,
    TRANSPORT_ENDPOINTS = 0x40, /* never in a worker's address */
    TRANSPORT_LENGTH = 0x3f,
};

/* A name's checksum is its CRC-16. */
enum { NAME_POSIX = 0xd3a7, NAME_SYSV = 0x538d };
/* Of the posix transport's segments: how the rest names one. */
#define SEGMENT_PROCESS ((uint64_t)1 << 63) /* a process and its descriptor, 30 bits each */
#define SEGMENT_FORM    ((uint64_t)3 << 62)
#define SEGMENT_ID_BITS 30

struct transport {
    uint16_t name;
    uint8_t device_bytes, bytes;
    const uint8_t *device, *address;
};
struct listing {
    struct transport transport[TRANSPORTS_MAX];
    unsigned count;
};

static bool in_range(float value, float most)
{
    return isfinite(value) && value >= 0.0F && value <= most;
}

static float read_f32(struct hm_reader *reader)
{
    uint32_t bits = hm_read_u32(reader);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* False: garbage, or the reader has run out. */
static bool walk_transports(struct hm_reader *reader, const uint8_t *device, uint8_t device_bytes,
                            struct listing *found)
{
    for (uint8_t flags = 0; !(flags & LAST);) {
        struct transport at = {
            .name = hm_read_u16(reader), .device = device, .device_bytes = device_bytes};
        float overhead = read_f32(reader), bandwidth = read_f32(reader), latency = read_f32(reader);
        (void)hm_read_u32(reader);
        flags = hm_read_u8(reader);
        at.bytes = flags & TRANSPORT_LENGTH;
        at.address = hm_read_bytes(reader, at.bytes);
        if (!hm_reader_ok(reader) || flags & TRANSPORT_ENDPOINTS) return false;
        if (found->count == TRANSPORTS_MAX) return false;
        if (!in_range(overhead, 1.0F) || !in_range(latency, 1.0F)) return false;
        if (!in_range(bandwidth, 1e15F) || bandwidth < 1.0F) return false;
        found->transport[found->count++] = at;
    }
    return true;
}

static bool walk(const uint8_t *bytes, size_t byte_count, struct listing *found)
{
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, byte_count);
    found->count = 0;
    (void)hm_read_bytes(&reader, HEAD_BYTES);
    for (uint8_t flags = 0; !(flags & LAST);) {
        uint8_t domain = hm_read_u8(&reader), paths = 1;
        flags = hm_read_u8(&reader);
        if (flags & DEVICE_PATHS) paths = hm_read_u8(&reader);
        if (flags & DEVICE_PLACE) (void)hm_read_u8(&reader);
        const uint8_t *device = hm_read_bytes(&reader, flags & DEVICE_LENGTH);
        if (!hm_reader_ok(&reader) || paths == 0) return false;
        if (!(domain & MD_EMPTY) && !walk_transports(&reader, device, flags & DEVICE_LENGTH, found))
            return false;
    }
    return hm_reader_ended(&reader) && found->count > 0;
}

static uint64_t segment_of(const struct transport *transport)
{
    uint64_t segment;
    memcpy(&segment, transport->address, sizeof segment);
    return segment;
}

/* Where the memory lies and how much it is; false: nothing has that name. */
static bool segment_look(const struct transport *transport, dev_t *device, uint64_t *bytes)
{
    const uint64_t mask = ((uint64_t)1 << SEGMENT_ID_BITS) - 1;
    uint64_t segment = segment_of(transport);
    struct shmid_ds shared;
    struct stat file;
    char path[64];
    *device = 0;
    if (transport->name == NAME_SYSV) {
        if (segment > INT32_MAX || shmctl((int)segment, IPC_STAT, &shared) != 0) return false;
        *bytes = shared.shm_segsz;
        return true;
    }
    (void)snprintf(path, sizeof path, "/proc/%u/fd/%u", (unsigned)(segment & mask),
                   (unsigned)(segment >> SEGMENT_ID_BITS & mask));
    if (stat(path, &file) != 0 || !S_ISREG(file.st_mode)) return false;
    *device = file.st_dev;
    *bytes = (uint64_t)file.st_size;
    return true;
}

/* Of another machine UCX does not look at it.  What is not there it cannot open, and says so. */
static bool memory_alike(const struct transport *theirs, const struct transport *ours)
{
    dev_t device, own_device;
    uint64_t bytes, own_bytes;
    if (theirs->device_bytes != ours->device_bytes || theirs->bytes < sizeof(uint64_t) ||
        memcmp(theirs->device, ours->device, ours->device_bytes) != 0)
        return true;
    if (ours->name == NAME_POSIX) {
        uint64_t form = segment_of(ours) & SEGMENT_FORM;
        if ((segment_of(theirs) & SEGMENT_FORM) != form) return false;
        if (!(form & SEGMENT_PROCESS)) return true; /* UCX looks in its own folder */
    }
    if (!segment_look(ours, &own_device, &own_bytes)) return true;
    if (!segment_look(theirs, &device, &bytes)) return true;
    return device == own_device && bytes == own_bytes;
}

/* UCX looks at the addresses of transports that it has itself; it takes their lengths for known. */
static bool usable(const struct transport *theirs, const struct listing *ours)
{
    unsigned same = 0, fits = 0;
    for (unsigned i = 0; i < ours->count; i++) {
        const struct transport *own = &ours->transport[i];
        if (own->name != theirs->name) continue;
        bool memory = own->name == NAME_POSIX || own->name == NAME_SYSV;
        if (memory && own->bytes >= sizeof(uint64_t) && !memory_alike(theirs, own)) return false;
        same++;
        fits += theirs->bytes >= own->bytes && theirs->device_bytes >= own->device_bytes;
    }
    return same == 0 || fits > 0;
}

bool hm_ucx_address_valid(const struct ucx *ucx, const uint8_t *bytes, size_t byte_count)
{
    struct listing ours, theirs;
    const uint8_t *own = (const uint8_t *)ucx->address;
    if (!walk(own, ucx->address_bytes, &ours)) return true;
    if (byte_count < HEAD_BYTES || bytes[0] != own[0]) return false;
    if (memcmp(bytes + 1, own + 1, HEAD_BYTES - 1) == 0) return false; /* we are not our own peer */
    if (!walk(bytes, byte_count, &theirs)) return false;
    for (unsigned i = 0; i < theirs.count; i++)
        if (!usable(&theirs.transport[i], &ours)) return false;
    return true;
}
