/* Providers on the real loop: running it, and puppets, which are this same program in processes of
 * their own (--puppet role seed), so that they can be stopped and killed. */
#ifndef HM_CONFORMANCE_REAL_H
#define HM_CONFORMANCE_REAL_H

#include "support_suite.h"

void real_start(struct suite *suite);
void real_stop(struct suite *suite);
bool real_run(struct suite *suite, bool (*until)(void *arg), void *arg, hm_ns limit);
void real_silent_addr(struct suite *suite, struct hm_addr *addr);
/* argv[0] is a name only; the program is this one.  Its stdout can be read from *output. */
int real_spawn(char *const argv[], int *output);
void real_puppet_start(struct suite *suite, struct puppet *puppet);
void real_puppet_pause(struct suite *suite, struct puppet *puppet, bool paused);
void real_puppet_kill(struct suite *suite, struct puppet *puppet);
/* What main does for --puppet; it does not return before it is killed. */
int real_puppet_main(const struct provider *provider, const char *role, const char *seed);

#endif
