#include "kernels/posenc.h"

#include <math.h>

#include "kernels/base/check.h"
#include "kernels/posenc_check.h"

static const double pi = 3.14159265358979323846;

/* pe += the features of position (x,y) in [0,1], c channels. */
static void add_features(float *pe, double x, double y, const float *gaussian, int64_t c)
{
    for (int64_t i = 0; i < c / 2; i++) {
        const double turns = (2 * x - 1) * gaussian[i] + (2 * y - 1) * gaussian[c / 2 + i];

        pe[i] = (float)(pe[i] + sin(2 * pi * turns));
        pe[c / 2 + i] = (float)(pe[c / 2 + i] + cos(2 * pi * turns));
    }
}

enum status posenc_grid_ref(struct tensor pe, struct tensor gaussian, struct stream *s)
{
    TRY(posenc_grid_check(pe, gaussian));
    STREAM_NO_SCRATCH(s);
    const int64_t h = pe.dim[0], w = pe.dim[1], c = pe.dim[2];

    for (int64_t i = 0; i < h * w; i++) {
        float *row = (float *)pe.data + i * c;

        for (int64_t j = 0; j < c; j++) row[j] = 0;
        add_features(row, ((double)(i % w) + 0.5) / (double)w, ((double)(i / w) + 0.5) / (double)h,
                     gaussian.data, c);
    }
    return OK;
}

static int64_t point_count(const struct prompt_tokens_shape *g, struct tensor n_points, int64_t m)
{
    const int32_t n = ((const int32_t *)n_points.data)[m];

    ASSERT(n >= 0 && n <= g->p);
    return n;
}

/* The row of the table of a point. */
static int table_row(const struct prompt_tokens_shape *g, struct tensor labels, int64_t m,
                     int64_t p)
{
    const int32_t label = ((const int32_t *)labels.data)[m * g->p + p];

    ASSERT(label >= -1 && label + 1 < POSENC_TABLE);
    return label + 1;
}

enum status prompt_tokens_fwd_ref(struct tensor tokens, struct tensor coords, struct tensor labels,
                                  struct tensor n_points, struct tensor gaussian,
                                  struct tensor iou_token, struct tensor mask_tokens,
                                  const struct tensor table[POSENC_TABLE], int frame,
                                  struct stream *s)
{
    struct prompt_tokens_shape g;

    TRY(prompt_tokens_fwd_check(&g, tokens, coords, labels, n_points, gaussian, iou_token,
                                mask_tokens, table, frame));
    STREAM_NO_SCRATCH(s);

    for (int64_t m = 0; m < g.m; m++) {
        const int64_t n = point_count(&g, n_points, m);
        float *row = (float *)tokens.data + m * g.t * g.c;

        for (int64_t c = 0; c < g.c; c++) row[c] = ((const float *)iou_token.data)[c];
        row += g.c;
        for (int64_t i = 0; i < g.k * g.c; i++) row[i] = ((const float *)mask_tokens.data)[i];
        row += g.k * g.c;
        for (int64_t p = 0; p < g.p; p++, row += g.c) {
            for (int64_t c = 0; c < g.c; c++) row[c] = 0;
            if (p >= n) continue;
            const float *xy = (const float *)coords.data + (m * g.p + p) * 2;
            const int r = table_row(&g, labels, m, p);

            for (int64_t c = 0; c < g.c; c++) row[c] = ((const float *)table[r].data)[c];
            if (r > 0)
                add_features(row, ((double)xy[0] + 0.5) / frame, ((double)xy[1] + 0.5) / frame,
                             gaussian.data, g.c);
        }
    }
    return OK;
}

enum status prompt_tokens_bwd_ref(struct tensor diou_token, struct tensor dmask_tokens,
                                  const struct tensor dtable[POSENC_TABLE], struct tensor dtokens,
                                  struct tensor labels, struct tensor n_points, struct stream *s)
{
    struct prompt_tokens_shape g;

    TRY(prompt_tokens_bwd_check(&g, diou_token, dmask_tokens, dtable, dtokens, labels, n_points));
    STREAM_NO_SCRATCH(s);

    /* rows 0…K: the iou token and the mask tokens; then the table */
    for (int64_t row = 0; row < 1 + g.k + POSENC_TABLE; row++) {
        const int64_t k = row - 1, entry = row - 1 - g.k;
        const struct tensor out = row == 0 ? diou_token : entry < 0 ? dmask_tokens : dtable[entry];
        float *o = out.data;

        if (!o) continue;
        if (row > 0 && entry < 0) o += k * g.c;
        for (int64_t c = 0; c < g.c; c++) {
            double sum = out.add ? o[c] : 0;

            for (int64_t m = 0; m < g.m; m++) {
                const float *dt = (const float *)dtokens.data + m * g.t * g.c + c;

                if (entry < 0) sum += dt[row * g.c];
                for (int64_t p = 0; entry >= 0 && p < point_count(&g, n_points, m); p++)
                    if (table_row(&g, labels, m, p) == entry) sum += dt[(1 + g.k + p) * g.c];
            }
            o[c] = (float)sum;
        }
    }
    return OK;
}
