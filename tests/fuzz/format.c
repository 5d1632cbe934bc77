/* SPDX-License-Identifier: MIT */

/*
 * The first byte is the clean mode, then up to the first line feed comes a format, after it a payload. What a clean mode
 * promises must hold for whatever comes out.
 */

#include "router/format.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define OUTPUT_MAX 200000

static struct message *message;
static struct json_doc *doc;
static struct fields fields;

static void set_up(void)
{
    static const struct field_level levels[] = { { "room", "attic", 5 } };
    message = message_new("home/attic", 10, "21.5", 4, NULL);
    doc = json_doc_new();
    fields = (struct fields){
        .message = message, .levels = levels, .level_count = 1, .arena = fields_arena_new()
    };
}

/* Whether one of `bytes` or a NUL is in the text. */
static bool has_any(const struct buf *text, const char *bytes)
{
    for (size_t i = 0; i < text->len; i++)
        if (text->data[i] == '\0' || strchr(bytes, text->data[i]))
            return true;
    return false;
}

/* Without literals and defaults, all of the text has been cleaned. */
static void check_clean(const struct buf *out, enum format_clean clean)
{
    switch (clean) {
    case FORMAT_AS_IS:
        break;
    case FORMAT_CLEAN_PATH:
        if (has_any(out, "/") || out->len == 0 || strcmp(out->data, ".") == 0 ||
            strcmp(out->data, "..") == 0)
            abort();
        break;
    case FORMAT_CLEAN_TOPIC:
        if (has_any(out, "/+#") || out->len == 0)
            abort();
        break;
    case FORMAT_CLEAN_LINE:
        if (has_any(out, "\r\n\t\x1B\x7F"))
            abort();
        break;
    case FORMAT_CLEAN_NAME:
        if (has_any(out, ";\r\n"))
            abort();
        break;
    case FORMAT_CLEAN_HTML:
        for (size_t i = 0; i < out->len; i++)
            if (strchr("<>\"'", out->data[i]) && out->data[i])
                abort();
        break;
    }
}

static void count_path(const struct field_path *path, void *context)
{
    (void)path;
    ++*(size_t *)context;
}

static void render(const struct format *format, const char *text, size_t len,
                   enum format_clean clean)
{
    struct buf out = BUF_INIT(OUTPUT_MAX);
    size_t missing = 0;
    size_t paths = 0;
    int rc = format_render(format, &fields, clean, &out, &missing);
    format_each_path(format, count_path, &paths);
    if (out.len > OUTPUT_MAX || missing > paths ||
        (!rc && (paths == 0) != !!format_constant(format)))
        abort();
    if (rc == 0 && !utf8_valid(buf_str(&out), out.len))
        abort();
    bool all_cleaned = paths == 1 && text[0] == '{' && text[len - 1] == '}' &&
                       !memchr(text + 1, '{', len - 1) && !memchr(text, '}', len - 1) &&
                       !memchr(text, '?', len) && !memchr(text, '[', len);
    if (rc == 0 && all_cleaned)
        check_clean(&out, clean);
    buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (!message)
        set_up();
    enum format_clean clean = (enum format_clean)(data[0] % (FORMAT_CLEAN_HTML + 1));
    data++;
    size--;
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

    struct format *format;
    struct buf why = BUF_INIT(4096);
    int rc = format_new(text, len, &format, &why);
    if (rc == 0)
        render(format, text, len, clean);
    else if (format || why.len == 0)
        abort();
    format_free(format);
    buf_release(&why);
    free(payload);
    free(text);
    return 0;
}
