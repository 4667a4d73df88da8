/* base/file.h - whole files, replaced and read at once; and bytes that reach the disk. */
#ifndef HM_BASE_FILE_H
#define HM_BASE_FILE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Written aside, fsynced and renamed, 0600: whoever opens the file, also after a power cut, finds
 * the old one or the new one.  HM_ERR_STORAGE with a line.
 * Thread: one that may block. */
HM_MUST_CHECK enum hm_status hm_file_replace(const char *path, const void *bytes, size_t count);
/* So too, for others to read: the umask decides. */
HM_MUST_CHECK enum hm_status hm_file_publish(const char *path, const void *bytes, size_t count);
/* *bytes is malloc'ed.  HM_ERR_NOT_FOUND: there is none; HM_ERR_STORAGE, HM_ERR_TOO_BIG; with a
 * line. */
HM_MUST_CHECK enum hm_status hm_file_read(const char *path, size_t count_max, void **bytes,
                                          size_t *count);

/* The pieces, for files that are made otherwise.  False: errno says why.
 * All of the bytes, and to the disk. */
HM_MUST_CHECK bool hm_file_write_all(int fd, const void *bytes, size_t count);
/* A name in a folder is on the disk once the folder is: that of `path`. */
HM_MUST_CHECK bool hm_file_sync_folder_of(const char *path);

#endif
