/* Pictures: codecs give back what went in and refuse whatever is cut, flipped or forged; resampling
 * is Pillow's to the bit, with and without vector instructions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>
#include <unistd.h>
#include <zlib.h>

#include "data_pipeline/picture_codec.h"
#include "kernels/base/rng.h"

enum { FILE_MAX = 1 << 20 };

/* Noise anyone can make again: byte i is bits 13…20 of i · 2654435761 mod 2^32. */
static void fill_noise(struct picture *p, int32_t h, int32_t w)
{
    assert_int_equal(picture_reserve(p, h, w), OK);
    for (int64_t i = 0; i < (int64_t)h * w * 3; i++)
        p->rgb[i] = (uint8_t)(((uint32_t)i * 2654435761u) >> 13);
}

static void fill_smooth(struct picture *p, int32_t h, int32_t w)
{
    assert_int_equal(picture_reserve(p, h, w), OK);
    for (int32_t y = 0; y < h; y++)
        for (int32_t x = 0; x < w; x++)
            for (int32_t c = 0; c < 3; c++)
                p->rgb[(y * w + x) * 3 + c] =
                    (uint8_t)(50 + (y * (c + 1) + x * 2) * 150 / (4 * (h + w)));
}

static int64_t read_back(const char *path, uint8_t *bytes)
{
    FILE *f = fopen(path, "rb");

    assert_non_null(f);
    const size_t n = fread(bytes, 1, FILE_MAX, f);
    fclose(f);
    unlink(path);
    return (int64_t)n;
}

static void temporary_path(char path[40])
{
    strcpy(path, "/tmp/test_picture.XXXXXX");
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
}

static int64_t make_png(const struct picture *p, uint8_t *bytes)
{
    char path[40];

    temporary_path(path);
    assert_int_equal(picture_write_png(path, p), OK);
    return read_back(path, bytes);
}

/* Decodes from a buffer of exactly n bytes, so that a sanitizer sees any read beyond it. */
static enum status decode_exact(const uint8_t *bytes, int64_t n, struct picture *p)
{
    const char *why = NULL;
    int32_t h, w;
    uint8_t *copy = malloc((size_t)n + (n == 0));

    assert_non_null(copy);
    memcpy(copy, bytes, (size_t)n);
    const enum status size = picture_size(copy, n, &h, &w, &why),
                      s = picture_decode(copy, n, 0, p, &why);
    free(copy);
    if (s == OK) {
        assert_int_equal(size, OK);
        assert_int_equal(h, p->height);
        assert_int_equal(w, p->width);
    } else {
        assert_int_equal(s, E_CORRUPT);
        assert_non_null(why);
    }
    return s;
}

static void test_jpeg_round_trip(void **state)
{
    struct picture p = { 0 }, q = { 0 };
    uint8_t *bytes;
    int64_t n, error = 0;

    (void)state;
    fill_smooth(&p, 61, 83);
    assert_int_equal(picture_encode_jpeg(&p, 95, &bytes, &n), OK);
    assert_int_equal(decode_exact(bytes, n, &q), OK);
    assert_int_equal(q.height, 61);
    assert_int_equal(q.width, 83);
    for (int64_t i = 0; i < 61 * 83 * 3; i++) error += abs(p.rgb[i] - q.rgb[i]);
    assert_true(error < 2 * 61 * 83 * 3);
    free(bytes);
    picture_destroy(&p);
    picture_destroy(&q);
}

static void test_png_round_trip(void **state)
{
    struct picture p = { 0 }, q = { 0 };
    uint8_t *bytes = malloc(FILE_MAX);

    (void)state;
    assert_non_null(bytes);
    fill_noise(&p, 31, 47);
    const int64_t n = make_png(&p, bytes);
    assert_int_equal(decode_exact(bytes, n, &q), OK);
    assert_memory_equal(p.rgb, q.rgb, 31 * 47 * 3);
    free(bytes);
    picture_destroy(&p);
    picture_destroy(&q);
}

