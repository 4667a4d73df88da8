/* moe/directory_internal.h - the directory, for directory.c and directory_declare.c alone. */
#ifndef HM_MOE_DIRECTORY_INTERNAL_H
#define HM_MOE_DIRECTORY_INTERNAL_H

#include "moe/directory_cache.h"

struct hm_directory {
    struct hm_dht *dht;
    struct hm_loop *loop;
    struct hm_directory_cache *cache;
    struct hm_link running, idle;
    unsigned op_count; /* running and idle */
    unsigned declarations;
};

#endif
