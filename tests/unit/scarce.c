/* SPDX-License-Identifier: MIT */

/* The linker puts these in place of malloc() and its like (--wrap). */

#include "scarce.h"

#include <stdbool.h>

static _Thread_local size_t refused_size;
static _Thread_local unsigned refused;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);

unsigned memory_refuse(size_t size)
{
    const unsigned before = refused;
    refused_size = size;
    refused = 0;
    return before;
}

static bool is_refused(size_t size)
{
    if (size == 0 || size != refused_size)
        return false;
    refused++;
    return true;
}

void *__wrap_malloc(size_t size)
{
    return is_refused(size) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return is_refused(count * size) ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    return is_refused(size) ? NULL : __real_realloc(memory, size);
}
