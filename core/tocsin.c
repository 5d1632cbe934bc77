/* SPDX-License-Identifier: MIT */

/* The program: everything is a command, see core/cli. */

#include "cli/cli.h"

#include <fcntl.h>
#include <unistd.h>

/* Whoever starts it with a standard stream closed must not find the log in a socket or a file that happened to
 * get the number. */
static void fill_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    fill_standard_streams();
    return cli_main(argc, argv);
}
