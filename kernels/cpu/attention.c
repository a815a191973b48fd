#include "kernels/attention.h"

enum status attention_fwd_cpu(struct tensor y, struct tensor lse, struct tensor qkv,
                              struct tensor qkv_bias, struct tensor rel_h, struct tensor rel_w,
                              int n_heads, int window, struct stream *s)
{
    return attention_fwd_ref(y, lse, qkv, qkv_bias, rel_h, rel_w, n_heads, window, s);
}

enum status attention_bwd_cpu(struct tensor dqkv, struct tensor dqkv_bias, struct tensor drel_h,
                              struct tensor drel_w, struct tensor dy, struct tensor y,
                              struct tensor lse, struct tensor qkv, struct tensor qkv_bias,
                              struct tensor rel_h, struct tensor rel_w, int n_heads, int window,
                              struct stream *s)
{
    return attention_bwd_ref(dqkv, dqkv_bias, drel_h, drel_w, dy, y, lse, qkv, qkv_bias, rel_h,
                             rel_w, n_heads, window, s);
}
