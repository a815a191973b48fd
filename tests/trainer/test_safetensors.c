#include "trainer/safetensors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { ROOM = 1 << 16 };

static char scratch[] = "/tmp/samforge-safetensors-XXXXXX";
static unsigned char bytes[ROOM];

static const char *in_scratch(const char *name)
{
    static char path[256];

    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

/* A file of this header and n bytes of data, in memory; returns its size. */
static int64_t build(const char *header, int64_t n)
{
    const uint64_t length = strlen(header);

    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(length >> 8 * i);
    memcpy(bytes + 8, header, length);
    for (int64_t i = 0; i < n; i++) bytes[8 + length + (uint64_t)i] = (unsigned char)i;
    return (int64_t)(8 + length) + n;
}

/* Parses a copy of exact size, so that a sanitizer sees a byte too many. */
static enum status parse(int64_t n)
{
    struct safetensors *st = NULL;
    unsigned char *copy = malloc((size_t)n + 1);
    enum status s;

    assert_non_null(copy);
    memcpy(copy, bytes, (size_t)n);
    copy = realloc(copy, n ? (size_t)n : 1);
    assert_non_null(copy);
    s = safetensors_parse(&st, copy, n, "test");
    safetensors_close(st);
    free(copy);
    return s;
}

static void good_headers(void **state)
{
    static const struct {
        const char *header;
        int64_t n;
    } row[] = {
        { "{}", 0 },
        { "{}      ", 0 },
        { "{\"__metadata__\":{\"a\":\"b\"}}", 0 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[0,9],\"data_offsets\":[0,0]}}", 0 },
        { "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[4,7]},"
          "\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},"
          "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
          7 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (parse(build(row[i].header, row[i].n)) != OK) fail_msg("refused: %s", row[i].header);
}

static void bad_headers(void **state)
{
    static const struct {
        const char *header;
        int64_t n;
    } row[] = {
        { "", 0 },
        { " {}", 0 },
        { "[]", 0 },
        { "{} x", 0 },
        { "{\"a\":1}", 0 },
        { "{\"__metadata__\":{\"a\":1}}", 0 },
        { "{\"__metadata__\":[]}", 0 },
        { "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0 },
        { "{}", 1 }, /* bytes of no tensor */
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}", 5 }, /* hole */
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4 }, /* size */
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4 }, /* reversed */
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4 },
        { "{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4 },
        { "{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}",
          0 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}",
          4 },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
          "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
          8 }, /* twice */
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
          "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
          4 }, /* overlap */
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
          "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[5,9]}}",
          9 }, /* hole between */
        { "{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (parse(build(row[i].header, row[i].n)) != E_CORRUPT)
            fail_msg("accepted: %s", row[i].header);
}

static void cut_off_at_every_byte(void **state)
{
    const int64_t n = build("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);

    (void)state;
    for (int64_t i = 0; i < n; i++) assert_int_equal(parse(i), E_CORRUPT);
    assert_int_equal(parse(n), OK);
}

/* What was never such a file, by mistake or by a download that got an error's page, is no damaged one. */
static void another_form_is_wrong_usage(void **state)
{
    static const char *const other[] = { "model:\n  name: micro\n", "<html>", "PK\003\004 torch",
                                         "\211HDF\r\n\032\n more", "\037\213\010 packed" };

    (void)state;
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        memcpy(bytes, other[i], strlen(other[i]));
        assert_int_equal(parse((int64_t)strlen(other[i])), E_USAGE);
    }
}

static void absurd_header_lengths(void **state)
{
    const int64_t n = build("{}", 0);

    (void)state;
    memset(bytes, 0xFF, 8);
    assert_int_equal(parse(n), E_CORRUPT);
    memset(bytes, 0, 8);
    bytes[7] = 0x80;
    assert_int_equal(parse(n), E_CORRUPT);
    memset(bytes, 0, 8);
    assert_int_equal(parse(n), E_CORRUPT);
}

