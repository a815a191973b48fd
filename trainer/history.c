#include "trainer/history.h"

#include <stdlib.h>

enum status history_create(struct history *h, int64_t chunks, int64_t rounds, int64_t M)
{
    const size_t E = (size_t)(chunks * rounds), m = (size_t)M;

    h->M = M;
    h->host_value = calloc(E * m * HISTORY_VALUES, sizeof *h->host_value);
    h->host_selected = calloc(E * m, sizeof *h->host_selected);
    if (!h->host_value || !h->host_selected) FAIL(E_MEMORY, "the losses of a step");
    for (int i = 0; i < 2; i++) {
        struct history_slot *slot = h->slot + i;

        slot->entry = calloc(E, sizeof *slot->entry);
        slot->candidates = calloc((size_t)chunks * 2 * m, sizeof *slot->candidates);
        if (!slot->entry || !slot->candidates) FAIL(E_MEMORY, "the losses of a step");
    }
    return OK;
}

void history_destroy(struct history *h)
{
    for (int i = 0; i < 2; i++) {
        free(h->slot[i].entry);
        free(h->slot[i].candidates);
    }
    free(h->host_value);
    free(h->host_selected);
}

struct history_slot *history_queued(struct history *h)
{
    return h->slot + h->queued;
}

enum status history_begin(struct history *h, int64_t n_masks, const struct ops *ops,
                          struct stream *s)
{
    struct history_slot *slot = history_queued(h);

    slot->n_masks = n_masks;
    slot->n = 0;
    return ops->zero(h->value.data, tensor_bytes(h->value), s);
}

void history_add(struct history *h, struct history_entry e, struct tensor *value,
                 struct tensor *selected)
{
    struct history_slot *slot = history_queued(h);
    const int64_t at = slot->n++;

    slot->entry[at] = e;
    *value = tensor_3d((float *)h->value.data + at * h->M * HISTORY_VALUES, F32, h->M, e.K,
                       MASK_LOSS_VALUES);
    *selected = tensor_1d((int32_t *)h->selected.data + at * h->M, I32, h->M);
}

void history_launched(struct history *h)
{
    h->queued = !h->queued;
}

/* Of the IoU head over mask m's candidates. value: the mask's (K,4). */
static double mean_error(const struct history *h, const struct history_slot *slot,
                         const struct history_entry *e, int64_t m, const float *value)
{
    const int32_t *among = e->among ? slot->candidates + e->chunk * 2 * h->M : NULL;
    const struct candidates c = candidates_of(among, m, e->only_first ? 1 : e->K);
    double sum = 0;

    for (int64_t k = c.begin; k < c.end; k++)
        sum += (double)value[k * MASK_LOSS_VALUES + MASK_LOSS_ERR];
    return sum / (double)(c.end - c.begin);
}

static void add_losses(const struct history *h, const struct history_slot *slot, int64_t at,
                       bool iou_all, struct objective_losses *sum)
{
    const struct history_entry *e = slot->entry + at;

    for (int64_t m = 0; m < e->n_valid; m++) {
        const float *of_mask =
            h->host_value + at * h->M * HISTORY_VALUES + m * e->K * MASK_LOSS_VALUES;
        const float *v = of_mask + h->host_selected[at * h->M + m] * MASK_LOSS_VALUES;

        sum->focal += v[MASK_LOSS_FOCAL];
        sum->dice += v[MASK_LOSS_DICE];
        sum->iou_error += iou_all ? mean_error(h, slot, e, m, of_mask) : (double)v[MASK_LOSS_ERR];
        if (e->first) sum->iou_first += v[MASK_LOSS_IOU];
        if (e->last) sum->iou_last += v[MASK_LOSS_IOU];
    }
}

enum status history_losses(struct history *h, bool iou_all, struct objective_losses *losses,
                           const struct ops *ops, struct stream *s)
{
    const struct history_slot *slot = h->slot + !h->queued;

    *losses = (struct objective_losses){ .n_masks = slot->n_masks };
    if (slot->n == 0) return OK;
    TRY(ops->get(h->host_value, h->value.data, slot->n * h->M * HISTORY_VALUES * 4, s));
    TRY(ops->get(h->host_selected, h->selected.data, slot->n * h->M * 4, s));
    for (int64_t i = 0; i < slot->n; i++) add_losses(h, slot, i, iou_all, losses);
    return OK;
}

enum status history_squares(struct history *h, struct tensor squares, const struct ops *ops,
                            struct stream *s)
{
    const int64_t n = history_queued(h)->n * h->M * HISTORY_VALUES;

    return ops->grad_norm(squares, tensor_1d(h->value.data, F32, n), s);
}
