/* perf/raw_tls_echo.c - the limit of the open plane on this machine: rows echoed over plain
 * OpenSSL, without any of our layers.
 *
 *   perf-raw_tls_echo [--mode bulk|single|both|latency|stream] [--clients N] [--connections C]
 *                     [--rows R] [--hidden H] [--bytes B] [--seconds S]
 *
 * bulk:    N client processes; each sends R rows of H f32, reads them back, and again.  The server
 *          has a thread a connection.
 * single:  N client processes with C connections in all, each with one row in flight.  Server and
 *          clients are one thread on epoll each.
 * latency: one client, one message of B bytes at a time; how long until it is back.
 * stream:  one client sends messages of B bytes one way; the clock stops when the server has read
 *          them all.
 * TLS 1.3, AES-128-GCM, an Ed25519 certificate made here, nobody is verified.  One JSON line a
 * mode. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

enum { CLIENTS_MAX = 256, SAMPLES_MAX = 1 << 20 };
static struct {
    int clients, connections, rows, hidden;
    long bytes;
    double seconds;
    const char *mode;
} option = {8, 64, 2048, 1024, 8, 3, "both"};

/* What the processes of one run share. */
struct shared {
    _Atomic int ready, go;
    _Atomic uint64_t calls;
};

struct connection {
    SSL *ssl;
    uint8_t *bytes;
    size_t at;
    bool writing;
};

static void must(bool holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "raw_tls_echo: %s failed: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static SSL_CTX *context(bool server)
{
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    must(ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
             SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") == 1,
         "SSL_CTX");
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, 64 << 10);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (!server) return ctx;
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    X509 *x = X509_new();
    X509_set_version(x, X509_VERSION_3);
    X509_gmtime_adj(X509_getm_notBefore(x), 0);
    X509_gmtime_adj(X509_getm_notAfter(x), 86400);
    X509_set_pubkey(x, key);
    must(X509_sign(x, key, NULL) > 0 && SSL_CTX_use_certificate(ctx, x) == 1 &&
             SSL_CTX_use_PrivateKey(ctx, key) == 1,
         "certificate");
    return ctx;
}

static SSL *connection_ssl(SSL_CTX *ctx, int fd, bool server)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    SSL *ssl = SSL_new(ctx);
    must(ssl && SSL_set_fd(ssl, fd) == 1, "SSL_new");
    must((server ? SSL_accept(ssl) : SSL_connect(ssl)) == 1, "handshake");
    return ssl;
}

/* Blocking; false: the other side has gone. */
static bool move_all(SSL *ssl, uint8_t *bytes, size_t count, bool writing)
{
    for (size_t done; count > 0; bytes += done, count -= done)
        if ((writing ? SSL_write_ex(ssl, bytes, count, &done)
                     : SSL_read_ex(ssl, bytes, count, &done)) != 1)
            return false;
    return true;
}

/* ---- one thread, many connections: each reads `count` bytes, then writes them, and again ----- */

/* Moves one connection as far as it goes; -1: gone, else how many times it has finished writing. */
static int step(struct connection *c, size_t count, bool client)
{
    int finished = 0;
    for (;;) {
        size_t done = 0;
        int ok = c->writing ? SSL_write_ex(c->ssl, c->bytes + c->at, count - c->at, &done)
                            : SSL_read_ex(c->ssl, c->bytes + c->at, count - c->at, &done);
        if (ok != 1) {
            int error = SSL_get_error(c->ssl, ok);
            return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? finished : -1;
        }
        c->at += done;
        if (c->at < count) continue;
        c->at = 0;
        c->writing = !c->writing;
        finished += c->writing == client;
    }
}

static void connection_end(int epoll, struct connection *c)
{
    epoll_ctl(epoll, EPOLL_CTL_DEL, SSL_get_fd(c->ssl), NULL);
}

