/* SPDX-License-Identifier: MIT */

/* The fields of a message as a flat list, for services that take them all. One thread. */

#ifndef TOCSIN_ROUTER_FLATTEN_H
#define TOCSIN_ROUTER_FLATTEN_H

#include "router/fields.h"
#include "tocsin/plugin.h"

#define FLATTEN_MAX 256 /* fields of one message; what is more is left out */

/*
 * Fills `out` (FLATTEN_MAX places) with the named levels, the set fields and the decoded payload, in this
 * order; of a name that comes twice the first counts. Objects are flattened ("a.b"), arrays are JSON. Texts
 * live in the fields' arena, NUL-terminated, valid UTF-8. Returns how many; or what there was memory for.
 */
size_t fields_flatten(const struct fields *fields, struct tocsin_field *out);

#endif
