#include "trainer/bench_loader.h"

#include <omp.h>
#include <time.h>

#include "data_pipeline/loader.h"
#include "data_pipeline/picture.h"
#include "kernels/base/clock.h"

enum { BLOCKS = 8, TIMEOUT_MS = 60000 };

/* Wall and processor time, all threads: the second says what a core does even while others want it. */
struct spent {
    double wall, cpu;
};

static struct spent now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (struct spent){ clock_seconds(), (double)t.tv_sec + 1e-9 * (double)t.tv_nsec };
}

static void add_since(struct spent *sum, struct spent began)
{
    const struct spent end = now();

    sum->wall += end.wall - began.wall;
    sum->cpu += end.cpu - began.cpu;
}

static enum status load(const struct bench_loader *b, const struct shard_set *set, int64_t step,
                        int64_t n, struct spent *sum, double *images)
{
    const struct loader_options o = { .set = set,
                                      .frame = (int32_t)b->frame,
                                      .max_masks = b->masks,
                                      .max_area = 0.9,
                                      .min_pixels = 1,
                                      .batch = 1,
                                      .slot_end = 1,
                                      .step_first = step,
                                      .n_threads = b->threads,
                                      .ahead = 2 * b->threads };
    struct loader *l;
    struct spent began;
    enum status s = OK;

    TRY(loader_create(&l, &o));
    began = now();
    for (int64_t i = 0; s == OK && i < n; i++) {
        const struct loader_slot *slot;

        s = loader_next(l, &slot, TIMEOUT_MS);
        if (s == OK) loader_done(l, slot);
    }
    add_since(sum, began);
    *images += (double)(n + loader_stats(l).queue_depth); /* its threads worked ahead */
    loader_destroy(l);
    return s;
}

/* The same images, as the loader's order has them, decoded as the loader decodes them, and nothing else. */
static enum status decode(const struct bench_loader *b, const struct shard_set *set, int64_t step,
                          int64_t n, struct spent *sum)
{
    const struct spent began = now();
    enum status worst = OK;

#pragma omp parallel num_threads(b->threads)
    {
        struct shard_buffer bytes = { 0 };
        struct picture p = { 0 };

#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < n; i++) {
            const int64_t image = order_at(0, shard_set_images(set), step + i).image;
            struct shard_record r;
            const char *why;
            enum status s = shard_set_read(set, image, &bytes, &r);

            if (s == OK) s = picture_decode(r.image, r.image_bytes, (int32_t)b->frame, &p, &why);
            if (s != OK) {
#pragma omp critical
                worst = s;
            }
        }
        picture_destroy(&p);
        shard_buffer_destroy(&bytes);
    }
    add_since(sum, began);
    return worst;
}

enum status bench_loader_run(struct bench_loader *b, const char *shards)
{
    const int64_t n = (b->n_images + BLOCKS - 1) / BLOCKS;
    struct shard_set *set;
    struct spent loading = { 0 }, decoding = { 0 }, warm = { 0 };
    double loaded = 0;
    enum status s;

    TRY(shard_set_open(&set, shards));
    s = decode(b, set, 0, n, &warm);
    for (int64_t i = 0; s == OK && i < BLOCKS; i++) {
        s = load(b, set, i * n, n, &loading, &loaded);
        if (s == OK) s = decode(b, set, i * n, n, &decoding);
    }
    shard_set_close(set);
    if (s != OK) return s;
    b->n_images = n * BLOCKS;
    b->images_per_second = loaded / loading.wall;
    b->images_per_core_second = loaded / loading.cpu;
    b->decodes_per_core_second = (double)b->n_images / decoding.cpu;
    return OK;
}
