/* SPDX-License-Identifier: MIT */

/*
 * Places where a test build dies on purpose, as by kill -9: those named by the environment's TOCSIN_FAULT, written
 * "NAME" or "NAME:7" for the seventh time. Only with -DTOCSIN_FAULTS; else there is nothing.
 */

#ifndef TOCSIN_STORE_FAULT_H
#define TOCSIN_STORE_FAULT_H

#ifdef TOCSIN_FAULTS
void fault_point(const char *name);
#else
static inline void fault_point(const char *name)
{
    (void)name;
}
#endif

#endif
