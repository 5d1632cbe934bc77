/* SPDX-License-Identifier: MIT */

/* Plugins: found, loaded, and checked before anything in them is used. Main thread. */

#include "base/nearest.h"
#include "config/options.h"
#include "delivery/services.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUFFIX ".so"

/* A name is also a file name: nothing but [a-z][a-z0-9_]*. */
static bool name_is_valid(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return name[0] >= 'a' && name[0] <= 'z' && name[len] == '\0' && len <= 64;
}

/* ---- Tables ---- */

static size_t field_size(enum tocsin_option_type type)
{
    switch (type) {
    case TOCSIN_OPT_BOOL:
        return sizeof(bool);
    case TOCSIN_OPT_INT:
        return sizeof(int64_t);
    case TOCSIN_OPT_FLOAT:
        return sizeof(double);
    case TOCSIN_OPT_STRING:
        return sizeof(const char *);
    case TOCSIN_OPT_SECRET:
        return sizeof(struct tocsin_secret);
    case TOCSIN_OPT_DURATION:
        return sizeof(struct tocsin_duration);
    case TOCSIN_OPT_SIZE:
        return sizeof(struct tocsin_size);
    case TOCSIN_OPT_LIST:
        return sizeof(struct tocsin_list);
    case TOCSIN_OPT_FORMAT:
        return sizeof(struct tocsin_format);
    case TOCSIN_OPT_FORMATS:
        return sizeof(struct tocsin_formats);
    case TOCSIN_OPT_TREE:
        return sizeof(const struct tocsin_node *);
    }
    return 0;
}

static bool table_has(const struct tocsin_option *table, const struct tocsin_option *end,
                      const char *name)
{
    for (; table && table != end && table->name; table++)
        if (strcmp(table->name, name) == 0)
            return true;
    return false;
}

static int check_table(const struct tocsin_option *table, size_t struct_size,
                       const struct tocsin_option *core, bool of_target, struct buf *why)
{
    for (const struct tocsin_option *o = table; o && o->name; o++) {
        size_t size = field_size(o->type);
        bool is_format = o->type == TOCSIN_OPT_FORMAT || o->type == TOCSIN_OPT_FORMATS;
        const char *wrong = NULL;
        if (o->name[0] == '\0' || !o->help || o->help[0] == '\0')
            wrong = "has no name or no help text";
        else if (size == 0)
            wrong = "has a type that is not known";
        else if (o->offset > struct_size || size > struct_size - o->offset)
            wrong = "lies outside its struct";
        else if (is_format && !of_target)
            wrong = "is a format, which only targets can have";
        else if (table_has(table, o, o->name) || table_has(core, NULL, o->name))
            wrong = "stands there twice, or is an option of every service already";
        else if ((o->flags & TOCSIN_OPTION_LINK) && o->type != TOCSIN_OPT_STRING)
            wrong = "names a link, but is not a string";
        if (wrong) {
            buf_addf(why, "its option '%s' %s", o->name, wrong);
            return -EINVAL;
        }
        if (!options_default_valid(o, why))
            return -EINVAL;
    }
    return 0;
}

/* Nothing but `abi` is read before it is known to be ours. */
static int check_plugin(const struct tocsin_plugin *plugin, const char *name, struct buf *why)
{
    if (plugin->abi != TOCSIN_PLUGIN_ABI) {
        buf_addf(why, "it is made for plugin ABI %u, and this program has %u: build it again",
                 (unsigned)plugin->abi, (unsigned)TOCSIN_PLUGIN_ABI);
        return -EINVAL;
    }
    if (plugin->struct_size < sizeof(struct tocsin_plugin) ||
        plugin->option_size != sizeof(struct tocsin_option)) {
        buf_add_str(why, "its tables have another size than this program's: build it again");
        return -EINVAL;
    }
    if (!plugin->name || strcmp(plugin->name, name) != 0) {
        buf_addf(why, "it calls itself '%s'", plugin->name ? plugin->name : "");
        return -EINVAL;
    }
    if (!plugin->summary || !plugin->open || !plugin->send || !plugin->close) {
        buf_add_str(why, "it has no summary, open(), send() or close()");
        return -EINVAL;
    }
    int rc = check_table(plugin->service_options, plugin->service_size, service_core_options, false,
                         why);
    if (rc == 0)
        rc = check_table(plugin->target_options, plugin->target_size, target_core_options, true,
                         why);
    return rc;
}

/* ---- Loading ---- */

static void say_unknown(const char *dir, const char *name, struct buf *why)
{
    buf_addf(why, "there is no plugin '%s' in %s", name, dir);
    char **names = plugin_names(dir);
    struct nearest nearest = { .wrong = name };
    for (size_t i = 0; names && names[i]; i++)
        nearest_try(&nearest, names[i]);
    if (nearest.best)
        buf_addf(why, ", did you mean '%s'?", nearest.best);
    else if (names && names[0]) {
        buf_add_str(why, ", known are:");
        for (size_t i = 0; names[i]; i++)
            buf_addf(why, "%s %s", i ? "," : "", names[i]);
    }
    plugin_names_free(names);
}

int plugin_load(const char *dir, const char *name, const struct tocsin_plugin **out,
                struct buf *why)
{
    *out = NULL;
    if (!name_is_valid(name)) {
        buf_addf(why, "'%s' is not a plugin's name: write small letters, digits and '_'", name);
        return -EINVAL;
    }
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof(path), "%s/%s" SUFFIX, dir, name) >= sizeof(path)) {
        buf_add_str(why, "the path of the plugins is too long");
        return -EINVAL;
    }
    if (access(path, F_OK) < 0) {
        say_unknown(dir, name, why);
        return -ENOENT;
    }
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        buf_addf(why, "cannot be loaded: %s", dlerror());
        return -EINVAL;
    }
    const struct tocsin_plugin *plugin = dlsym(handle, "tocsin_plugin");
    if (!plugin) {
        buf_addf(why, "%s is not a plugin of tocsin", path);
        dlclose(handle);
        return -EINVAL;
    }
    size_t len = why->len;
    int rc = check_plugin(plugin, name, why);
    if (rc < 0) {
        struct buf reason = BUF_INIT(4096);
        buf_add_str(&reason, buf_str(why) + len);
        buf_cut(why, len);
        buf_addf(why, "%s cannot be used: %s", path, buf_str(&reason));
        buf_release(&reason);
        dlclose(handle);
        return rc;
    }
    *out = plugin; /* stays loaded */
    return 0;
}

/* ---- Names ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **plugin_names(const char *dir)
{
    size_t count = 0, cap = 16;
    char **names = calloc(cap, sizeof(*names));
    DIR *folder = names ? opendir(dir) : NULL;
    if (!folder)
        return names;
    const struct dirent *entry;
    while ((entry = readdir(folder))) {
        size_t len = strlen(entry->d_name);
        if (len <= strlen(SUFFIX) || strcmp(entry->d_name + len - strlen(SUFFIX), SUFFIX) != 0)
            continue;
        if (count + 2 > cap) {
            char **more = realloc(names, 2 * cap * sizeof(*names));
            if (!more)
                break;
            names = more;
            cap *= 2;
        }
        char *name = strndup(entry->d_name, len - strlen(SUFFIX));
        if (!name)
            break;
        if (name_is_valid(name)) {
            names[count++] = name;
            names[count] = NULL;
        } else {
            free(name);
        }
    }
    closedir(folder);
    qsort(names, count, sizeof(*names), compare_names);
    return names;
}

void plugin_names_free(char **names)
{
    for (size_t i = 0; names && names[i]; i++)
        free(names[i]);
    free(names);
}
