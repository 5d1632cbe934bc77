/* SPDX-License-Identifier: MIT */

#include "net/addresses.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <string.h>

uint16_t address_port(const struct address *address)
{
    return ntohs(address->any.sa_family == AF_INET6 ? address->ipv6.sin6_port
                                                    : address->ipv4.sin_port);
}

void address_set_port(struct address *address, uint16_t port)
{
    if (address->any.sa_family == AF_INET6)
        address->ipv6.sin6_port = htons(port);
    else
        address->ipv4.sin_port = htons(port);
}

static void add_ipv4(struct buf *out, const void *bytes, uint16_t port)
{
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, bytes, text, sizeof(text));
    buf_addf(out, "%s:%u", text, port);
}

static void add_ipv6(struct buf *out, const struct sockaddr_in6 *address, uint16_t port)
{
    char text[INET6_ADDRSTRLEN], interface[IF_NAMESIZE] = "";
    inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof(text));
    if (address->sin6_scope_id != 0)
        if_indextoname(address->sin6_scope_id, interface);
    buf_addf(out, "[%s%s%s]:%u", text, interface[0] ? "%" : "", interface, port);
}

void address_add(struct buf *out, const struct address *address)
{
    uint16_t port = address_port(address);
    if (address->any.sa_family == AF_INET)
        add_ipv4(out, &address->ipv4.sin_addr, port);
    else if (IN6_IS_ADDR_V4MAPPED(&address->ipv6.sin6_addr))
        add_ipv4(out, &address->ipv6.sin6_addr.s6_addr[12], port);
    else
        add_ipv6(out, &address->ipv6, port);
}

static bool is_wanted(enum listener_domain domain, int family)
{
    return (family == AF_INET && domain != LISTENER_IPV6) ||
           (family == AF_INET6 && domain != LISTENER_IPV4);
}

/* Ignores what is there already, other families than `family`, and what is too many. */
static void take(struct addresses *out, const struct sockaddr *from, int family)
{
    if (!from || from->sa_family != family || out->count == LISTENER_SOCKETS)
        return;
    struct address address = { .len = family == AF_INET6 ? sizeof(address.ipv6)
                                                         : sizeof(address.ipv4) };
    memcpy(&address.storage, from, address.len);
    for (size_t i = 0; i < out->count; i++)
        if (out->all[i].len == address.len &&
            memcmp(&out->all[i].storage, &address.storage, address.len) == 0)
            return;
    out->all[out->count++] = address;
}

static const int families[] = { AF_INET, AF_INET6 };

static int find_all(enum listener_domain domain, struct addresses *out)
{
    const struct sockaddr_in ipv4 = { .sin_family = AF_INET };
    const struct sockaddr_in6 ipv6 = { .sin6_family = AF_INET6, .sin6_addr = in6addr_any };
    if (is_wanted(domain, AF_INET))
        take(out, (const struct sockaddr *)&ipv4, AF_INET);
    if (is_wanted(domain, AF_INET6))
        take(out, (const struct sockaddr *)&ipv6, AF_INET6);
    return 0;
}

static const char *kind_of(enum listener_domain domain)
{
    return domain == LISTENER_IPV4 ? "IPv4 " : domain == LISTENER_IPV6 ? "IPv6 " : "";
}

static int find_named(const char *name, enum listener_domain domain, struct addresses *out,
                      struct buf *why)
{
    const struct addrinfo want = { .ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE };
    struct addrinfo *list;
    int error = getaddrinfo(name, NULL, &want, &list);
    if (error != 0) {
        buf_addf(why,
                 "listening on \"%s\": %s; give an address or host name of this host, or "
                 "nothing for all addresses",
                 name, error == EAI_SYSTEM ? strerrordesc_np(errno) : gai_strerror(error));
        return -EINVAL;
    }
    for (size_t f = 0; f < 2; f++)
        for (const struct addrinfo *at = list; at; at = at->ai_next)
            if (is_wanted(domain, families[f]))
                take(out, at->ai_addr, families[f]);
    freeaddrinfo(list);
    if (out->count > 0)
        return 0;
    buf_addf(why, "listening on \"%s\": it has no %saddress; correct `bind` or `socket_domain`",
             name, kind_of(domain));
    return -EADDRNOTAVAIL;
}

static int find_interface(const char *name, enum listener_domain domain, struct addresses *out,
                          struct buf *why)
{
    struct ifaddrs *list;
    if (getifaddrs(&list) < 0) {
        int rc = -errno;
        buf_addf(why, "listening on interface \"%s\": %s", name, strerrordesc_np(-rc));
        return rc;
    }
    bool exists = false;
    for (size_t f = 0; f < 2; f++)
        for (const struct ifaddrs *at = list; at; at = at->ifa_next) {
            if (strcmp(at->ifa_name, name) != 0)
                continue;
            exists = true;
            if (is_wanted(domain, families[f]))
                take(out, at->ifa_addr, families[f]);
        }
    freeifaddrs(list);
    if (out->count > 0)
        return 0;
    if (exists)
        buf_addf(why, "listening on interface \"%s\": it has no %saddress now", name,
                 kind_of(domain));
    else
        buf_addf(why, "listening on interface \"%s\": this host has no interface of that name",
                 name);
    return exists ? -EADDRNOTAVAIL : -ENODEV;
}

int addresses_find(const struct listener_options *options, struct addresses *out, struct buf *why)
{
    out->count = 0;
    bool by_name = options->bind && *options->bind;
    bool by_interface = options->interface && *options->interface;
    if (by_name && by_interface) {
        buf_addf(why,
                 "listening on port %u: an address (\"%s\") and an interface (\"%s\") exclude "
                 "each other; leave one out",
                 options->port, options->bind, options->interface);
        return -EINVAL;
    }
    if (by_name)
        return find_named(options->bind, options->domain, out, why);
    if (by_interface)
        return find_interface(options->interface, options->domain, out, why);
    return find_all(options->domain, out);
}
