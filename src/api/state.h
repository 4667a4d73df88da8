/* api/state.h - the state folder: made if absent, 0700, locked by one process. */
#ifndef HM_API_STATE_H
#define HM_API_STATE_H

#include "base/status.h"

/* HM_ERR_BUSY with a line if another process holds it; HM_ERR_STORAGE if it cannot be made. */
HM_MUST_CHECK enum hm_status hm_state_lock(const char *dir, int *lock_fd);
void hm_state_unlock(int lock_fd);

#endif
