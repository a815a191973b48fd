/* The parameters of a SAM: the one list of names, shapes, places, initial values and optimizer groups. Names, order and
 * shapes are those of the official state dict (SAM_SPEC A.4), so weights come and go without translation.
 *
 * All parameters lie in one flat buffer of floats, each at a multiple of PARAMS_ALIGN; gradients and optimizer state are
 * buffers of the same layout. The order is the order of the forward pass: backward completes it from the end. */
#ifndef TRAINER_PARAMS_H
#define TRAINER_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/tensor.h"
#include "trainer/config.h"

enum { PARAM_NAME = 96, PARAMS_ALIGN = 16 };

enum param_init {
    INIT_ZERO,
    INIT_ONE,
    INIT_NORMAL,    /* mean 0, deviation 1 */
    INIT_TRUNCATED, /* deviation 0.02, cut at two deviations (ViTDet) */
    INIT_FAN_IN     /* uniform ± 1/√fan_in (PyTorch's default) */
};

struct param {
    char name[PARAM_NAME];
    int n_dims;
    int64_t dim[TENSOR_DIMS];
    int64_t offset, count; /* floats; offset within the flat buffer */
    enum param_init init;
    int64_t fan_in;
    int layer;   /* for layer-wise decay: 0 patch and position, i+1 block i, depth+1 the rest */
    bool decay;  /* weight decay applies: not a bias, norm or position */
    bool buffer; /* saved, never trained: the Fourier matrix */
};

struct params {
    struct param *at;  /* owned */
    int n;             /* tensors, buffers included */
    int64_t n_floats;  /* of the flat buffer, padding included */
    int64_t n_trained; /* parameters without buffers and padding */
};

enum status params_create(struct params *p, const struct config *c) MUST_CHECK;
void params_destroy(struct params *p);

/* Whether encoder block `block` attends to the whole grid, not to windows. */
bool params_block_is_global(const struct config *c, int block);

/* The index of the parameter with that name, printf style; a name that is not there is a programmer error. */
int params_find(const struct params *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Initial values of all of them into flat (n_floats), a function of seed and name alone. */
void params_initialize(const struct params *p, uint64_t seed, float *flat);

#endif
