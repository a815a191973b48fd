#include "kernels/cpu/column_sum.h"

enum { TILE_COLS = 64, RUN_ROWS = 32 };

/* The columns of one tile; inlined so that a whole tile's loop has a constant count. */
static inline void tile_sum(float *out, const float *x, int64_t ld, int64_t rows, int64_t cols)
{
    float total[TILE_COLS] = { 0 };

    for (int64_t first = 0; first < rows; first += RUN_ROWS) {
        const int64_t end = first + RUN_ROWS < rows ? first + RUN_ROWS : rows;
        float run[TILE_COLS] = { 0 };

        for (int64_t r = first; r < end; r++)
            for (int64_t c = 0; c < cols; c++) run[c] += x[r * ld + c];
        for (int64_t c = 0; c < cols; c++) total[c] += run[c];
    }
    for (int64_t c = 0; c < cols; c++) out[c] = total[c];
}

void column_sum(float *out, const float *x, int64_t ld, int64_t rows, int64_t cols)
{
    int64_t c = 0;

    for (; c + TILE_COLS <= cols; c += TILE_COLS) tile_sum(out + c, x + c, ld, rows, TILE_COLS);
    for (; c + 16 <= cols; c += 16) tile_sum(out + c, x + c, ld, rows, 16);
    if (c < cols) tile_sum(out + c, x + c, ld, rows, cols - c);
}

void column_sum_finish(float *out, bool add, const float *partial, int64_t ld, int64_t n_blocks,
                       int64_t cols)
{
    for (int64_t c = 0; c < cols; c++) {
        double sum = add ? out[c] : 0;

        for (int64_t b = 0; b < n_blocks; b++) sum += partial[b * ld + c];
        out[c] = (float)sum;
    }
}
