/* SPDX-License-Identifier: MIT */

/* From a struct that is embedded by value to the one around it. Any thread. */

#ifndef TOCSIN_BASE_CONTAINER_H
#define TOCSIN_BASE_CONTAINER_H

#include <stddef.h>

/* CONTAINER_OF(source, struct connection, source): the connection whose member `source` that is. */
#define CONTAINER_OF(PTR, TYPE, MEMBER) ((TYPE *)(void *)((char *)(PTR)-offsetof(TYPE, MEMBER)))

#endif
