/* SPDX-License-Identifier: MIT */

/*
 * 3DES and AES are OpenSSL's. For the others libmcrypt is opened at run time, so that nobody needs it
 * who does not use them.
 */

#include "cipher.h"

#include <dlfcn.h>
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX      128
#define PASSWORD_MAX 511 /* bytes that a server reads */

enum engine {
    ENGINE_REFUSED,
    ENGINE_NONE,
    ENGINE_XOR,
    ENGINE_OPENSSL,
    ENGINE_MCRYPT
};

struct method {
    const char *number;
    const char *name; /* libmcrypt's */
    const char *also; /* another name, or "" */
    enum engine engine;
    size_t key_len; /* the password is cut or filled with zeros to so many bytes */
};

/* Those refused do not work in any packaged server. */
static const struct method methods[] = {
    { "0", "none", "", ENGINE_NONE, 0 },
    { "1", "xor", "", ENGINE_XOR, 0 },
    { "2", "des", "", ENGINE_MCRYPT, 8 },
    { "3", "tripledes", "3des", ENGINE_OPENSSL, 24 },
    { "4", "cast-128", "", ENGINE_MCRYPT, 16 },
    { "5", "cast-256", "", ENGINE_MCRYPT, 32 },
    { "6", "xtea", "", ENGINE_MCRYPT, 16 },
    { "7", "threeway", "3way", ENGINE_REFUSED, 0 },
    { "8", "blowfish", "", ENGINE_MCRYPT, 56 },
    { "9", "twofish", "", ENGINE_MCRYPT, 32 },
    { "10", "loki97", "", ENGINE_MCRYPT, 32 },
    { "11", "rc2", "", ENGINE_MCRYPT, 128 },
    { "12", "arcfour", "rc4", ENGINE_REFUSED, 0 },
    { "13", "rc6", "", ENGINE_REFUSED, 0 },
    { "14", "rijndael-128", "aes-256", ENGINE_OPENSSL, 32 },
    { "15", "rijndael-192", "", ENGINE_MCRYPT, 32 },
    { "16", "rijndael-256", "", ENGINE_MCRYPT, 32 },
    { "17", "mars", "", ENGINE_REFUSED, 0 },
    { "18", "panama", "", ENGINE_REFUSED, 0 },
    { "19", "wake", "", ENGINE_REFUSED, 0 },
    { "20", "serpent", "", ENGINE_MCRYPT, 32 },
    { "21", "idea", "", ENGINE_REFUSED, 0 },
    { "22", "enigma", "", ENGINE_REFUSED, 0 },
    { "23", "gost", "", ENGINE_MCRYPT, 32 },
    { "24", "safer-sk64", "", ENGINE_REFUSED, 0 },
    { "25", "safer-sk128", "", ENGINE_REFUSED, 0 },
    { "26", "saferplus", "safer+", ENGINE_MCRYPT, 32 },
};

static const struct method *method_find(const char *text)
{
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        const struct method *m = &methods[i];
        if (strcmp(text, m->number) == 0 || strcmp(text, m->name) == 0 ||
            (m->also[0] && strcmp(text, m->also) == 0))
            return m;
    }
    return NULL;
}

/* What we use of libmcrypt 2.5. */
struct mcrypt {
    void *library;
    void *(*module_open)(const char *algorithm, const char *algorithm_dir, const char *mode,
                         const char *mode_dir);
    int (*module_close)(void *module);
    int (*generic_init)(void *module, const void *key, int key_len, const void *iv);
    int (*generic_deinit)(void *module);
    int (*generic)(void *module, void *data, int len);
};

/* The library fills tables of its own at any call, so all of them are made under this lock. It is the
 * only thing here that instances share. */
static pthread_mutex_t mcrypt_lock = PTHREAD_MUTEX_INITIALIZER;

static void mcrypt_release(struct mcrypt *mcrypt)
{
    if (mcrypt->library)
        dlclose(mcrypt->library);
    mcrypt->library = NULL;
}

/* Returns 0 or -ELIBACC. */
static int mcrypt_init(struct mcrypt *mcrypt)
{
    *mcrypt = (struct mcrypt){ .library = dlopen("libmcrypt.so.4", RTLD_NOW | RTLD_LOCAL) };
    const struct {
        const char *name;
        void *into;
    } symbols[] = {
        { "mcrypt_module_open", &mcrypt->module_open },
        { "mcrypt_module_close", &mcrypt->module_close },
        { "mcrypt_generic_init", &mcrypt->generic_init },
        { "mcrypt_generic_deinit", &mcrypt->generic_deinit },
        { "mcrypt_generic", &mcrypt->generic },
    };
    for (size_t i = 0; mcrypt->library && i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *symbol = dlsym(mcrypt->library, symbols[i].name);
        if (!symbol)
            mcrypt_release(mcrypt);
        memcpy(symbols[i].into, &symbol, sizeof(symbol)); /* POSIX: a function fits a void * */
    }
    return mcrypt->library ? 0 : -ELIBACC;
}

struct cipher {
    const struct method *method;
    const char *password;
    size_t password_len;
    uint8_t key[KEY_MAX];
    uint8_t iv[CIPHER_IV_LEN];
    EVP_CIPHER_CTX *openssl; /* its state runs on from packet to packet of one connection */
    struct mcrypt mcrypt;
    void *module; /* likewise */
    bool begun;
};

