#include "data_pipeline/picture_codec.h"

#include "kernels/base/log.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Deflate shrinks 1032-fold at most, and a byte holds 8 pixels at 1 bit. */
enum { PIXELS_PER_BYTE = 1032 * 8, CHUNK_BYTES_MAX = 1 << 20, DEFLATE_RATIO_MAX = 1032 };

struct source {
    const uint8_t *bytes;
    int64_t n, at;
    bool short_read; /* the bytes ended before the image did */
};

/* One PNG being read. Lives outside the frame that longjmp leaves. */
struct reader {
    struct source source;
    png_structp png;
    png_infop info;
    uint8_t *pixels; /* owned */
    int64_t height, width, row_bytes;
    int n_channels, sample_bytes;
};

static void take_bytes(png_structp png, png_bytep to, size_t n)
{
    struct source *s = png_get_io_ptr(png);

    if ((int64_t)n > s->n - s->at) {
        s->short_read = true;
        png_error(png, "out of bytes");
    }
    memcpy(to, s->bytes + s->at, n);
    s->at += (int64_t)n;
}

static void on_error(png_structp png, png_const_charp text)
{
    log_debug("libpng: %s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    log_debug("libpng: %s", text);
}

static void close_reader(struct reader *r)
{
    png_destroy_read_struct(&r->png, &r->info, NULL);
    free(r->pixels);
    r->pixels = NULL;
}

/* Chunks beside the pixels are never unpacked: some inflate from kilobytes to megabytes. */
static const uint8_t ignored_chunks[] =
    "bKGD\0cHRM\0eXIf\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs\0"
    "sBIT\0sCAL\0sPLT\0sRGB\0sTER\0tEXt\0tIME\0zTXt";

static enum status open_reader(struct reader *r, const uint8_t *bytes, int64_t n)
{
    *r = (struct reader){ .source = { .bytes = bytes, .n = n } };
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, on_error, on_warning);
    if (r->png) r->info = png_create_info_struct(r->png);
    if (!r->info) {
        close_reader(r);
        FAIL(E_MEMORY, "libpng does not start");
    }
    return OK;
}

/* Reads up to the pixels. Returns false where libpng stopped. */
static bool read_info(struct reader *r)
{
    if (setjmp(png_jmpbuf(r->png))) return false;
    png_set_read_fn(r->png, &r->source, take_bytes);
    png_set_user_limits(r->png, PICTURE_SIDE_MAX, PICTURE_SIDE_MAX);
    png_set_chunk_malloc_max(r->png, CHUNK_BYTES_MAX);
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, ignored_chunks,
                                (int)sizeof ignored_chunks / 5);
    png_read_info(r->png, r->info);
    r->height = png_get_image_height(r->png, r->info);
    r->width = png_get_image_width(r->png, r->info);
    return true;
}

/* Asks for 8- or 16-bit grey or RGB without alpha; with to_rgb for 8-bit RGB only. */
static bool set_transforms(struct reader *r, bool to_rgb)
{
    if (setjmp(png_jmpbuf(r->png))) return false;
    png_set_expand(r->png);
    png_set_strip_alpha(r->png);
    if (to_rgb) {
        png_set_scale_16(r->png);
        png_set_gray_to_rgb(r->png);
    }
    (void)png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    r->row_bytes = (int64_t)png_get_rowbytes(r->png, r->info);
    r->n_channels = png_get_channels(r->png, r->info);
    r->sample_bytes = png_get_bit_depth(r->png, r->info) / 8;
    return true;
}

/* Reads every row into to (height × row_bytes), and the file's end. */
static bool read_pixels(struct reader *r, uint8_t *to)
{
    if (setjmp(png_jmpbuf(r->png))) return false;
    const int n_passes = png_get_interlace_type(r->png, r->info) == PNG_INTERLACE_ADAM7
                             ? PNG_INTERLACE_ADAM7_PASSES
                             : 1;
    for (int pass = 0; pass < n_passes; pass++)
        for (int64_t y = 0; y < r->height; y++) png_read_row(r->png, to + y * r->row_bytes, NULL);
    png_read_end(r->png, NULL);
    return true;
}

static enum status refuse(const struct reader *r, const char **why)
{
    if (r->source.short_read) PICTURE_REFUSE(why, "the PNG is truncated; fetch it again");
    PICTURE_REFUSE(why, "the PNG is damaged: its chunks or checksums are wrong; fetch it again");
}

/* Header, caps, and what the coded bytes can hold, before memory is taken for the pixels. */
static enum status read_head(struct reader *r, const char **why)
{
    if (!read_info(r)) return refuse(r, why);
    TRY(picture_plausible(r->height, r->width, r->source.n, PIXELS_PER_BYTE, why));
    if ((int64_t)png_get_rowbytes(r->png, r->info) * r->height / DEFLATE_RATIO_MAX > r->source.n)
        PICTURE_REFUSE(why, "the header promises more pixels than so few bytes can hold");
    return OK;
}

