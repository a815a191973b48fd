/* Turns a small matrix in vector registers, so that a sum over its columns runs side by side for
 * TURN_LANES rows. The compiler's own shuffles for such loops are sometimes good and sometimes
 * scalar; these are always 4 n of them.
 *
 * A vector is TURN_LANES floats; the matrix, 16 rows of n (even), lies in n vectors one after the
 * other. Element e = 16-row r · n + c goes to c · 16 + r, which is 16 e modulo 16 n − 1: four times
 * doubling, and doubling is interleaving the two halves. */
#ifndef KERNELS_CPU_TURN_H
#define KERNELS_CPU_TURN_H

#include <stdint.h>

enum { TURN_LANES = 16 };

typedef float turn_vector __attribute__((vector_size(64)));
typedef float turn_memory __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t turn_index __attribute__((vector_size(64)));

#define TURN_FN static inline __attribute__((always_inline))

/* The vector at p, aligned or not, to read or to write. A macro: a function that takes or returns
 * a vector has another calling convention on every kind of processor, and gcc says so. */
#define TURN_AT(p) (*(turn_memory *)(p))

/* (16,n) to (n,16), n a constant once inlined, 2 to 16. */
TURN_FN void turn_rows(turn_vector v[TURN_LANES], int n)
{
    const turn_index low = { 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23 };
    const turn_index high = low + 8;

#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
        turn_vector out[TURN_LANES];

#pragma GCC unroll 16
        for (int j = 0; j < n; j++)
            out[j] = __builtin_shuffle(v[j / 2], v[n / 2 + j / 2], j % 2 ? high : low);
#pragma GCC unroll 16
        for (int j = 0; j < n; j++) v[j] = out[j];
    }
}

/* (n,16) back to (16,n). */
TURN_FN void turn_back(turn_vector v[TURN_LANES], int n)
{
    const turn_index even = { 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30 };

#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
        turn_vector out[TURN_LANES];

#pragma GCC unroll 16
        for (int j = 0; j < n; j++)
            out[j] = __builtin_shuffle(v[j * 2 % n], v[j * 2 % n + 1], j < n / 2 ? even : even + 1);
#pragma GCC unroll 16
        for (int j = 0; j < n; j++) v[j] = out[j];
    }
}

#endif
