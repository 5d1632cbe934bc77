/* SPDX-License-Identifier: MIT */

/* Lua's errors, in words for the author of an expression. On the thread of the script state. */

#include "base/nearest.h"
#include "base/utf8.h"
#include "router/script_state.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LONGEST 400 /* bytes of Lua's text that are passed on */

/* Lua's text on top of the stack, cut. */
static void read_error(lua_State *lua, char words[LONGEST])
{
    switch (lua_type(lua, -1)) {
    case LUA_TSTRING:
        snprintf(words, LONGEST, "%s", lua_tostring(lua, -1));
        break;
    case LUA_TNUMBER: /* not by lua_tostring(), which may want memory */
        snprintf(words, LONGEST, "error %.14g", (double)lua_tonumber(lua, -1));
        break;
    default:
        snprintf(words, LONGEST, "error() with a %s", lua_typename(lua, lua_type(lua, -1)));
        break;
    }
    for (char *c = words; *c; c++)
        if (iscntrl((unsigned char)*c))
            *c = ' ';
}

/* Skips "[expression]:1: ", and sets the line. In a user's file the place stays in the text. */
static const char *skip_place(const char *words, int *line)
{
    *line = 1;
    size_t len = strlen(SCRIPT_CHUNK);
    if (strncmp(words, SCRIPT_CHUNK, len) != 0 || words[len] != ':')
        return words;
    int used = 0;
    if (sscanf(words + len, ":%9d:%n", line, &used) == 1 && used > 0) {
        words += len + (size_t)used;
        return words + (*words == ' ');
    }
    return words;
}

/* What comes before the words: the name, unless they begin with it, and the line if there are more. */
static void begin(struct buf *why, const struct script_name *name, const char *words, int line)
{
    size_t len = strlen(name->text);
    if (strncmp(words, name->text, len) == 0 && words[len] == ':')
        return;
    buf_addf(why, "%s: ", name->text);
    if (name->lines > 1)
        buf_addf(why, "line %d: ", line < name->lines ? line : name->lines);
}

/* The end " (global 'NAME')" or " (field 'NAME')" of Lua's text: sets where it begins and the name. */
static bool find_variable(const char *words, const char **at, char name[64])
{
    static const char *const kinds[] = { " (global '", " (field '", " (method '" };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        *at = strstr(words, kinds[i]);
        if (*at && sscanf(*at + strlen(kinds[i]), "%63[^']", name) == 1)
            return true;
    }
    return false;
}

static void try_name(const char *name, void *context)
{
    nearest_try(context, name);
}

static void suggest_function(const struct script *script, const char *wrong, struct buf *why)
{
    static const char *const builtin[] = {
        "contains", "starts_with", "ends_with", "glob",   "regex", "round",    "tojson",   "split",
        "trim",     "replace",     "tostring",  "ipairs", "pairs", "tonumber", "math.abs",
    };
    struct nearest nearest = { .wrong = wrong };
    for (size_t i = 0; i < sizeof(builtin) / sizeof(builtin[0]); i++)
        nearest_try(&nearest, builtin[i]);
    script_each_function(script, try_name, &nearest);
    buf_addf(why, "there is no function '%s'", wrong);
    if (nearest.best)
        buf_addf(why, ", did you mean '%s'?", nearest.best);
}

/* An error of running, whose cause is usually a field that is not there. */
static void explain_words(struct script *script, const char *words, struct buf *why)
{
    static const char *const about_nil[] = { "a nil value", "with nil",     "nil with",
                                             "got nil",     "got no value", "two nil values" };
    bool is_nil = false;
    for (size_t i = 0; i < sizeof(about_nil) / sizeof(about_nil[0]); i++)
        is_nil = is_nil || strstr(words, about_nil[i]);
    script->absent = strstr(words, "attempt to index a nil value") != NULL;

    const char *at;
    char name[64] = "";
    if (is_nil && find_variable(words, &at, name)) {
        if (strstr(words, "attempt to call a nil value") && strstr(words, "(global '"))
            suggest_function(script, name, why);
        else
            buf_addf(why, "%.*s (field '%s' is not there)", (int)(at - words), words, name);
    } else if (is_nil && script->missing[0]) {
        buf_addf(why, "%s (field '", words);
        utf8_add_lossy(why, script->missing, strlen(script->missing));
        buf_add_str(why, "' is not there)");
    } else {
        utf8_add_lossy(why, words, strlen(words));
    }
}

