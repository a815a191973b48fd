/* One TurboJPEG handle a call. A handle that is used again keeps the tables of the last file, which
 * a file without its own would then be decoded with, and after a damaged header 2.1 goes on inside
 * that header; making one takes microseconds. */
#include "data_pipeline/picture_codec.h"

#include "kernels/base/check.h"
#include "kernels/base/log.h"

#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

enum {
    SCANS_MAX = 100,       /* a forged progressive file has thousands, each over the whole image */
    PIXELS_PER_BYTE = 512, /* every 8×8 block takes a bit of the first DC scan at least */
    MARKER_SOI = 0xD8,
    MARKER_EOI = 0xD9,
    MARKER_SOS = 0xDA,
    MARKER_TEM = 0x01,
    MARKER_RST0 = 0xD0,
    MARKER_RST7 = 0xD7
};

/* From the first byte of a scan's coded data to the marker that ends it; n when there is none. */
static int64_t skip_scan(const uint8_t *bytes, int64_t n, int64_t at)
{
    while (at + 1 < n) {
        const uint8_t *found = memchr(bytes + at, 0xFF, (size_t)(n - 1 - at));

        if (!found) return n;
        at = found - bytes;
        if (found[1] != 0 && found[1] != 0xFF &&
            !(found[1] >= MARKER_RST0 && found[1] <= MARKER_RST7))
            return at;
        at += found[1] == 0xFF ? 1 : 2;
    }
    return n;
}

/* Walks the markers from SOI to EOI, so that a file cut anywhere is found before memory is taken
 * for its pixels, and scans are counted. */
static enum status check_markers(const uint8_t *bytes, int64_t n, const char **why)
{
    int64_t at = 2;
    int n_scans = 0;

    for (;;) {
        while (at + 1 < n && bytes[at] == 0xFF && bytes[at + 1] == 0xFF) at++; /* fill bytes */
        if (at + 1 >= n)
            PICTURE_REFUSE(why, "the JPEG is truncated: it ends without its end marker");
        if (bytes[at] != 0xFF)
            PICTURE_REFUSE(why, "the JPEG is damaged: no marker where one is due");

        const uint8_t marker = bytes[at + 1];

        at += 2;
        if (marker == MARKER_EOI) break;
        if (marker == MARKER_TEM || (marker >= MARKER_RST0 && marker <= MARKER_SOI)) continue;
        if (at + 2 > n) PICTURE_REFUSE(why, "the JPEG is truncated within a marker");
        const int64_t length = bytes[at] << 8 | bytes[at + 1];
        if (length < 2) PICTURE_REFUSE(why, "the JPEG is damaged: a segment shorter than its head");
        if (at + length > n) PICTURE_REFUSE(why, "the JPEG is truncated within a segment");
        at += length;
        if (marker == MARKER_SOS) {
            if (++n_scans > SCANS_MAX) PICTURE_REFUSE(why, "the JPEG has more than 100 scans");
            at = skip_scan(bytes, n, at);
        }
    }
    if (!n_scans) PICTURE_REFUSE(why, "the JPEG has no pixels: it ends before its first scan");
    return OK;
}

static enum status read_header(tjhandle handle, const uint8_t *bytes, int64_t n, int32_t *height,
                               int32_t *width, const char **why)
{
    int w = 0, h = 0, subsampling = 0, colours = 0;

    if (tjDecompressHeader3(handle, bytes, (unsigned long)n, &w, &h, &subsampling, &colours)) {
        log_debug("TurboJPEG: %s", tjGetErrorStr2(handle));
        PICTURE_REFUSE(why, "the JPEG's header is damaged, truncated or of an unknown kind");
    }
    if (colours == TJCS_CMYK || colours == TJCS_YCCK)
        PICTURE_REFUSE(why, "a CMYK JPEG; convert it to RGB first");
    TRY(picture_plausible(h, w, n, PIXELS_PER_BYTE, why));
    *height = h;
    *width = w;
    return OK;
}

