/* SPDX-License-Identifier: MIT */

/* The program: everything is a command, see core/cli. */

#include "cli/cli.h"

int main(int argc, char **argv)
{
    return cli_main(argc, argv);
}