int script_explain(struct script *script, int status, const struct script_name *name,
                   struct buf *why)
{
    if (status == LUA_ERRMEM && script->end == SCRIPT_END_NONE && !script->no_memory)
        script->end = SCRIPT_END_MEMORY;
    switch (script->end) {
    case SCRIPT_END_INSTRUCTIONS:
        buf_addf(why, "%s: ", name->text);
        buf_addf(why, "it takes more than %lld instructions",
                 (long long)script->limits.instructions);
        return -EINVAL;
    case SCRIPT_END_MEMORY:
        buf_addf(why, "%s: ", name->text);
        buf_addf(why, "it takes more than %lld KiB of memory",
                 (long long)script->limits.memory / 1024);
        return -EINVAL;
    case SCRIPT_END_TIME:
        buf_addf(why, "%s: ", name->text);
        buf_addf(why, "it takes more than %lld ms of the processor",
                 (long long)script->cpu_limit_ns / 1000000);
        return -EINVAL;
    case SCRIPT_END_NONE:
        break;
    }
    if (script->no_memory) {
        buf_addf(why, "%s: ", name->text);
        buf_add_str(why, "out of memory");
        return -ENOMEM;
    }
    char all[LONGEST];
    read_error(script->lua, all);
    int line;
    const char *words = skip_place(all, &line);
    begin(why, name, words, line);
    explain_words(script, words, why);
    return -EINVAL;
}

/* What people write who know other languages. */
static const char *hint(const char *words)
{
    static const struct {
        const char *near, *hint;
    } hints[] = {
        { "near '='", "compare with ==" },
        { "near '!'", "write ~= for unequal, and not for a negation" },
        { "near '&'", "write and" },
        { "near '|'", "write or" },
        { "near '?'", "write CONDITION and A or B" },
        { "near ','", "an expression is one value" },
        { "near ';'", "an expression is one value, not a statement" },
        { "near 'if'", "an expression is a value, not a statement" },
        { "near 'for'", "an expression is a value, not a statement" },
        { "near 'while'", "an expression is a value, not a statement" },
        { "near 'repeat'", "an expression is a value, not a statement" },
        { "near 'do'", "an expression is a value, not a statement" },
        { "near 'local'", "an expression is a value, not a statement" },
        { "near 'goto'", "an expression is a value, not a statement" },
        { "near 'return'", "leave out return" },
        { "expected near 'is'", "compare with ==" },
    };
    for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
        if (strstr(words, hints[i].near))
            return hints[i].hint;
    return NULL;
}

int script_explain_syntax(struct script *script, int status, const struct script_name *name,
                          struct buf *why)
{
    if (status != LUA_ERRSYNTAX)
        return script_explain(script, status, name, why);
    char all[LONGEST];
    read_error(script->lua, all);
    int line;
    const char *words = skip_place(all, &line);
    begin(why, name, words, line);
    /* An expression's end is not the end of a file. */
    const char *end = strstr(words, "<eof> expected near");
    if (end == words)
        buf_addf(why, "not expected: %s", words + strlen("<eof> expected near "));
    else if ((end = strstr(words, " near <eof>")) != NULL)
        buf_addf(why, "%.*s at the end", (int)(end - words), words);
    else
        utf8_add_lossy(why, words, strlen(words));
    const char *help = hint(words);
    if (help)
        buf_addf(why, " (%s)", help);
    return -EINVAL;
}
