#include "trainer/checkpoint.h"

#include "cluster/plan.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "trainer/checkpoint_absent.h"
#include "trainer/checkpoint_folder.h"
#include "trainer/checkpoint_h5.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct checkpoint {
    struct checkpoint_manifest m;
    char folder[DURABLE_PATH];
    struct checkpoint_damage damage;
};

const struct checkpoint_manifest *checkpoint_manifest(const struct checkpoint *k)
{
    return &k->m;
}

struct checkpoint_damage checkpoint_damage(const struct checkpoint *k)
{
    return k->damage;
}

void checkpoint_close(struct checkpoint *k)
{
    if (!k) return;
    checkpoint_manifest_destroy(&k->m);
    free(k);
}

static enum status open_folder(struct checkpoint **k, const char *folder)
{
    struct checkpoint *draft = calloc(1, sizeof *draft);
    char path[DURABLE_PATH], *text = NULL;
    int64_t n = 0;
    enum status s;

    if (!draft) FAIL(E_MEMORY, "a checkpoint");
    s = checkpoint_folder_path(draft->folder, "%s", folder);
    if (s == OK) s = checkpoint_folder_path(path, "%s/manifest.json", folder);
    if (s == OK) s = checkpoint_folder_read(path, &text, &n);
    if (s == OK) s = checkpoint_manifest_parse(&draft->m, text, n, path);
    for (int i = 0; s == OK && i < draft->m.n_ranks; i++) {
        s = checkpoint_folder_path(path, "%s/rank-%04d.h5", folder, i);
        if (s == OK) s = checkpoint_h5_verify(path, &draft->m.file[i]);
    }
    free(text);
    if (s != OK)
        checkpoint_close(draft);
    else
        *k = draft;
    return s;
}

enum status checkpoint_open(struct checkpoint **k, const char *path)
{
    struct checkpoint_folders l;
    struct checkpoint_damage damage = { 0 };
    enum status s = E_CORRUPT;

    if (checkpoint_folder_holds(path, "manifest.json")) return open_folder(k, path);
    if (!checkpoint_folder_holds(path, "checkpoints")) return checkpoint_absent(path);
    TRY(checkpoint_folders_list(&l, path, false));
    if (l.n == 0) {
        checkpoint_folders_destroy(&l);
        return checkpoint_absent(path);
    }
    for (int i = 0; i < l.n && s != OK && l.at[i].sequence >= 0; i++) {
        s = open_folder(k, l.at[i].path);
        if (s == OK) continue;
        if (s != E_CORRUPT) { /* it may be whole */
            checkpoint_folders_destroy(&l);
            return s;
        }
        log_warn("%s is damaged and not used", l.at[i].path);
        damage.newer++;
    }
    for (int i = 0; i < l.n && s == OK; i++)
        damage.unreadable += l.at[i].sequence < 0 && l.at[i].step > (*k)->m.counters.step;
    if (s == OK) (*k)->damage = damage;
    checkpoint_folders_destroy(&l);
    if (s != OK)
        FAIL(s, "%s holds no checkpoint that verifies: restore one from a copy, or train anew",
             path);
    return OK;
}

enum status checkpoint_read(const struct checkpoint *k, const char *array, int64_t begin,
                            int64_t end, float *out)
{
    const struct checkpoint_manifest *m = &k->m;
    int a = 0;

    while (a < m->n_arrays && strcmp(m->array_name[a], array) != 0) a++;
    if (a == m->n_arrays) FAIL(E_CORRUPT, "%s holds no array %s", k->folder, array);
    ASSERT(begin >= 0 && begin <= end && end <= m->n);
    for (int i = 0; i < m->n_ranks && begin < end; i++) {
        const struct plan_range part = plan_part(m->n, m->n_ranks, i);
        const int64_t to = end < part.end ? end : part.end;
        char path[DURABLE_PATH];

        if (begin >= part.end) continue;
        TRY(checkpoint_folder_path(path, "%s/rank-%04d.h5", k->folder, i));
        TRY(checkpoint_h5_read(
            path, m->file[i].slice[a].offset + (begin - part.begin) * (int64_t)sizeof(float),
            to - begin, out));
        out += to - begin;
        begin = to;
    }
    return OK;
}

static const struct checkpoint_tensor *find_tensor(const struct checkpoint_manifest *m,
                                                   const char *name)
{
    for (int64_t i = 0; i < m->n_tensors; i++)
        if (strcmp(m->tensor[i].name, name) == 0) return &m->tensor[i];
    return NULL;
}

