/* base/options.c - the sources of options, weakest first: defaults, --config FILE, environment,
 * flags.
 *
 * Owns the text of the file, which strings point into until hm_options_fini.  Targets are the
 * modules' memory.  Everything read here was typed by a person: nothing is asserted about it, and
 * each refusal keeps a line that names the source, what is wrong with it and what would be right.
 */
#include "base/options.h"

#include "base/assert.h"
#include "base/options_impl.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 1 << 20, NEAR_DISTANCE_MAX = 3, PREFIX_BYTES_MIN = 3 };

/* An option and the struct that its value goes into. */
struct found {
    const struct hm_option *option;
    void *target;
    unsigned index; /* over all tables; for the set of those seen */
};

/* ---- names --------------------------------------------------------------- */

/* Levenshtein distance, one row of the matrix at a time. */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[HM_OPTION_NAME_BYTES];
    size_t a_bytes = strlen(a), b_bytes = strlen(b);
    if (a_bytes >= HM_OPTION_NAME_BYTES || b_bytes >= HM_OPTION_NAME_BYTES) return UINT32_MAX;
    for (unsigned j = 0; j <= b_bytes; j++) row[j] = j;
    for (unsigned i = 1; i <= a_bytes; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= b_bytes; j++) {
            unsigned replaced = diagonal + (a[i - 1] != b[j - 1]);
            unsigned added = row[j - 1] + 1, dropped = row[j] + 1;
            diagonal = row[j];
            unsigned least = added < dropped ? added : dropped;
            row[j] = replaced < least ? replaced : least;
        }
    }
    return row[b_bytes];
}

struct nearest {
    const char *name;
    unsigned distance;
};

/* Near is at most three edits, and at most half of the name: "rate" is not what "batch" meant. */
static void consider(struct nearest *nearest, const char *wanted, const char *name)
{
    unsigned distance = edit_distance(wanted, name);
    if (distance > NEAR_DISTANCE_MAX || distance >= nearest->distance) return;
    size_t longer = strlen(wanted) > strlen(name) ? strlen(wanted) : strlen(name);
    if (2 * (size_t)distance > longer) return;
    *nearest = (struct nearest){name, distance};
}

const char *hm_nearest_name(const char *name, const char *const *names, unsigned name_count)
{
    struct nearest nearest = {NULL, UINT32_MAX};
    for (unsigned i = 0; i < name_count; i++) consider(&nearest, name, names[i]);
    return nearest.name;
}

static bool find(const struct hm_options *options, const char *name, struct found *found)
{
    unsigned index = 0;
    for (unsigned t = 0; t < options->table_count; t++) {
        const struct hm_option_table *table = &options->table[t];
        for (unsigned i = 0; i < table->option_count; i++, index++) {
            if (strcmp(table->options[i].name, name) != 0) continue;
            *found = (struct found){&table->options[i], table->target, index};
            return true;
        }
    }
    return false;
}

/* `what` is the misspelt name as it was written, with its source; hyphens before the suggestion are
 * for flags. */
static enum hm_status fail_unknown(const struct hm_options *options, const char *what,
                                   const char *name, const char *hyphens)
{
    struct nearest nearest = {NULL, UINT32_MAX};
    const char *longer = NULL; /* a name that begins with what was written */
    for (unsigned t = 0; t < options->table_count; t++) {
        for (unsigned i = 0; i < options->table[t].option_count; i++) {
            const char *known = options->table[t].options[i].name;
            consider(&nearest, name, known);
            if (strlen(name) >= PREFIX_BYTES_MIN && strncmp(known, name, strlen(name)) == 0)
                longer = known;
        }
    }
    if (*hyphens) {
        consider(&nearest, name, "config");
        consider(&nearest, name, "help");
    }
    const char *meant = longer ? longer : nearest.name;
    if (meant)
        return hm_fail(HM_ERR_INVALID, "unknown option %.200s; did you mean %s%s?", what, hyphens,
                       meant);
    return hm_fail(HM_ERR_INVALID, "unknown option %.200s; --help lists them all", what);
}

/* ---- the set of options that a source has given -------------------------- */

static unsigned option_count(const struct hm_options *options)
{
    unsigned count = 0;
    for (unsigned t = 0; t < options->table_count; t++) count += options->table[t].option_count;
    return count;
}

static enum hm_status seen_create(const struct hm_options *options, unsigned **seen)
{
    *seen = calloc(option_count(options) + 1, sizeof **seen);
    return *seen ? HM_OK : hm_fail(HM_ERR_NO_MEMORY, "no memory to read the options");
}

/* ---- file ---------------------------------------------------------------- */

