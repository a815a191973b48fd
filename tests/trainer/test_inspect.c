/* inspect on shards: what it says, what it draws, and how it ends when they are damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>

#include "data_pipeline/picture.h"
#include "tests/data_pipeline/sample_shard.h"
#include "trainer/command.h"

enum { N_IMAGES = 4, HEIGHT = 40, WIDTH = 60, N_MASKS = 3, WORDS = 8 };

static char folder[SAMPLE_PATH];

static int make_set(void **state)
{
    struct shard_writer_options o = { .folder = folder, .name = "shard-00000.h5" };
    struct picture p = { 0 };
    struct shard_writer *w;
    struct shard_summary sum;
    uint8_t *jpeg;
    int64_t n;

    (void)state;
    sample_folder(folder);
    assert_int_equal(picture_reserve(&p, HEIGHT, WIDTH), OK);
    memset(p.rgb, 200, HEIGHT * WIDTH * 3);
    assert_int_equal(picture_encode_jpeg(&p, 90, &jpeg, &n), OK);
    assert_int_equal(shard_writer_create(&w, &o), OK);
    for (int64_t i = 0; i < N_IMAGES; i++) {
        static struct sample s;

        sample_make(&s, i, HEIGHT, WIDTH, N_MASKS, jpeg, n);
        assert_int_equal(shard_writer_add(w, &s.record), OK);
    }
    assert_int_equal(shard_writer_commit(w, &sum), OK);
    shard_writer_destroy(w);
    assert_int_equal(shard_manifest_write(folder, &sum, 1, 0), OK);
    free(jpeg);
    picture_destroy(&p);
    return 0;
}

static int remove_set(void **state)
{
    (void)state;
    sample_remove(folder);
    return 0;
}

/* Runs inspect with these words, its output into text. */
static enum status inspect(char *text, size_t room, const char *a, const char *b, const char *c,
                           const char *d)
{
    char copies[5][SAMPLE_PATH + 32], *argv[WORDS] = { NULL };
    const char *words[] = { "inspect", a, b, c, d };
    FILE *out = tmpfile();
    const int kept = dup(1), hush = sample_hush();
    enum status s;
    int argc = 0;
    ssize_t n;

    assert_true(out && kept >= 0);
    for (int i = 0; i < 5 && words[i]; i++) {
        snprintf(copies[i], sizeof copies[i], "%s", words[i]);
        argv[argc++] = copies[i];
    }
    fflush(stdout);
    dup2(fileno(out), 1);
    s = cmd_inspect(argc, argv);
    fflush(stdout);
    dup2(kept, 1);
    close(kept);
    sample_speak(hush);
    n = pread(fileno(out), text, room - 1, 0);
    assert_true(n >= 0);
    text[n] = 0;
    fclose(out);
    return s;
}

static void counts_are_told(void **state)
{
    char text[1 << 14];
    json_t *o, *survey;

    (void)state;
    assert_int_equal(inspect(text, sizeof text, folder, "--verify", NULL, NULL), OK);
    assert_non_null(strstr(text, "4 images, 12 masks, 1 shard,"));
    assert_non_null(strstr(text, "every byte verified"));
    assert_int_equal(inspect(text, sizeof text, folder, "--json", NULL, NULL), OK);
    o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(o);
    assert_int_equal(json_integer_value(json_object_get(o, "images")), N_IMAGES);
    survey = json_object_get(o, "survey");
    assert_int_equal(json_integer_value(json_object_get(survey, "masks")), N_IMAGES * N_MASKS);
    assert_int_equal(json_integer_value(json_object_get(survey, "jpeg")), N_IMAGES);
    json_decref(o);
    assert_int_equal(inspect(text, sizeof text, folder, "--sample", "2", NULL), OK);
    assert_non_null(strstr(text, "looked into 2 of 4 records"));
}

static void records_are_drawn(void **state)
{
    char text[1 << 14], png[SAMPLE_PATH + 16];
    uint8_t bytes[1 << 15];
    struct picture p = { 0 };
    const char *why;
    int64_t n, n_drawn = 0;
    FILE *f;

    (void)state;
    snprintf(png, sizeof png, "%s/o.png", folder);
    assert_int_equal(inspect(text, sizeof text, folder, "--draw", "1", png), OK);
    f = fopen(png, "rb");
    assert_non_null(f);
    n = (int64_t)fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_int_equal(picture_decode(bytes, n, 0, &p, &why), OK);
    assert_int_equal(p.height, HEIGHT);
    assert_int_equal(p.width, WIDTH);
    for (int i = 0; i < HEIGHT * WIDTH; i++) n_drawn += p.rgb[3 * i] != p.rgb[3 * i + 1];
    assert_in_range(n_drawn, 1, HEIGHT * WIDTH - 1);
    picture_destroy(&p);
    assert_int_equal(inspect(text, sizeof text, folder, "--draw", "4", png), E_USAGE);
    assert_int_equal(inspect(text, sizeof text, folder, "--draw", "1", NULL), E_USAGE);
}

static void damage_ends_with_corrupt(void **state)
{
    char text[1 << 14], path[SAMPLE_PATH + 32];
    struct shard_set *set;
    uint8_t byte;
    int64_t at;
    int fd;

    (void)state;
    assert_int_equal(shard_set_open(&set, folder), OK);
    at = shard_set_summary(set, 0)->bulk_at[1];
    shard_set_close(set);
    snprintf(path, sizeof path, "%s/shard-00000.h5", folder);
    fd = open(path, O_RDWR);
    for (int k = 0; k < 2; k++) { /* in the mask texts; in the superblock */
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        assert_int_equal(inspect(text, sizeof text, folder, "--verify", NULL, NULL), E_CORRUPT);
        assert_int_equal(inspect(text, sizeof text, path, "--json", NULL, NULL), E_CORRUPT);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        at = 0;
    }
    close(fd);
    assert_int_equal(inspect(text, sizeof text, folder, "--verify", NULL, NULL), OK);
    assert_int_equal(inspect(text, sizeof text, "/nowhere", NULL, NULL, NULL), E_MISSING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_told),
        cmocka_unit_test(records_are_drawn),
        cmocka_unit_test(damage_ends_with_corrupt),
    };

    return cmocka_run_group_tests(tests, make_set, remove_set);
}
