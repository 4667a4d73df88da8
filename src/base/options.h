/* base/options.h - every option is a row in its module's table: file < environment (HM_…) < flag;
 * --help prints it.
 *
 *   static const struct hm_option options[] = {
 *       {"batch-rows-max", HM_OPTION_U32, "2048", "ROWS", "never run more rows at once",
 *        offsetof(struct conf, rows), 1, 65536},
 *
 * A flag is --batch-rows-max 512 or --batch-rows-max=512, its variable HM_BATCH_ROWS_MAX, its line
 * in a file `batch-rows-max = 512` (# starts a comment).  A later source replaces an earlier one; a
 * flag given twice is an error.  An empty variable counts as unset.  With --help nothing else is
 * read.
 * Unknown flags and file keys, and values that do not parse or lie outside [min, max], are
 * HM_ERR_INVALID with a line (hm_fail) that names the source, the value and what is allowed, and
 * the nearest known name for a misspelt one. */
#ifndef HM_BASE_OPTIONS_H
#define HM_BASE_OPTIONS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum hm_option_kind {
    HM_OPTION_BOOL,     /* bool: --flag, --no-flag, or =true/false */
    HM_OPTION_U32,      /* uint32_t */
    HM_OPTION_U64,      /* uint64_t */
    HM_OPTION_F32,      /* float */
    HM_OPTION_BYTES,    /* size_t: 4096, 64K, 256M, 2G (powers of 1024) */
    HM_OPTION_DURATION, /* hm_ns: 250us, 500ms, 30s, 5m; a bare number is refused */
    /* const char *: points into argv, the environment or the option set; NULL if default is NULL */
    HM_OPTION_STRING,
};
struct hm_option {
    const char *name; /* lower case with hyphens */
    enum hm_option_kind kind;
    const char *standard; /* default as text; NULL: unset (string: NULL, others: 0) */
    const char *metavar;  /* what --help calls the value; NULL for BOOL */
    const char *help;     /* one line */
    size_t offset;        /* into the module's configuration struct */
    double min, max;      /* numbers, bytes, durations in seconds; both 0: no bounds */
};
struct hm_option_table {
    const char *title; /* heading in --help */
    const struct hm_option *options;
    unsigned option_count;
    void *target; /* the module's configuration struct */
};

enum { HM_OPTION_TABLES_MAX = 12, HM_POSITIONAL_MAX = 8 };
struct hm_options {
    struct hm_option_table table[HM_OPTION_TABLES_MAX];
    unsigned table_count;
    const char *positional[HM_POSITIONAL_MAX]; /* arguments that are no flags */
    unsigned positional_count;
    bool help;       /* --help was given */
    char *file_text; /* what --config read; strings point into it */
};

void hm_options_init(struct hm_options *options);
void hm_options_fini(struct hm_options *options);
void hm_options_add(struct hm_options *options, const char *title, const struct hm_option *rows,
                    unsigned row_count, void *target);
/* Defaults, then --config FILE (if given), then the environment, then flags.  argv[0] is skipped.
 * --config and --help are always known. */
HM_MUST_CHECK enum hm_status hm_options_parse(struct hm_options *options, int argc,
                                              char *const *argv);
/* Defaults only: for tests and the C API. */
void hm_options_defaults(const struct hm_option *rows, unsigned row_count, void *target);
void hm_options_help(const struct hm_options *options, FILE *to);
/* The nearest of `names` by edit distance (at most 3, and half of the name), for "did you mean";
 * NULL if none is near. */
const char *hm_nearest_name(const char *name, const char *const *names, unsigned name_count);

#endif
