/* A fabric under the suite: a transport that is made of two, so that the cases, which dial, can be
 * run over endpoints that are offered and accepted.  Connections are the control transport's, offers
 * travel over them, and every message of the suite goes over the fabric.  An endpoint is down when
 * either half is. */
#ifndef HM_CONFORMANCE_JOINT_H
#define HM_CONFORMANCE_JOINT_H

#include "transport/transport.h"

struct joint_parts {
    const struct hm_transport_ops *control, *fabric;
    void *fabric_world; /* conf.world of the fabric; the control transport gets the suite's */
    /* The nodes' fabrics lie in network 0, 1, 0, ... (support_networks.h), counted from
     * first_network; the control transport stays where the process is. */
    bool networks;
    unsigned first_network;
};
/* Set before the first node is opened. */
extern struct joint_parts joint_parts;
/* Its name is the control transport's, whose addresses it uses. */
extern struct hm_transport_ops joint_ops;
void joint_begin(const struct joint_parts *parts);

#endif