const char *cipher_check(const char *name, const char *password)
{
    const struct method *method = method_find(name);

    if (!method)
        return "encryption: no such method; write a number such as \"14\" or a name such as "
               "\"aes-256\"";
    if (method->engine == ENGINE_REFUSED)
        return "encryption: this method does not work in NSCA servers; write \"14\" (AES-256) here "
               "and the same number in the server's decryption_method";
    if (strlen(password) > PASSWORD_MAX)
        return "password: longer than 511 bytes, which is what a server reads";
    if (method->key_len > 0 && password[0] == '\0')
        return "password: is needed for this encryption";
    if (method->engine == ENGINE_MCRYPT) {
        struct mcrypt mcrypt;
        if (mcrypt_init(&mcrypt) < 0)
            return "encryption: this method needs libmcrypt.so.4; install it (Debian: libmcrypt4), "
                   "or "
                   "use \"14\" or \"3\" on both sides";
        mcrypt_release(&mcrypt);
    }
    return NULL;
}

void cipher_free(struct cipher *cipher)
{
    if (!cipher)
        return;
    cipher_end(cipher);
    EVP_CIPHER_CTX_free(cipher->openssl);
    if (cipher->module) {
        pthread_mutex_lock(&mcrypt_lock);
        cipher->mcrypt.module_close(cipher->module);
        pthread_mutex_unlock(&mcrypt_lock);
    }
    mcrypt_release(&cipher->mcrypt);
    explicit_bzero(cipher->key, sizeof(cipher->key));
    free(cipher);
}

int cipher_new(const char *name, const char *password, struct cipher **out)
{
    const struct method *method = method_find(name);
    struct cipher *cipher = calloc(1, sizeof(*cipher));
    int rc = 0;

    *out = NULL;
    if (!cipher)
        return -ENOMEM;
    cipher->method = method;
    cipher->password = password;
    cipher->password_len = strlen(password);
    memcpy(cipher->key, password,
           cipher->password_len < KEY_MAX ? cipher->password_len : (size_t)KEY_MAX);

    if (!method || method->engine == ENGINE_REFUSED) {
        rc = -EINVAL;
    } else if (method->engine == ENGINE_OPENSSL) {
        cipher->openssl = EVP_CIPHER_CTX_new();
        rc = cipher->openssl ? 0 : -ENOMEM;
    } else if (method->engine == ENGINE_MCRYPT) {
        rc = mcrypt_init(&cipher->mcrypt);
        pthread_mutex_lock(&mcrypt_lock);
        if (rc == 0)
            cipher->module = cipher->mcrypt.module_open(method->name, NULL, "cfb", NULL);
        pthread_mutex_unlock(&mcrypt_lock);
        if (rc == 0 && !cipher->module)
            rc = -ENOTSUP;
    }
    if (rc < 0)
        cipher_free(cipher);
    else
        *out = cipher;
    return rc;
}

int cipher_begin(struct cipher *cipher, const uint8_t iv[CIPHER_IV_LEN])
{
    const struct method *method = cipher->method;

    memcpy(cipher->iv, iv, CIPHER_IV_LEN);
    if (method->engine == ENGINE_OPENSSL) {
        const EVP_CIPHER *algorithm =
            method->key_len == 24 ? EVP_des_ede3_cfb8() : EVP_aes_256_cfb8();
        cipher->begun =
            EVP_EncryptInit_ex(cipher->openssl, algorithm, NULL, cipher->key, cipher->iv) == 1;
        return cipher->begun ? 0 : -ENOTSUP;
    }
    if (method->engine == ENGINE_MCRYPT) {
        pthread_mutex_lock(&mcrypt_lock);
        int rc = cipher->mcrypt.generic_init(cipher->module, cipher->key, (int)method->key_len,
                                             cipher->iv);
        pthread_mutex_unlock(&mcrypt_lock);
        cipher->begun = rc >= 0;
        return cipher->begun ? 0 : -ENOTSUP;
    }
    return 0;
}

int cipher_apply(struct cipher *cipher, uint8_t *packet, size_t len)
{
    int out = 0;
    int rc;

    switch (cipher->method->engine) {
    case ENGINE_XOR: /* begins anew with every packet */
        for (size_t i = 0; i < len; i++) {
            packet[i] ^= cipher->iv[i % CIPHER_IV_LEN];
            if (cipher->password_len > 0)
                packet[i] ^= (uint8_t)cipher->password[i % cipher->password_len];
        }
        return 0;
    case ENGINE_OPENSSL:
        rc = EVP_EncryptUpdate(cipher->openssl, packet, &out, packet, (int)len);
        return rc == 1 && (size_t)out == len ? 0 : -EIO;
    case ENGINE_MCRYPT:
        pthread_mutex_lock(&mcrypt_lock);
        rc = cipher->mcrypt.generic(cipher->module, packet, (int)len);
        pthread_mutex_unlock(&mcrypt_lock);
        return rc < 0 ? -EIO : 0;
    default:
        return 0;
    }
}

void cipher_end(struct cipher *cipher)
{
    if (!cipher->begun)
        return;
    cipher->begun = false;
    if (cipher->openssl)
        EVP_CIPHER_CTX_reset(cipher->openssl);
    if (cipher->module) {
        pthread_mutex_lock(&mcrypt_lock);
        cipher->mcrypt.generic_deinit(cipher->module);
        pthread_mutex_unlock(&mcrypt_lock);
    }
}
