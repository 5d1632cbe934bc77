/* SPDX-License-Identifier: MIT */

/* Loading a configuration: libconfig parses, its tree is copied into nodes of our own. Any thread. */

#include "config/conf.h"

#include "base/utf8.h"
#include "config/node.h"
#include "config/replace.h"
#include "config/scan.h"
#include "config/source.h"

#include <dirent.h>
#include <errno.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct conf {
    atomic_uint references;
    struct conf_node *root;
    struct file_names names; /* that nodes point to */
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

static void error_line(struct conf_errors *errors, const char *file, unsigned line,
                       const char *path, const char *text)
{
    struct buf out = BUF_INIT(256 * 1024);
    if (file) {
        add_visible(&out, file);
        if (line > 0)
            buf_addf(&out, ":%u", line);
        buf_add_str(&out, ": ");
    }
    buf_addf(&out, "%s%s", path, *path ? ": " : "");
    add_visible(&out, text);
    buf_add_byte(&out, '\n');
    buf_add(&errors->text, buf_str(&out), out.len);
    buf_release(&out);
    errors->count++;
}

void conf_error_at(struct conf_errors *errors, const char *file, unsigned line, const char *path,
                   const char *format, ...)
{
    struct buf text = BUF_INIT(64 * 1024);
    va_list args;
    va_start(args, format);
    buf_vaddf(&text, format, args);
    va_end(args);
    error_line(errors, file, line, path, buf_str(&text));
    buf_release(&text);
}

void conf_error(struct conf_errors *errors, const struct conf_node *node, const char *format, ...)
{
    struct buf path = BUF_INIT(64 * 1024), text = BUF_INIT(64 * 1024);
    if (node)
        conf_node_add_path(node, &path);
    va_list args;
    va_start(args, format);
    buf_vaddf(&text, format, args);
    va_end(args);
    error_line(errors, node ? node->file : NULL, node ? node->line : 0, buf_str(&path),
               buf_str(&text));
    buf_release(&path);
    buf_release(&text);
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
    file_names_release(&conf->names);
    free(conf);
}

const struct conf_node *conf_root(const struct conf *conf)
{
    return conf->root;
}

/* ---- One file ------------------------------------------------------------------------------------ */

/* What a file is copied with. */
struct copying {
    const struct source *source;
    struct conf_errors *errors;
    bool wrong;
};

static int copy_members(struct copying *c, const config_setting_t *from, struct conf_node *into);

/* Takes a string, with what stands for something else replaced. */
static int copy_string(struct copying *c, const char *from, struct conf_node *node)
{
    struct buf text = BUF_INIT(REPLACE_MAX_BYTES), why = BUF_INIT(16 * 1024);
    int rc = replace(from, node->file, &text, &node->secret, &why);
    if (rc == 0 && !utf8_valid(buf_str(&text), text.len)) {
        buf_add_str(&why, "is not valid UTF-8");
        rc = -EINVAL;
    }
    if (rc == -EINVAL) {
        conf_error(c->errors, node, "%s", buf_str(&why));
        c->wrong = true;
        rc = 0;
    }
    node->string = rc == 0 ? strdup(buf_str(&text)) : NULL;
    if (node->secret && text.data)
        explicit_bzero(text.data, text.len);
    buf_release(&text);
    buf_release(&why);
    return node->string ? 0 : -ENOMEM;
}

static int copy_value(struct copying *c, const config_setting_t *from, struct conf_node *node)
{
    switch (config_setting_type(from)) {
    case CONFIG_TYPE_GROUP:
        node->type = CONF_GROUP;
        return copy_members(c, from, node);
    case CONFIG_TYPE_LIST:
    case CONFIG_TYPE_ARRAY:
        node->type = CONF_LIST;
        return copy_members(c, from, node);
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
        return copy_string(c, config_setting_get_string(from), node);
    }
}