enum status picture_png_size(const uint8_t *bytes, int64_t n, int32_t *height, int32_t *width,
                             const char **why)
{
    struct reader r;

    TRY(open_reader(&r, bytes, n));
    const enum status s = read_head(&r, why);
    if (s == OK) {
        *height = (int32_t)r.height;
        *width = (int32_t)r.width;
    }
    close_reader(&r);
    return s;
}

static enum status decode_rgb(struct reader *r, struct picture *p, const char **why)
{
    TRY(read_head(r, why));
    if (!set_transforms(r, true)) return refuse(r, why);
    if (r->row_bytes != r->width * 3) PICTURE_REFUSE(why, "the PNG's kind of pixels is unknown");
    TRY(picture_reserve(p, (int32_t)r->height, (int32_t)r->width));
    return read_pixels(r, p->rgb) ? OK : refuse(r, why);
}

enum status picture_png_decode(const uint8_t *bytes, int64_t n, struct picture *p, const char **why)
{
    struct reader r;

    TRY(open_reader(&r, bytes, n));
    const enum status s = decode_rgb(&r, p, why);
    close_reader(&r);
    return s;
}

static enum status decode_mask(struct reader *r, uint8_t **mask, const char **why)
{
    TRY(read_head(r, why));
    if (!set_transforms(r, false)) return refuse(r, why);

    const int64_t pixel_bytes = (int64_t)r->n_channels * r->sample_bytes;
    const int64_t n_pixels = r->height * r->width;

    if (pixel_bytes < 1 || r->row_bytes != r->width * pixel_bytes)
        PICTURE_REFUSE(why, "the PNG's kind of pixels is unknown");
    r->pixels = malloc((size_t)(n_pixels * pixel_bytes));
    if (!r->pixels) FAIL(E_MEMORY, "a mask of %lld pixels", (long long)n_pixels);
    if (!read_pixels(r, r->pixels)) return refuse(r, why);
    /* in place: pixel i is written at or before the place it is read from */
    for (int64_t i = 0; i < n_pixels; i++) {
        uint8_t any = 0;

        for (int64_t k = 0; k < pixel_bytes; k++) any |= r->pixels[i * pixel_bytes + k];
        r->pixels[i] = any != 0;
    }
    uint8_t *shrunk = realloc(r->pixels, (size_t)n_pixels);
    *mask = shrunk ? shrunk : r->pixels;
    r->pixels = NULL;
    return OK;
}

enum status picture_decode_mask(const uint8_t *bytes, int64_t n, uint8_t **mask, int32_t *height,
                                int32_t *width, const char **why)
{
    struct reader r;

    if (n < 8 || png_sig_cmp(bytes, 0, 8))
        PICTURE_REFUSE(why, "not a PNG: masks are read from PNG files only");
    TRY(open_reader(&r, bytes, n));
    const enum status s = decode_mask(&r, mask, why);
    if (s == OK) {
        *height = (int32_t)r.height;
        *width = (int32_t)r.width;
    }
    close_reader(&r);
    return s;
}

struct writer {
    png_structp png;
    png_infop info;
    FILE *file;
};

static bool write_image(struct writer *w, const uint8_t *pixels, int32_t height, int32_t width,
                        bool is_mask)
{
    const int64_t row_bytes = (int64_t)width * (is_mask ? 1 : 3);

    if (setjmp(png_jmpbuf(w->png))) return false;
    png_init_io(w->png, w->file);
    png_set_user_limits(w->png, PICTURE_SIDE_MAX, PICTURE_SIDE_MAX);
    png_set_IHDR(w->png, w->info, (png_uint_32)width, (png_uint_32)height, is_mask ? 1 : 8,
                 is_mask ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_BASE, PNG_FILTER_TYPE_BASE);
    png_write_info(w->png, w->info);
    png_set_packing(w->png);
    for (int32_t y = 0; y < height; y++) png_write_row(w->png, pixels + y * row_bytes);
    png_write_end(w->png, w->info);
    return true;
}

static enum status write_file(const char *path, const uint8_t *pixels, int32_t height,
                              int32_t width, bool is_mask)
{
    struct writer w = { .file = fopen(path, "wb") };
    bool written = false, regular;
    struct stat info;

    if (!w.file) FAIL(E_IO, "cannot write %s: %s", path, strerror(errno));
    regular = fstat(fileno(w.file), &info) == 0 && S_ISREG(info.st_mode);
    w.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, on_error, on_warning);
    if (w.png) w.info = png_create_info_struct(w.png);
    if (w.info) written = write_image(&w, pixels, height, width, is_mask);
    png_destroy_write_struct(&w.png, &w.info);
    if (fclose(w.file)) written = false;
    if (!written) {
        const int error = errno;

        if (regular) remove(path); /* a device is not ours */
        FAIL(E_IO, "cannot write %s: %s", path, error ? strerror(error) : "libpng failed");
    }
    return OK;
}

enum status picture_write_png(const char *path, const struct picture *p)
{
    return write_file(path, p->rgb, p->height, p->width, false);
}

enum status picture_write_mask_png(const char *path, const uint8_t *mask, int32_t height,
                                   int32_t width)
{
    return write_file(path, mask, height, width, true);
}