enum status picture_jpeg_size(const uint8_t *bytes, int64_t n, int32_t *height, int32_t *width,
                              const char **why)
{
    const tjhandle handle = tjInitDecompress();

    if (!handle) FAIL(E_MEMORY, "TurboJPEG does not start: %s", tjGetErrorStr2(NULL));
    const enum status s = read_header(handle, bytes, n, height, width, why);
    tjDestroy(handle);
    return s;
}

/* Only 1/2, 1/4 and 1/8 have fast inverse transforms; the scales between are slower than full. */
static tjscalingfactor choose_scale(int32_t height, int32_t width, int32_t min_long)
{
    tjscalingfactor best = { 1, 1 };
    const int32_t side = height > width ? height : width;

    if (min_long < 1) return best;
    for (int denom = 2; denom <= 8; denom *= 2) {
        const tjscalingfactor scale = { 1, denom };

        if (TJSCALED(side, scale) >= min_long) best = scale;
    }
    return best;
}

static enum status decode(tjhandle handle, const uint8_t *bytes, int64_t n, int32_t min_long,
                          struct picture *p, const char **why)
{
    int32_t height, width;

    TRY(read_header(handle, bytes, n, &height, &width, why));
    TRY(check_markers(bytes, n, why));

    const tjscalingfactor scale = choose_scale(height, width, min_long);

    TRY(picture_reserve(p, TJSCALED(height, scale), TJSCALED(width, scale)));
    if (tjDecompress2(handle, bytes, (unsigned long)n, p->rgb, p->width, 0, p->height, TJPF_RGB,
                      TJFLAG_STOPONWARNING)) {
        log_debug("TurboJPEG: %s", tjGetErrorStr2(handle));
        if (tjGetErrorCode(handle) == TJERR_WARNING)
            PICTURE_REFUSE(why, "the JPEG's pixels are truncated or damaged; fetch it again");
        PICTURE_REFUSE(why, "the JPEG cannot be decoded: damaged or of an unknown kind");
    }
    return OK;
}

enum status picture_jpeg_decode(const uint8_t *bytes, int64_t n, int32_t min_long,
                                struct picture *p, const char **why)
{
    const tjhandle handle = tjInitDecompress();

    if (!handle) FAIL(E_MEMORY, "TurboJPEG does not start: %s", tjGetErrorStr2(NULL));
    const enum status s = decode(handle, bytes, n, min_long, p, why);
    tjDestroy(handle);
    return s;
}

static enum status compress(tjhandle handle, const struct picture *p, int quality,
                            unsigned char *out, unsigned long *used)
{
    if (tjCompress2(handle, p->rgb, p->width, 0, p->height, TJPF_RGB, &out, used, TJSAMP_420,
                    quality, TJFLAG_NOREALLOC))
        FAIL(E_FAILED, "a picture of %d×%d pixels does not encode: %s", p->width, p->height,
             tjGetErrorStr2(handle));
    return OK;
}

enum status picture_encode_jpeg(const struct picture *p, int quality, uint8_t **bytes, int64_t *n)
{
    unsigned long used = tjBufSize(p->width, p->height, TJSAMP_420);

    ASSERT(quality >= 1 && quality <= 100);
    const tjhandle handle = tjInitCompress();
    if (!handle) FAIL(E_MEMORY, "TurboJPEG does not start: %s", tjGetErrorStr2(NULL));
    unsigned char *const out = malloc(used);
    const enum status s = out ? compress(handle, p, quality, out, &used)
                              : status_fail(E_MEMORY, __FILE__, __LINE__, "%lu bytes", used);
    tjDestroy(handle);
    if (s != OK) {
        free(out);
        return s;
    }
    unsigned char *const shrunk = realloc(out, used);
    *bytes = shrunk ? shrunk : out;
    *n = (int64_t)used;
    return OK;
}
