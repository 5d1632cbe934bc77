/* SPDX-License-Identifier: MIT */

/* What the parts of plugin-host share. One thread, but for the logs. */

#ifndef PLUGIN_HOST_TOOL_H
#define PLUGIN_HOST_TOOL_H

#include "tocsin/plugin.h"

#include <jansson.h>
#include <pthread.h>

/* Memory that is given back as a whole. */
struct block {
    struct block *next;
    max_align_t data[];
};

struct pool {
    struct block *first;
};

struct format_text {
    const struct tocsin_option *option;
    const char *text;
};

/* A target and the texts of its formats, by index. */
struct target {
    struct target *next;
    char *key; /* its options as JSON */
    void *config;
    struct format_text *formats;
    size_t format_count;
};

struct tool {
    struct tocsin_host host; /* first: the plugin's pointer to it is ours too */
    const struct tocsin_plugin *plugin;
    struct pool instance; /* what lives until "close" */
    struct pool request;  /* what lives until the answer */
    json_t *pins;         /* JSON that options point into: until "close" */
    json_t *request_pins; /* JSON that a message points into: until the answer */
    void *service;
    void *self;
    bool is_open;
    struct target *targets;
    unsigned next_id;
    json_t *publish_results;
    json_t *published;
    pthread_mutex_t lock; /* of logs: any thread may log */
    json_t *logs;
    char error[512]; /* why the request is wrong; "" while it is not */
};

/* `size` zeroed bytes that live until the pool is cleared. Without memory the tool ends. */
void *pool_alloc(struct pool *pool, size_t size);
void pool_clear(struct pool *pool);

/* Keeps the first error of a request. Returns false. */
bool wrong(struct tool *tool, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* JSON text of any bytes, and hex. */
json_t *text_new(const char *text);
json_t *hex_new(const uint8_t *data, size_t len);

/* Reads options by a table into the struct `into`, and formats into `formats` (room by format_room()).
 * Returns whether all was well, and sets `*format_count`. */
bool json_options_read(struct tool *tool, const struct tocsin_option *table, json_t *group,
                       void *into, struct format_text *formats, size_t *format_count);

/* Most formats that the options of `group` can make. */
size_t format_room(const struct tocsin_option *table, const json_t *group);

/* Takes a member out of a request, so that what is left over is unknown. `type` is JSON_STRING and such,
 * or -1 for a boolean. NULL if it is not there, or null, or wrong. It lives until the answer. */
json_t *take(struct tool *tool, json_t *object, const char *key, int type);
const char *take_text(struct tool *tool, json_t *object, const char *key, const char *def);
int64_t take_int(struct tool *tool, json_t *object, const char *key, int64_t def);
bool take_bool(struct tool *tool, json_t *object, const char *key);
bool nothing_left(struct tool *tool, json_t *object, const char *where);

/* The message of a delivery; it lives until the answer. */
const struct tocsin_message *message_read(struct tool *tool, json_t *json);

#endif
