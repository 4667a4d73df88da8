/* cli/launch.h - the processes of one `hivemind swarm` agree on who they are, before and while
 * their nodes open: rounds of cards over a bootstrap (transport/bootstrap.h). */
#ifndef HM_CLI_LAUNCH_H
#define HM_CLI_LAUNCH_H

#include "transport/address.h"
#include "transport/bootstrap.h"

enum launch_role { LAUNCH_ANY, LAUNCH_SERVER, LAUNCH_TRAINER };
enum { LAUNCH_KEY_BYTES = 32, LAUNCH_HOST_BYTES = 64, LAUNCH_FAILED_BYTES = 384 };

struct launch_card { /* what everybody knows of a process; grows from round to round */
    enum launch_role role;
    char host[LAUNCH_HOST_BYTES];
    struct hm_node_id node;               /* once its node is open */
    char join[HM_JOIN_LINE_BYTES];        /* of a server whose node is open; else "" */
    uint8_t fabric_key[LAUNCH_KEY_BYTES]; /* the lead's: made for this launch alone; else 0 */
    char failed[LAUNCH_FAILED_BYTES];     /* why this process cannot take part; else "" */
};
struct launch {
    struct hm_bootstrap *bootstrap; /* NULL once it is done with */
    unsigned rank, size;
    struct launch_card mine, *card; /* card [size]: as of the last round */
    unsigned *server, *trainer;     /* ranks of each, in order; the first server leads */
    unsigned server_count, trainer_count;
};

/* Meets the others, and gives out the roles: `role` of each, or where all are LAUNCH_ANY the first
 * `servers` ranks serve and the rest trains (0 of one kind: as many as are left by the other).
 * CLI_GO_ON, or an exit code after the line. */
int launch_open(struct launch *launch, const struct hm_bootstrap_conf *conf, enum launch_role role,
                unsigned servers, unsigned trainers);
/* One round: gives launch->mine, gets every card.  CLI_GO_ON; CLI_FAILED where somebody has
 * failed, which the first rank that has not says. */
int launch_round(struct launch *launch);
/* This process cannot take part: `mine` says why, from the line that was kept. */
void launch_fail(struct launch *launch, enum hm_status status);
/* The bootstrap's means is done with; waits for the others. */
void launch_part(struct launch *launch);
void launch_fini(struct launch *launch);

static inline bool launch_leads(const struct launch *launch)
{
    return launch->server_count > 0 && launch->server[0] == launch->rank;
}
/* This process's place among those of its role. */
unsigned launch_place(const struct launch *launch);

#endif
