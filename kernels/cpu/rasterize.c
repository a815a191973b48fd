#include "kernels/rasterize.h"

#include <omp.h>
#include <string.h>

#include "kernels/base/arena.h"
#include "kernels/rasterize_check.h"

enum { PIXEL = RASTERIZE_PIXEL };

/* One column of cells at a time. The vertical segments of masked pixels in it are kept as what
 * their two ends change: a segment from row a adds, in the cell that a lies in, what is below a,
 * and all of every later cell; its end takes the same away. A run costs its two ends, whatever its
 * length, and a mask costs the columns it touches. */
struct grid {
    int64_t R, h, w;
    const int64_t *y_edge, *x_edge; /* (R+1) where cells begin, in 1/65536 pixel */
    const int32_t *cell_of;         /* (h+1) the cell that the upper edge of a row lies in, or R */
};

/* Where a reader of a mask's runs stands: inside run k, which ends before pixel `end`. */
struct cursor {
    const int32_t *run;
    int64_t k, n, end;
};

/* Scratch of one thread. */
struct work {
    int64_t *part; /* (R+1) masked area in cells that hold an end */
    int64_t *full; /* (R+1) change, at this cell, of the width that is masked to the full height */
    uint8_t *column_major; /* (R,R) cells of one mask, transposed */
};

static int64_t grid_bytes(int64_t R, int64_t h)
{
    return 2 * arena_round((R + 1) * 8) + arena_round((h + 1) * 4);
}

static int64_t work_bytes(int64_t R)
{
    return 2 * arena_round((R + 1) * 8) + arena_round(R * R);
}

static struct grid grid_plan(char *scratch, int64_t R, const int32_t *g)
{
    const int64_t row = arena_round((R + 1) * 8), h = g[RASTERIZE_H], w = g[RASTERIZE_W];
    int64_t *const y_edge = (int64_t *)scratch, *const x_edge = (int64_t *)(scratch + row);
    int32_t *const cell_of = (int32_t *)(scratch + 2 * row);
    int32_t cell = 0;

    for (int64_t i = 0; i <= R; i++) {
        y_edge[i] = rasterize_edge(i, R, g[RASTERIZE_S], h, g[RASTERIZE_NH]);
        x_edge[i] = rasterize_edge(i, R, g[RASTERIZE_S], w, g[RASTERIZE_NW]);
    }
    for (int64_t r = 0; r <= h; r++) {
        while (cell < R && y_edge[cell + 1] <= r * PIXEL) cell++;
        cell_of[r] = cell;
    }
    return (struct grid){ R, h, w, y_edge, x_edge, cell_of };
}

/* The next row segment of masked pixels that begins before pixel `stop`, cut there; false when
 * there is none. Pixels before *from are done. */
static bool next_segment(struct cursor *c, int64_t *from, int64_t *to, int64_t stop)
{
    while (*from < stop) {
        while (c->end <= *from) {
            if (c->k + 1 >= c->n) return false;
            c->end += c->run[++c->k];
        }
        *to = c->end < stop ? c->end : stop;
        if (c->k & 1) return true;
        *from = *to;
    }
    return false;
}

/* The upper edge of row r changes the masked width from here on by `wide`. */
static inline void add_edge(struct work *w, const struct grid *g, int64_t r, int64_t wide)
{
    const int32_t cell = g->cell_of[r];

    if (cell == g->R) return;
    w->part[cell] += wide * (g->y_edge[cell + 1] - r * PIXEL);
    w->full[cell + 1] += wide;
}

/* Adds the segments of pixel column c; rows of cells touched into [*i0, *i1). */
static void add_column(struct work *w, const struct grid *g, struct cursor *cursor, int64_t c,
                       int64_t wide, int64_t *i0, int64_t *i1)
{
    int64_t from = c * g->h, to;

    while (next_segment(cursor, &from, &to, (c + 1) * g->h)) {
        const int64_t r0 = from - c * g->h, r1 = to - c * g->h;
        const int64_t below = g->cell_of[r1] < g->R ? g->cell_of[r1] + 1 : g->R;

        add_edge(w, g, r0, wide);
        add_edge(w, g, r1, -wide);
        if (g->cell_of[r0] < *i0) *i0 = g->cell_of[r0];
        if (below > *i1) *i1 = below;
        from = to;
    }
}

