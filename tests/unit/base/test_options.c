/* tests/unit/base/test_options.c - where options come from, in which order, and what a person is
 * told. */
#include "test.h"

#include "base/assert.h"
#include "base/loop.h"
#include "base/options.h"
#include "death.h"

#include <float.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

struct conf {
    bool verify, quiet;
    uint32_t rows;
    uint64_t steps;
    float rate;
    size_t memory;
    hm_ns timeout;
    const char *listen, *state;
};

static const struct hm_option rows[] = {
    {"verify", HM_OPTION_BOOL, "true", NULL, "check what comes back", offsetof(struct conf, verify),
     0, 0},
    {"quiet", HM_OPTION_BOOL, NULL, NULL, "say nothing", offsetof(struct conf, quiet), 0, 0},
    {"batch-rows-max", HM_OPTION_U32, "2048", "ROWS", "never run more rows at once",
     offsetof(struct conf, rows), 1, 65536},
    {"steps", HM_OPTION_U64, NULL, "N", "stop after so many", offsetof(struct conf, steps), 0, 0},
    {"rate", HM_OPTION_F32, "0.5", "R", "learning rate", offsetof(struct conf, rate), 0, 1},
    {"memory", HM_OPTION_BYTES, "64M", "BYTES", "buffers", offsetof(struct conf, memory), 4096,
     1099511627776.0},
    {"timeout", HM_OPTION_DURATION, "30s", "TIME", "give up after", offsetof(struct conf, timeout),
     0.001, 3600},
};
static const struct hm_option more_rows[] = {
    {"listen", HM_OPTION_STRING, "127.0.0.1:0", "HOST:PORT", "where others reach this node",
     offsetof(struct conf, listen), 0, 0},
    {"state", HM_OPTION_STRING, NULL, "DIR", "keys and checkpoints", offsetof(struct conf, state),
     0, 0},
};

static const char *const variables[] = {"HM_VERIFY",  "HM_QUIET",  "HM_BATCH_ROWS_MAX",
                                        "HM_STEPS",   "HM_RATE",   "HM_MEMORY",
                                        "HM_TIMEOUT", "HM_LISTEN", "HM_STATE"};

struct fixture {
    struct hm_options options;
    struct conf conf;
    char path[64];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    for (size_t i = 0; i < HM_COUNT_OF(variables); i++) unsetenv(variables[i]);
    hm_options_init(&f->options);
    hm_options_add(&f->options, "Runtime", rows, HM_COUNT_OF(rows), &f->conf);
    hm_options_add(&f->options, "Node", more_rows, HM_COUNT_OF(more_rows), &f->conf);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->path[0]) unlink(f->path);
    hm_options_fini(&f->options);
    free(f);
    return 0;
}

/* Parses the arguments after the program's name; the last one is NULL. */
#define PARSE(f, ...) parse((f), (char *[]){"hivemind", __VA_ARGS__, NULL})
static enum hm_status parse(struct fixture *f, char *const *argv)
{
    int argc = 0;
    while (argv[argc]) argc++;
    hm_fail_clear();
    return hm_options_parse(&f->options, argc, argv);
}

static void write_file(struct fixture *f, const char *text, size_t bytes)
{
    snprintf(f->path, sizeof f->path, "/tmp/hm-test-options-XXXXXX");
    int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, bytes), (ssize_t)bytes);
    close(fd);
}

static void assert_told(const char *part)
{
    if (!strstr(hm_fail_line(), part)) fail_msg("the line has no '%s': %s", part, hm_fail_line());
}

/* ---- sources ------------------------------------------------------------- */

static void defaults_fill_every_field(void **state)
{
    struct fixture *f = *state;
    memset(&f->conf, 0xff, sizeof f->conf);
    assert_ok(parse(f, (char *[]){"hivemind", NULL}));
    assert_true(f->conf.verify);
    assert_false(f->conf.quiet);
    assert_int_equal(f->conf.rows, 2048);
    assert_int_equal(f->conf.steps, 0);
    assert_true(f->conf.rate == 0.5f);
    assert_int_equal(f->conf.memory, 64 << 20);
    assert_true(f->conf.timeout == 30 * HM_S);
    assert_string_equal(f->conf.listen, "127.0.0.1:0");
    assert_null(f->conf.state);
}

