/* SPDX-License-Identifier: MIT */

/* Templates: made and run. On the thread of their script state. */

#include "router/template.h"

#include "router/format_clean.h"
#include "router/script_state.h"
#include "router/template_node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT_MAX (1024 * 1024)
#define TURNS_MAX  100000
#define RUNS_MAX   10 /* the instructions of so many expressions may be used by all together */
#define ROOM_MAX   (16 * 1024 * 1024)  /* bytes of a text between two filters */
#define WORK_MAX   (256 * 1024 * 1024) /* bytes that expressions and filters make */
#define LOOP_TEXT  160                 /* bytes of `loop` as JSON */

int template_new(struct script *script, const char *name, const char *text, size_t len,
                 struct template **out, struct buf *why)
{
    *out = NULL;
    if (len > TEMPLATE_MAX_TEXT) {
        buf_addf(why, "%s:1: the template has more than %d bytes", name, TEMPLATE_MAX_TEXT);
        return -EINVAL;
    }
    struct template *template = calloc(1, sizeof(*template));
    if (!template)
        return -ENOMEM;
    template->script = script;
    template->name = strdup(name);
    template->source = malloc(len + 1);
    int rc = template->name && template->source ? 0 : -ENOMEM;
    if (rc == 0) {
        if (len > 0)
            memcpy(template->source, text, len);
        template->source[len] = '\0';
        rc = template_parse(template, len, why);
    }
    if (rc < 0) {
        template_free(template);
        return rc;
    }
    *out = template;
    return 0;
}

int template_load(struct script *script, const char *path, struct template **out, struct buf *why)
{
    struct buf text = BUF_INIT(TEMPLATE_MAX_TEXT);
    *out = NULL;
    int rc = script_read_file(path, &text, why);
    if (rc == 0)
        rc = template_new(script, path, buf_str(&text), text.len, out, why);
    buf_release(&text);
    return rc;
}

void template_free(struct template *template)
{
    if (!template)
        return;
    for (uint32_t i = 0; i < template->count; i++)
        if (template->nodes[i].type == NODE_OUTPUT)
            free(template->nodes[i].u.filters);
    for (size_t i = 0; i < template->word_count; i++)
        free(template->words[i]);
    free(template->words);
    free(template->nodes);
    free(template->source);
    free(template->name);
    free(template);
}

/* ---- Running ---- */

struct loop {
    const struct template_node *node;
    const struct json_doc *doc;
    uint32_t child; /* of this turn */
    uint32_t index; /* from 0 */
    uint32_t length;
    bool is_array;
    struct json_doc *variable; /* `loop`; made when it is first asked for, then used again */
    char text[LOOP_TEXT];      /* of the variable */
};

struct render {
    const struct template *template;
    struct fields fields; /* with our locals */
    bool html;
    struct template_limits limits;
    struct buf *out;
    size_t start; /* of our part of the output */
    size_t missing;
    struct buf *why;
    struct buf run_why;
    struct buf room[2]; /* what filters make */
    size_t turns;
    uint64_t made;  /* the script's count at the start */
    uint64_t spent; /* the same */
    uint64_t work;  /* bytes that filters have made */
    struct loop loops[TEMPLATE_MAX_NESTING];
    size_t depth;
    struct field_set locals[TEMPLATE_MAX_NESTING * 3]; /* loop and the keys, of each loop */
};

/* Counts what is missing; the first reason is told. */
static void note_missing(struct render *r, const struct template_node *node, const char *reason)
{
    if (r->missing++ > 0)
        return;
    buf_addf(r->why, "%s:%d: ", r->template->name, node->line);
    if (reason)
        buf_add_str(r->why, reason);
    else
        buf_addf(r->why, "%.*s has no value", node->len > 80 ? 80 : (int)node->len, node->text);
}

static int pass_limit(struct render *r, const struct template_node *node, const char *what,
                      size_t limit)
{
    buf_clear(r->why); /* this is what must be known now */
    buf_addf(r->why, "%s:%d: more than %zu %s", r->template->name, node->line, limit, what);
    return -E2BIG;
}

/*
 * Sets `*value`, to VALUE_NONE if there is none or it failed. `*failed` says that it failed for another
 * reason than that something is not there, which is in r->run_why. Returns 0 or an error that ends
 * the template.
 */
