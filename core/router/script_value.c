/* SPDX-License-Identifier: MIT */

/*
 * Values on their way into Lua and back. A JSON array or object is not copied but shown through a
 * userdata that knows its place in the document. On the thread of the script state.
 */

#include "router/script_state.h"

#include <assert.h>
#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 60   /* nested tables in a result; documents may have 64 */
#define DOC_BYTES 1024 /* what a small document takes, about */

struct json_view {
    uint64_t generation; /* of the run that it belongs to */
    const struct json_doc *doc;
    uint32_t node;
    bool is_array;
    /* The element that was asked for last: going through by index must not start over each time. */
    int64_t last_index; /* -1: none */
    uint32_t last_node;
};

static void note_missing(struct script *script, const char *name, size_t len)
{
    if (len >= sizeof(script->missing))
        len = sizeof(script->missing) - 1;
    memcpy(script->missing, name, len);
    script->missing[len] = '\0';
}

static void push_json(lua_State *lua, const struct value *value)
{
    struct json_view *view = lua_newuserdatauv(lua, sizeof(*view), 0);
    bool is_array = value->type == VALUE_ARRAY;
    *view = (struct json_view){
        .generation = script_of(lua)->generation,
        .doc = value->u.json.doc,
        .node = value->u.json.node,
        .is_array = is_array,
        .last_index = -1,
    };
    lua_rawgeti(lua, LUA_REGISTRYINDEX, is_array ? SCRIPT_SLOT_ARRAY : SCRIPT_SLOT_OBJECT);
    lua_setmetatable(lua, -2);
}

void script_push(lua_State *lua, const struct value *value)
{
    switch (value->type) {
    case VALUE_NONE:
    case VALUE_NULL:
        lua_pushnil(lua);
        break;
    case VALUE_BOOL:
        lua_pushboolean(lua, value->u.boolean);
        break;
    case VALUE_INT:
        lua_pushinteger(lua, value->u.integer);
        break;
    case VALUE_FLOAT:
        lua_pushnumber(lua, value->u.number);
        break;
    case VALUE_STRING:
        lua_pushlstring(lua, value->u.string.text, value->u.string.len);
        break;
    case VALUE_ARRAY:
    case VALUE_OBJECT:
        push_json(lua, value);
        break;
    }
}

int script_field_index(lua_State *lua)
{
    struct script *script = script_of(lua);
    if (lua_type(lua, 2) != LUA_TSTRING || !script->fields)
        return 0;
    size_t len;
    const char *name = lua_tolstring(lua, 2, &len);
    struct value value = fields_get_name(script->fields, name, len);
    if (value.type == VALUE_NONE || value.type == VALUE_NULL)
        note_missing(script, name, len);
    script_push(lua, &value);
    return 1;
}

/* ---- JSON values ---- */

bool script_is_json(lua_State *lua, int index)
{
    return lua_type(lua, index) == LUA_TUSERDATA;
}

static struct json_view *view_at(lua_State *lua, int index)
{
    struct json_view *view = lua_touserdata(lua, index);
    if (view->generation != script_of(lua)->generation)
        luaL_error(lua, "a JSON value of an earlier message was kept; keep what is in it instead");
    return view;
}

static uint32_t view_element(struct json_view *view, int64_t index)
{
    uint32_t node;
    if (view->last_index >= 0 && index == view->last_index + 1)
        node = json_next(view->doc, view->last_node);
    else if (view->last_index >= 0 && index == view->last_index)
        node = view->last_node;
    else
        node = json_element(view->doc, view->node, index);
    if (node != JSON_NONE && index >= 0) {
        view->last_index = index;
        view->last_node = node;
    }
    return node;
}

static int view_index(lua_State *lua)
{
    struct json_view *view = view_at(lua, 1);
    uint32_t node = JSON_NONE;
    if (view->is_array) {
        int is_integer;
        lua_Integer index = lua_tointegerx(lua, 2, &is_integer);
        if (is_integer && lua_type(lua, 2) == LUA_TNUMBER)
            node = view_element(view, index);
    } else if (lua_type(lua, 2) == LUA_TSTRING) {
        size_t len;
        const char *name = lua_tolstring(lua, 2, &len);
        node = json_member(view->doc, view->node, name, len);
    }
    struct value value = node == JSON_NONE ? VALUE_NOTHING : json_value(view->doc, node);
    if (value.type == VALUE_NONE || value.type == VALUE_NULL) {
        size_t len;
        const char *name = luaL_tolstring(lua, 2, &len);
        note_missing(script_of(lua), name, len);
    }
    script_push(lua, &value);
    return 1;
}

