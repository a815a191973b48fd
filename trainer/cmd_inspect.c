#include "trainer/command.h"

#include "trainer/checkpoint.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/inspect_shards.h"
#include "trainer/options.h"
#include "trainer/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

enum { PATH_ROOM = 4096, HEAD = 512 };

enum kind { KIND_SHARDS, KIND_CHECKPOINT, KIND_WEIGHTS };

/* The first bytes of a file as text; empty when it cannot be read. */
static void read_head(const char *path, char head[HEAD])
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = 0;

    if (fd >= 0) {
        n = read(fd, head, HEAD - 1);
        close(fd);
    }
    head[n > 0 ? n : 0] = 0;
}

static bool is_shard_folder(const char *folder)
{
    char path[PATH_ROOM], head[HEAD];

    if (snprintf(path, sizeof path, "%s/manifest.json", folder) >= PATH_ROOM) return false;
    read_head(path, head);
    return strstr(head, "\"samforge-shards\"") != NULL;
}

/* One that pack has begun: the shards' own message says that its manifest is missing. */
static bool is_half_packed(const char *folder)
{
    char path[PATH_ROOM];

    return snprintf(path, sizeof path, "%s/.pack", folder) < PATH_ROOM && access(path, F_OK) == 0;
}

static bool is_shard_file(const char *path)
{
    char folder[PATH_ROOM], *slash;

    if (snprintf(folder, sizeof folder, "%s", path) >= PATH_ROOM) return false;
    slash = strrchr(folder, '/');
    if (!slash) return is_shard_folder(".");
    slash[slash == folder] = 0;
    return is_shard_folder(folder);
}

static enum status find_kind(const char *path, enum kind *kind)
{
    char head[HEAD];
    struct stat st;

    if (stat(path, &st) != 0)
        FAIL(errno == ENOENT || errno == ENOTDIR ? E_MISSING : E_IO,
             "inspect: %s: %s; name a folder of shards, a run's folder, a checkpoint or weights",
             path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        *kind = is_shard_folder(path) || is_half_packed(path) ? KIND_SHARDS : KIND_CHECKPOINT;
        return OK;
    }
    read_head(path, head);
    if (head[0] == '{')
        FAIL(E_USAGE, "inspect: %s is JSON; inspect the folder that it lies in", path);
    if (strncmp(head, "\211HDF", 4) == 0) {
        if (!is_shard_file(path))
            FAIL(E_USAGE,
                 "inspect: %s is HDF5, but no manifest.json of shards lies beside it; inspect the "
                 "folder of the checkpoint that it belongs to",
                 path);
        *kind = KIND_SHARDS;
        return OK;
    }
    if (is_shard_file(path) && strlen(path) > 3 && strcmp(path + strlen(path) - 3, ".h5") == 0)
        *kind = KIND_SHARDS; /* one with a damaged head: its hash will say so */
    else
        *kind = KIND_WEIGHTS;
    return OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

static enum status count_strange(const struct safetensors_entry *e, int64_t *n)
{
    float *values;
    enum status s;

    *n = 0;
    if (e->dtype == SAFETENSORS_I64 || e->dtype == SAFETENSORS_I32 || e->dtype == SAFETENSORS_U8)
        return OK;
    values = malloc((size_t)e->count * sizeof *values + 1);
    if (!values)
        FAIL(E_MEMORY, "inspect: no memory for %" PRId64 " values of %s", e->count, e->name);
    s = safetensors_to_f32(e, values);
    for (int64_t i = 0; s == OK && i < e->count; i++) *n += !isfinite(values[i]);
    free(values);
    return s;
}

static json_t *tensor_json(const struct safetensors_entry *e)
{
    json_t *dims = json_array();

    for (int d = 0; d < e->n_dims; d++) json_array_append_new(dims, json_integer(e->dim[d]));
    return json_pack("{s:s,s:s,s:o,s:I}", "name", e->name, "dtype",
                     safetensors_dtype_name(e->dtype), "shape", dims, "bytes",
                     (json_int_t)e->bytes);
}

static void print_tensor(const struct safetensors_entry *e)
{
    printf("    %-72s %-5s (", e->name, safetensors_dtype_name(e->dtype));
    for (int d = 0; d < e->n_dims; d++) printf("%s%" PRId64, d ? "," : "", e->dim[d]);
    printf(")\n");
}

static enum status print_weights_json(const char *path, const struct safetensors *st,
                                      int64_t n_values, int64_t n_bytes)
{
    json_t *list = json_array(), *o;
    int rc;

    for (int64_t i = 0; i < safetensors_count(st); i++)
        json_array_append_new(list, tensor_json(safetensors_at(st, i)));
    o = json_pack("{s:s,s:s,s:I,s:I,s:o}", "kind", "safetensors", "path", path, "values",
                  (json_int_t)n_values, "bytes", (json_int_t)n_bytes, "tensors", list);
    rc = o ? json_dumpf(o, stdout, JSON_INDENT(2)) : -1;
    json_decref(o);
    if (rc != 0 || putchar('\n') == EOF) FAIL(E_IO, "inspect: cannot write the summary");
    return OK;
}

static enum status show_weights(const char *path, const struct safetensors *st, bool verify,
                                bool json)
{
    int64_t n_values = 0, n_bytes = 0;

    for (int64_t i = 0; i < safetensors_count(st); i++) {
        const struct safetensors_entry *e = safetensors_at(st, i);
        int64_t n_strange = 0;

        n_values += e->count;
        n_bytes += e->bytes;
        if (verify) TRY(count_strange(e, &n_strange));
        if (n_strange > 0)
            FAIL(E_CORRUPT,
                 "inspect: %s: %" PRId64 " of the %" PRId64 " values of %s are not finite", path,
                 n_strange, e->count, e->name);
    }
    if (json) return print_weights_json(path, st, n_values, n_bytes);
    printf("weights %s\n  %" PRId64 " tensors, %" PRId64 " values, %" PRId64 " bytes\n", path,
           safetensors_count(st), n_values, n_bytes);
    printf("  structure is whole%s; the form has no checksum\n",
           verify ? ", every value is finite" : "");
    for (int64_t i = 0; i < safetensors_count(st); i++) print_tensor(safetensors_at(st, i));
    return OK;
}

static enum status inspect_weights(const char *path, bool verify, bool json)
{
    struct safetensors *st;
    enum status s;

