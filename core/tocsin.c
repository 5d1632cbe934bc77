/* SPDX-License-Identifier: MIT */
#include <stdio.h>
int main(void)
{
    puts("tocsin " TOCSIN_VERSION);
    return 0;
}
