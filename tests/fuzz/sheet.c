/* SPDX-License-Identifier: MIT */

/* A row of the ledger from disk: whatever its bytes are, reading ends and stays within them. */

#include "ledger/sheet.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void within(struct sheet_text text, const uint8_t *data, size_t size)
{
    const uint8_t *at = (const uint8_t *)text.data;
    assert(!text.data ? text.len == 0 : at >= data && text.len <= size - (size_t)(at - data));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sheet_reader reader;
    struct sheet_item item;
    struct sheet_part part;
    size_t items = 0, parts = 0;
    sheet_reader_init(&reader, data, size);
    while (sheet_next(&reader, &item)) {
        const struct sheet_text texts[] = { item.topic,  item.link,   item.id.run,  item.service,
                                            item.target, item.reason, item.receipt, item.moved_to };
        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
            within(texts[i], data, size);
        items++;
        while (sheet_next_part(&reader, &item, &part)) {
            within(part.route, data, size);
            within(part.reason, data, size);
            within(part.when, data, size);
            within(part.service, data, size);
            within(part.target, data, size);
            within(part.id.run, data, size);
            parts++;
        }
    }
    assert(items <= size && parts <= size);
    sheet_reader_release(&reader);
    return 0;
}
