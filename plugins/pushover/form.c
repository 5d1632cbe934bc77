/* SPDX-License-Identifier: MIT */

/* The parameters of a request. On the thread of the instance. */

#include "form.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define HTML_DEPTH   8
#define ENTITY_BYTES 12
#define CIPHER_BLOCK 16
#define CIPHER_MAC   32

static const char ellipsis[] = "…";

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

bool form_is_name(const char *text, size_t max)
{
    size_t len = 0;
    for (; text[len] != '\0'; len++) {
        if (!is_alnum(text[len]) && text[len] != '_' && text[len] != '-')
            return false;
    }
    return len > 0 && len <= max;
}

size_t form_prefix(const char *text, size_t len, size_t max)
{
    size_t i = 0;
    for (size_t chars = 0; i < len; i++) {
        if (((unsigned char)text[i] & 0xc0) != 0x80 && chars++ == max)
            break;
    }
    return i;
}

/* ---- Adding ------------------------------------------------------------------------------------ */

/* Takes `value`, which may be NULL for lack of memory. */
static void form_take(struct form *form, const char *name, char *value, size_t len)
{
    if (!value || form->count == FORM_FIELDS) {
        form->error = -ENOMEM;
        free(value);
        return;
    }
    form->fields[form->count++] = (struct form_field){ .name = name, .value = value, .len = len };
}

void form_release(struct form *form)
{
    for (size_t i = 0; i < form->count; i++)
        free(form->fields[i].value);
    form->count = 0;
}

void form_add(struct form *form, const char *name, const char *value)
{
    form_take(form, name, strdup(value), strlen(value));
}

void form_add_number(struct form *form, const char *name, int64_t number)
{
    char text[24];
    snprintf(text, sizeof(text), "%lld", (long long)number);
    form_add(form, name, text);
}

void form_add_list(struct form *form, const char *name, const struct tocsin_list *list)
{
    size_t room = 1;
    for (size_t i = 0; i < list->count; i++)
        room += strlen(list->items[i]) + 1;
    char *joined = malloc(room);
    size_t at = 0;
    for (size_t i = 0; joined && i < list->count; i++)
        at += (size_t)snprintf(joined + at, room - at, "%s%s", i > 0 ? "," : "", list->items[i]);
    form_take(form, name, joined, at);
}

char *form_encode(const struct form *form, size_t *len)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t room = 1;
    for (size_t i = 0; i < form->count; i++)
        room += strlen(form->fields[i].name) + 3 * form->fields[i].len + 2;
    char *out = malloc(room);
    size_t n = 0;
    for (size_t i = 0; out && i < form->count; i++) {
        const struct form_field *field = &form->fields[i];
        n += (size_t)snprintf(out + n, room - n, "%s%s=", i > 0 ? "&" : "", field->name);
        for (size_t k = 0; k < field->len; k++) {
            const unsigned char c = (unsigned char)field->value[k];
            if (is_alnum((char)c) || c == '-' || c == '.' || c == '_' || c == '~') {
                out[n++] = (char)c;
            } else {
                out[n++] = '%';
                out[n++] = hex[c >> 4];
                out[n++] = hex[c & 15];
            }
        }
    }
    *len = n;
    return out;
}

/* ---- Encryption -------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool cipher_key(const char *text, unsigned char key[FORM_CIPHER_KEY])
{
    if (strlen(text) != (size_t)2 * FORM_CIPHER_KEY)
        return false;
    for (size_t i = 0; i < FORM_CIPHER_KEY; i++) {
        const int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

bool form_is_cipher_key(const char *text)
{
    unsigned char key[FORM_CIPHER_KEY];
    const bool is_key = cipher_key(text, key);
    OPENSSL_cleanse(key, sizeof(key));
    return is_key;
}

static unsigned char *gzip(const char *text, size_t len, size_t *out_len)
{
    z_stream z = { .next_in = (z_const Bytef *)text, .avail_in = (uInt)len };
    if (deflateInit2(&z, Z_BEST_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return NULL;
    const uLong room = deflateBound(&z, (uLong)len);
    unsigned char *out = malloc(room);
    z.next_out = out;
    z.avail_out = (uInt)room;
    if (out && deflate(&z, Z_FINISH) != Z_STREAM_END) {
        free(out);
        out = NULL;
    }
    *out_len = z.total_out;
    deflateEnd(&z);
    return out;
}

/* base64(IV, AES-256-CBC(gzip(text)), HMAC-SHA256 of both); NULL if anything fails. */
static char *encrypt(const char *hex_key, const char *text, size_t len, size_t *out_len)
{
    unsigned char key[FORM_CIPHER_KEY];
    size_t zipped_len = 0;
    unsigned char *zipped = gzip(text, len, &zipped_len);
    unsigned char *sealed = malloc(zipped_len + (size_t)2 * CIPHER_BLOCK + CIPHER_MAC);
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    char *out = NULL;
    int n = 0, rest = 0;

    if (zipped && sealed && cipher && cipher_key(hex_key, key) &&
        RAND_bytes(sealed, CIPHER_BLOCK) == 1 &&
        EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, key, sealed) == 1 &&
        EVP_EncryptUpdate(cipher, sealed + CIPHER_BLOCK, &n, zipped, (int)zipped_len) == 1 &&
        EVP_EncryptFinal_ex(cipher, sealed + CIPHER_BLOCK + n, &rest) == 1) {
        const size_t before_mac = CIPHER_BLOCK + (size_t)n + (size_t)rest;
        const size_t sealed_len = before_mac + CIPHER_MAC;
        if (HMAC(EVP_sha256(), key, FORM_CIPHER_KEY, sealed, before_mac, sealed + before_mac, NULL))
            out = malloc((sealed_len + 2) / 3 * 4 + 1);
        if (out)
            *out_len = (size_t)EVP_EncodeBlock((unsigned char *)out, sealed, (int)sealed_len);
    }
    OPENSSL_cleanse(key, sizeof(key));
    EVP_CIPHER_CTX_free(cipher);
    free(sealed);
    free(zipped);
    return out;
}

