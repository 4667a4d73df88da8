/* sim/world.h - the virtual loop: one clock, one seed, no threads, no descriptors.
 *
 * Every object that ships runs on it unchanged.  All nodes of a simulated swarm share one world and
 * one loop: a run is a sequence of steps (one timer or one post each), decided by the seed alone,
 * so that it replays bit for bit.  Whoever wants to compare two runs compares their trace hashes.
 *
 * Thread: the one that created the world; a post from another thread is asserted against, since it
 * could not replay. */
#ifndef HM_SIM_WORLD_H
#define HM_SIM_WORLD_H

#include "base/loop.h"

struct hm_world;

HM_MUST_CHECK enum hm_status hm_world_create(uint64_t seed, struct hm_world **world);
/* Asserts that nothing is left: no timer, no post, no hook, and what each part asserts of itself
 * (no message, no node). */
void hm_world_destroy(struct hm_world *world);
struct hm_loop *hm_world_loop(struct hm_world *world);
uint64_t hm_world_seed(const struct hm_world *world);

/* Runs one event, after moving the clock to it; false if there is none.
 * A world whose clock stands still for ten million events is asserted against: a timer restarts
 * itself with 0. */
bool hm_world_step(struct hm_world *world);
/* Runs every event due at or before `when`, and leaves the clock there. */
void hm_world_run_until(struct hm_world *world, hm_ns when);
void hm_world_run_for(struct hm_world *world, hm_ns duration);
/* Steps until *flag; false if nothing was left to run or the clock passed `duration` from now
 * before. */
bool hm_world_run_while_not(struct hm_world *world, const bool *flag, hm_ns duration);
/* Wall clock minus what it would show if it were right; it may be set at any time, and jumps then.
 */
void hm_world_set_wall_skew(struct hm_world *world, int64_t skew_ns);

/* Mixes an event into the running hash: what happened (static text), and two words about it.  Steps
 * mix themselves in. */
void hm_world_trace(struct hm_world *world, const char *tag, uint64_t a, uint64_t b);
uint64_t hm_world_trace_hash(const struct hm_world *world);

/* What lives in a world besides its loop (the network, disks): found by its kind, destroyed with
 * the world. */
struct hm_world_part {
    const void *kind;                            /* any address that is the kind's own */
    void (*destroy)(struct hm_world_part *part); /* asserts that it is empty, and frees it */
    struct hm_world_part *next;
};
void hm_world_part_add(struct hm_world *world, struct hm_world_part *part);
struct hm_world_part *hm_world_part_find(struct hm_world *world,
                                         const void *kind); /* NULL: not there yet */

#endif
