/* Attention in BF16 on tensor cores: scratch and launches, for D a multiple of 8 up to 96. */
#ifndef KERNELS_CUDA_FLASH_LAUNCH_H
#define KERNELS_CUDA_FLASH_LAUNCH_H

#include <cmath>

#include "kernels/attention_check.h"
#include "kernels/base/arena.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/flash_bf16.h"
#include "kernels/cuda/flash_terms.h"

enum { FLASH_BF16_MAX_D = 96 };

/* Chunks of a table's gradient: as many blocks, twice for two tiles of rows, as keep an H200 busy. */
static const int64_t MAX_TABLE_CHUNKS = 128, MAX_GRID_Y = 65535;

static inline bool flash_bf16_takes(const struct attention_shape &g)
{
    return g.d % WHOLE_CHANNELS == 0 && g.d <= FLASH_BF16_MAX_D;
}

static inline int64_t ceil_div(int64_t n, int64_t by)
{
    return (n + by - 1) / by;
}

/* dim3(slices × heads, blocks of a slice) of each kernel; small: which kernels; places in scratch. */
struct flash_plan {
    int64_t slices, tiles; /* windows × heads; tiles of 64 queries of one */
    int64_t key_blocks, chunks, chunk;
    int64_t bias, tables, terms, dterms, delta, padding, sums, bytes;
    bool small;
};

static inline int64_t flash_take(struct flash_plan *plan, int64_t bytes)
{
    const int64_t at = plan->bytes;

    plan->bytes += arena_round(bytes);
    return at;
}

/* The kernels' view of a shape; no data. */
static inline flash_problem flash_problem_of(const struct attention_shape &g)
{
    flash_problem p = {};
    const bool small = g.kh <= SMALL_SIDE && g.kw <= SMALL_SIDE;

    p.h = (int)g.h;
    p.w = (int)g.w;
    p.heads = (int)g.heads;
    p.d = (int)g.d;
    p.kh = (int)g.kh;
    p.kw = (int)g.kw;
    p.n_down = (int)g.n_down;
    p.n_wide = (int)g.n_wide;
    p.grid_h = small || g.has_rel ? p.kh : 1;
    p.grid_w = small || g.has_rel ? p.kw : (int)g.t;
    p.w_at = (p.kh + 3) / 4 * 4;
    p.term_pitch = p.w_at + (p.kw + 3) / 4 * 4;
    p.scale = 1 / sqrtf((float)g.d);
    return p;
}

static inline enum status flash_plan_make(struct flash_plan *plan, const char *op,
                                          const struct attention_shape &g, bool backward)
{
    const flash_problem p = flash_problem_of(g);
    const int64_t n_queries = g.n * g.heads * g.h * g.w, f32 = (int64_t)sizeof(float);
    const int64_t table_rows = g.has_rel ? 2 * (g.kh + g.kw) - 2 : 0;
    struct flash_plan l = {};

    l.small = g.kh <= SMALL_SIDE && g.kw <= SMALL_SIDE;
    l.slices = g.n * g.n_down * g.n_wide * g.heads;
    l.tiles = ceil_div(g.t, TILE_ROWS);
    l.key_blocks =
        l.small ? ceil_div(g.t, DKV_KEYS) : ceil_div(p.grid_w, TILE_ROWS) * ceil_div(p.grid_h, 2);
    if (l.key_blocks > MAX_GRID_Y || l.tiles > MAX_GRID_Y || l.slices * l.tiles > INT32_MAX)
        FAIL(E_SHAPE, "%s: %lld windows and heads of %lld tokens: more than a grid of blocks holds",
             op, (long long)l.slices, (long long)g.t);
    l.chunk = ceil_div(l.slices * l.tiles, MAX_TABLE_CHUNKS);
    l.chunks = l.chunk > 0 ? ceil_div(l.slices * l.tiles, l.chunk) : 0;
    l.bias = flash_take(&l, g.padded ? 3 * g.heads * g.d * 2 : 0);
    l.tables = flash_take(&l, table_rows * g.d * 2);
    l.terms = flash_take(&l, g.has_rel ? n_queries * p.term_pitch * f32 : 0);
    if (backward) {
        const int64_t longer = 2 * (g.kh > g.kw ? g.kh : g.kw) - 1;

        l.dterms = flash_take(&l, g.has_rel ? n_queries * p.term_pitch * f32 : 0);
        l.delta = flash_take(&l, n_queries * f32);
        l.padding = flash_take(&l, g.padded ? l.slices * l.key_blocks * 2 * g.d * f32 : 0);
        l.sums = flash_take(&l, g.has_rel ? l.chunks * longer * g.d * f32 : 0);
    }
    *plan = l;
    return OK;
}

