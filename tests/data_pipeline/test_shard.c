/* Shards: what is written comes back; whatever is damaged is found and named. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <hdf5.h>
#include <xxhash.h>

#include "data_pipeline/shard_file.h"
#include "kernels/base/log.h"
#include "tests/data_pipeline/sample_shard.h"

enum { N_RECORDS = 5, IMAGE_SMALL = 90, IMAGE_LARGE = 70000 };

/* Large ones are aligned in the file, which changes the order of the datasets. */
static int64_t image_bytes = IMAGE_SMALL;

static int32_t record_height(int64_t i)
{
    return (int32_t)(20 + 3 * i);
}

/* Any bytes: a shard does not look into them. */
static void make_record(struct sample *s, uint8_t image[IMAGE_LARGE], int64_t i)
{
    const struct rng_key key = rng_stream(1, RNG_TEST, (uint64_t)i, 0);

    for (int64_t j = 0; j < image_bytes; j++) image[j] = (uint8_t)rng_u32(key, (uint64_t)j);
    sample_make(s, 100 + i, record_height(i), 33, i == 2 ? 0 : i + 1, image, image_bytes - i);
}

static void write_shard(const char *folder, const char *name, int64_t first, int64_t n,
                        struct shard_summary *summary)
{
    const struct shard_writer_options o = { .folder = folder, .name = name };
    struct shard_writer *w;
    static uint8_t image[IMAGE_LARGE];
    static struct sample s;

    assert_int_equal(shard_writer_create(&w, &o), OK);
    for (int64_t i = 0; i < n; i++) {
        make_record(&s, image, first + i);
        assert_int_equal(shard_writer_add(w, &s.record), OK);
    }
    assert_true(shard_writer_bytes(w) > n * image_bytes / 2);
    assert_int_equal(shard_writer_commit(w, summary), OK);
    shard_writer_destroy(w);
}

/* Two shards of 3 and 2 records and their manifest. */
static void write_set(char folder[SAMPLE_PATH])
{
    struct shard_summary all[2];

    sample_folder(folder);
    write_shard(folder, "shard-00000.h5", 0, 3, &all[0]);
    write_shard(folder, "shard-00001.h5", 3, 2, &all[1]);
    assert_int_equal(shard_manifest_write(folder, all, 2, 0), OK);
}

static int same_record(const struct shard_record *a, const struct shard_record *b)
{
    const size_t n = (size_t)a->n_masks;

    return a->image_id == b->image_id && a->height == b->height && a->width == b->width &&
           a->stored_height == b->stored_height && a->stored_width == b->stored_width &&
           a->codec == b->codec && a->image_bytes == b->image_bytes && a->n_masks == b->n_masks &&
           memcmp(a->image, b->image, (size_t)a->image_bytes) == 0 &&
           (n == 0 || (memcmp(a->mask_end, b->mask_end, 8 * n) == 0 &&
                       memcmp(a->mask_area, b->mask_area, 8 * n) == 0 &&
                       memcmp(a->mask_box, b->mask_box, 16 * n) == 0 &&
                       memcmp(a->mask_text, b->mask_text, (size_t)a->mask_end[n - 1]) == 0));
}

/* Opens and reads all; OK only when every record is what was written. *wrong counts those that were
 * delivered with other bytes. */
static enum status read_all(const char *path, int *wrong)
{
    struct shard_buffer b = { 0 };
    struct shard_record r;
    struct shard_set *set;
    static struct sample want;
    static uint8_t image[IMAGE_LARGE];
    enum status s = shard_set_open(&set, path);

    if (s != OK) return s;
    for (int64_t i = 0; i < shard_set_images(set) && s == OK; i++) {
        s = shard_set_read(set, i, &b, &r);
        make_record(&want, image, i);
        if (s == OK && !same_record(&r, &want.record)) ++*wrong;
    }
    shard_buffer_destroy(&b);
    shard_set_close(set);
    return s;
}

