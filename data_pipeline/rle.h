/* Run-length masks as COCO writes them: column-major runs, the first one outside the mask, each in
 * a base-32 string (cocoapi maskApi; DESIGN: masks travel as runs). Input is hostile: every byte,
 * run and sum is bounded before it is used; nothing is ever written past what was checked. */
#ifndef DATA_PIPELINE_RLE_H
#define DATA_PIPELINE_RLE_H

#include <stdint.h>

#include "kernels/base/status.h"

enum { RLE_SIDE_MAX = 32768 };          /* rows or columns */
#define RLE_AREA_MAX ((int64_t)1 << 28) /* rows × columns */

/* What a mask is, derived from its runs; x0 y0 inclusive, x1 y1 exclusive; an empty mask is all
 * 0. */
struct rle_extent {
    int64_t area;
    int32_t x0, y0, x1, y1;
};

/* Decodes text[0..n_text) for an h×w mask into runs[0..*n_runs). Returns OK, or E_CORRUPT with the
 * reason in *why (a static string) and nothing logged: the caller knows which mask it was.
 * runs has room for max_runs. Checks: bytes in 48…111, ≤ 7 groups a number, every run ≥ 0 and
 * < 2^31, Σ = h·w exactly, h and w within the caps. */
enum status rle_decode(const char *text, int64_t n_text, int32_t h, int32_t w, int32_t *runs,
                       int64_t max_runs, int64_t *n_runs, const char **why) MUST_CHECK;

/* Upper bound of the runs in n_text bytes: one per byte. */
static inline int64_t rle_max_runs(int64_t n_text)
{
    return n_text;
}

/* Writes the text of runs into text[0..max_text) and its length to *n_text; E_MEMORY when it does
 * not fit. 7 bytes a run always fit. */
enum status rle_encode(const int32_t *runs, int64_t n_runs, char *text, int64_t max_text,
                       int64_t *n_text) MUST_CHECK;

struct rle_extent rle_extent(const int32_t *runs, int64_t n_runs, int32_t h);

/* Pixels (row-major, 0 or not) to runs and back. runs needs room for h·w + 1 at worst. */
enum status rle_from_pixels(const uint8_t *pixels, int32_t h, int32_t w, int32_t *runs,
                            int64_t max_runs, int64_t *n_runs) MUST_CHECK;
void rle_to_pixels(const int32_t *runs, int64_t n_runs, int32_t h, int32_t w, uint8_t *pixels);

#endif