/* The sums of cell column rows [i0,i1) to 0 or 1, and back to zero for the next column. */
static void close_column(uint8_t *out, struct work *w, const struct grid *g, int64_t width,
                         int64_t i0, int64_t i1)
{
    int64_t full = 0;

    for (int64_t i = i0; i < i1; i++) {
        const int64_t tall = g->y_edge[i + 1] - g->y_edge[i];

        full += w->full[i];
        out[i] = 2 * (w->part[i] + full * tall) >= tall * width;
        w->part[i] = w->full[i] = 0;
    }
    w->full[i1] = 0;
}

/* gt rows [i0,i1) × columns [j0,j1) from their transpose. */
static void transpose(uint8_t *gt, const uint8_t *column_major, int64_t R, int64_t i0, int64_t i1,
                      int64_t j0, int64_t j1)
{
    enum { TILE = 16 };

    for (int64_t i = i0; i < i1; i += TILE) {
        const int64_t i_end = i + TILE < i1 ? i + TILE : i1;

        for (int64_t j = j0; j < j1; j++)
            for (int64_t k = i; k < i_end; k++) gt[k * R + j] = column_major[j * R + k];
    }
}

static void rasterize_mask(uint8_t *gt, const struct grid *g, const int32_t *run, int64_t n_runs,
                           struct work *w)
{
    struct cursor cursor = { .run = run, .k = -1, .n = n_runs, .end = 0 };
    int64_t top = g->R, bottom = 0, left = 0, right = 0;

    memset(gt, 0, (size_t)(g->R * g->R));
    for (int64_t j = 0; j < g->R && g->x_edge[j] < g->w * PIXEL; j++) {
        const int64_t x0 = g->x_edge[j], x1 = g->x_edge[j + 1];
        const int64_t c_end = (x1 + PIXEL - 1) / PIXEL < g->w ? (x1 + PIXEL - 1) / PIXEL : g->w;
        struct cursor last = cursor; /* before the last column, which the next cells may share */
        int64_t i0 = g->R, i1 = 0;

        if (cursor.k >= 0 && !(cursor.k & 1) && cursor.end >= c_end * g->h) continue;
        for (int64_t c = x0 / PIXEL; c < c_end; c++) {
            const int64_t begin = c * PIXEL > x0 ? c * PIXEL : x0;
            const int64_t end = (c + 1) * PIXEL < x1 ? (c + 1) * PIXEL : x1;

            last = cursor;
            add_column(w, g, &cursor, c, end - begin, &i0, &i1);
        }
        cursor = last;
        if (i1 <= i0) continue;
        if (right == 0) left = right = j;
        for (; right <= j; right++) memset(w->column_major + right * g->R, 0, (size_t)g->R);
        close_column(w->column_major + j * g->R, w, g, x1 - x0, i0, i1);
        top = i0 < top ? i0 : top;
        bottom = i1 > bottom ? i1 : bottom;
    }
    transpose(gt, w->column_major, g->R, top, bottom, left, right);
}

enum status rasterize_cpu(struct tensor gt, struct tensor runs, struct tensor first,
                          struct tensor geometry, struct stream *s)
{
    char *scratch;

    TRY(rasterize_check(gt, runs, first, geometry));

    const int32_t *geo = geometry.data;
    const int64_t M = gt.dim[0], R = gt.dim[1], shared = grid_bytes(R, geo[RASTERIZE_H]);

    STREAM_SCRATCH(s, scratch, shared + omp_get_max_threads() * work_bytes(R));

    const struct grid g = grid_plan(scratch, R, geo);
    const int64_t *f = first.data;

#pragma omp parallel for schedule(dynamic)
    for (int64_t m = 0; m < M; m++) {
        char *const own = scratch + shared + omp_get_thread_num() * work_bytes(R);
        const int64_t row = arena_round((R + 1) * 8);
        struct work w = { .part = (int64_t *)own,
                          .full = (int64_t *)(own + row),
                          .column_major = (uint8_t *)own + 2 * row };

        memset(own, 0, (size_t)(2 * row)); /* sums; a column leaves them zero behind itself */
        rasterize_mask((uint8_t *)gt.data + m * R * R, &g, (const int32_t *)runs.data + f[m],
                       f[m + 1] - f[m], &w);
    }
    return OK;
}