static void what_is_written_is_read(void **state)
{
    const float x[6] = { 1, -2, 3.5f, NAN, -0.0f, 1e-40f };
    const uint8_t u[3] = { 7, 8, 9 };
    const int64_t i64[1] = { -5 };
    const struct safetensors_entry e[] = {
        { .name = "u", .dtype = SAFETENSORS_U8, .n_dims = 1, .dim = { 3 }, .data = u },
        { .name = "x\"ä", .dtype = SAFETENSORS_F32, .n_dims = 2, .dim = { 2, 3 }, .data = x },
        { .name = "none", .dtype = SAFETENSORS_F32, .n_dims = 1, .dim = { 0 }, .data = x },
        { .name = "i", .dtype = SAFETENSORS_I64, .n_dims = 0, .data = i64 },
    };
    const struct safetensors_text meta[] = { { "depth", "12" }, { "name", "a\nb" } };
    const char *path = in_scratch("all.safetensors");
    struct safetensors *st = NULL;
    struct safetensors_entry f;
    float y[6];

    (void)state;
    assert_int_equal(safetensors_write(path, e, 4, meta, 2), OK);
    assert_int_equal(safetensors_open(&st, path), OK);
    assert_int_equal(safetensors_count(st), 4);
    assert_string_equal(safetensors_at(st, 0)->name, "i"); /* widest first: all are aligned */
    assert_string_equal(safetensors_meta(st, "name"), "a\nb");
    assert_null(safetensors_meta(st, "nothing"));
    assert_int_equal(safetensors_find(st, "x\"ä", &f), OK);
    assert_int_equal(f.n_dims, 2);
    assert_int_equal(f.dim[1], 3);
    assert_int_equal((uintptr_t)f.data % 8, 0);
    assert_int_equal(safetensors_to_f32(&f, y), OK);
    assert_memory_equal(x, y, sizeof x);
    assert_int_equal(safetensors_find(st, "u", &f), OK);
    assert_memory_equal(f.data, u, sizeof u);
    assert_int_equal(safetensors_to_f32(&f, y), E_CORRUPT);
    assert_int_equal(safetensors_find(st, "v", &f), E_CORRUPT);
    assert_false(safetensors_has(st, "v"));
    safetensors_close(st);
}

static void refused_writes_leave_nothing(void **state)
{
    const float x[1] = { 1 };
    const struct safetensors_entry twice[] = {
        { .name = "a", .dtype = SAFETENSORS_F32, .n_dims = 0, .data = x },
        { .name = "a", .dtype = SAFETENSORS_F32, .n_dims = 0, .data = x },
    };
    const struct safetensors_entry meta = {
        .name = "__metadata__", .dtype = SAFETENSORS_F32, .n_dims = 0, .data = x
    };
    const char *path = in_scratch("none.safetensors");

    (void)state;
    assert_int_equal(safetensors_write(path, twice, 2, NULL, 0), E_CORRUPT);
    assert_int_equal(safetensors_write(path, &meta, 1, NULL, 0), E_CORRUPT);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(safetensors_write("/nonexistent/x", twice, 1, NULL, 0), E_IO);
}

static void halves(void **state)
{
    static const struct {
        uint16_t half;
        float value;
    } row[] = { { 0x0000, 0 },        { 0x3C00, 1 },
                { 0xC000, -2 },       { 0x7BFF, 65504 },
                { 0x0001, 0x1p-24f }, { 0x83FF, -1023 * 0x1p-24f },
                { 0x0400, 0x1p-14f }, { 0x3555, 0.333251953125f } };
    struct safetensors_entry e = { .name = "h", .dtype = SAFETENSORS_F16, .count = 1, .bytes = 2 };
    uint16_t odd;
    float y;

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        e.data = &row[i].half;
        assert_int_equal(safetensors_to_f32(&e, &y), OK);
        assert_true(y == row[i].value);
    }
    odd = 0x8000;
    e.data = &odd;
    assert_int_equal(safetensors_to_f32(&e, &y), OK);
    assert_true(y == 0 && signbit(y));
    odd = 0xFC00;
    assert_int_equal(safetensors_to_f32(&e, &y), OK);
    assert_true(isinf(y) && y < 0);
    odd = 0x7E00;
    assert_int_equal(safetensors_to_f32(&e, &y), OK);
    assert_true(isnan(y));
    e.dtype = SAFETENSORS_BF16;
    odd = 0xBFC0;
    assert_int_equal(safetensors_to_f32(&e, &y), OK);
    assert_true(y == -1.5f);
}

static int start(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : 1;
}

static int finish(void **state)
{
    char command[256];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_headers),
        cmocka_unit_test(bad_headers),
        cmocka_unit_test(cut_off_at_every_byte),
        cmocka_unit_test(another_form_is_wrong_usage),
        cmocka_unit_test(absurd_header_lengths),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(refused_writes_leave_nothing),
        cmocka_unit_test(halves),
    };

    return cmocka_run_group_tests(tests, start, finish);
}
