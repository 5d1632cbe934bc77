/* SPDX-License-Identifier: MIT */

/*
 * A letter of any bytes: one of flags, then texts that end with a NUL, the last of which is body and
 * attachment.
 *
 * Beside what the sanitizers see: every line is short printable ASCII ended by CR LF, the header has each
 * name once and none that is not ours, and there are as many parts as there should be.
 */

#include "../../plugins/mail/letter.c"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum flags {
    WITH_TEXT = 0x1,
    WITH_HTML = 0x2,
    WITH_ATTACHMENT = 0x4,
    WITH_THREAD = 0x8,
    HIGH = 0x10
};

static const char *next_text(const char **at, const char *end)
{
    const char *text = *at;
    size_t len = strlen(text);
    *at = text + len < end ? text + len + 1 : end;
    return text;
}

static bool is_ours(const char *line, size_t len)
{
    static const char *const names[] = {
        "Date",       "From",       "Reply-To",     "To",           "Cc",
        "Subject",    "Message-ID", "In-Reply-To",  "References",   "Auto-Submitted",
        "X-Priority", "Importance", "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t n = strlen(names[i]);
        if (len > n && memcmp(line, names[i], n) == 0 && line[n] == ':')
            return true;
    }
    return false;
}

/* Checks all lines. Returns how many begin with `start`: of the header, or if that is a boundary, of the body, where a text may
 * have lines that look like the header's. */
static size_t check_lines(const struct octets *out, const char *start)
{
    size_t found = 0;
    bool in_header = true;
    for (size_t at = 0; at < out->len;) {
        const char *line = out->data + at;
        const char *end = memchr(line, '\r', out->len - at);
        assert(end && end + 1 < out->data + out->len && end[1] == '\n');
        size_t len = (size_t)(end - line);
        assert(len <= 998);
        for (size_t i = 0; i < len; i++)
            assert(is_printable(line[i]) || line[i] == '\t');
        if (len == 0)
            in_header = false;
        if (in_header)
            assert(is_ours(line, len) || (line[0] == ' ' && at > 0));
        if (in_header == (start[0] != '-') && len >= strlen(start) &&
            memcmp(line, start, strlen(start)) == 0)
            found++;
        at += len + 2;
    }
    return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    unsigned flags = data[0];
    char *copy = malloc(size);
    if (!copy)
        return 0;
    memcpy(copy, data + 1, size - 1);
    copy[size - 1] = '\0';

    const char *at = copy;
    const char *end = copy + size - 1;
    const char *from = next_text(&at, end);
    struct mailbox box;
    if (!mailbox_parse(from, &box))
        from = "a@example.org";
    const char *const to[] = { from, "Ann <ann@example.org>", NULL };
    struct letter letter = {
        .from = from,
        .to = { to, 2 },
        .subject = next_text(&at, end),
        .id = "id-1",
        .date_ms = (int64_t)size * 1000003 * (flags & HIGH ? 1 : -1),
        .importance = flags & HIGH ? 1 : 0,
        .attachment_type = "text/plain",
        .attachment_name = next_text(&at, end),
    };
    letter.thread = next_text(&at, end);
    letter.html = next_text(&at, end);
    letter.thread = flags & WITH_THREAD ? letter.thread : NULL;
    letter.html = flags & WITH_HTML ? letter.html : NULL;
    letter.text = flags & WITH_TEXT ? at : NULL;
    letter.text_len = (size_t)(end - at);
    letter.attachment = flags & WITH_ATTACHMENT ? at : NULL;
    letter.attachment_len = letter.text_len;

    struct octets out = { .max = (size_t)1 << 24 };
    letter_write(&letter, &out);
    assert(out.error == 0 && out.len > 2);
    assert(check_lines(&out, "--=_mixed") == (letter.attachment ? 3 : 0));
    assert(check_lines(&out, "--=_alternative") == (letter.text && letter.html ? 3 : 0));
    assert(check_lines(&out, "Subject: ") == 1);
    assert(check_lines(&out, "From: ") == 1);
    octets_release(&out);

    out.max = size % 700; /* too small: an error and nothing worse */
    letter_write(&letter, &out);
    assert(out.error == 0 || out.error == -E2BIG);
    octets_release(&out);
    free(copy);
    return 0;
}
