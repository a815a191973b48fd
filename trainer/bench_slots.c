#include "trainer/bench_slots.h"

#include <stdlib.h>

#include "data_pipeline/rle.h"
#include "kernels/base/rng.h"

enum { PIXELS, RUNS, FIRST, BOX, SLOTS, DRAWN };

static enum status take(struct bench_slots *b, int what, int64_t bytes)
{
    b->memory[what] = calloc(1, (size_t)bytes);
    if (!b->memory[what]) FAIL(E_MEMORY, "%lld bytes of made-up slots", (long long)bytes);
    return OK;
}

/* An ellipse into drawn (S,S), its box into box. */
static void draw(uint8_t *drawn, float box[4], int64_t S, struct rng_key key)
{
    const float rx = (0.03f + 0.25f * rng_uniform(key, 0)) * (float)S;
    const float ry = (0.03f + 0.25f * rng_uniform(key, 1)) * (float)S;
    const float cx = rx + rng_uniform(key, 2) * ((float)S - 2 * rx);
    const float cy = ry + rng_uniform(key, 3) * ((float)S - 2 * ry);

    for (int64_t y = 0; y < S; y++)
        for (int64_t x = 0; x < S; x++) {
            const float u = ((float)x + 0.5f - cx) / rx, v = ((float)y + 0.5f - cy) / ry;

            drawn[y * S + x] = u * u + v * v <= 1;
        }
    box[0] = cx - rx;
    box[1] = cy - ry;
    box[2] = cx + rx;
    box[3] = cy + ry;
}

static enum status fill(struct bench_slots *b, const struct config *c, int64_t i, int64_t room)
{
    const int64_t S = c->model_image_size, M = c->train_masks, pixels = S * S * 3;
    uint8_t *image = (uint8_t *)b->memory[PIXELS] + i * pixels;
    int32_t *runs = (int32_t *)b->memory[RUNS] + i * room;
    int64_t *first = (int64_t *)b->memory[FIRST] + i * (M + 1);
    float *box = (float *)b->memory[BOX] + i * M * 4;
    const struct rng_key noise = rng_stream(1, RNG_TEST, (uint64_t)i, 0);
    int64_t n = 0;

    for (int64_t k = 0; k < pixels; k++) image[k] = (uint8_t)(rng_u32(noise, (uint64_t)k) >> 24);
    for (int64_t m = 0; m < M; m++) {
        int64_t n_runs;

        draw(b->memory[DRAWN], box + 4 * m, S, rng_sub(noise, (uint64_t)m));
        TRY(rle_from_pixels(b->memory[DRAWN], (int32_t)S, (int32_t)S, runs + n, room - n, &n_runs));
        n += n_runs;
        first[m + 1] = n;
    }
    b->slot[i] = (struct loader_slot){ .slot = i,
                                       .height = (int32_t)S,
                                       .width = (int32_t)S,
                                       .new_height = (int32_t)S,
                                       .new_width = (int32_t)S,
                                       .pixels = image,
                                       .n_masks = M,
                                       .runs = runs,
                                       .first = first,
                                       .n_runs = n,
                                       .box = box };
    return OK;
}

enum status bench_slots_create(struct bench_slots *b, const struct config *c)
{
    const int64_t S = c->model_image_size, M = c->train_masks, n = c->train_batch;
    const int64_t room = M * (2 * S + 2); /* an ellipse crosses a column in two runs at most */
    enum status s;

    *b = (struct bench_slots){ .n = n };
    s = take(b, PIXELS, n * S * S * 3);
    if (s == OK) s = take(b, RUNS, n * room * 4);
    if (s == OK) s = take(b, FIRST, n * (M + 1) * 8);
    if (s == OK) s = take(b, BOX, n * M * 16);
    if (s == OK) s = take(b, SLOTS, n * (int64_t)sizeof *b->slot);
    if (s == OK) s = take(b, DRAWN, S * S);
    b->slot = b->memory[SLOTS];
    for (int64_t i = 0; s == OK && i < n; i++) s = fill(b, c, i, room);
    if (s != OK) bench_slots_destroy(b);
    return s;
}

void bench_slots_destroy(struct bench_slots *b)
{
    if (!b) return;
    for (size_t i = 0; i < sizeof b->memory / sizeof *b->memory; i++) free(b->memory[i]);
    *b = (struct bench_slots){ 0 };
}
