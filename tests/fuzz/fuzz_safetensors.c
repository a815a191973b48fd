/* safetensors files: refused, or all tensors lie inside the file, one behind the other. */
#include "trainer/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

static void check_entry(const struct safetensors *st, const struct safetensors_entry *e,
                        const char **at)
{
    struct safetensors_entry found;
    float *values = malloc((size_t)e->count * sizeof *values + 1);

    ASSERT(values && e->data == *at);
    ASSERT(safetensors_find(st, e->name, &found) == OK && found.data == e->data);
    const enum status s = safetensors_to_f32(e, values); /* reads every byte */

    ASSERT(s == OK || s == E_CORRUPT);
    *at += e->bytes;
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct safetensors *st = NULL;
    const char *at;

    if (safetensors_parse(&st, data, (int64_t)n, "fuzz") != OK) return 0;
    at = safetensors_count(st) ? safetensors_at(st, 0)->data : (const char *)data + n;
    for (int64_t i = 0; i < safetensors_count(st); i++) check_entry(st, safetensors_at(st, i), &at);
    ASSERT(at == (const char *)data + n);
    if (safetensors_meta(st, "a")) ASSERT(strlen(safetensors_meta(st, "a")) <= n);
    safetensors_close(st);
    return 0;
}