static inline enum status flash_round(bf16 *out, const float *in, int64_t n, struct stream *s)
{
    LAUNCH(round_bf16, (unsigned)ceil_div(n, ROUND_THREADS), ROUND_THREADS, 0, s, out, in, n);
    return OK;
}

/* The kernel of this problem's D and kind. */
#define FLASH_BY_NK(d, ...)                                                                        \
    do {                                                                                           \
        if ((d) <= 32) {                                                                           \
            enum { NK = 2 };                                                                       \
            __VA_ARGS__;                                                                           \
        } else if ((d) <= 64) {                                                                    \
            enum { NK = 4 };                                                                       \
            __VA_ARGS__;                                                                           \
        } else if ((d) <= 80) {                                                                    \
            enum { NK = 5 };                                                                       \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            enum { NK = 6 };                                                                       \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)
#define FLASH_BF16_ONE(kernel, threads, bytes, blocks, p, plan, s)                                 \
    TRY(allow_shared(kernel, bytes));                                                              \
    LAUNCH(kernel, dim3((unsigned)(plan).slices, (unsigned)(blocks)), threads, bytes, s, p)
#define FLASH_BF16_LAUNCH(kernel, threads, BYTES, blocks, p, plan, s)                              \
    do {                                                                                           \
        if ((plan).small)                                                                          \
            FLASH_BY_NK((p).d,                                                                     \
                        FLASH_BF16_ONE((kernel<NK, true>), threads,                                \
                                       (flash_shared<NK, true>::BYTES), blocks, p, plan, s));      \
        else                                                                                       \
            FLASH_BY_NK((p).d,                                                                     \
                        FLASH_BF16_ONE((kernel<NK, false>), threads,                               \
                                       (flash_shared<NK, false>::BYTES), blocks, p, plan, s));     \
    } while (0)

/* Rounded padding and tables, and the terms: what both directions begin with. */
static inline enum status flash_begin(flash_problem *p, const struct flash_plan &plan,
                                      char *scratch, const struct attention_shape &g,
                                      struct tensor qkv, struct tensor qkv_bias,
                                      struct tensor rel_h, struct tensor rel_w, struct stream *s)
{
    bf16 *const bias = (bf16 *)(scratch + plan.bias), *const tables =
                                                          (bf16 *)(scratch + plan.tables);
    float *const terms = (float *)(scratch + plan.terms);

    ASSERT((uintptr_t)qkv.data % 16 == 0);
    p->qkv = (const bf16 *)qkv.data;
    if (plan.slices == 0) return OK;
    if (g.padded) {
        TRY(flash_round(bias, (const float *)qkv_bias.data, 3 * g.heads * g.d, s));
        p->bias = bias;
    }
    if (!g.has_rel) return OK;
    TRY(flash_round(tables, (const float *)rel_h.data, tensor_count(rel_h), s));
    TRY(flash_round(tables + tensor_count(rel_h), (const float *)rel_w.data, tensor_count(rel_w),
                    s));
    p->tables = tables;
    FLASH_BY_NK(p->d, LAUNCH((flash_terms<NK>), dim3((unsigned)plan.slices, (unsigned)plan.tiles),
                             TERM_THREADS, term_shared<NK>::BYTES, s, terms, *p));
    p->terms = terms;
    return OK;
}

static inline enum status flash_bf16_forward(const struct attention_shape &g, struct tensor y,
                                             struct tensor lse, struct tensor qkv,
                                             struct tensor qkv_bias, struct tensor rel_h,
                                             struct tensor rel_w, struct stream *s)
{
    flash_problem p = flash_problem_of(g);
    struct flash_plan plan;
    void *scratch;

    TRY(flash_plan_make(&plan, "attention_fwd", g, false));
    STREAM_SCRATCH(s, scratch, plan.bytes);
    TRY(flash_begin(&p, plan, (char *)scratch, g, qkv, qkv_bias, rel_h, rel_w, s));
    p.y = (bf16 *)y.data;
    p.lse_out = (float *)lse.data;
    if (plan.slices > 0)
        FLASH_BF16_LAUNCH(flash_bf16_fwd, FWD_THREADS, FWD, ceil_div(g.t, fwd_shape<NK>::QUERIES),
                          p, plan, s);
    return OK;
}

static inline enum status flash_bf16_table(struct tensor dtable, const flash_problem &p, bool of_w,
                                           float *sums, const struct flash_plan &plan,
                                           struct stream *s)
{
    const int64_t n = tensor_count(dtable);
    const dim3 grid((unsigned)plan.chunks, (unsigned)ceil_div(dtable.dim[0], TILE_ROWS));

    if (!dtable.data) return OK;
    if (plan.chunks > 0)
        FLASH_BY_NK(p.d, LAUNCH((flash_tables<NK>), grid, TERM_THREADS, term_shared<NK>::BYTES / 2,
                                s, sums, p, of_w, (int)(plan.slices * plan.tiles), (int)plan.tiles,
                                (int)plan.chunk));
    LAUNCH(sum_chunks, (unsigned)ceil_div(n, SLOPE_THREADS), SLOPE_THREADS, 0, s,
           (float *)dtable.data, dtable.add, (const float *)sums, plan.chunks, n);
    return OK;
}

/* Of the qkv bias: padding's k and v, n_rows sums of them; its q has no output, and no gradient. */
static inline enum status flash_bias_bwd(struct tensor db, const float *padding_sums,
                                         int64_t n_rows, int64_t n, struct stream *s)
{
    if (!db.data) return OK;
    LAUNCH(sum_chunks, (unsigned)ceil_div(n, SLOPE_THREADS), SLOPE_THREADS, 0, s, (float *)db.data,
           db.add, (const float *)NULL, (int64_t)0, n);
    LAUNCH(sum_chunks, (unsigned)ceil_div(2 * n, SLOPE_THREADS), SLOPE_THREADS, 0, s,
           (float *)db.data + n, db.add, padding_sums, padding_sums ? n_rows : 0, 2 * n);
    return OK;
}

static inline enum status flash_bf16_backward(const struct attention_shape &g, struct tensor dqkv,
                                              struct tensor dqkv_bias, struct tensor drel_h,
                                              struct tensor drel_w, struct tensor dy,
                                              struct tensor y, struct tensor lse, struct tensor qkv,
                                              struct tensor qkv_bias, struct tensor rel_h,
                                              struct tensor rel_w, struct stream *s)
{
    flash_problem p = flash_problem_of(g);
    struct flash_plan plan;
    void *scratch;

    TRY(flash_plan_make(&plan, "attention_bwd", g, true));
    STREAM_SCRATCH(s, scratch, plan.bytes);
    char *const room = (char *)scratch;
    float *const delta = (float *)(room + plan.delta), *const sums = (float *)(room + plan.sums);
    const int64_t n_rows = g.n * g.h * g.w * g.heads;

    TRY(flash_begin(&p, plan, room, g, qkv, qkv_bias, rel_h, rel_w, s));
    ASSERT((uintptr_t)dy.data % 16 == 0 && (uintptr_t)y.data % 16 == 0);
    p.dy = (const bf16 *)dy.data;
    p.lse = (const float *)lse.data;
    p.delta = delta;
    p.dterms = g.has_rel ? (float *)(room + plan.dterms) : NULL;
    p.dqkv = (bf16 *)dqkv.data;
    p.padding_sums = g.padded && dqkv_bias.data ? (float *)(room + plan.padding) : NULL;
    p.add = dqkv.add;
    if (n_rows > 0)
        LAUNCH(flash_bf16_delta, (unsigned)ceil_div(n_rows * DELTA_LANES, TERM_THREADS),
               TERM_THREADS, 0, s, delta, p.dy, (const bf16 *)y.data, n_rows, g.h * g.w,
               (int)g.heads, (int)g.d);
    if (plan.slices > 0 && (dqkv.data || drel_h.data || drel_w.data))
        FLASH_BF16_LAUNCH(flash_bf16_dq, DQ_THREADS, DQ, plan.tiles, p, plan, s);
    if (plan.slices > 0 && (dqkv.data || p.padding_sums))
        FLASH_BF16_LAUNCH(flash_bf16_dkv, DKV_THREADS, DKV, plan.key_blocks, p, plan, s);
    TRY(flash_bf16_table(drel_h, p, false, sums, plan, s));
    TRY(flash_bf16_table(drel_w, p, true, sums, plan, s));
    return flash_bias_bwd(dqkv_bias, p.padding_sums, plan.slices / g.heads * plan.key_blocks,
                          g.heads * g.d, s);
}

#endif
