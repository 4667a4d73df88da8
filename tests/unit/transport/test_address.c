/* Join lines, host:port and lists of addresses: what is accepted, what is refused and why. */
#include "test.h"

#include "base/rng.h"
#include "transport/address.h"

#include <stdio.h>

static const char id_text[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

static const char *line_with(const char *rest)
{
    static char line[2048];
    snprintf(line, sizeof line, "hm://%s@%s", id_text, rest);
    return line;
}

static void a_join_line_gives_node_addresses_and_swarm(void **state)
{
    (void)state;
    struct hm_join join;
    char text[HM_NODE_ID_TEXT_BYTES];
    assert_ok(hm_join_parse(
        line_with("192.0.2.7:4242,[2001:db8::1]:80,a-b.example:1?swarm=my.swarm-1"), &join));
    assert_string_equal(hm_node_id_text(&join.node, text), id_text);
    assert_int_equal(join.addrs.count, 3);
    assert_string_equal(join.addrs.addr[0].text, "tcp:192.0.2.7:4242");
    assert_string_equal(join.addrs.addr[1].text, "tcp:[2001:db8::1]:80");
    assert_string_equal(join.addrs.addr[2].text, "tcp:a-b.example:1");
    assert_string_equal(join.swarm, "my.swarm-1");
    assert_ok(hm_join_parse(line_with("h:1"), &join));
    assert_string_equal(join.swarm, "");
}

static void a_pasted_line_may_have_space_around_it(void **state)
{
    (void)state;
    struct hm_join join;
    char line[2100];
    snprintf(line, sizeof line, " \t%s\r\n", line_with("h:1"));
    assert_ok(hm_join_parse(line, &join));
    assert_string_equal(join.addrs.addr[0].text, "tcp:h:1");
}

static void a_wrong_line_is_refused_with_what_is_wrong_and_writes_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } wrong[] = {
        {"", "hm://"},
        {"http://x@h:1", "hm://"},
        {"hm://abc", "'@'"},
        {"hm://abc@h:1", "64 hexadecimal"},
        {"@", NULL}, /* the rest comes after a good id */
        {"h", "no port"},
        {":1", "cannot be dialled"},
        {"h:0", "cannot be dialled"},
        {"h:65536", "port"},
        {"h:+1", "port"},
        {"h:1,", "empty"},
        {"h:1,,g:2", "empty"},
        {"::1:4242", "brackets"},
        {"[::1]", "no port"},
        {"[::1", "brackets"},
        {"[h]:1", "brackets"},
        {"[::1]x:1", "after ']'"},
        {"h h:1", "host"},
        {"h:1?swarm=", "swarm's name"},
        {"h:1?swarm=a b", "swarm's name"},
        {"h:1?color=red", "not known"},
        {"a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1", "at most 8"},
    };
    bool after_id = false;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        if (!wrong[i].says) {
            after_id = true;
            continue;
        }
        struct hm_join join, before;
        memset(&join, 0x5a, sizeof join);
        before = join;
        hm_fail_clear();
        const char *line = after_id ? line_with(wrong[i].line) : wrong[i].line;
        assert_status(hm_join_parse(line, &join), HM_ERR_INVALID);
        if (!strstr(hm_fail_line(), wrong[i].says))
            fail_msg("'%s' says '%s', not '%s'", line, hm_fail_line(), wrong[i].says);
        assert_memory_equal(&join, &before, sizeof join);
    }
}

static void what_is_parsed_is_written_the_same(void **state)
{
    (void)state;
    struct hm_join join, again;
    char line[HM_JOIN_LINE_BYTES];
    const char *first = line_with("10.0.0.1:4242,[fe80::1%eth0]:7?swarm=x");
    assert_ok(hm_join_parse(first, &join));
    assert_ok(hm_join_format(&join, line, sizeof line));
    assert_string_equal(line, first);
    assert_ok(hm_join_parse(line, &again));
    assert_memory_equal(&join, &again, sizeof join);
    size_t bytes = strlen(line) + 1;
    assert_ok(hm_join_format(&join, line, bytes));
    line[0] = 'x';
    assert_status(hm_join_format(&join, line, bytes - 1), HM_ERR_TOO_BIG);
    assert_int_equal(line[0], 'x');
    strcpy(join.addrs.addr[1].text, "sim:7");
    assert_status(hm_join_format(&join, line, sizeof line), HM_ERR_INVALID);
    join.addrs.count = 0;
    assert_status(hm_join_format(&join, line, sizeof line), HM_ERR_INVALID);
}

static void the_longest_host_that_is_accepted_fits_everywhere(void **state)
{
    (void)state;
    struct hm_join join;
    char host[HM_ADDR_BYTES_MAX + 1], rest[HM_ADDR_BYTES_MAX + 16], line[HM_JOIN_LINE_BYTES];
    unsigned accepted = 0;
    for (unsigned length = 200; length <= HM_ADDR_BYTES_MAX; length++) {
        memset(host, 'h', length);
        host[length] = '\0';
        snprintf(rest, sizeof rest, "%s:65535", host);
        if (hm_join_parse(line_with(rest), &join) != HM_OK) continue;
        accepted = length;
        assert_int_equal(strlen(join.addrs.addr[0].text), length + 10);
        assert_ok(hm_join_format(&join, line, sizeof line));
    }
    assert_int_equal(accepted, 231);
}

