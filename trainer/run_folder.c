#include "trainer/run_folder.h"

#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/agree.h"
#include "trainer/checkpoint_absent.h"
#include "trainer/checkpoint_folder.h"
#include "trainer/durable_file.h"
#include "trainer/run_record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const int64_t STATUS_EVERY_NS = 1000000000;
static const double SMOOTH = 0.95; /* weight of the past in the step time behind the forecast */

struct run_folder {
    char path[DURABLE_PATH], id[CHECKPOINT_RUN_ID];
    const struct config *config; /* not owned */
    int lock_fd, log_fd, n_ranks;
    enum run_state state; /* as last written */
    int64_t written_ns;
    struct metrics_row row;
    double step_seconds; /* smoothed */
};

const char *run_folder_path(const struct run_folder *f)
{
    return f->path;
}

const char *run_folder_id(const struct run_folder *f)
{
    return f->id;
}

/* ---- rank 0 enters ----------------------------------------------------------------------------
 */

static enum status make_folders(const char *path)
{
    char part[DURABLE_PATH];
    struct stat info;

    for (size_t n = 1; n <= strlen(path); n++) {
        if (path[n] != '/' && path[n] != 0) continue;
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        if (mkdir(part, 0777) == 0) continue;
        if (errno != EEXIST)
            FAIL(E_IO, "making folder %s: %s%s", part, strerror(errno), durable_cure(errno));
        if (stat(part, &info) == 0 && !S_ISDIR(info.st_mode))
            FAIL(E_CONFIG, "run.folder %s: %s is a file: name a folder, or one that is to be made",
                 path, part);
    }
    return OK;
}

/* The lease is the kernel's: it ends with the process, however that ends. */
static enum status take_lease(struct run_folder *f)
{
    char path[DURABLE_PATH], holder[128] = "", host[64] = "";
    int n;

    TRY(checkpoint_folder_path(path, "%s/lock", f->path));
    f->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f->lock_fd < 0) FAIL(E_IO, "%s: %s%s", path, strerror(errno), durable_cure(errno));
    if (flock(f->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            const ssize_t got = read(f->lock_fd, holder, sizeof holder - 1);

            (void)got;
            holder[strcspn(holder, "\n")] = 0;
            FAIL(E_USAGE,
                 "%s is in use by another job (%s); wait for it, or set another run.folder",
                 f->path, holder);
        }
        log_warn("%s: this file system has no locks (%s); nothing keeps a second job out", path,
                 strerror(errno));
    }
    gethostname(host, sizeof host - 1);
    n = snprintf(holder, sizeof holder, "%s, process %ld\n", host, (long)getpid());
    if (ftruncate(f->lock_fd, 0) != 0 || pwrite(f->lock_fd, holder, (size_t)n, 0) != n)
        FAIL(E_IO, "writing %s: %s%s", path, strerror(errno), durable_cure(errno));
    return OK;
}

static enum status move(const char *from_folder, const char *to_folder, const char *name)
{
    char from[DURABLE_PATH], to[DURABLE_PATH];

    TRY(checkpoint_folder_path(from, "%.900s/%s", from_folder, name));
    TRY(checkpoint_folder_path(to, "%.900s/%s", to_folder, name));
    if (rename(from, to) != 0)
        FAIL(E_IO, "moving %s to %s: %s%s", from, to, strerror(errno), durable_cure(errno));
    return OK;
}

/* Whether there is anything of a run that a new one must not mix with. */
static bool holds_a_run(const struct run_folder *f)
{
    static const char *const names[] = { "run.json", "checkpoints", "metrics.jsonl", "ledger.txt",
                                         "status.json" };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (checkpoint_folder_holds(f->path, names[i])) return true;
    return false;
}

