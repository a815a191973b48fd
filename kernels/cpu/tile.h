/* Attention on the CPU: blocks of queries meet blocks of keys in tiles of scores that stay in the
 * cache. The products are BLAS; what lies between them is one pass over a tile. No T×T array
 * exists anywhere.
 *
 * The relative positions of a block of queries are one product G = q·[Rh|Rw]ᵀ with the tables
 * turned upside down: the bias of a row of keys is then a broadcast plus a contiguous piece of G. */
#ifndef KERNELS_CPU_TILE_H
#define KERNELS_CPU_TILE_H

#include "kernels/attention_check.h"

enum { TILE_LANES = 16 }; /* floats of a vector; rows of tiles are multiples of it */

/* Sizes that follow from the shape, never from the number of threads. */
struct tile_layout {
    struct attention_shape g;
    int64_t rel_h_rows, rel_rows;      /* of the tables: h alone, both */
    int64_t block_queries, tile_rows;  /* a tile: queries; whole rows of the window's keys */
    int64_t ld_s, ld_g;                /* floats a row of scores, of G */
    int64_t n_windows, blocks, splits; /* in all images; of queries, of keys a window and head */
    bool direct;                       /* windows stand in qkv in their order, unpadded */
    float scale;
};

/* One window and head; rows × cols of its tokens are no padding, and these are its queries. */
struct tile_window {
    int64_t n, head, y0, x0, rows, cols;
};

/* Rows of D floats, ld apart. */
struct tile_matrix {
    const float *at;
    int64_t ld;
};

/* What a thread works in; not owned. */
struct tile_work {
    float *q, *k, *v, *dy, *dq, *dk, *dv; /* gathered windows; not used when direct */
    float *s, *dp;                        /* tiles: scores, then weights; their gradient */
    float *bias;                          /* one row of a tile */
    float *rel, *drel;                    /* G and its gradient */
    float *out;                           /* outputs before the division by the sum */
    float *max, *sum, *delta;             /* one a query */
};

int64_t tile_round(int64_t n); /* up to a multiple of TILE_LANES */
int64_t tile_smaller(int64_t a, int64_t b);

struct tile_layout tile_layout_of(const struct attention_shape *g);
struct tile_window tile_window_at(const struct attention_shape *g, int64_t window, int64_t head);

/* Lays a thread's memory out from base, which may be NULL; returns how many floats it takes. */
int64_t tile_work_at(struct tile_work *w, const struct tile_layout *l, bool backward, float *base);

/* Which of the n·h·w tokens query i of a window is. */
int64_t tile_query_token(const struct attention_shape *g, const struct tile_window *w, int64_t i);

/* The k (part 1) or v (2) of all tokens of a window; of padding, the bias. */
struct tile_matrix tile_window_part(const struct tile_layout *l, const struct tile_window *w,
                                    int part, const float *qkv, const float *qkv_bias,
                                    float *gathered);

/* A head's rows for queries [q0, q0 + n) from a (tokens,ld) array. */
struct tile_matrix tile_query_rows(const struct tile_layout *l, const struct tile_window *w,
                                   int64_t q0, int64_t n, const float *from, int64_t ld,
                                   float *gathered);

/* [Rh|Rw] with the rows of each in reverse: row k − q + K − 1 is then the offset of key k. */
void tile_turn_tables(const struct tile_layout *l, const float *rel_h, const float *rel_w,
                      float *to);

/* Where in its row of G the pieces of query i begin: for key row 0, for key column 0. */
int64_t tile_rel_h_at(const struct tile_layout *l, const struct tile_window *w, int64_t i);
int64_t tile_rel_w_at(const struct tile_layout *l, const struct tile_window *w, int64_t i);

/* bias[k] = G's share of the score of query q0 + q, for the keys of rows [y0, y0 + rows). */
void tile_bias_row(const struct tile_layout *l, const struct tile_window *w,
                   const struct tile_work *k, int64_t q0, int64_t q, int64_t y0, int64_t rows);

#endif
