/* transport/identity.c - Ed25519 keys on OpenSSL: made, kept in a file, signed with.
 *
 * Owns:      the EVP_PKEY of one identity, with its public key and node id worked out once.
 * Happy path: load opens the PEM file, checks that it is ours alone, and reads the key.  A file
 * that is not there is written aside, synced and linked into place, so that two processes that
 *            start at once end up with the same key and a crash leaves a whole file or none.
 * Failure:   HM_ERR_STORAGE with a line that names the file.  An existing file is never written.
 * Invariant: an identity always has an Ed25519 private key. */
#include "transport/identity.h"

#include "base/assert.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

enum { KEY_FILE_BYTES_MAX = 4096, PATH_BYTES = 4096 };

struct hm_identity {
    EVP_PKEY *key;
    uint8_t public_key[HM_PUBLIC_KEY_BYTES];
    struct hm_node_id node;
};

/* Takes `key`, also when it fails. */
static enum hm_status wrap(EVP_PKEY *key, struct hm_identity **identity)
{
    struct hm_identity *made = calloc(1, sizeof *made);
    size_t bytes = HM_PUBLIC_KEY_BYTES;
    if (!made || EVP_PKEY_get_raw_public_key(key, made->public_key, &bytes) != 1 ||
        bytes != HM_PUBLIC_KEY_BYTES) {
        free(made);
        EVP_PKEY_free(key);
        ERR_clear_error();
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for a node's key");
    }
    made->key = key;
    hm_node_id_from_key(made->public_key, &made->node);
    *identity = made;
    return HM_OK;
}

static EVP_PKEY *key_make(const uint8_t *seed)
{
    if (seed) return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, 32);
    return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
}

/* A program may call exit() while a node's loop still runs; OpenSSL's own exit handler would then
 * take its tables away under the loop.  The first call of any OpenSSL function decides, and a
 * node's first is here. */
static void openssl_init(void)
{
    OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
}

enum hm_status hm_identity_create(const uint8_t *seed, struct hm_identity **identity)
{
    openssl_init();
    EVP_PKEY *key = key_make(seed);
    if (!key) {
        ERR_clear_error();
        return hm_fail(HM_ERR_NO_MEMORY, "OpenSSL cannot make an Ed25519 key");
    }
    return wrap(key, identity);
}

/* ---- the file ------------------------------------------------------------------------------ */

/* A key file is never encrypted; without this OpenSSL would ask on the terminal. */
static int no_password(char *text, int text_bytes, int writing, void *arg)
{
    (void)text, (void)text_bytes, (void)writing, (void)arg;
    return -1;
}

static enum hm_status key_parse(const char *path, const char *text, size_t text_bytes,
                                EVP_PKEY **key)
{
    BIO *bio = BIO_new_mem_buf(text, (int)text_bytes);
    EVP_PKEY *parsed = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    ERR_clear_error();
    if (!parsed || EVP_PKEY_get_base_id(parsed) != EVP_PKEY_ED25519) {
        EVP_PKEY_free(parsed);
        return hm_fail(HM_ERR_STORAGE,
                       "'%s' is not an Ed25519 private key in PEM form; restore it from a copy, or "
                       "move it away and a new node id is made",
                       path);
    }
    *key = parsed;
    return HM_OK;
}