static void flags_are_written_in_two_ways(void **state)
{
    struct fixture *f = *state;
    assert_ok(PARSE(f, "--batch-rows-max", "512", "--steps=18446744073709551615", "--rate=1e-3",
                    "--memory=2G", "--timeout", "250ms", "--no-verify", "--quiet",
                    "--listen=[::1]:7=7", "--state="));
    assert_int_equal(f->conf.rows, 512);
    assert_true(f->conf.steps == UINT64_MAX);
    assert_true(f->conf.rate == 1e-3f);
    assert_true(f->conf.memory == (size_t)2 << 30);
    assert_true(f->conf.timeout == 250 * HM_MS);
    assert_false(f->conf.verify);
    assert_true(f->conf.quiet);
    assert_string_equal(f->conf.listen, "[::1]:7=7");
    assert_string_equal(f->conf.state, "");
    assert_ok(PARSE(f, "--verify=false", "--quiet=yes"));
    assert_false(f->conf.verify);
    assert_true(f->conf.quiet);
    assert_ok(PARSE(f, "--no-quiet"));
    assert_false(f->conf.quiet);
}

static void the_file_is_weaker_than_variables_and_those_than_flags(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "# a comment\n"
                               "\n"
                               "batch-rows-max = 1\r\n"
                               "  steps=2   # behind a value\n"
                               "rate\t=\t0.25\n"
                               "listen = a#b:1\n"
                               "verify = off\n"
                               "state = /tmp/a b";
    write_file(f, text, sizeof text - 1);
    assert_ok(PARSE(f, "--config", f->path));
    assert_int_equal(f->conf.rows, 1);
    assert_int_equal(f->conf.steps, 2);
    assert_true(f->conf.rate == 0.25f);
    assert_string_equal(f->conf.listen, "a#b:1");
    assert_false(f->conf.verify);
    assert_string_equal(f->conf.state, "/tmp/a b");

    setenv("HM_BATCH_ROWS_MAX", "10", 1);
    setenv("HM_STEPS", "20", 1);
    setenv("HM_LISTEN", "", 1); /* as if it were not set */
    char config[80];
    snprintf(config, sizeof config, "--config=%s", f->path);
    assert_ok(PARSE(f, "--steps", "200", config)); /* the flag wins where it stands, too */
    assert_int_equal(f->conf.rows, 10);
    assert_int_equal(f->conf.steps, 200);
    assert_true(f->conf.rate == 0.25f);
    assert_string_equal(f->conf.listen, "a#b:1");
}

static void arguments_that_are_no_flags_are_kept_in_order(void **state)
{
    struct fixture *f = *state;
    assert_ok(PARSE(f, "one", "--quiet", "two", "-", "-5", "--", "--verify", "-x"));
    assert_int_equal(f->options.positional_count, 6);
    assert_string_equal(f->options.positional[0], "one");
    assert_string_equal(f->options.positional[1], "two");
    assert_string_equal(f->options.positional[2], "-");
    assert_string_equal(f->options.positional[3], "-5");
    assert_string_equal(f->options.positional[4], "--verify");
    assert_string_equal(f->options.positional[5], "-x");
    assert_status(PARSE(f, "1", "2", "3", "4", "5", "6", "7", "8", "nine"), HM_ERR_INVALID);
    assert_told("'nine': more than 8 arguments");
}

static void help_is_heard_even_on_a_line_that_is_wrong(void **state)
{
    struct fixture *f = *state;
    assert_ok(PARSE(f, "--nonsense", "--help"));
    assert_true(f->options.help);
    assert_ok(PARSE(f, "-h"));
    assert_true(f->options.help);
    assert_ok(PARSE(f, "--", "--help"));
    assert_false(f->options.help);
    assert_int_equal(f->options.positional_count, 1);
}

