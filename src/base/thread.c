/* base/thread.c - threads, one-shot events and workers: the only file with locks and condition
 * variables.
 *
 * Failure modes: a thread that cannot be made is a status.  A place that the system does not grant
 * (a processor outside of the container's set, a niceness over its limit) is a warning: the work
 * is done anyway, only elsewhere.  Threads made here block all signals, so that they arrive on the
 * loop's thread alone.
 *
 * A worker:  submit -> queue -> run on the worker -> posted -> done on the loop.
 *            `jobs` counts those that wait or run; the worker never touches a job after it has
 *            posted it. */
#include "base/thread.h"

#include "base/assert.h"
#include "base/log.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NAME_BYTES = 16 }; /* the kernel's limit, terminator included */

static void lock(pthread_mutex_t *mutex)
{
    int failed = pthread_mutex_lock(mutex);
    HM_ASSERT(!failed);
}

static void unlock(pthread_mutex_t *mutex)
{
    int failed = pthread_mutex_unlock(mutex);
    HM_ASSERT(!failed);
}

/* ---- threads ------------------------------------------------------------- */

struct hm_thread {
    pthread_t thread;
    struct hm_place place;
    char name[NAME_BYTES];
    void (*run)(void *arg);
    void *arg;
};

static void set_affinity(const struct hm_place *place, const char *name)
{
    _Static_assert(HM_CPUS_MAX <= CPU_SETSIZE, "a place fits the system's set");
    if (place->cpu_count == 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (unsigned cpu = 0; cpu < HM_CPUS_MAX; cpu++)
        if (place->cpuset[cpu / 64] >> (cpu % 64) & 1) CPU_SET(cpu, &set);
    int error = pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    if (error)
        hm_log(HM_LOG_WARN, "thread",
               "%s: its processors are not allowed here, it runs anywhere (%s)", name,
               strerror(error));
}

static void set_niceness(const struct hm_place *place, const char *name)
{
    if (place->nice == 0) return;
    /* On Linux niceness belongs to a thread, and PRIO_PROCESS takes a thread's id. */
    id_t thread = (id_t)syscall(SYS_gettid);
    errno = 0;
    int nice = getpriority(PRIO_PROCESS, thread);
    if (errno != 0 || setpriority(PRIO_PROCESS, thread, nice + place->nice) != 0)
        hm_log(HM_LOG_WARN, "thread", "%s: niceness %+d is not allowed here (%s)", name,
               place->nice, strerror(errno));
}

static void *thread_main(void *arg)
{
    struct hm_thread *thread = arg;
    if (thread->name[0]) (void)pthread_setname_np(pthread_self(), thread->name);
    set_affinity(&thread->place, thread->name);
    set_niceness(&thread->place, thread->name);
    thread->run(thread->arg);
    return NULL;
}

enum hm_status hm_thread_start(const struct hm_place *place, void (*run)(void *arg), void *arg,
                               struct hm_thread **started)
{
    struct hm_thread *thread = calloc(1, sizeof *thread);
    if (!thread) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a thread");
    thread->run = run;
    thread->arg = arg;
    if (place) {
        thread->place = *place;
        if (place->name) snprintf(thread->name, sizeof thread->name, "%s", place->name);
    }
    sigset_t all, kept;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &kept); /* inherited by the thread */
    int error = pthread_create(&thread->thread, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &kept, NULL);
    if (error) {
        free(thread);
        return hm_fail(HM_ERR_NO_MEMORY,
                       "no thread can be started (%s): raise the limit (ulimit -u)",
                       strerror(error));
    }
    *started = thread;
    return HM_OK;
}

hm_ns hm_thread_clock(void)
{
    struct timespec now;
    int failed = clock_gettime(CLOCK_MONOTONIC, &now);
    HM_ASSERT(!failed);
    return (hm_ns)now.tv_sec * HM_S + (hm_ns)now.tv_nsec;
}

