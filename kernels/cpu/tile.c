#include "kernels/cpu/tile.h"

#include <math.h>
#include <string.h>

/* Of a tile of scores: 128 KB, a fraction of the second cache. */
enum { BLOCK_QUERIES = 128, BLOCK_KEYS = 256 };

/* Backward: with fewer than MIN_ITEMS pieces of work a head's keys are split, to SPLIT_KEYS at
 * least. */
enum { MIN_ITEMS = 16, SPLIT_KEYS = 128 };

int64_t tile_round(int64_t n)
{
    return (n + TILE_LANES - 1) / TILE_LANES * TILE_LANES;
}

int64_t tile_smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

struct tile_layout tile_layout_of(const struct attention_shape *g)
{
    struct tile_layout l = { .g = *g };
    const int64_t by_width = BLOCK_KEYS / g->kw;

    if (g->has_rel) {
        l.rel_h_rows = 2 * g->kh - 1;
        l.rel_rows = l.rel_h_rows + 2 * g->kw - 1;
    }
    l.block_queries = tile_smaller(BLOCK_QUERIES, g->t);
    l.tile_rows = tile_smaller(g->kh, by_width > 0 ? by_width : 1);
    l.ld_s = tile_round(l.tile_rows * g->kw);
    l.ld_g = tile_round(l.rel_rows + TILE_LANES);
    l.n_windows = g->n * g->n_down * g->n_wide;
    l.blocks = (g->t + l.block_queries - 1) / l.block_queries;
    l.direct = g->kw == g->w && !g->padded;
    l.splits = 1;
    while (l.direct && l.n_windows * g->heads * l.splits < MIN_ITEMS &&
           g->t / (2 * l.splits) >= SPLIT_KEYS && g->kh >= 2 * l.splits)
        l.splits *= 2;
    l.scale = (float)(1.0 / sqrt((double)g->d));
    return l;
}

struct tile_window tile_window_at(const struct attention_shape *g, int64_t window, int64_t head)
{
    struct tile_window w = { .head = head };

    w.x0 = window % g->n_wide * g->kw;
    w.y0 = window / g->n_wide % g->n_down * g->kh;
    w.n = window / (g->n_wide * g->n_down);
    w.rows = tile_smaller(g->kh, g->h - w.y0);
    w.cols = tile_smaller(g->kw, g->w - w.x0);
    return w;
}

int64_t tile_query_token(const struct attention_shape *g, const struct tile_window *w, int64_t i)
{
    return (w->n * g->h + w->y0 + i / w->cols) * g->w + w->x0 + i % w->cols;
}

int64_t tile_work_at(struct tile_work *w, const struct tile_layout *l, bool backward, float *base)
{
    const int64_t rows = l->block_queries, d = l->g.d, window = l->direct ? 0 : l->g.t * d;
    const int64_t block = l->direct ? 0 : rows * d, tile = rows * l->ld_s + TILE_LANES;
    int64_t used = 0;
    const struct {
        float **p;
        int64_t n;
    } parts[] = {
        { &w->q, block },
        { &w->k, window },
        { &w->v, window },
        { &w->s, tile },
        { &w->bias, l->ld_s + TILE_LANES },
        { &w->rel, rows * l->ld_g },
        { &w->out, backward ? 0 : rows * d },
        { &w->max, backward ? 0 : rows },
        { &w->sum, backward ? 0 : rows },
        { &w->dp, backward ? tile : 0 },
        { &w->drel, backward ? rows * l->ld_g : 0 },
        { &w->delta, backward ? rows : 0 },
        { &w->dy, backward ? block : 0 },
        { &w->dq, backward ? block : 0 },
        { &w->dk, backward ? window : 0 },
        { &w->dv, backward ? window : 0 },
    };

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].p = base ? base + used : NULL;
        used += tile_round(parts[i].n);
    }
    return used;
}

struct tile_matrix tile_window_part(const struct tile_layout *l, const struct tile_window *w,
                                    int part, const float *qkv, const float *qkv_bias,
                                    float *gathered)
{
    const struct attention_shape *g = &l->g;
    const int64_t ld = 3 * g->heads * g->d, at = (part * g->heads + w->head) * g->d;
    float *to = gathered;

    if (l->direct) {
        const int64_t first = (w->n * g->h + w->y0) * g->w + w->x0;

        return (struct tile_matrix){ qkv + first * ld + at, ld };
    }
    for (int64_t y = 0; y < g->kh; y++)
        for (int64_t x = 0; x < g->kw; x++, to += g->d) {
            const bool inside = y < w->rows && x < w->cols;
            const int64_t token = (w->n * g->h + w->y0 + y) * g->w + w->x0 + x;

            memcpy(to, inside ? qkv + token * ld + at : qkv_bias + at, (size_t)g->d * sizeof *to);
        }
    return (struct tile_matrix){ gathered, g->d };
}

struct tile_matrix tile_query_rows(const struct tile_layout *l, const struct tile_window *w,
                                   int64_t q0, int64_t n, const float *from, int64_t ld,
                                   float *gathered)
{
    const int64_t at = w->head * l->g.d;

    if (l->direct)
        return (struct tile_matrix){ from + tile_query_token(&l->g, w, q0) * ld + at, ld };
    for (int64_t i = 0; i < n; i++)
        memcpy(gathered + i * l->g.d, from + tile_query_token(&l->g, w, q0 + i) * ld + at,
               (size_t)l->g.d * sizeof *gathered);
    return (struct tile_matrix){ gathered, l->g.d };
}

void tile_turn_tables(const struct tile_layout *l, const float *rel_h, const float *rel_w,
                      float *to)
{
    const int64_t d = l->g.d;

    for (int64_t i = 0; i < l->rel_rows; i++) {
        const bool is_h = i < l->rel_h_rows;
        const float *from =
            is_h ? rel_h + (l->rel_h_rows - 1 - i) * d : rel_w + (l->rel_rows - 1 - i) * d;

        memcpy(to + i * d, from, (size_t)d * sizeof *to);
    }
}

int64_t tile_rel_h_at(const struct tile_layout *l, const struct tile_window *w, int64_t i)
{
    return l->g.kh - 1 - i / w->cols;
}

int64_t tile_rel_w_at(const struct tile_layout *l, const struct tile_window *w, int64_t i)
{
    return l->rel_h_rows + l->g.kw - 1 - i % w->cols;
}

/* A vector may run into the next row of keys, which then overwrites it, and past the end. */
void tile_bias_row(const struct tile_layout *l, const struct tile_window *w,
                   const struct tile_work *k, int64_t q0, int64_t q, int64_t y0, int64_t rows)
{
    const float *h = k->rel + q * l->ld_g + tile_rel_h_at(l, w, q0 + q) + y0;
    const float *across = k->rel + q * l->ld_g + tile_rel_w_at(l, w, q0 + q);

    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < l->g.kw; x += TILE_LANES) {
            float *to = k->bias + y * l->g.kw + x;

            for (int lane = 0; lane < TILE_LANES; lane++) to[lane] = h[y] + across[x + lane];
        }
}
