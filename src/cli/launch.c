/* cli/launch.c - cards and roles of a launch.
 *
 * Happy:  every process fills its card a little more and all exchange them, round by round.
 * Fails:  who cannot take part says so on its card and comes to the round all the same; then
 *         everybody ends, and one process says why.
 * Keeps:  roles follow from the cards alone, so that all processes come to the same. */
#include "cli/launch.h"

#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- cards ----------------------------------------------------------------------------------- */

static void encode(const struct launch_card *card, struct hm_bootstrap_blob *blob)
{
    struct hm_writer writer;
    hm_writer_init(&writer, blob->byte, sizeof(blob->byte));
    hm_write_u8(&writer, (uint8_t)card->role);
    hm_write_string(&writer, card->host);
    hm_write_bytes(&writer, card->node.byte, sizeof(card->node.byte));
    hm_write_string(&writer, card->join);
    hm_write_bytes(&writer, card->fabric_key, sizeof(card->fabric_key));
    hm_write_string(&writer, card->failed);
    HM_ASSERT(hm_writer_ok(&writer));
    blob->bytes = (uint32_t)hm_writer_count(&writer);
}

static bool decode(const struct hm_bootstrap_blob *blob, struct launch_card *card)
{
    struct hm_reader reader;
    hm_reader_init(&reader, blob->byte, blob->bytes);
    uint8_t role = hm_read_u8(&reader);
    hm_read_string(&reader, card->host, sizeof(card->host));
    const void *node = hm_read_bytes(&reader, sizeof(card->node.byte));
    hm_read_string(&reader, card->join, sizeof(card->join));
    const void *key = hm_read_bytes(&reader, sizeof(card->fabric_key));
    hm_read_string(&reader, card->failed, sizeof(card->failed));
    if (!hm_reader_ok(&reader) || !hm_reader_ended(&reader) || role > LAUNCH_TRAINER) return false;
    memcpy(card->node.byte, node, sizeof(card->node.byte));
    memcpy(card->fabric_key, key, sizeof(card->fabric_key));
    card->role = role;
    return true;
}

static enum hm_status exchange(struct launch *launch)
{
    struct hm_bootstrap_blob mine;
    struct hm_bootstrap_blob *all = calloc(launch->size, sizeof(*all));
    if (!all) return HM_ERR_NO_MEMORY;
    encode(&launch->mine, &mine);
    enum hm_status status = hm_bootstrap_allgather(launch->bootstrap, &mine, all);
    for (unsigned rank = 0; !status && rank < launch->size; rank++)
        if (!decode(&all[rank], &launch->card[rank]))
            status = hm_fail(HM_ERR_PEER_PROTOCOL,
                             "rank %u speaks otherwise; run the same build on every node", rank);
    free(all);
    return status;
}

/* A line for each different reason; only one process says them. */
static void say_failed(const struct launch *launch)
{
    const struct launch_card *card = launch->card;
    for (unsigned rank = 0; rank < launch->size; rank++) {
        unsigned before = 0, after = 0;
        for (unsigned other = 0; other < launch->size; other++)
            if (other != rank && strcmp(card[other].failed, card[rank].failed) == 0)
                ++*(other < rank ? &before : &after);
        if (!card[rank].failed[0] || before > 0) continue;
        fprintf(stderr, "hivemind: rank %u on %s", rank, card[rank].host);
        if (after > 0) fprintf(stderr, " and %u more", after);
        fprintf(stderr, ": %s\n", card[rank].failed);
    }
}

int launch_round(struct launch *launch)
{
    enum hm_status status = exchange(launch);
    if (status) {
        int code = cli_fail(CLI_FAILED, status);
        if (launch->mine.failed[0]) fprintf(stderr, "hivemind: %s\n", launch->mine.failed);
        return code;
    }
    unsigned first = 0;
    while (first < launch->size && !launch->card[first].failed[0]) first++;
    if (first == launch->size) return CLI_GO_ON;
    if (first == launch->rank) say_failed(launch);
    return CLI_FAILED;
}

