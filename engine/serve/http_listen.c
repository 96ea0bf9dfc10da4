#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/serve/http_internal.h"

#define BACKLOG 1024

/* The number of the port that a socket is bound to. */
static size_t bound_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &bytes) != 0)
        return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

/* A socket that listens at one address, or -1 with errno. */
static int listen_at(const struct addrinfo *at)
{
    int one = 1, fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

int http_listen(const char *host, size_t *port, fail_t *fail)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found;
    char service[16];
    int fd = -1;
    snprintf(service, sizeof service, "%zu", *port);
    int error = getaddrinfo(host, service, &hints, &found);
    if (error != 0) {
        fail_set(fail, FAIL_COMM, "--host %s: expected an address of this machine: %s", host,
            gai_strerror(error));
        return -1;
    }
    for (const struct addrinfo *at = found; at != NULL && fd < 0; at = at->ai_next)
        fd = listen_at(at);
    if (fd < 0)
        fail_set(fail, FAIL_COMM, "cannot listen at %s port %zu: %s", host, *port, strerror(errno));
    else
        *port = bound_port(fd);
    freeaddrinfo(found);
    return fd;
}
