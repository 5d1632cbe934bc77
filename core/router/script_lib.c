/* SPDX-License-Identifier: MIT */

/* The functions that expressions and users' files may call. On the thread of the script state. */

#include "router/script_state.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES_PER_STEP 64 /* of text looked at that count as one instruction */

/* A text argument whose length is charged for. */
static const char *text_arg(lua_State *lua, int index, size_t *len)
{
    const char *text = luaL_checklstring(lua, index, len);
    script_charge(lua, *len / BYTES_PER_STEP);
    return text;
}

static int lib_contains(lua_State *lua)
{
    size_t len, part_len;
    const char *text = text_arg(lua, 1, &len), *part = text_arg(lua, 2, &part_len);
    lua_pushboolean(lua, memmem(text, len, part, part_len) != NULL);
    return 1;
}

static int lib_starts_with(lua_State *lua)
{
    size_t len, part_len;
    const char *text = text_arg(lua, 1, &len), *part = text_arg(lua, 2, &part_len);
    lua_pushboolean(lua, part_len <= len && memcmp(text, part, part_len) == 0);
    return 1;
}

static int lib_ends_with(lua_State *lua)
{
    size_t len, part_len;
    const char *text = text_arg(lua, 1, &len), *part = text_arg(lua, 2, &part_len);
    lua_pushboolean(lua, part_len <= len && memcmp(text + len - part_len, part, part_len) == 0);
    return 1;
}

static int lib_glob(lua_State *lua)
{
    size_t len, pattern_len;
    const char *text = text_arg(lua, 1, &len), *pattern = text_arg(lua, 2, &pattern_len);
    struct script *script = script_of(lua);
    int64_t steps = script->left * 8;
    int rc = glob_match(pattern, pattern_len, text, len, &steps);
    script->left = steps / 8;
    if (rc < 0) {
        script->left = 0;
        script_charge(lua, 1);
    }
    lua_pushboolean(lua, rc);
    return 1;
}

static bool is_late(void *context)
{
    return script_is_late(context);
}

static int lib_regex(lua_State *lua)
{
    size_t len, pattern_len;
    const char *text = text_arg(lua, 1, &len), *pattern = text_arg(lua, 2, &pattern_len);
    struct script *script = script_of(lua);
    script_charge(lua, len / 4 + 10);
    buf_clear(&script->text);
    int rc = regex_match(&script->regexes, pattern, pattern_len, text, len, is_late, script,
                         &script->text);
    if (rc == -ENOMEM)
        return luaL_error(lua, "out of memory");
    if (rc < 0)
        return luaL_error(lua, "regex: %s", buf_str(&script->text));
    lua_pushboolean(lua, rc);
    return 1;
}

struct value script_round(const struct value *number, int64_t digits)
{
    if (number->type == VALUE_INT && digits >= 0)
        return *number;
    double x = number->type == VALUE_INT ? (double)number->u.integer : number->u.number;
    if (digits > 0) {
        char text[512]; /* 309 digits before the point */
        if (digits <= 20 && isfinite(x)) {
            snprintf(text, sizeof(text), "%.*f", (int)digits, x);
            x = strtod(text, NULL);
        }
        return (struct value){ .type = VALUE_FLOAT, .u.number = x };
    }
    if (digits < 0) {
        double unit = pow(10, -(double)digits);
        x = isfinite(unit) ? round(x / unit) * unit : 0;
    } else {
        x = round(x);
    }
    lua_Integer integer;
    if (lua_numbertointeger(x, &integer))
        return VALUE_OF_INT(integer);
    return (struct value){ .type = VALUE_FLOAT, .u.number = x };
}

static int lib_round(lua_State *lua)
{
    struct value number = { .type = VALUE_FLOAT };
    if (lua_isinteger(lua, 1))
        number = VALUE_OF_INT(lua_tointeger(lua, 1));
    else
        number.u.number = luaL_checknumber(lua, 1);
    number = script_round(&number, luaL_optinteger(lua, 2, 0));
    script_push(lua, &number);
    return 1;
}

static int lib_tojson(lua_State *lua)
{
    struct buf *text = &script_of(lua)->text;
    luaL_checkany(lua, 1);
    buf_clear(text);
    script_add_json(lua, 1);
    lua_pushlstring(lua, buf_str(text), text->len);
    buf_clear(text);
    return 1;
}