static enum hm_status read_file(const char *path, char **text)
{
    FILE *file = fopen(path, "rb");
    if (!file) return hm_fail(HM_ERR_INVALID, "--config %.200s: %s", path, strerror(errno));
    enum hm_status status = HM_OK;
    char *bytes = malloc(FILE_BYTES_MAX + 1);
    if (!bytes) {
        status = hm_fail(HM_ERR_NO_MEMORY, "no memory to read %.200s", path);
        goto close_file;
    }
    errno = 0;
    size_t count = fread(bytes, 1, FILE_BYTES_MAX + 1, file);
    if (ferror(file))
        status = hm_fail(HM_ERR_INVALID, "--config %.200s: %s", path, strerror(errno));
    else if (count > FILE_BYTES_MAX)
        status =
            hm_fail(HM_ERR_INVALID,
                    "--config %.200s: larger than 1 MiB, so it is not a file of options", path);
    else if (memchr(bytes, 0, count))
        status = hm_fail(HM_ERR_INVALID, "--config %.200s: not a text file", path);
    if (status != HM_OK) {
        free(bytes);
        goto close_file;
    }
    bytes[count] = '\0';
    *text = bytes;
close_file:
    fclose(file);
    return status;
}

/* Cuts spaces off both ends, in place. */
static char *trimmed(char *text)
{
    while (isspace((unsigned char)*text)) text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1])) end--;
    *end = '\0';
    return text;
}

/* A # begins a comment at the start of a line or after a space; "a#b" is a value. */
static void cut_comment(char *line)
{
    for (char *at = line; *at; at++) {
        if (*at == '#' && (at == line || isspace((unsigned char)at[-1]))) {
            *at = '\0';
            return;
        }
    }
}

static enum hm_status apply_line(struct hm_options *options, const char *path, unsigned number,
                                 char *line, unsigned *seen)
{
    char source[HM_OPTION_SOURCE_BYTES];
    cut_comment(line);
    char *key = trimmed(line);
    if (!*key) return HM_OK;
    char *equals = strchr(key, '=');
    if (!equals)
        return hm_fail(HM_ERR_INVALID, "%.200s:%u: '%.60s' is not a line like  name = value", path,
                       number, key);
    *equals = '\0';
    char *value = trimmed(equals + 1);
    key = trimmed(key);
    snprintf(source, sizeof source, "%.200s:%u: %.60s", path, number, key);
    struct found found;
    if (!find(options, key, &found)) {
        char what[HM_OPTION_SOURCE_BYTES];
        snprintf(what, sizeof what, "'%.60s' in %.120s:%u", key, path, number);
        return fail_unknown(options, what, key, "");
    }
    if (seen[found.index])
        return hm_fail(HM_ERR_INVALID, "%s is given twice, in line %u first", source,
                       seen[found.index]);
    seen[found.index] = number;
    return hm_option_set(found.option, found.target, value, source);
}

static enum hm_status apply_file(struct hm_options *options, const char *path)
{
    unsigned *seen;
    enum hm_status status = read_file(path, &options->file_text);
    if (status != HM_OK) return status;
    status = seen_create(options, &seen);
    if (status != HM_OK) return status;
    char *line = options->file_text;
    for (unsigned number = 1; line && status == HM_OK; number++) {
        char *next = strchr(line, '\n');
        if (next) *next++ = '\0';
        status = apply_line(options, path, number, line, seen);
        line = next;
    }
    free(seen);
    return status;
}

/* ---- environment --------------------------------------------------------- */

/* An empty variable is as one that is not set: that is how scripts take one away. */
static enum hm_status apply_environment(struct hm_options *options)
{
    for (unsigned t = 0; t < options->table_count; t++) {
        const struct hm_option_table *table = &options->table[t];
        for (unsigned i = 0; i < table->option_count; i++) {
            char variable[HM_OPTION_NAME_BYTES];
            hm_option_variable(&table->options[i], variable);
            const char *value = getenv(variable);
            if (!value || !*value) continue;
            enum hm_status status =
                hm_option_set(&table->options[i], table->target, value, variable);
            if (status != HM_OK) return status;
        }
    }
    return HM_OK;
}

/* ---- flags --------------------------------------------------------------- */

/* Where the flags are: argv[at] is the one being read. */
struct flags {
    struct hm_options *options;
    int argc, at;
    char *const *argv;
    unsigned *seen;
    bool config_seen;
};

/* The value of the flag at `at`: what follows its '=', or the next argument.  One that begins with
 * -- is much more often a forgotten value than a value. */
static enum hm_status take_value(struct flags *flags, const char *name, const char *equals,
                                 const char *metavar, const char **value)
{
    if (equals) {
        *value = equals + 1;
        return HM_OK;
    }
    if (flags->at + 1 >= flags->argc || strncmp(flags->argv[flags->at + 1], "--", 2) == 0)
        return hm_fail(HM_ERR_INVALID, "--%s needs a value: --%s=%s", name, name,
                       metavar ? metavar : "VALUE");
    *value = flags->argv[++flags->at];
    return HM_OK;
}

/* The option that --name or, for a bool, --no-name means. */
static bool find_flag(const struct hm_options *options, const char *name, struct found *found,
                      bool *negated)
{
    *negated = false;
    if (find(options, name, found)) return true;
    if (strncmp(name, "no-", 3) != 0 || !find(options, name + 3, found)) return false;
    *negated = found->option->kind == HM_OPTION_BOOL;
    return *negated;
}

