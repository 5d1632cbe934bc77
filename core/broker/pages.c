/* SPDX-License-Identifier: MIT */

#include "broker/pages.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LARGE 32768u

static bool is_large(size_t len)
{
#ifdef __SANITIZE_ADDRESS__
    (void)len;
    return false; /* for malloc's red zones, and so that leaks are found */
#else
    return len >= LARGE;
#endif
}

void *pages_alloc(size_t len)
{
    if (!is_large(len))
        return calloc(1, len);
    void *block = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}

void pages_free(void *block, size_t len)
{
    if (!is_large(len))
        free(block);
    else if (block)
        munmap(block, len);
}
