/* moe/beam.c - beam search: which live experts have the largest sums of gate logits.
 *
 *   a row's prefixes:  {""} ──children──► best of 1 coordinate ──children──► … ──► best experts
 *
 * Happy path:    a step collects the distinct prefixes of all rows, asks the directory once, and
 *                extends row by row.
 * Failure modes: nothing alive under the name, or a row all of whose prefixes have died meanwhile:
 *                HM_ERR_NOT_FOUND.
 * Invariants:    a prefix is its mixed-radix number (at most 2^31), so equal prefixes are equal
 *                numbers; a row's prefixes are sorted by score, ties by number. */
#include "moe/beam.h"

#include "base/assert.h"
#include "moe/grow.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct hm_beam_prefix {
    uint64_t key; /* its coordinates as one mixed-radix number */
    float score;
    struct hm_node_id server; /* of the last step: who serves the expert */
};

/* ---- grid ------------------------------------------------------------------------------------ */

enum hm_status hm_beam_grid_init(struct hm_beam_grid *grid, const char *name, unsigned dim_count,
                                 const uint32_t *size)
{
    struct hm_beam_grid made = {.dim_count = dim_count};
    size_t length = strnlen(name, HM_UID_BYTES);
    if (length > 0 && name[length - 1] == '.') length--; /* "ffn." is taken as "ffn" */
    if (length == 0 || length >= HM_UID_BYTES)
        return hm_fail(HM_ERR_INVALID, "a grid of experts needs a name like ffn");
    memcpy(made.name, name, length);
    if (dim_count < 1 || dim_count > HM_GRID_DIMS_MAX)
        return hm_fail(HM_ERR_INVALID, "a grid has 1 to %d dimensions, not %u", HM_GRID_DIMS_MAX,
                       dim_count);
    uint64_t product = 1;
    uint32_t last[HM_GRID_DIMS_MAX];
    for (unsigned i = 0; i < dim_count; i++) {
        if (size[i] < 1 || size[i] > HM_COORDINATE_MAX)
            return hm_fail(HM_ERR_INVALID,
                           "dimension %u of grid '%s' has size %" PRIu32 "; it can be 1 to %u", i,
                           made.name, size[i], HM_COORDINATE_MAX);
        product *= size[i];
        if (product > (uint64_t)1 << 31)
            return hm_fail(HM_ERR_INVALID, "grid '%s' has over 2^31 places; use smaller dimensions",
                           made.name);
        made.size[i] = size[i];
        last[i] = size[i] - 1;
    }
    struct hm_uid longest; /* so that every uid of the grid can be made */
    enum hm_status status = hm_uid_make(made.name, last, dim_count, &longest);
    if (status != HM_OK) return status;
    *grid = made;
    return HM_OK;
}

uint32_t hm_beam_grid_columns(const struct hm_beam_grid *grid)
{
    uint32_t columns = 0;
    for (unsigned i = 0; i < grid->dim_count; i++) columns += grid->size[i];
    return columns;
}

/* The number's first `dims` coordinates. */
static void coordinates_of(const struct hm_beam_grid *grid, uint64_t key, unsigned dims,
                           uint32_t *coordinate)
{
    for (unsigned i = dims; i-- > 0;) {
        coordinate[i] = (uint32_t)(key % grid->size[i]);
        key /= grid->size[i];
    }
}

/* ---- search ---------------------------------------------------------------------------------- */

void hm_beam_init(struct hm_beam_op *op)
{
    memset(op, 0, sizeof *op);
}

void hm_beam_fini(struct hm_beam_op *op)
{
    free(op->expert);
    free(op->choice);
    free(op->choice_count);
    free(op->spare);
    free(op->spare_count);
    free(op->prefix);
    free(op->extended);
    free(op->prefix_count);
    free(op->key);
    free(op->text);
    free(op->text_at);
    hm_beam_init(op);
}

/* Spares count at every step: those under the prefixes of the best alone would mostly be the same
 * server's. */
static uint32_t width_of(const struct hm_beam_op *op)
{
    uint32_t wanted = op->k_best + op->spares;
    return op->width > wanted ? op->width : wanted;
}

static bool better(const struct hm_beam_prefix *a, const struct hm_beam_prefix *b)
{
    return a->score > b->score || (a->score == b->score && a->key < b->key);
}

/* Puts a candidate among a row's best `width`, which are sorted. */
static void keep_best(struct hm_beam_prefix *best, uint32_t *count, uint32_t width,
                      const struct hm_beam_prefix *candidate)
{
    if (*count == width && !better(candidate, &best[width - 1])) return;
    uint32_t at = *count < width ? (*count)++ : width - 1;
    for (; at > 0 && better(candidate, &best[at - 1]); at--) best[at] = best[at - 1];
    best[at] = *candidate;
}

static int compare_keys(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;
    return *a < *b ? -1 : *a > *b;
}

