/* SPDX-License-Identifier: MIT */

/* Memory that is not there, for tests of what happens then. In all that is linked into the unit tests, but for libraries. */

#ifndef TOCSIN_TESTS_SCARCE_H
#define TOCSIN_TESTS_SCARCE_H

#include <stddef.h>

/* From now on each request of this thread for exactly so many bytes is refused; 0: none is. Returns how many were since the
 * last call. */
unsigned memory_refuse(size_t size);

#endif