static void test_mask_round_trip(void **state)
{
    enum { H = 19, W = 37 };
    uint8_t mask[H * W], *bytes = malloc(FILE_MAX), *back;
    const char *why;
    char path[40];
    int32_t h, w;

    (void)state;
    assert_non_null(bytes);
    for (int i = 0; i < H * W; i++) mask[i] = i % 7 < 3;
    temporary_path(path);
    assert_int_equal(picture_write_mask_png(path, mask, H, W), OK);
    int64_t n = read_back(path, bytes);
    assert_int_equal(picture_decode_mask(bytes, n, &back, &h, &w, &why), OK);
    assert_int_equal(h, H);
    assert_int_equal(w, W);
    assert_memory_equal(mask, back, sizeof mask);
    free(back);

    struct picture p = { 0 }; /* 8-bit RGB: one channel suffices */
    assert_int_equal(picture_reserve(&p, H, W), OK);
    for (int i = 0; i < H * W; i++) {
        memset(p.rgb + 3 * i, 0, 3);
        p.rgb[3 * i + i % 3] = mask[i];
    }
    n = make_png(&p, bytes);
    assert_int_equal(picture_decode_mask(bytes, n, &back, &h, &w, &why), OK);
    assert_memory_equal(mask, back, sizeof mask);
    free(back);
    assert_int_equal(picture_decode_mask(bytes, n - 13, &back, &h, &w, &why), E_CORRUPT);
    assert_int_equal(picture_decode_mask(bytes, 5, &back, &h, &w, &why), E_CORRUPT);
    picture_destroy(&p);
    free(bytes);
}

/* Every prefix is refused; every flipped byte is refused or harmless, and nothing crashes. */
static void cut_and_flip(uint8_t *bytes, int64_t n, bool checksummed)
{
    struct picture whole = { 0 }, p = { 0 };

    assert_int_equal(decode_exact(bytes, n, &whole), OK);
    const size_t size = (size_t)whole.height * (size_t)whole.width * 3;
    for (int64_t cut = 0; cut < n; cut++)
        if (decode_exact(bytes, cut, &p) != E_CORRUPT) fail_msg("cut at %d passed", (int)cut);
    for (int64_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit += 3) {
            bytes[i] ^= (uint8_t)(1 << bit);
            const enum status s = decode_exact(bytes, n, &p);
            bytes[i] ^= (uint8_t)(1 << bit);
            if (s == OK && checksummed)
                assert_true(p.height == whole.height && !memcmp(p.rgb, whole.rgb, size));
        }
    }
    picture_destroy(&whole);
    picture_destroy(&p);
}

static void test_jpeg_hostile(void **state)
{
    struct picture p = { 0 };
    uint8_t *bytes;
    int64_t n;

    (void)state;
    fill_smooth(&p, 40, 33);
    assert_int_equal(picture_encode_jpeg(&p, 80, &bytes, &n), OK);
    cut_and_flip(bytes, n, false);
    free(bytes);
    picture_destroy(&p);
}

static void test_png_hostile(void **state)
{
    struct picture p = { 0 };
    uint8_t *bytes = malloc(FILE_MAX);

    (void)state;
    assert_non_null(bytes);
    fill_smooth(&p, 20, 13);
    cut_and_flip(bytes, make_png(&p, bytes), true);
    free(bytes);
    picture_destroy(&p);
}

static uint8_t *find_marker(uint8_t *bytes, int64_t n, uint8_t marker)
{
    for (int64_t i = 0; i + 1 < n; i++)
        if (bytes[i] == 0xFF && bytes[i + 1] == marker) return bytes + i;
    return NULL;
}

static void expect_refused(const uint8_t *bytes, int64_t n, const char *reason)
{
    struct picture p = { 0 };
    const char *why = "";

    assert_int_equal(picture_decode(bytes, n, 0, &p, &why), E_CORRUPT);
    if (!strstr(why, reason)) fail_msg("refused for \"%s\", not \"%s\"", why, reason);
    assert_null(p.rgb); /* before any memory was taken */
    picture_destroy(&p);
}

