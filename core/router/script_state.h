/* SPDX-License-Identifier: MIT */

/*
 * What the parts of script.h share: the state and its limits (script_limits.c), values on their way
 * into Lua and back (script_value.c), the functions offered (script_lib.c), words for errors
 * (script_error.c). Nobody else includes this, except templates and fuzz targets for a few functions.
 *
 * Functions that take a lua_State raise Lua errors and so must run below lua_pcall().
 */

#ifndef TOCSIN_ROUTER_SCRIPT_STATE_H
#define TOCSIN_ROUTER_SCRIPT_STATE_H

#include "router/script.h"
#include "router/script_match.h"
#include "router/script_simple.h"

#include <lua.h>
#include <stdbool.h>

#define SCRIPT_MAX_TEXT (64 * 1024)    /* bytes of an expression */
#define SCRIPT_MAX_FILE (1024 * 1024)  /* bytes of a user's file */
#define SCRIPT_CHUNK    "[expression]" /* what Lua calls an expression; replaced in errors */

/* Which limit has ended the run; it also keeps pcall from swallowing that end. */
enum script_end {
    SCRIPT_END_NONE,
    SCRIPT_END_INSTRUCTIONS,
    SCRIPT_END_MEMORY,
    SCRIPT_END_TIME,
};

/* Things kept in Lua's registry, under their numbers here and above Lua's own. */
enum script_slot {
    SCRIPT_SLOT_FIRST = LUA_RIDX_LAST,
    SCRIPT_SLOT_BUILTIN,    /* the functions offered */
    SCRIPT_SLOT_USER,       /* the globals of the user's files */
    SCRIPT_SLOT_EXPRESSION, /* _ENV of an expression */
    SCRIPT_SLOT_FILE,       /* _ENV of a user's file */
    SCRIPT_SLOT_MESSAGE,    /* what a route's function is given */
    SCRIPT_SLOT_ARRAY,      /* metatables: of a JSON array */
    SCRIPT_SLOT_OBJECT,     /* of a JSON object */
    SCRIPT_SLOT_LIST,       /* of a table that counts from 0 */
    SCRIPT_SLOT_NEXT        /* the first of the expressions */
};

/* What errors call it. */
struct script_name {
    const char *text;
    int lines; /* of an expression; with one, the line is not named. Else 0 */
};

struct script_expression {
    struct script_name name; /* text: its own */
    int slot;                /* in Lua's registry */
    struct simple *simple;   /* NULL: ask Lua */
    bool may_loop;           /* it has functions of its own */
    uint32_t cost;           /* instructions that a run without functions has at most, about */
};

struct script {
    lua_State *lua;
    struct script_limits limits;
    size_t used; /* bytes of memory that the state has */

    /* The run that is going on. */
    bool running;
    bool watched;   /* instructions are counted */
    bool loading;   /* it is a user's file: globals may be set */
    bool no_memory; /* malloc() has failed, not a limit */
    enum script_end end;
    int step;             /* instructions between two looks at the limits */
    int64_t left;         /* instructions that it may still take */
    int64_t cpu_start_ns; /* 0: not yet looked at */
    int64_t cpu_limit_ns; /* of one run */
    const struct fields *fields;
    uint64_t generation; /* counts runs: JSON values of earlier ones are dead */
    char missing[64];    /* the last name that was looked for in vain, cut to fit */
    bool absent;         /* it failed because it went into something that is not there */

    uint64_t made;  /* bytes that results have taken in arenas, ever */
    uint64_t spent; /* instructions, and what counts as such, of all runs */
    bool has_files; /* users' functions may be called */
    struct script_expression *expressions;
    size_t expression_count, expression_capacity;
    struct regexes regexes;
    struct buf text; /* for texts on their way; here, since a Lua error would leak another */
};

static inline struct script *script_of(lua_State *lua)
{
    return *(struct script **)lua_getextraspace(lua);
}

/* ---- script_limits.c ---- */

lua_State *script_lua_new(struct script *script);

/* Every run is between these two. Instructions are counted only where there may be loops, in functions:
 * looking at each one makes Lua slower by half. */
void script_begin(struct script *script, const struct fields *fields, bool may_loop);
void script_end(struct script *script);

/* Takes `work` off the instructions of the run; ends it with an error when there are none left. */
void script_charge(lua_State *lua, size_t work);

/* Whether the run has taken too much of the processor's time: the last resort against single steps
 * that are slow (two texts of 30 MB compared), which instructions do not measure. */
bool script_is_late(struct script *script);

int script_pcall(lua_State *lua); /* pcall, which does not catch the end of a run */

/* ---- script_value.c ---- */

/* Registers the metatables. */
void script_value_open(lua_State *lua);

/* The field of that name, on the stack; nil if there is none. */
int script_field_index(lua_State *lua);

void script_push(lua_State *lua, const struct value *value);

/* Is it a JSON value? Others than those can't be userdata here. */
bool script_is_json(lua_State *lua, int index);

/* Makes the table on top of the stack one that counts from 0. */
void script_set_list(lua_State *lua);

/* Adds what is at `index` as JSON to script->text, or raises an error. */
void script_add_json(lua_State *lua, int index);

/* What is at `index`, which is no table. It points into Lua. */
struct value script_plain(lua_State *lua, int index);

/* What is at `index`, made to live in the arena: text is copied, a table becomes a document. */
struct value script_take(lua_State *lua, int index, struct fields_arena *arena);

/* The same for each member of the table at `index`, sorted by name. Returns how many there are. */
size_t script_take_members(lua_State *lua, int index, struct fields_arena *arena,
                           struct field_set *set, size_t max);

/* pairs() and so on for JSON values and lists. */
int script_ipairs(lua_State *lua);
int script_type(lua_State *lua);
int script_tostring(lua_State *lua);

/* ---- script_lib.c ---- */

/* A number rounded, half away from zero to a whole one (which is VALUE_INT if it fits); with digits, as
 * printf() does its decimal form. */
struct value script_round(const struct value *number, int64_t digits);

/* Makes the sandbox: all that is offered, and nothing else. */
int script_lib_open(lua_State *lua);

/* ---- script_error.c ---- */

/*
 * Adds why a run has failed to `why`: `name`, and the error on top of the stack in words. Returns the
 * error for it: -EINVAL, or -ENOMEM.
 */
int script_explain(struct script *script, int status, const struct script_name *name,
                   struct buf *why);

/* The same for an error of compiling. */
int script_explain_syntax(struct script *script, int status, const struct script_name *name,
                          struct buf *why);

/* ---- script.c, for templates and fuzz targets ---- */

/* Whether the name is that of a function, ours or the user's, which goes before fields. */
bool script_name_is_taken(const struct script *script, const char *name);

/* Appends a file's bytes to `text`. Returns 0, or the error of opening or reading, -EINVAL (it is larger
 * than the buffer's limit), with a sentence about it added to `why`, or -ENOMEM. */
int script_read_file(const char *path, struct buf *text, struct buf *why);

int script_load_text(struct script *script, const char *name, const char *text, size_t len,
                     struct buf *why);

#endif