static void comes_back(void **state)
{
    char folder[SAMPLE_PATH], path[SAMPLE_PATH + 32];
    struct shard_set *set, *one;
    int wrong = 0;

    (void)state;
    write_set(folder);
    assert_int_equal(read_all(folder, &wrong), OK);
    assert_int_equal(wrong, 0);
    assert_int_equal(shard_set_open(&set, folder), OK);
    assert_int_equal(shard_set_images(set), N_RECORDS);
    assert_int_equal(shard_set_masks(set), 1 + 2 + 0 + 4 + 5);
    assert_int_equal(shard_set_shards(set), 2);
    assert_int_equal(shard_set_record_masks(set, 2), 0);
    assert_int_equal(shard_set_record_masks(set, 4), 5);
    assert_int_equal(shard_set_verify(set), OK);

    snprintf(path, sizeof path, "%s/shard-00001.h5", folder);
    assert_int_equal(shard_set_open(&one, path), OK);
    assert_int_equal(shard_set_images(one), 2);
    assert_int_equal(shard_set_record_masks(one, 0), 4);
    assert_true(shard_set_hash(one) != shard_set_hash(set));
    shard_set_close(one);
    shard_set_close(set);
    sample_remove(folder);
}

static void same_records_same_bytes(void **state)
{
    char a[SAMPLE_PATH], b[SAMPLE_PATH];
    struct shard_set *x, *y;

    (void)state;
    write_set(a);
    write_set(b);
    assert_int_equal(shard_set_open(&x, a), OK);
    assert_int_equal(shard_set_open(&y, b), OK);
    assert_true(shard_set_hash(x) == shard_set_hash(y));
    shard_set_close(x);
    shard_set_close(y);
    sample_remove(a);
    sample_remove(b);
}

