/* cli/beat.h - who of a launch is alive, without MPI: trainers call every server now and then.
 *
 * A trainer learns from the answers that the servers serve; a server learns that the trainers are
 * done, or dead: nobody has to be alive for somebody else to notice the end.
 *
 *   HM_METHOD_LAUNCH_BEAT   request header: u8 version, u8 state of the trainer
 *                           reply header:   u8 version, u8 1 once the server serves */
#ifndef HM_CLI_BEAT_H
#define HM_CLI_BEAT_H

#include "cli/cli.h"

struct beat_node {
    struct hm_node_id id;
    struct hm_addrs addrs;
};

/* ---- a trainer's side ---- */
struct beat;
HM_MUST_CHECK enum hm_status beat_start(struct hm_node *node, const struct beat_node *servers,
                                        unsigned count, struct beat **beat);
/* Waits until all servers serve, at most `timeout` or until asked to stop; how many do. */
unsigned beat_await(struct beat *beat, const struct cli_stop *stop, hm_ns timeout);
/* Tells the servers that this trainer is done, waiting for their answers at most 2 s; then
 * frees. */
void beat_end(struct beat *beat);

/* ---- a server's side ---- */
struct beat_watch;
/* Answers the trainers' calls. */
HM_MUST_CHECK enum hm_status beat_watch_start(struct hm_node *node,
                                              const struct beat_node *trainers, unsigned count,
                                              hm_ns silence_max, struct beat_watch **watch);
/* Says "serving" from now on, and asks `stop` to stop once every trainer is done, or has been
 * silent for silence_max.  Without trainers nothing ends it. */
void beat_watch_serving(struct beat_watch *watch, struct cli_stop *stop);
/* Before the stop that it was given ends. */
void beat_watch_end(struct beat_watch *watch);

#endif
