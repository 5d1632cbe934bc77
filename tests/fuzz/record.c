/* SPDX-License-Identifier: MIT */

/*
 * A record of a delivery from disk, after one byte that says how many formats its target has. What can be read is
 * written again, and then comes back the same.
 */

#include "delivery/record.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *find_link(void *context, const char *name)
{
    (void)context;
    return strcmp(name, "home") == 0 ? "home" : NULL;
}

static void look_at_fields(const uint8_t *data, size_t size)
{
    struct record_field field;
    size_t at = 0;
    while (record_next(data, size, &at, &field))
        assert(at <= size && field.name &&
               (field.is_number || field.data + field.len == (const char *)data + at));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct target target = { .service = "s", .name = "t", .format_count = data[0] & 3 };
    look_at_fields(data + 1, size - 1);
    struct delivery *d, *back;
    int rc = record_read(data + 1, size - 1, &target, find_link, NULL, &d);
    if (rc < 0) {
        assert(!d && (rc == -EBADMSG || rc == -ESTALE));
        return 0;
    }
    struct buf first = BUF_INIT((size_t)1 << 24), second = BUF_INIT((size_t)1 << 24);
    assert(record_write(d, target.format_count, &first) == 0);
    assert(record_read(first.data, first.len, &target, find_link, NULL, &back) == 0);
    assert(record_write(back, target.format_count, &second) == 0);
    assert(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
    assert(strcmp(d->id, back->id) == 0 && strcmp(d->view.topic, back->view.topic) == 0);
    buf_release(&first);
    buf_release(&second);
    delivery_free(d);
    delivery_free(back);
    return 0;
}