static void serve_epoll(SSL_CTX *ctx, int listener, int connections, size_t count)
{
    int epoll = epoll_create1(0);
    struct connection *c = calloc((size_t)connections, sizeof *c);
    for (int i = 0; i < connections; i++) {
        int fd = accept(listener, NULL, NULL);
        must(fd >= 0, "accept");
        c[i] = (struct connection){.ssl = connection_ssl(ctx, fd, true), .bytes = malloc(count)};
        fcntl(fd, F_SETFL, O_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &c[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    }
    struct epoll_event events[64];
    for (;;)
        for (int i = 0, n = epoll_wait(epoll, events, 64, -1); i < n; i++)
            if (step(events[i].data.ptr, count, false) < 0)
                connection_end(epoll, events[i].data.ptr);
}

static void client_epoll(SSL_CTX *ctx, int fd[], int connections, size_t count, struct shared *s)
{
    int epoll = epoll_create1(0);
    struct connection *c = calloc((size_t)connections, sizeof *c);
    for (int i = 0; i < connections; i++) {
        c[i] = (struct connection){.ssl = connection_ssl(ctx, fd[i], false),
                                   .bytes = calloc(1, count)};
        c[i].writing = true;
        fcntl(fd[i], F_SETFL, O_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &c[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd[i], &e);
    }
    s->ready++;
    while (!s->go) usleep(100);
    struct epoll_event events[64];
    uint64_t calls = 0;
    for (double end = now() + option.seconds; now() < end;)
        for (int i = 0, n = epoll_wait(epoll, events, 64, 100); i < n; i++) {
            int finished = step(events[i].data.ptr, count, true);
            must(finished >= 0, "echo");
            calls += (uint64_t)finished;
        }
    s->calls += calls;
    _exit(0);
}

/* ---- a thread or a process a connection, blocking -------------------------------------------- */

struct served {
    SSL_CTX *ctx;
    int fd;
    size_t count;
};

static void *serve_thread(void *arg)
{
    struct served *served = arg;
    SSL *ssl = connection_ssl(served->ctx, served->fd, true);
    uint8_t *bytes = malloc(served->count);
    while (move_all(ssl, bytes, served->count, false) &&
           move_all(ssl, bytes, served->count, true)) {
    }
    return NULL;
}

static void serve_threads(SSL_CTX *ctx, int listener, int connections, size_t count)
{
    pthread_t thread[CLIENTS_MAX];
    static struct served served[CLIENTS_MAX];
    for (int i = 0; i < connections; i++) {
        served[i] = (struct served){ctx, accept(listener, NULL, NULL), count};
        must(served[i].fd >= 0 && pthread_create(&thread[i], NULL, serve_thread, &served[i]) == 0,
             "accept");
    }
    for (int i = 0; i < connections; i++) pthread_join(thread[i], NULL);
    exit(0);
}

static void client_blocking(SSL_CTX *ctx, int fd, size_t count, struct shared *s)
{
    SSL *ssl = connection_ssl(ctx, fd, false);
    uint8_t *bytes = calloc(1, count);
    s->ready++;
    while (!s->go) usleep(100);
    uint64_t calls = 0;
    for (double end = now() + option.seconds; now() < end; calls++)
        must(move_all(ssl, bytes, count, true) && move_all(ssl, bytes, count, false), "echo");
    s->calls += calls;
    _exit(0);
}

/* Two processes that wait for each other get a processor each. */
static void pin(int number)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    int skip = number % CPU_COUNT(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || skip-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)sched_setaffinity(0, sizeof one, &one);
        return;
    }
}

/* ---- two processes, one connection ----------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The first tenth is not counted. */
static void measure_latency(SSL *ssl, uint8_t *bytes, size_t count)
{
    double *sample = malloc(SAMPLES_MAX * sizeof *sample), begin = 0, last = now();
    double warm = last + option.seconds / 10, end = last + option.seconds;
    uint64_t calls = 0;
    while (last < end) {
        double asked = last;
        must(move_all(ssl, bytes, count, true) && move_all(ssl, bytes, count, false), "echo");
        last = now();
        if (asked < warm) continue;
        if (calls == 0) begin = asked;
        sample[calls++ % SAMPLES_MAX] = (last - asked) * 1e6;
    }
    must(calls > 0, "one round trip in the time");
    uint64_t kept = calls < SAMPLES_MAX ? calls : SAMPLES_MAX;
    qsort(sample, kept, sizeof *sample, by_value);
    printf("{\"program\":\"raw_tls_echo\",\"mode\":\"latency\",\"bytes\":%zu,\"round_trips\":%llu,"
           "\"mean_us\":%.3f,\"p50_us\":%.3f,\"p99_us\":%.3f,\"p999_us\":%.3f}\n",
           count, (unsigned long long)calls, (last - begin) * 1e6 / (double)calls, sample[kept / 2],
           sample[kept * 99 / 100], sample[kept * 999 / 1000]);
    free(sample);
}

/* The first byte of each message says whether it is the last one; then the server says that it has
 * them all. */
static void measure_stream(SSL *ssl, uint8_t *bytes, size_t count)
{
    double begin = now(), seconds = 0;
    uint64_t calls = 0;
    for (bytes[0] = 0; !bytes[0]; calls++) {
        bytes[0] = calls % 32 == 31 && now() - begin > option.seconds;
        must(move_all(ssl, bytes, count, true), "sending");
    }
    must(move_all(ssl, bytes, 1, false), "the answer");
    seconds = now() - begin;
    printf("{\"program\":\"raw_tls_echo\",\"mode\":\"stream\",\"bytes\":%zu,\"seconds\":%.3f,"
           "\"messages_per_second\":%.1f,\"megabytes_per_second\":%.1f}\n",
           count, seconds, (double)calls / seconds, (double)(calls * count) / seconds / 1e6);
}

static int dial(struct sockaddr_in *at)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    must(fd >= 0 && connect(fd, (struct sockaddr *)at, sizeof *at) == 0, "connect");
    return fd;
}