static ssize_t read_all(int fd, char *text, size_t text_bytes)
{
    size_t done = 0;
    while (done < text_bytes) {
        ssize_t got = read(fd, text + done, text_bytes - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

static enum hm_status key_read(const char *path, int fd, EVP_PKEY **key)
{
    struct stat stat;
    if (fstat(fd, &stat) || !S_ISREG(stat.st_mode))
        return hm_fail(HM_ERR_STORAGE, "'%s' is not a file, so it cannot hold the node's key",
                       path);
    if (stat.st_mode & 077)
        return hm_fail(HM_ERR_STORAGE,
                       "the node's key '%s' can be read by others (mode %03o); run: chmod 600 '%s'",
                       path, (unsigned)(stat.st_mode & 0777), path);
    char text[KEY_FILE_BYTES_MAX];
    ssize_t text_bytes = read_all(fd, text, sizeof text);
    if (text_bytes < 0)
        return hm_fail(HM_ERR_STORAGE, "cannot read the node's key '%s': %s", path,
                       strerror(errno));
    enum hm_status status = key_parse(path, text, (size_t)text_bytes, key);
    OPENSSL_cleanse(text, sizeof text);
    return status;
}

/* HM_ERR_NOT_FOUND, without a line, if there is no such file. */
static enum hm_status key_load(const char *path, EVP_PKEY **key)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return HM_ERR_NOT_FOUND;
    if (fd < 0)
        return hm_fail(HM_ERR_STORAGE, "cannot open the node's key '%s': %s", path,
                       strerror(errno));
    enum hm_status status = key_read(path, fd, key);
    (void)close(fd);
    return status;
}

static bool key_write(int fd, EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL;
    bool written = false;
    if (bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1) {
        long text_bytes = BIO_get_mem_data(bio, &text);
        written = text_bytes > 0 && hm_file_write_all(fd, text, (size_t)text_bytes);
        if (text_bytes > 0) OPENSSL_cleanse(text, (size_t)text_bytes);
    }
    BIO_free(bio);
    return written;
}

/* Writes a fresh key to `path`, which did not exist a moment ago.  Whoever links first wins. */
static enum hm_status key_place(const char *path)
{
    char aside[PATH_BYTES];
    int length = snprintf(aside, sizeof aside, "%s.XXXXXX", path);
    if (length < 0 || (size_t)length >= sizeof aside)
        return hm_fail(HM_ERR_STORAGE, "the path of the node's key is too long");
    EVP_PKEY *key = key_make(NULL);
    if (!key) {
        ERR_clear_error();
        return hm_fail(HM_ERR_NO_MEMORY, "OpenSSL cannot make an Ed25519 key");
    }
    bool placed = false;
    int fd = mkostemp(aside, O_CLOEXEC); /* made with mode 0600 */
    if (fd >= 0) {
        placed = key_write(fd, key) && (link(aside, path) == 0 || errno == EEXIST);
        int error = errno;
        (void)close(fd);
        (void)unlink(aside);
        errno = error;
    }
    if (!placed)
        (void)hm_fail(HM_ERR_STORAGE,
                      "cannot write the node's key '%s': %s; choose a folder that can be written",
                      path, strerror(errno));
    else
        (void)!hm_file_sync_folder_of(path); /* some file systems refuse it */
    EVP_PKEY_free(key);
    ERR_clear_error();
    return placed ? HM_OK : HM_ERR_STORAGE;
}

enum hm_status hm_identity_load(const char *path, struct hm_identity **identity)
{
    openssl_init();
    EVP_PKEY *key = NULL;
    enum hm_status status = key_load(path, &key);
    if (status == HM_ERR_NOT_FOUND) {
        status = key_place(path);
        if (status != HM_OK) return status;
        status = key_load(path, &key);
        if (status == HM_ERR_NOT_FOUND)
            status =
                hm_fail(HM_ERR_STORAGE, "the node's key '%s' vanished while it was made", path);
    }
    if (status != HM_OK) return status;
    return wrap(key, identity);
}

void hm_identity_destroy(struct hm_identity *identity)
{
    if (!identity) return;
    EVP_PKEY_free(identity->key);
    free(identity);
}

const struct hm_node_id *hm_identity_node(const struct hm_identity *identity)
{
    return &identity->node;
}

const uint8_t *hm_identity_public_key(const struct hm_identity *identity)
{
    return identity->public_key;
}

void *hm_identity_evp(const struct hm_identity *identity)
{
    return identity->key;
}

/* ---- signatures and digests ---------------------------------------------------------------- */

enum hm_status hm_identity_sign(const struct hm_identity *identity, const void *bytes,
                                size_t byte_count, uint8_t signature[HM_SIGNATURE_BYTES])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t signed_bytes[HM_SIGNATURE_BYTES];
    size_t length = sizeof signed_bytes;
    static const uint8_t nothing[1];
    bool ok =
        ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, identity->key) == 1 &&
        EVP_DigestSign(ctx, signed_bytes, &length, byte_count ? bytes : nothing, byte_count) == 1 &&
        length == sizeof signed_bytes;
    EVP_MD_CTX_free(ctx);
    if (!ok) {
        ERR_clear_error();
        return hm_fail(HM_ERR_NO_MEMORY, "no memory to sign with the node's key");
    }
    memcpy(signature, signed_bytes, sizeof signed_bytes);
    return HM_OK;
}

bool hm_signature_valid(const uint8_t public_key[HM_PUBLIC_KEY_BYTES], const void *bytes,
                        size_t byte_count, const uint8_t signature[HM_SIGNATURE_BYTES])
{
    static const uint8_t nothing[1];
    EVP_PKEY *key =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, HM_PUBLIC_KEY_BYTES);
    EVP_MD_CTX *ctx = key ? EVP_MD_CTX_new() : NULL;
    bool valid = ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1 &&
                 EVP_DigestVerify(ctx, signature, HM_SIGNATURE_BYTES, byte_count ? bytes : nothing,
                                  byte_count) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    ERR_clear_error(); /* a bad signature leaves a record that a later TLS call would read */
    return valid;
}

void hm_sha256(const void *bytes, size_t byte_count, uint8_t digest[HM_DIGEST_BYTES])
{
    static const uint8_t nothing[1];
    int ok = EVP_Digest(byte_count ? bytes : nothing, byte_count, digest, NULL, EVP_sha256(), NULL);
    HM_ASSERT(ok == 1);
}

void hm_node_id_from_key(const uint8_t public_key[HM_PUBLIC_KEY_BYTES], struct hm_node_id *node)
{
    hm_sha256(public_key, HM_PUBLIC_KEY_BYTES, node->byte);
}

/* ---- text ---------------------------------------------------------------------------------- */

const char *hm_node_id_text(const struct hm_node_id *node, char text[HM_NODE_ID_TEXT_BYTES])
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < HM_NODE_ID_BYTES; i++) {
        text[2 * i] = digit[node->byte[i] >> 4];
        text[2 * i + 1] = digit[node->byte[i] & 15];
    }
    text[HM_NODE_ID_TEXT_BYTES - 1] = '\0';
    return text;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

enum hm_status hm_node_id_parse(const char *text, size_t text_bytes, struct hm_node_id *node)
{
    struct hm_node_id parsed;
    if (text_bytes != 2 * HM_NODE_ID_BYTES)
        return hm_fail(HM_ERR_INVALID, "a node id has %d hexadecimal digits, not %zu characters",
                       2 * HM_NODE_ID_BYTES, text_bytes);
    for (size_t i = 0; i < HM_NODE_ID_BYTES; i++) {
        int high = digit_value(text[2 * i]), low = digit_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return hm_fail(HM_ERR_INVALID,
                           "a node id has only hexadecimal digits; digit %zu is not",
                           2 * i + (high < 0 ? 1 : 2));
        parsed.byte[i] = (uint8_t)(high << 4 | low);
    }
    *node = parsed;
    return HM_OK;
}