/* ---- refusals ------------------------------------------------------------ */

static void a_misspelt_flag_is_answered_with_the_nearest(void **state)
{
    struct fixture *f = *state;
    assert_status(PARSE(f, "--batch-row-max", "5"), HM_ERR_INVALID);
    assert_string_equal(hm_fail_line(),
                        "unknown option --batch-row-max; did you mean --batch-rows-max?");
    assert_status(PARSE(f, "--batch=5"), HM_ERR_INVALID);
    assert_told("did you mean --batch-rows-max?");
    assert_status(PARSE(f, "--hepl"), HM_ERR_INVALID);
    assert_told("did you mean --help?");
    assert_status(PARSE(f, "--zebra"), HM_ERR_INVALID);
    assert_string_equal(hm_fail_line(), "unknown option --zebra; --help lists them all");
    assert_status(PARSE(f, "--no-steps"), HM_ERR_INVALID); /* no bool */
    assert_status(PARSE(f, "-q"), HM_ERR_INVALID);
    assert_told("two hyphens");
}

static void a_flag_given_twice_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_status(PARSE(f, "--steps=1", "--steps", "1"), HM_ERR_INVALID);
    assert_string_equal(hm_fail_line(), "--steps is given twice");
    assert_status(PARSE(f, "--verify", "--no-verify"), HM_ERR_INVALID);
    assert_told("--verify is given twice");
    write_file(f, "", 0);
    assert_status(PARSE(f, "--config", f->path, "--config", f->path), HM_ERR_INVALID);
    assert_told("--config is given twice");
}

static void a_flag_without_its_value_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_status(PARSE(f, "--steps"), HM_ERR_INVALID);
    assert_string_equal(hm_fail_line(), "--steps needs a value: --steps=N");
    assert_status(PARSE(f, "--listen", "--quiet"), HM_ERR_INVALID);
    assert_told("--listen needs a value: --listen=HOST:PORT");
    assert_status(PARSE(f, "--config"), HM_ERR_INVALID);
    assert_told("--config needs a value: --config=FILE");
    assert_status(PARSE(f, "--no-verify=true"), HM_ERR_INVALID);
    assert_told("--no-verify takes no value");
}

static void values_that_do_not_parse_or_fit_name_source_value_and_range(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *flag, *value, *told;
    } cases[] = {
        {"--batch-rows-max", "0",
         "--batch-rows-max: '0' is not allowed; give a whole number from 1 to 65536"},
        {"--batch-rows-max", "65537", "from 1 to 65536"},
        {"--batch-rows-max", "-1", "'-1'"},
        {"--batch-rows-max", "12x", "'12x'"},
        {"--batch-rows-max", " 12", "' 12'"},
        {"--batch-rows-max", "", "''"},
        {"--batch-rows-max", "4294967297", "whole number"},
        {"--steps", "18446744073709551616", "give a whole number"},
        {"--rate", "fast", "'fast' is not allowed; give a number from 0 to 1"},
        {"--rate", "nan", "a number"},
        {"--rate", "1e999", "a number"},
        {"--rate", "1.5", "from 0 to 1"},
        {"--memory", "12Q", "a size like 4096, 64K, 256M or 2G from 4K to 1T"},
        {"--memory", "1.5", "a size"},
        {"--memory", "99999999999T", "a size"},
        {"--memory", "1K", "from 4K to 1T"},
        {"--timeout", "30",
         "'30' is not allowed; give a time with its unit, like 250us, 500ms, 30s or 5m from 1ms to "
         "1h"},
        {"--timeout", "0", "a time with its unit"},
        {"--timeout", "10us", "from 1ms to 1h"},
        {"--timeout", "1d", "a time"},
        {"--timeout", "s", "a time"},
        {"--timeout", "1.s", "a time"},
        {"--timeout", "999999999999999h", "a time"},
    };
    for (size_t i = 0; i < HM_COUNT_OF(cases); i++) {
        char flag[128];
        snprintf(flag, sizeof flag, "%s=%s", cases[i].flag, cases[i].value);
        assert_status(PARSE(f, flag), HM_ERR_INVALID);
        assert_told(cases[i].told);
        assert_told(cases[i].flag);
    }
    assert_status(PARSE(f, "--verify=maybe"), HM_ERR_INVALID);
    assert_told("give true or false");
    setenv("HM_TIMEOUT", "soon", 1);
    assert_status(parse(f, (char *[]){"hivemind", NULL}), HM_ERR_INVALID);
    assert_told("HM_TIMEOUT: 'soon' is not allowed");
}

