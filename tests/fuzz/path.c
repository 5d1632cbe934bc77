/* SPDX-License-Identifier: MIT */

/* Up to the first line feed a path, after it a payload: compiles it and looks it up. */

#include "router/fields.h"

#include <stdlib.h>
#include <string.h>

static struct message *message;
static struct json_doc *doc;
static struct fields fields;

static void set_up(void)
{
    static const struct field_level levels[] = { { "room", "attic", 5 } };
    static const struct field_set set[] = { { "x", { .type = VALUE_INT } } };
    message = message_new("home/attic", 10, "21.5", 4, NULL);
    doc = json_doc_new();
    fields = (struct fields){ .message = message,
                              .levels = levels,
                              .level_count = 1,
                              .set = set,
                              .set_count = 1,
                              .arena = fields_arena_new() };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!message)
        set_up();
    const uint8_t *feed = size ? memchr(data, '\n', size) : NULL;
    size_t len = feed ? (size_t)(feed - data) : size;
    char *text = malloc(len ? len : 1); /* exact copies, so that a byte read beyond is noticed */
    char *payload = malloc(size - len + 1);
    memcpy(text, data, len);
    if (feed)
        memcpy(payload, feed + 1, size - len - 1);

    const char *reason;
    size_t at;
    fields_arena_clear(fields.arena);
    fields.decoded = VALUE_NOTHING;
    if (feed && json_doc_parse(doc, payload, size - len - 1, &reason, &at) == 0)
        fields.decoded = json_value(doc, 0);

    if (field_path_span(text, len) > len)
        abort();
    struct field_path *path;
    struct buf why = BUF_INIT(4096);
    int rc = field_path_new(text, len, &path, &why);
    if (rc == 0) {
        struct value value = fields_get(&fields, path);
        struct buf out = BUF_INIT(1u << 20);
        value_add_json(&value, &out);
        buf_release(&out);
        if (strlen(field_path_text(path)) != len)
            abort();
    } else if (path || why.len == 0) {
        abort();
    }
    fields_get_name(&fields, text, len);
    field_path_free(path);
    buf_release(&why);
    free(payload);
    free(text);
    return 0;
}
