/* experts/checkpoint_file.c - the HDF5 side of checkpoints.
 *
 *   /            attributes format, uid, kind, hidden, optimizer, dtype, step, digest
 *   /parameters  one dataset a parameter tensor, by its PyTorch name
 *   /slots/NAME  likewise, for every optimizer slot
 *   /dedupe      bytes
 *
 * The digest (XXH3, 128 bits, as 32 hexadecimal digits) covers uid, kind, optimizer, hidden, step,
 * then names and bytes of every tensor in plan order, then dedupe: HDF5's own checksums would cover
 * chunks only, and contiguous data writes faster.  Tensors are dense in the file, and on their way
 * between it and the arrays they stand in a buffer for one.  dtype is information: what is stored is
 * f32 in either case, and an expert may go on in the other one.  HDF5's library is not thread-safe as Debian
 * builds it, and keeps global state: one thread at a time (checkpoint.h). */
#include "experts/checkpoint_file.h"

#include "base/assert.h"
#include "base/file.h"
#include "experts/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { DIGEST_TEXT_BYTES = 33, TEXT_BYTES = 160, DEDUPE_BYTES_MAX = 64 << 20 };

/* ---- a buffer for one tensor ------------------------------------------------------------------ */

static uint64_t tensor_elements(const struct hm_parameter *parameter)
{
    uint64_t elements = 0;
    enum hm_status status = hm_shape_elements(&parameter->shape, &elements);
    HM_ASSERT(status == HM_OK); /* the plan is ours */
    return elements;
}

/* For the largest one; the caller frees it. */
static float *dense_buffer(const struct hm_plan *plan)
{
    uint64_t largest = 1; /* nop has none */
    for (unsigned i = 0; i < plan->parameter_count; i++) {
        uint64_t elements = tensor_elements(&plan->parameter[i]);
        largest = elements > largest ? elements : largest;
    }
    return malloc(largest * sizeof(float));
}

/* ---- digest ---------------------------------------------------------------------------------- */

static void digest_tensors(XXH3_state_t *state, const struct hm_checkpoint_view *view,
                           unsigned array, float *dense)
{
    for (unsigned i = 0; i < view->plan->parameter_count; i++) {
        const struct hm_parameter *parameter = &view->plan->parameter[i];
        hm_parameter_get(&view->places[i], parameter, view->array[array], dense);
        XXH3_128bits_update(state, parameter->name, strlen(parameter->name) + 1);
        XXH3_128bits_update(state, dense, tensor_elements(parameter) * sizeof(float));
    }
}

static enum hm_status digest(const struct hm_checkpoint_view *view, float *dense,
                             char text[DIGEST_TEXT_BYTES])
{
    XXH3_state_t *state = XXH3_createState();
    if (!state) return HM_ERR_NO_MEMORY;
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, view->uid, strlen(view->uid) + 1);
    XXH3_128bits_update(state, view->kind, strlen(view->kind) + 1);
    XXH3_128bits_update(state, view->optimizer, strlen(view->optimizer) + 1);
    XXH3_128bits_update(state, &view->hidden, sizeof(view->hidden));
    XXH3_128bits_update(state, &view->step, sizeof(view->step));
    for (unsigned i = 0; i <= view->slot_count; i++) digest_tensors(state, view, i, dense);
    XXH3_128bits_update(state, view->dedupe, view->dedupe_bytes);
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    snprintf(text, DIGEST_TEXT_BYTES, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
    return HM_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool write_text(hid_t at, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, strlen(text) + 1);
    hid_t attribute = H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = attribute >= 0 && H5Awrite(attribute, type, text) >= 0;
    if (attribute >= 0) ok = H5Aclose(attribute) >= 0 && ok;
    H5Sclose(space);
    H5Tclose(type);
    return ok;
}

static bool write_number(hid_t at, const char *name, uint64_t number)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(at, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_UINT64, &number) >= 0;
    if (attribute >= 0) ok = H5Aclose(attribute) >= 0 && ok;
    H5Sclose(space);
    return ok;
}