/* The distinct prefixes of all rows, sorted -> op->key. */
static void gather_keys(struct hm_beam_op *op)
{
    uint32_t width = width_of(op);
    size_t count = 0, distinct = 0;
    for (uint32_t row = 0; row < op->row_count; row++) {
        for (uint32_t i = 0; i < op->prefix_count[row]; i++)
            op->key[count++] = op->prefix[(size_t)row * width + i].key;
    }
    qsort(op->key, count, sizeof *op->key, compare_keys);
    for (size_t i = 0; i < count; i++) {
        if (distinct == 0 || op->key[distinct - 1] != op->key[i]) op->key[distinct++] = op->key[i];
    }
    op->key_count = (unsigned)distinct;
}

static void children_found(void *arg, enum hm_status status, const struct hm_children *children,
                           unsigned prefix_count);

/* Asks the directory for the children of every prefix of this step. */
static enum hm_status ask(struct hm_beam_op *op)
{
    gather_keys(op);
    for (unsigned i = 0; i < op->key_count; i++) {
        char *text = op->text + (size_t)i * HM_UID_BYTES;
        uint32_t coordinate[HM_GRID_DIMS_MAX];
        coordinates_of(op->grid, op->key[i], op->step, coordinate);
        size_t used = (size_t)snprintf(text, HM_UID_BYTES, "%s.", op->grid->name);
        for (unsigned d = 0; d < op->step; d++)
            used +=
                (size_t)snprintf(text + used, HM_UID_BYTES - used, "%" PRIu32 ".", coordinate[d]);
        HM_ASSERT(used < HM_UID_BYTES); /* hm_beam_grid_init tried the longest uid */
        op->text_at[i] = text;
    }
    return hm_directory_children(op->directory, op->text_at, op->key_count, op->deadline,
                                 children_found, op);
}

/* One row's prefixes by their live children. */
static void extend_row(struct hm_beam_op *op, const struct hm_children *children, uint32_t row,
                       uint32_t column)
{
    uint32_t width = width_of(op), count = 0;
    struct hm_beam_prefix *from = op->prefix + (size_t)row * width,
                          *to = op->extended + (size_t)row * width;
    const float *logit = op->logits + (size_t)row * hm_beam_grid_columns(op->grid) + column;
    for (uint32_t i = 0; i < op->prefix_count[row]; i++) {
        const uint64_t *at =
            bsearch(&from[i].key, op->key, op->key_count, sizeof *op->key, compare_keys);
        const struct hm_children *of = &children[at - op->key];
        for (unsigned c = 0; c < of->count; c++) {
            const struct hm_provider *child = &of->provider[c];
            if (child->coordinate >= op->grid->size[op->step] || child->server_count == 0) continue;
            struct hm_beam_prefix candidate = {
                .key = from[i].key * op->grid->size[op->step] + child->coordinate,
                .score = from[i].score + logit[child->coordinate],
                .server = child->server[0],
            };
            keep_best(to, &count, width, &candidate);
        }
    }
    op->prefix_count[row] = count;
}

/* The rows' best prefixes, which are experts now -> op->expert, op->choice and op->spare. */
static enum hm_status collect(struct hm_beam_op *op)
{
    uint32_t width = width_of(op);
    for (uint32_t row = 0; row < op->row_count; row++) {
        if (op->prefix_count[row] > op->k_best + op->spares)
            op->prefix_count[row] = op->k_best + op->spares;
    }
    gather_keys(op);
    if (!hm_grow(&op->expert, &op->expert_capacity, op->key_count, sizeof *op->expert))
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for %u chosen experts", op->key_count);
    for (unsigned i = 0; i < op->key_count; i++) {
        uint32_t coordinate[HM_GRID_DIMS_MAX];
        coordinates_of(op->grid, op->key[i], op->grid->dim_count, coordinate);
        enum hm_status status =
            hm_uid_make(op->grid->name, coordinate, op->grid->dim_count, &op->expert[i].uid);
        if (status != HM_OK) return status;
    }
    for (uint32_t row = 0; row < op->row_count; row++) {
        uint32_t count = op->prefix_count[row], best = count < op->k_best ? count : op->k_best;
        op->choice_count[row] = best;
        op->spare_count[row] = count - best;
        for (uint32_t i = 0; i < op->prefix_count[row]; i++) {
            const struct hm_beam_prefix *prefix = &op->prefix[(size_t)row * width + i];
            const uint64_t *at =
                bsearch(&prefix->key, op->key, op->key_count, sizeof *op->key, compare_keys);
            uint32_t expert = (uint32_t)(at - op->key);
            op->expert[expert].server =
                prefix->server; /* one answer for all rows, so the same for all */
            struct hm_beam_choice *to = i < best ? &op->choice[(size_t)row * op->k_best + i]
                                                 : &op->spare[(size_t)row * op->spares + i - best];
            *to = (struct hm_beam_choice){.expert = expert, .logit = prefix->score};
        }
    }
    op->expert_count = op->key_count;
    return HM_OK;
}

