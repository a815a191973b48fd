/* The emulated device as a backend: the verbs on its memory, and the ops that have CUDA kernels.
 * ops_find knows it in executables that contain this file. A test prepares the emulator by
 * check_set_memory; EMU_SEED in the environment is the schedule. */
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/emu/device_memory.h"

static enum status emu_open(void)
{
    const char *seed = getenv("EMU_SEED");

    emu_set_seed(seed ? (unsigned)strtoul(seed, NULL, 10) : 0);
    return OK;
}

static enum status emu_alloc(void **p, int64_t bytes)
{
    *p = emu_take(bytes, "alloc", true);
    return OK;
}

static enum status check_range(const char *verb, const void *p, int64_t bytes, bool write)
{
    if (!emu_range(p, bytes, write))
        FAIL(E_DEVICE, "%s: %lld bytes at %p are not in one buffer of the device", verb,
             (long long)bytes, p);
    return OK;
}

static enum status emu_put(void *dev, const void *host, int64_t bytes, struct stream *s)
{
    (void)s;
    TRY(check_range("put", dev, bytes, true));
    if (bytes > 0) memcpy(dev, host, (size_t)bytes);
    return OK;
}

static enum status emu_get(void *host, const void *dev, int64_t bytes, struct stream *s)
{
    (void)s;
    TRY(check_range("get", dev, bytes, false));
    if (bytes > 0) memcpy(host, dev, (size_t)bytes);
    return OK;
}

static enum status emu_copy(void *dst, const void *src, int64_t bytes, struct stream *s)
{
    (void)s;
    TRY(check_range("copy to", dst, bytes, true));
    TRY(check_range("copy from", src, bytes, false));
    if (bytes > 0) memmove(dst, src, (size_t)bytes);
    return OK;
}

static enum status emu_zero(void *dev, int64_t bytes, struct stream *s)
{
    (void)s;
    TRY(check_range("zero", dev, bytes, true));
    if (bytes > 0) memset(dev, 0, (size_t)bytes);
    return OK;
}

static enum status emu_accumulate(float *dst, const float *src, int64_t n, struct stream *s)
{
    (void)s;
    TRY(check_range("accumulate to", dst, n * (int64_t)sizeof *dst, true));
    TRY(check_range("accumulate from", src, n * (int64_t)sizeof *src, false));
    for (int64_t i = 0; i < n; i++) dst[i] += src[i];
    return OK;
}

static enum status emu_sync(struct stream *s)
{
    (void)s;
    return OK;
}

const struct ops ops_emu = {
    .name = "emu",
    .bf16 = true,
    .open = emu_open,
    .alloc = emu_alloc,
    .free = emu_give,
    .put = emu_put,
    .get = emu_get,
    .copy = emu_copy,
    .zero = emu_zero,
    .accumulate = emu_accumulate,
    .sync = emu_sync,
    .linear_fwd = linear_fwd_cuda,
    .linear_bwd = linear_bwd_cuda,
    .patch_conv_fwd = patch_conv_fwd_cuda,
    .patch_conv_bwd = patch_conv_bwd_cuda,
    .conv3x3_fwd = conv3x3_fwd_cuda,
    .conv3x3_bwd = conv3x3_bwd_cuda,
    .upconv_fwd = upconv_fwd_cuda,
    .upconv_bwd = upconv_bwd_cuda,
    .mask_product_fwd = mask_product_fwd_cuda,
    .mask_product_bwd = mask_product_bwd_cuda,
    .attention_fwd = attention_fwd_cuda,
    .attention_bwd = attention_bwd_cuda,
    .cross_attention_fwd = cross_attention_fwd_cuda,
    .cross_attention_bwd = cross_attention_bwd_cuda,
    .image_to_token_fwd = image_to_token_fwd_cuda,
    .image_to_token_bwd = image_to_token_bwd_cuda,
    .layernorm_fwd = layernorm_fwd_cuda,
    .layernorm_bwd = layernorm_bwd_cuda,
    .grad_norm = grad_norm_cuda,
    .adamw = adamw_cuda,
    .cast = cast_cuda,
    .residual_fwd = residual_fwd_cuda,
    .residual_bwd = residual_bwd_cuda,
    .add_fwd = add_fwd_cuda,
    .add_bwd = add_bwd_cuda,
    .slice_fwd = slice_fwd_cuda,
    .slice_bwd = slice_bwd_cuda,
    .image_normalize = image_normalize_cuda,
    .posenc_grid = posenc_grid_cuda,
    .prompt_tokens_fwd = prompt_tokens_fwd_cuda,
    .prompt_tokens_bwd = prompt_tokens_bwd_cuda,
    .resize_fwd = resize_fwd_cuda,
    .resize_bwd = resize_bwd_cuda,
    .rasterize = rasterize_cuda,
    .prompt_first = prompt_first_cuda,
    .prompt_next = prompt_next_cuda,
    .mask_loss_fwd = mask_loss_fwd_cuda,
    .mask_loss_bwd = mask_loss_bwd_cuda,
};
