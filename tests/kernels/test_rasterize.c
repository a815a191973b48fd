/* Runs to cells: against areas summed pixel by pixel in exact fractions. */
#include "tests/kernels/op.h"

static const struct ops *be;

struct shape {
    int32_t h, w, nh, nw, S;
    int64_t R;
};

/* down, up, as they are, not square, padded at the right and bottom, ratios of nothing */
static const struct shape shapes[] = {
    { 16, 16, 16, 16, 16, 16 },  { 60, 90, 64, 96, 96, 24 },      { 151, 97, 128, 82, 128, 32 },
    { 5, 7, 46, 64, 64, 64 },    { 37, 1, 64, 2, 64, 16 },        { 1, 1, 8, 8, 8, 8 },
    { 83, 129, 41, 64, 64, 61 }, { 300, 200, 256, 171, 256, 64 }, { 9, 13, 9, 13, 32, 8 },
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, MASKS = 6, MAX_RUNS = 4000 };

/* On the host, whatever the backend; until the next call. */
static struct tensor geometry_of(const struct shape *d)
{
    static int32_t g[5];

    memcpy(g, (const int32_t[]){ d->h, d->w, d->nh, d->nw, d->S }, sizeof g);
    return tensor_1d(g, I32, 5);
}

/* Runs of random length up to `longest`, of h·w pixels together; none for mask 0. */
static void draw_runs(struct tensor *runs, struct tensor *first, const struct shape *d)
{
    static const uint32_t longest[MASKS] = { 0, 5, 40, 1000, 1 << 20, 300 };
    const int64_t n = (int64_t)d->h * d->w;
    int32_t *out;
    int64_t at = 0;

    *runs = OP_ZEROS(I32, MASKS * (n + 2));
    *first = OP_ZEROS(I64, MASKS + 1);
    out = runs->data;
    for (int m = 0; m < MASKS; m++) {
        const struct rng_key key = rng_stream(11, RNG_TEST, (uint64_t)m, (uint64_t)n);
        int64_t left = m == 0 ? 0 : n;

        for (uint64_t i = 0; left > 0; i++) {
            int64_t run = rng_below(key, i, longest[m] + 1u);

            if (m == 4) run = i == 0 ? 0 : n; /* all of it */
            if (i > 0 && run == 0) run = 1;
            if (run > left) run = left;
            out[at++] = (int32_t)run;
            left -= run;
        }
        ((int64_t *)first->data)[m + 1] = at;
    }
    runs->dim[0] = at;
}

/* Twice the masked area minus the cell's, in units of 1/(R·nh) × 1/(R·nw) original pixels: exact.
 * The op rounds each of the four sides by at most 1/65536 pixel; *slack is what that can move. */
static __int128 surplus(const uint8_t *mask, const struct shape *d, int64_t i, int64_t j,
                        __int128 *slack)
{
    const int64_t ry = d->R * d->nh, rx = d->R * d->nw;
    const int64_t y0 = i * d->S * d->h, y1 = (i + 1) * d->S * d->h;
    const int64_t x0 = j * d->S * d->w, x1 = (j + 1) * d->S * d->w;
    __int128 area = 0;

    for (int64_t c = 0; c < d->w; c++) {
        const int64_t left = x0 > c * rx ? x0 : c * rx,
                      right = x1 < (c + 1) * rx ? x1 : (c + 1) * rx;

        if (right <= left) continue;
        for (int64_t r = 0; r < d->h; r++) {
            const int64_t top = y0 > r * ry ? y0 : r * ry;
            const int64_t bottom = y1 < (r + 1) * ry ? y1 : (r + 1) * ry;

            if (bottom > top && mask[c * d->h + r])
                area += (__int128)(bottom - top) * (right - left);
        }
    }
    *slack = ((__int128)6 * ry * (x1 - x0) + (__int128)6 * rx * (y1 - y0)) / 65536 + 1;
    return 2 * area - (__int128)(y1 - y0) * (x1 - x0);
}

