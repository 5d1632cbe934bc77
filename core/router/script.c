/* SPDX-License-Identifier: MIT */

/* The script state: compiles expressions and users' files, and runs them. On its shard's thread. */

#include "router/script_state.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INSTRUCTIONS 1000000
#define MEMORY       (64 * 1024 * 1024)
#define TEXT_MAX     (16 * 1024 * 1024) /* bytes of JSON that a table may become */
#define CPU_NS       1000000000
#define MEMORY_LEAST (256 * 1024) /* less does not hold the functions offered */

struct script *script_new(const struct script_limits *limits)
{
    struct script *script = calloc(1, sizeof(*script));
    if (!script)
        return NULL;
    script->limits = (struct script_limits){ .instructions = INSTRUCTIONS, .memory = MEMORY };
    script->cpu_limit_ns = CPU_NS;
    if (limits) {
        if (limits->instructions > 0 && limits->instructions < INT64_MAX / 16)
            script->limits.instructions = limits->instructions;
        if (limits->memory > 0)
            script->limits.memory = limits->memory < MEMORY_LEAST ? MEMORY_LEAST : limits->memory;
    }
    buf_init(&script->text,
             script->limits.memory < TEXT_MAX ? (size_t)script->limits.memory : TEXT_MAX);
    script->lua = script_lua_new(script);
    if (script->lua) {
        lua_pushcfunction(script->lua, script_lib_open);
        if (lua_pcall(script->lua, 0, 0, 0) == LUA_OK) {
            script_end(script);
            return script;
        }
    }
    script_free(script);
    return NULL;
}

void script_free(struct script *script)
{
    if (!script)
        return;
    if (script->lua)
        lua_close(script->lua);
    for (size_t i = 0; i < script->expression_count; i++) {
        free((char *)script->expressions[i].name.text);
        simple_free(script->expressions[i].simple);
    }
    free(script->expressions);
    regexes_release(&script->regexes);
    buf_release(&script->text);
    free(script);
}

/* ---- Names ---- */

/* Not by lua_getfield(), which may want memory for the name. */
static bool has_name(const struct script *script, enum script_slot slot, const char *name)
{
    lua_State *lua = script->lua;
    int top = lua_gettop(lua);
    bool found = false;
    lua_rawgeti(lua, LUA_REGISTRYINDEX, slot);
    lua_pushnil(lua);
    while (!found && lua_next(lua, -2)) {
        found = strcmp(lua_tostring(lua, -2), name) == 0;
        lua_pop(lua, 1);
    }
    lua_settop(lua, top);
    return found;
}

bool script_name_is_taken(const struct script *script, const char *name)
{
    return has_name(script, SCRIPT_SLOT_BUILTIN, name) || has_name(script, SCRIPT_SLOT_USER, name);
}

/* ---- Compiling ---- */

/* Gives Lua a text in pieces. */
struct pieces {
    const char *text[3];
    size_t len[3];
    size_t next;
};

static const char *next_piece(lua_State *lua, void *context, size_t *len)
{
    (void)lua;
    struct pieces *pieces = context;
    if (pieces->next == 3)
        return NULL;
    *len = pieces->len[pieces->next];
    return pieces->text[pieces->next++];
}

static int load(lua_State *lua, const char *before, const char *text, size_t len, const char *after)
{
    struct pieces pieces = {
        .text = { before, text, after },
        .len = { strlen(before), len, strlen(after) },
    };
    return lua_load(lua, next_piece, &pieces, "=" SCRIPT_CHUNK, "t");
}

/*
 * Leaves the function on the stack, or an error. As "return TEXT" it may be several values, as
 * "return (TEXT)" it may close the parenthesis itself: what can be read in both ways is one expression.
 */
static int load_expression(lua_State *lua, const char *text, size_t len)
{
    int status = load(lua, "return ", text, len, "\n");
    if (status != LUA_OK)
        return status;
    lua_pop(lua, 1);
    return load(lua, "return (", text, len, "\n)");
}

struct compilation {
    const char *text;
    size_t len;
    int slot;
    int status;
};

static int compile(lua_State *lua)
{
    struct compilation *job = lua_touserdata(lua, 1);
    job->status = load_expression(lua, job->text, job->len);
    if (job->status != LUA_OK)
        return lua_error(lua);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_EXPRESSION);
    lua_setupvalue(lua, -2, 1); /* _ENV */
    lua_rawseti(lua, LUA_REGISTRYINDEX, job->slot);
    return 0;
}

static int reserve_expression(struct script *script)
{
    if (script->expression_count < script->expression_capacity)
        return 0;
    size_t capacity = script->expression_capacity ? script->expression_capacity * 2 : 16;
    struct script_expression *grown =
        realloc(script->expressions, capacity * sizeof(*script->expressions));
    if (!grown || capacity > INT_MAX / 2)
        return -ENOMEM;
    script->expressions = grown;
    script->expression_capacity = capacity;
    return 0;
}

