/* base/module.h - heavy optional parts (UCX, MPI), loaded at run time and only when asked for.
 *
 * A module is <folder>/<name>.so, made by hm_module() in CMake and looked for in HM_MODULE_PATH
 * (folders, ':' between), then in ../lib/hivemind beside the folder of the running program.  Its
 * sources use the ordinary headers of src/: base/module/calls.c, compiled into each module, defines
 * the functions of HM_CORE_TABLE as calls through the table that the core hands over, so that
 * there is one log level, one kept error line and one set of pools in the process.  What is not in
 * the table (and not inline) a module cannot use; extend the table, its version is the build.
 *
 * Invariant: nothing of a module runs before its build has been compared with the core's.  Modules
 *            are never unloaded: neither UCX nor MPI survives that.
 * Thread:    set-up; one at a time. */
#ifndef HM_BASE_MODULE_H
#define HM_BASE_MODULE_H

#include "base/buf.h"
#include "base/linger.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/rng.h"
#include "base/thread.h"
#include "base/wire.h"

enum { HM_MODULE_ABI = 1 }; /* of the two structs at the end */

/*    result               name                  parameters                arguments */
#define HM_CORE_TABLE(X)                                                                           \
    X(const char *, hm_status_text, (enum hm_status a), (a))                                       \
    X(const char *, hm_status_name, (enum hm_status a), (a))                                       \
    X(enum hm_scope, hm_status_scope, (enum hm_status a), (a))                                     \
    X(enum hm_status, hm_status_from_wire, (int a), (a))                                           \
    X(const char *, hm_fail_line, (void), ())                                                      \
    X(enum hm_log_level, hm_log_get_level, (void), ())                                             \
    X(enum hm_status, hm_buf_pool_create, (size_t a, struct hm_buf_pool * *b), (a, b))             \
    X(enum hm_status, hm_buf_pool_get, (struct hm_buf_pool * a, size_t b, struct hm_buf * *c),     \
      (a, b, c))                                                                                   \
    X(size_t, hm_buf_pool_bytes_used, (const struct hm_buf_pool *a), (a))                          \
    X(size_t, hm_buf_pool_bytes_max, (const struct hm_buf_pool *a), (a))                           \
    X(struct hm_buf *, hm_buf_get, (struct hm_buf * a), (a))                                       \
    X(struct hm_span, hm_buf_span, (struct hm_buf * a), (a))                                       \
    X(struct hm_span, hm_buf_part, (struct hm_buf * a, size_t b, size_t c), (a, b, c))             \
    X(const uint8_t *, hm_span_read, (const struct hm_span *a, size_t b, size_t *c), (a, b, c))    \
    X(uint8_t *, hm_span_write, (const struct hm_span *a, size_t b, size_t *c), (a, b, c))         \
    X(enum hm_status, hm_map_init, (struct hm_map * a, uint32_t b), (a, b))                        \
    X(struct hm_map_node *, hm_map_find,                                                           \
      (const struct hm_map *a, uint64_t b, hm_map_equal c, const void *d), (a, b, c, d))           \
    X(struct hm_map_node *, hm_map_next, (const struct hm_map *a, const struct hm_map_node *b),    \
      (a, b))                                                                                      \
    X(uint64_t, hm_hash, (const void *a, size_t b, uint64_t c), (a, b, c))                         \
    X(uint64_t, hm_rng_next, (struct hm_rng * a), (a))                                             \
    X(uint64_t, hm_rng_below, (struct hm_rng * a, uint64_t b), (a, b))                             \
    X(uint64_t, hm_rng_os_seed, (void), ())                                                        \
    X(uint8_t, hm_read_u8, (struct hm_reader * a), (a))                                            \
    X(uint16_t, hm_read_u16, (struct hm_reader * a), (a))                                          \
    X(uint32_t, hm_read_u32, (struct hm_reader * a), (a))                                          \
    X(uint64_t, hm_read_u64, (struct hm_reader * a), (a))                                          \
    X(const void *, hm_read_bytes, (struct hm_reader * a, size_t b), (a, b))                       \
    X(size_t, hm_reader_left, (const struct hm_reader *a), (a))                                    \
    X(bool, hm_reader_ok, (const struct hm_reader *a), (a))                                        \
    X(bool, hm_reader_ended, (const struct hm_reader *a), (a))                                     \
    X(bool, hm_linger, (struct hm_linger * a, uint64_t b, uint64_t c, hm_ns d, hm_ns e),           \
      (a, b, c, d, e))                                                                             \
    X(hm_ns, hm_thread_clock, (void), ())                                                          \
    X(size_t, hm_writer_count, (const struct hm_writer *a), (a))                                   \
    X(bool, hm_writer_ok, (const struct hm_writer *a), (a))