static enum hm_status nothing_alive(const struct hm_beam_op *op, uint32_t row)
{
    if (op->step == 0)
        return hm_fail(HM_ERR_NOT_FOUND,
                       "no live experts under '%s.' in this swarm; start a server that hosts them "
                       "(hivemind serve --experts '%s.[0:%" PRIu32 "]…') or check the name",
                       op->grid->name, op->grid->name, op->grid->size[0]);
    return hm_fail(
        HM_ERR_NOT_FOUND,
        "row %" PRIu32
        ": the servers of all its best prefixes under '%s.' have gone; try again, or use a "
        "wider beam",
        row, op->grid->name);
}

static void children_found(void *arg, enum hm_status status, const struct hm_children *children,
                           unsigned prefix_count)
{
    struct hm_beam_op *op = arg;
    if (status != HM_OK) {
        op->cb(op, status);
        return;
    }
    HM_ASSERT(prefix_count == op->key_count);
    uint32_t column = 0;
    for (unsigned d = 0; d < op->step; d++) column += op->grid->size[d];
    for (uint32_t row = 0; row < op->row_count; row++) {
        extend_row(op, children, row, column);
        if (op->prefix_count[row] > 0) continue;
        op->cb(op, nothing_alive(op, row));
        return;
    }
    struct hm_beam_prefix *extended = op->extended;
    op->extended = op->prefix;
    op->prefix = extended;
    op->step++;
    if (op->step < op->grid->dim_count) {
        status = ask(op);
        if (status == HM_OK) return;
    } else {
        status = collect(op);
    }
    op->cb(op, status);
}

static bool make_room(struct hm_beam_op *op)
{
    /* Where two buffers share a capacity, the first one grows by a copy of it, so that a failure
     * between them is harmless. */
    size_t prefixes = (size_t)op->row_count * width_of(op), rows = op->row_count;
    size_t capacity = op->prefix_capacity;
    if (!hm_grow(&op->prefix, &capacity, prefixes, sizeof *op->prefix)) return false;
    if (!hm_grow(&op->extended, &op->prefix_capacity, prefixes, sizeof *op->extended)) return false;
    capacity = op->row_capacity;
    if (!hm_grow(&op->prefix_count, &capacity, rows, sizeof *op->prefix_count)) return false;
    capacity = op->row_capacity;
    if (!hm_grow(&op->spare_count, &capacity, rows, sizeof *op->spare_count)) return false;
    if (!hm_grow(&op->choice_count, &op->row_capacity, rows, sizeof *op->choice_count))
        return false;
    if (!hm_grow(&op->spare, &op->spare_capacity, rows * op->spares, sizeof *op->spare))
        return false;
    if (!hm_grow(&op->choice, &op->choice_capacity, rows * op->k_best, sizeof *op->choice))
        return false;
    if (!hm_grow(&op->key, &op->key_capacity, prefixes, sizeof *op->key)) return false;
    /* Texts are made for the prefixes that are asked for: distinct, and without the last dimension.
     * */
    uint64_t grid_prefixes = 1;
    for (unsigned d = 0; d + 1 < op->grid->dim_count; d++) grid_prefixes *= op->grid->size[d];
    size_t texts = grid_prefixes < prefixes ? (size_t)grid_prefixes : prefixes;
    capacity = op->text_capacity;
    if (!hm_grow(&op->text, &capacity, texts, HM_UID_BYTES)) return false;
    return hm_grow(&op->text_at, &op->text_capacity, texts, sizeof(const char *));
}

enum hm_status hm_beam_start(struct hm_beam_op *op)
{
    HM_ASSERT(op->directory && op->grid && op->cb && op->deadline != HM_NS_NEVER);
    HM_ASSERT(op->k_best >= 1 && op->k_best <= HM_BEAM_MAX && op->width <= HM_BEAM_MAX);
    HM_ASSERT(op->spares <= HM_BEAM_MAX - op->k_best);
    if (op->row_count < 1)
        return hm_fail(HM_ERR_SHAPE, "a choice of experts needs at least one row");
    size_t logits = (size_t)op->row_count * hm_beam_grid_columns(op->grid);
    for (size_t i = 0; i < logits; i++) {
        if (!isfinite(op->logits[i]))
            return hm_fail(
                HM_ERR_NUMERIC,
                "the gate of '%s' gave a logit that is not finite; lower the learning rate",
                op->grid->name);
    }
    if (!make_room(op))
        return hm_fail(HM_ERR_NO_MEMORY, "no memory to choose experts for %" PRIu32 " rows",
                       op->row_count);
    op->step = 0;
    op->expert_count = 0;
    for (uint32_t row = 0; row < op->row_count; row++) {
        op->prefix_count[row] = 1;
        op->prefix[(size_t)row * width_of(op)] = (struct hm_beam_prefix){0};
    }
    return ask(op);
}
