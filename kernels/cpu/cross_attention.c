#include "kernels/cross_attention.h"

enum status cross_attention_fwd_cpu(struct tensor y, struct tensor lse, struct tensor q,
                                    struct tensor k, struct tensor v, struct tensor n_keys,
                                    int n_heads, struct stream *s)
{
    return cross_attention_fwd_ref(y, lse, q, k, v, n_keys, n_heads, s);
}

enum status cross_attention_bwd_cpu(struct tensor dq, struct tensor dk, struct tensor dv,
                                    struct tensor dy, struct tensor y, struct tensor lse,
                                    struct tensor q, struct tensor k, struct tensor v,
                                    struct tensor n_keys, int n_heads, struct stream *s)
{
    return cross_attention_bwd_ref(dq, dk, dv, dy, y, lse, q, k, v, n_keys, n_heads, s);
}