static int view_newindex(lua_State *lua)
{
    return luaL_error(lua, "a JSON value can't be changed");
}

static int view_len(lua_State *lua)
{
    const struct json_view *view = view_at(lua, 1);
    lua_pushinteger(lua, json_count(view->doc, view->node));
    return 1;
}

static int view_eq(lua_State *lua)
{
    if (!script_is_json(lua, 1) || !script_is_json(lua, 2))
        return 0;
    const struct json_view *a = view_at(lua, 1), *b = view_at(lua, 2);
    lua_pushboolean(lua, a->doc == b->doc && a->node == b->node);
    return 1;
}

/* Upvalues: the view, the next node, its index. */
static int view_next(lua_State *lua)
{
    const struct json_view *view = view_at(lua, lua_upvalueindex(1));
    uint32_t node = (uint32_t)lua_tointeger(lua, lua_upvalueindex(2));
    if (node == JSON_NONE)
        return 0;
    lua_Integer index = lua_tointeger(lua, lua_upvalueindex(3));
    lua_pushinteger(lua, json_next(view->doc, node));
    lua_replace(lua, lua_upvalueindex(2));
    lua_pushinteger(lua, index + 1);
    lua_replace(lua, lua_upvalueindex(3));
    if (view->is_array) {
        lua_pushinteger(lua, index);
    } else {
        struct value name = json_name(view->doc, node);
        script_push(lua, &name);
    }
    struct value value = json_value(view->doc, node);
    script_push(lua, &value);
    return 2;
}

static int view_pairs(lua_State *lua)
{
    const struct json_view *view = view_at(lua, 1);
    lua_pushvalue(lua, 1);
    lua_pushinteger(lua, json_first(view->doc, view->node));
    lua_pushinteger(lua, 0);
    lua_pushcclosure(lua, view_next, 3);
    return 1;
}

/* ---- Tables that count from 0 ---- */

static int list_len(lua_State *lua)
{
    lua_Integer count = (lua_Integer)lua_rawlen(lua, 1);
    count += lua_rawgeti(lua, 1, 0) != LUA_TNIL;
    lua_pushinteger(lua, count);
    return 1;
}

void script_set_list(lua_State *lua)
{
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_LIST);
    lua_setmetatable(lua, -2);
}

static bool is_list(lua_State *lua, int index)
{
    if (lua_type(lua, index) != LUA_TTABLE || !lua_getmetatable(lua, index))
        return false;
    lua_rawgeti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_LIST);
    bool same = lua_rawequal(lua, -1, -2);
    lua_pop(lua, 2);
    return same;
}

static int table_inext(lua_State *lua)
{
    lua_Integer index = luaL_checkinteger(lua, 2) + 1;
    lua_pushinteger(lua, index);
    return lua_geti(lua, 1, index) == LUA_TNIL ? 1 : 2;
}

int script_ipairs(lua_State *lua)
{
    if (script_is_json(lua, 1)) {
        if (!view_at(lua, 1)->is_array)
            return luaL_error(lua, "ipairs goes through arrays, and this is an object: use pairs");
        return view_pairs(lua);
    }
    luaL_checktype(lua, 1, LUA_TTABLE);
    lua_pushcfunction(lua, table_inext);
    lua_pushvalue(lua, 1);
    lua_pushinteger(lua, is_list(lua, 1) ? -1 : 0);
    return 3;
}

int script_type(lua_State *lua)
{
    luaL_checkany(lua, 1);
    lua_pushstring(lua, script_is_json(lua, 1) ? "table" : luaL_typename(lua, 1));
    return 1;
}

/* ---- To JSON ---- */

static void fail_no_memory(lua_State *lua)
{
    script_of(lua)->no_memory = true;
    luaL_error(lua, "out of memory");
}

/* Whether the table at `index` is an array, and then its first index (0 or 1) and its length. */
static bool table_is_array(lua_State *lua, int index, lua_Integer *first, lua_Integer *count)
{
    lua_Integer low = 1, high = 0, n = 0;
    lua_pushnil(lua);
    while (lua_next(lua, index)) {
        lua_pop(lua, 1);
        if (!lua_isinteger(lua, -1)) {
            lua_pop(lua, 1);
            return false;
        }
        lua_Integer key = lua_tointeger(lua, -1);
        low = n == 0 || key < low ? key : low;
        high = n == 0 || key > high ? key : high;
        n++;
    }
    *first = low;
    *count = n;
    return low >= 0 && low <= 1 && high - low + 1 == n;
}

