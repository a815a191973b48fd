#include "trainer/eval_score.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVAL_KEY(member, text) #member,
static const char *const keys[EVAL_N_SCORES] = { EVAL_SCORES(EVAL_KEY) };
#undef EVAL_KEY
#define EVAL_TEXT(member, text) text,
static const char *const texts[EVAL_N_SCORES] = { EVAL_SCORES(EVAL_TEXT) };
#undef EVAL_TEXT

const char *eval_score_key(enum eval_score s)
{
    return keys[s];
}

const char *eval_score_text(enum eval_score s)
{
    return texts[s];
}

static enum status write_csv(const char *path, const struct eval_row *row, int64_t n)
{
    FILE *f = fopen(path, "w");
    bool bad;

    if (!f) FAIL(E_IO, "cannot write %s: %s", path, strerror(errno));
    fprintf(f, "image_id,mask,area");
    for (int k = 0; k < EVAL_N_SCORES; k++) fprintf(f, ",%s", keys[k]);
    fputc('\n', f);
    for (int64_t i = 0; i < n; i++) {
        fprintf(f, "%lld,%d,%lld", (long long)row[i].image_id, row[i].mask, (long long)row[i].area);
        for (int k = 0; k < EVAL_N_SCORES; k++)
            fprintf(f, isnan(row[i].score[k]) ? "," : ",%.6f", (double)row[i].score[k]);
        fputc('\n', f);
    }
    bad = ferror(f) != 0;
    if (fclose(f) != 0 || bad) FAIL(E_IO, "cannot write %s: %s", path, strerror(errno));
    return OK;
}

/* In the order of images and masks, in double: the same bits on any number of ranks. */
static void average(const struct eval_row *row, int64_t n, struct eval_scores *s)
{
    s->n_masks = n;
    for (int k = 0; k < EVAL_N_SCORES; k++) {
        double sum = 0;

        for (int64_t i = 0; i < n; i++) sum += (double)row[i].score[k];
        s->mean[k] = n ? sum / (double)n : NAN;
    }
}

enum status eval_score_gather(struct comm *c, const struct eval_row *row, int64_t n,
                              const char *csv, struct eval_scores *s)
{
    int64_t *bytes = calloc((size_t)c->n_ranks, sizeof *bytes), n_all = 0;
    struct eval_row *all = NULL;
    enum status r = OK;

    if (!bytes) FAIL(E_MEMORY, "counts of %d ranks", c->n_ranks);
    bytes[c->rank] = n * (int64_t)sizeof *all;
    r = c->ops->all_reduce_sum(c, bytes, c->n_ranks);
    for (int i = 0; i < c->n_ranks; i++) n_all += bytes[i] / (int64_t)sizeof *all;
    if (r == OK) {
        all = malloc((size_t)(n_all ? n_all : 1) * sizeof *all);
        if (!all)
            r = status_fail(E_MEMORY, __FILE__, __LINE__, "scores of %lld masks", (long long)n_all);
    }
    if (r == OK) r = c->ops->all_gather_v(c, all, row, bytes);
    if (r == OK) average(all, n_all, s);
    if (r == OK && csv && c->rank == 0) r = write_csv(csv, all, n_all);
    free(all);
    free(bytes);
    return r;
}