    TRY(safetensors_open(&st, path));
    s = show_weights(path, st, verify, json);
    safetensors_close(st);
    return s;
}

static enum status inspect_checkpoint(const char *path, bool json)
{
    struct checkpoint_damage damage;
    struct checkpoint *k;
    int64_t step;
    enum status s;

    TRY(checkpoint_open(&k, path));
    damage = checkpoint_damage(k);
    step = checkpoint_manifest(k)->counters.step;
    s = checkpoint_describe(k, stdout, json);
    checkpoint_close(k);
    TRY(s);
    if (damage.newer > 0)
        FAIL(
            E_CORRUPT,
            "inspect: %s: %d newer checkpoint%s damaged, and what is shown is the last one before, "
            "of step %" PRId64 ", from which the run would go on: restore what is damaged from a "
            "copy, or remove it",
            path, damage.newer, damage.newer == 1 ? " is" : "s are", step);
    if (damage.unreadable > 0)
        FAIL(E_CORRUPT,
             "inspect: %s: %d damaged without a manifest that says when it was saved, of a later "
             "step than %" PRId64 ", which is shown and from which the run would go on: restore "
             "what is damaged from a copy, or remove it",
             path, damage.unreadable, step);
    return OK;
}

enum status cmd_inspect(int argc, char **argv)
{
    struct inspect_shards_options o = { .n_sample = 1000, .draw = -1 };
    const struct option_row rows[] = {
        { "verify", 0, OPTION_FLAG, &o.verify, 0, 0, NULL,
          "read and check every byte of shards; a checkpoint always is" },
        { "sample", 0, OPTION_INT, &o.n_sample, 0, 1e12, "N",
          "look into N records of shards, evenly spaced; 0: all" },
        { "draw", 0, OPTION_INT, &o.draw, -1, 1e12, "N",
          "draw record N with its masks into PNG; -1: none" },
        { "json", 0, OPTION_FLAG, &o.json, 0, 0, NULL, "print one JSON object" },
        { .kind = OPTION_END },
    };
    const struct option_spec spec = {
        .command = "inspect",
        .arguments = "PATH [PNG]",
        .summary = "Shows what is in shards, a checkpoint or a weights file, and verifies it.",
        .examples = "samforge inspect shards --verify\n"
                    "samforge inspect shards/shard-00000-000.h5 --draw 3 overlay.png\n"
                    "samforge inspect runs/demo\n"
                    "samforge inspect sam_vit_b.safetensors --json\n",
        .notes =
            "PATH is a folder of shards or one of them, a run's folder or one of its\n"
            "checkpoints, or a safetensors file. The exit code is 4 when it is damaged; of a run\n"
            "the newest checkpoint that verifies is shown all the same.\n",
        .rows = rows,
        .min_arguments = 1,
        .max_arguments = 2,
    };
    char **arguments;
    int n_arguments;
    bool done = false;
    enum kind kind = KIND_SHARDS;

    TRY(options_parse(&spec, argc, argv, &arguments, &n_arguments, &done));
    if (done) return OK;
    if ((o.draw >= 0) != (n_arguments == 2))
        FAIL(E_USAGE, "inspect: --draw N and the PNG to draw into belong together");
    o.png = o.draw >= 0 ? arguments[1] : NULL;
    TRY(find_kind(arguments[0], &kind));
    if (o.draw >= 0 && kind != KIND_SHARDS)
        FAIL(E_USAGE, "inspect: %s holds no records to draw", arguments[0]);
    switch (kind) {
    case KIND_SHARDS:
        return inspect_shards(arguments[0], &o);
    case KIND_CHECKPOINT:
        return inspect_checkpoint(arguments[0], o.json);
    case KIND_WEIGHTS:
        return inspect_weights(arguments[0], o.verify, o.json);
    }
    return OK;
}
