/* spoil RUN OUT.safetensors TENSOR VALUE: the weights of a run, with every element of one tensor replaced, for --weights. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/safetensors.h"
#include "trainer/weights.h"

static enum status spoil(const char *run, const char *to, const char *tensor, float value)
{
    struct config c;
    struct params p;
    struct safetensors_entry *e;
    float *flat;
    bool found = false;

    TRY(weights_config(run, &c));
    TRY(params_create(&p, &c));
    flat = calloc((size_t)p.n_floats, sizeof *flat);
    e = calloc((size_t)p.n, sizeof *e);
    if (!flat || !e) FAIL(E_MEMORY, "%lld weights", (long long)p.n_floats);
    TRY(weights_load(run, &p, flat));
    for (int i = 0; i < p.n; i++) {
        const struct param *q = p.at + i;
        const bool this_one = strcmp(q->name, tensor) == 0;

        for (int64_t k = 0; this_one && k < q->count; k++) flat[q->offset + k] = value;
        found = found || this_one;
        e[i] = (struct safetensors_entry){
            .name = q->name, .dtype = SAFETENSORS_F32, .n_dims = q->n_dims, .data = flat + q->offset
        };
        for (int d = 0; d < q->n_dims; d++) e[i].dim[d] = q->dim[d];
    }
    if (!found) FAIL(E_USAGE, "%s has no tensor %s", run, tensor);
    TRY(safetensors_write(to, e, p.n, NULL, 0));
    free(e);
    free(flat);
    params_destroy(&p);
    return OK;
}

int main(int argc, char **argv)
{
    enum status s;

    if (argc != 5) {
        fprintf(stderr, "usage: spoil RUN OUT.safetensors TENSOR VALUE\n");
        return status_exit_code(E_USAGE);
    }
    s = spoil(argv[1], argv[2], argv[3], strtof(argv[4], NULL));
    return s == OK ? EXIT_SUCCESS : status_exit_code(s);
}