static void run_pair(bool streaming)
{
    size_t count = (size_t)option.bytes;
    uint8_t *bytes = calloc(1, count);
    must(bytes, "memory");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_bytes = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(listener, 1) == 0 &&
             getsockname(listener, (struct sockaddr *)&at, &at_bytes) == 0,
         "listen");
    pid_t server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(0);
        SSL *ssl = connection_ssl(context(true), accept(listener, NULL, NULL), true);
        while (move_all(ssl, bytes, count, false))
            if (!streaming || bytes[0]) (void)move_all(ssl, bytes, streaming ? 1 : count, true);
        _exit(0);
    }
    pin(1);
    SSL *ssl = connection_ssl(context(false), dial(&at), false);
    if (streaming)
        measure_stream(ssl, bytes, count);
    else
        measure_latency(ssl, bytes, count);
    fflush(stdout);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}

/* ---- a run ----------------------------------------------------------------------------------- */

static void run(bool bulk)
{
    int clients = option.clients, rows = bulk ? option.rows : 1;
    int connections = bulk ? clients : option.connections;
    if (!bulk && clients > connections) clients = connections;
    size_t count = (size_t)rows * (size_t)option.hidden * sizeof(float);
    struct shared *s =
        mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_bytes = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(listener, 512) == 0 &&
             getsockname(listener, (struct sockaddr *)&at, &at_bytes) == 0,
         "listen");
    pid_t server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        SSL_CTX *ctx = context(true);
        bulk ? serve_threads(ctx, listener, connections, count)
             : serve_epoll(ctx, listener, connections, count);
    }
    close(listener);
    for (int i = 0; i < clients; i++) {
        if (fork() > 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        SSL_CTX *ctx = context(false);
        if (bulk) client_blocking(ctx, dial(&at), count, s);
        int share = connections / clients + (i < connections % clients), fd[4096];
        for (int j = 0; j < share; j++) fd[j] = dial(&at);
        client_epoll(ctx, fd, share, count, s);
    }
    while (s->ready < clients) {
        int status;
        must(waitpid(-1, &status, WNOHANG) == 0, "a process"); /* nobody may end yet */
        usleep(1000);
    }
    double start = now();
    s->go = 1;
    for (int i = 0, status; i < clients;) {
        pid_t ended = wait(&status);
        must(ended > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a process");
        i += ended != server;
    }
    double seconds = now() - start;
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    printf("{\"program\":\"raw_tls_echo\",\"mode\":\"%s\",\"clients\":%d,\"connections\":%d,"
           "\"rows\":%d,"
           "\"hidden\":%d,\"seconds\":%.3f,\"rows_per_second\":%.0f,\"calls_per_second\":%.1f}\n",
           bulk ? "bulk" : "single", clients, connections, rows, option.hidden, seconds,
           (double)s->calls * rows / seconds, (double)s->calls / seconds);
    fflush(stdout);
    munmap(s, sizeof *s);
}

static void usage(void)
{
    fprintf(stderr,
            "perf-raw_tls_echo [--mode bulk|single|both|latency|stream] [--clients 1..%d] "
            "[--connections 1..4096] [--rows N] [--hidden N] [--bytes N] [--seconds S]\n",
            CLIENTS_MAX);
    exit(2);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) usage();
        if (!strcmp(argv[i], "--mode"))
            option.mode = argv[i + 1];
        else if (!strcmp(argv[i], "--clients"))
            option.clients = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--connections"))
            option.connections = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--rows"))
            option.rows = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--hidden"))
            option.hidden = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--bytes"))
            option.bytes = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--seconds"))
            option.seconds = atof(argv[i + 1]);
        else
            usage();
    }
    bool both = !strcmp(option.mode, "both");
    bool pair = !strcmp(option.mode, "latency") || !strcmp(option.mode, "stream");
    if (option.clients < 1 || option.clients > CLIENTS_MAX || option.connections < 1 ||
        option.connections > 4096 || option.rows < 1 || option.hidden < 1 || option.bytes < 1 ||
        option.bytes > 1 << 30 || option.seconds <= 0 ||
        (!both && !pair && strcmp(option.mode, "bulk") && strcmp(option.mode, "single")))
        usage();
    signal(SIGPIPE, SIG_IGN);
    if (pair) run_pair(!strcmp(option.mode, "stream"));
    if (both || !strcmp(option.mode, "bulk")) run(true);
    if (both || !strcmp(option.mode, "single")) run(false);
    return 0;
}
