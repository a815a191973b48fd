/* What one training step does, row by row, before any of it has run: FLOPs, bytes, and what bounds it on a GPU.
 *
 * Rows of the programs come from their lists (program_cost); beside them stand the ops outside: image, truth and prompts,
 * loss, norm, AdamW, casts. Scratch counts where it is more than a tenth of
 * the operands, by the accounts above the kernels, and is taken to leave the cache. Left out: drop path, which skips branches. */
#ifndef TRAINER_ACCOUNT_H
#define TRAINER_ACCOUNT_H

#include "trainer/bench_step.h"
#include "trainer/cost.h"

enum { ACCOUNT_ROWS = 96 };

struct account_row {
    enum bench_phase phase;
    const char *op;
    double calls;
    double flops; /* of products; a multiply-add is two */
    double bytes; /* every operand once */
    double
        scratch; /* bytes that kernels write for themselves and read again; what a chunk has may stay in L2 */
    double scalar; /* operations outside products, where the kernel's account counts them; 0: few */
    bool tensor;   /* its products run on tensor cores */
};

struct account {
    struct account_row row[ACCOUNT_ROWS]; /* of a step */
    int n;
    /* Reference FLOPs by phase: the published model. */
    double flops_reference[BENCH_N_PHASES];
    /* Bytes of the largest tensor that attention of the encoder writes, forward or backward; of all its scratch, in which
     * lies what it writes for itself; and of a scores array, tokens × tokens for every head, which it must not be. */
    double attention_tensor, attention_scratch, attention_scores;
};

/* images: of a step. ops: as for cost_of. */
enum status account_of(const struct config *c, const struct ops *ops, const struct cost *k,
                       struct account *a) MUST_CHECK;

/* A machine's datasheet, or what was measured of it. */
struct machine {
    const char *name;
    double tensor_flops, f32_flops, bytes; /* a second */
};
extern const struct machine account_machines[2]; /* A100, H200 */

/* What a row takes at least: the greatest of its products, its other operations at one a multiply-add's time, its bytes. */
enum account_bound { BOUND_TENSOR, BOUND_F32, BOUND_SCALAR, BOUND_MEMORY };
double account_seconds(const struct account_row *r, const struct machine *m,
                       enum account_bound *bound);

#endif
