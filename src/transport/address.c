/* transport/address.c - texts that name nodes: host:port, lists of addresses, the join line.
 *
 * Owns nothing.  What a person typed is refused with one line that names the wrong part and shows
 * the right form; what a peer sent only fails its reader.  Outputs are written on success only.
 * Invariant: what hm_join_parse accepts, hm_join_format writes in one canonical form that parses to
 * the same join. */
#include "transport/address.h"

#include "base/assert.h"

#include <stdio.h>
#include <string.h>

static const char join_form[] =
    "a join line reads hm://<64 hexadecimal digits>@host:port[,host:port...][?swarm=name]";

enum { HOST_BYTES = 232 }; /* "tcp:" + "[" host "]:65535" stays under HM_ADDR_BYTES_MAX */

static bool is_hex_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_letter_or_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_host_name(const char *host, size_t host_bytes)
{
    for (size_t i = 0; i < host_bytes; i++)
        if (!is_letter_or_digit(host[i]) && !memchr("-._", host[i], 3)) return false;
    return true;
}

/* The characters of an IPv6 address with an optional zone; whether it is one, the resolver says. */
static bool is_v6(const char *host, size_t host_bytes)
{
    const char *zone = memchr(host, '%', host_bytes);
    size_t address_bytes = zone ? (size_t)(zone - host) : host_bytes;
    if (address_bytes < 2 || !memchr(host, ':', address_bytes)) return false;
    for (size_t i = 0; i < address_bytes; i++)
        if (!is_hex_digit(host[i]) && host[i] != ':' && host[i] != '.') return false;
    return !zone || (address_bytes + 1 < host_bytes &&
                     is_host_name(zone + 1, host_bytes - address_bytes - 1));
}

bool hm_swarm_name_valid(const char *name)
{
    size_t bytes = strnlen(name, HM_SWARM_NAME_BYTES);
    return bytes > 0 && bytes < HM_SWARM_NAME_BYTES && is_host_name(name, bytes);
}