struct key {
    const char *text; /* the table's own */
    size_t len;
};

static int key_compare(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    size_t len = x->len < y->len ? x->len : y->len;
    int order = memcmp(x->text, y->text, len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* Pushes a block with the names in the table at `index`, sorted, since Lua's own order changes from run
 * to run. */
static struct key *push_keys(lua_State *lua, int index, size_t *count)
{
    size_t n = 0;
    lua_pushnil(lua);
    while (lua_next(lua, index)) {
        lua_pop(lua, 1);
        if (lua_type(lua, -1) != LUA_TSTRING)
            luaL_error(lua,
                       "the names in a table must be texts, or the numbers 0 to n-1 or 1 to n");
        n++;
    }
    struct key *keys = lua_newuserdatauv(lua, n * sizeof(*keys) + 1, 0);
    *count = n;
    n = 0;
    lua_pushnil(lua);
    while (lua_next(lua, index)) {
        lua_pop(lua, 1);
        keys[n].text = lua_tolstring(lua, -1, &keys[n].len);
        n++;
    }
    qsort(keys, n, sizeof(*keys), key_compare);
    return keys;
}

static void add_json(lua_State *lua, int index, int depth);

static void add_table(lua_State *lua, int index, int depth)
{
    struct buf *out = &script_of(lua)->text;
    if (depth > DEPTH_MAX)
        luaL_error(lua, "tables are nested more than %d deep", DEPTH_MAX);
    luaL_checkstack(lua, 8, "nested too deep");
    script_charge(lua, 10);

    lua_Integer first, n;
    if (table_is_array(lua, index, &first, &n)) {
        script_charge(lua, (size_t)n);
        buf_add_byte(out, '[');
        for (lua_Integer i = 0; i < n; i++) {
            if (i > 0)
                buf_add_byte(out, ',');
            lua_rawgeti(lua, index, first + i);
            add_json(lua, lua_gettop(lua), depth + 1);
            lua_pop(lua, 1);
        }
        buf_add_byte(out, ']');
        return;
    }
    size_t count;
    const struct key *keys = push_keys(lua, index, &count);
    script_charge(lua, count * 4);
    buf_add_byte(out, '{');
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            buf_add_byte(out, ',');
        json_add_string(out, keys[i].text, keys[i].len);
        buf_add_byte(out, ':');
        lua_pushlstring(lua, keys[i].text, keys[i].len);
        lua_rawget(lua, index);
        add_json(lua, lua_gettop(lua), depth + 1);
        lua_pop(lua, 1);
    }
    lua_pop(lua, 1);
    buf_add_byte(out, '}');
}

struct value script_plain(lua_State *lua, int index)
{
    switch (lua_type(lua, index)) {
    case LUA_TNIL:
        return VALUE_NOTHING;
    case LUA_TBOOLEAN:
        return (struct value){ .type = VALUE_BOOL, .u.boolean = lua_toboolean(lua, index) };
    case LUA_TNUMBER:
        if (lua_isinteger(lua, index))
            return VALUE_OF_INT(lua_tointeger(lua, index));
        return (struct value){ .type = VALUE_FLOAT, .u.number = lua_tonumber(lua, index) };
    case LUA_TSTRING: {
        size_t len;
        const char *text = lua_tolstring(lua, index, &len);
        return VALUE_OF_TEXT(text, len);
    }
    case LUA_TUSERDATA: {
        const struct json_view *view = view_at(lua, index);
        return json_value(view->doc, view->node);
    }
    default:
        luaL_error(lua, "a %s is no value", luaL_typename(lua, index));
        return VALUE_NOTHING;
    }
}

static void add_json(lua_State *lua, int index, int depth)
{
    struct buf *out = &script_of(lua)->text;
    if (lua_type(lua, index) == LUA_TTABLE) {
        add_table(lua, index, depth);
    } else {
        struct value value = script_plain(lua, index);
        size_t before = out->len;
        value_add_json(&value, out);
        script_charge(lua, (out->len - before) / 64);
    }
    if (out->error == -E2BIG)
        luaL_error(lua, "more than %I bytes of JSON", (lua_Integer)out->max);
    if (out->error)
        fail_no_memory(lua);
}

void script_add_json(lua_State *lua, int index)
{
    add_json(lua, lua_absindex(lua, index), 0);
}

int script_tostring(lua_State *lua)
{
    luaL_checkany(lua, 1);
    if (!script_is_json(lua, 1) && lua_type(lua, 1) != LUA_TTABLE) {
        luaL_tolstring(lua, 1, NULL);
        return 1;
    }
    struct buf *text = &script_of(lua)->text;
    buf_clear(text);
    script_add_json(lua, 1);
    lua_pushlstring(lua, buf_str(text), text->len);
    buf_clear(text);
    return 1;
}

/* ---- Results ---- */

/* Copies the bytes into the arena. */
static const char *keep(lua_State *lua, struct fields_arena *arena, const char *text, size_t len)
{
    char *copy = fields_arena_alloc(arena, len + 1);
    if (!copy)
        fail_no_memory(lua);
    memcpy(copy, text, len);
    copy[len] = '\0';
    script_of(lua)->made += len + 1;
    return copy;
}

static struct value take_table(lua_State *lua, int index, struct fields_arena *arena)
{
    struct buf *text = &script_of(lua)->text;
    buf_clear(text);
    script_add_json(lua, index);
    size_t len = text->len;
    const char *copy = keep(lua, arena, buf_str(text), len);
    struct json_doc *doc = fields_arena_doc(arena);
    if (!doc)
        fail_no_memory(lua);
    script_of(lua)->made += DOC_BYTES;
    const char *why;
    size_t at;
    int rc = json_doc_parse(doc, copy, len, &why, &at);
    if (rc == -ENOMEM)
        fail_no_memory(lua);
    if (rc < 0)
        luaL_error(lua, "the table is too large or nested too deep");
    return json_value(doc, 0);
}

struct value script_take(lua_State *lua, int index, struct fields_arena *arena)
{
    if (lua_type(lua, index) == LUA_TTABLE)
        return take_table(lua, index, arena);
    struct value value = script_plain(lua, index);
    if (value.type == VALUE_STRING)
        value.u.string.text = keep(lua, arena, value.u.string.text, value.u.string.len);
    return value;
}

size_t script_take_members(lua_State *lua, int index, struct fields_arena *arena,
                           struct field_set *set, size_t max)
{
    size_t count;
    const struct key *keys = push_keys(lua, index, &count);
    if (count > max)
        luaL_error(lua, "%I fields are returned, more than the %I that there is room for",
                   (lua_Integer)count, (lua_Integer)max);
    for (size_t i = 0; i < count; i++) {
        const struct key *key = &keys[i];
        if (strlen(key->text) != key->len)
            luaL_error(lua, "the name of a field has a NUL byte");
        if (fields_name_is_fixed(key->text, key->len))
            luaL_error(lua, "the field '%s' can't be set: it is fixed", key->text);
        lua_pushlstring(lua, key->text, key->len);
        lua_rawget(lua, index);
        set[i].name = keep(lua, arena, key->text, key->len);
        set[i].value = script_take(lua, lua_gettop(lua), arena);
        lua_pop(lua, 1);
    }
    lua_pop(lua, 1);
    return count;
}

void script_value_open(lua_State *lua)
{
    static const luaL_Reg view_functions[] = {
        { "__index", view_index },
        { "__newindex", view_newindex },
        { "__len", view_len },
        { "__eq", view_eq },
        { "__tostring", script_tostring },
        { "__pairs", view_pairs },
        { NULL, NULL },
    };
    for (int slot = SCRIPT_SLOT_ARRAY; slot <= SCRIPT_SLOT_OBJECT; slot++) {
        lua_newtable(lua);
        luaL_setfuncs(lua, view_functions, 0);
        lua_pushstring(lua, slot == SCRIPT_SLOT_ARRAY ? "JSON array" : "JSON object");
        lua_setfield(lua, -2, "__name");
        lua_rawseti(lua, LUA_REGISTRYINDEX, slot);
    }
    lua_newtable(lua);
    lua_pushcfunction(lua, list_len);
    lua_setfield(lua, -2, "__len");
    lua_rawseti(lua, LUA_REGISTRYINDEX, SCRIPT_SLOT_LIST);
}