/* What a run makes in its folder; of what others put there --fresh moves nothing. */
static bool is_of_a_run(const char *name)
{
    static const char *const names[] = { "checkpoints", "cmd.txt",      "config.resolved.yaml",
                                         "config.yaml", "env.json",     "git.txt",
                                         "ledger.txt",  "logs",         "run.json",
                                         "status.json", "metrics.jsonl" };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

/* Whether that is the file at path, such as the configuration that the command has named. */
static bool is_file(const struct run_folder *f, const char *name, const char *path)
{
    char own[DURABLE_PATH];
    struct stat a, b;

    return path && checkpoint_folder_path(own, "%s/%s", f->path, name) == OK &&
           stat(own, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* All that a run makes, but the lock and the configuration it was started with, moves to old-ID/: --fresh forgets a
 * run, it does not destroy it. run.json goes last: as long as it is there, another --fresh finishes a move that was
 * killed. Where it does not tell the id, the time does. */
static enum status set_aside(struct run_folder *f, const char *config)
{
    char aside[DURABLE_PATH];
    uint64_t hash;
    const struct dirent *entry;
    enum status s = OK;
    DIR *d;

    if (!run_record_read(f->path, f->id, &hash)) run_record_new_id(f->id);
    TRY(checkpoint_folder_path(aside, "%.1000s/old-%s", f->path, f->id));
    TRY(make_folders(aside));
    d = opendir(f->path);
    if (!d) FAIL(E_IO, "%s: %s", f->path, strerror(errno));
    while (s == OK && (entry = readdir(d))) {
        if (is_of_a_run(entry->d_name) && strcmp(entry->d_name, "run.json") != 0 &&
            !is_file(f, entry->d_name, config))
            s = move(f->path, aside, entry->d_name);
    }
    closedir(d);
    if (s == OK && checkpoint_folder_holds(f->path, "run.json"))
        s = move(f->path, aside, "run.json");
    if (s == OK) log_info("the run that was in %s is now in %s", f->path, aside);
    return s;
}

static enum status check_same_config(const struct run_folder *f, uint64_t hash)
{
    struct config then;
    char path[DURABLE_PATH], text[CONFIG_TEXT] = "something that cannot be read",
                             settings[CONFIG_SETTINGS] = "";
    bool has_checkpoints;

    if (hash == config_hash(f->config)) return OK;
    TRY(run_folder_has_checkpoints(f->config, &has_checkpoints));
    if (!has_checkpoints) return OK;
    TRY(checkpoint_folder_path(path, "%s/config.resolved.yaml", f->path));
    if (access(path, R_OK) == 0 && config_load(&then, path, NULL, 0) == OK) {
        config_difference(&then, f->config, text);
        config_settings(&then, f->config, settings);
    }
    FAIL(E_CONFIG,
         "%s holds checkpoints of another configuration, which differs in %s: to go on with it, %s "
         "%s; or begin anew with --fresh, or set another run.folder",
         f->path, text, *settings ? "add to the command" : "give the settings of",
         *settings ? settings : path);
}

/* A run that has saved does not begin again at step 0 because its checkpoints are gone: that would be work lost in silence. */
static enum status check_not_gone(const struct run_folder *f)
{
    bool has;

    TRY(run_folder_has_checkpoints(f->config, &has));
    if (has || !checkpoint_was_saved(f->path)) return OK;
    FAIL(E_CORRUPT,
         "this run has saved checkpoints, says %s/status.json, and there is none in "
         "%s/checkpoints: restore that folder from a copy, or begin anew with --fresh",
         f->path, f->path);
}

/* A folder in which no run has been, with a file of the name of one of a run's, would have it written over. */
static enum status check_not_anothers(const struct run_folder *f, const char *config)
{
    const struct dirent *entry;
    char name[256] = "";
    DIR *d;

    if (checkpoint_folder_holds(f->path, "lock") || checkpoint_folder_holds(f->path, "run.json") ||
        checkpoint_folder_holds(f->path, "checkpoints"))
        return OK;
    d = opendir(f->path);
    if (!d) FAIL(E_IO, "%s: %s", f->path, strerror(errno));
    while (!*name && (entry = readdir(d)))
        if (is_of_a_run(entry->d_name) && strcmp(entry->d_name, "logs") != 0 &&
            !is_file(f, entry->d_name, config))
            snprintf(name, sizeof name, "%s", entry->d_name);
    closedir(d);
    if (!*name) return OK;
    FAIL(E_CONFIG,
         "run.folder %s holds no run, and a %s, which a run would write over: name another folder, "
         "or move that file",
         f->path, name);
}

static enum status enter(struct run_folder *f, const struct run_folder_options *o, int n_ranks)
{
    uint64_t hash = 0;
    bool found = false;

    TRY(make_folders(f->path));
    TRY(check_not_anothers(f, o->config_path));
    TRY(take_lease(f));
    if (o->fresh) {
        if (holds_a_run(f)) TRY(set_aside(f, o->config_path));
    } else {
        TRY(run_record_find(f->path, f->id, &hash, &found));
        TRY(check_not_gone(f));
    }
    if (found)
        TRY(check_same_config(f, hash));
    else
        run_record_new_id(f->id);
    return run_record_write(f->path, f->id, o, n_ranks);
}

/* ---- all ranks --------------------------------------------------------------------------------
 */

static enum status open_log(struct run_folder *f, int rank)
{
    char path[DURABLE_PATH];

    TRY(checkpoint_folder_path(path, "%s/logs", f->path));
    TRY(make_folders(path));
    TRY(checkpoint_folder_path(path, "%s/logs/rank-%04d.log", f->path, rank));
    f->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (f->log_fd < 0) FAIL(E_IO, "%s: %s%s", path, strerror(errno), durable_cure(errno));
    log_set_file(f->log_fd);
    return OK;
}

static enum status name_folder(const struct config *c, char path[DURABLE_PATH])
{
    if (c->run_folder[0])
        TRY(checkpoint_folder_path(path, "%s", c->run_folder));
    else
        TRY(checkpoint_folder_path(path, "runs/%s", c->name));
    if (strlen(path) > 800) FAIL(E_CONFIG, "run.folder is too long a path");
    return OK;
}

enum status run_folder_has_checkpoints(const struct config *c, bool *has)
{
    struct checkpoint_folders l;
    char path[DURABLE_PATH];

    TRY(name_folder(c, path));
    TRY(checkpoint_folders_list(&l, path, true));
    *has = l.n > 0;
    checkpoint_folders_destroy(&l);
    return OK;
}

static enum status fill(struct run_folder *f, struct comm *c, const struct run_folder_options *o)
{
    TRY(name_folder(f->config, f->path));
    TRY(agree_worst(c, c->rank == 0 ? enter(f, o, c->n_ranks) : OK));
    TRY(c->ops->broadcast(c, f->id, sizeof f->id, 0));
    return agree_worst(c, open_log(f, c->rank));
}

enum status run_folder_create(struct run_folder **f, struct comm *c,
                              const struct run_folder_options *o)
{
    struct run_folder *draft = calloc(1, sizeof *draft);
    enum status s;

    if (!draft) FAIL(E_MEMORY, "a run folder");
    draft->config = o->config;
    draft->lock_fd = draft->log_fd = -1;
    draft->n_ranks = c->n_ranks;
    draft->state = RUN_N_STATES;
    s = fill(draft, c, o);
    if (s != OK)
        run_folder_destroy(draft);
    else
        *f = draft;
    return s;
}

void run_folder_destroy(struct run_folder *f)
{
    if (!f) return;
    if (f->log_fd >= 0) {
        log_set_file(-1);
        close(f->log_fd);
    }
    if (f->lock_fd >= 0) close(f->lock_fd);
    free(f);
}

/* ---- status -----------------------------------------------------------------------------------
 */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *status_object(const struct run_folder *f, enum run_state state, int64_t saved_step)
{
#define STATE_TEXT(name, text) [RUN_##name] = text,
    static const char *const state_text[] = { RUN_STATES(STATE_TEXT) };
#undef STATE_TEXT
    const struct config *c = f->config;
    const int64_t left = c->train_steps - f->row.step;
    const double eta =
        state == RUN_RUNNING && f->step_seconds > 0 ? f->step_seconds * (double)left : NAN;
    char time[CLOCK_TEXT], host[64] = "";

    gethostname(host, sizeof host - 1);
    return json_pack("{ss ss ss si sI sI so so so so so so so si ss ss}", "state",
                     state_text[state], "run", f->id, "name", c->name, "n_ranks", f->n_ranks,
                     "step", (json_int_t)f->row.step, "steps", (json_int_t)c->train_steps, "loss",
                     number(f->row.loss_total), "lr", number(f->row.lr), "images_per_second",
                     number(f->row.images_per_second), "eta_s", number(eta), "rank_hours",
                     number(f->row.rank_hours), "budget_hours",
                     c->run_budget_hours > 0 ? number(c->run_budget_hours) : json_null(),
                     "checkpoint_step", saved_step >= 0 ? json_integer(saved_step) : json_null(),
                     "pid", (int)getpid(), "host", host, "time", clock_text(clock_wall_ns(), time));
}

/* By rename, so that a reader sees the old or the new one; not by fsync: it is rewritten every
 * second. */
static enum status replace(const struct run_folder *f, const char *text)
{
    char path[DURABLE_PATH], temporary[DURABLE_PATH];
    const size_t n = strlen(text);
    bool is_bad;
    FILE *out;

    TRY(checkpoint_folder_path(path, "%s/status.json", f->path));
    TRY(checkpoint_folder_path(temporary, "%s/.status.json.tmp", f->path));
    out = fopen(temporary, "w");
    if (!out) FAIL(E_IO, "%s: %s%s", temporary, strerror(errno), durable_cure(errno));
    is_bad = fwrite(text, 1, n, out) != n;
    is_bad |= fputc('\n', out) == EOF;
    is_bad |= fclose(out) != 0;
    if (is_bad || rename(temporary, path) != 0)
        FAIL(E_IO, "writing %s: %s%s", path, strerror(errno), durable_cure(errno));
    return OK;
}

enum status run_folder_status(struct run_folder *f, enum run_state state,
                              const struct metrics_row *row, int64_t saved_step)
{
    const int64_t now = clock_ns();
    json_t *j;
    char *text;
    enum status s;

    if (row) {
        const double past = f->step_seconds > 0 ? SMOOTH : 0;

        if (row->step_seconds > 0)
            f->step_seconds = past * f->step_seconds + (1 - past) * row->step_seconds;
        f->row = *row;
    }
    if (state == f->state && now - f->written_ns < STATUS_EVERY_NS) return OK;
    j = status_object(f, state, saved_step);
    text = j ? json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(10)) : NULL;
    json_decref(j);
    if (!text) FAIL(E_MEMORY, "the run's status");
    s = replace(f, text);
    free(text);
    f->state = state;
    f->written_ns = now;
    return s;
}