static bool is_blank(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!strchr(" \t\r\n", text[i]) || text[i] == '\0')
            return false;
    return true;
}

static int count_lines(const char *text, size_t len)
{
    int lines = 1;
    for (size_t i = 0; i < len; i++)
        lines += text[i] == '\n';
    return lines;
}

static bool is_taken(const char *name, void *context)
{
    return script_name_is_taken(context, name);
}

static bool is_builtin(const char *name, void *context)
{
    return has_name(context, SCRIPT_SLOT_BUILTIN, name);
}

static int check_names(struct script *script, const char *name, const char *text, size_t len,
                       struct buf *why)
{
    struct buf words = BUF_INIT(1000);
    int rc = simple_check(text, len, is_builtin, script, &words);
    if (rc < 0)
        buf_addf(why, "%s: %s", name, buf_str(&words));
    buf_release(&words);
    return rc;
}

int script_compile(struct script *script, const char *name, const char *text, size_t len, int *id,
                   struct buf *why)
{
    *id = -1;
    if (is_blank(text, len) || len > SCRIPT_MAX_TEXT) {
        if (len > SCRIPT_MAX_TEXT)
            buf_addf(why, "%s: it has more than %d bytes", name, SCRIPT_MAX_TEXT);
        else
            buf_addf(why, "%s: it is empty", name);
        return -EINVAL;
    }
    struct script_name called = { .text = name, .lines = count_lines(text, len) };
    char *copy = strdup(name);
    if (!copy || reserve_expression(script) < 0) {
        free(copy);
        return -ENOMEM;
    }
    size_t index = script->expression_count;
    struct compilation job = { .text = text, .len = len, .slot = SCRIPT_SLOT_NEXT + (int)index };
    script_begin(script, NULL, false);
    lua_pushcfunction(script->lua, compile);
    lua_pushlightuserdata(script->lua, &job);
    int status = lua_pcall(script->lua, 1, 0, 0), rc = 0;
    if (status == LUA_OK)
        rc = check_names(script, name, text, len, why);
    if (status == LUA_OK && rc == 0) {
        called.text = copy;
        script->expressions[index] = (struct script_expression){
            .name = called,
            .slot = job.slot,
            .simple = simple_new(text, len, is_taken, script),
            .may_loop = memmem(text, len, "function", strlen("function")) != NULL,
            .cost = (uint32_t)(len / 4),
        };
        script->expression_count++;
        *id = (int)index;
        copy = NULL;
    } else if (status != LUA_OK) {
        if (job.status != LUA_OK)
            status = job.status; /* raised again in compile(), it has become a common error */
        rc = script_explain_syntax(script, status, &called, why);
    }
    script_end(script);
    free(copy);
    return rc;
}

/* ---- Users' files ---- */

struct file {
    const char *name; /* for Lua: "@PATH" */
    const char *text;
    size_t len;
};

static int run_file(lua_State *lua)
{
    const struct file *file = lua_touserdata(lua, 1);
    if (luaL_loadbufferx(lua, file->text, file->len, file->name, "t") != LUA_OK)
        return lua_error(lua);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_FILE);
    lua_setupvalue(lua, -2, 1); /* _ENV */
    lua_call(lua, 0, 0);
    return 0;
}

/* A field may be hidden by a new global now. */
static void drop_simple(struct script *script)
{
    for (size_t i = 0; i < script->expression_count; i++) {
        struct simple **simple = &script->expressions[i].simple;
        if (*simple && !simple_is_valid(*simple, is_taken, script)) {
            simple_free(*simple);
            *simple = NULL;
        }
    }
}

int script_load_text(struct script *script, const char *name, const char *text, size_t len,
                     struct buf *why)
{
    struct buf chunk = BUF_INIT(4096);
    buf_addf(&chunk, "@%s", name);
    struct file file = { .name = buf_str(&chunk), .text = text, .len = len };
    script_begin(script, NULL, true);
    script->loading = true;
    script->has_files = true;
    lua_pushcfunction(script->lua, run_file);
    lua_pushlightuserdata(script->lua, &file);
    int status = lua_pcall(script->lua, 1, 0, 0);
    int rc = status == LUA_OK
                 ? 0
                 : script_explain(script, status, &(struct script_name){ name, 0 }, why);
    script_end(script);
    buf_release(&chunk);
    drop_simple(script);
    return rc;
}

int script_load(struct script *script, const char *path, struct buf *why)
{
    struct buf text = BUF_INIT(SCRIPT_MAX_FILE);
    int rc = script_read_file(path, &text, why);
    if (rc == 0)
        rc = script_load_text(script, path, text.data ? text.data : "", text.len, why);
    buf_release(&text);
    return rc;
}

