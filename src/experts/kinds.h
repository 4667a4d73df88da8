/* experts/kinds.h - the kinds there are, for the table in expert.c only: everybody else asks
 * hm_expert_kind_find. */
#ifndef HM_EXPERTS_KINDS_H
#define HM_EXPERTS_KINDS_H

#include "experts/expert.h"

extern const struct hm_expert_kind hm_kind_ffn, hm_kind_nop, hm_kind_nop_delay;

#endif