static void sizes_and_times_have_units_and_points(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text;
        hm_ns wanted;
    } times[] = {{"--timeout=1000000ns", HM_MS},   {"--timeout=2500us", 2500 * HM_US},
                 {"--timeout=1.5s", 1500 * HM_MS}, {"--timeout=5m", 300 * HM_S},
                 {"--timeout=1h", 3600 * HM_S},    {"--timeout=0.25m", 15 * HM_S}};
    for (size_t i = 0; i < HM_COUNT_OF(times); i++) {
        assert_ok(PARSE(f, (char *)times[i].text));
        assert_true(f->conf.timeout == times[i].wanted);
    }
    static const struct {
        const char *text;
        size_t wanted;
    } sizes[] = {{"--memory=4096", 4096},
                 {"--memory=64K", 65536},
                 {"--memory=1.5m", 3 << 19},
                 {"--memory=1T", (size_t)1 << 40}};
    for (size_t i = 0; i < HM_COUNT_OF(sizes); i++) {
        assert_ok(PARSE(f, (char *)sizes[i].text));
        assert_int_equal(f->conf.memory, sizes[i].wanted);
    }
}

static void a_wrong_line_of_the_file_is_named_by_its_number(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text, *told;
    } cases[] = {
        {"steps = 1\nbatch-rows-maks = 2\n", ":2; did you mean batch-rows-max?"},
        {"\n\nquiet\n", ":3: 'quiet' is not a line like  name = value"},
        {"steps = 1\n#\nsteps = 2\n", ":3: steps is given twice, in line 1 first"},
        {"steps = many", ":1: steps: 'many' is not allowed; give a whole number"},
        {"config = other\n", "unknown option 'config'"},
        {"no-verify = true\n", "unknown option 'no-verify'"},
        {"= 3\n", "unknown option ''"},
    };
    for (size_t i = 0; i < HM_COUNT_OF(cases); i++) {
        write_file(f, cases[i].text, strlen(cases[i].text));
        assert_status(PARSE(f, "--config", f->path), HM_ERR_INVALID);
        assert_told(cases[i].told);
        assert_told(f->path);
        unlink(f->path);
    }
}

static void a_file_that_is_none_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_status(PARSE(f, "--config", "/nonexistent/hivemind.conf"), HM_ERR_INVALID);
    assert_told("--config /nonexistent/hivemind.conf: No such file or directory");
    assert_status(PARSE(f, "--config", "/"), HM_ERR_INVALID);
    assert_told("--config /:");
    write_file(f, "a\0b", 3);
    assert_status(PARSE(f, "--config", f->path), HM_ERR_INVALID);
    assert_told("not a text file");
    unlink(f->path);
    char *large = malloc((1 << 20) + 1);
    assert_non_null(large);
    memset(large, '\n', (1 << 20) + 1);
    write_file(f, large, (1 << 20) + 1);
    free(large);
    assert_status(PARSE(f, "--config", f->path), HM_ERR_INVALID);
    assert_told("larger than 1 MiB");
}

/* ---- names, defaults, help ----------------------------------------------- */

static void the_nearest_name_is_at_most_three_edits_away(void **state)
{
    (void)state;
    static const char *const names[] = {"serve", "train", "status", "bench"};
    assert_string_equal(hm_nearest_name("sreve", names, 4), "serve");
    assert_string_equal(hm_nearest_name("trian", names, 4), "train");
    assert_string_equal(hm_nearest_name("stats", names, 4), "status");
    assert_null(hm_nearest_name("doctor", names, 4));
    assert_null(hm_nearest_name("x", names, 4));
    assert_null(hm_nearest_name("", names, 4));
    assert_null(hm_nearest_name("serve", names, 0));
    char endless[200];
    memset(endless, 's', sizeof endless);
    endless[sizeof endless - 1] = '\0';
    assert_null(hm_nearest_name(endless, names, 4));
}