static void test_jpeg_bombs(void **state)
{
    struct picture p = { 0 };
    uint8_t *bytes, *bomb;
    int64_t n;

    (void)state;
    fill_smooth(&p, 16, 16);
    assert_int_equal(picture_encode_jpeg(&p, 80, &bytes, &n), OK);
    uint8_t *const size = find_marker(bytes, n, 0xC0) + 5;
    memcpy(size, "\xFF\xDC\xFF\xDC", 4); /* 65500 × 65500 */
    expect_refused(bytes, n, "more than 2^26");
    memcpy(size, "\x1F\x00\x1F\x00", 4);
    expect_refused(bytes, n, "so few bytes");
    memcpy(size, "\x00\x10\x00\x10", 4);

    /* 101 scans, as a forged progressive file has */
    const uint8_t *scan = find_marker(bytes, n, 0xDA);
    const int64_t head = scan - bytes, scan_bytes = n - 2 - head;
    bomb = malloc((size_t)(head + 101 * scan_bytes + 2));
    assert_non_null(bomb);
    memcpy(bomb, bytes, (size_t)head);
    for (int i = 0; i < 101; i++) memcpy(bomb + head + i * scan_bytes, scan, (size_t)scan_bytes);
    memcpy(bomb + head + 101 * scan_bytes, "\xFF\xD9", 2);
    expect_refused(bomb, head + 101 * scan_bytes + 2, "100 scans");
    free(bomb);
    free(bytes);
    picture_destroy(&p);
}

static void put_be32(uint8_t *to, uint32_t v)
{
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void test_png_bombs(void **state)
{
    static const uint32_t sides[][2] = { { 65000, 65000 }, { 8000, 8000 }, { 70000, 1 }, { 0, 5 } };
    static const char *const reasons[] = { "more than 2^26", "so few bytes", "", "" };
    struct picture p = { 0 };
    uint8_t *bytes = malloc(FILE_MAX);

    (void)state;
    assert_non_null(bytes);
    fill_smooth(&p, 16, 16);
    const int64_t n = make_png(&p, bytes);
    for (int i = 0; i < 4; i++) {
        put_be32(bytes + 16, sides[i][0]);
        put_be32(bytes + 20, sides[i][1]);
        put_be32(bytes + 29, (uint32_t)crc32(0, bytes + 12, 17));
        expect_refused(bytes, n, reasons[i]);
    }
    expect_refused((const uint8_t *)"GIF89a", 6, "neither");
    expect_refused((const uint8_t *)"", 0, "neither");
    free(bytes);
    picture_destroy(&p);
}

/* Grey is turned into RGB, CMYK refused. */
static void test_jpeg_kinds(void **state)
{
    static const int kinds[2][3] = { { TJPF_GRAY, TJSAMP_GRAY, 1 }, { TJPF_CMYK, TJSAMP_444, 4 } };
    uint8_t pixels[24 * 16 * 4];
    struct picture p = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i / 8);
    for (int k = 0; k < 2; k++) {
        unsigned char *bytes = NULL;
        unsigned long n = 0;
        tjhandle handle = tjInitCompress();

        assert_int_equal(tjCompress2(handle, pixels, 24, 24 * kinds[k][2], 16, kinds[k][0], &bytes,
                                     &n, kinds[k][1], 90, TJFLAG_PROGRESSIVE),
                         0);
        if (k == 0) {
            assert_int_equal(decode_exact(bytes, (int64_t)n, &p), OK);
            assert_true(p.rgb[0] == p.rgb[1] && p.rgb[1] == p.rgb[2]);
            cut_and_flip(bytes, (int64_t)n, false);
        } else {
            expect_refused(bytes, (int64_t)n, "CMYK");
        }
        tjFree(bytes);
        tjDestroy(handle);
    }
    picture_destroy(&p);
}

static void test_scaled_decode(void **state)
{
    static const int32_t cases[][3] = { /* min_long, height, width */
                                        { 0, 203, 301 },   { 301, 203, 301 }, { 152, 203, 301 },
                                        { 151, 102, 151 }, { 76, 51, 76 },    { 38, 26, 38 },
                                        { 1, 26, 38 }
    };
    struct picture p = { 0 }, q = { 0 };
    const char *why;
    uint8_t *bytes;
    int64_t n;

    (void)state;
    fill_smooth(&p, 203, 301);
    assert_int_equal(picture_encode_jpeg(&p, 90, &bytes, &n), OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(picture_decode(bytes, n, cases[i][0], &q, &why), OK);
        assert_int_equal(q.height, cases[i][1]);
        assert_int_equal(q.width, cases[i][2]);
        assert_true(abs(q.rgb[0] - p.rgb[0]) < 8); /* the same picture, smaller */
    }
    free(bytes);
    picture_destroy(&p);
    picture_destroy(&q);
}