static int64_t file_bytes(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static void xor_byte(int fd, int64_t at, uint8_t bits)
{
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= bits;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

/* One flipped bit in every stride-th byte of the file: none is missed, none crashes, nothing wrong
 * is delivered. */
static void flip_bytes(const char *folder, const char *name, int64_t stride)
{
    char path[SAMPLE_PATH + 32];
    int64_t n, silent = 0;
    int wrong = 0, hush, fd;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    n = file_bytes(path);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    hush = sample_hush();
    for (int64_t i = 0; i < n; i += stride) {
        const uint8_t bit =
            (uint8_t)(1u << (rng_u32(rng_stream(3, RNG_TEST, 0, 0), (uint64_t)i) & 7));
        enum status s;

        xor_byte(fd, i, bit);
        s = read_all(folder, &wrong);
        if (s != E_CORRUPT && s != E_IO) silent++;
        xor_byte(fd, i, bit);
    }
    sample_speak(hush);
    close(fd);
    print_message("%s: %d of %d bytes flipped one by one, %d missed\n", name,
                  (int)((n + stride - 1) / stride), (int)n, (int)silent);
    assert_int_equal(silent, 0);
    assert_int_equal(wrong, 0);
    assert_int_equal(read_all(folder, &wrong), OK);
}

static void every_flip_is_found(void **state)
{
    char folder[SAMPLE_PATH];
    struct shard_summary sum;

    (void)state;
    sample_folder(folder);
    write_shard(folder, "shard-00000.h5", 0, 3, &sum);
    assert_int_equal(shard_manifest_write(folder, &sum, 1, 0), OK);
    flip_bytes(folder, "shard-00000.h5", 1);
    flip_bytes(folder, "manifest.json", 1);
    sample_remove(folder);
}

static void flips_in_large_shards_are_found(void **state)
{
    char folder[SAMPLE_PATH];

    (void)state;
    image_bytes = IMAGE_LARGE;
    write_set(folder);
    flip_bytes(folder, "shard-00001.h5", 157);
    sample_remove(folder);
    image_bytes = IMAGE_SMALL;
}

static void every_truncation_is_found(void **state)
{
    const char *names[] = { "shard-00001.h5", "manifest.json" };
    char folder[SAMPLE_PATH], path[SAMPLE_PATH + 32];
    int wrong = 0, hush;

    (void)state;
    for (int k = 0; k < 2; k++) {
        int64_t n;

        write_set(folder);
        snprintf(path, sizeof path, "%s/%s", folder, names[k]);
        n = file_bytes(path);
        hush = sample_hush();
        while (n-- > 0) {
            enum status s;

            if (truncate(path, n) != 0) break;
            s = read_all(folder, &wrong);
            if (s != E_CORRUPT && s != E_IO) break;
        }
        sample_speak(hush);
        assert_int_equal(n, -1);
        sample_remove(folder);
    }
    assert_int_equal(wrong, 0);
}

/* What the log says while a function runs, through the log's file. */
static void read_log(const char *path, char *text, size_t room)
{
    FILE *f = fopen(path, "r");
    size_t n;

    assert_non_null(f);
    n = fread(text, 1, room - 1, f);
    text[n] = 0;
    fclose(f);
}

static void damage_is_named(void **state)
{
    char folder[SAMPLE_PATH], path[SAMPLE_PATH + 32], log[SAMPLE_PATH + 32], text[4096];
    struct shard_set *set;
    int fd, log_fd, hush;

    (void)state;
    write_set(folder);
    assert_int_equal(shard_set_open(&set, folder), OK);
    snprintf(path, sizeof path, "%s/shard-00001.h5", folder);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    xor_byte(fd, shard_set_summary(set, 1)->bulk_at[0] + image_bytes - 3, 4); /* second record */
    close(fd);
    snprintf(log, sizeof log, "%s/log", folder);
    log_fd = open(log, O_WRONLY | O_CREAT, 0600);
    log_set_file(log_fd);
    hush = sample_hush();
    assert_int_equal(shard_set_verify(set), E_CORRUPT);
    sample_speak(hush);
    log_set_file(-1);
    close(log_fd);
    read_log(log, text, sizeof text);
    assert_non_null(strstr(text, "shard-00001.h5, record 1 (image id 104)"));
    assert_null(strstr(text, "shard-00000.h5"));
    shard_set_close(set);
    sample_remove(folder);
}

/* Files of two sets under each other's name, each whole in itself. */
static void swapped_shards_are_found(void **state)
{
    char folder[SAMPLE_PATH], a[SAMPLE_PATH + 32], b[SAMPLE_PATH + 32], c[SAMPLE_PATH + 32];
    int wrong = 0, hush;

    (void)state;
    write_set(folder);
    snprintf(a, sizeof a, "%s/shard-00000.h5", folder);
    snprintf(b, sizeof b, "%s/shard-00001.h5", folder);
    snprintf(c, sizeof c, "%s/shard-00002.h5", folder);
    assert_int_equal(rename(a, c) | rename(b, a) | rename(c, b), 0);
    hush = sample_hush();
    assert_int_equal(read_all(folder, &wrong), E_CORRUPT);
    unlink(a);
    assert_int_equal(read_all(folder, &wrong), E_CORRUPT);
    sample_speak(hush);
    sample_remove(folder);
}

static int folder_has(const char *folder, const char *name)
{
    char path[SAMPLE_PATH + 64];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

static void uncommitted_leaves_nothing(void **state)
{
    char folder[SAMPLE_PATH];
    struct shard_writer_options o = { .folder = folder, .name = "shard-00000.h5" };
    struct shard_writer *w;
    struct shard_summary sum;
    static uint8_t image[IMAGE_LARGE];
    static struct sample s;
    int hush;

    (void)state;
    sample_folder(folder);
    assert_int_equal(shard_writer_create(&w, &o), OK);
    make_record(&s, image, 1);
    assert_int_equal(shard_writer_add(w, &s.record), OK);
    hush = sample_hush();
    s.record.mask_area = (const int64_t[]){ -1, 5 };
    assert_int_equal(shard_writer_add(w, &s.record), E_CORRUPT);
    shard_writer_destroy(w);
    assert_int_equal(rmdir(folder), 0); /* it is empty */
    sample_folder(folder);
    assert_int_equal(shard_writer_create(&w, &o), OK);
    assert_int_equal(shard_writer_commit(w, &sum), E_USAGE);
    shard_writer_destroy(w);
    o.name = "../x.h5";
    assert_int_equal(shard_writer_create(&w, &o), E_USAGE);
    sample_speak(hush);
    assert_int_equal(rmdir(folder), 0);
}

/* A writer killed at any instant: under the final name there is a whole shard or none, and the next
 * writer clears what was left. */
static void killed_writer_leaves_no_half_shard(void **state)
{
    enum { KILLS = 60 };
    const struct rng_key key = rng_stream(5, RNG_TEST, 0, 0);
    char folder[SAMPLE_PATH], path[SAMPLE_PATH + 32], kept[SAMPLE_PATH + 32];
    int n_before = 0, n_after = 0;

    (void)state;
    sample_folder(folder);
    snprintf(path, sizeof path, "%s/shard-00000.h5", folder);
    snprintf(kept, sizeof kept, "%s/kept", folder);
    for (uint64_t k = 0; k < KILLS; k++) {
        struct shard_summary sum;
        pid_t pid;
        int wrong = 0;

        unlink(path);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            write_shard(folder, "shard-00000.h5", 0, 3, &sum);
            _exit(0);
        }
        usleep((useconds_t)rng_below(key, k, 4000));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        if (!folder_has(folder, "shard-00000.h5")) {
            n_before++;
            continue;
        }
        /* the bytes are a function of the records, so a rebuilt manifest must fit what is there */
        n_after++;
        assert_int_equal(rename(path, kept), 0);
        write_shard(folder, "shard-00000.h5", 0, 3, &sum);
        assert_int_equal(shard_manifest_write(folder, &sum, 1, 0), OK);
        assert_int_equal(rename(kept, path), 0);
        assert_int_equal(read_all(folder, &wrong), OK);
        assert_int_equal(wrong, 0);
    }
    print_message("killed: %d before the commit, %d after\n", n_before, n_after);
    {
        struct shard_summary sum;

        write_shard(folder, "shard-00000.h5", 0, 3, &sum);
    }
    assert_false(folder_has(folder, "shard-00000.h5.tmp"));
    sample_remove(folder);
}

/* Puts `to` in place of `from` in the manifest, whose hash is made right where `sealed`. */
static void rewrite_manifest(const char *folder, const char *from, const char *to, bool sealed)
{
    char path[SAMPLE_PATH + 32], text[8192], changed[8192], *at;
    FILE *f;

    snprintf(path, sizeof path, "%s/manifest.json", folder);
    read_log(path, text, sizeof text);
    at = strstr(text, from);
    assert_non_null(at);
    *at = 0;
    snprintf(changed, sizeof changed, "%s%s%s", text, to, at + strlen(from));
    at = strstr(changed, "\"hash\": \"");
    assert_non_null(at);
    at += strlen("\"hash\": \"");
    if (sealed)
        snprintf(at, 32, "%016llx\"\n}\n",
                 (unsigned long long)XXH3_64bits(changed, (size_t)(at - changed)));
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fputs(changed, f) < 0, 0);
    fclose(f);
}

/* What a manifest cannot say, though its hash is right; and what it says with the old hash. */
static void changed_manifest_is_refused(void **state)
{
    static const struct {
        const char *from, *to;
    } cases[] = {
        { "\"version\": 1", "\"version\": 2" },
        { "\"images\": 5", "\"images\": 4" },
        { "\"images\": 5", "\"images\": -9223372036854775808" },
        { "\"masks\": 12", "\"masks\": 13" },
        { "\"images\": 3", "\"images\": 0" },
        { "\"images\": 3, \"masks\": 3", "\"images\": 3, \"masks\": -3" },
        { "\"resized_to\": 0", "\"resized_to\": -1" },
        { "\"resized_to\": 0,", "" },
        { "\"resized_to\": 0,", "\"resized_to\": 0, \"resized_to\": 0," },
        { "\"resized_to\": 0,", "\"resized_to\": 0, \"more\": 0," },
        { "\"resized_to\": 0,", "\"resized_to\": [[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]," },
        { "\"shard-00001.h5\"", "\"../shard-00001.h5\"" },
        { "\"shard-00001.h5\"", "\"\"" },
        { "\"bulk\": [[", "\"bulk\": [[1" },
        { "\"bulk\": [[", "\"bulk\": [[-" },
        { "\"bulk\": [[", "\"bulk\": [[0, 0], [" },
        { "\"shards\": [", "\"shards\": [0, " },
    };
    char folder[SAMPLE_PATH];
    int wrong = 0, hush;

    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int sealed = 0; sealed < 2; sealed++) {
            enum status s;

            write_set(folder);
            rewrite_manifest(folder, cases[k].from, cases[k].to, sealed);
            hush = sample_hush();
            s = read_all(folder, &wrong);
            sample_speak(hush);
            if (s != E_CORRUPT) print_message("%s is taken for good\n", cases[k].to);
            assert_int_equal(s, E_CORRUPT);
            sample_remove(folder);
        }
    write_set(
        folder); /* the hash is made as the manifest's own: nothing changed is nothing wrong */
    rewrite_manifest(folder, "\"images\": 5", "\"images\": 5", true);
    assert_int_equal(read_all(folder, &wrong), OK);
    assert_int_equal(wrong, 0);
    sample_remove(folder);
}

