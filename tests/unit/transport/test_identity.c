/* Identities: keys, files, signatures, ids as text. */
#include "test.h"

#include "transport/identity.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct folder {
    char path[64];
    char key[96];
};

static int folder_make(void **state)
{
    struct folder *folder = calloc(1, sizeof *folder);
    strcpy(folder->path, "/tmp/hm-identity-XXXXXX");
    if (!mkdtemp(folder->path)) return -1;
    (void)snprintf(folder->key, sizeof folder->key, "%s/key.pem", folder->path);
    *state = folder;
    return 0;
}

static int folder_remove(void **state)
{
    struct folder *folder = *state;
    DIR *dir = opendir(folder->path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir) closedir(dir);
    int failed = rmdir(folder->path);
    free(folder);
    return failed;
}

static unsigned files_in(const char *path)
{
    unsigned count = 0;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) count += entry->d_name[0] != '.';
    if (dir) closedir(dir);
    return count;
}

/* RFC 8032, section 7.1, test 1: secret key, public key, and the signature of the empty message. */
static void a_seed_decides_the_key_as_rfc_8032_says(void **state)
{
    (void)state;
    static const uint8_t seed[32] = {0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60,
                                     0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
                                     0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19,
                                     0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60};
    static const uint8_t public_key[4] = {0xd7, 0x5a, 0x98, 0x01};
    static const uint8_t first[4] = {0xe5, 0x56, 0x43, 0x00};
    struct hm_identity *identity;
    assert_ok(hm_identity_create(seed, &identity));
    assert_memory_equal(hm_identity_public_key(identity), public_key, sizeof public_key);
    uint8_t signature[HM_SIGNATURE_BYTES];
    assert_ok(hm_identity_sign(identity, NULL, 0, signature));
    assert_memory_equal(signature, first, sizeof first);
    assert_true(hm_signature_valid(hm_identity_public_key(identity), NULL, 0, signature));
    hm_identity_destroy(identity);
}

static void the_id_is_the_digest_of_the_public_key(void **state)
{
    (void)state;
    struct hm_identity *identity;
    assert_ok(hm_identity_create(NULL, &identity));
    uint8_t digest[HM_DIGEST_BYTES];
    hm_sha256(hm_identity_public_key(identity), HM_PUBLIC_KEY_BYTES, digest);
    assert_memory_equal(hm_identity_node(identity)->byte, digest, sizeof digest);
    hm_identity_destroy(identity);
}

