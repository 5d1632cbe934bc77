/* SPDX-License-Identifier: MIT */

/* What writer and reader of sheets have in common. Part of the file format: never renumber. */

#ifndef TOCSIN_LEDGER_SHEET_FORMAT_H
#define TOCSIN_LEDGER_SHEET_FORMAT_H

#define SHEET_VERSION 1
#define SHEET_HEAD    5 /* bytes: version and length */

enum sheet_tag {
    SHEET_TAG_NAME = 1,
    SHEET_TAG_MESSAGE = 2,
    SHEET_TAG_EVENT = 3,
    SHEET_TAG_BEGIN = 4,
    SHEET_TAG_END = 5,
};

/* The flags of a message. */
enum sheet_flags {
    SHEET_QOS = 0x3,
    SHEET_RETAIN = 0x4,
    SHEET_DUP = 0x8,
};

#endif
