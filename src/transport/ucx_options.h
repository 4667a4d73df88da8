/* transport/ucx_options.h - how the ucx module is opened: hm_module_load("ucx", &ops) gives a
 * struct hm_transport_ops, and conf.world may point at these.
 *
 * What else UCX can be told goes through the environment: HM_UCX_<NAME> for this program alone,
 * UCX_<NAME> for every user of UCX in the process (an MPI, too).  docs/cluster.md has the list. */
#ifndef HM_TRANSPORT_UCX_OPTIONS_H
#define HM_TRANSPORT_UCX_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

struct hm_ucx_options {
    /* UCX's own TCP, on private and loopback interfaces: whoever can reach such a port can write
     * into this process. */
    bool tcp;
    bool tcp_anywhere;   /* on public interfaces too */
    const char *devices; /* "mlx5_0:1,eth1": from the plan; NULL: HM_UCX_NET_DEVICES, else chosen */
    bool busy_poll;      /* never sleep: only with a core of its own */
    /* Pulled payloads travel in pieces of this size by UCX's rendezvous; 0: where there is RDMA,
     * 1 MiB, else in pieces of a segment, which need no rendezvous. */
    size_t piece_bytes;
};

#endif
