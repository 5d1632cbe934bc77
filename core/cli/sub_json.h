/* SPDX-License-Identifier: MIT */

/* A message as a JSON object, for %j and %J of `tocsin sub`. Any thread. */

#ifndef TOCSIN_CLI_SUB_JSON_H
#define TOCSIN_CLI_SUB_JSON_H

#include "cli/sub_format.h"

/* Appends the object: the payload as a string, or, if `parsed`, as the JSON that it is; laid out over several
 * lines if `pretty`. Returns 0, -EINVAL if it is to be parsed and is not JSON, or what buf_add() returns. */
int sub_json_add(const struct sub_message *message, bool parsed, bool pretty, struct buf *out);

#endif