/* ---- shards that only malice makes: every hash is right -------------------------------------- */

/* In place of the attribute one of n values. */
static void forge_attribute(hid_t file, const char *name, hsize_t n)
{
    const hid_t old = H5Aopen(file, name, H5P_DEFAULT), type = H5Aget_type(old);
    const hid_t space = H5Screate_simple(1, &n, NULL);
    uint8_t *const values = calloc(n, H5Tget_size(type));
    hid_t a;

    assert_true(old >= 0 && type >= 0 && space >= 0 && values);
    assert_true(H5Aclose(old) >= 0 && H5Adelete(file, name) >= 0);
    a = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(a >= 0 && H5Awrite(a, type, values) >= 0);
    assert_true(H5Aclose(a) >= 0 && H5Sclose(space) >= 0 && H5Tclose(type) >= 0);
    free(values);
}

static void forge_first_mask(hid_t file, hsize_t at, int64_t value)
{
    const hid_t set = H5Dopen2(file, "/image/first_mask", H5P_DEFAULT), from = H5Dget_space(set);
    const hsize_t one = 1;
    const hid_t to = H5Screate_simple(1, &one, NULL);

    assert_true(set >= 0 && from >= 0 && to >= 0);
    assert_true(H5Sselect_hyperslab(from, H5S_SELECT_SET, &at, NULL, &one, NULL) >= 0);
    assert_true(H5Dwrite(set, H5T_STD_I64LE, to, from, H5P_DEFAULT, &value) >= 0);
    assert_true(H5Sclose(to) >= 0 && H5Sclose(from) >= 0 && H5Dclose(set) >= 0);
}

