#include "data_pipeline/pack.h"

#include "data_pipeline/grow.h"
#include "data_pipeline/pack_part.h"
#include "data_pipeline/pack_plan.h"
#include "data_pipeline/pack_state.h"
#include "kernels/base/log.h"

#include <string.h>
#include <unistd.h>

enum { THREADS_MAX = 256 };

struct pack {
    const struct pack_options *options;
    struct pack_plan plan;
    struct pack_state state;
    struct pack_shared shared;
    struct pack_done *done; /* (n_parts) owned */
    bool *is_done;          /* (n_parts) owned */
    atomic_long next;       /* part */
    bool sealed;            /* manifest.json may be there and true */
    enum status failure;    /* the first; under shared.lock */
};

struct pack_options pack_options_default(void)
{
    const long n_cores = sysconf(_SC_NPROCESSORS_ONLN);

    return (struct pack_options){ .max_area = 0.9,
                                  .shard_bytes = (int64_t)2 << 30,
                                  .pending_bytes = (int64_t)256 << 20,
                                  .n_threads = n_cores < 1    ? 1
                                               : n_cores > 16 ? 16
                                                              : (int)n_cores };
}

/* ---- what an earlier run has done ------------------------------------------------------------ */

static bool same_source(const struct pack_done *d, const struct pack_part *part)
{
    char name[PACK_NAME];

    pack_plan_name(name, part->source->path);
    return strcmp(name, d->source) == 0;
}

/* COCO's key does not know the image files: what was missing may be there now. */
static bool worth_another_try(const struct pack_part *part, const struct pack_done *d)
{
    return part->form == PACK_COCO && d->tally.n_bad_items > 0;
}

static enum status load_done(struct pack *p)
{
    int64_t n_before;

    TRY(pack_state_parts(&p->state, &n_before));
    if (n_before > p->plan.n_parts)
        FAIL(E_USAGE,
             "pack: %s was packed from more sources than these; give them all, or a new folder",
             p->options->out);
    TRY(pack_state_sweep(&p->state, p->plan.n_parts));
    for (int64_t i = 0; i < p->plan.n_parts; i++) {
        const struct pack_part *const part = &p->plan.parts[i];
        struct pack_done d = { 0 };
        bool found;

        TRY(pack_state_load(&p->state, i, &d, &found));
        if (found && !same_source(&d, part)) {
            pack_done_destroy(&d);
            FAIL(E_USAGE,
                 "pack: %s was packed from other sources (number %lld is %s now); give the same "
                 "ones in the same order, or a new folder",
                 p->options->out, (long long)i + 1, part->source->path);
        }
        if (found && d.key == part->key && !worth_another_try(part, &d)) {
            p->done[i] = d;
            p->is_done[i] = true;
        } else {
            pack_done_destroy(&d);
        }
    }
    return OK;
}

static void add_done(struct pack *p, int64_t i, bool kept)
{
    struct pack_progress *const g = &p->shared.progress;

    g->n_parts_done++;
    if (!kept) return;
    g->n_parts_kept++;
    g->bytes_in += p->plan.parts[i].bytes;
    pack_tally_add(&g->tally, &p->done[i].tally, 1);
}

/* ---- the threads ----------------------------------------------------------------------------- */

/* Takes away what is there of part i and does it. */
static enum status redo(struct pack *p, struct pack_worker *w, int64_t i,
                        const struct id_map *earlier)
{
    TRY(pack_state_forget(&p->state, i));
    return pack_part_run(w, &p->plan.parts[i], i, earlier, &p->done[i]);
}

static void *work(void *argument)
{
    struct pack *const p = argument;
    struct pack_worker *const w = calloc(1, sizeof *w);
    enum status s = OK;

    if (w)
        w->shared = &p->shared;
    else
        s = status_fail(E_MEMORY, __FILE__, __LINE__, "pack: no memory for a worker");
    while (s == OK && !atomic_load(&p->shared.stop)) {
        const int64_t i = atomic_fetch_add(&p->next, 1);

        if (i >= p->plan.n_parts) break;
        if (p->is_done[i]) continue;
        s = redo(p, w, i, NULL);
        pthread_mutex_lock(&p->shared.lock);
        if (s == OK) {
            p->is_done[i] = true;
            add_done(p, i, false);
        }
        pthread_mutex_unlock(&p->shared.lock);
    }
    if (s != OK) {
        pthread_mutex_lock(&p->shared.lock);
        if (p->failure == OK && s != E_STOPPED) p->failure = s;
        atomic_store(&p->shared.stop, true);
        pthread_mutex_unlock(&p->shared.lock);
    }
    pack_worker_destroy(w);
    free(w);
    return NULL;
}

static enum status run_threads(struct pack *p)
{
    const int wanted = p->options->n_threads < THREADS_MAX ? p->options->n_threads : THREADS_MAX;
    pthread_t threads[THREADS_MAX];
    int n = 0;

    while (n < wanted && n < p->plan.n_parts && pthread_create(&threads[n], NULL, work, p) == 0)
        n++;
    if (n == 0 && p->plan.n_parts > 0) work(p);
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    if (p->failure != OK) return p->failure;
    return p->shared.stop_wanted ? E_STOPPED : OK;
}