/* ---- Texts ------------------------------------------------------------------------------------- */

/* Takes a text that fits; encrypts it first if need be. */
static void take_text(struct form *form, const char *name, char *text, size_t len)
{
    if (text && form->cipher_key) {
        size_t sealed_len = 0;
        char *sealed = encrypt(form->cipher_key, text, len, &sealed_len);
        free(text);
        text = sealed;
        len = sealed_len;
    }
    form_take(form, name, text, len);
}

static char *concat(const char *text, size_t len, const char *end)
{
    const size_t end_len = strlen(end);
    char *out = malloc(len + end_len + 1);
    if (out) {
        memcpy(out, text, len);
        memcpy(out + len, end, end_len + 1);
    }
    return out;
}

void form_add_text(struct form *form, const char *name, const char *text, size_t len, size_t max)
{
    const char *end = "";
    if (form_prefix(text, len, max) < len) {
        len = form_prefix(text, len, max - 1);
        end = ellipsis;
    }
    take_text(form, name, concat(text, len, end), len + strlen(end));
}

/* The tags that are open at some place of an HTML text. */
struct html_tags {
    struct html_tag {
        const char *name;
        size_t len;
    } open[HTML_DEPTH];
    size_t depth;
    size_t closing; /* characters that closing them takes */
};

/* The end of the tag, entity or character that begins at `text[i]`. */
static size_t html_token(const char *text, size_t len, size_t i)
{
    const char last = text[i] == '<' ? '>' : text[i] == '&' ? ';' : '\0';
    if (last != '\0') {
        const size_t reach = last == ';' && len - i > ENTITY_BYTES ? ENTITY_BYTES : len - i;
        const char *end = memchr(text + i, last, reach);
        if (end)
            return (size_t)(end - text) + 1;
    }
    return i + form_prefix(text + i, len - i, 1);
}

/* Notes what the tag `text` ("<...>") opens or closes. Returns false if too many are open. */
static bool html_tag(struct html_tags *tags, const char *text, size_t len)
{
    if (text[1] == '/') {
        if (tags->depth > 0)
            tags->closing -= tags->open[--tags->depth].len + strlen("</>");
        return true;
    }
    size_t end = 1;
    while (is_alnum(text[end]))
        end++;
    const struct html_tag tag = { .name = text + 1, .len = end - 1 };
    if (tag.len == 0 || text[len - 2] == '/' || (tag.len == 2 && memcmp(tag.name, "br", 2) == 0))
        return true;
    if (tags->depth == HTML_DEPTH)
        return false;
    tags->open[tags->depth++] = tag;
    tags->closing += tag.len + strlen("</>");
    return true;
}

/* The longest beginning that fits into `max` characters with an ellipsis and the closing tags it
 * needs, which are left in `*tags`. */
static size_t html_prefix(const char *text, size_t len, size_t max, struct html_tags *tags)
{
    struct html_tags now = { .depth = 0 };
    size_t best = 0;
    *tags = now;
    for (size_t i = 0, chars = 0; i < len && chars < max;) {
        const size_t end = html_token(text, len, i);
        for (size_t k = i; k < end; k++)
            chars += ((unsigned char)text[k] & 0xc0) != 0x80;
        if (text[i] == '<' && text[end - 1] == '>' && !html_tag(&now, text + i, end - i))
            break;
        i = end;
        if (chars + 1 + now.closing <= max) {
            *tags = now;
            best = i;
        }
    }
    return best;
}

void form_add_html(struct form *form, const char *name, const char *text, size_t len, size_t max)
{
    if (form_prefix(text, len, max) == len) {
        take_text(form, name, concat(text, len, ""), len);
        return;
    }
    struct html_tags tags;
    len = html_prefix(text, len, max, &tags);
    const size_t room = sizeof(ellipsis) + tags.closing;
    char *end = malloc(room);
    if (!end) {
        form->error = -ENOMEM;
        return;
    }
    size_t n = (size_t)snprintf(end, room, "%s", ellipsis);
    while (tags.depth > 0) {
        const struct html_tag *tag = &tags.open[--tags.depth];
        n += (size_t)snprintf(end + n, room - n, "</%.*s>", (int)tag->len, tag->name);
    }
    take_text(form, name, concat(text, len, end), len + n);
    free(end);
}
