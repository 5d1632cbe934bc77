/* SPDX-License-Identifier: MIT */

/* What keeps a script from running for ever or taking all memory. On the thread of the script state. */

#include "router/script_state.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TEXT_KEPT          (64 * 1024) /* bytes of script->text that stay from run to run */
#define STEP               1000        /* instructions between two looks at the limits */
#define BYTES_PER_STEP     256         /* memory taken that counts as one instruction */
#define EMERGENCY_WORK     1000        /* instructions that a refused request for memory costs: */
#define BYTES_PER_SWEEP    256         /* Lua then collects everything, which takes time */
#define NS_PER_INSTRUCTION 100 /* in the sum of all runs, for those with slow single steps */

static bool may_take(struct script *script, size_t more)
{
    if (more > (size_t)script->limits.memory - script->used) {
        script->left -= (int64_t)(script->used / BYTES_PER_SWEEP) + EMERGENCY_WORK;
        return false;
    }
    if (!script->running)
        return true;
    script->left -= (int64_t)(more / BYTES_PER_STEP);
    if (script->left >= 0)
        return true;
    script->end = SCRIPT_END_INSTRUCTIONS;
    return false;
}

static void *allocate(void *context, void *old, size_t old_size, size_t new_size)
{
    struct script *script = context;
    if (!old)
        old_size = 0; /* else it would be the kind of object */
    if (new_size == 0) {
        free(old);
        script->used -= old_size;
        return NULL;
    }
    if (new_size > old_size && !may_take(script, new_size - old_size))
        return NULL;
    void *data = realloc(old, new_size);
    if (!data) {
        if (new_size <= old_size)
            return old; /* Lua relies on it that shrinking does not fail */
        script->no_memory = true;
        return NULL;
    }
    script->used += new_size - old_size;
    return data;
}

lua_State *script_lua_new(struct script *script)
{
    lua_State *lua = lua_newstate(allocate, script);
    if (lua)
        *(struct script **)lua_getextraspace(lua) = script;
    return lua;
}

static int64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool script_is_late(struct script *script)
{
    int64_t now = cpu_ns();
    if (script->cpu_start_ns == 0)
        script->cpu_start_ns = now;
    if (now - script->cpu_start_ns < script->cpu_limit_ns)
        return false;
    script->end = SCRIPT_END_TIME;
    return true;
}

static void look_at_limits(lua_State *lua, lua_Debug *activation)
{
    (void)activation;
    struct script *script = script_of(lua);
    script->left -= script->step;
    if (script->left < 0)
        script->end = SCRIPT_END_INSTRUCTIONS;
    else if (!script_is_late(script))
        return;
    lua_pushliteral(lua, "limit");
    lua_error(lua);
}

void script_charge(lua_State *lua, size_t work)
{
    struct script *script = script_of(lua);
    script->left -= (int64_t)work;
    if (script->left >= 0)
        return;
    script->end = SCRIPT_END_INSTRUCTIONS;
    lua_pushliteral(lua, "limit");
    lua_error(lua);
}

void script_begin(struct script *script, const struct fields *fields, bool may_loop)
{
    script->running = true;
    script->no_memory = false;
    script->end = SCRIPT_END_NONE;
    script->left = script->limits.instructions;
    script->step = script->left < STEP ? (int)script->left : STEP;
    script->cpu_start_ns = 0;
    script->fields = fields;
    script->missing[0] = '\0';
    script->absent = false;
    if (may_loop || script->has_files) {
        lua_sethook(script->lua, look_at_limits, LUA_MASKCOUNT, script->step);
        script->watched = true;
    } else if (script->watched) {
        lua_sethook(script->lua, NULL, 0, 0);
        script->watched = false;
    }
}

void script_end(struct script *script)
{
    script->spent += (uint64_t)(script->limits.instructions - script->left);
    if (script->cpu_start_ns != 0)
        script->spent += (uint64_t)(cpu_ns() - script->cpu_start_ns) / NS_PER_INSTRUCTION;
    script->running = false;
    script->loading = false;
    script->fields = NULL;
    script->generation++;
    lua_settop(script->lua, 0);
    if (script->end == SCRIPT_END_MEMORY)
        lua_gc(script->lua, LUA_GCCOLLECT); /* what the run had must not make the next one fail */
    if (script->text.cap > TEXT_KEPT)
        buf_release(&script->text);
    buf_clear(&script->text);
}

int script_pcall(lua_State *lua)
{
    luaL_checkany(lua, 1);
    int status = lua_pcall(lua, lua_gettop(lua) - 1, LUA_MULTRET, 0);
    struct script *script = script_of(lua);
    if (status == LUA_ERRMEM && script->end == SCRIPT_END_NONE)
        script->end = SCRIPT_END_MEMORY;
    if (status != LUA_OK && script->end != SCRIPT_END_NONE)
        return lua_error(lua);
    lua_pushboolean(lua, status == LUA_OK);
    lua_insert(lua, 1);
    return lua_gettop(lua);
}
