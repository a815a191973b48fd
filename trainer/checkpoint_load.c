#include "trainer/checkpoint.h"

#include "cluster/plan.h"
#include "kernels/base/log.h"
#include "trainer/agree.h"
#include "trainer/checkpoint_folder.h"
#include "trainer/checkpoint_h5.h"
#include "trainer/config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- does it belong here? ---------------------------------------------------------------------
 */

/* For people: the fields that differ, and what to add to the command. Both stay when a text does not parse. */
static void find_difference(const struct checkpoint_state *s, const struct checkpoint_manifest *m,
                            char text[CONFIG_TEXT], char settings[CONFIG_SETTINGS])
{
    struct config then, now;

    config_defaults(&then);
    config_defaults(&now);
    if (config_parse(&then, m->config, (int64_t)strlen(m->config), "checkpoint") != OK ||
        config_parse(&now, s->config_text, (int64_t)strlen(s->config_text), "run") != OK)
        return;
    config_difference(&then, &now, text);
    config_settings(&then, &now, settings);
}

static bool same_tensor(const struct checkpoint_tensor *a, const struct checkpoint_tensor *b)
{
    if (strcmp(a->name, b->name) != 0 || a->n_dims != b->n_dims || a->offset != b->offset)
        return false;
    for (int i = 0; i < a->n_dims; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

static enum status check_layout(const struct checkpoint_state *s,
                                const struct checkpoint_manifest *m)
{
    if (m->n != s->n || m->n_tensors != s->n_tensors || m->n_arrays != s->n_arrays)
        FAIL(E_CONFIG,
             "the checkpoint holds %d arrays of %" PRId64 " values in %" PRId64
             " tensors, this model %d of %" PRId64 " in %" PRId64,
             m->n_arrays, m->n, m->n_tensors, s->n_arrays, s->n, s->n_tensors);
    for (int a = 0; a < s->n_arrays; a++)
        if (strcmp(m->array_name[a], s->array_name[a]) != 0)
            FAIL(E_CONFIG, "the checkpoint holds %s where this run keeps %s", m->array_name[a],
                 s->array_name[a]);
    for (int64_t i = 0; i < s->n_tensors; i++)
        if (!same_tensor(&m->tensor[i], &s->tensor[i]))
            FAIL(E_CONFIG, "the checkpoint's tensor %s is not this model's %s", m->tensor[i].name,
                 s->tensor[i].name);
    return OK;
}

static enum status check_origin(const struct checkpoint_state *s,
                                const struct checkpoint_manifest *m,
                                struct checkpoint_accept accept)
{
    if (strcmp(m->run, s->run_id) != 0)
        FAIL(E_CORRUPT,
             "it belongs to run %s, and this is %s: copied from elsewhere; if run.json is what was "
             "copied, remove that, and the checkpoints say which run it is",
             m->run, s->run_id);
    if (m->config_hash != s->config_hash && !accept.config) {
        char text[CONFIG_TEXT] = "something that cannot be read";
        char settings[CONFIG_SETTINGS] = "";

        find_difference(s, m, text, settings);
        FAIL(E_CONFIG,
             "step %" PRId64 " was made with another configuration, which differs in %s: to go on "
             "with it, %s %s; or begin anew with --fresh, or set another run.folder",
             m->counters.step, text, *settings ? "add to the command" : "give",
             *settings ? settings : "the settings that it was made with");
    }
    if (m->data_hash != s->data_hash && !accept.data)
        FAIL(E_CONFIG,
             "step %" PRId64 " was trained on other data (%016" PRIx64 ", now %016" PRIx64
             "): give "
             "the same shards, begin anew with --fresh, or set another run.folder",
             m->counters.step, m->data_hash, s->data_hash);
    return OK;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

/* Files are dealt round: rank r reads r, r + n_ranks, … and gives them to all. */
static enum status verify_mine(const struct comm *c, const struct checkpoint_manifest *m,
                               const char *folder)
{
    for (int k = c->rank; k < m->n_ranks; k += c->n_ranks) {
        char path[DURABLE_PATH];

        TRY(checkpoint_folder_path(path, "%s/rank-%04d.h5", folder, k));
        TRY(checkpoint_h5_verify(path, &m->file[k]));
    }
    return OK;
}

static enum status read_slice(const struct checkpoint_manifest *m, const char *folder, int k, int a,
                              int64_t n, float *to)
{
    char path[DURABLE_PATH];

    TRY(checkpoint_folder_path(path, "%s/rank-%04d.h5", folder, k));
    return checkpoint_h5_read(path, m->file[k].slice[a].offset, n, to);
}

/* Every rank checks what arrived against the hash taken when it was saved. */
static enum status spread(struct checkpoint_state *s, struct comm *c,
                          const struct checkpoint_manifest *m, const char *folder)
{
    enum status mine = OK;

    for (int k = 0; k < m->n_ranks; k++) {
        const struct plan_range part = plan_part(m->n, m->n_ranks, k);
        const int64_t n = part.end - part.begin;
        const int reader = k % c->n_ranks;

        for (int a = 0; a < s->n_arrays; a++) {
            float *to = s->array[a] + part.begin;
            char hash[CHECKPOINT_HASH];

            /* what cannot be read must not look damaged to those who get it */
            TRY(agree_worst(c, c->rank == reader ? read_slice(m, folder, k, a, n, to) : OK));
            TRY(c->ops->broadcast(c, to, n * (int64_t)sizeof(float), reader));
            checkpoint_h5_hash(to, n * (int64_t)sizeof(float), hash);
            if (mine == OK && strcmp(hash, m->file[k].slice[a].hash) != 0)
                mine = status_fail(E_CORRUPT, __FILE__, __LINE__,
                                   "%s of %s/rank-%04d.h5 does not match its hash",
                                   s->array_name[a], folder, k);
        }
    }
    return mine;
}

static enum status load_one(struct checkpoint_state *s, struct comm *c,
                            const struct checkpoint_manifest *m, const char *folder,
                            struct checkpoint_accept accept)
{
    /* the same on every rank; said once */
    enum status mine = c->rank == 0 ? check_origin(s, m, accept) : OK;

    if (mine == OK && c->rank == 0) mine = check_layout(s, m);
    TRY(agree_worst(c, mine));
    TRY(agree_worst(c, verify_mine(c, m, folder)));
    TRY(agree_worst(c, spread(s, c, m, folder)));
    s->counters = m->counters;
    return OK;
}

/* What rank 0 tells all about the candidate: folder and manifest. */
static enum status share(struct comm *c, const struct checkpoint_folder *f,
                         char folder[DURABLE_PATH], struct checkpoint_manifest *m)
{
    int64_t bytes = c->rank == 0 ? f->bytes : 0;
    enum status s = OK;
    char *text;

    if (c->rank == 0) snprintf(folder, DURABLE_PATH, "%s", f->path);
    TRY(c->ops->broadcast(c, folder, DURABLE_PATH, 0));
    TRY(c->ops->broadcast(c, &bytes, sizeof bytes, 0));
    text = malloc((size_t)bytes + 1);
    if (!text)
        s = status_fail(E_MEMORY, __FILE__, __LINE__, "a manifest of %" PRId64 " bytes", bytes);
    s = agree_worst(c, s);
    if (s == OK) {
        if (c->rank == 0) memcpy(text, f->text, (size_t)bytes);
        s = c->ops->broadcast(c, text, bytes, 0);
    }
    if (s == OK) s = agree_worst(c, checkpoint_manifest_parse(m, text, bytes, folder));
    free(text);
    return s;
}

static enum status try_one(struct checkpoint_state *s, struct comm *c,
                           const struct checkpoint_folder *f, struct checkpoint_accept accept)
{
    struct checkpoint_manifest m = { 0 };
    char folder[DURABLE_PATH] = "";
    enum status status = share(c, f, folder, &m);

    if (status == OK) status = load_one(s, c, &m, folder, accept);
    checkpoint_manifest_destroy(&m);
    return status;
}

/* newest: the greatest step of those that were tried before the one at `step` loaded. Of a folder whose manifest does not parse
 * nobody knows when it was committed. */
static void warn_of_lost(const struct checkpoint_folders *l, int64_t newest, int64_t step)
{
    int64_t unknown = 0;

    for (int i = 0; i < l->n; i++)
        if (l->at[i].sequence < 0 && l->at[i].step > unknown) unknown = l->at[i].step;
    if (newest > step)
        log_warn("steps %" PRId64 " to %" PRId64 " are lost, and made again: nothing newer than "
                 "step %" PRId64 " verifies; if there is a copy, stop this run and restore it now",
                 step + 1, newest, step);
    else if (unknown > step)
        log_warn("steps %" PRId64 " to %" PRId64 " may be lost, and are made again: the manifest "
                 "of step %" PRId64 " is damaged; if there is a copy, stop this run and restore it "
                 "now",
                 step + 1, unknown, unknown);
}

/* Newest first until one loads. Only damage leads on to an older one; another configuration, or a file that cannot be read for
 * now, must be the user's decision. */
static enum status try_all(struct checkpoint_state *s, struct comm *c,
                           const struct checkpoint_folders *l, int n,
                           struct checkpoint_accept accept, bool *found)
{
    int64_t newest = 0;

    for (int i = 0; i < n; i++) {
        const struct checkpoint_folder *f = c->rank == 0 ? &l->at[i] : NULL;
        const enum status status = try_one(s, c, f, accept);

        if (f && f->step > newest) newest = f->step;
        if (status == OK) {
            *found = true;
            if (c->rank == 0) log_debug("resuming at step %" PRId64 " from %s", f->step, f->path);
            if (f) warn_of_lost(l, newest, f->step);
            return OK;
        }
        if (status != E_CORRUPT) return status;
        if (f) log_warn("%s is damaged and not used; trying the one before", f->path);
    }
    return OK;
}

/* Candidates whose manifest parses come first; the others only count. */
static int n_readable(const struct checkpoint_folders *l)
{
    int n = 0;

    while (n < l->n && l->at[n].sequence >= 0) n++;
    return n;
}

enum status checkpoint_load(struct checkpoint_state *s, struct comm *c, const char *run_folder,
                            struct checkpoint_accept accept, bool *found)
{
    struct checkpoint_folders l = { 0 };
    int64_t count[2] = { 0, 0 }; /* folders, and those worth trying */
    enum status status = OK;

    *found = false;
    if (c->rank == 0) {
        checkpoint_folder_sweep(run_folder);
        status = checkpoint_folders_list(&l, run_folder, false);
        count[0] = l.n;
        count[1] = n_readable(&l);
    }
    status = agree_worst(c, status);
    if (status == OK) status = c->ops->broadcast(c, count, sizeof count, 0);
    if (status == OK) status = try_all(s, c, &l, (int)count[1], accept, found);
    checkpoint_folders_destroy(&l);
    if (status != OK) return status;
    if (!*found && count[0] > 0) {
        if (c->rank == 0)
            log_error("%s: none of %" PRId64 " checkpoints verifies; restore one from a copy, or "
                      "begin anew with --fresh",
                      run_folder, count[0]);
        return E_CORRUPT;
    }
    return OK;
}