static void test_fit(void **state)
{
    static const int32_t cases[][4] = { { 1500, 2250, 683, 1024 },
                                        { 2250, 1500, 1024, 683 },
                                        { 480, 640, 768, 1024 },
                                        { 1500, 2247, 684, 1024 },
                                        { 1, 5000, 1, 1024 } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t h, w;

        picture_fit(cases[i][0], cases[i][1], 1024, &h, &w);
        assert_int_equal(h, cases[i][2]);
        assert_int_equal(w, cases[i][3]);
    }
}

/* The checksums are of Pillow 9.4's Image.resize((w,h), BILINEAR) on the same noise. */
static void test_resize_is_pillow(void **state)
{
    static const struct {
        int32_t h, w, new_h, new_w;
        uint32_t crc;
    } cases[] = {
        { 150, 225, 68, 102, 0x299CEE68u }, { 37, 53, 90, 131, 0x301C20AEu },
        { 64, 64, 64, 29, 0x8425644Eu },    { 64, 48, 17, 48, 0x569D2665u },
        { 299, 301, 7, 300, 0xE72EBD51u },  { 3, 500, 5, 33, 0x5B20D7A2u },
    };
    struct picture p = { 0 }, q = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fill_noise(&p, cases[i].h, cases[i].w);
        for (int vectors = 0; vectors <= picture_has_vectors(); vectors++) {
            assert_int_equal(
                picture_resize_with(&q, &p, cases[i].new_h, cases[i].new_w, vectors != 0), OK);
            assert_int_equal(q.height, cases[i].new_h);
            assert_int_equal(q.width, cases[i].new_w);
            assert_int_equal(crc32(0, q.rgb, (uInt)(q.height * q.width * 3)), cases[i].crc);
        }
    }
    picture_destroy(&p);
    picture_destroy(&q);
}

static void test_resize_vectors(void **state)
{
    const struct rng_key key = rng_stream(1, RNG_TEST, 0, 0);
    struct picture p = { 0 }, q = { 0 }, r = { 0 };

    (void)state;
    if (!picture_has_vectors()) skip();
    for (uint64_t i = 0; i < 400; i++) {
        int32_t side[4];

        for (uint64_t k = 0; k < 4; k++)
            side[k] = 1 + (int32_t)rng_below(key, 4 * i + k, k < 2 ? 40 : 90);
        fill_noise(&p, side[0], side[1]);
        if (i % 3 == 0) memset(p.rgb, 255, (size_t)side[0] * (size_t)side[1] * 3);
        assert_int_equal(picture_resize_with(&q, &p, side[2], side[3], false), OK);
        assert_int_equal(picture_resize_with(&r, &p, side[2], side[3], true), OK);
        assert_memory_equal(q.rgb, r.rgb, (size_t)side[2] * (size_t)side[3] * 3);
        if (i % 3 == 0) assert_int_equal(q.rgb[0], 255);
    }
    picture_destroy(&p);
    picture_destroy(&q);
    picture_destroy(&r);
}

static void test_reserve(void **state)
{
    struct picture p = { 0 };

    (void)state;
    assert_int_equal(picture_reserve(&p, 0, 5), E_SHAPE);
    assert_int_equal(picture_reserve(&p, 60000, 60000), E_SHAPE);
    assert_int_equal(picture_reserve(&p, 20, 30), OK);
    const uint8_t *before = p.rgb;
    assert_int_equal(picture_reserve(&p, 10, 30), OK);
    assert_ptr_equal(before, p.rgb);
    assert_int_equal(p.room, 20 * 30 * 3);
    picture_destroy(&p);
    picture_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jpeg_round_trip),  cmocka_unit_test(test_png_round_trip),
        cmocka_unit_test(test_mask_round_trip),  cmocka_unit_test(test_jpeg_hostile),
        cmocka_unit_test(test_png_hostile),      cmocka_unit_test(test_jpeg_bombs),
        cmocka_unit_test(test_png_bombs),        cmocka_unit_test(test_jpeg_kinds),
        cmocka_unit_test(test_scaled_decode),    cmocka_unit_test(test_fit),
        cmocka_unit_test(test_resize_is_pillow), cmocka_unit_test(test_resize_vectors),
        cmocka_unit_test(test_reserve),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
