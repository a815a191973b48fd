#include "trainer/first_weights.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trainer/agree.h"
#include "trainer/run_folder.h"
#include "trainer/weights.h"

enum status first_weights_take(struct first_weights *w, struct comm *c, const struct config *config,
                               const char *path, bool fresh)
{
    bool resumes = false;
    int64_t any;

    w->path = path;
    if (!path) return OK;
    if (!fresh) TRY(agree_worst(c, run_folder_has_checkpoints(config, &resumes)));
    any = resumes;
    TRY(c->ops->all_reduce_max(c, &any, 1));
    if (any) return OK;
    TRY(agree_worst(c, weights_take(path, config, &w->flat)));
    w->resolved = realpath(path, NULL);
    return OK;
}

static bool lies_in(const char *path, const char *folder)
{
    const size_t n = strlen(folder);

    return strncmp(path, folder, n) == 0 && (path[n] == '/' || path[n] == 0);
}

enum status first_weights_find(struct first_weights *w, struct comm *c, const char *folder)
{
    char *resolved = realpath(folder, NULL);
    int64_t aside = 0;

    if (w->flat)
        aside = access(w->path, F_OK) != 0 ||
                (resolved && w->resolved && lies_in(w->resolved, resolved));
    free(resolved);
    TRY(c->ops->all_reduce_max(c, &aside, 1));
    w->aside = aside;
    return OK;
}

enum status first_weights_give(struct first_weights *w, const struct params *p, int64_t seed,
                               float *to)
{
    if (w->flat) {
        memcpy(to, w->flat, (size_t)p->n_floats * sizeof *to);
        free(w->flat);
        w->flat = NULL;
    } else if (w->path) {
        TRY(weights_load(w->path, p, to));
    } else {
        params_initialize(p, (uint64_t)seed, to);
    }
    return OK;
}

void first_weights_destroy(struct first_weights *w)
{
    free(w->resolved);
    free(w->flat);
}
