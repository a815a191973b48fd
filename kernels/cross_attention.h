/* Attention between two sets of tokens, for the mask decoder: tokens to image, image to tokens,
 * and the tokens among themselves.
 *
 *   y[m,q] = Σk softmax_k(q[m,q]·k[m,k]/√D) v[m,k]    per mask m and head, over its first n_keys[m]
 *
 *   q dq (Mq,Tq,A·D)   k dk v dv (Mk,Tk,A·D)   y dy (M,Tq,A·D)
 *   Mq, Mk are M or 1: 1 is shared by all masks, and its gradient is the sum over masks, in order
 *   n_keys (M) i32, 1 ≤ n_keys ≤ Tk, or none: all. Keys beyond it get no weight and gradient 0.
 *   lse (M,A,Tq) f32, written forward, read backward
 *   Deterministic, independent of the number of threads. M = 0 is allowed. */
#ifndef KERNELS_CROSS_ATTENTION_H
#define KERNELS_CROSS_ATTENTION_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status cross_attention_fwd_fn(struct tensor y, struct tensor lse, struct tensor q,
                                           struct tensor k, struct tensor v, struct tensor n_keys,
                                           int n_heads, struct stream *s) MUST_CHECK;
typedef enum status cross_attention_bwd_fn(struct tensor dq, struct tensor dk, struct tensor dv,
                                           struct tensor dy, struct tensor y, struct tensor lse,
                                           struct tensor q, struct tensor k, struct tensor v,
                                           struct tensor n_keys, int n_heads,
                                           struct stream *s) MUST_CHECK;
cross_attention_fwd_fn cross_attention_fwd_ref, cross_attention_fwd_cpu, cross_attention_fwd_cuda;
cross_attention_bwd_fn cross_attention_bwd_ref, cross_attention_bwd_cpu, cross_attention_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif
