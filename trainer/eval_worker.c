#include "trainer/eval_worker.h"

#include <stdlib.h>

#include "trainer/room.h"

void eval_worker_destroy(struct eval_worker *w)
{
    if (!w) return;
    free(w->frame);
    free(w->full);
    free(w->guess);
    free(w->stream.scratch);
    distance_destroy(&w->distance);
    *w = (struct eval_worker){ 0 };
}

static enum status resize(struct eval_worker *w, const struct eval_image *e, const float *logits,
                          struct stream *s)
{
    const int64_t S = w->S, L = w->L;
    const struct tensor frame = tensor_3d(w->frame, F32, 1, S, S);

    TRY(w->ops->resize_fwd(frame, tensor_3d((void *)(uintptr_t)logits, F32, 1, L, L), L, L, s));
    return w->ops->resize_fwd(tensor_3d(w->full, F32, 1, e->h, e->w), frame, e->new_h, e->new_w, s);
}

enum status eval_worker_reserve(struct eval_worker *w, const struct ops *ops, int64_t S, int64_t L,
                                const struct eval_image *e)
{
    const int64_t area = (int64_t)e->h * e->w;
    struct stream dry = { .planning = true };

    w->ops = ops;
    w->S = S;
    w->L = L;
    TRY(room_reserve(&w->frame, &w->frame_room, S * S, sizeof *w->frame));
    TRY(room_reserve(&w->full, &w->full_room, area, sizeof *w->full));
    TRY(room_reserve(&w->guess, &w->guess_room, area, 1));
    TRY(distance_reserve(&w->distance, e->h, e->w));
    TRY(resize(w, e, NULL, &dry));
    return room_reserve(&w->stream.scratch, &w->stream.scratch_bytes, dry.scratch_need, 1);
}

enum status eval_worker_guess(struct eval_worker *w, const struct eval_image *e,
                              const float *logits)
{
    const int64_t area = (int64_t)e->h * e->w;

    TRY(resize(w, e, logits, &w->stream));
    for (int64_t i = 0; i < area; i++) w->guess[i] = w->full[i] > 0;
    return OK;
}
