/* The shapes attention.h asks for, checked once for all backends, and the windows they make. */
#ifndef KERNELS_ATTENTION_CHECK_H
#define KERNELS_ATTENTION_CHECK_H

#include <stdbool.h>

#include "kernels/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

struct attention_shape {
    int64_t n, h, w;        /* images and their grid */
    int64_t heads, d;       /* A, D */
    int64_t kh, kw, t;      /* one window: Kh × Kw = t tokens, padding among them */
    int64_t n_down, n_wide; /* windows over the grid */
    bool has_rel, padded;
};

/* Writes *shape on success only. Touches no data. */
enum status attention_fwd_check(struct attention_shape *shape, struct tensor y, struct tensor lse,
                                struct tensor qkv, struct tensor qkv_bias, struct tensor rel_h,
                                struct tensor rel_w, int n_heads, int window) MUST_CHECK;
enum status attention_bwd_check(struct attention_shape *shape, struct tensor dqkv,
                                struct tensor dqkv_bias, struct tensor drel_h, struct tensor drel_w,
                                struct tensor dy, struct tensor y, struct tensor lse,
                                struct tensor qkv, struct tensor qkv_bias, struct tensor rel_h,
                                struct tensor rel_w, int n_heads, int window) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
