/* Small shards for tests: records made from counters, written under a folder of their own. */
#ifndef TESTS_DATA_PIPELINE_SAMPLE_SHARD_H
#define TESTS_DATA_PIPELINE_SAMPLE_SHARD_H

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data_pipeline/rle.h"
#include "data_pipeline/shard.h"
#include "kernels/base/check.h"
#include "kernels/base/rng.h"

enum { SAMPLE_PATH = 512, SAMPLE_MASKS = 8, SAMPLE_TEXT = 4096 };

/* A fresh folder under /tmp. */
static inline void sample_folder(char folder[SAMPLE_PATH])
{
    snprintf(folder, SAMPLE_PATH, "/tmp/samforge-test-XXXXXX");
    ASSERT(mkdtemp(folder));
}

static inline void sample_remove(const char *folder)
{
    DIR *d = opendir(folder);
    const struct dirent *e;

    if (!d) return;
    while ((e = readdir(d))) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    rmdir(folder);
}

struct sample {
    struct shard_record record;
    char text[SAMPLE_TEXT];
    int64_t end[SAMPLE_MASKS], area[SAMPLE_MASKS];
    float box[SAMPLE_MASKS * 4];
};

/* Record `id` of h×w pixels with n_masks rectangles, mask m the m-th smallest; the image's bytes
 * are given, not owned. */
static inline void sample_make(struct sample *s, int64_t id, int32_t h, int32_t w, int64_t n_masks,
                               const uint8_t *image, int64_t image_bytes)
{
    uint8_t *pixels = malloc((size_t)h * (size_t)w);
    int32_t *runs = malloc(((size_t)h * (size_t)w + 1) * sizeof *runs);
    const struct rng_key key = rng_stream(7, RNG_TEST, (uint64_t)id, 0);
    int64_t at = 0, n_runs, n_text;

    ASSERT(pixels && runs && n_masks <= SAMPLE_MASKS);
    for (int64_t m = 0; m < n_masks; m++) {
        const int32_t mh = (int32_t)(1 + (h - 1) * m / SAMPLE_MASKS), mw = mh < w ? mh : w;
        const int32_t y = (int32_t)rng_below(key, (uint64_t)(2 * m), (uint64_t)(h - mh) + 1);
        const int32_t x = (int32_t)rng_below(key, (uint64_t)(2 * m + 1), (uint64_t)(w - mw) + 1);
        struct rle_extent e;

        memset(pixels, 0, (size_t)h * (size_t)w);
        for (int32_t i = 0; i < mh; i++) memset(pixels + (y + i) * w + x, 1, (size_t)mw);
        ASSERT(rle_from_pixels(pixels, h, w, runs, (int64_t)h * w + 1, &n_runs) == OK);
        ASSERT(rle_encode(runs, n_runs, s->text + at, SAMPLE_TEXT - at, &n_text) == OK);
        e = rle_extent(runs, n_runs, h);
        at += n_text;
        s->end[m] = at;
        s->area[m] = e.area;
        s->box[4 * m] = (float)e.x0;
        s->box[4 * m + 1] = (float)e.y0;
        s->box[4 * m + 2] = (float)e.x1;
        s->box[4 * m + 3] = (float)e.y1;
    }
    free(pixels);
    free(runs);
    s->record = (struct shard_record){ .image_id = id,
                                       .height = h,
                                       .width = w,
                                       .stored_height = h,
                                       .stored_width = w,
                                       .codec = SHARD_JPEG,
                                       .image = image,
                                       .image_bytes = image_bytes,
                                       .n_masks = n_masks,
                                       .mask_text = s->text,
                                       .mask_end = s->end,
                                       .mask_area = s->area,
                                       .mask_box = s->box };
}

/* Sends stderr to nowhere while expected failures are logged; returns what to give back. */
static inline int sample_hush(void)
{
    const int kept = dup(2), null = open("/dev/null", O_WRONLY);

    ASSERT(kept >= 0 && null >= 0 && dup2(null, 2) == 2);
    close(null);
    return kept;
}

static inline void sample_speak(int kept)
{
    ASSERT(dup2(kept, 2) == 2);
    close(kept);
}

#endif