static void defaults_alone_need_no_command_line(void **state)
{
    struct fixture *f = *state;
    setenv("HM_BATCH_ROWS_MAX", "7", 1);
    memset(&f->conf, 0xff, sizeof f->conf);
    hm_options_defaults(rows, HM_COUNT_OF(rows), &f->conf);
    assert_int_equal(f->conf.rows, 2048);
    assert_int_equal(f->conf.steps, 0);
}

static void a_default_that_does_not_parse_and_a_name_given_twice_abort(void **state)
{
    struct fixture *f = *state;
    const struct hm_option wrong = {"x", HM_OPTION_DURATION, "30", "T", "h", 0, 0, 0};
    hm_ns field;
    assert_aborts(hm_options_defaults(&wrong, 1, &field));
    assert_aborts(hm_options_add(&f->options, "Again", rows, HM_COUNT_OF(rows), &f->conf));
}

static void help_shows_every_option_within_a_hundred_columns(void **state)
{
    struct fixture *f = *state;
    const struct hm_option long_rows[] = {
        {"a-name-that-leaves-no-room-beside-it", HM_OPTION_STRING, NULL, "WITH_A_LONG_VALUE",
         "text so long that it has to be wrapped, because nobody reads lines that run on and on "
         "beyond the edge of a terminal",
         offsetof(struct conf, state), 0, 0},
    };
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    assert_non_null(to);
    hm_options_add(&f->options, "Long", long_rows, 1, &f->conf);
    hm_options_help(&f->options, to);
    fclose(to);
    static const char *const wanted[] = {
        "Runtime:\n  --no-verify                   check what comes back (default on; HM_VERIFY)\n",
        "  --quiet                       say nothing (default off; HM_QUIET)\n",
        "  --batch-rows-max ROWS         never run more rows at once (default 2048; "
        "HM_BATCH_ROWS_MAX)\n",
        "  --steps N                     stop after so many (HM_STEPS)\n",
        "\nNode:\n  --listen HOST:PORT            where others reach this node (default "
        "127.0.0.1:0; HM_LISTEN)\n",
        "\nLong:\n  --a-name-that-leaves-no-room-beside-it WITH_A_LONG_VALUE\n"
        "                                text so long that",
        "\n  --config FILE ",
        "\n  --help ",
    };
    for (size_t i = 0; i < HM_COUNT_OF(wanted); i++)
        if (!strstr(text, wanted[i])) fail_msg("no '%s' in:\n%s", wanted[i], text);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        assert_in_range(strlen(line), 1, 100);
        assert_int_not_equal(line[strlen(line) - 1], ' ');
    }
    free(text);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(defaults_fill_every_field),
        CASE(flags_are_written_in_two_ways),
        CASE(the_file_is_weaker_than_variables_and_those_than_flags),
        CASE(arguments_that_are_no_flags_are_kept_in_order),
        CASE(help_is_heard_even_on_a_line_that_is_wrong),
        CASE(a_misspelt_flag_is_answered_with_the_nearest),
        CASE(a_flag_given_twice_is_refused),
        CASE(a_flag_without_its_value_is_refused),
        CASE(values_that_do_not_parse_or_fit_name_source_value_and_range),
        CASE(sizes_and_times_have_units_and_points),
        CASE(a_wrong_line_of_the_file_is_named_by_its_number),
        CASE(a_file_that_is_none_is_refused),
        CASE(the_nearest_name_is_at_most_three_edits_away),
        CASE(defaults_alone_need_no_command_line),
        CASE(a_default_that_does_not_parse_and_a_name_given_twice_abort),
        CASE(help_shows_every_option_within_a_hundred_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