static bool same_shape(const struct checkpoint_tensor *a, const struct checkpoint_tensor *b)
{
    if (a->n_dims != b->n_dims) return false;
    for (int i = 0; i < a->n_dims; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

enum status checkpoint_read_weights(const struct checkpoint *k, const struct checkpoint_state *s)
{
    for (int64_t i = 0; i < s->n_tensors; i++) {
        const struct checkpoint_tensor *mine = &s->tensor[i],
                                       *saved = find_tensor(&k->m, mine->name);

        if (!saved || !same_shape(mine, saved))
            FAIL(E_CONFIG, "%s: tensor %s is %s; is it of another model?", k->folder, mine->name,
                 saved ? "of another shape" : "missing");
        TRY(checkpoint_read(k, "param", saved->offset,
                            saved->offset + checkpoint_tensor_count(saved),
                            s->array[0] + mine->offset));
    }
    return OK;
}

/* ---- for people and scripts -------------------------------------------------------------------
 */

static int64_t total_bytes(const struct checkpoint_manifest *m)
{
    int64_t sum = 0;

    for (int i = 0; i < m->n_ranks; i++) sum += m->file[i].bytes;
    return sum;
}

static enum status describe_json(const struct checkpoint *k, FILE *f)
{
    const struct checkpoint_manifest *m = &k->m;
    json_t *counters = json_object(), *tensors = json_array(), *root;
    int bad;

#define COUNTER_PRINT(key) json_object_set_new(counters, #key, json_integer(m->counters.key));
    CHECKPOINT_COUNTERS(COUNTER_PRINT)
#undef COUNTER_PRINT
    for (int64_t i = 0; i < m->n_tensors; i++) {
        json_t *dims = json_array();

        for (int d = 0; d < m->tensor[i].n_dims; d++)
            json_array_append_new(dims, json_integer(m->tensor[i].dim[d]));
        json_array_append_new(tensors,
                              json_pack("{ss so}", "name", m->tensor[i].name, "shape", dims));
    }
    root = json_pack("{ss ss ss ss si sI sI so so ss sb si si}", "kind", "checkpoint", "path",
                     k->folder, "run", m->run, "written", m->written, "n_ranks", m->n_ranks,
                     "values", (json_int_t)m->n, "bytes", (json_int_t)total_bytes(m), "counters",
                     counters, "tensors", tensors, "config", m->config, "verified", 1,
                     "newer_damaged", k->damage.newer, "unreadable", k->damage.unreadable);
    bad = !root || json_dumpf(root, f, JSON_INDENT(1)) != 0 || fputc('\n', f) == EOF;
    json_decref(root);
    if (bad) FAIL(E_IO, "the description could not be written");
    return OK;
}

enum status checkpoint_describe(const struct checkpoint *k, FILE *f, bool json)
{
    const struct checkpoint_manifest *m = &k->m;

    if (json) return describe_json(k, f);
    fprintf(f, "checkpoint %s\n  run %s, step %" PRId64 ", written %s on %d rank%s\n", k->folder,
            m->run, m->counters.step, m->written, m->n_ranks, m->n_ranks == 1 ? "" : "s");
    fprintf(f, "  %" PRId64 " bytes in %d file%s, every hash verified\n", total_bytes(m),
            m->n_ranks, m->n_ranks == 1 ? "" : "s");
    fprintf(f, "  configuration %016" PRIx64 ", data %016" PRIx64 "\n", m->config_hash,
            m->data_hash);
#define COUNTER_LINE(key) fprintf(f, "  %-16s %" PRId64 "\n", #key, m->counters.key);
    CHECKPOINT_COUNTERS(COUNTER_LINE)
#undef COUNTER_LINE
    fprintf(f, "  %" PRId64 " tensors, %" PRId64 " values in each of %d arrays\n", m->n_tensors,
            m->n, m->n_arrays);
    for (int64_t i = 0; i < m->n_tensors; i++) {
        fprintf(f, "    %s (", m->tensor[i].name);
        for (int d = 0; d < m->tensor[i].n_dims; d++)
            fprintf(f, "%s%" PRId64, d ? "," : "", m->tensor[i].dim[d]);
        fprintf(f, ")\n");
    }
    if (ferror(f)) FAIL(E_IO, "the description could not be written");
    return OK;
}