static int evaluate(struct render *r, const struct template_node *node,
                    const struct template_expression *expression, struct value *value, bool *failed)
{
    *failed = false;
    if (expression->id < 0) {
        *value = fields_get_name(&r->fields, expression->name, expression->len);
        return 0;
    }
    struct script *script = r->template->script;
    buf_clear(&r->run_why);
    int rc = script_run(script, expression->id, &r->fields, value, &r->run_why);
    if (rc == -ENOMEM)
        return rc;
    *failed = rc < 0 && !script->absent;
    if (script->spent - r->spent > (uint64_t)script->limits.instructions * RUNS_MAX)
        return pass_limit(r, node, "instructions", (size_t)script->limits.instructions * RUNS_MAX);
    if (script->made - r->made + r->work > WORK_MAX)
        return pass_limit(r, node, "bytes made", WORK_MAX);
    return 0;
}

/* Tells of an expression that failed; script_run() has put the place before the reason. */
static void note_failed(struct render *r)
{
    if (r->missing++ == 0)
        buf_add_str(r->why, buf_str(&r->run_why));
}

static int emit(struct render *r, const struct template_node *node, const struct value *value,
                bool escape)
{
    size_t before = r->out->len;
    size_t room = r->limits.output - (before - r->start);
    if (value->type == VALUE_STRING && value->u.string.len > room)
        return pass_limit(r, node, "bytes of output", r->limits.output);
    value_add_text(value, r->out);
    if (escape)
        format_clean_from(r->out, before, FORMAT_CLEAN_HTML);
    if (r->out->error == -E2BIG || r->out->len - before > room)
        return pass_limit(r, node, "bytes of output",
                          r->out->error ? r->out->max : r->limits.output);
    return r->out->error;
}

/* The one of our two buffers that the value is not in. */
static struct buf *other_room(struct render *r, const struct value *value)
{
    const struct buf *first = &r->room[0];
    bool inside = value->type == VALUE_STRING && first->data &&
                  (uintptr_t)value->u.string.text >= (uintptr_t)first->data &&
                  (uintptr_t)value->u.string.text <= (uintptr_t)first->data + first->len;
    return &r->room[inside];
}

static int filter(struct render *r, const struct template_node *node,
                  const struct template_filter *filter, struct value *value)
{
    struct value args[TEMPLATE_MAX_ARGS];
    const char *why = NULL;
    for (size_t i = 0; i < filter->arg_count; i++) {
        bool failed;
        int rc = evaluate(r, node, &filter->args[i], &args[i], &failed);
        if (rc < 0)
            return rc;
        if (failed)
            note_failed(r);
    }
    struct buf *room = other_room(r, value);
    int rc = filter_apply(filter->type, args, filter->arg_count, value, room, &why);
    r->work += room->len;
    if (rc == -E2BIG)
        return pass_limit(r, node, "bytes in a filter", room->max);
    if (rc == -EINVAL) {
        note_missing(r, node, why);
        *value = VALUE_NOTHING;
        return 0;
    }
    return rc;
}

static bool is_there(const struct value *value)
{
    return value->type != VALUE_NONE && value->type != VALUE_NULL;
}

static int run_output(struct render *r, const struct template_node *node)
{
    struct value value;
    bool failed;
    int rc = evaluate(r, node, &node->expression, &value, &failed);
    size_t missing = r->missing;
    if (failed && rc == 0)
        note_failed(r);
    bool escape = r->html;
    for (size_t i = 0; i < node->filter_count && rc == 0; i++) {
        const struct template_filter *f = &node->u.filters[i];
        rc = filter(r, node, f, &value);
        if (f->type == FILTER_SAFE || f->type == FILTER_ESCAPE)
            escape = false;
    }
    if (rc < 0)
        return rc;
    if (is_there(&value))
        return emit(r, node, &value, escape);
    if (r->missing == missing)
        note_missing(r, node, NULL);
    const struct value written = VALUE_OF_TEXT(node->text, node->len);
    return emit(r, node, &written, r->html);
}

/* ---- Loops ---- */

/* Makes `loop` for this turn. */
static int set_loop_variable(struct render *r, struct loop *loop, struct value *out)
{
    if (!loop->variable)
        loop->variable = fields_arena_doc(r->fields.arena);
    if (!loop->variable)
        return -ENOMEM;
    int len =
        snprintf(loop->text, sizeof(loop->text),
                 "{\"index\":%llu,\"index0\":%lu,\"first\":%s,\"last\":%s,\"length\":%lu}",
                 (unsigned long long)loop->index + 1, (unsigned long)loop->index,
                 loop->index == 0 ? "true" : "false",
                 loop->index + 1 == loop->length ? "true" : "false", (unsigned long)loop->length);
    const char *why;
    size_t at;
    int rc = json_doc_parse(loop->variable, loop->text, (size_t)len, &why, &at);
    *out = rc == 0 ? json_value(loop->variable, 0) : VALUE_NOTHING;
    return rc;
}