void launch_fail(struct launch *launch, enum hm_status status)
{
    const char *line = hm_fail_line();
    snprintf(launch->mine.failed, sizeof(launch->mine.failed), "%s",
             line[0] ? line : hm_status_text(status));
}

/* ---- roles ----------------------------------------------------------------------------------- */

static enum hm_status roles(struct launch *launch, unsigned servers, unsigned trainers)
{
    unsigned given = 0, size = launch->size;
    for (unsigned rank = 0; rank < size; rank++) given += launch->card[rank].role != LAUNCH_ANY;
    if (given > 0 && given < size)
        return hm_fail(HM_ERR_INVALID,
                       "%u of %u processes were given a --role; give it to all of them, or to none "
                       "and --servers and --trainers instead",
                       given, size);
    if (given == 0 && servers == 0 && trainers == 0)
        return hm_fail(HM_ERR_INVALID,
                       "say who serves and who trains: --servers N --trainers M, or --role for "
                       "each process");
    if (given == 0 && servers == 0) servers = size > trainers ? size - trainers : 0;
    if (given == 0 && trainers == 0) trainers = size > servers ? size - servers : 0;
    if (given == 0 && servers + trainers != size)
        return hm_fail(HM_ERR_INVALID,
                       "%u processes were started for %u servers and %u trainers; start %u", size,
                       servers, trainers, servers + trainers);
    for (unsigned rank = 0; rank < size; rank++) {
        if (given == 0) launch->card[rank].role = rank < servers ? LAUNCH_SERVER : LAUNCH_TRAINER;
        if (launch->card[rank].role == LAUNCH_SERVER)
            launch->server[launch->server_count++] = rank;
        else
            launch->trainer[launch->trainer_count++] = rank;
    }
    launch->mine.role = launch->card[launch->rank].role;
    if (launch->server_count == 0)
        return hm_fail(HM_ERR_INVALID,
                       "a swarm without a server has no experts; make one of the %u "
                       "processes a server",
                       size);
    return HM_OK;
}

unsigned launch_place(const struct launch *launch)
{
    const unsigned *ranks = launch->mine.role == LAUNCH_SERVER ? launch->server : launch->trainer;
    unsigned place = 0;
    while (ranks[place] != launch->rank) place++;
    return place;
}

int launch_open(struct launch *launch, const struct hm_bootstrap_conf *conf, enum launch_role role,
                unsigned servers, unsigned trainers)
{
    memset(launch, 0, sizeof(*launch));
    enum hm_status status = hm_bootstrap_open(conf, &launch->bootstrap);
    if (status) return cli_fail(status == HM_ERR_INVALID ? CLI_USAGE : CLI_FAILED, status);
    launch->rank = launch->bootstrap->rank;
    launch->size = launch->bootstrap->size;
    launch->mine.role = role;
    if (gethostname(launch->mine.host, sizeof(launch->mine.host) - 1))
        strcpy(launch->mine.host, "a host without a name");
    launch->card = calloc(launch->size, sizeof(*launch->card));
    launch->server = calloc(launch->size, sizeof(*launch->server));
    launch->trainer = calloc(launch->size, sizeof(*launch->trainer));
    if (!launch->card || !launch->server || !launch->trainer)
        return cli_fail(CLI_FAILED, HM_ERR_NO_MEMORY);
    int code = launch_round(launch);
    if (code != CLI_GO_ON) return code;
    status = roles(launch, servers, trainers);
    if (!status) return CLI_GO_ON;
    /* All come to the same; one says it. */
    return launch->rank == 0 ? cli_fail(CLI_USAGE, status) : CLI_USAGE;
}

void launch_part(struct launch *launch)
{
    hm_bootstrap_close(launch->bootstrap);
    launch->bootstrap = NULL;
}

void launch_fini(struct launch *launch)
{
    launch_part(launch);
    free(launch->card);
    free(launch->server);
    free(launch->trainer);
}
