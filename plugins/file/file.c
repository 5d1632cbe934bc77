/* SPDX-License-Identifier: MIT */

/*
 * file: messages as lines of files, or as whole files. What a batch holds for one file goes there in one
 * write; files stay open from batch to batch, at most so many, and are opened again when they have been
 * rotated away.
 */

#include "output.h"
#include "tocsin/plugin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BATCH_MAX = 512,
    NONE = BATCH_MAX, /* no delivery */
};

struct file_service {
    int64_t max_open_files;
    bool sync;
};

struct file_target {
    struct tocsin_format path;
    const char *mode;
    const char *newline;
    const char *permissions;
    bool mkdir;
};

/* A file that is known, open or not, and what the batch has for it. */
struct file {
    struct file *chain; /* next one in the bucket */
    char *path;
    uint64_t hash;
    int fd; /* -1: not open */
    dev_t device;
    ino_t inode;
    uint64_t used; /* number of the batch that used it last */

    size_t first, last, count; /* the batch's deliveries for it: indexes, linked by `next` */
    bool overwrite;
};

struct file_instance {
    const struct tocsin_host *host;
    const struct file_service *service;
    struct file *files; /* the first `count` of service->max_open_files */
    size_t count;
    struct file **buckets;
    size_t bucket_mask;
    uint64_t batch; /* number of this one */

    struct tocsin_delivery *const *deliveries; /* of this batch */
    size_t next[BATCH_MAX];
    struct piece pieces[BATCH_MAX];
};

static const struct tocsin_option service_options[] = {
    TOCSIN_OPTION(struct file_service, max_open_files, .def = "64", .min = 1, .max = 4096,
                  .help = "Files that are kept open; the one not used for longest is closed for "
                          "another."),
    TOCSIN_OPTION(struct file_service, sync, .def = "false",
                  .help = "Whether a message counts as written only when it is on the disk: safe "
                          "against loss of power, and slow."),
    { .name = NULL },
};

static const struct tocsin_option target_options[] = {
    TOCSIN_OPTION(struct file_target, path, .flags = TOCSIN_OPTION_REQUIRED | TOCSIN_CLEAN_PATH,
                  .help =
                      "The file, such as \"/var/log/rooms/{room}.log\". A field is one level of "
                      "it at most: '/' becomes '_'."),
    TOCSIN_OPTION(struct file_target, mode, .def = "append", .choices = "append|overwrite",
                  .help =
                      "\"append\" adds to the file, \"overwrite\" replaces its content, so that "
                      "a reader sees the old one or the new one."),
    TOCSIN_OPTION(struct file_target, newline, .def = "auto", .choices = "auto|always|never",
                  .help = "Whether a line feed goes behind each message; \"auto\" adds one to a "
                          "text that does not end with one."),
    TOCSIN_OPTION(struct file_target, permissions, .def = "0640",
                  .help = "Permissions of a file that is made, in octal digits."),
    TOCSIN_OPTION(struct file_target, mkdir, .def = "false",
                  .help = "Whether folders that are not there are made."),
    { .name = NULL },
};

static const char *file_check_target(const void *service, const void *target)
{
    (void)service;
    const char *octal = ((const struct file_target *)target)->permissions;
    size_t len = strlen(octal);
    if (len < 3 || len > 4 || strspn(octal, "01234567") != len || (len == 4 && octal[0] != '0'))
        return "permissions must be three octal digits, such as \"0640\"";
    return NULL;
}

/* ---- Files that are known ---- */

static uint64_t hash_path(const char *path)
{
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a */
    for (; *path; path++)
        hash = (hash ^ (unsigned char)*path) * 0x100000001B3u;
    return hash;
}

static struct file **bucket_of(const struct file_instance *self, uint64_t hash)
{
    return &self->buckets[(hash ^ hash >> 32) & self->bucket_mask];
}

