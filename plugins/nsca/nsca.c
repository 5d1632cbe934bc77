/* SPDX-License-Identifier: MIT */

/*
 * nsca: hands check results to a Nagios (or Icinga, Naemon, Shinken ...) by its NSCA daemon.
 *
 * Protocol 3 of NSCA. The server speaks first, 132 bytes: an initialisation vector (128) and its time (4).
 * The client answers with packets of 4304 bytes (720 before NSCA 2.9), encrypted with that vector and
 * a method that both sides are configured for, and closes. There is no acknowledgement; the one sign
 * of success is that the server, having read all, closes in an orderly way. So the results of a batch
 * share one connection and one fate: if it breaks, all of them are sent again. A check result that
 * arrives twice does no harm.
 *
 * A connection lives for one send(): some servers refuse packets whose time is older than 30 s.
 *
 * Libraries: libcrypto zlib
 */

#include "cipher.h"
#include "packet.h"
#include "tocsin/plugin.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    INIT_LEN = CIPHER_IV_LEN + 4, /* the vector and the server's time */
    BATCH_MAX = 1000,
    SLOW_RETRY_MS = 60000,  /* when the server needs another configuration */
    SEND_BUFFER = 64 << 10, /* bytes that the kernel may hold for us: what is written shows what the
                             * server has read */
};

/* ---- Options ------------------------------------------------------------------------------- */

struct nsca_service {
    const char *host;
    int64_t port;
    struct tocsin_secret password;
    const char *encryption;
    const char *packet;
    struct tocsin_duration connect_timeout;
    struct tocsin_duration timeout;
};

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(struct nsca_service, host, .flags = TOCSIN_OPTION_REQUIRED,
                  .help = "Name or address of the NSCA server."),
    TOCSIN_OPTION(struct nsca_service, port, .def = "5667", .min = 1, .max = 65535,
                  .help = "Its TCP port."),
    TOCSIN_OPTION(struct nsca_service, encryption, .flags = TOCSIN_OPTION_REQUIRED,
                  .help =
                      "Method, by number or name, the same as decryption_method of the server: "
                      "\"14\" (AES-256, the best one) or \"3\" (3DES), \"1\" (XOR), \"0\" (none); "
                      "2, 4 to 6, 8 to 11, 15, 16, 20, 23 and 26 need libmcrypt."),
    TOCSIN_OPTION(struct nsca_service, password, .def = "",
                  .help =
                      "Password, the same as that of the server. A wrong one is not reported: the "
                      "server drops the results, and says so in its own log only."),
    TOCSIN_OPTION(struct nsca_service, packet, .def = "full", .choices = "full|legacy",
                  .help =
                      "Size of the packets: \"full\" for 4095 bytes of output, \"legacy\" for 511, "
                      "which servers before NSCA 2.9 want, one connection for each result."),
    TOCSIN_OPTION(struct nsca_service, connect_timeout, .def = "5s", .min = 100, .max = 60000,
                  .help = "Longest wait for the connection."),
    TOCSIN_OPTION(
        struct nsca_service, timeout, .def = "10s", .min = 100, .max = 600000,
        .help = "Longest wait for the server's first packet, for it to take one of ours, and for "
                "it to close the connection at the end."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct nsca_target, check_host,
                  .flags = TOCSIN_OPTION_REQUIRED | TOCSIN_CLEAN_NAME,
                  .help = "Name of the host in Nagios; at most 63 bytes."),
    TOCSIN_OPTION(struct nsca_target, check_service, .flags = TOCSIN_CLEAN_NAME,
                  .help =
                      "Description of the service in Nagios, at most 127 bytes; without it, the "
                      "result is that of a host check."),
    TOCSIN_OPTION(
        struct nsca_target, output,
        .help = "What the check says; by default the text of the message, or its title if that "
                "is empty. Lines after the first are Nagios' long output."),
    TOCSIN_OPTION(struct nsca_target, state, .flags = TOCSIN_CLEAN_LINE,
                  .help =
                      "State instead of the route's severity: ok, warning, critical or unknown, "
                      "up, down or unreachable, or 0 to 3. Another text gives unknown."),
    TOCSIN_OPTION(struct nsca_target, perfdata, .flags = TOCSIN_CLEAN_LINE,
                  .help =
                      "Performance data, such as \"celsius={celsius};25;30\", put after the '|'."),
    TOCSIN_OPTION(struct nsca_target, perfdata_fields,
                  .help =
                      "Fields that become performance data, those that are numbers: \"celsius\", "
                      "or \"label=celsius\" for another label, or \"*\" for all."),
    { .name = NULL },
};

static const char *nsca_check(const void *ctx)
{
    const struct nsca_service *service = ctx;
    return cipher_check(service->encryption, service->password.text);
}

