/* The shapes cross_attention.h asks for, checked once for all backends. */
#ifndef KERNELS_CROSS_ATTENTION_CHECK_H
#define KERNELS_CROSS_ATTENTION_CHECK_H

#include "kernels/cross_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cross_attention_shape {
    int64_t m, mq, mk; /* masks; of them with their own q, their own k and v */
    int64_t tq, tk, heads, d;
};

/* Writes *shape on success only. Touches no data: n_keys' values are the caller's promise. */
enum status cross_attention_fwd_check(struct cross_attention_shape *shape, struct tensor y,
                                      struct tensor lse, struct tensor q, struct tensor k,
                                      struct tensor v, struct tensor n_keys,
                                      int n_heads) MUST_CHECK;
enum status cross_attention_bwd_check(struct cross_attention_shape *shape, struct tensor dq,
                                      struct tensor dk, struct tensor dv, struct tensor dy,
                                      struct tensor y, struct tensor lse, struct tensor q,
                                      struct tensor k, struct tensor v, struct tensor n_keys,
                                      int n_heads) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