static void host_and_port_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int standard;
        const char *host;
        unsigned port;
    } good[] = {
        {"h:1", -1, "h", 1},         {"[::1]:4242", -1, "::1", 4242},
        {":80", -1, "", 80},         {"h", 7, "h", 7},
        {"[::]", 0, "::", 0},        {"0.0.0.0:0", -1, "0.0.0.0", 0},
        {"h:65535", -1, "h", 65535},
    };
    char host[64];
    uint16_t port;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_ok(hm_host_port_parse(good[i].text, good[i].standard, host, sizeof host, &port));
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    assert_status(hm_host_port_parse("h", -1, host, sizeof host, &port), HM_ERR_INVALID);
    assert_status(hm_host_port_parse("", 1, host, sizeof host, &port), HM_ERR_INVALID);
    assert_status(hm_host_port_parse("h:", 1, host, sizeof host, &port), HM_ERR_INVALID);
    assert_status(hm_host_port_parse("abcd:1", 1, host, 4, &port), HM_ERR_INVALID);
    assert_ok(hm_host_port_parse("abc:1", 1, host, 4, &port));
}

static void lists_of_addresses_travel_and_bad_ones_fail_the_reader(void **state)
{
    (void)state;
    struct hm_addrs addrs = {.count = 2, .addr = {{"tcp:h:1"}, {"sim:7"}}}, read;
    uint8_t bytes[4096];
    struct hm_writer writer;
    struct hm_reader reader;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_addrs_encode(&addrs, &writer);
    assert_true(hm_writer_ok(&writer));
    size_t count = hm_writer_count(&writer);
    hm_reader_init(&reader, bytes, count);
    hm_addrs_decode(&reader, &read);
    assert_true(hm_reader_ended(&reader));
    assert_memory_equal(&read, &addrs, sizeof read);
    for (size_t cut = 0; cut < count; cut++) {
        memset(&read, 0x5a, sizeof read);
        struct hm_addrs before = read;
        hm_reader_init(&reader, bytes, cut);
        hm_addrs_decode(&reader, &read);
        assert_false(hm_reader_ok(&reader));
        assert_memory_equal(&read, &before, sizeof read);
    }
    static const uint8_t bad[][5] = {
        {9, 1, 0, 'a', 0}, {1, 0, 0, 0, 0}, {1, 1, 0, ' ', 0}, {1, 1, 0, 0x80, 0}, {1, 1, 0, 0, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        hm_reader_init(&reader, bad[i], sizeof bad[i]);
        hm_addrs_decode(&reader, &read);
        assert_false(hm_reader_ok(&reader));
    }
}

/* Whatever is accepted must survive format and parse; whatever is not must say why. */
static void mutated_lines_are_refused_or_mean_something(void **state)
{
    (void)state;
    static const char alphabet[] = "hm:/@,?[]%=.-_0123456789abcdefswarm \t\x7f\xc3";
    struct hm_rng rng;
    hm_rng_init(&rng, 1, 1);
    unsigned accepted = 0;
    for (unsigned round = 0; round < 100000; round++) {
        char line[512], again[HM_JOIN_LINE_BYTES];
        strcpy(line, line_with("192.0.2.7:4242,[2001:db8::1]:80,a.b:1?swarm=my.swarm"));
        for (uint64_t n = 1 + hm_rng_below(&rng, 3); n > 0; n--)
            line[hm_rng_below(&rng, strlen(line))] =
                alphabet[hm_rng_below(&rng, sizeof alphabet - 1)];
        if (hm_rng_below(&rng, 4) == 0) line[hm_rng_below(&rng, strlen(line))] = '\0';
        struct hm_join join, parsed;
        hm_fail_clear();
        if (hm_join_parse(line, &join) != HM_OK) {
            assert_true(hm_fail_line()[0] != '\0');
            continue;
        }
        accepted++;
        assert_ok(hm_join_format(&join, again, sizeof again));
        assert_ok(hm_join_parse(again, &parsed));
        assert_memory_equal(&join, &parsed, sizeof join);
    }
    assert_true(accepted > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_join_line_gives_node_addresses_and_swarm),
        cmocka_unit_test(a_pasted_line_may_have_space_around_it),
        cmocka_unit_test(a_wrong_line_is_refused_with_what_is_wrong_and_writes_nothing),
        cmocka_unit_test(what_is_parsed_is_written_the_same),
        cmocka_unit_test(the_longest_host_that_is_accepted_fits_everywhere),
        cmocka_unit_test(host_and_port_are_told_apart),
        cmocka_unit_test(lists_of_addresses_travel_and_bad_ones_fail_the_reader),
        cmocka_unit_test(mutated_lines_are_refused_or_mean_something),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
