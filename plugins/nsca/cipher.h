/* SPDX-License-Identifier: MIT */

/*
 * The encryption of NSCA: XOR with password and vector, or a block cipher of libmcrypt's in its 8-bit
 * CFB mode, where the password, cut or filled with zeros, is the key. A cipher belongs to one thread.
 */

#ifndef NSCA_CIPHER_H
#define NSCA_CIPHER_H

#include <stddef.h>
#include <stdint.h>

#define CIPHER_IV_LEN 128 /* bytes that the server sends; a method uses the first of them */

struct cipher;

/* Whether a cipher can be made of these. Returns NULL, or a static string that says what to change. */
const char *cipher_check(const char *method, const char *password);

/* Makes a cipher of what cipher_check() has found good. `method` is a number or a name; `password` is
 * borrowed. Returns 0 and sets `*out`; -ELIBACC if libmcrypt is needed and not there, -EINVAL,
 * -ENOTSUP or -ENOMEM. */
int cipher_new(const char *method, const char *password, struct cipher **out);
void cipher_free(struct cipher *cipher);

/* Begins a connection. `iv` is copied. Returns 0 or -ENOTSUP. */
int cipher_begin(struct cipher *cipher, const uint8_t iv[CIPHER_IV_LEN]);

/* Encrypts the next packet of the connection in place. Returns 0 or -EIO. */
int cipher_apply(struct cipher *cipher, uint8_t *packet, size_t len);

/* Ends a connection; allowed when none has begun. */
void cipher_end(struct cipher *cipher);

#endif
