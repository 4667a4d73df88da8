/* moe/directory.h - which experts exist and who serves them: the swarm's phone book, on the DHT.
 *
 * Two record kinds (architecture, section 6):
 *   expert record   dictionary "expert:<prefix>" ("ffn." or "ffn.3."), entry (server, child
 *                   coordinate as decimal text): this server has live experts under that child.
 *                   Also dictionary "experts:", entry (server, name): the names in the swarm, with
 *                   their number of dimensions.  Life 10 min, re-declared every 2 min and when they
 *                   change.
 *   server record   dictionary "server:<node id>", one entry by that node: addresses, expert count,
 *                   load, versions, codecs.  Life 60 s, re-declared every 30 s.  A server whose
 *                   record has expired is dead, whatever its expert records say.
 * Raw keys are those strings; an owner speaks only for himself, because records are signed.
 *
 * Answers and misses are cached (until 5 s before expiry; misses negative_cache_max), for all rows
 * and batches alike; what is older than HM_DIRECTORY_REFRESH is answered from the cache and looked
 * up again behind it, so that a new server is seen within seconds.  A failed call teaches the cache
 * at once: hm_directory_suspect.
 *
 * Thread: loop.  Callbacks never run inside a call made by the user. */
#ifndef HM_MOE_DIRECTORY_H
#define HM_MOE_DIRECTORY_H

#include "dht/dht.h"
#include "moe/uid.h"
#include "tensor/codec.h"

enum {
    HM_SERVER_PROVIDERS_MAX = 4,
    HM_SCHEMA_EXPERT = 1,
    HM_SCHEMA_SERVER = 2,
    HM_SCHEMA_NAMES = 3
};
#define HM_DIRECTORY_REFRESH     (10 * HM_S)
#define HM_DIRECTORY_EXPERT_LIFE (600 * HM_S)
#define HM_DIRECTORY_SERVER_LIFE (60 * HM_S)
extern const struct hm_validator hm_directory_validators[]; /* for hm_dht_conf */
extern const unsigned hm_directory_validator_count;

struct hm_server_info { /* what a server says of itself */
    struct hm_node_id node;
    struct hm_addrs addrs;
    char version[32];
    uint32_t expert_count;
    uint32_t rows_queued;     /* load: rows queued or running */
    uint32_t rows_per_second; /* measured over the last interval */
    uint64_t codecs;          /* a set (tensor/codec.h): what it takes */
    int64_t started_wall_ns;
};

struct hm_directory;
struct hm_directory_conf {
    struct hm_dht *dht;
    struct hm_rpc *rpc;
    hm_ns negative_cache_max; /* 0: 10 s */
    unsigned entries_max;     /* cached prefixes and servers; 0: 16384 */
};
HM_MUST_CHECK enum hm_status hm_directory_create(const struct hm_directory_conf *conf,
                                                 struct hm_directory **directory);
/* No operation may be in progress; its own look-ups behind the cache are cancelled.  Before
 * hm_dht_close or after its done. */
void hm_directory_destroy(struct hm_directory *directory);

typedef void (*hm_directory_cb)(void *arg, enum hm_status status);
/* Declares this server: its server record, and with `uids` the expert records of all their prefixes
 * (NULL, 0: only the server record).  `withdraw`: expert records with a life that is over in a
 * second, and a server record without addresses, which those who have the old one cached take for
 * its end when they look again. */
HM_MUST_CHECK enum hm_status hm_directory_declare(struct hm_directory *directory,
                                                  const struct hm_server_info *info,
                                                  const struct hm_uid *uids, unsigned uid_count,
                                                  bool withdraw, hm_ns deadline, hm_directory_cb cb,
                                                  void *arg);

/* The live children of prefixes (each ends with a dot): coordinate and who serves it. */
struct hm_provider {
    uint32_t coordinate;
    unsigned server_count;
    /* Not suspected, if there are such; the least loaded first. */
    struct hm_node_id server[HM_SERVER_PROVIDERS_MAX];
};
struct hm_children {
    const char *prefix;
    const struct hm_provider *provider; /* by coordinate; views, valid during the callback */
    unsigned count;
};
typedef void (*hm_children_cb)(void *arg, enum hm_status status, const struct hm_children *children,
                               unsigned prefix_count);
/* `prefixes` are copied.  A prefix without live children has count 0, and HM_OK. */
HM_MUST_CHECK enum hm_status hm_directory_children(struct hm_directory *directory,
                                                   const char *const *prefixes,
                                                   unsigned prefix_count, hm_ns deadline,
                                                   hm_children_cb cb, void *arg);
/* Server records, for dialling and for `hivemind status`; a server without a live record has no
 * addrs (count 0). */
typedef void (*hm_servers_cb)(void *arg, enum hm_status status, const struct hm_server_info *info,
                              unsigned count);
HM_MUST_CHECK enum hm_status hm_directory_servers(struct hm_directory *directory,
                                                  const struct hm_node_id *nodes, unsigned count,
                                                  hm_ns deadline, hm_servers_cb cb, void *arg);
/* Every name in the swarm and its dimensions. */
struct hm_grid_name {
    char name[HM_UID_BYTES];
    unsigned dim_count;
};
typedef void (*hm_names_cb)(void *arg, enum hm_status status, const struct hm_grid_name *names,
                            unsigned count);
HM_MUST_CHECK enum hm_status hm_directory_names(struct hm_directory *directory, hm_ns deadline,
                                                hm_names_cb cb, void *arg);

/* A call to this server failed with a status of scope PEER or NODE: it is left out of answers until
 * its server record is seen newly declared, or `hold` has passed (0: 5 s doubling to 60 s with each
 * suspicion), and comes after others until a call to it has succeeded.  Where nobody else is left
 * under a prefix it is answered all the same: a connection that broke does not empty the grid. */
void hm_directory_suspect(struct hm_directory *directory, const struct hm_node_id *server,
                          hm_ns hold);
void hm_directory_trust(struct hm_directory *directory,
                        const struct hm_node_id *server); /* a call to it succeeded */
/* Likewise for one expert at one server (EXPERT_GONE). */
void hm_directory_suspect_expert(struct hm_directory *directory, const struct hm_node_id *server,
                                 const struct hm_uid *uid);

/* The codec for rows to this server and back: `wanted`, if its record is known and says that it
 * takes that; else none, which the log says once for each server. */
const struct hm_codec *hm_directory_codec(struct hm_directory *directory,
                                          const struct hm_node_id *server,
                                          const struct hm_codec *wanted);
/* It has refused a codec that its record promised: none, until a newer record says more. */
void hm_directory_refused_codec(struct hm_directory *directory, const struct hm_node_id *server);

#endif