static bool write_data(hid_t at, const char *name, hid_t stored, hid_t native, const hsize_t *dim,
                       int dims, const void *data)
{
    hid_t space = H5Screate_simple(dims, dim, NULL);
    hid_t set = space >= 0
                    ? H5Dcreate2(at, name, stored, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)
                    : -1;
    bool ok = set >= 0 &&
              (dim[0] == 0 || H5Dwrite(set, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    if (set >= 0) ok = H5Dclose(set) >= 0 && ok;
    if (space >= 0) H5Sclose(space);
    return ok;
}

static bool write_tensors(hid_t at, const char *group_name, const struct hm_checkpoint_view *view,
                          unsigned array, float *dense)
{
    hid_t group = H5Gcreate2(at, group_name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = group >= 0;
    for (unsigned i = 0; ok && i < view->plan->parameter_count; i++) {
        const struct hm_parameter *parameter = &view->plan->parameter[i];
        hsize_t dim[HM_DIMS_MAX];
        for (unsigned d = 0; d < parameter->shape.dim_count; d++) dim[d] = parameter->shape.dim[d];
        hm_parameter_get(&view->places[i], parameter, view->array[array], dense);
        ok = write_data(group, parameter->name, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, dim,
                        parameter->shape.dim_count, dense);
    }
    if (group >= 0) ok = H5Gclose(group) >= 0 && ok;
    return ok;
}

static bool write_all(hid_t file, const struct hm_checkpoint_view *view, const char *digest_text,
                      float *dense)
{
    bool ok = write_number(file, "format", HM_CHECKPOINT_FORMAT) &&
              write_text(file, "uid", view->uid) && write_text(file, "kind", view->kind) &&
              write_text(file, "optimizer", view->optimizer) &&
              write_number(file, "hidden", view->hidden) &&
              write_text(file, "dtype", hm_dtype_name(view->dtype)) &&
              write_number(file, "step", view->step) && write_text(file, "digest", digest_text) &&
              write_tensors(file, "parameters", view, 0, dense);
    hid_t slots = ok ? H5Gcreate2(file, "slots", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT) : -1;
    ok = slots >= 0;
    for (unsigned i = 0; ok && i < view->slot_count; i++)
        ok = write_tensors(slots, view->slot_name[i], view, 1 + i, dense);
    if (slots >= 0) ok = H5Gclose(slots) >= 0 && ok;
    hsize_t bytes = view->dedupe_bytes;
    return ok &&
           write_data(file, "dedupe", H5T_STD_U8LE, H5T_NATIVE_UINT8, &bytes, 1, view->dedupe);
}

/* Bytes to a new file, and to the disk. */
static bool write_file(const char *path, const char *bytes, size_t byte_count)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return false;
    bool ok = hm_file_write_all(fd, bytes, byte_count);
    return close(fd) == 0 && ok;
}

/* The file is made in memory and written by us: HDF5 1.10 cannot close a file that a full disk has
 * cut short, holds it for ever and crashes at exit.  The in-memory driver gives its buffer as its
 * handle, so there is no further copy. */
static enum hm_status write_image(const char *path, const struct hm_checkpoint_view *view,
                                  float *dense)
{
    char text[DIGEST_TEXT_BYTES];
    enum hm_status status = digest(view, dense, text);
    if (status) return status;
    size_t data_bytes = view->plan->parameter_elements * sizeof(float) * (1 + view->slot_count);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* its stack dumps are nothing for users */
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    hid_t file = -1;
    void **image;
    hsize_t bytes;
    errno = 0;
    if (access >= 0 && H5Pset_fapl_core(access, data_bytes + (1 << 20), false) >= 0)
        file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    bool ok = file >= 0 && write_all(file, view, text, dense) &&
              H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0 && H5Fget_filesize(file, &bytes) >= 0 &&
              H5Fget_vfd_handle(file, access, (void **)&image) >= 0 &&
              write_file(path, *image, bytes);
    int error = errno;
    if (file >= 0) H5Fclose(file);
    if (access >= 0) H5Pclose(access);
    if (ok) return HM_OK;
    return hm_fail(
        HM_ERR_STORAGE,
        "cannot write the checkpoint %s (%s); is the disk full, or the folder not ours to write?",
        path, error ? strerror(error) : "HDF5 failed");
}

enum hm_status hm_checkpoint_file_write(const char *path, const struct hm_checkpoint_view *view)
{
    float *dense = dense_buffer(view->plan);
    enum hm_status status = dense ? write_image(path, view, dense) : HM_ERR_NO_MEMORY;
    free(dense);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_text(hid_t at, const char *name, char text[TEXT_BYTES])
{
    bool ok = false;
    hid_t attribute = H5Aexists(at, name) > 0 ? H5Aopen(at, name, H5P_DEFAULT) : -1;
    if (attribute < 0) return false;
    hid_t type = H5Aget_type(attribute);
    size_t bytes = type >= 0 ? H5Tget_size(type) : 0;
    if (type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
        bytes > 0 && bytes < TEXT_BYTES) {
        memset(text, 0, TEXT_BYTES);
        ok = H5Aread(attribute, type, text) >= 0;
    }
    if (type >= 0) H5Tclose(type);
    H5Aclose(attribute);
    return ok;
}

static bool read_number(hid_t at, const char *name, uint64_t *number)
{
    hid_t attribute = H5Aexists(at, name) > 0 ? H5Aopen(at, name, H5P_DEFAULT) : -1;
    if (attribute < 0) return false;
    hid_t space = H5Aget_space(attribute);
    bool ok = space >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
              H5Aread(attribute, H5T_NATIVE_UINT64, number) >= 0;
    if (space >= 0) H5Sclose(space);
    H5Aclose(attribute);
    return ok;
}

/* Reads a dataset of exactly these dims. */
static bool read_data(hid_t at, const char *name, hid_t native, const hsize_t *dim, int dims,
                      void *data)
{
    hid_t set = H5Lexists(at, name, H5P_DEFAULT) > 0 ? H5Dopen2(at, name, H5P_DEFAULT) : -1;
    if (set < 0) return false;
    hsize_t there[H5S_MAX_RANK];
    hid_t space = H5Dget_space(set);
    bool ok = space >= 0 && H5Sget_simple_extent_ndims(space) == dims &&
              H5Sget_simple_extent_dims(space, there, NULL) == dims &&
              memcmp(there, dim, (size_t)dims * sizeof(*dim)) == 0 &&
              H5Dread(set, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    if (space >= 0) H5Sclose(space);
    H5Dclose(set);
    return ok;
}

static bool read_tensors(hid_t at, const char *group_name, const struct hm_checkpoint_view *view,
                         unsigned array, float *dense)
{
    hid_t group =
        H5Lexists(at, group_name, H5P_DEFAULT) > 0 ? H5Gopen2(at, group_name, H5P_DEFAULT) : -1;
    bool ok = group >= 0;
    for (unsigned i = 0; ok && i < view->plan->parameter_count; i++) {
        const struct hm_parameter *parameter = &view->plan->parameter[i];
        hsize_t dim[HM_DIMS_MAX];
        for (unsigned d = 0; d < parameter->shape.dim_count; d++) dim[d] = parameter->shape.dim[d];
        ok = read_data(group, parameter->name, H5T_NATIVE_FLOAT, dim, parameter->shape.dim_count,
                       dense);
        if (ok) hm_parameter_put(&view->places[i], parameter, view->array[array], dense);
    }
    if (group >= 0) H5Gclose(group);
    return ok;
}

static bool read_dedupe(hid_t file, void **bytes, size_t *byte_count)
{
    hid_t set =
        H5Lexists(file, "dedupe", H5P_DEFAULT) > 0 ? H5Dopen2(file, "dedupe", H5P_DEFAULT) : -1;
    if (set < 0) return false;
    hid_t space = H5Dget_space(set);
    hssize_t count = space >= 0 ? H5Sget_simple_extent_npoints(space) : -1;
    bool ok = count >= 0 && count <= DEDUPE_BYTES_MAX;
    void *data = ok ? malloc((size_t)count + 1) : NULL;
    ok = data &&
         (count == 0 || H5Dread(set, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    if (space >= 0) H5Sclose(space);
    H5Dclose(set);
    if (!ok) {
        free(data);
        return false;
    }
    *bytes = data;
    *byte_count = (size_t)count;
    return true;
}

/* Is it a checkpoint of this very expert?  Says so before any array is touched. */
static enum hm_status check_attributes(hid_t file, const char *path,
                                       const struct hm_checkpoint_view *view)
{
    char uid[TEXT_BYTES], kind[TEXT_BYTES], optimizer[TEXT_BYTES];
    uint64_t format, hidden;
    if (!read_number(file, "format", &format) || !read_text(file, "uid", uid) ||
        !read_text(file, "kind", kind) || !read_text(file, "optimizer", optimizer) ||
        !read_number(file, "hidden", &hidden))
        return hm_fail(HM_ERR_CORRUPT,
                       "the checkpoint %s is damaged: its attributes cannot be read", path);
    if (format != HM_CHECKPOINT_FORMAT)
        return hm_fail(HM_ERR_SHAPE,
                       "the checkpoint %s has format %llu, this release reads %d; use the release "
                       "that wrote it",
                       path, (unsigned long long)format, HM_CHECKPOINT_FORMAT);
    if (strcmp(uid, view->uid) != 0)
        return hm_fail(HM_ERR_SHAPE, "the checkpoint %s is of expert %s, not %s", path, uid,
                       view->uid);
    if (strcmp(kind, view->kind) != 0 || hidden != view->hidden ||
        strcmp(optimizer, view->optimizer) != 0)
        return hm_fail(HM_ERR_SHAPE,
                       "the checkpoint %s is of kind %s, %llu columns, %s; this server asks for "
                       "%s, %u, %s: give it those, or "
                       "another --state",
                       path, kind, (unsigned long long)hidden, optimizer, view->kind, view->hidden,
                       view->optimizer);
    return HM_OK;
}

static bool read_all(hid_t file, struct hm_checkpoint_view *view, float *dense)
{
    char stored[TEXT_BYTES], text[DIGEST_TEXT_BYTES];
    hid_t slots = -1;
    bool ok = read_number(file, "step", &view->step) && read_text(file, "digest", stored) &&
              read_tensors(file, "parameters", view, 0, dense);
    if (ok)
        slots =
            H5Lexists(file, "slots", H5P_DEFAULT) > 0 ? H5Gopen2(file, "slots", H5P_DEFAULT) : -1;
    ok = slots >= 0;
    for (unsigned i = 0; ok && i < view->slot_count; i++)
        ok = read_tensors(slots, view->slot_name[i], view, 1 + i, dense);
    if (slots >= 0) H5Gclose(slots);
    ok = ok && read_dedupe(file, &view->dedupe, &view->dedupe_bytes);
    return ok && digest(view, dense, text) == HM_OK && strcmp(stored, text) == 0;
}

enum hm_status hm_checkpoint_file_read(const char *path, struct hm_checkpoint_view *view)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    view->dedupe = NULL;
    view->dedupe_bytes = 0;
    float *dense = dense_buffer(view->plan);
    if (!dense) return HM_ERR_NO_MEMORY;
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) {
        free(dense);
        return hm_fail(HM_ERR_CORRUPT, "the checkpoint %s is damaged: it is not readable HDF5",
                       path);
    }
    enum hm_status status = check_attributes(file, path, view);
    if (!status && !read_all(file, view, dense)) {
        free(view->dedupe);
        view->dedupe = NULL;
        status =
            hm_fail(HM_ERR_CORRUPT,
                    "the checkpoint %s is damaged: its contents do not match its digest", path);
    }
    H5Fclose(file);
    free(dense);
    return status;
}
