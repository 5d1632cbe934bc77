/* SPDX-License-Identifier: MIT */

/* Loading a configuration: libconfig parses, its tree is copied into nodes of our own. Any thread. */

#include "config/conf.h"

#include "config/node.h"

#include <assert.h>
#include <errno.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX_BYTES (4 * 1024 * 1024)

struct conf {
    atomic_uint references;
    struct conf_node *root;
    char **files; /* names that nodes point to */
    size_t file_count;
};

void conf_errors_release(struct conf_errors *errors)
{
    buf_release(&errors->text);
    errors->count = 0;
}

/* One line per error, whatever bytes a value that is shown may have. */
static void add_visible(struct buf *out, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < ' ' || c == 0x7F)
            buf_addf(out, "\\x%02x", c);
        else
            buf_add_byte(out, *text);
    }
}

void conf_error(struct conf_errors *errors, const struct conf_node *node, const char *format, ...)
{
    struct buf line = BUF_INIT(256 * 1024), text = BUF_INIT(64 * 1024);
    if (node) {
        add_visible(&line, node->file);
        if (node->line > 0)
            buf_addf(&line, ":%u", node->line);
        buf_add_str(&line, ": ");
        conf_node_add_path(node, &line);
        if (node->parent)
            buf_add_str(&line, ": ");
    }
    va_list args;
    va_start(args, format);
    buf_vaddf(&text, format, args);
    va_end(args);
    add_visible(&line, buf_str(&text));
    buf_add_byte(&line, '\n');
    buf_add(&errors->text, buf_str(&line), line.len);
    buf_release(&text);
    buf_release(&line);
    errors->count++;
}

struct conf *conf_ref(struct conf *conf)
{
    atomic_fetch_add_explicit(&conf->references, 1, memory_order_relaxed);
    return conf;
}

void conf_unref(struct conf *conf)
{
    if (!conf || atomic_fetch_sub_explicit(&conf->references, 1, memory_order_acq_rel) > 1)
        return;
    node_free(conf->root);
    for (size_t i = 0; i < conf->file_count; i++)
        free(conf->files[i]);
    free(conf->files);
    free(conf);
}

const struct conf_node *conf_root(const struct conf *conf)
{
    return conf->root;
}

/* Keeps a copy of a file's name as long as the tree. NULL: no memory. */
static const char *keep_name(struct conf *conf, const char *name)
{
    char **files = realloc(conf->files, (conf->file_count + 1) * sizeof(*files));
    if (!files)
        return NULL;
    conf->files = files;
    files[conf->file_count] = strdup(name);
    return files[conf->file_count] ? files[conf->file_count++] : NULL;
}

static int copy_members(const config_setting_t *from, const char *file, struct conf_node *into);

static int copy_value(const config_setting_t *from, const char *file, struct conf_node *node)
{
    switch (config_setting_type(from)) {
    case CONFIG_TYPE_GROUP:
        node->type = CONF_GROUP;
        return copy_members(from, file, node);
    case CONFIG_TYPE_LIST:
    case CONFIG_TYPE_ARRAY:
        node->type = CONF_LIST;
        return copy_members(from, file, node);
    case CONFIG_TYPE_INT:
        node->type = CONF_INT;
        node->integer = config_setting_get_int(from);
        return 0;
    case CONFIG_TYPE_INT64:
        node->type = CONF_INT;
        node->integer = config_setting_get_int64(from);
        return 0;
    case CONFIG_TYPE_FLOAT:
        node->type = CONF_FLOAT;
        node->real = config_setting_get_float(from);
        return 0;
    case CONFIG_TYPE_BOOL:
        node->type = CONF_BOOL;
        node->boolean = config_setting_get_bool(from) != 0;
        return 0;
    default:
        node->type = CONF_STRING;
        node->string = strdup(config_setting_get_string(from));
        return node->string ? 0 : -ENOMEM;
    }
}

static int copy_members(const config_setting_t *from, const char *file, struct conf_node *into)
{
    int count = config_setting_length(from);
    for (int i = 0; i < count; i++) {
        const config_setting_t *setting = config_setting_get_elem(from, (unsigned)i);
        const char *name = config_setting_name(setting) ? config_setting_name(setting) : "";
        struct conf_node *node = node_new(CONF_BOOL, name, strlen(name), file, setting->line);
        if (!node)
            return -ENOMEM;
        int rc = node_append(into, node);
        if (rc < 0) {
            node_free(node);
            return rc;
        }
        rc = copy_value(setting, file, node);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int parse(const char *name, const char *text, struct conf_node *into,
                 struct conf_errors *errors)
{
    config_t config;
    config_init(&config);
    int rc;
    if (config_read_string(&config, text)) {
        rc = copy_members(config_root_setting(&config), name, into);
    } else {
        conf_error(errors, NULL, "%s:%d: %s", name, config_error_line(&config),
                   config_error_text(&config));
        rc = -EINVAL;
    }
    config_destroy(&config);
    return rc;
}

static int load(const char *name, const char *text, struct conf **out, struct conf_errors *errors)
{
    *out = NULL;
    struct conf *conf = calloc(1, sizeof(*conf));
    if (!conf)
        return -ENOMEM;
    conf->references = 1;
    const char *file = keep_name(conf, name);
    if (file)
        conf->root = node_new(CONF_GROUP, "", 0, file, 0);
    int rc = conf->root ? parse(file, text, conf->root, errors) : -ENOMEM;
    if (rc < 0)
        conf_unref(conf);
    else
        *out = conf;
    return rc;
}

int conf_load_text(const char *name, const char *text, struct conf **out,
                   struct conf_errors *errors)
{
    return load(name, text, out, errors);
}

int conf_load(const char *path, struct conf **out, struct conf_errors *errors)
{
    *out = NULL;
    FILE *file = fopen(path, "re");
    if (!file) {
        conf_error(errors, NULL, "%s: cannot be opened: %s", path, strerrordesc_np(errno));
        return -EINVAL;
    }
    struct buf text = BUF_INIT(FILE_MAX_BYTES);
    char *to;
    size_t n = 1;
    while (n > 0 && (to = buf_reserve(&text, 4096)) != NULL) {
        n = fread(to, 1, 4096, file);
        buf_commit(&text, n);
    }
    fclose(file);
    int rc = text.error;
    if (rc == -E2BIG) {
        conf_error(errors, NULL, "%s: is larger than 4 MiB", path);
        rc = -EINVAL;
    }
    if (rc == 0)
        rc = load(path, buf_str(&text), out, errors);
    buf_release(&text);
    return rc;
}
