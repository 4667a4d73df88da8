/* cli/bench_raw.h - the raw programs of perf/ beside ours: what the same work costs without any of
 * our layers, in the same run. */
#ifndef HM_CLI_BENCH_RAW_H
#define HM_CLI_BENCH_RAW_H

#include "base/loop.h"

/* Whether build/bin/perf-<name> lies beside this program. */
bool bench_raw_there(const char *name);
/* Whether that file is there -> its path; for what is loaded and not run. */
bool bench_raw_find(const char *name, char *path, size_t path_bytes);
/* Runs it and keeps its first line of output; false: it is not there, it failed, or took longer. */
bool bench_raw_run(const char *name, const char *const *arguments, hm_ns timeout, char *line,
                   size_t line_bytes);
/* A number of that line of JSON; NAN: there is none of that name. */
double bench_raw_number(const char *line, const char *name);

/* perf-raw_ffn's line: `pass` ("forward", "train", "adam") over batches of `rows` ("32x5,64").
 * *dtype becomes f32 where the CPU has no products in it: ours multiply in f32 there as well. */
bool bench_raw_ffn(const char *pass, const char *rows, uint32_t hidden, const char **dtype,
                   double seconds, char *line, size_t line_bytes);

#endif