/* Decimal digits only, at most 65535. */
static bool port_parse(const char *text, size_t text_bytes, uint16_t *port)
{
    unsigned value = 0;
    if (text_bytes == 0 || text_bytes > 5) return false;
    for (size_t i = 0; i < text_bytes; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    if (value > UINT16_MAX) return false;
    *port = (uint16_t)value;
    return true;
}

/* Cuts text[0..text_bytes) into host and port; *colon NULL: there is no port. */
static enum hm_status host_port_split(const char *text, int text_bytes, const char **host,
                                      size_t *host_bytes, const char **colon)
{
    const char *end = text + text_bytes;
    if (text_bytes > 0 && text[0] == '[') {
        const char *bracket = memchr(text, ']', (size_t)text_bytes);
        if (!bracket || !is_v6(text + 1, (size_t)(bracket - text - 1)))
            return hm_fail(HM_ERR_INVALID,
                           "'%.*s' has no IPv6 address in its brackets; write [::1]:4242",
                           text_bytes, text);
        if (bracket + 1 != end && bracket[1] != ':')
            return hm_fail(HM_ERR_INVALID, "'%.*s': after ']' only ':' and a port can follow",
                           text_bytes, text);
        *host = text + 1;
        *host_bytes = (size_t)(bracket - text - 1);
        *colon = bracket + 1 == end ? NULL : bracket + 1;
        return HM_OK;
    }
    *colon = memchr(text, ':', (size_t)text_bytes);
    const char *host_end = *colon ? *colon : end;
    if (*colon && memchr(*colon + 1, ':', (size_t)(end - *colon - 1)))
        return hm_fail(HM_ERR_INVALID, "'%.*s': an IPv6 address needs brackets; write [::1]:4242",
                       text_bytes, text);
    if (!is_host_name(text, (size_t)(host_end - text)))
        return hm_fail(HM_ERR_INVALID,
                       "'%.*s' is not host:port: a host has letters, digits, '.', '-' and '_'",
                       text_bytes, text);
    *host = text;
    *host_bytes = (size_t)(host_end - text);
    return HM_OK;
}

static enum hm_status host_port_parse(const char *text, size_t text_bytes, int port_default,
                                      char *host, size_t host_bytes, uint16_t *port)
{
    if (text_bytes == 0 || text_bytes >= HM_ADDR_BYTES_MAX)
        return hm_fail(HM_ERR_INVALID, "an address is empty or over %d characters; write host:port",
                       HM_ADDR_BYTES_MAX - 1);
    int shown = (int)text_bytes;
    const char *name, *colon;
    size_t name_bytes;
    enum hm_status status = host_port_split(text, shown, &name, &name_bytes, &colon);
    if (status != HM_OK) return status;
    uint16_t number = 0;
    if (!colon && (port_default < 0 || port_default > UINT16_MAX))
        return hm_fail(HM_ERR_INVALID, "'%.*s' has no port; write host:port", shown, text);
    if (!colon) number = (uint16_t)port_default;
    if (colon && !port_parse(colon + 1, (size_t)(text + text_bytes - colon - 1), &number))
        return hm_fail(HM_ERR_INVALID, "'%.*s': the port is a number from 0 to 65535", shown, text);
    if (name_bytes >= host_bytes)
        return hm_fail(HM_ERR_INVALID, "'%.*s': the host is longer than %zu characters", shown,
                       text, host_bytes - 1);
    memcpy(host, name, name_bytes);
    host[name_bytes] = '\0';
    *port = number;
    return HM_OK;
}

enum hm_status hm_host_port_parse(const char *text, int port_default, char *host, size_t host_bytes,
                                  uint16_t *port)
{
    return host_port_parse(text, strlen(text), port_default, host, host_bytes, port);
}

bool hm_addr_tcp(const char *host, uint16_t port, struct hm_addr *addr)
{
    bool v6 = strchr(host, ':') != NULL;
    struct hm_addr made = {0};
    int bytes = snprintf(made.text, sizeof made.text, v6 ? "tcp:[%s]:%u" : "tcp:%s:%u", host,
                         (unsigned)port);
    if (bytes < 0 || (size_t)bytes >= sizeof made.text) return false;
    *addr = made;
    return true;
}

/* ---- join line */

static enum hm_status join_addrs_parse(const char *text, size_t text_bytes, struct hm_addrs *addrs)
{
    const char *end = text + text_bytes;
    for (;;) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        const char *stop = comma ? comma : end;
        char host[HOST_BYTES];
        uint16_t port;
        enum hm_status status =
            host_port_parse(text, (size_t)(stop - text), -1, host, sizeof host, &port);
        if (status != HM_OK) return status;
        if (!host[0] || port == 0)
            return hm_fail(HM_ERR_INVALID,
                           "'%.*s' cannot be dialled: a join line needs host and port",
                           (int)(stop - text), text);
        if (addrs->count == HM_ADDRS_MAX)
            return hm_fail(HM_ERR_INVALID, "a join line has at most %d addresses", HM_ADDRS_MAX);
        bool fits = hm_addr_tcp(host, port, &addrs->addr[addrs->count++]);
        HM_ASSERT(fits); /* HOST_BYTES sees to it */
        if (!comma) return HM_OK;
        text = comma + 1;
    }
}

static enum hm_status join_swarm_parse(const char *text, size_t text_bytes, char *swarm)
{
    static const char key[] = "swarm=";
    size_t key_bytes = sizeof key - 1;
    if (text_bytes < key_bytes || memcmp(text, key, key_bytes) != 0)
        return hm_fail(HM_ERR_INVALID, "'?%.*s' is not known; %s",
                       text_bytes > 64 ? 64 : (int)text_bytes, text, join_form);
    size_t name_bytes = text_bytes - key_bytes;
    char name[HM_SWARM_NAME_BYTES] = {0};
    if (name_bytes < sizeof name) memcpy(name, text + key_bytes, name_bytes);
    if (!hm_swarm_name_valid(name) || strlen(name) != name_bytes)
        return hm_fail(HM_ERR_INVALID,
                       "a swarm's name has 1 to %d letters, digits, '.', '-' and '_'",
                       HM_SWARM_NAME_BYTES - 1);
    memcpy(swarm, name, sizeof name);
    return HM_OK;
}

