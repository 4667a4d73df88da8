/* base/thread.h - threads with a place, a way to wait, and a worker that runs jobs one after
 * another.  Locks and condition variables live behind this header and nowhere else. */
#ifndef HM_BASE_THREAD_H
#define HM_BASE_THREAD_H

#include "base/loop.h"

#include <stdatomic.h>

/* Where a thread runs.  cpu_count 0: anywhere.  A place that the system does not grant is a logged
 * warning. */
enum { HM_CPUS_MAX = 1024 };
struct hm_place {
    uint64_t cpuset[HM_CPUS_MAX / 64]; /* bit i: logical processor i */
    unsigned cpu_count;                /* bits set */
    int nice;                          /* added to the thread's niceness; 0: as the process */
    const char *name;                  /* at most 15 characters are shown by ps and gdb */
};

struct hm_thread;
HM_MUST_CHECK enum hm_status hm_thread_start(const struct hm_place *place, void (*run)(void *arg),
                                             void *arg, struct hm_thread **thread);
void hm_thread_join(struct hm_thread *thread); /* waits, then frees */
/* Names the calling thread: equal only within one thread.  For assertions about who calls. */
uintptr_t hm_thread_here(void);

/* For set-up that blocks before there is a loop, and for lanes: time that never jumps, and letting it
 * pass. */
hm_ns hm_thread_clock(void);
void hm_thread_sleep(hm_ns duration);

/* One-shot wait between two threads: one waits, any sets.
 * Memory:  the caller's, all zero at first; the waiter may take it away as soon as it has woken.
 * Cost:    no system call where nobody sleeps. */
struct hm_event {
    _Atomic uint32_t state;
};
void hm_event_set(struct hm_event *event);
void hm_event_wait(struct hm_event *event); /* returns once set, and clears it */
/* The same, for `duration` at most; false: it was not set. */
bool hm_event_wait_for(struct hm_event *event, hm_ns duration);

/* A worker: one thread, a FIFO of at most jobs_max jobs (those that wait and the one that runs).
 * job->run runs on the worker, then job->done on the loop. */
struct hm_worker;
struct hm_job { /* caller's memory, until done has run */
    void (*run)(struct hm_job *job);
    void (*done)(struct hm_job *job);
    void *arg;
    struct hm_post post;
    struct hm_job *next;
    struct hm_worker *worker;
};
HM_MUST_CHECK enum hm_status hm_worker_start(struct hm_loop *loop, const struct hm_place *place,
                                             unsigned jobs_max, struct hm_worker **worker);
/* From any thread.  HM_ERR_BUSY: full. */
HM_MUST_CHECK enum hm_status hm_worker_submit(struct hm_worker *worker, struct hm_job *job);
/* Runs what is queued, joins the thread and frees.  Every done has been posted; those posts still
 * run on the loop. */
void hm_worker_stop(struct hm_worker *worker);

#endif
