/* base/options_help.c - lays out --help: a heading a table, a row an option, wrapped to 100
 * columns.
 *
 *     Scheduler:
 *       --batch-rows-max ROWS      never run more rows at once
 *                                  (default 2048; HM_BATCH_ROWS_MAX)
 */
#include "base/options_impl.h"

#include <string.h>

enum { COLUMNS = 100, TEXT_COLUMN = 32, INDENT = 2, ROW_TEXT_BYTES = 1024 };

/* Columns that UTF-8 text takes, for the alphabets that help is written in. */
static unsigned columns_of(const char *text, size_t byte_count)
{
    unsigned columns = 0;
    for (size_t i = 0; i < byte_count; i++) columns += ((unsigned char)text[i] & 0xc0) != 0x80;
    return columns;
}

/* Prints `text` word by word from TEXT_COLUMN on, and ends the line. */
static void print_wrapped(FILE *to, const char *text, unsigned column)
{
    bool line_begins = true;
    fprintf(to, "%*s", (int)(TEXT_COLUMN - column), "");
    column = TEXT_COLUMN;
    while (*text) {
        size_t word_bytes = strcspn(text, " ");
        unsigned word_columns = columns_of(text, word_bytes);
        if (!line_begins && column + 1 + word_columns > COLUMNS) {
            fprintf(to, "\n%*s", TEXT_COLUMN, "");
            column = TEXT_COLUMN;
            line_begins = true;
        }
        fprintf(to, "%s%.*s", line_begins ? "" : " ", (int)word_bytes, text);
        column += word_columns + !line_begins;
        line_begins = false;
        text += word_bytes;
        text += strspn(text, " ");
    }
    fputc('\n', to);
}

static void print_row(FILE *to, const char *flag, const char *text)
{
    fprintf(to, "%*s%s", INDENT, "", flag);
    unsigned column = INDENT + columns_of(flag, strlen(flag));
    if (column + 2 > TEXT_COLUMN) { /* too long to have its text beside it */
        fputc('\n', to);
        column = 0;
    }
    print_wrapped(to, text, column);
}

static void print_option(FILE *to, const struct hm_option *option)
{
    char flag[2 * HM_OPTION_NAME_BYTES], text[ROW_TEXT_BYTES], variable[HM_OPTION_NAME_BYTES];
    bool on = option->standard && strcmp(option->standard, "true") == 0;
    if (option->kind == HM_OPTION_BOOL)
        snprintf(flag, sizeof flag, on ? "--no-%s" : "--%s", option->name);
    else
        snprintf(flag, sizeof flag, "--%s %s", option->name,
                 option->metavar ? option->metavar : "VALUE");
    hm_option_variable(option, variable);
    if (option->kind == HM_OPTION_BOOL)
        snprintf(text, sizeof text, "%s (default %s; %s)", option->help, on ? "on" : "off",
                 variable);
    else if (option->standard && *option->standard)
        snprintf(text, sizeof text, "%s (default %s; %s)", option->help, option->standard,
                 variable);
    else
        snprintf(text, sizeof text, "%s (%s)", option->help, variable);
    print_row(to, flag, text);
}

void hm_options_help(const struct hm_options *options, FILE *to)
{
    for (unsigned t = 0; t < options->table_count; t++) {
        const struct hm_option_table *table = &options->table[t];
        fprintf(to, "%s:\n", table->title);
        for (unsigned i = 0; i < table->option_count; i++) print_option(to, &table->options[i]);
        fputc('\n', to);
    }
    fprintf(to, "Always:\n");
    print_row(to, "--config FILE",
              "read options from lines like  name = value; variables and flags override it");
    print_row(to, "--help", "this text");
}
