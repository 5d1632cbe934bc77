/* SPDX-License-Identifier: MIT */

/* A publication from disk. What can be read is what would be written of it. */

#include "broker/durable_op.h"
#include "mqtt/topic.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct publication *p;
    int64_t expires_ms;
    const int rc = durable_read_publication(data, size, &p, &expires_ms);
    if (rc < 0) {
        assert(!p && rc == -EBADMSG);
        return 0;
    }
    assert(p->qos <= 2 && expires_ms >= 0 && p->expires == 0);
    assert(!topic_name_fault(publication_topic(p), p->topic_len));
    struct buf again = BUF_INIT((size_t)1 << 24);
    assert(durable_write_publication(p, expires_ms, &again) == 0);
    assert(again.len == size && memcmp(again.data, data, size) == 0);
    buf_release(&again);
    publication_unref(p);
    return 0;
}
