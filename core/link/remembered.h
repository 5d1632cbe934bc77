/* SPDX-License-Identifier: MIT */

/*
 * The filters that a link has subscribed in a session that the broker keeps, in a file. A broker cannot be
 * asked for them; so without this a filter that was taken out of the configuration while the program was
 * not running would stay subscribed, and bring messages that a new filter brings too a second time.
 *
 * The file belongs to one session: host, port and client identifier stand in it, and it is of no use for
 * another. Functions may block on the disk.
 */

#ifndef TOCSIN_LINK_REMEMBERED_H
#define TOCSIN_LINK_REMEMBERED_H

#include <stddef.h>

/*
 * Reads the file. Sets `*filters` to `*count` strings, to be freed each and together. Returns 0, also
 * when there is no file or it is of another session; -EINVAL if it is none of ours, or another negative
 * errno value.
 */
int remembered_read(const char *path, const char *session, char ***filters, size_t *count);

/* Puts `count` filters in place of what the file says, or leaves it as it is. Returns 0 or a negative
 * errno value. */
int remembered_write(const char *path, const char *session, const char *const *filters,
                     size_t count);

#endif