int script_read_file(const char *path, struct buf *text, struct buf *why)
{
    /* Non-blocking, so that a FIFO nobody writes to cannot hang a check or a reload. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
    int rc = file ? 0 : -errno;
    if (!file && fd >= 0)
        close(fd);
    for (bool more = file != NULL; more && rc == 0;) {
        char chunk[4096];
        errno = 0;
        size_t n = fread(chunk, 1, sizeof(chunk), file);
        more = n == sizeof(chunk);
        rc = ferror(file) ? -(errno ? errno : EIO) : buf_add(text, chunk, n);
    }
    if (file)
        fclose(file);
    if (rc == -E2BIG) {
        buf_addf(why, "%s: the file has more than %zu bytes", path, text->max);
        rc = -EINVAL;
    } else if (rc < 0 && rc != -ENOMEM) {
        buf_addf(why, "%s: %s", path, strerrordesc_np(-rc));
    }
    return rc;
}

bool script_has_function(const struct script *script, const char *name)
{
    lua_State *lua = script->lua;
    bool found = false;
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_USER);
    /* Not by lua_getfield(), which may want memory for the name. */
    lua_pushnil(lua);
    while (!found && lua_next(lua, -2)) {
        found = lua_isfunction(lua, -1) && strcmp(lua_tostring(lua, -2), name) == 0;
        lua_pop(lua, 1);
    }
    lua_settop(lua, 0);
    return found;
}

void script_each_function(const struct script *script,
                          void (*visit)(const char *name, void *context), void *context)
{
    lua_State *lua = script->lua;
    int top = lua_gettop(lua);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_USER);
    lua_pushnil(lua);
    while (lua_next(lua, -2)) {
        if (lua_isfunction(lua, -1))
            visit(lua_tostring(lua, -2), context);
        lua_pop(lua, 1);
    }
    lua_settop(lua, top);
}

/* ---- Running ---- */

struct run {
    const struct fields *fields;
    struct value result;

    /* Of a function that is called: */
    const char *function;
    struct field_set *set;
    size_t max, count;
    bool stop;
};

static int take(lua_State *lua)
{
    struct run *run = lua_touserdata(lua, 2);
    run->result = script_take(lua, 1, run->fields->arena);
    return 0;
}

/* The result on the stack. What can fail in Lua is done below lua_pcall(), the rest is quicker here. */
static int take_result(struct script *script, struct run *run)
{
    lua_State *lua = script->lua;
    switch (lua_type(lua, 1)) {
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TNUMBER:
        run->result = script_plain(lua, 1);
        return LUA_OK;
    default:
        lua_pushcfunction(lua, take);
        lua_insert(lua, 1);
        lua_pushlightuserdata(lua, run);
        return lua_pcall(lua, 2, 0, 0);
    }
}

int script_run(struct script *script, int id, const struct fields *fields, struct value *result,
               struct buf *why)
{
    assert(id >= 0 && (size_t)id < script->expression_count);
    const struct script_expression *expression = &script->expressions[id];
    if (expression->simple && simple_run(expression->simple, fields, result)) {
        script->spent += expression->cost;
        return 0;
    }
    struct run run = { .fields = fields, .result = VALUE_NOTHING };
    script_begin(script, fields, expression->may_loop);
    lua_rawgeti(script->lua, LUA_REGISTRYINDEX, expression->slot);
    int status = lua_pcall(script->lua, 0, 1, 0), rc = 0;
    if (status == LUA_OK)
        status = take_result(script, &run);
    if (status != LUA_OK) {
        run.result = VALUE_NOTHING;
        rc = script_explain(script, status, &expression->name, why);
    }
    script->spent += expression->cost;
    script_end(script);
    *result = run.result;
    return rc;
}

static int call_function(lua_State *lua)
{
    struct run *run = lua_touserdata(lua, 1);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_USER);
    lua_pushstring(lua, run->function);
    if (lua_rawget(lua, 2) != LUA_TFUNCTION)
        return luaL_error(lua, "there is no function of that name");
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_MESSAGE);
    lua_call(lua, 1, 1);

    switch (lua_type(lua, 3)) {
    case LUA_TNIL:
        return 0;
    case LUA_TBOOLEAN:
        run->stop = !lua_toboolean(lua, 3);
        return 0;
    case LUA_TTABLE:
        run->count = script_take_members(lua, 3, run->fields->arena, run->set, run->max);
        return 0;
    default:
        return luaL_error(lua, "a table, true, false or nil must be returned, not a %s",
                          luaL_typename(lua, 3));
    }
}

int script_call(struct script *script, const char *function, const struct fields *fields,
                struct field_set *set, size_t max, size_t *count, bool *stop, struct buf *why)
{
    struct run run = { .fields = fields, .function = function, .set = set, .max = max };
    char name[80];
    snprintf(name, sizeof(name), "function %s", function);
    script_begin(script, fields, true);
    lua_pushcfunction(script->lua, call_function);
    lua_pushlightuserdata(script->lua, &run);
    int status = lua_pcall(script->lua, 1, 0, 0), rc = 0;
    if (status != LUA_OK) {
        run.count = 0;
        run.stop = false;
        rc = script_explain(script, status, &(struct script_name){ name, 0 }, why);
    }
    script_end(script);
    *count = run.count;
    *stop = run.stop;
    return rc;
}
