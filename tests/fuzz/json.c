/* SPDX-License-Identifier: MIT */

/*
 * Any bytes as JSON, with jansson as the judge: both must accept the same texts and find the same in
 * them. Where they differ on purpose:
 *
 *   - jansson has no name with a NUL in it, no integer over 64 bits, and no number beyond a double;
 *   - it goes deeper than 64, and takes a NUL byte for the end of the text.
 *
 * Of two members with the same name, the last counts for both.
 */

#include "router/json.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Always in force, whatever the build. */
#define MUST(COND)                                                 \
    do {                                                           \
        if (!(COND)) {                                             \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #COND); \
            abort();                                               \
        }                                                          \
    } while (0)

static void compare(const struct json_doc *doc, uint32_t node, const json_t *judge);

static void compare_object(const struct json_doc *doc, uint32_t node, const json_t *judge)
{
    uint32_t count = 0;
    for (uint32_t child = json_first(doc, node); child != JSON_NONE;
         child = json_next(doc, child)) {
        struct value name = json_name(doc, child);
        MUST(name.type == VALUE_STRING);
        uint32_t last = json_member(doc, node, name.u.string.text, name.u.string.len);
        MUST(last != JSON_NONE && last >= child);
        count++;
        if (last != child)
            continue;
        const json_t *member = json_object_getn(judge, name.u.string.text, name.u.string.len);
        MUST(member);
        compare(doc, child, member);
    }
    MUST(count == json_count(doc, node) && count >= json_object_size(judge));
}

static void compare_array(const struct json_doc *doc, uint32_t node, const json_t *judge)
{
    size_t i = 0;
    for (uint32_t child = json_first(doc, node); child != JSON_NONE;
         child = json_next(doc, child)) {
        MUST(i < json_array_size(judge));
        if (i < 100)
            MUST(json_element(doc, node, (int64_t)i) == child);
        compare(doc, child, json_array_get(judge, i));
        i++;
    }
    MUST(i == json_array_size(judge) && i == json_count(doc, node));
}

static void compare(const struct json_doc *doc, uint32_t node, const json_t *judge)
{
    struct value value = json_value(doc, node);
    switch (json_typeof(judge)) {
    case JSON_OBJECT:
        MUST(value.type == VALUE_OBJECT);
        compare_object(doc, node, judge);
        break;
    case JSON_ARRAY:
        MUST(value.type == VALUE_ARRAY);
        compare_array(doc, node, judge);
        break;
    case JSON_STRING:
        MUST(value.type == VALUE_STRING && value.u.string.len == json_string_length(judge));
        MUST(memcmp(value.u.string.text, json_string_value(judge), value.u.string.len) == 0);
        break;
    case JSON_INTEGER:
        MUST(value.type == VALUE_INT && value.u.integer == json_integer_value(judge));
        break;
    case JSON_REAL:
        MUST(value.type == VALUE_FLOAT && value.u.number == json_real_value(judge));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        MUST(value.type == VALUE_BOOL && value.u.boolean == json_is_true(judge));
        break;
    case JSON_NULL:
        MUST(value.type == VALUE_NULL);
        break;
    }
}

/* What is written without blanks must be the same document. */
static void compare_compact(const struct json_doc *doc, const json_t *judge)
{
    struct buf out = BUF_INIT(1u << 20);
    struct json_doc *again = json_doc_new();
    const char *why;
    size_t at;
    MUST(json_add_compact(doc, 0, &out) == 0);
    MUST(json_doc_parse(again, buf_str(&out), out.len, &why, &at) == 0);
    compare(again, 0, judge);
    json_doc_free(again);
    buf_release(&out);
}

static bool differs_on_purpose(const json_error_t *error)
{
    switch (json_error_code(error)) {
    case json_error_null_byte_in_key:
    case json_error_numeric_overflow:
        return true;
    default:
        return false;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct json_doc *doc; /* the same again and again, as in the program */
    if (!doc)
        doc = json_doc_new();

    /* An exact copy, so that a byte read beyond its end is noticed. */
    char *text = malloc(size ? size : 1);
    memcpy(text, data, size);
    const char *why;
    size_t at;
    int rc = json_doc_parse(doc, text, size, &why, &at);
    MUST(at <= size && (rc == 0) == (why == NULL));

    json_error_t error;
    json_t *judge = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (rc == 0 && judge) {
        compare(doc, 0, judge);
        compare(doc, 0, judge); /* with all escapes gone */
        compare_compact(doc, judge);
    } else if (rc == 0) {
        MUST(differs_on_purpose(&error));
    } else if (judge) {
        MUST(strcmp(why, "nested more than 64 deep") == 0 || (at < size && text[at] == '\0'));
    }
    json_decref(judge);
    free(text);
    return 0;
}