static void check_areas(struct tensor gt, struct tensor runs, struct tensor first,
                        const struct shape *d)
{
    const int32_t *run = runs.data;
    const int64_t *f = first.data, R = d->R;
    uint8_t *mask = check_alloc((int64_t)d->h * d->w);
    int64_t n_close = 0, n_wrong = 0;

    for (int m = 0; m < MASKS; m++) {
        const uint8_t *out = (const uint8_t *)gt.data + m * R * R;
        int64_t at = 0;

        memset(mask, 0, (size_t)((int64_t)d->h * d->w));
        for (int64_t k = f[m]; k < f[m + 1]; k++)
            for (int32_t n = run[k]; n > 0; n--) mask[at++] = (k - f[m]) & 1;
        for (int64_t i = 0; i < R; i++)
            for (int64_t j = 0; j < R; j++) {
                __int128 slack;
                const __int128 over = surplus(mask, d, i, j, &slack);

                if (over < slack && over > -slack && over != 0)
                    n_close++;
                else if (out[i * R + j] != (over > 0) && over != 0)
                    n_wrong++;
                CHECK(out[i * R + j] <= 1);
            }
    }
    CHECK(n_wrong == 0);
    CHECK(n_close * 50 <= MASKS * R * R); /* else the test tests nothing */
}

static void test_areas(void)
{
    for (int i = 0; i < N_SHAPES; i++) {
        const struct shape *d = &shapes[i];
        struct tensor runs, first, g = geometry_of(d);
        struct tensor gt = OP_ZEROS(U8, MASKS, d->R, d->R), want = op_like(gt), one = op_like(gt);

        draw_runs(&runs, &first, d);
        memset(gt.data, 7, (size_t)tensor_bytes(gt));
        omp_set_num_threads(1);
        OP_RUN(be->rasterize(one, runs, first, g, s));
        omp_set_num_threads(2);
        OP_RUN(be->rasterize(gt, runs, first, g, s));
        OP_RUN(ops_ref.rasterize(want, runs, first, g, s));
        CHECK_SAME_BITS(gt.data, want.data, tensor_bytes(gt));
        CHECK_SAME_BITS(gt.data, one.data, tensor_bytes(gt));
        check_areas(gt, runs, first, d);
    }
}

/* Frame, image and cells the same: the mask itself, transposed from columns to rows. */
static void test_identity(void)
{
    const struct shape d = { 3, 3, 3, 3, 3, 3 };
    struct tensor runs = OP_ZEROS(I32, 5), first = OP_ZEROS(I64, 2), gt = OP_ZEROS(U8, 1, 3, 3);

    memcpy(runs.data, (const int32_t[]){ 1, 2, 3, 1, 2 }, 20);
    ((int64_t *)first.data)[1] = 5;
    OP_RUN(be->rasterize(gt, runs, first, geometry_of(&d), s));
    CHECK_SAME_BITS(gt.data, ((const uint8_t[]){ 0, 0, 1, 1, 0, 0, 1, 0, 0 }), 9);
}

/* Half is enough, less is not; a cell half in the padding counts whole. */
static void test_half(void)
{
    const struct shape one = { 2, 2, 2, 2, 2, 1 }, padded = { 2, 1, 2, 1, 2, 1 };
    const struct shape almost = { 1, 2, 65536, 65537, 65537, 1 };
    struct tensor runs = OP_ZEROS(I32, 3), first = OP_ZEROS(I64, 2), gt = OP_ZEROS(U8, 1, 1, 1);
    const uint8_t *out = gt.data;
    int32_t *r = runs.data;

    ((int64_t *)first.data)[1] = 3;
    memcpy(r, (const int32_t[]){ 1, 2, 1 }, 12);
    OP_RUN(be->rasterize(gt, runs, first, geometry_of(&one), s));
    CHECK(*out == 1);
    memcpy(r, (const int32_t[]){ 1, 1, 2 }, 12);
    OP_RUN(be->rasterize(gt, runs, first, geometry_of(&one), s));
    CHECK(*out == 0);
    memcpy(r, (const int32_t[]){ 0, 2, 0 }, 12);
    OP_RUN(be->rasterize(gt, runs, first, geometry_of(&padded), s));
    CHECK(*out == 1);
    memcpy(r, (const int32_t[]){ 0, 1, 1 }, 12);
    OP_RUN(be->rasterize(gt, runs, first, geometry_of(&padded), s));
    CHECK(*out == 0);
    /* the upper 65536/65537 of the second of two columns: less than half by 1/65537; what is masked
     * behind the end of the first column is none of its own */
    memcpy(r, (const int32_t[]){ 1, 1, 0 }, 12);
    OP_RUN(be->rasterize(gt, runs, first, geometry_of(&almost), s));
    CHECK(*out == 0);
}

