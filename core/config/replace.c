/* SPDX-License-Identifier: MIT */

/* What configuration strings take from outside the file. Any thread. */

#include "config/replace.h"

#include "config/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What stands there stays unsaid: it may be part of a password. */
#define WRONG_REFERENCE                                                                   \
    "\"${\" must go on as ${env:NAME} or ${file:PATH}: write \"$${\" for the characters " \
    "themselves"

static int take_env(const char *name, struct buf *out, struct buf *why)
{
    const char *value = getenv(name);
    if (value)
        return buf_add_str(out, value);
    buf_addf(why, "the environment has no %s: set it, or write the value here", name);
    return -EINVAL;
}

static int take_file(const char *path, const char *beside, struct buf *out, struct buf *why)
{
    struct buf full = BUF_INIT(SOURCE_MAX_BYTES);
    path_beside(&full, beside, path, strlen(path));
    size_t before = out->len;
    int rc = full.error ? full.error : file_read(buf_str(&full), out);
    if (rc < 0 && rc != -E2BIG && rc != -ENOMEM) {
        buf_addf(why, "%s cannot be read: %s", buf_str(&full), strerrordesc_np(-rc));
        rc = -EINVAL;
    } else if (rc == 0 && memchr(buf_str(out) + before, '\0', out->len - before)) {
        buf_addf(why, "%s has a NUL byte in it", buf_str(&full));
        rc = -EINVAL;
    }
    if (rc == 0 && out->len > before && buf_str(out)[out->len - 1] == '\n')
        buf_cut(out, out->len - 1);
    buf_release(&full);
    return rc;
}

/* `what` is the text between the braces. */
static int take_reference(const char *what, const char *beside, struct buf *out, struct buf *why)
{
    if (strncmp(what, "env:", 4) == 0)
        return take_env(what + 4, out, why);
    if (strncmp(what, "file:", 5) == 0)
        return take_file(what + 5, beside, out, why);
    buf_add_str(why, WRONG_REFERENCE);
    return -EINVAL;
}

int replace(const char *text, const char *beside, struct buf *out, bool *secret, struct buf *why)
{
    *secret = false;
    int rc = 0;
    while (rc == 0) {
        const char *dollar = strstr(text, "${");
        if (!dollar) {
            rc = buf_add_str(out, text);
            break;
        }
        buf_add(out, text, (size_t)(dollar - text));
        if (dollar > text && dollar[-1] == '$') {
            rc = buf_add_str(out, "{");
            text = dollar + 2;
            continue;
        }
        const char *end = strchr(dollar, '}');
        if (!end) {
            buf_add_str(why, WRONG_REFERENCE);
            return -EINVAL;
        }
        char *what = strndup(dollar + 2, (size_t)(end - dollar) - 2);
        rc = what ? take_reference(what, beside, out, why) : -ENOMEM;
        free(what);
        *secret = true;
        text = end + 1;
    }
    if (rc == -E2BIG) {
        buf_addf(why, "is longer than %d MiB", REPLACE_MAX_BYTES / 1024 / 1024);
        rc = -EINVAL;
    }
    return rc;
}
