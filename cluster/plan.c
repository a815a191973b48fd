#include "cluster/plan.h"

#include "kernels/base/check.h"

struct plan_range plan_part(int64_t n, int n_ranks, int rank)
{
    const int64_t base = n / n_ranks, more = n % n_ranks; /* the first `more` ranks have one more */
    const int64_t begin = rank * base + (rank < more ? rank : more);

    return (struct plan_range){ begin, begin + base + (rank < more ? 1 : 0) };
}

int plan_blocks(struct plan_range r, struct plan_range block[PLAN_BLOCKS_MAX])
{
    int n = 0;

    for (int64_t at = r.begin; at < r.end;) {
        int64_t size = at ? at & -at : (int64_t)1 << 62; /* what at is aligned to */

        while (size > r.end - at) size /= 2;
        ASSERT(n < PLAN_BLOCKS_MAX);
        block[n++] = (struct plan_range){ at, at + size };
        at += size;
    }
    return n;
}

int plan_siblings(struct plan_range below, struct plan_range top)
{
    const int64_t size = below.end - below.begin;

    return size == top.end - top.begin && below.end == top.begin && below.begin % (2 * size) == 0;
}

int plan_push(struct plan_range stack[PLAN_BLOCKS_MAX], int *depth, int64_t slot)
{
    int n = 0;

    ASSERT(*depth < PLAN_BLOCKS_MAX);
    stack[(*depth)++] = (struct plan_range){ slot, slot + 1 };
    for (; *depth > 1 && plan_siblings(stack[*depth - 2], stack[*depth - 1]); --*depth, n++)
        stack[*depth - 2].end = stack[*depth - 1].end;
    return n;
}

int plan_levels(struct plan_range slots)
{
    struct plan_range stack[PLAN_BLOCKS_MAX];
    int depth = 0, most = 1;

    for (int64_t slot = slots.begin; slot < slots.end; slot++) {
        const int merges = plan_push(stack, &depth, slot);

        if (depth + merges > most) most = depth + merges;
    }
    return most;
}