static void test_edges(void)
{
    const struct shape d = { 4, 6, 4, 6, 8, 4 };
    struct tensor g = geometry_of(&d), runs = OP_ZEROS(I32, 1), first = OP_ZEROS(I64, 2);
    struct tensor gt = OP_ZEROS(U8, 1, 4, 4), bad = g;
    int32_t bad_data[5];

    memcpy(bad_data, g.data, sizeof bad_data);
    bad.data = bad_data;
    ((int32_t *)runs.data)[0] = 24;
    ((int64_t *)first.data)[1] = 1;
    memset(gt.data, 1, 16);
    OP_RUN(be->rasterize(gt, runs, first, g, s)); /* one run: nothing of it inside */
    for (int i = 0; i < 16; i++) CHECK(((uint8_t *)gt.data)[i] == 0);
    memset(gt.data, 1, 16);
    OP_RUN(be->rasterize(gt, OP_ZEROS(I32, 0), OP_ZEROS(I64, 2), g, s)); /* no run at all */
    for (int i = 0; i < 16; i++) CHECK(((uint8_t *)gt.data)[i] == 0);
    OP_RUN(be->rasterize(OP_ZEROS(U8, 0, 4, 4), OP_ZEROS(I32, 0), OP_ZEROS(I64, 1), g, s));
    OP_PLAN(be->rasterize(tensor_3d(NULL, U8, 3, 4, 4), tensor_1d(NULL, I32, 50),
                          tensor_1d(NULL, I64, 4), g, s));

    log_set_level(LOG_ERROR);
    OP_SHAPE_ERROR(be->rasterize(tensor_3d(gt.data, U8, 1, 4, 2), runs, first, g, s));
    OP_SHAPE_ERROR(be->rasterize(tensor_3d(gt.data, F32, 1, 1, 1), runs, first, g, s));
    OP_SHAPE_ERROR(be->rasterize(gt, runs, tensor_1d(first.data, I64, 1), g, s));
    OP_SHAPE_ERROR(be->rasterize(gt, runs, first, tensor_1d(g.data, I32, 4), s));
    OP_SHAPE_ERROR(be->rasterize(gt, runs, first, op_no_data(g), s));
    bad_data[2] = 9; /* scaled beyond the frame */
    OP_SHAPE_ERROR(be->rasterize(gt, runs, first, bad, s));
    bad_data[2] = 0;
    OP_SHAPE_ERROR(be->rasterize(gt, runs, first, bad, s));
    memcpy(bad_data, (const int32_t[]){ 2000000000, 2000000000, 1, 1, 1 }, 20);
    OP_SHAPE_ERROR(be->rasterize(gt, runs, first, bad, s)); /* areas beyond 64 bits */
    memcpy(bad_data, (const int32_t[]){ 700000000, 1, 100000, 100000, 100000 }, 20);
    OP_SHAPE_ERROR(be->rasterize(tensor_3d(NULL, U8, 1, 1000, 1000), runs, first, bad,
                                 s)); /* the last edge beyond them */
}

int main(int argc, char **argv)
{
    be = op_backend(argc, argv);
    test_areas();
    test_identity();
    test_half();
    test_edges();
    return check_done("rasterize");
}
