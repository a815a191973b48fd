#include "trainer/model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/token_to_image.h"

static bool is_on(int choice, const struct ops *ops)
{
    return choice == SWITCH_AUTO ? ops->fused : choice == SWITCH_ON;
}

void model_resolve(struct config *c, const struct ops *ops)
{
    int *const switches[] = { &c->run_absorb, &c->run_fuse_upscaling, &c->run_fuse_norms };

    if (c->run_absorb == SWITCH_AUTO && config_tokens(c) > DECODER_TOKENS_MAX)
        c->run_absorb = SWITCH_OFF;
    if (c->run_precision == PRECISION_AUTO)
        c->run_precision = ops->bf16 ? PRECISION_BF16 : PRECISION_F32;
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++)
        *switches[i] = is_on(*switches[i], ops) ? SWITCH_ON : SWITCH_OFF;
}

enum status model_create(struct model *m, const struct config *c, const struct params *p,
                         struct program *program, const struct ops *ops, bool train)
{
    int *value = malloc((size_t)p->n * sizeof *value);

    if (!value) FAIL(E_MEMORY, "a model's parameter values");
    for (int i = 0; i < p->n; i++) value[i] = PROGRAM_NONE;
    *m = (struct model){
        .config = c,
        .params = p,
        .program = program,
        .value = value,
        .train = train,
        .absorb = is_on(c->run_absorb, ops),
        .fuse_upscaling = is_on(c->run_fuse_upscaling, ops),
    };
    if (is_on(c->run_fuse_norms, ops)) program_fuse_norms(program);
    program_own_products(program, c->run_own_products);
    return OK;
}

void model_destroy(struct model *m)
{
    if (!m) return;
    free(m->value);
    *m = (struct model){ 0 };
}

static int value_of(struct model *m, int index)
{
    const struct param *q = m->params->at + index;

    if (m->value[index] == PROGRAM_NONE)
        m->value[index] = program_param(m->program, index, q->offset, q->n_dims, q->dim, q->buffer);
    return m->value[index];
}

int model_param(struct model *m, const char *fmt, ...)
{
    char name[PARAM_NAME];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return value_of(m, params_find(m->params, "%s", name));
}

int model_linear(struct model *m, int x, enum activation act, const char *fmt, ...)
{
    char name[PARAM_NAME];
    va_list ap;
    int w, b;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    w = model_param(m, "%s.weight", name);
    b = model_param(m, "%s.bias", name);
    return program_linear(m->program, x, w, b, act);
}

int model_layernorm(struct model *m, int x, float eps, enum activation act, const char *fmt, ...)
{
    char name[PARAM_NAME];
    va_list ap;
    int gamma, beta;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    gamma = model_param(m, "%s.weight", name);
    beta = model_param(m, "%s.bias", name);
    return program_layernorm(m->program, x, gamma, beta, eps, act);
}
