/* SPDX-License-Identifier: MIT */

#include "link/connector.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FREE_WAIT_MS 200

struct connector {
    atomic_uint refs; /* one of the thread, one of the owner */
    pthread_t thread;
    atomic_bool done; /* written last by the thread, after all below */
    struct mosquitto *mosq;
    char *host;
    uint16_t port;
    int keepalive;
    mosquitto_property *properties;
    char *key_password;
    int wake_fd;
    int result;
    char why[200];
};

static void unref(struct connector *c)
{
    if (atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    if (c->mosq)
        mosquitto_destroy(c->mosq);
    mosquitto_property_free_all(&c->properties);
    if (c->key_password)
        explicit_bzero(c->key_password, strlen(c->key_password));
    free(c->key_password);
    free(c->host);
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    free(c);
}

void connector_keep_error(char *why, size_t size, int level, const char *text)
{
    static const char head[] = "Error: ";
    if (level != MOSQ_LOG_ERR || why[0] != '\0')
        return;
    if (strncmp(text, head, sizeof(head) - 1) == 0)
        text += sizeof(head) - 1;
    snprintf(why, size, "%s", text);
}

static void keep_error(struct mosquitto *mosq, void *context, int level, const char *text)
{
    (void)mosq;
    struct connector *c = context;
    connector_keep_error(c->why, sizeof(c->why), level, text);
}

int connector_key_password(char *text, int size, int rwflag, void *mosq)
{
    (void)rwflag;
    const struct connector *c = mosquitto_userdata(mosq);
    size_t len = c->key_password ? strlen(c->key_password) : 0;
    if (len == 0 || size < 0 || len > (size_t)size)
        return 0;
    memcpy(text, c->key_password, len);
    return (int)len;
}

static int explain(struct connector *c, int rc, int error)
{
    char text[120] = "";
    switch (rc) {
    case MOSQ_ERR_SUCCESS:
        return 0;
    case MOSQ_ERR_EAI: /* `error` is getaddrinfo()'s */
        snprintf(c->why, sizeof(c->why), "cannot resolve the name: %s", gai_strerror(error));
        return -ENOENT;
    case MOSQ_ERR_ERRNO:
        snprintf(c->why, sizeof(c->why), "cannot connect: %s",
                 strerror_r(error, text, sizeof(text)));
        return error > 0 ? -error : -EIO;
    case MOSQ_ERR_NOMEM:
        snprintf(c->why, sizeof(c->why), "out of memory");
        return -ENOMEM;
    default:
        if (c->why[0] == '\0')
            snprintf(c->why, sizeof(c->why), "cannot connect: %s", mosquitto_strerror(rc));
        return -EIO;
    }
}

static void *run(void *context)
{
    struct connector *c = context;
    errno = 0;
    int rc =
        mosquitto_connect_bind_v5(c->mosq, c->host, c->port, c->keepalive, NULL, c->properties);
    c->result = explain(c, rc, errno);
    atomic_store(&c->done, true);
    eventfd_write(c->wake_fd, 1);
    unref(c);
    return NULL;
}

static int start(struct connector *c)
{
    atomic_fetch_add(&c->refs, 1);
    int rc = pthread_create(&c->thread, NULL, run, c);
    if (rc != 0)
        atomic_fetch_sub(&c->refs, 1);
    return -rc;
}

void connector_free(struct connector *c)
{
    if (!c)
        return;
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += FREE_WAIT_MS * 1000000;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    if (connector_done(c))
        pthread_join(c->thread, NULL);
    else if (pthread_timedjoin_np(c->thread, NULL, &end) != 0)
        pthread_detach(c->thread);
    unref(c);
}

int connector_new(const struct connector_job *job, struct connector **out)
{
    *out = NULL;
    struct connector *c = calloc(1, sizeof(*c));
    if (!c) {
        mosquitto_destroy(job->mosq);
        return -ENOMEM;
    }
    atomic_init(&c->refs, 1);
    c->mosq = job->mosq;
    c->port = job->port;
    c->keepalive = job->keepalive;
    c->host = strdup(job->host);
    c->key_password = job->key_password ? strdup(job->key_password) : NULL;
    c->wake_fd = fcntl(job->wake_fd, F_DUPFD_CLOEXEC, 0);
    int rc = 0;
    if (c->wake_fd < 0)
        rc = -errno;
    else if (!c->host || (job->key_password && !c->key_password) ||
             mosquitto_property_copy_all(&c->properties, job->properties) != MOSQ_ERR_SUCCESS)
        rc = -ENOMEM;
    if (rc == 0) {
        mosquitto_user_data_set(c->mosq, c);
        mosquitto_log_callback_set(c->mosq, keep_error);
        rc = start(c);
    }
    if (rc < 0)
        unref(c);
    else
        *out = c;
    return rc;
}

bool connector_done(struct connector *c)
{
    return atomic_load(&c->done);
}

int connector_take(struct connector *c, struct mosquitto **mosq, char *why, size_t size)
{
    *mosq = NULL;
    snprintf(why, size, "%s", c->why);
    if (c->result == 0) {
        *mosq = c->mosq;
        c->mosq = NULL;
        mosquitto_log_callback_set(*mosq, NULL);
    }
    return c->result;
}

/* ---- TLS ----------------------------------------------------------------------------------------- */

/* The only way to make the library do it is a connection that gets as far as TLS: one to ourselves. */
static void prepare_tls(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(address);
    struct mosquitto *mosq = mosquitto_new(NULL, true, NULL);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (mosq && fd >= 0 && bind(fd, (struct sockaddr *)&address, len) == 0 && listen(fd, 1) == 0 &&
        getsockname(fd, (struct sockaddr *)&address, &len) == 0 &&
        mosquitto_int_option(mosq, MOSQ_OPT_TLS_USE_OS_CERTS, 1) == MOSQ_ERR_SUCCESS) {
        mosquitto_threaded_set(mosq, true);
        mosquitto_connect(mosq, "127.0.0.1", ntohs(address.sin_port), 60);
    }
    if (fd >= 0)
        close(fd);
    mosquitto_destroy(mosq);
}

void connector_prepare_tls(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare_tls);
}