static unsigned nsca_wants(const void *service, const void *ctx)
{
    (void)service;
    const struct nsca_target *target = ctx;
    return target->perfdata_fields.count > 0 ? TOCSIN_WANTS_FIELDS : 0;
}

/* ---- The connection ------------------------------------------------------------------------ */

struct nsca {
    const struct tocsin_host *host;
    const struct nsca_service *service;
    struct cipher *cipher;
    size_t packet_len;
    int fd; /* -1 while not connected */
    uint8_t init[INIT_LEN];
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until the socket is ready for `events`. Returns 0, -ETIMEDOUT or a negative errno value. */
static int wait_for(int fd, short events, int64_t deadline_ms)
{
    for (;;) {
        int64_t left = deadline_ms - now_ms();
        struct pollfd p = { .fd = fd, .events = events };
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

static void disconnect(struct nsca *self)
{
    if (self->fd >= 0)
        close(self->fd);
    self->fd = -1;
}

static int connect_to(struct nsca *self, const struct addrinfo *a, int64_t deadline_ms)
{
    self->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (self->fd < 0)
        return -errno;
    int size = SEND_BUFFER;
    if (setsockopt(self->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) < 0)
        return -errno;
    if (connect(self->fd, a->ai_addr, a->ai_addrlen) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return -errno;
    int rc = wait_for(self->fd, POLLOUT, deadline_ms);
    int error = 0;
    socklen_t len = sizeof(error);
    if (rc == 0 && getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return -errno;
    return rc < 0 ? rc : -error;
}

/* Why a connection failed. */
struct failure {
    int error; /* 0 or a negative errno value */
    const char *what;
    int64_t retry_after_ms; /* 0: the router's own */
};

/* Reads the initialisation packet. */
static bool read_init(struct nsca *self, struct failure *failure)
{
    int64_t deadline_ms = now_ms() + self->service->timeout.ms;
    size_t len = 0;

    while (len < INIT_LEN) {
        int rc = wait_for(self->fd, POLLIN, deadline_ms);
        ssize_t n = rc == 0 ? recv(self->fd, self->init + len, INIT_LEN - len, 0) : 0;
        if (rc == 0 && n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (rc < 0 || n < 0) {
            *failure = (struct failure){ rc < 0 ? rc : -errno, "no initialisation packet", 0 };
            return false;
        }
        if (n == 0 && len == 0) {
            *failure = (struct failure){
                0,
                "server closed before the initialisation packet: it cannot open its "
                "decryption_method, "
                "or refuses this address",
                SLOW_RETRY_MS,
            };
            return false;
        }
        if (n == 0) {
            *failure = (struct failure){ -EPROTO, "server closed in its initialisation packet", 0 };
            return false;
        }
        len += (size_t)n;
    }
    return true;
}

static bool session_begin(struct nsca *self, struct failure *failure)
{
    const struct nsca_service *service = self->service;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
    struct addrinfo *list = NULL;
    char port[8];

    snprintf(port, sizeof(port), "%d", (int)service->port);
    int rc = getaddrinfo(service->host, port, &hints, &list);
    if (rc != 0) {
        *failure = (struct failure){ 0, gai_strerror(rc), 0 };
        return false;
    }
    int64_t deadline_ms = now_ms() + service->connect_timeout.ms;
    rc = -EHOSTUNREACH;
    for (const struct addrinfo *a = list; a && rc != 0; a = a->ai_next) {
        disconnect(self);
        rc = connect_to(self, a, deadline_ms);
    }
    freeaddrinfo(list);
    if (rc < 0) {
        *failure = (struct failure){ rc, "no connection", 0 };
        return false;
    }
    if (!read_init(self, failure))
        return false;
    rc = cipher_begin(self->cipher, self->init);
    if (rc < 0)
        *failure = (struct failure){ rc, "encryption cannot begin", SLOW_RETRY_MS };
    return rc == 0;
}

/* Encrypts one packet in place and writes it. */
static bool session_write(struct nsca *self, uint8_t *packet, struct failure *failure)
{
    int64_t deadline_ms = now_ms() + self->service->timeout.ms;
    int rc = cipher_apply(self->cipher, packet, self->packet_len);

    for (size_t done = 0; rc == 0 && done < self->packet_len;) {
        ssize_t n = send(self->fd, packet + done, self->packet_len - done, MSG_NOSIGNAL);
        if (n >= 0)
            done += (size_t)n;
        else if (errno == EAGAIN)
            rc = wait_for(self->fd, POLLOUT, deadline_ms);
        else if (errno != EINTR)
            rc = -errno;
    }
    if (rc < 0)
        *failure = (struct failure){ rc, "connection broke while sending", 0 };
    return rc == 0;
}

/* Says that no more will come, and waits for the server to have read all and close. */
static bool session_finish(struct nsca *self, struct failure *failure)
{
    int64_t deadline_ms = now_ms() + self->service->timeout.ms;
    int rc = shutdown(self->fd, SHUT_WR) < 0 ? -errno : 0;
    char byte;

    while (rc == 0) {
        rc = wait_for(self->fd, POLLIN, deadline_ms);
        ssize_t n = rc == 0 ? recv(self->fd, &byte, 1, 0) : -1;
        if (n == 0)
            return true;
        if (n > 0)
            rc = -EPROTO; /* an NSCA server has nothing more to say */
        else if (rc == 0 && errno != EINTR && errno != EAGAIN)
            rc = -errno;
    }
    *failure = (struct failure){ rc, "server did not take the results", 0 };
    return false;
}

static void session_end(struct nsca *self)
{
    cipher_end(self->cipher);
    disconnect(self);
}

/*
 * Sends deliveries by one connection. Returns how many the server has taken, or 0 and sets `failure`.
 * When sending takes long, it stops between two packets: the rest comes with the next connection, before the
 * server thinks the packets too old.
 */
static size_t session_run(struct nsca *self, struct tocsin_delivery *const *deliveries, size_t n,
                          struct failure *failure)
{
    uint8_t packet[PACKET_LEN];
    size_t written = 0;
    bool good = session_begin(self, failure);
    int64_t until_ms = now_ms() + self->service->timeout.ms;

    while (good && written < n && (written == 0 || now_ms() < until_ms)) {
        int rc =
            packet_fill(packet, self->packet_len, self->init + CIPHER_IV_LEN, deliveries[written]);
        if (rc < 0)
            *failure = (struct failure){ rc, "no random bytes", 0 };
        good = rc == 0 && session_write(self, packet, failure);
        written++;
    }
    good = good && session_finish(self, failure);
    session_end(self);
    return good ? written : 0;
}

/* ---- The plugin ---------------------------------------------------------------------------- */

static void nsca_close(void *ctx)
{
    struct nsca *self = ctx;

    disconnect(self);
    cipher_free(self->cipher);
    free(self);
}

static int nsca_open(const struct tocsin_host *host, const void *ctx, void **out)
{
    const struct nsca_service *service = ctx;
    bool legacy = strcmp(service->packet, "legacy") == 0;
    struct nsca *self = malloc(sizeof(*self));

    *out = NULL;
    if (!self)
        return -ENOMEM;
    *self = (struct nsca){
        .host = host,
        .service = service,
        .packet_len = legacy ? PACKET_LEGACY_LEN : PACKET_LEN,
        .fd = -1,
    };
    int rc = cipher_new(service->encryption, service->password.text, &self->cipher);
    if (rc < 0) {
        nsca_close(self);
        return rc;
    }
    *out = self;
    return 0;
}

static void nsca_send(void *ctx, struct tocsin_delivery *const *deliveries, size_t n)
{
    struct nsca *self = ctx;
    const size_t most = self->packet_len == PACKET_LEGACY_LEN ? 1 : BATCH_MAX;
    struct tocsin_delivery *sound[BATCH_MAX];
    size_t count = 0;

    for (size_t i = 0; i < n && i < BATCH_MAX; i++) {
        const struct nsca_target *target = deliveries[i]->target;
        const char *name = tocsin_rendered(deliveries[i], &target->check_host);
        if (!name || name[strspn(name, " ")] == '\0')
            self->host->fail(deliveries[i], TOCSIN_REJECT, 0, "check_host is empty");
        else
            sound[count++] = deliveries[i];
    }
    for (size_t done = 0; done < count;) {
        struct failure failure = { 0 };
        size_t share = count - done < most ? count - done : most;
        size_t taken = session_run(self, sound + done, share, &failure);
        for (size_t i = 0; i < taken; i++)
            sound[done + i]->verdict = TOCSIN_SENT;
        done += taken;
        if (taken > 0)
            continue;
        /* The others keep their preset: it is not for anything in them that they come again. */
        self->host->fail(sound[done], TOCSIN_RETRY, failure.error, "%s", failure.what);
        sound[done]->retry_after_ms = failure.retry_after_ms;
        sound[done]->park_ms = failure.retry_after_ms;
        return;
    }
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "nsca",
    .summary = "check results to Nagios and its kin, by their NSCA daemon",
    .service_options = service_options,
    .service_size = sizeof(struct nsca_service),
    .target_options = target_options,
    .target_size = sizeof(struct nsca_target),
    .max_batch = BATCH_MAX,
    .check = nsca_check,
    .wants = nsca_wants,
    .open = nsca_open,
    .send = nsca_send,
    .close = nsca_close,
};
