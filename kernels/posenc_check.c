#include "kernels/posenc_check.h"

enum status posenc_grid_check(struct tensor pe, struct tensor gaussian)
{
    const char *op = "posenc_grid";
    char text[TENSOR_TEXT];

    TENSOR_EXPECT(op, pe, F32, -1, -1, -1);
    if (pe.dim[0] < 0 || pe.dim[1] < 0 || pe.dim[2] < 2 || pe.dim[2] % 2 != 0)
        FAIL(E_SHAPE, "%s: pe is %s; its channels must be even: a sine and a cosine each", op,
             tensor_text(pe, text));
    TENSOR_EXPECT(op, gaussian, F32, 2, pe.dim[2] / 2);
    return OK;
}

/* What forward and backward share: the tokens, and the points they come from. */
static enum status check(const char *op, struct prompt_tokens_shape *shape, struct tensor tokens,
                         struct tensor labels, struct tensor n_points)
{
    struct prompt_tokens_shape g = { 0 };
    char text[TENSOR_TEXT], label_text[TENSOR_TEXT];

    TRY(tensor_expect_real(op, "tokens", tokens));
    TENSOR_EXPECT(op, tokens, tokens.dtype, -1, -1, -1);
    g.m = tokens.dim[0];
    g.t = tokens.dim[1];
    g.c = tokens.dim[2];
    TENSOR_EXPECT(op, labels, I32, g.m, -1);
    g.p = labels.dim[1];
    g.k = g.t - 1 - g.p;
    if (g.m < 0 || g.p < 0 || g.k < 0 || g.c < 2 || g.c % 2 != 0)
        FAIL(E_SHAPE,
             "%s: tokens %s, labels %s: there must be 1 + K + P tokens of an even number "
             "of channels",
             op, tensor_text(tokens, text), tensor_text(labels, label_text));
    TENSOR_EXPECT(op, n_points, I32, g.m);
    *shape = g;
    return OK;
}

enum status prompt_tokens_fwd_check(struct prompt_tokens_shape *shape, struct tensor tokens,
                                    struct tensor coords, struct tensor labels,
                                    struct tensor n_points, struct tensor gaussian,
                                    struct tensor iou_token, struct tensor mask_tokens,
                                    const struct tensor table[POSENC_TABLE], int frame)
{
    const char *op = "prompt_tokens_fwd";
    struct prompt_tokens_shape g;

    TRY(check(op, &g, tokens, labels, n_points));
    TENSOR_EXPECT(op, coords, F32, g.m, g.p, 2);
    TENSOR_EXPECT(op, gaussian, F32, 2, g.c / 2);
    TENSOR_EXPECT(op, iou_token, F32, 1, g.c);
    TENSOR_EXPECT(op, mask_tokens, F32, g.k, g.c);
    for (int i = 0; i < POSENC_TABLE; i++) TENSOR_EXPECT(op, table[i], F32, 1, g.c);
    if (frame < 1) FAIL(E_SHAPE, "%s: the frame is %d pixels; it must be at least 1", op, frame);
    *shape = g;
    return OK;
}

enum status prompt_tokens_bwd_check(struct prompt_tokens_shape *shape, struct tensor diou_token,
                                    struct tensor dmask_tokens,
                                    const struct tensor dtable[POSENC_TABLE], struct tensor dtokens,
                                    struct tensor labels, struct tensor n_points)
{
    const char *op = "prompt_tokens_bwd";
    struct prompt_tokens_shape g;

    TRY(check(op, &g, dtokens, labels, n_points));
    if (!tensor_is_none(diou_token)) TENSOR_EXPECT(op, diou_token, F32, 1, g.c);
    if (!tensor_is_none(dmask_tokens)) TENSOR_EXPECT(op, dmask_tokens, F32, g.k, g.c);
    for (int i = 0; i < POSENC_TABLE; i++)
        if (!tensor_is_none(dtable[i])) TENSOR_EXPECT(op, dtable[i], F32, 1, g.c);
    *shape = g;
    return OK;
}
