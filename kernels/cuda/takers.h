/* The adjoint of bilinear.h: which pixels of the output took from pixel k of the input, and what
 * share of it. */
#ifndef KERNELS_CUDA_TAKERS_H
#define KERNELS_CUDA_TAKERS_H

#include "kernels/bilinear.h"

#include "kernels/cuda/device.h"

struct bilinear_span {
    int64_t begin, end;
};

/* The first of `out` pixels whose lower tap is k or more: (2i+1)·in − out ≥ 2·out·k. */
DEVICE int64_t bilinear_first(int64_t k, int64_t in, int64_t out)
{
    const int64_t num = (2 * k + 1) * out - in, den = 2 * in;

    if (k <= 0) return 0;
    return num <= 0 ? 0 : num > den * out ? out : (num + den - 1) / den;
}

/* Those with a tap on k: the lower one is k or k − 1. */
DEVICE bilinear_span bilinear_takers(int64_t k, int64_t in, int64_t out)
{
    return { bilinear_first(k - 1, in, out), k + 1 < in ? bilinear_first(k + 1, in, out) : out };
}

/* What taker i takes of k: the weights of bilinear_tap, without its division. */
DEVICE float bilinear_share(int64_t i, int64_t k, int64_t in, int64_t out)
{
    const int64_t whole = (2 * i + 1) * in - out, num = whole > 0 ? whole : 0, den = 2 * out;
    const bool lower = num >= k * den; /* its lower tap is k, else k − 1 */
    const float w = (float)(num - (lower ? k : k - 1) * den) / (float)den;

    if (!lower) return w;
    return k + 1 < in ? 1.0f - w : 1.0f;
}

#endif
