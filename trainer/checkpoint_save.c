#include "trainer/checkpoint.h"

#include "cluster/plan.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/agree.h"
#include "trainer/checkpoint_folder.h"
#include "trainer/checkpoint_h5.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum {
    OVERHEAD = 1 << 20,
    WARN_SAVES = 3
}; /* bytes of a file beside its data; saves that should still fit */

/* The tensor that holds element i. */
static const char *tensor_at(const struct checkpoint_state *s, int64_t i)
{
    for (int64_t t = 0; t < s->n_tensors; t++)
        if (i >= s->tensor[t].offset &&
            i < s->tensor[t].offset + checkpoint_tensor_count(&s->tensor[t]))
            return s->tensor[t].name;
    return "padding";
}

static enum status check_finite(const struct checkpoint_state *s, struct plan_range part)
{
    for (int a = 0; a < s->n_arrays; a++)
        for (int64_t i = part.begin; i < part.end; i++)
            if (!isfinite(s->array[a][i]))
                FAIL(E_DIVERGED,
                     "%s of %s is %g at step %" PRId64 ": not saved; the last checkpoint stays",
                     s->array_name[a], tensor_at(s, i), (double)s->array[a][i], s->counters.step);
    return OK;
}

enum status checkpoint_check_space(const struct checkpoint_state *s, const char *run_folder,
                                   int n_ranks)
{
    const double need =
        (double)s->n_arrays * (double)s->n * sizeof(float) + ((double)n_ranks + 1) * OVERHEAD;
    struct statvfs fs;
    double room;

    if (statvfs(run_folder, &fs) != 0) FAIL(E_IO, "%s: %s", run_folder, strerror(errno));
    room = (double)fs.f_bavail * (double)fs.f_frsize;
    if (room < need)
        FAIL(E_IO,
             "%s: a checkpoint needs %.1f MB and the disk has %.1f; free some space, set "
             "another run.folder, or lower checkpoint.keep",
             run_folder, need / 1e6, room / 1e6);
    if (room < WARN_SAVES * need)
        log_warn("%s: %.1f MB left on the disk, room for %.0f more checkpoints of %.1f MB",
                 run_folder, room / 1e6, floor(room / need), need / 1e6);
    return OK;
}

static enum status prepare(const struct checkpoint_state *s, struct comm *c, const char *run_folder)
{
    enum status mine = check_finite(s, plan_part(s->n, c->n_ranks, c->rank));

    if (mine == OK && c->rank == 0) {
        mine = checkpoint_check_space(s, run_folder, c->n_ranks);
        if (mine == OK) mine = checkpoint_folder_begin(run_folder, s->counters.step);
    }
    return agree_worst(c, mine);
}

static enum status write_mine(const struct checkpoint_state *s, struct comm *c,
                              const char *run_folder, struct checkpoint_file *f)
{
    char path[DURABLE_PATH];

    TRY(checkpoint_folder_path(path, "%s/checkpoints/.tmp-step-%08" PRId64 "/rank-%04d.h5",
                               run_folder, s->counters.step, c->rank));
    return checkpoint_h5_write(path, s, plan_part(s->n, c->n_ranks, c->rank), f);
}

/* One more than the newest's; behind this process's own last one too, where not all could be read. */
static enum status next_sequence(const char *run_folder, int64_t *sequence)
{
    static int64_t last = -1;
    struct checkpoint_folders l;
    bool unread = false;

    TRY(checkpoint_folders_list(&l, run_folder, true));
    *sequence = l.n && l.at[0].sequence >= 0 ? l.at[0].sequence + 1 : 0;
    for (int i = 0; i < l.n; i++) unread = unread || l.at[i].unread;
    if (unread && *sequence <= last) *sequence = last + 1;
    last = *sequence;
    checkpoint_folders_destroy(&l);
    return OK;
}

