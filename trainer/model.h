/* What the model files share while they record nodes: the configuration, the parameters, and the program under
 * construction, with each parameter entered into it once. */
#ifndef TRAINER_MODEL_H
#define TRAINER_MODEL_H

#include "trainer/config.h"
#include "trainer/params.h"
#include "trainer/program.h"

struct model {
    const struct config *config;
    const struct params *params;
    struct program *program;
    int *value; /* (params->n) the program's value of each parameter, or PROGRAM_NONE; owned */
    bool train; /* dropout and drop path are recorded */
    bool absorb,
        fuse_upscaling; /* the decoder's fused ops are recorded: run.absorb, run.fuse_upscaling */
};

/* Every `auto` of c that decides how a model computes becomes what it means on that device, so that a run goes on as it began. */
void model_resolve(struct config *c, const struct ops *ops);

/* ops: what the fused ops' "auto" asks. */
enum status model_create(struct model *m, const struct config *c, const struct params *p,
                         struct program *program, const struct ops *ops, bool train) MUST_CHECK;
void model_destroy(struct model *m);

/* The program's value of the parameter with that name. */
int model_param(struct model *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* y = act(x Wᵀ + b) with PREFIX.weight and PREFIX.bias. */
int model_linear(struct model *m, int x, enum activation act, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

int model_layernorm(struct model *m, int x, float eps, enum activation act, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

#endif
