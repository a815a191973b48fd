/* What may be selected and fed back, mask by mask. */
#include <math.h>

#include "tests/kernels/op.h"

enum { M = 3, K = 4, H = 2 };

/* Masks 0 and 1 have candidates 1…3 and 0 alone; mask 2 has all. Truth is all foreground, so the
 * greatest logit has the least loss. */
static float logits[M * K * H * H], iou_pred[M * K];
static uint8_t gt[M * H * H];
static int32_t candidates[M * 2] = { 1, 4, 0, 1, 0, 4 };

static void fill(void)
{
    static const float level[K] = { 5, 1, 3, 2 }, confidence[K] = { 0.9f, 0.1f, 0.2f, 0.3f };

    memset(gt, 1, sizeof gt);
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k++) {
            for (int i = 0; i < H * H; i++) logits[(m * K + k) * H * H + i] = level[k];
            iou_pred[m * K + k] = confidence[k];
        }
}

static void selection(const struct ops *be)
{
    const struct mask_loss_options o = { .alpha = 0.25f,
                                         .gamma = 2,
                                         .w_focal = 20,
                                         .w_dice = 1,
                                         .w_iou = 1,
                                         .iou_all = true,
                                         .candidates = tensor_2d(candidates, I32, M, 2) };
    const struct tensor x = tensor_4d(logits, F32, M, K, H, H), t = tensor_3d(gt, U8, M, H, H);
    const struct tensor p = tensor_2d(iou_pred, F32, M, K);
    struct tensor value = tensor_3d(check_alloc(M * K * 16), F32, M, K, MASK_LOSS_VALUES);
    struct tensor selected = tensor_1d(check_alloc(M * 4), I32, M);
    struct tensor dx = tensor_4d(check_alloc(M * K * H * H * 4), F32, M, K, H, H);
    struct tensor dp = tensor_2d(check_alloc(M * K * 4), F32, M, K);
    float ones[M] = { 1, 1, 1 };
    const int32_t *chosen = selected.data;
    const float *d = dp.data;

    OP_RUN(be->mask_loss_fwd(value, selected, x, t, p, tensor_none(), &o, s));
    CHECK(chosen[0] == 2 && chosen[1] == 0 && chosen[2] == 0);
    OP_RUN(be->mask_loss_bwd(dx, dp, value, selected, x, t, p, tensor_none(),
                             tensor_1d(ones, F32, M), 1, &o, s));
    CHECK(d[0] == 0 && d[1] != 0 && d[2] != 0 && d[3] != 0); /* mean over the candidates alone */
    CHECK(d[4] != 0 && d[5] == 0 && d[6] == 0 && d[7] == 0);
    CHECK(d[8] != 0 && d[9] != 0 && d[11] != 0);
    CHECK(fabsf(d[1] - 2 * (0.1f - 1) / 3) < 1e-6f && fabsf(d[4] - 2 * (0.9f - 1)) < 1e-6f);
}

static void feedback(const struct ops *be)
{
    const struct prompt_options o = { .frame = 8, .candidates = tensor_2d(candidates, I32, M, 2) };
    struct tensor mask = tensor_3d(check_alloc(M * H * H * 4), F32, M, H, H);
    int64_t key[2] = { 1, 2 };
    int32_t labels[M * 3] = { 0 }, n_points[M] = { 2, 2, 2 };
    float coords[M * 6] = { 0 }, weight[M] = { 1, 1, 1 };
    const float *fed = mask.data;

    OP_RUN(be->prompt_next(mask, tensor_3d(coords, F32, M, 3, 2), tensor_2d(labels, I32, M, 3),
                           tensor_1d(n_points, I32, M), tensor_4d(logits, F32, M, K, H, H),
                           tensor_2d(iou_pred, F32, M, K), tensor_3d(gt, U8, M, H, H),
                           tensor_1d(weight, F32, M), tensor_1d(key, I64, 2), 0, 1, false, &o, s));
    CHECK(fed[0] == 2 && fed[H * H] == 5 &&
          fed[2 * H * H] == 5); /* the logits of masks 3, 0 and 0 */
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);

    fill();
    selection(be);
    feedback(be);
    return check_done("test_candidates");
}
