/* transport/address.h - addresses and the join line.
 *
 *   hm://<node id>@host:port[,host:port…][?swarm=name]      IPv6 in brackets: [::1]:4242 */
#ifndef HM_TRANSPORT_ADDRESS_H
#define HM_TRANSPORT_ADDRESS_H

#include "base/wire.h"
#include "transport/identity.h"

enum {
    HM_ADDR_BYTES_MAX = 256,
    HM_ADDRS_MAX = 8,
    HM_JOIN_LINE_BYTES = 1024,
    HM_SWARM_NAME_BYTES = 64
};
/* "tcp:127.0.0.1:4242", "tcp:[::1]:4242", "sim:7": provider name first, then what that provider
 * understands.  Text, so that logs and records can be read; at most 255 bytes and terminated. */
struct hm_addr {
    char text[HM_ADDR_BYTES_MAX];
};
struct hm_addrs {
    unsigned count;
    struct hm_addr addr[HM_ADDRS_MAX];
};
struct hm_join {
    struct hm_node_id node;
    struct hm_addrs addrs; /* tcp: */
    char swarm[HM_SWARM_NAME_BYTES];
};

/* HM_ERR_INVALID with a line that says which part is wrong. */
HM_MUST_CHECK enum hm_status hm_join_parse(const char *line, struct hm_join *join);
HM_MUST_CHECK enum hm_status hm_join_format(const struct hm_join *join, char *line,
                                            size_t line_bytes);
/* "host:port", "[v6]:port", ":port" or "host" (port_default then; < 0: a port is demanded) -> its
 * two parts. */
HM_MUST_CHECK enum hm_status hm_host_port_parse(const char *text, int port_default, char *host,
                                                size_t host_bytes, uint16_t *port);
/* "tcp:host:port", an IPv6 host in brackets.  False (and nothing written) if it does not fit. */
HM_MUST_CHECK bool hm_addr_tcp(const char *host, uint16_t port, struct hm_addr *addr);
/* 1 to 63 letters, digits, '.', '-' and '_'. */
bool hm_swarm_name_valid(const char *name);
void hm_addrs_encode(const struct hm_addrs *addrs, struct hm_writer *writer);
/* Fails the reader on more than HM_ADDRS_MAX, on empty ones and on bytes outside printable ASCII.
 * */
void hm_addrs_decode(struct hm_reader *reader, struct hm_addrs *addrs);

#endif