/* The scan has seen to it that this goes no deeper than SCAN_MAX_NESTED. */
static int copy_members(struct copying *c, const config_setting_t *from, struct conf_node *into)
{
    int count = config_setting_length(from);
    for (int i = 0; i < count; i++) {
        const config_setting_t *setting = config_setting_get_elem(from, (unsigned)i);
        const char *name = config_setting_name(setting) ? config_setting_name(setting) : "";
        struct conf_node *node =
            node_new(CONF_BOOL, name, strlen(name), source_file(c->source, setting->line),
                     source_line(c->source, setting->line));
        int rc = node ? node_append(into, node) : -ENOMEM;
        if (rc < 0) {
            node_free(node);
            return rc;
        }
        rc = copy_value(c, setting, node);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int parse(const struct source *source, struct conf_node *into, struct conf_errors *errors)
{
    int rc = scan(source, errors);
    if (rc < 0)
        return rc;
    config_t config;
    config_init(&config);
    if (config_read_string(&config, buf_str(&source->text))) {
        struct copying c = { .source = source, .errors = errors };
        rc = copy_members(&c, config_root_setting(&config), into);
        if (rc == 0 && c.wrong)
            rc = -EINVAL;
    } else {
        unsigned line = (unsigned)config_error_line(&config);
        conf_error_at(errors, source_file(source, line), source_line(source, line), "", "%s",
                      config_error_text(&config));
        rc = -EINVAL;
    }
    config_destroy(&config);
    return rc;
}

/* Reads one file (`text` NULL) or text, and merges it into the tree. */
static int load_one(struct conf *conf, const char *path, const char *text,
                    struct conf_errors *errors)
{
    struct source source;
    source_init(&source);
    struct conf_node *tree = NULL;
    int rc = text ? source_read_text(&source, &conf->names, path, text, errors)
                  : source_read(&source, &conf->names, path, errors);
    if (rc < 0)
        goto out;
    tree = node_new(CONF_GROUP, "", 0, source_file(&source, 1), 0);
    rc = tree ? parse(&source, tree, errors) : -ENOMEM;
    if (rc < 0)
        goto out;
    if (conf->root) {
        rc = node_merge(conf->root, tree, errors);
    } else {
        conf->root = tree;
        tree = NULL;
    }
out:
    node_free(tree);
    source_release(&source);
    return rc;
}

/* ---- The file and its folder --------------------------------------------------------------------- */

static int is_conf(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name);
    return entry->d_name[0] != '.' && len > 5 && strcmp(entry->d_name + len - 5, ".conf") == 0;
}

/* By bytes: the order must not depend on the language. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Reads PATH's conf.d/NAME.conf one after the other. */
static int load_folder(struct conf *conf, const char *path, struct conf_errors *errors)
{
    struct buf folder = BUF_INIT(SOURCE_MAX_BYTES);
    path_beside(&folder, path, "conf.d", strlen("conf.d"));
    struct dirent **entries = NULL;
    int n = folder.error ? 0 : scandir(buf_str(&folder), &entries, is_conf, by_name);
    int result = folder.error;
    if (n < 0 && errno != ENOENT && errno != ENOTDIR) {
        conf_error_at(errors, buf_str(&folder), 0, "", "cannot be read: %s",
                      strerrordesc_np(errno));
        result = -EINVAL;
    }
    buf_add_byte(&folder, '/');
    size_t len = folder.len;
    for (int i = 0; i < n; i++) {
        buf_cut(&folder, len);
        int rc = buf_add_str(&folder, entries[i]->d_name);
        if (rc == 0)
            rc = load_one(conf, buf_str(&folder), NULL, errors);
        if (rc < 0 && result != -ENOMEM)
            result = rc;
        free(entries[i]);
    }
    free(entries);
    buf_release(&folder);
    return result;
}

static int load(const char *path, const char *text, struct conf **out, struct conf_errors *errors)
{
    *out = NULL;
    struct conf *conf = calloc(1, sizeof(*conf));
    if (!conf)
        return -ENOMEM;
    conf->references = 1;
    int rc = load_one(conf, path, text, errors);
    if (!text && rc != -ENOMEM) {
        int folder_rc = load_folder(conf, path, errors);
        if (folder_rc < 0)
            rc = folder_rc;
    }
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
    return load(path, NULL, out, errors);
}