enum hm_status hm_join_parse(const char *line, struct hm_join *join)
{
    static const char scheme[] = "hm://";
    line += strspn(line, " \t\r\n"); /* as pasted */
    size_t bytes = strlen(line);
    while (bytes > 0 && strchr(" \t\r\n", line[bytes - 1])) bytes--;
    if (bytes >= HM_JOIN_LINE_BYTES)
        return hm_fail(HM_ERR_INVALID, "the join line is over %d characters",
                       HM_JOIN_LINE_BYTES - 1);
    if (bytes < sizeof scheme - 1 || memcmp(line, scheme, sizeof scheme - 1) != 0)
        return hm_fail(HM_ERR_INVALID, "the join line does not start with hm://; %s", join_form);
    const char *end = line + bytes;
    const char *id = line + sizeof scheme - 1;
    const char *at = memchr(id, '@', (size_t)(end - id));
    struct hm_join parsed = {0};
    if (!at)
        return hm_fail(HM_ERR_INVALID, "the join line has no '@' after the node id; %s", join_form);
    if (hm_node_id_parse(id, (size_t)(at - id), &parsed.node) != HM_OK)
        return hm_fail(HM_ERR_INVALID, "the join line's node id is not %d hexadecimal digits; %s",
                       2 * HM_NODE_ID_BYTES, join_form);
    const char *addrs = at + 1;
    const char *query = memchr(addrs, '?', (size_t)(end - addrs));
    enum hm_status status =
        join_addrs_parse(addrs, (size_t)((query ? query : end) - addrs), &parsed.addrs);
    if (status == HM_OK && query)
        status = join_swarm_parse(query + 1, (size_t)(end - query - 1), parsed.swarm);
    if (status == HM_OK) *join = parsed;
    return status;
}

enum hm_status hm_join_format(const struct hm_join *join, char *line, size_t line_bytes)
{
    char text[HM_JOIN_LINE_BYTES], id[HM_NODE_ID_TEXT_BYTES];
    size_t used = (size_t)snprintf(text, sizeof text, "hm://%s@", hm_node_id_text(&join->node, id));
    if (join->addrs.count == 0 || join->addrs.count > HM_ADDRS_MAX)
        return hm_fail(HM_ERR_INVALID, "a join line needs 1 to %d addresses", HM_ADDRS_MAX);
    for (unsigned i = 0; i < join->addrs.count; i++) {
        const char *addr = join->addrs.addr[i].text;
        if (strncmp(addr, "tcp:", 4) != 0)
            return hm_fail(HM_ERR_INVALID, "'%s' cannot stand in a join line: it is not tcp", addr);
        if (used < sizeof text)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? "," : "", addr + 4);
    }
    if (join->swarm[0] && !hm_swarm_name_valid(join->swarm))
        return hm_fail(HM_ERR_INVALID,
                       "'%s' is no swarm name: it has letters, digits, '.', '-' and '_' only",
                       join->swarm);
    if (join->swarm[0] && used < sizeof text)
        used += (size_t)snprintf(text + used, sizeof text - used, "?swarm=%s", join->swarm);
    if (used >= sizeof text || used >= line_bytes)
        return hm_fail(HM_ERR_TOO_BIG, "the join line needs over %zu characters",
                       line_bytes < sizeof text ? line_bytes : sizeof text);
    memcpy(line, text, used + 1);
    return HM_OK;
}

/* ---- lists of addresses on the wire: u8 count, then count times (u16 bytes, text) */

void hm_addrs_encode(const struct hm_addrs *addrs, struct hm_writer *writer)
{
    HM_ASSERT(addrs->count <= HM_ADDRS_MAX);
    hm_write_u8(writer, (uint8_t)addrs->count);
    for (unsigned i = 0; i < addrs->count; i++) hm_write_string(writer, addrs->addr[i].text);
}

static bool is_printable(const char *text)
{
    for (; *text; text++)
        if (*text <= ' ' || *text > '~') return false;
    return true;
}

void hm_addrs_decode(struct hm_reader *reader, struct hm_addrs *addrs)
{
    struct hm_addrs read = {.count = hm_read_u8(reader)};
    if (read.count > HM_ADDRS_MAX) reader->failed = true;
    for (unsigned i = 0; hm_reader_ok(reader) && i < read.count; i++) {
        hm_read_string(reader, read.addr[i].text, sizeof read.addr[i].text);
        if (!read.addr[i].text[0] || !is_printable(read.addr[i].text)) reader->failed = true;
    }
    if (hm_reader_ok(reader)) *addrs = read;
}