static void sha256_agrees_with_fips_180(void **state)
{
    (void)state;
    struct hm_node_id digest;
    char text[HM_NODE_ID_TEXT_BYTES];
    hm_sha256("abc", 3, digest.byte);
    assert_string_equal(hm_node_id_text(&digest, text),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hm_sha256(NULL, 0, digest.byte);
    assert_string_equal(hm_node_id_text(&digest, text),
                        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void fresh_identities_differ(void **state)
{
    (void)state;
    struct hm_identity *one, *two;
    assert_ok(hm_identity_create(NULL, &one));
    assert_ok(hm_identity_create(NULL, &two));
    assert_false(hm_node_id_equal(hm_identity_node(one), hm_identity_node(two)));
    hm_identity_destroy(one);
    hm_identity_destroy(two);
}

static void a_signature_holds_for_its_bytes_and_key_only(void **state)
{
    (void)state;
    struct hm_identity *one, *two;
    assert_ok(hm_identity_create(NULL, &one));
    assert_ok(hm_identity_create(NULL, &two));
    char bytes[] = "an expert record";
    uint8_t signature[HM_SIGNATURE_BYTES];
    assert_ok(hm_identity_sign(one, bytes, sizeof bytes, signature));
    assert_true(hm_signature_valid(hm_identity_public_key(one), bytes, sizeof bytes, signature));
    assert_false(hm_signature_valid(hm_identity_public_key(two), bytes, sizeof bytes, signature));
    assert_false(
        hm_signature_valid(hm_identity_public_key(one), bytes, sizeof bytes - 1, signature));
    for (unsigned i = 0; i < HM_SIGNATURE_BYTES; i++) {
        signature[i] ^= 0x40;
        assert_false(
            hm_signature_valid(hm_identity_public_key(one), bytes, sizeof bytes, signature));
        signature[i] ^= 0x40;
    }
    /* No 32 bytes are too strange to be asked about. */
    uint8_t strange[HM_PUBLIC_KEY_BYTES];
    memset(strange, 0xff, sizeof strange);
    assert_false(hm_signature_valid(strange, bytes, sizeof bytes, signature));
    hm_identity_destroy(one);
    hm_identity_destroy(two);
}

static void a_key_file_is_made_once_and_read_again(void **state)
{
    struct folder *folder = *state;
    struct hm_identity *first, *again;
    assert_ok(hm_identity_load(folder->key, &first));
    struct stat stat_of_key;
    assert_int_equal(stat(folder->key, &stat_of_key), 0);
    assert_int_equal(stat_of_key.st_mode & 0777, 0600);
    assert_int_equal(files_in(folder->path), 1); /* nothing is left aside */
    assert_ok(hm_identity_load(folder->key, &again));
    assert_true(hm_node_id_equal(hm_identity_node(first), hm_identity_node(again)));
    hm_identity_destroy(first);
    hm_identity_destroy(again);
}

static void processes_that_start_together_get_one_key(void **state)
{
    struct folder *folder = *state;
    enum { PROCESSES = 6 };
    int results[2];
    assert_int_equal(pipe(results), 0);
    for (unsigned i = 0; i < PROCESSES; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct hm_identity *identity;
            if (hm_identity_load(folder->key, &identity) != HM_OK) _exit(1);
            ssize_t put = write(results[1], hm_identity_node(identity)->byte, HM_NODE_ID_BYTES);
            _exit(put == HM_NODE_ID_BYTES ? 0 : 1);
        }
    }
    for (unsigned i = 0; i < PROCESSES; i++) {
        int exit_status;
        assert_true(wait(&exit_status) > 0);
        assert_int_equal(exit_status, 0);
    }
    struct hm_node_id first, other;
    assert_int_equal(read(results[0], first.byte, sizeof first.byte), HM_NODE_ID_BYTES);
    for (unsigned i = 1; i < PROCESSES; i++) {
        assert_int_equal(read(results[0], other.byte, sizeof other.byte), HM_NODE_ID_BYTES);
        assert_true(hm_node_id_equal(&first, &other));
    }
    close(results[0]);
    close(results[1]);
    assert_int_equal(files_in(folder->path), 1);
}

static void file_put(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static void a_key_that_others_can_read_is_refused(void **state)
{
    struct folder *folder = *state;
    struct hm_identity *identity;
    assert_ok(hm_identity_load(folder->key, &identity));
    hm_identity_destroy(identity);
    assert_int_equal(chmod(folder->key, 0640), 0);
    assert_status(hm_identity_load(folder->key, &identity), HM_ERR_STORAGE);
    assert_non_null(strstr(hm_fail_line(), "chmod 600"));
}

static void a_damaged_key_is_refused_and_kept(void **state)
{
    struct folder *folder = *state;
    struct hm_identity *identity;
    static const char *const damaged[] = {
        "", "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\n", "not a key at all",
        /* whole, but encrypted: nobody is asked for a password */
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAg"
        "AAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"};
    for (unsigned i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        file_put(folder->key, damaged[i], 0600);
        assert_status(hm_identity_load(folder->key, &identity), HM_ERR_STORAGE);
        assert_non_null(strstr(hm_fail_line(), folder->key));
        struct stat stat_of_key;
        assert_int_equal(stat(folder->key, &stat_of_key), 0);
        assert_int_equal(stat_of_key.st_size, strlen(damaged[i]));
    }
}

static void a_key_of_another_kind_is_refused(void **state)
{
    struct folder *folder = *state;
    struct hm_identity *identity;
    /* An X25519 key: the same size and form, of no use for signing (RFC 8410, section 10.3, with
     * the algorithm's last byte changed). */
    file_put(folder->key,
             "-----BEGIN PRIVATE KEY-----\n"
             "MC4CAQAwBQYDK2VuBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
             "-----END PRIVATE KEY-----\n",
             0600);
    assert_status(hm_identity_load(folder->key, &identity), HM_ERR_STORAGE);
}

static void a_folder_that_is_missing_is_a_line_that_names_it(void **state)
{
    (void)state;
    struct hm_identity *identity;
    assert_status(hm_identity_load("/nonexistent-folder/key.pem", &identity), HM_ERR_STORAGE);
    assert_non_null(strstr(hm_fail_line(), "/nonexistent-folder/key.pem"));
    assert_status(hm_identity_load("/tmp", &identity), HM_ERR_STORAGE);
}

static void an_id_survives_being_text(void **state)
{
    (void)state;
    struct hm_identity *identity;
    assert_ok(hm_identity_create(NULL, &identity));
    char text[HM_NODE_ID_TEXT_BYTES];
    struct hm_node_id parsed;
    assert_ptr_equal(hm_node_id_text(hm_identity_node(identity), text), text);
    assert_int_equal(strlen(text), 64);
    assert_ok(hm_node_id_parse(text, 64, &parsed));
    assert_true(hm_node_id_equal(&parsed, hm_identity_node(identity)));
    hm_identity_destroy(identity);
}

static void text_that_is_no_id_is_refused_and_writes_nothing(void **state)
{
    (void)state;
    char text[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    struct hm_node_id parsed, before;
    memset(&before, 0x5a, sizeof before);
    parsed = before;
    assert_status(hm_node_id_parse(text, 63, &parsed), HM_ERR_INVALID);
    assert_status(hm_node_id_parse(text, 0, &parsed), HM_ERR_INVALID);
    text[63] = 'g';
    assert_status(hm_node_id_parse(text, 64, &parsed), HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), "64"));
    assert_memory_equal(&parsed, &before, sizeof parsed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_decides_the_key_as_rfc_8032_says),
        cmocka_unit_test(the_id_is_the_digest_of_the_public_key),
        cmocka_unit_test(sha256_agrees_with_fips_180),
        cmocka_unit_test(fresh_identities_differ),
        cmocka_unit_test(a_signature_holds_for_its_bytes_and_key_only),
        cmocka_unit_test_setup_teardown(a_key_file_is_made_once_and_read_again, folder_make,
                                        folder_remove),
        cmocka_unit_test_setup_teardown(processes_that_start_together_get_one_key, folder_make,
                                        folder_remove),
        cmocka_unit_test_setup_teardown(a_key_that_others_can_read_is_refused, folder_make,
                                        folder_remove),
        cmocka_unit_test_setup_teardown(a_damaged_key_is_refused_and_kept, folder_make,
                                        folder_remove),
        cmocka_unit_test_setup_teardown(a_key_of_another_kind_is_refused, folder_make,
                                        folder_remove),
        cmocka_unit_test(a_folder_that_is_missing_is_a_line_that_names_it),
        cmocka_unit_test(an_id_survives_being_text),
        cmocka_unit_test(text_that_is_no_id_is_refused_and_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
