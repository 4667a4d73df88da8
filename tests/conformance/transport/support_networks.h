/* Two networks on this machine, joined by a cable: network namespaces with an eth0 each, so that the
 * nodes of one process can lie on different sides.  A socket stays in the network in which it was
 * made, whoever uses it. */
#ifndef HM_CONFORMANCE_NETWORKS_H
#define HM_CONFORMANCE_NETWORKS_H

#include "base/loop.h"

/* For this process and those that it starts from now on; it is in network 0 afterwards.  False: not
 * root, or there are no namespaces. */
bool networks_make(void);
/* In a process that such a one has started. */
bool networks_inherit(void);
/* This thread's network from now on; gives the one it was in. */
unsigned networks_enter(unsigned network);
void networks_cable(bool plugged_in);
uint64_t networks_bytes(void); /* that have come through the cable into network 0 */

/* `inner`, whose hooks run in the network; for as long as the process lives. */
struct hm_loop *networks_loop(struct hm_loop *inner, unsigned network);

#endif