/* Sets the variables of the innermost loop for this turn. */
static int set_locals(struct render *r)
{
    struct loop *loop = &r->loops[r->depth - 1];
    const struct template_node *node = loop->node;
    struct field_set *local = &r->locals[(r->depth - 1) * 3];
    struct value key =
        loop->is_array ? VALUE_OF_INT(loop->index) : json_name(loop->doc, loop->child);
    struct value value = json_value(loop->doc, loop->child);
    bool two = node->key_count == 2;
    local[0] = (struct field_set){ .name = "loop", .value = VALUE_NOTHING };
    local[1] = (struct field_set){ node->u.keys[0], two || !loop->is_array ? key : value };
    local[2] =
        (struct field_set){ two ? node->u.keys[1] : node->u.keys[0], two ? value : local[1].value };
    r->fields.local_count = r->depth * 3;
    if (++r->turns > r->limits.turns)
        return pass_limit(r, node, "turns of loops", r->limits.turns);
    return node->uses_loop ? set_loop_variable(r, loop, &local[0].value) : 0;
}

static int run_for(struct render *r, const struct template_node *node, uint32_t *next)
{
    struct value value;
    bool failed;
    int rc = evaluate(r, node, &node->expression, &value, &failed);
    if (rc < 0)
        return rc;
    bool goes = value.type == VALUE_ARRAY || value.type == VALUE_OBJECT;
    if (failed)
        note_failed(r);
    else if (!goes)
        note_missing(r, node,
                     is_there(&value) ? "for wants an array or an object"
                                      : "what the for is to go through has no value");
    uint32_t first = goes ? json_first(value.u.json.doc, value.u.json.node) : JSON_NONE;
    if (first == JSON_NONE) {
        *next = node->target;
        return 0;
    }
    struct loop *loop = &r->loops[r->depth++];
    loop->node = node;
    loop->doc = value.u.json.doc;
    loop->child = first;
    loop->index = 0;
    loop->length = json_count(value.u.json.doc, value.u.json.node);
    loop->is_array = value.type == VALUE_ARRAY;
    return set_locals(r);
}

static int run_next(struct render *r, const struct template_node *node, uint32_t *next)
{
    struct loop *loop = &r->loops[r->depth - 1];
    loop->child = json_next(loop->doc, loop->child);
    loop->index++;
    if (loop->child == JSON_NONE) {
        r->depth--;
        r->fields.local_count = r->depth * 3;
        return 0;
    }
    *next = node->target;
    return set_locals(r);
}

static int run_if(struct render *r, const struct template_node *node, uint32_t *next)
{
    struct value value;
    bool failed;
    int rc = evaluate(r, node, &node->expression, &value, &failed);
    if (failed && rc == 0)
        note_failed(r);
    if (!value_is_true(&value))
        *next = node->target;
    return rc;
}

static int run(struct render *r)
{
    int rc = 0;
    for (uint32_t at = 0, next; at < r->template->count && rc == 0; at = next) {
        const struct template_node *node = &r->template->nodes[at];
        next = at + 1;
        switch (node->type) {
        case NODE_TEXT: {
            const struct value text = VALUE_OF_TEXT(node->text, node->len);
            rc = emit(r, node, &text, false);
            break;
        }
        case NODE_OUTPUT:
            rc = run_output(r, node);
            break;
        case NODE_IF:
            rc = run_if(r, node, &next);
            break;
        case NODE_JUMP:
            next = node->target;
            break;
        case NODE_FOR:
            rc = run_for(r, node, &next);
            break;
        case NODE_NEXT:
            rc = run_next(r, node, &next);
            break;
        }
    }
    return rc;
}

int template_render(const struct template *template, const struct fields *fields, bool html,
                    const struct template_limits *limits, struct buf *out, size_t *missing,
                    struct buf *why)
{
    /* Large, and only partly used: not cleared. */
    struct render r;
    r.template = template;
    r.fields = *fields;
    r.fields.locals = r.locals;
    r.fields.local_count = 0;
    r.html = html;
    r.limits = limits ? *limits : (struct template_limits){ OUTPUT_MAX, TURNS_MAX };
    r.out = out;
    r.start = out->len;
    r.missing = 0;
    r.why = why;
    r.turns = 0;
    r.made = template->script->made;
    r.spent = template->script->spent;
    r.work = 0;
    r.depth = 0;
    buf_init(&r.run_why, 1024);
    buf_init(&r.room[0], ROOM_MAX);
    buf_init(&r.room[1], ROOM_MAX);
    for (size_t i = 0; i < TEMPLATE_MAX_NESTING; i++)
        r.loops[i].variable = NULL;

    int rc = run(&r);
    if (rc < 0 && out->error == 0)
        buf_cut(out, r.start);
    *missing += r.missing;
    buf_release(&r.run_why);
    buf_release(&r.room[0]);
    buf_release(&r.room[1]);
    return rc;
}
