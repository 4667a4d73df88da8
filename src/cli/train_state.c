/* cli/train_state.c - a training's place among its rows, kept beside its layers (hm_tape_save).
 *
 *   u64 what, u64 step, f32 loss, f32 accuracy, u8 evaluated, u64 rng[4], u32 order_at, u32 order[] */
#include "cli/train_state.h"

#include "base/assert.h"
#include "base/wire.h"

#include <math.h>
#include <stdlib.h>

enum { HEAD_BYTES = 2 * 8 + 2 * 4 + 1 + 4 * 8 + 4 };

static size_t bytes_of(const struct train_at *at)
{
    return HEAD_BYTES + at->order_count * sizeof(at->order[0]);
}

enum hm_status train_state_save(struct hm_tape *tape, const char *path, uint64_t what,
                                const struct train_at *at)
{
    struct hm_writer writer;
    void *bytes = malloc(bytes_of(at));
    if (!bytes) return HM_ERR_NO_MEMORY;
    hm_writer_init(&writer, bytes, bytes_of(at));
    hm_write_u64(&writer, what);
    hm_write_u64(&writer, at->step);
    hm_write_f32(&writer, at->loss);
    hm_write_f32(&writer, at->accuracy);
    hm_write_u8(&writer, at->evaluated);
    for (unsigned i = 0; i < 4; i++) hm_write_u64(&writer, at->rng.state[i]);
    hm_write_u32(&writer, at->order_at);
    for (uint32_t i = 0; i < at->order_count; i++) hm_write_u32(&writer, at->order[i]);
    HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == bytes_of(at));
    enum hm_status status = hm_tape_save(tape, path, bytes, bytes_of(at));
    free(bytes);
    return status;
}

static enum hm_status decode(const void *bytes, const char *path, uint64_t what,
                             struct train_at *at)
{
    struct hm_reader reader;
    struct train_at found = *at;
    hm_reader_init(&reader, bytes, bytes_of(at));
    if (hm_read_u64(&reader) != what) return HM_ERR_SHAPE;
    found.step = hm_read_u64(&reader);
    found.loss = hm_read_f32(&reader);
    found.accuracy = hm_read_f32(&reader);
    found.evaluated = hm_read_u8(&reader) != 0;
    for (unsigned i = 0; i < 4; i++) found.rng.state[i] = hm_read_u64(&reader);
    found.order_at = hm_read_u32(&reader);
    bool sound = found.order_at <= at->order_count && isfinite(found.loss);
    struct hm_reader rows = reader;
    for (uint32_t i = 0; i < at->order_count; i++)
        sound = sound && hm_read_u32(&rows) < at->order_count;
    if (!sound) return hm_fail(HM_ERR_CORRUPT, "%s makes no sense; remove it to begin anew", path);
    for (uint32_t i = 0; i < at->order_count; i++) found.order[i] = hm_read_u32(&reader);
    *at = found;
    return HM_OK;
}

enum hm_status train_state_load(struct hm_tape *tape, const char *path, uint64_t what,
                                struct train_at *at)
{
    void *bytes = malloc(bytes_of(at));
    if (!bytes) return HM_ERR_NO_MEMORY;
    enum hm_status status = hm_tape_load(tape, path, bytes, bytes_of(at));
    if (!status) status = decode(bytes, path, what, at);
    free(bytes);
    if (status == HM_ERR_SHAPE)
        return hm_fail(HM_ERR_SHAPE,
                       "%s is of a training with another --seed, --data, --train-fraction, "
                       "--experts, --hidden or --layers; give the same, or another --state",
                       path);
    return status;
}
