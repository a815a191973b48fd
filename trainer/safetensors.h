/* Files of named tensors in the safetensors form: u64 header length, JSON header, raw little-endian
 * data.
 *
 * The reader believes nothing: header at most 100 MB, no name twice, every product checked, data
 * contiguous from the first byte to the file's end without holes or overlaps. Values and their
 * authenticity are not checked: the form has no checksum. */
#ifndef TRAINER_SAFETENSORS_H
#define TRAINER_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

#define SAFETENSORS_DTYPES(X) X(F64, 8) X(F32, 4) X(F16, 2) X(BF16, 2) X(I64, 8) X(I32, 4) X(U8, 1)

#define SAFETENSORS_ENUM(name, bytes) SAFETENSORS_##name,
enum safetensors_dtype { SAFETENSORS_DTYPES(SAFETENSORS_ENUM) SAFETENSORS_N_DTYPES };
#undef SAFETENSORS_ENUM

enum { SAFETENSORS_DIMS = 8, SAFETENSORS_HEADER_MAX = 100000000 };

struct safetensors_entry {
    const char *name;
    enum safetensors_dtype dtype;
    int n_dims;
    int64_t dim[SAFETENSORS_DIMS]; /* outermost first */
    int64_t count, bytes;
    const void *data; /* into the file; of any alignment */
};

struct safetensors_text {
    const char *key, *value;
};

struct safetensors;

/* Maps the file; E_CORRUPT says what is wrong with it. */
enum status safetensors_open(struct safetensors **st, const char *path) MUST_CHECK;

/* The same on n bytes in memory, which must outlive *st; name stands for the file in messages. */
enum status safetensors_parse(struct safetensors **st, const void *bytes, int64_t n,
                              const char *name) MUST_CHECK;
void safetensors_close(struct safetensors *st); /* accepts NULL; ends all entries */

int64_t safetensors_count(const struct safetensors *st);
const struct safetensors_entry *safetensors_at(const struct safetensors *st,
                                               int64_t i); /* in data order */
bool safetensors_has(const struct safetensors *st, const char *name);

/* E_CORRUPT naming file and tensor when there is none of that name. */
enum status safetensors_find(const struct safetensors *st, const char *name,
                             struct safetensors_entry *e) MUST_CHECK;

/* A text of __metadata__, or NULL. */
const char *safetensors_meta(const struct safetensors *st, const char *key);

/* e's elements as f32, from any float type (f64 rounds) into out[e->count]; E_CORRUPT for integers.
 */
enum status safetensors_to_f32(const struct safetensors_entry *e, float *out) MUST_CHECK;

const char *safetensors_dtype_name(enum safetensors_dtype t);

/* Writes a file of n tensors (name, dtype, dims, data; count and bytes are worked out) that appears
 * whole or not at all. Data is ordered by falling element size, then as given, so that all of it is
 * aligned. */
enum status safetensors_write(const char *path, const struct safetensors_entry *e, int64_t n,
                              const struct safetensors_text *meta, int n_meta) MUST_CHECK;

#endif
