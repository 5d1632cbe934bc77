/* SPDX-License-Identifier: MIT */

/* See trace.h. The numbers of sections are those of SQLite's description of its file format. */

#include "store/trace.h"

#include "base/buf.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define PAGE     4096 /* of each store */
#define HEAD     100
#define LOG_HEAD 32

static const char magic[16] = "SQLite format 3"; /* and a zero, 1.3.1 */

static size_t pair_at(const uint8_t *at)
{
    return (size_t)at[0] << 8 | at[1];
}

/* Whether this is a page of a tree, 1.6: a kind that there is, and cells that are within it. No text looks like that. */
static bool is_page(const uint8_t page[PAGE])
{
    const bool inner = page[0] == 0x02 || page[0] == 0x05;
    if (!inner && page[0] != 0x0a && page[0] != 0x0d)
        return false;
    const size_t count = pair_at(page + 3), content = pair_at(page + 5), head = inner ? 12 : 8;
    if (pair_at(page + 1) >= PAGE || head + 2 * count > content || content > PAGE ||
        (count == 0 && content != PAGE))
        return false;
    for (size_t i = 0; i < count; i++) {
        size_t cell = pair_at(page + head + 2 * i);
        if (cell < content || cell >= PAGE)
            return false;
    }
    return true;
}

static bool has_log(const char *path)
{
    struct buf name = BUF_INIT(65536);
    buf_addf(&name, "%s-wal", path);
    int fd = open(buf_str(&name), O_RDONLY | O_CLOEXEC);
    buf_release(&name);
    if (fd < 0)
        return false;
    uint8_t head[LOG_HEAD];
    const bool found = pread(fd, head, sizeof(head), 0) == sizeof(head) &&
                       memcmp(head, "\x37\x7f\x06", 3) == 0; /* 4.1 */
    close(fd);
    return found;
}

bool trace_found(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    uint8_t page[PAGE];
    bool found = pread(fd, page, HEAD, 0) == HEAD &&
                 (memcmp(page, magic, sizeof(magic)) == 0 || has_log(path));
    for (off_t at = PAGE; !found && pread(fd, page, PAGE, at) == PAGE; at += PAGE)
        found = is_page(page);
    close(fd);
    return found;
}