/*    name                  parameters                arguments: those that return nothing */
#define HM_CORE_VOID_TABLE(X)                                                                      \
    X(hm_fail_clear, (void), ())                                                                   \
    X(hm_buf_pool_destroy, (struct hm_buf_pool * a), (a))                                          \
    X(hm_buf_put, (struct hm_buf * a), (a))                                                        \
    X(hm_map_fini, (struct hm_map * a), (a))                                                       \
    X(hm_map_insert, (struct hm_map * a, struct hm_map_node * b, uint64_t c), (a, b, c))           \
    X(hm_map_remove, (struct hm_map * a, struct hm_map_node * b), (a, b))                          \
    X(hm_metrics_add, (struct hm_metrics * a, struct hm_metric * b), (a, b))                       \
    X(hm_metrics_remove, (struct hm_metric * a), (a))                                              \
    X(hm_rng_init, (struct hm_rng * a, uint64_t b, uint64_t c), (a, b, c))                         \
    X(hm_reader_init, (struct hm_reader * a, const void *b, size_t c), (a, b, c))                  \
    X(hm_read_string, (struct hm_reader * a, char *b, size_t c), (a, b, c))                        \
    X(hm_thread_sleep, (hm_ns a), (a))                                                             \
    X(hm_writer_init, (struct hm_writer * a, void *b, size_t c), (a, b, c))                        \
    X(hm_write_u8, (struct hm_writer * a, uint8_t b), (a, b))                                      \
    X(hm_write_u16, (struct hm_writer * a, uint16_t b), (a, b))                                    \
    X(hm_write_u32, (struct hm_writer * a, uint32_t b), (a, b))                                    \
    X(hm_write_u64, (struct hm_writer * a, uint64_t b), (a, b))                                    \
    X(hm_write_bytes, (struct hm_writer * a, const void *b, size_t c), (a, b, c))                  \
    X(hm_write_string, (struct hm_writer * a, const char *b), (a, b))

struct hm_core {
#define X(result, name, parameters, arguments) result(*name) parameters;
    HM_CORE_TABLE(X)
#undef X
#define X(name, parameters, arguments) void(*name) parameters;
    HM_CORE_VOID_TABLE(X)
#undef X
    /* Text that the module has formatted. */
    void (*fail_keep)(enum hm_status status, const char *text);
    void (*log_write)(enum hm_log_level level, const char *module, const char *text);
    void (*assert_failed)(const char *expression, const char *file, int line);
};

/* What a module exports, as `hm_module_info` (HM_MODULE does it). */
struct hm_module_info {
    uint32_t abi;
    const char *build; /* hm_build_id() of its build */
    const char *name;
    const void *ops; /* what it provides: the header of that thing says which struct */
    void (*bind)(const struct hm_core *core);
};
/* calls.c's */
extern const char hm_module_build[];
void hm_module_bind(const struct hm_core *core);
#define HM_MODULE(module_name, module_ops)                                                         \
    __attribute__((visibility("default"))) extern const struct hm_module_info hm_module_info;      \
    const struct hm_module_info hm_module_info = {.abi = HM_MODULE_ABI,                            \
                                                  .build = hm_module_build,                        \
                                                  .name = (module_name),                           \
                                                  .ops = (module_ops),                             \
                                                  .bind = hm_module_bind}

/* "0.1.0-5908da3-1f2e3d4c": version, commit, and a hash of how and from what it was built. */
const char *hm_build_id(void);
/* Loads a module and gives its ops; asked again, the same ones.
 * Errors:  HM_ERR_NOT_FOUND: it is not there.
 *          HM_ERR_UNSUPPORTED: it is of another build, or a library that it needs is missing.
 *          All with a line that says where it looked and what to do. */
HM_MUST_CHECK enum hm_status hm_module_load(const char *name, const void **ops);

#endif