static void close_file(struct file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

/* Makes a descriptor free for another file. Returns whether there was one to close. */
static bool close_oldest(struct file_instance *self)
{
    struct file *oldest = NULL;
    for (size_t i = 0; i < self->count; i++)
        if (self->files[i].fd >= 0 && (!oldest || self->files[i].used < oldest->used))
            oldest = &self->files[i];
    if (oldest)
        close_file(oldest);
    return oldest != NULL;
}

/* Forgets the file that was not used for longest, and returns its place. */
static struct file *evict(struct file_instance *self)
{
    struct file *oldest = &self->files[0];
    for (size_t i = 1; i < self->count; i++)
        if (self->files[i].used < oldest->used)
            oldest = &self->files[i];
    struct file **at = bucket_of(self, oldest->hash);
    while (*at != oldest)
        at = &(*at)->chain;
    *at = oldest->chain;
    close_file(oldest);
    free(oldest->path);
    return oldest;
}

static struct file *find_file(const struct file_instance *self, const char *path, uint64_t hash)
{
    struct file *file = *bucket_of(self, hash);
    while (file && (file->hash != hash || strcmp(file->path, path) != 0))
        file = file->chain;
    return file;
}

/* Adds a file that is not known yet; no file of this batch may be waiting if there is no place. */
static struct file *add_file(struct file_instance *self, const char *path, uint64_t hash)
{
    char *copy = strdup(path);
    if (!copy)
        return NULL;
    struct file *file = self->count < (size_t)self->service->max_open_files
                            ? &self->files[self->count++]
                            : evict(self);
    struct file **bucket = bucket_of(self, hash);
    file->path = copy;
    file->hash = hash;
    file->fd = -1;
    file->count = 0;
    file->chain = *bucket;
    *bucket = file;
    return file;
}

/* ---- Writing what waits for a file ---- */

static struct output_rules rules_of(const struct file_instance *self, const struct file_target *t)
{
    return (struct output_rules){
        .permissions = (mode_t)strtoul(t->permissions, NULL, 8),
        .mkdir = t->mkdir,
        .sync = self->service->sync,
    };
}

/* The text, or the payload as it came. A text that replaces a payload which is none is not written. */
static struct piece piece_of(const struct tocsin_delivery *d)
{
    const struct file_target *target = d->target;
    const struct tocsin_message *m = d->message;
    struct piece piece = { .data = m->text, .len = m->text_len };
    bool binary = false;
    if (m->text_is_payload) {
        piece = (struct piece){ .data = m->payload, .len = m->payload_len };
        binary = m->text_len != m->payload_len ||
                 (piece.len > 0 && memcmp(m->text, m->payload, piece.len) != 0);
    }
    if (strcmp(target->newline, "always") == 0)
        piece.newline = true;
    else if (strcmp(target->newline, "auto") == 0 && !binary)
        piece.newline = piece.len == 0 || ((const char *)piece.data)[piece.len - 1] != '\n';
    return piece;
}

/* The path names another file than the one that is open, or none: it was rotated away. */
static bool is_gone(const struct file *file)
{
    struct stat now;
    return stat(file->path, &now) < 0 || now.st_dev != file->device || now.st_ino != file->inode;
}

/* At a limit of the system, files that are kept open make room. */
static bool may_try_again(struct file_instance *self, int error)
{
    return (error == -EMFILE || error == -ENFILE) && close_oldest(self);
}

static int ensure_open(struct file_instance *self, struct file *file,
                       const struct output_rules *rules)
{
    if (file->fd >= 0 && is_gone(file))
        close_file(file);
    if (file->fd >= 0)
        return 0;
    int fd;
    do
        fd = output_open(file->path, rules);
    while (may_try_again(self, fd));
    struct stat opened;
    if (fd < 0)
        return fd;
    if (fstat(fd, &opened) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    file->fd = fd;
    file->device = opened.st_dev;
    file->inode = opened.st_ino;
    return 0;
}

/* Whether the same path will fail the same way for ever. */
static bool is_for_good(int error)
{
    return error == -ENAMETOOLONG || error == -EISDIR || error == -ELOOP || error == -EINVAL;
}

/* `done` of them are written. Of the others the first is told why; they all wait behind it. */
static void settle(struct file_instance *self, struct file *file, size_t done, int error)
{
    size_t i = file->first;
    for (size_t k = 0; k < file->count; k++, i = self->next[i]) {
        struct tocsin_delivery *d = self->deliveries[i];
        if (k < done)
            d->verdict = TOCSIN_SENT;
        else if (is_for_good(error))
            self->host->fail(d, TOCSIN_REJECT, error, "path=%s", file->path);
        else if (k == done)
            self->host->fail(d, TOCSIN_RETRY, error, "path=%s", file->path);
    }
    file->count = 0;
}

static void flush_file(struct file_instance *self, struct file *file)
{
    if (file->count == 0)
        return;
    size_t n = 0, done = 0;
    for (size_t i = file->first; n < file->count; i = self->next[i])
        self->pieces[n++] = piece_of(self->deliveries[i]);

    const struct output_rules rules = rules_of(self, self->deliveries[file->first]->target);
    int rc;
    if (file->overwrite) {
        /* Whoever looks sees the last one only, so the others need not be there for a moment. */
        close_file(file);
        do
            rc = output_replace(file->path, &self->pieces[n - 1], &rules);
        while (may_try_again(self, rc));
        done = rc == 0 ? n : 0;
    } else {
        rc = ensure_open(self, file, &rules);
        if (rc == 0)
            rc = output_append(file->fd, self->pieces, n, &rules, &done);
        if (rc < 0)
            close_file(file);
    }
    settle(self, file, done, rc);
}

static void flush_all(struct file_instance *self)
{
    for (size_t i = 0; i < self->count; i++)
        flush_file(self, &self->files[i]);
}

/* ---- The batch ---- */

static void put(struct file_instance *self, struct file *file, size_t index)
{
    if (file->count == 0)
        file->first = index;
    else
        self->next[file->last] = index;
    self->next[index] = NONE;
    file->last = index;
    file->count++;
    file->used = self->batch;
}

static void file_send(void *context, struct tocsin_delivery *const *deliveries, size_t n)
{
    struct file_instance *self = context;
    self->deliveries = deliveries;
    self->batch++;
    for (size_t i = 0; i < n; i++) {
        struct tocsin_delivery *d = deliveries[i];
        const struct file_target *target = d->target;
        const char *path = tocsin_rendered(d, &target->path);
        bool overwrite = strcmp(target->mode, "overwrite") == 0;
        if (!path || !*path) {
            self->host->fail(d, TOCSIN_REJECT, 0, "the path is empty");
            continue;
        }
        uint64_t hash = hash_path(path);
        struct file *file = find_file(self, path, hash);
        if (!file && self->count == (size_t)self->service->max_open_files)
            flush_all(self); /* one of them will have to go */
        if (!file)
            file = add_file(self, path, hash);
        if (!file) {
            self->host->fail(d, TOCSIN_RETRY, -ENOMEM, "path=%s", path);
            break;
        }
        if (file->count > 0 && file->overwrite != overwrite)
            flush_file(self, file);
        file->overwrite = overwrite;
        put(self, file, i);
    }
    flush_all(self);
}

static void file_reopen(void *context)
{
    struct file_instance *self = context;
    for (size_t i = 0; i < self->count; i++)
        close_file(&self->files[i]);
}

static void file_close(void *context)
{
    struct file_instance *self = context;
    for (size_t i = 0; i < self->count; i++) {
        close_file(&self->files[i]);
        free(self->files[i].path);
    }
    free(self->files);
    free(self->buckets);
    free(self);
}

static int file_open(const struct tocsin_host *host, const void *service, void **out)
{
    const struct file_service *config = service;
    struct file_instance *self = calloc(1, sizeof(*self));
    if (!self)
        return -ENOMEM;
    self->host = host;
    self->service = config;
    size_t buckets = 16;
    while (buckets < 2 * (size_t)config->max_open_files)
        buckets *= 2;
    self->bucket_mask = buckets - 1;
    self->files = calloc((size_t)config->max_open_files, sizeof(*self->files));
    self->buckets = calloc(buckets, sizeof(struct file *));
    if (!self->files || !self->buckets) {
        file_close(self);
        return -ENOMEM;
    }
    *out = self;
    return 0;
}

const struct tocsin_plugin tocsin_plugin = {
    .abi = TOCSIN_PLUGIN_ABI,
    .struct_size = sizeof(struct tocsin_plugin),
    .option_size = sizeof(struct tocsin_option),
    .name = "file",
    .summary = "lines added to files, or whole files",
    .service_options = service_options,
    .service_size = sizeof(struct file_service),
    .target_options = target_options,
    .target_size = sizeof(struct file_target),
    .max_batch = BATCH_MAX,
    .max_workers = 1,
    .check_target = file_check_target,
    .open = file_open,
    .send = file_send,
    .reopen = file_reopen,
    .close = file_close,
};