void hm_thread_sleep(hm_ns duration)
{
    struct timespec left = {.tv_sec = (time_t)(duration / HM_S),
                            .tv_nsec = (long)(duration % HM_S)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

void hm_thread_join(struct hm_thread *thread)
{
    int failed = pthread_join(thread->thread, NULL);
    HM_ASSERT(!failed);
    free(thread);
}

uintptr_t hm_thread_here(void)
{
    static _Thread_local char mark;
    return (uintptr_t)&mark;
}

/* ---- events --------------------------------------------------------------
 *
 * CLEAR -- set --> SET -- wait --> CLEAR          The setter asks the kernel only if it finds
 *   '---- wait ---> SLEPT_ON -- set, wake --> SET  SLEPT_ON.  It touches nothing after its exchange:
 *                                                  waking an address reads no memory. */

enum { CLEAR, SET, SLEPT_ON };

static void futex(struct hm_event *event, int operation, uint32_t value,
                  const struct timespec *timeout)
{
    (void)syscall(SYS_futex, &event->state, operation | FUTEX_PRIVATE_FLAG, value, timeout, NULL,
                  0);
}

/* ThreadSanitizer keeps a signal from a thread until that calls something that it intercepts, which
 * a bare system call is not: a thread that waits for a signal's work would never see the signal. */
static void futex_wait(struct hm_event *event, const struct timespec *timeout)
{
#ifdef __SANITIZE_THREAD__
    static const struct timespec often = {.tv_nsec = 20 * HM_MS}, now = {0};
    bool sooner = timeout && timeout->tv_sec == 0 && timeout->tv_nsec < often.tv_nsec;
    futex(event, FUTEX_WAIT, SLEPT_ON, sooner ? timeout : &often);
    (void)nanosleep(&now, NULL);
#else
    futex(event, FUTEX_WAIT, SLEPT_ON, timeout);
#endif
}

void hm_event_set(struct hm_event *event)
{
    if (atomic_exchange_explicit(&event->state, SET, memory_order_release) == SLEPT_ON)
        futex(event, FUTEX_WAKE, 1, NULL);
}

/* Takes what was set; else says that somebody sleeps. */
static bool event_take(struct hm_event *event)
{
    uint32_t seen = SET;
    if (atomic_compare_exchange_strong_explicit(&event->state, &seen, CLEAR, memory_order_acquire,
                                                memory_order_relaxed))
        return true;
    seen = CLEAR;
    (void)atomic_compare_exchange_strong_explicit(&event->state, &seen, SLEPT_ON,
                                                  memory_order_relaxed, memory_order_relaxed);
    return false;
}

void hm_event_wait(struct hm_event *event)
{
    while (!event_take(event)) futex_wait(event, NULL);
}

bool hm_event_wait_for(struct hm_event *event, hm_ns duration)
{
    hm_ns until = hm_thread_clock() + duration;
    while (!event_take(event)) {
        hm_ns now = hm_thread_clock();
        if (now >= until) {
            uint32_t seen = SLEPT_ON; /* nobody does any more, unless it was set just now */
            return !atomic_compare_exchange_strong_explicit(
                       &event->state, &seen, CLEAR, memory_order_acquire, memory_order_acquire) &&
                   event_take(event);
        }
        struct timespec left = {.tv_sec = (time_t)((until - now) / HM_S),
                                .tv_nsec = (long)((until - now) % HM_S)};
        futex_wait(event, &left);
    }
    return true;
}

/* ---- workers ------------------------------------------------------------- */

/* Neither initialisation fails on Linux for default attributes; glibc allocates nothing for them.
 */
static void sync_init(pthread_mutex_t *mutex, pthread_cond_t *cond)
{
    int failed = pthread_mutex_init(mutex, NULL);
    HM_ASSERT(!failed);
    failed = pthread_cond_init(cond, NULL);
    HM_ASSERT(!failed);
}

static void sync_fini(pthread_mutex_t *mutex, pthread_cond_t *cond)
{
    int failed = pthread_cond_destroy(cond);
    HM_ASSERT(!failed);
    failed = pthread_mutex_destroy(mutex);
    HM_ASSERT(!failed);
}

struct hm_worker {
    struct hm_loop *loop;
    struct hm_thread *thread;
    unsigned jobs_max;

    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    struct hm_job *first, **end;
    unsigned jobs; /* waiting or running */
    bool stopping;
};

static void on_done(struct hm_post *post)
{
    struct hm_job *job = post->arg;
    job->done(job); /* may free the job */
}

/* The next job, or NULL once the worker is stopping and its queue is empty. */
static struct hm_job *next_job(struct hm_worker *worker)
{
    lock(&worker->mutex);
    while (!worker->first && !worker->stopping) pthread_cond_wait(&worker->changed, &worker->mutex);
    struct hm_job *job = worker->first;
    if (job) {
        worker->first = job->next;
        if (!worker->first) worker->end = &worker->first;
    }
    unlock(&worker->mutex);
    return job;
}

static void worker_main(void *arg)
{
    struct hm_worker *worker = arg;
    struct hm_job *job;
    while ((job = next_job(worker)) != NULL) {
        job->run(job);
        lock(&worker->mutex);
        worker->jobs--;
        unlock(&worker->mutex);
        job->post = (struct hm_post){.cb = on_done, .arg = job};
        hm_loop_post(worker->loop, &job->post);
    }
}

enum hm_status hm_worker_start(struct hm_loop *loop, const struct hm_place *place,
                               unsigned jobs_max, struct hm_worker **started)
{
    HM_ASSERT(jobs_max > 0);
    struct hm_worker *worker = calloc(1, sizeof *worker);
    if (!worker) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a worker");
    worker->loop = loop;
    worker->jobs_max = jobs_max;
    worker->end = &worker->first;
    sync_init(&worker->mutex, &worker->changed);
    enum hm_status status = hm_thread_start(place, worker_main, worker, &worker->thread);
    if (status != HM_OK) {
        sync_fini(&worker->mutex, &worker->changed);
        free(worker);
        return status;
    }
    *started = worker;
    return HM_OK;
}

enum hm_status hm_worker_submit(struct hm_worker *worker, struct hm_job *job)
{
    HM_ASSERT(job->run && job->done);
    enum hm_status status = HM_OK;
    lock(&worker->mutex);
    HM_ASSERT(!worker->stopping);
    if (worker->jobs == worker->jobs_max) {
        status = HM_ERR_BUSY;
    } else {
        job->worker = worker;
        job->next = NULL;
        *worker->end = job;
        worker->end = &job->next;
        worker->jobs++;
        pthread_cond_signal(&worker->changed);
    }
    unlock(&worker->mutex);
    return status;
}

void hm_worker_stop(struct hm_worker *worker)
{
    if (!worker) return;
    lock(&worker->mutex);
    worker->stopping = true;
    pthread_cond_signal(&worker->changed);
    unlock(&worker->mutex);
    hm_thread_join(worker->thread);
    sync_fini(&worker->mutex, &worker->changed);
    free(worker);
}