/* ---- image ids across parts ------------------------------------------------------------------ */

/* True when part i must be done again: it has an id that an earlier part has, or left one out that
 * no earlier part has any more. */
static bool ids_clash(const struct pack_done *d, const struct id_map *earlier)
{
    for (int64_t k = 0; k < d->n_ids; k++)
        if (id_map_find(earlier, d->ids[k]) >= 0) return true;
    for (int64_t k = 0; k < d->n_excluded; k++)
        if (id_map_find(earlier, d->excluded[k]) < 0) return true;
    return false;
}

static enum status unseal(struct pack *p)
{
    if (!p->sealed) return OK;
    p->sealed = false;
    return pack_state_unseal(&p->state);
}

/* In order, so that of two images with one id the earlier source's stays, whatever the threads. */
static enum status settle_ids(struct pack *p, struct pack_worker *w, struct id_map *earlier)
{
    for (int64_t i = 0; i < p->plan.n_parts; i++) {
        if (ids_clash(&p->done[i], earlier)) {
            TRY(unseal(p));
            pack_tally_add(&p->shared.progress.tally, &p->done[i].tally, -1);
            pack_done_destroy(&p->done[i]);
            p->shared.progress.bytes_in -= p->plan.parts[i].bytes;
            TRY(redo(p, w, i, earlier));
        }
        for (int64_t k = 0; k < p->done[i].n_ids; k++) {
            int32_t ignored;

            TRY(id_map_add(earlier, p->done[i].ids[k], (int32_t)i, &ignored));
        }
    }
    return OK;
}

static enum status settle(struct pack *p)
{
    struct pack_worker *const w = calloc(1, sizeof *w);
    struct id_map earlier = { 0 };
    enum status s;

    if (!w) FAIL(E_MEMORY, "pack: no memory for a worker");
    w->shared = &p->shared;
    s = settle_ids(p, w, &earlier);
    id_map_destroy(&earlier);
    pack_worker_destroy(w);
    free(w);
    return s;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static enum status write_manifest(struct pack *p)
{
    struct shard_summary *shards = NULL;
    int64_t n = 0, room = 0;
    enum status s;

    for (int64_t i = 0; i < p->plan.n_parts; i++) n += p->done[i].n_shards;
    p->shared.progress.n_shards = n;
    if (n == 0)
        FAIL(E_CORRUPT, "pack: nothing usable in the sources; %s/quarantine.jsonl says why",
             p->options->out);
    GROW(shards, room, n);
    n = 0;
    for (int64_t i = 0; i < p->plan.n_parts; i++)
        for (int64_t k = 0; k < p->done[i].n_shards; k++) shards[n++] = p->done[i].shards[k];
    s = shard_manifest_write(p->options->out, shards, n, p->options->resize);
    free(shards);
    return s;
}

static enum status run(struct pack *p)
{
    struct pack_progress *const g = &p->shared.progress;
    enum status s;

    TRY(load_done(p));
    g->n_parts = p->plan.n_parts;
    p->sealed = true;
    for (int64_t i = 0; i < p->plan.n_parts; i++) {
        g->bytes_all += p->plan.parts[i].bytes;
        if (p->is_done[i])
            add_done(p, i, true);
        else
            TRY(unseal(p));
    }
    s = run_threads(p);
    if (s == OK) s = settle(p);
    if (s == E_STOPPED)
        log_info("pack: stopped as asked after %lld of %lld parts; the same command goes on from "
                 "there",
                 (long long)g->n_parts_done, (long long)g->n_parts);
    TRY(s);
    TRY(pack_state_gather(&p->state, p->plan.n_parts));
    return write_manifest(p);
}

static enum status open_and_run(struct pack *p)
{
    enum status s;

    TRY(pack_state_open(&p->state, p->options->out));
    p->done = calloc((size_t)p->plan.n_parts + 1, sizeof *p->done);
    p->is_done = calloc((size_t)p->plan.n_parts + 1, sizeof *p->is_done);
    if (!p->done || !p->is_done)
        s = status_fail(E_MEMORY, __FILE__, __LINE__, "pack: no memory for %lld parts",
                        (long long)p->plan.n_parts);
    else
        s = run(p);
    for (int64_t i = 0; p->done && i < p->plan.n_parts; i++) pack_done_destroy(&p->done[i]);
    free(p->done);
    free(p->is_done);
    pack_state_close(&p->state);
    return s;
}

enum status pack_run(const struct pack_options *o, struct pack_progress *progress)
{
    struct pack p = { .options = o, .state.lock = -1 };
    enum status s;

    memset(progress, 0, sizeof *progress);
    TRY(pack_plan_create(&p.plan, o));
    p.shared.options = o;
    p.shared.state = &p.state;
    if (pthread_mutex_init(&p.shared.lock, NULL) != 0) {
        pack_plan_destroy(&p.plan);
        FAIL(E_MEMORY, "pack: cannot make a lock");
    }
    s = open_and_run(&p);
    *progress = p.shared.progress;
    pthread_mutex_destroy(&p.shared.lock);
    pack_plan_destroy(&p.plan);
    return s;
}
