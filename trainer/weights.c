#include "trainer/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/checkpoint.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/safetensors.h"

static bool is_safetensors(const char *path)
{
    static const char suffix[] = ".safetensors";
    const size_t n = strlen(path), k = sizeof suffix - 1;

    return n > k && strcmp(path + n - k, suffix) == 0;
}

/* A folder of shards has a manifest too: taken for a checkpoint's it would look damaged. */
static enum status not_shards(const char *path)
{
    char name[CONFIG_TEXT + 32], head[256] = "";
    FILE *f;

    snprintf(name, sizeof name, "%s/manifest.json", path);
    f = fopen(name, "re");
    if (!f) return OK;
    head[fread(head, 1, sizeof head - 1, f)] = 0;
    fclose(f);
    if (strstr(head, "\"samforge-shards\""))
        FAIL(E_USAGE,
             "%s is a folder of shards, not weights: name a run's folder, a checkpoint or a "
             ".safetensors",
             path);
    return OK;
}

enum status weights_layout(const struct params *p, struct checkpoint_tensor **tensor)
{
    struct checkpoint_tensor *t = calloc((size_t)p->n, sizeof *t);

    if (!t) FAIL(E_MEMORY, "the layout of %d tensors", p->n);
    for (int i = 0; i < p->n; i++) {
        const struct param *q = p->at + i;

        memcpy(t[i].name, q->name, sizeof q->name);
        t[i].n_dims = q->n_dims;
        t[i].offset = q->offset;
        for (int d = 0; d < q->n_dims; d++) t[i].dim[d] = q->dim[d];
    }
    *tensor = t;
    return OK;
}

static enum status same_shape(const struct safetensors_entry *e, const struct param *q,
                              const char *path)
{
    bool same = e->n_dims == q->n_dims;

    for (int d = 0; same && d < q->n_dims; d++) same = e->dim[d] == q->dim[d];
    if (!same)
        FAIL(E_CONFIG,
             "%s: %s has another shape than the configured model's (%lld elements, not %lld)", path,
             q->name, (long long)e->count, (long long)q->count);
    return OK;
}

static enum status from_safetensors(const char *path, const struct params *p, float *flat)
{
    struct safetensors *st;
    enum status s = OK;

    TRY(safetensors_open(&st, path));
    for (int i = 0; s == OK && i < p->n; i++) {
        const struct param *q = p->at + i;
        struct safetensors_entry e;

        s = safetensors_find(st, q->name, &e);
        if (s == OK) s = same_shape(&e, q, path);
        if (s == OK) s = safetensors_to_f32(&e, flat + q->offset);
    }
    safetensors_close(st);
    return s;
}

enum status weights_load(const char *path, const struct params *p, float *flat)
{
    struct checkpoint_state state = { .n_arrays = 1,
                                      .array_name = { "param" },
                                      .array = { flat },
                                      .n = p->n_floats,
                                      .n_tensors = p->n };
    struct checkpoint_tensor *tensor;
    struct checkpoint *k;
    enum status s;

    memset(flat, 0, (size_t)p->n_floats * sizeof *flat);
    if (is_safetensors(path)) return from_safetensors(path, p, flat);
    TRY(not_shards(path));
    TRY(checkpoint_open(&k, path));
    s = weights_layout(p, &tensor);
    if (s == OK) {
        state.tensor = tensor;
        s = checkpoint_read_weights(k, &state);
        free(tensor);
    }
    checkpoint_close(k);
    return s;
}

enum status weights_take(const char *path, const struct config *c, float **flat)
{
    struct params p;
    float *draft;
    enum status s;

    TRY(params_create(&p, c));
    draft = malloc((size_t)p.n_floats * sizeof *draft);
    s = draft ? weights_load(path, &p, draft)
              : status_fail(E_MEMORY, __FILE__, __LINE__, "%lld weights", (long long)p.n_floats);
    params_destroy(&p);
    if (s != OK)
        free(draft);
    else
        *flat = draft;
    return s;
}

enum status weights_config(const char *path, struct config *c)
{
    struct checkpoint *k;
    const char *text;
    enum status s;

    if (is_safetensors(path))
        FAIL(E_CONFIG, "%s holds weights only: name the model's configuration with --config", path);
    TRY(not_shards(path));
    TRY(checkpoint_open(&k, path));
    config_defaults(c);
    text = checkpoint_manifest(k)->config;
    s = config_parse(c, text, (int64_t)strlen(text), path);
    if (s == OK) s = config_check(c);
    checkpoint_close(k);
    return s;
}