static int lib_split(lua_State *lua)
{
    size_t len, separator_len;
    const char *text = text_arg(lua, 1, &len), *separator = text_arg(lua, 2, &separator_len);
    if (separator_len == 0)
        return luaL_error(lua, "split: the separator is empty");
    lua_newtable(lua);
    lua_Integer count = 0;
    for (const char *end = text + len;;) {
        const char *at = memmem(text, (size_t)(end - text), separator, separator_len);
        lua_pushlstring(lua, text, (size_t)((at ? at : end) - text));
        lua_rawseti(lua, -2, count++);
        script_charge(lua, 1);
        if (!at)
            break;
        text = at + separator_len;
    }
    script_set_list(lua);
    return 1;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int lib_trim(lua_State *lua)
{
    size_t len;
    const char *text = text_arg(lua, 1, &len);
    while (len > 0 && is_blank(text[len - 1]))
        len--;
    while (len > 0 && is_blank(*text)) {
        text++;
        len--;
    }
    lua_pushlstring(lua, text, len);
    return 1;
}

static int lib_replace(lua_State *lua)
{
    size_t len, from_len, to_len;
    const char *text = text_arg(lua, 1, &len), *from = text_arg(lua, 2, &from_len),
               *to = text_arg(lua, 3, &to_len);
    if (from_len == 0)
        return luaL_error(lua, "replace: the text to replace is empty");
    luaL_Buffer out;
    luaL_buffinit(lua, &out);
    for (const char *end = text + len;;) {
        const char *at = memmem(text, (size_t)(end - text), from, from_len);
        luaL_addlstring(&out, text, (size_t)((at ? at : end) - text));
        if (!at)
            break;
        luaL_addlstring(&out, to, to_len);
        script_charge(lua, 1 + to_len / BYTES_PER_STEP);
        text = at + from_len;
    }
    luaL_pushresult(&out);
    return 1;
}

/* ---- What may not be done ---- */

static int set_in_library(lua_State *lua)
{
    return luaL_error(lua, "'%s' can't be set here", luaL_tolstring(lua, 2, NULL));
}

static int set_in_expression(lua_State *lua)
{
    return luaL_error(lua, "an expression can't set '%s'", luaL_tolstring(lua, 2, NULL));
}

/*
 * A global of a user's file goes before fields, so it may only be set while the file is read: one that a
 * function forgot to call local would hide the field of that name from all expressions.
 */
static int set_in_file(lua_State *lua)
{
    size_t len;
    const char *name = luaL_checklstring(lua, 2, &len);
    if (!script_of(lua)->loading)
        return luaL_error(lua, "a function can't set the global '%s': write local %s", name, name);
    if (fields_name_is_fixed(name, len))
        return luaL_error(lua, "'%s' is the name of a field: choose another", name);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_BUILTIN);
    lua_pushvalue(lua, 2);
    if (lua_rawget(lua, -2) != LUA_TNIL)
        return luaL_error(lua, "'%s' is a function already: choose another name", name);
    lua_settop(lua, 3);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_USER);
    lua_insert(lua, 2);
    lua_rawset(lua, 2);
    return 0;
}

/* The fields of the message as a table of their own, to go through. */
static void copy_fixed(const char *name, void *context)
{
    lua_State *lua = context;
    const struct fields *fields = script_of(lua)->fields;
    struct value value = fields_get_name(fields, name, strlen(name));
    script_push(lua, &value);
    lua_setfield(lua, -2, name);
}

static int message_pairs(lua_State *lua)
{
    const struct fields *fields = script_of(lua)->fields;
    if (!fields)
        return luaL_error(lua, "there is no message now");
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_BUILTIN);
    lua_getfield(lua, -1, "next");
    lua_newtable(lua);
    /* What is looked at first is set last. */
    if (fields->decoded.type == VALUE_OBJECT) {
        const struct json_doc *doc = fields->decoded.u.json.doc;
        for (uint32_t node = json_first(doc, fields->decoded.u.json.node); node != JSON_NONE;
             node = json_next(doc, node)) {
            struct value name = json_name(doc, node), value = json_value(doc, node);
            script_push(lua, &name);
            script_push(lua, &value);
            lua_rawset(lua, -3);
            script_charge(lua, 4);
        }
    } else {
        copy_fixed("value", lua);
    }
    for (size_t i = 0; i < fields->set_count; i++) {
        script_push(lua, &fields->set[i].value);
        lua_setfield(lua, -2, fields->set[i].name);
    }
    for (size_t i = fields->level_count; i-- > 0;) {
        lua_pushlstring(lua, fields->levels[i].text, fields->levels[i].len);
        lua_setfield(lua, -2, fields->levels[i].name);
    }
    fields_each_fixed_name(copy_fixed, lua);
    return 2;
}

/* ---- Opening ---- */