/* file: of all ranks. */
static enum status write_manifest(const struct checkpoint_state *s, struct comm *c,
                                  const char *run_folder, struct checkpoint_file *file)
{
    struct checkpoint_manifest m = { .n = s->n,
                                     .n_ranks = c->n_ranks,
                                     .n_arrays = s->n_arrays,
                                     .config_hash = s->config_hash,
                                     .data_hash = s->data_hash,
                                     .counters = s->counters,
                                     .file = file,
                                     .n_tensors = s->n_tensors };
    char path[DURABLE_PATH], *text = NULL;
    int64_t n = 0;
    enum status status;

    clock_text(clock_wall_ns(), m.written);
    snprintf(m.run, sizeof m.run, "%s", s->run_id);
    for (int a = 0; a < s->n_arrays; a++)
        snprintf(m.array_name[a], CHECKPOINT_NAME, "%s", s->array_name[a]);
    TRY(next_sequence(run_folder, &m.sequence));
    TRY(checkpoint_folder_path(path, "%s/checkpoints/.tmp-step-%08" PRId64 "/manifest.json",
                               run_folder, s->counters.step));
    /* borrowed for printing: nothing is destroyed through m */
    m.tensor = (struct checkpoint_tensor *)(uintptr_t)s->tensor;
    m.config = (char *)(uintptr_t)s->config_text;
    TRY(checkpoint_manifest_print(&m, &text, &n));
    status = durable_write(path, text, n);
    free(text);
    return status;
}

static enum status commit(const struct checkpoint_state *s, struct comm *c, const char *run_folder,
                          struct checkpoint_file *file)
{
    TRY(write_manifest(s, c, run_folder, file));
    return checkpoint_folder_commit(run_folder, s->counters.step);
}

/* Under its final name: each rank its file, rank 0 the manifest too. */
static enum status verify(const struct checkpoint_state *s, struct comm *c, const char *run_folder,
                          const struct checkpoint_file *mine)
{
    struct checkpoint_manifest m;
    char folder[DURABLE_PATH], path[DURABLE_PATH], *text = NULL;
    enum status status;
    int64_t n = 0;

    TRY(checkpoint_folder_path(folder, "%s/checkpoints/step-%08" PRId64, run_folder,
                               s->counters.step));
    TRY(checkpoint_folder_path(path, "%.1150s/rank-%04d.h5", folder, c->rank));
    TRY(checkpoint_h5_verify(path, mine));
    if (c->rank != 0) return OK;
    TRY(checkpoint_folder_path(path, "%.1150s/manifest.json", folder));
    TRY(checkpoint_folder_read(path, &text, &n));
    status = checkpoint_manifest_parse(&m, text, n, path);
    free(text);
    if (status == OK) checkpoint_manifest_destroy(&m);
    return status;
}

static enum status save_with(const struct checkpoint_state *s, struct comm *c,
                             const char *run_folder, struct checkpoint_keep keep,
                             struct checkpoint_file *file)
{
    struct checkpoint_file mine = { 0 };

    TRY(prepare(s, c, run_folder));
    TRY(agree_worst(c, write_mine(s, c, run_folder, &mine)));
    TRY(c->ops->all_gather(c, file, &mine, sizeof mine));
    TRY(agree_worst(c, c->rank == 0 ? commit(s, c, run_folder, file) : OK));
    TRY(agree_worst(c, verify(s, c, run_folder, &mine)));
    TRY(agree_worst(c, c->rank == 0 ? checkpoint_folder_set_latest(run_folder, s->counters.step)
                                    : OK));
    if (c->rank == 0) checkpoint_folder_retire(run_folder, keep);
    return OK;
}

enum status checkpoint_save(const struct checkpoint_state *s, struct comm *c,
                            const char *run_folder, struct checkpoint_keep keep)
{
    struct checkpoint_file *file = calloc((size_t)c->n_ranks, sizeof *file);
    enum status status = OK;

    ASSERT(s->n_arrays >= 1 && s->n_arrays <= CHECKPOINT_ARRAYS && keep.newest >= 1);
    if (!file)
        status = status_fail(E_MEMORY, __FILE__, __LINE__, "a table of %d files", c->n_ranks);
    status = agree_worst(c, status);
    if (status == OK) status = save_with(s, c, run_folder, keep, file);
    if (status != OK && c->rank == 0)
        log_warn("step %" PRId64 " was not saved; older checkpoints are as they were",
                 s->counters.step);
    free(file);
    return status;
}
