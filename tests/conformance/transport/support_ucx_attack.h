/* An attacker on the fabric: a process that knows the fabric key, so to say, and breaks the bounds.
 * It speaks UCX by hand, after src/transport/ucx/ucx.h. */
#ifndef HM_CONFORMANCE_UCX_ATTACK_H
#define HM_CONFORMANCE_UCX_ATTACK_H

#include <stddef.h>

struct ucx_attack {
    const char *name;
    int ignored; /* what it sends is dropped, and it hangs up by itself */
    int pulled;  /* it needs a victim that pulls what is announced */
};
extern const struct ucx_attack ucx_attacks[];
extern const size_t ucx_attack_count; /* the first announces without end; 0: built without UCX */

/* Dials the victim's tcp address and attacks; the result of main: 0 when the victim has hung up. */
int ucx_attack_main(const char *number, const char *address);

#endif
