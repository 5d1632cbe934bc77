/* SPDX-License-Identifier: MIT */

/* What fields.c wants of the arena beside what fields.h says. */

#ifndef TOCSIN_ROUTER_FIELDS_ARENA_H
#define TOCSIN_ROUTER_FIELDS_ARENA_H

#include "router/field_path.h"
#include "router/fields.h"

/* A time field. Its text is rendered once for a message, however often it is asked for. VALUE_NONE when there is
 * no memory. */
struct value fields_arena_time(struct fields_arena *arena, enum field_fixed field,
                               int64_t received_ms);

#endif
