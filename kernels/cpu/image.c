#include "kernels/image_check.h"

/* Values of a line worked on together: whole vectors, and whole pixels. */
enum { RUN = 48 };

/* The statistics of value i of a line, for one run. */
struct levels {
    float mean[RUN], std[RUN];
};

static void line_u8(float *y, const uint8_t *x, const struct levels *l, int64_t n)
{
    for (int64_t first = 0; first < n; first += RUN) {
        const int64_t size = first + RUN < n ? RUN : n - first;

        for (int64_t i = 0; i < size; i++)
            y[first + i] = ((float)x[first + i] - l->mean[i]) / l->std[i];
    }
}

static void line_f32(float *y, const float *x, const struct levels *l, int64_t n)
{
    for (int64_t first = 0; first < n; first += RUN) {
        const int64_t size = first + RUN < n ? RUN : n - first;

        for (int64_t i = 0; i < size; i++) y[first + i] = (x[first + i] - l->mean[i]) / l->std[i];
    }
}

enum status image_normalize_cpu(struct tensor y, struct tensor x, struct tensor size,
                                struct stream *s)
{
    static const float mean[3] = IMAGE_MEAN, std[3] = IMAGE_STD;
    struct levels l;

    TRY(image_normalize_check(y, x, size));
    STREAM_NO_SCRATCH(s);

    const int64_t side = y.dim[1];

    for (int i = 0; i < RUN; i++) {
        l.mean[i] = mean[i % 3];
        l.std[i] = std[i % 3];
    }
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < y.dim[0] * side; line++) {
        const int32_t *inside = (const int32_t *)size.data + line / side * 2;
        const int64_t cols = line % side < inside[0] ? inside[1] : 0;
        const int64_t n = (cols < 0 ? 0 : cols > side ? side : cols) * 3, at = line * side * 3;
        float *to = (float *)y.data + at;

        if (x.dtype == U8)
            line_u8(to, (const uint8_t *)x.data + at, &l, n);
        else
            line_f32(to, (const float *)x.data + at, &l, n);
        for (int64_t i = n; i < side * 3; i++) to[i] = 0;
    }
    return OK;
}
