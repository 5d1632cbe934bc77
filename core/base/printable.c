/* SPDX-License-Identifier: MIT */

#include "base/printable.h"

#include "base/utf8.h"

#include <stdbool.h>
#include <stdint.h>

static bool is_shown(uint32_t code)
{
    if (code < 0x20 || (code >= 0x7f && code < 0xa0))
        return false;
    if (code == 0x200e || code == 0x200f || code == 0x2028 || code == 0x2029 || code == 0xfeff)
        return false;
    return (code < 0x202a || code > 0x202e) && (code < 0x2066 || code > 0x2069);
}

int printable_add(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint32_t code;
        size_t width = utf8_decode(text + i, len - i, &code);
        bool shown = width > 0 && is_shown(code);
        if (shown)
            buf_add(out, text + i, width);
        size_t end = i + (width > 0 ? width : 1);
        for (; !shown && i < end; i++)
            buf_addf(out, "\\x%02x", (unsigned)(unsigned char)text[i]);
        i = end;
    }
    return out->error;
}