static enum hm_status apply_flag(struct flags *flags)
{
    char name[HM_OPTION_NAME_BYTES], source[HM_OPTION_SOURCE_BYTES];
    const char *written = flags->argv[flags->at] + 2, *value = NULL;
    const char *equals = strchr(written, '=');
    int name_bytes = equals ? (int)(equals - written) : (int)strlen(written);
    snprintf(name, sizeof name, "%.*s", name_bytes, written);
    if (strcmp(name, "config") == 0) {
        if (flags->config_seen) return hm_fail(HM_ERR_INVALID, "--config is given twice");
        flags->config_seen = true;
        return take_value(flags, name, equals, "FILE", &value); /* read already */
    }
    struct found found;
    bool negated;
    if (!find_flag(flags->options, name, &found, &negated)) {
        snprintf(source, sizeof source, "--%s", name);
        return fail_unknown(flags->options, source, name, "--");
    }
    snprintf(source, sizeof source, "--%s", found.option->name);
    if (flags->seen[found.index]++) return hm_fail(HM_ERR_INVALID, "%s is given twice", source);
    if (negated && equals)
        return hm_fail(HM_ERR_INVALID, "--%s takes no value; write --%s=%s", name,
                       found.option->name, equals + 1);
    if (found.option->kind == HM_OPTION_BOOL && !equals) {
        *(bool *)(void *)((char *)found.target + found.option->offset) = !negated;
        return HM_OK;
    }
    enum hm_status status = take_value(flags, name, equals, found.option->metavar, &value);
    if (status != HM_OK) return status;
    return hm_option_set(found.option, found.target, value, source);
}

static enum hm_status apply_argument(struct flags *flags, bool flags_ended)
{
    const char *argument = flags->argv[flags->at];
    if (!flags_ended && strncmp(argument, "--", 2) == 0) return apply_flag(flags);
    /* A lone - is a file name for many programs, and -5 a number. */
    if (!flags_ended && argument[0] == '-' && isalpha((unsigned char)argument[1]))
        return hm_fail(HM_ERR_INVALID, "unknown option %.60s; options begin with two hyphens",
                       argument);
    struct hm_options *options = flags->options;
    if (options->positional_count == HM_POSITIONAL_MAX)
        return hm_fail(HM_ERR_INVALID, "'%.60s': more than %d arguments", argument,
                       HM_POSITIONAL_MAX);
    options->positional[options->positional_count++] = argument;
    return HM_OK;
}

static enum hm_status apply_flags(struct hm_options *options, int argc, char *const *argv)
{
    struct flags flags = {.options = options, .argc = argc, .argv = argv};
    enum hm_status status = seen_create(options, &flags.seen);
    bool flags_ended = false;
    for (flags.at = 1; flags.at < argc && status == HM_OK; flags.at++) {
        if (!flags_ended && strcmp(argv[flags.at], "--") == 0)
            flags_ended = true;
        else
            status = apply_argument(&flags, flags_ended);
    }
    free(flags.seen);
    return status;
}

/* ---- the whole ----------------------------------------------------------- */

void hm_options_init(struct hm_options *options)
{
    *options = (struct hm_options){0};
}

void hm_options_fini(struct hm_options *options)
{
    free(options->file_text);
    *options = (struct hm_options){0};
}

void hm_options_add(struct hm_options *options, const char *title, const struct hm_option *rows,
                    unsigned row_count, void *target)
{
    HM_ASSERT(options->table_count < HM_OPTION_TABLES_MAX);
    struct found twice;
    for (unsigned i = 0; i < row_count; i++) {
        HM_ASSERT(!find(options, rows[i].name, &twice));
        HM_ASSERT(strcmp(rows[i].name, "config") != 0 && strcmp(rows[i].name, "help") != 0);
    }
    options->table[options->table_count++] =
        (struct hm_option_table){title, rows, row_count, target};
}

/* What must be known before the flags are read one by one: the file, which is weaker than they, and
 * --help, which a person may ask for because the rest of the line is wrong. */
static void look_ahead(struct hm_options *options, int argc, char *const *argv, const char **path)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) options->help = true;
        if (strncmp(argv[i], "--config=", 9) == 0) *path = argv[i] + 9;
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0)
            *path = argv[i + 1];
    }
}

enum hm_status hm_options_parse(struct hm_options *options, int argc, char *const *argv)
{
    const char *path = NULL;
    free(options->file_text);
    options->file_text = NULL;
    options->positional_count = 0;
    options->help = false;
    for (unsigned t = 0; t < options->table_count; t++)
        hm_options_defaults(options->table[t].options, options->table[t].option_count,
                            options->table[t].target);
    look_ahead(options, argc, argv, &path);
    if (options->help) return HM_OK;
    enum hm_status status = path ? apply_file(options, path) : HM_OK;
    if (status == HM_OK) status = apply_environment(options);
    if (status == HM_OK) status = apply_flags(options, argc, argv);
    return status;
}