static void forge_link(hid_t file)
{
    assert_true(H5Ldelete(file, "/image/codec", H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_external("/etc/passwd", "/image/codec", file, "/image/codec", H5P_DEFAULT,
                                   H5P_DEFAULT) >= 0);
}

static void forge(hid_t file, int what)
{
    switch (what) {
    case 1:
        return forge_attribute(file, "version", 8192);
    case 2:
        return forge_attribute(file, "format", 8192);
    case 3:
        return forge_first_mask(file, 1, INT64_MIN);
    case 4:
        return forge_first_mask(file, 1, 2);
    case 5:
        return forge_first_mask(file, 3, 4);
    case 6:
        return forge_link(file);
    default: /* nothing: the forger itself must be believed */
        return;
    }
}

static void forged_shards_are_refused(void **state)
{
    enum { FORGERIES = 7 };
    char folder[SAMPLE_PATH], path[SAMPLE_PATH + 32];

    (void)state;
    for (int what = 0; what < FORGERIES; what++) {
        struct shard_summary sum;
        int wrong = 0, hush, fd;
        enum status s;
        hid_t file;

        sample_folder(folder);
        write_shard(folder, "shard-00000.h5", 0, 3, &sum);
        snprintf(path, sizeof path, "%s/shard-00000.h5", folder);
        file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
        assert_true(file >= 0);
        forge(file, what);
        assert_true(H5Fclose(file) >= 0);
        sum.bytes = file_bytes(path);
        fd = open(path, O_RDONLY);
        assert_int_equal(shard_head_hash(fd, path, &sum, &sum.head_hash), OK);
        close(fd);
        assert_int_equal(shard_manifest_write(folder, &sum, 1, 0), OK);
        hush = sample_hush();
        s = read_all(folder, &wrong);
        sample_speak(hush);
        if (s != (what ? E_CORRUPT : OK)) print_message("forgery %d\n", what);
        assert_int_equal(s, what ? E_CORRUPT : OK);
        assert_int_equal(wrong, 0);
        sample_remove(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back),
        cmocka_unit_test(same_records_same_bytes),
        cmocka_unit_test(every_flip_is_found),
        cmocka_unit_test(flips_in_large_shards_are_found),
        cmocka_unit_test(every_truncation_is_found),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(swapped_shards_are_found),
        cmocka_unit_test(uncommitted_leaves_nothing),
        cmocka_unit_test(killed_writer_leaves_no_half_shard),
        cmocka_unit_test(changed_manifest_is_refused),
        cmocka_unit_test(forged_shards_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
