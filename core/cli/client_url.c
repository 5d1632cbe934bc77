/* SPDX-License-Identifier: MIT */

/* mqtt://USER:PASSWORD@HOST:PORT/TOPIC, taken apart. Any thread. */

#include "cli/client.h"

#include <stdlib.h>
#include <string.h>

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *place = c ? strchr(digits, c) : NULL;
    return place ? (int)(place - digits) % 16 : -1;
}

/* Replaces %2F and so on, in place. Returns false for what is no character, or NUL. */
static bool decode(char *text)
{
    char *out = text;
    for (; *text; text++) {
        if (*text != '%') {
            *out++ = *text;
            continue;
        }
        int high = hex_digit(text[1]);
        int low = high < 0 ? -1 : hex_digit(text[2]);
        if (low < 0 || high * 16 + low == 0)
            return false;
        *out++ = (char)(high * 16 + low);
        text += 2;
    }
    *out = '\0';
    return true;
}

static const char *read_user(char *user, struct client_url *url)
{
    char *colon = strchr(user, ':');
    if (colon)
        *colon = '\0';
    url->username = user;
    url->password = colon ? colon + 1 : NULL;
    if (!decode(user) || (colon && !decode(colon + 1)))
        return "has a % in user name or password that is not %25 and so on";
    return NULL;
}

static const char *read_host(char *host, struct client_url *url)
{
    char *after = host + strcspn(host, ":");
    if (*host == '[') {
        after = strchr(host, ']');
        if (!after)
            return "has a [ without a ]";
        host++;
        *after++ = '\0';
    }
    url->host = host;
    if (*after == ':') {
        char *end;
        long port = strtol(after + 1, &end, 10);
        if (*end || end == after + 1 || port < 1 || port > 65535)
            return "has no port from 1 to 65535 after the colon";
        url->port = (int)port;
    } else if (*after) {
        return "goes on after the ] of the host with something other than a port";
    }
    *after = '\0';
    return *host ? NULL : "names no host";
}

const char *client_url_read(const char *text, struct client_url *url)
{
    *url = (struct client_url){ .text = strdup(text) };
    if (!url->text)
        return "finds no memory";
    char *host = strstr(url->text, "://");
    if (!host)
        return "has no ://";
    *host = '\0';
    host += 3;
    url->scheme = url->text;
    char *slash = strchr(host, '/');
    if (slash)
        *slash = '\0';
    url->path = slash ? slash + 1 : "";
    char *at = strrchr(host, '@');
    if (!at)
        return read_host(host, url);
    *at = '\0';
    const char *fault = read_host(at + 1, url);
    return fault ? fault : read_user(host, url);
}

void client_url_release(struct client_url *url)
{
    if (url->password)
        explicit_bzero((char *)url->password, strlen(url->password));
    free(url->text);
    *url = (struct client_url){ 0 };
}