/* Copies the named members of the table at `from` to the one on top of the stack. */
static void copy_members(lua_State *lua, int from, const char *const *names)
{
    for (; *names; names++) {
        lua_getfield(lua, from, *names);
        lua_setfield(lua, -2, *names);
    }
}

/* Gives the table on top of the stack a metatable: __index is what is at `index` (0: none), and
 * `newindex`. */
static void set_access(lua_State *lua, int index, lua_CFunction newindex)
{
    lua_newtable(lua);
    if (index) {
        lua_pushvalue(lua, index);
        lua_setfield(lua, -2, "__index");
    }
    if (newindex) {
        lua_pushcfunction(lua, newindex);
        lua_setfield(lua, -2, "__newindex");
    }
    lua_setmetatable(lua, -2);
}

/* Takes a part of a library, as a table that can't be changed, into the table at `to`. */
static void open_part(lua_State *lua, int to, const char *name, lua_CFunction open,
                      const char *const *names)
{
    lua_pushcfunction(lua, open);
    lua_call(lua, 0, 1);
    int library = lua_gettop(lua);
    lua_newtable(lua);
    copy_members(lua, library, names);
    if (open == luaopen_string) {
        /* Strings have methods by a metatable that luaopen_string() has made: they are cut too. */
        lua_pushliteral(lua, "");
        lua_getmetatable(lua, -1);
        lua_pushvalue(lua, library + 1);
        lua_setfield(lua, -2, "__index");
        lua_pop(lua, 2);
    }
    lua_newtable(lua);
    set_access(lua, library + 1, set_in_library);
    lua_setfield(lua, to, name);
    lua_settop(lua, library - 1);
}

static void open_builtin(lua_State *lua)
{
    static const char *const base[] = { "assert", "error",    "next", "pairs",
                                        "select", "tonumber", NULL };
    static const char *const math[] = {
        "abs",  "acos", "asin", "atan", "ceil",       "cos",  "deg",        "exp",  "floor",
        "fmod", "huge", "log",  "max",  "maxinteger", "min",  "mininteger", "modf", "pi",
        "rad",  "sin",  "sqrt", "tan",  "tointeger",  "type", "ult",        NULL
    };
    static const char *const string[] = { "byte", "char",    "format", "len",   "lower",
                                          "rep",  "reverse", "sub",    "upper", NULL };
    static const luaL_Reg own[] = {
        { "contains", lib_contains },
        { "starts_with", lib_starts_with },
        { "ends_with", lib_ends_with },
        { "glob", lib_glob },
        { "regex", lib_regex },
        { "round", lib_round },
        { "tojson", lib_tojson },
        { "split", lib_split },
        { "trim", lib_trim },
        { "replace", lib_replace },
        { "ipairs", script_ipairs },
        { "pcall", script_pcall },
        { "tostring", script_tostring },
        { "type", script_type },
        { NULL, NULL },
    };
    lua_newtable(lua);
    int builtin = lua_gettop(lua);
    luaL_setfuncs(lua, own, 0);

    /* luaopen_base() writes to Lua's globals, which no chunk of ours has: they go. */
    lua_pushcfunction(lua, luaopen_base);
    lua_call(lua, 0, 1);
    lua_pushvalue(lua, builtin);
    copy_members(lua, builtin + 1, base);
    lua_settop(lua, builtin);
    lua_newtable(lua);
    lua_rawseti(lua, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);

    open_part(lua, builtin, "math", luaopen_math, math);
    open_part(lua, builtin, "string", luaopen_string, string);
}

int script_lib_open(lua_State *lua)
{
    /* A name is looked for among our functions, the user's, the fields. */
    open_builtin(lua);
    int builtin = lua_gettop(lua);
    lua_newtable(lua);
    int user = lua_gettop(lua);
    lua_pushcfunction(lua, script_field_index);
    int field = lua_gettop(lua);

    lua_pushvalue(lua, user);
    set_access(lua, field, NULL);
    lua_rawseti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_USER);
    lua_pushvalue(lua, builtin);
    set_access(lua, user, NULL);
    lua_rawseti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_BUILTIN);

    /* These stay empty, so that each access goes through the metatable. */
    lua_newtable(lua);
    set_access(lua, builtin, set_in_expression);
    lua_rawseti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_EXPRESSION);
    lua_newtable(lua);
    set_access(lua, builtin, set_in_file);
    lua_rawseti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_FILE);
    lua_newtable(lua);
    set_access(lua, field, set_in_library);
    lua_getmetatable(lua, -1);
    lua_pushcfunction(lua, message_pairs);
    lua_setfield(lua, -2, "__pairs");
    lua_pop(lua, 1);
    lua_rawseti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_MESSAGE);

    script_value_open(lua);
    return 0;
}
