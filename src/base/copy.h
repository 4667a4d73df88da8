/* base/copy.h - memory copied a few KiB at a time, by vector instructions.
 *
 * From 4 KiB on (2 KiB without AVX) glibc's memcpy is `rep movsb`.  On AMD's Zen 3 and 4 that is
 * slower than glibc's own vector loop for most alignments, for some many times (glibc bug 30994;
 * mended in 2.39), and what UCX has written a head into is hardly ever aligned as the payload is.
 * What is split into parts below those sizes is copied by the vector loop. */
#ifndef HM_BASE_COPY_H
#define HM_BASE_COPY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { HM_COPY_PART_BYTES = 1984 }; /* whole cache lines, below 2 KiB */

/* As memcpy: the two do not overlap. */
static inline void hm_copy(void *to, const void *from, size_t bytes)
{
    for (size_t done = 0, part; done < bytes; done += part) {
        part = bytes - done < HM_COPY_PART_BYTES ? bytes - done : HM_COPY_PART_BYTES;
        /* A compiler that knows how little it is puts string instructions of its own here. */
        __asm__("" : "+r"(part));
        memcpy((uint8_t *)to + done, (const uint8_t *)from + done, part);
    }
}

#endif
