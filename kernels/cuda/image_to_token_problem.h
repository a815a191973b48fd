/* What the kernels of image_to_token share: the problem, what stands in scratch, dropout.
 *
 * Projections are absorbed into the tokens. For mask m, head h and token j, row R = (m A + h) 16 + j
 * holds a = scale Wqᵀ k, b = Wo v (C each) and c = scale bq·k; tokens that are not there have zeros,
 * and −INFINITY for c. Then, with X = x + pe at a position,
 *   p = softmax over a head's rows of (X·a + c)     r = x + dropout(Σ p b + bo)     y = norm(r)
 * and backward, with dr from the norm and dz = dropout's factor · dr,
 *   ds = p (dz·b − Σ p dz·b)     dx = dr + Σ ds a     da = Σ ds X     db = Σ p dz     dc = Σ ds
 * where da, db and dc sum over positions: first over tiles or chunks of them, then over those. */
#ifndef KERNELS_CUDA_IMAGE_TO_TOKEN_PROBLEM_H
#define KERNELS_CUDA_IMAGE_TO_TOKEN_PROBLEM_H

#include "kernels/base/rng.h"
#include "kernels/cuda/element.h"

enum { TOKENS = 16, TILE_ROWS = 64 }; /* of a head; positions of a block */

struct dropout {
    const int64_t *key;
    float p, keep; /* keep = 1/(1−p) */
    int64_t salt;

    DEVICE rng_key key_here() const
    {
        const rng_key k = { (uint64_t)key[0], (uint64_t)key[1] };

        return rng_sub(k, (uint64_t)salt);
    }
};

template <class T> struct problem {
    const T *x, *pe, *k, *v, *wq, *wo, *dy;
    const float *bq, *bo, *gamma, *beta;
    const int32_t *n_tokens;
    float *mean, *rstd; /* read only backward */
    T *y, *dx;
    bool add_x, shared; /* shared: x is of all masks */
    int64_t n_masks, n_x;
    int n_c, inner, heads, d, n_tok, n_rows; /* n_rows = 16 heads */
    float scale, eps;
    dropout drop;

    DEVICE int64_t x_row(int64_t m, int64_t i) const { return shared ? i : m * n_x + i; }
};

/* In scratch; S is float or bf16. Backward only: from p on. Where x is shared, a block adds up the
 * dx of the masks of one group in dx_groups, which are added in order. */
template <class S> struct workspace {
    S *a, *b;          /* (M, n_rows, C) */
    float *c;          /* (M, n_rows) */
    S *p, *ds;         /* (M, T, n_rows) */
    S *dz;             /* (M, T, C) */
    float *dx_groups;  /* (n_groups, T, C) */
    float *norm_parts; /* (M, n_tiles, 2, C): of dgamma, of dbeta */
    float *dc_parts;   /* (M, n_tiles, n_rows) */
    float *sum_parts;  /* (n_chunks, M, 2, n_rows, C): of da, of db */
    float *sums;       /* (M, 2, n_rows, C) */
    float *dc;         /* (M, n_rows) */
    int64_t n_tiles, n_groups, group, n_chunks, chunk;
    int64_t bytes;
};

#endif
