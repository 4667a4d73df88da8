/* api/tape_state.c - hm_tape_save and hm_tape_load: a training goes on in another process.
 *
 *   file   u64 magic, u64 hash of the rest,
 *          u32 bytes of the caller's, those,
 *          layers to the end: u64 parameters, u64 steps; f32 parameters, first and second moments
 *
 * Happy:  save writes what the tape trains, in the order of first use, and what it has loaded for
 *         others; load keeps the file's layers, and each layer takes its part at its own first use.
 * Fails:  a file that is damaged, or another program's, is HM_ERR_CORRUPT; another model's is
 *         HM_ERR_SHAPE, at the latest when its layers are used.
 * Keeps:  floats lie in the file as in memory, little-endian like everything on the wire. */
#include "api/tape.h"
#include "base/assert.h"
#include "base/file.h"
#include "base/map.h"
#include "base/wire.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t magic = 0x31657061746d6800; /* "\0hmtape1" */
enum { HEAD_BYTES = 16, LAYER_HEAD_BYTES = 16, SLOTS = 2 /* Adam's */ };
static const size_t file_bytes_max = (size_t)16 << 30;

static size_t layer_bytes(const struct hm_layer *layer)
{
    return LAYER_HEAD_BYTES + layer->parameter_count * (1 + SLOTS) * sizeof(float);
}

static void write_layer(struct hm_writer *writer, const struct hm_tape_trained *trained)
{
    size_t bytes = trained->layer->parameter_count * sizeof(float);
    hm_write_u64(writer, trained->layer->parameter_count);
    hm_write_u64(writer, hm_local_optimizer_steps(trained->optimizer));
    if (bytes == 0) return;
    hm_write_bytes(writer, trained->layer->parameter, bytes);
    for (unsigned i = 0; i < SLOTS; i++)
        hm_write_bytes(writer, hm_local_optimizer_slot(trained->optimizer, i), bytes);
}

int hm_tape_save(struct hm_tape *tape, const char *path, const void *more, uint32_t more_bytes)
{
    size_t unused = tape->loaded ? hm_reader_left(&tape->layers) : 0;
    size_t bytes = HEAD_BYTES + sizeof(uint32_t) + more_bytes + unused;
    for (unsigned i = 0; i < tape->trained_count; i++) bytes += layer_bytes(tape->trained[i].layer);
    uint8_t *file = malloc(bytes);
    if (!file) return hm_fail(HM_ERR_NO_MEMORY, "no memory to save %s", path);
    struct hm_writer writer;
    hm_writer_init(&writer, file, bytes);
    hm_write_u64(&writer, magic);
    hm_write_u64(&writer, 0);
    hm_write_u32(&writer, more_bytes);
    hm_write_bytes(&writer, more, more_bytes);
    for (unsigned i = 0; i < tape->trained_count; i++) write_layer(&writer, &tape->trained[i]);
    if (unused > 0) hm_write_bytes(&writer, tape->layers.at, unused);
    HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == bytes);
    hm_writer_init(&writer, file + sizeof(magic), sizeof(uint64_t));
    hm_write_u64(&writer, hm_hash(file + HEAD_BYTES, bytes - HEAD_BYTES, 0));
    enum hm_status status = hm_file_replace(path, file, bytes);
    free(file);
    return status;
}

static enum hm_status corrupt(const char *path)
{
    return hm_fail(HM_ERR_CORRUPT,
                   "%s is no state of a training, or damaged; remove it to begin anew", path);
}

int hm_tape_load(struct hm_tape *tape, const char *path, void *more, uint32_t more_bytes)
{
    void *file;
    size_t bytes;
    if (tape->trained_count > 0 || tape->loaded)
        return hm_fail(HM_ERR_INVALID, "only a fresh tape can load");
    enum hm_status status = hm_file_read(path, file_bytes_max, &file, &bytes);
    if (status) return status;
    struct hm_reader reader;
    hm_reader_init(&reader, file, bytes);
    uint64_t kind = hm_read_u64(&reader), hash = hm_read_u64(&reader);
    if (!hm_reader_ok(&reader) || kind != magic ||
        hash != hm_hash(reader.at, hm_reader_left(&reader), 0))
        status = corrupt(path);
    uint32_t found = hm_read_u32(&reader);
    if (!status && found != more_bytes)
        status = hm_fail(HM_ERR_SHAPE, "%s is of another training", path);
    const void *theirs = status ? NULL : hm_read_bytes(&reader, more_bytes);
    if (!status && !hm_reader_ok(&reader)) status = corrupt(path);
    if (status) {
        free(file);
        return status;
    }
    memcpy(more, theirs, more_bytes);
    tape->loaded = file;
    tape->layers = reader;
    return HM_OK;
}

enum hm_status hm_tape_restore(struct hm_tape *tape, struct hm_tape_trained *trained)
{
    struct hm_layer *layer = trained->layer;
    if (!tape->loaded || hm_reader_ended(&tape->layers)) return HM_OK;
    uint64_t count = hm_read_u64(&tape->layers), steps = hm_read_u64(&tape->layers);
    size_t bytes = layer->parameter_count * sizeof(float);
    if (!hm_reader_ok(&tape->layers) || count != layer->parameter_count ||
        hm_reader_left(&tape->layers) < (1 + SLOTS) * bytes)
        return hm_fail(HM_ERR_SHAPE,
                       "the loaded state is of another model: layer %u has %zu "
                       "parameters here, %llu there",
                       tape->trained_count, layer->parameter_count, (unsigned long long)count);
    if (bytes == 0) return HM_OK;
    memcpy(layer->parameter, hm_read_bytes(&tape->layers, bytes), bytes);
    for (unsigned i = 0; i < SLOTS; i++)
        memcpy(hm_local_optimizer_slot(trained->optimizer, i), hm_read_bytes(&tape->layers, bytes),
               bytes);
    hm_local_optimizer_set_steps(trained->optimizer, steps);
    return HM_OK;
}
