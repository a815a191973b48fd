/* The weights that a run was asked to begin with. They are read before its folder is made: they may not be there, or lie in the
 * run that is set aside then. */
#ifndef TRAINER_FIRST_WEIGHTS_H
#define TRAINER_FIRST_WEIGHTS_H

#include <stdbool.h>

#include "cluster/comm.h"
#include "trainer/config.h"
#include "trainer/params.h"

struct first_weights {
    const char *path; /* not owned; NULL: none were asked for */
    char *resolved;   /* owned; the same without symbolic links */
    float *flat; /* owned; NULL: the run goes on from its own checkpoint, or none were asked for */
    bool
        aside; /* they were moved with the run: a restart, which is given the same path, must not need them */
};

/* Collective. path may be NULL. Reads nothing where a run that is not fresh has checkpoints. Keeps path. */
enum status first_weights_take(struct first_weights *w, struct comm *c, const struct config *config,
                               const char *path, bool fresh) MUST_CHECK;

/* Collective. Behind the move of what was in folder. */
enum status first_weights_find(struct first_weights *w, struct comm *c,
                               const char *folder) MUST_CHECK;

/* Local, once. Those taken, or initial ones. */
enum status first_weights_give(struct first_weights *w, const struct params *p, int64_t seed,
                               float *to) MUST_CHECK;
void first_weights_destroy(struct first_weights *w);

#endif
