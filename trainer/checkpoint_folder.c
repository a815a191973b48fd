#include "trainer/checkpoint_folder.h"

#include "kernels/base/log.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STEP_DIGITS = 8, FOLDERS_MAX = 100000 };

enum status checkpoint_folder_path(char buf[DURABLE_PATH], const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(buf, DURABLE_PATH, fmt, ap);
    va_end(ap);
    if (n < 0 || n >= DURABLE_PATH) FAIL(E_IO, "the path %.200s… is too long", buf);
    return OK;
}

/* The step of a name "step-00001000", or −1. */
static int64_t step_of(const char *name)
{
    const char *digits = name + 5;
    const size_t n = strncmp(name, "step-", 5) == 0 ? strlen(digits) : 0;

    if (n < STEP_DIGITS || n > 18 || strspn(digits, "0123456789") != n) return -1;
    if (n > STEP_DIGITS && digits[0] == '0') return -1;
    return strtoll(digits, NULL, 10);
}

bool checkpoint_folder_holds(const char *folder, const char *name)
{
    char path[DURABLE_PATH];

    return snprintf(path, sizeof path, "%s/%s", folder, name) < DURABLE_PATH &&
           access(path, F_OK) == 0;
}

enum status checkpoint_folder_unread(const char *path, int problem)
{
    if (problem == ENOENT || problem == ELOOP) FAIL(E_CORRUPT, "%s: %s", path, strerror(problem));
    FAIL(E_IO,
         "%s cannot be read: %s; mend that and start again, or, to go on without it, move the "
         "checkpoint out of its folder",
         path, strerror(problem));
}

enum status checkpoint_folder_read(const char *path, char **text, int64_t *n)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat info;
    ssize_t got = 0;
    int64_t at = 0;
    int problem = 0;
    char *p;

    if (fd < 0) return checkpoint_folder_unread(path, errno);
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > CHECKPOINT_MANIFEST_MAX) {
        close(fd);
        FAIL(E_CORRUPT, "%s is no regular file of at most %d bytes", path, CHECKPOINT_MANIFEST_MAX);
    }
    p = malloc((size_t)info.st_size + 1);
    while (p && at < info.st_size) {
        got = read(fd, p + at, (size_t)(info.st_size - at));
        if (got < 0 && errno == EINTR) continue;
        problem = errno;
        if (got <= 0) break;
        at += got;
    }
    close(fd);
    if (!p) FAIL(E_MEMORY, "%s: %lld bytes", path, (long long)info.st_size);
    if (at < info.st_size) {
        free(p);
        if (got < 0) return checkpoint_folder_unread(path, problem);
        FAIL(E_CORRUPT, "%s: cut off", path);
    }
    *text = p;
    *n = at;
    return OK;
}

/* ---- which there are --------------------------------------------------------------------------
 */

static enum status read_sequence(struct checkpoint_folder *f, bool quiet)
{
    struct checkpoint_manifest m;
    char path[DURABLE_PATH], why[STATUS_TEXT];
    enum status s;

    f->sequence = -1;
    TRY(checkpoint_folder_path(path, "%s/manifest.json", f->path));
    status_hold(why);
    s = checkpoint_folder_read(path, &f->text, &f->bytes);
    if (s == OK) s = checkpoint_manifest_parse(&m, f->text, f->bytes, path);
    status_hold(NULL);
    f->unread = s == E_IO;
    if (f->unread && quiet) return OK;
    if (s != OK && s != E_CORRUPT) { /* there may be nothing wrong with it: it is not given up */
        status_release(why);
        return s;
    }
    if (s != OK) {
        if (!quiet)
            log_warn("%s is not used: restore its manifest.json from a copy, or remove the folder; "
                     "%s",
                     f->path, why);
        return OK;
    }
    f->sequence = m.sequence;
    if (m.counters.step != f->step) {
        if (!quiet)
            log_warn("%s was made at step %lld: renamed, and left out; give it its name back",
                     f->path, (long long)m.counters.step);
        f->sequence = -1;
    }
    checkpoint_manifest_destroy(&m);
    return OK;
}

static int newest_first(const void *a, const void *b)
{
    const struct checkpoint_folder *x = a, *y = b;

    if (x->sequence != y->sequence) return x->sequence < y->sequence ? 1 : -1;
    return (x->step < y->step) - (x->step > y->step);
}

static enum status add(struct checkpoint_folders *l, int *room, const char *folder,
                       const char *name, bool quiet)
{
    struct checkpoint_folder *f;
    struct stat info;

    if (l->n == *room) {
        const int more = *room ? 2 * *room : 16;
        struct checkpoint_folder *grown = realloc(l->at, (size_t)more * sizeof *grown);

        if (!grown || more > FOLDERS_MAX) {
            if (grown) l->at = grown;
            FAIL(E_MEMORY, "%s holds more than %d checkpoints", folder, l->n);
        }
        l->at = grown;
        *room = more;
    }
    f = &l->at[l->n];
    *f = (struct checkpoint_folder){ .step = step_of(name) };
    TRY(checkpoint_folder_path(f->path, "%s/%s", folder, name));
    if (lstat(f->path, &info) != 0 || !S_ISDIR(info.st_mode)) return OK;
    l->n++; /* what it holds is given back with the list */
    return read_sequence(f, quiet);
}

enum status checkpoint_folders_list(struct checkpoint_folders *l, const char *run_folder,
                                    bool quiet)
{
    struct checkpoint_folders draft = { 0 };
    char folder[DURABLE_PATH];
    const struct dirent *entry;
    enum status s = OK;
    int room = 0;
    DIR *d;

    *l = draft;
    TRY(checkpoint_folder_path(folder, "%s/checkpoints", run_folder));
    d = opendir(folder);
    if (!d && errno == ENOENT) return OK;
    if (!d) FAIL(E_IO, "%s: %s", folder, strerror(errno));
    while (s == OK && (entry = readdir(d)))
        if (step_of(entry->d_name) >= 0) s = add(&draft, &room, folder, entry->d_name, quiet);
    closedir(d);
    if (s != OK) {
        checkpoint_folders_destroy(&draft);
        return s;
    }
    if (draft.n) qsort(draft.at, (size_t)draft.n, sizeof *draft.at, newest_first);
    *l = draft;
    return OK;
}

void checkpoint_folders_destroy(struct checkpoint_folders *l)
{
    for (int i = 0; i < l->n; i++) free(l->at[i].text);
    free(l->at);
    *l = (struct checkpoint_folders){ 0 };
}

/* ---- their end --------------------------------------------------------------------------------
 */

/* A folder of files, as checkpoints are; anything deeper stays and makes it fail. */
static enum status remove_flat(const char *path)
{
    DIR *d = opendir(path);
    const struct dirent *entry;
    int problem = 0;

    if (!d) FAIL(E_IO, "removing %s: %s", path, strerror(errno));
    while ((entry = readdir(d)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            unlinkat(dirfd(d), entry->d_name, 0) != 0)
            problem = errno;
    closedir(d);
    if (!problem && rmdir(path) != 0) problem = errno;
    if (problem) FAIL(E_IO, "removing %s: %s", path, strerror(problem));
    return OK;
}

/* Under another name first: a folder half removed must not look like one that has lost its manifest. */
static void retire_one(const char *run_folder, const struct checkpoint_folder *f)
{
    char old[DURABLE_PATH];

    if (checkpoint_folder_path(old, "%s/checkpoints/.old-step-%08" PRId64, run_folder, f->step) !=
        OK)
        return;
    if (rename(f->path, old) != 0 || remove_flat(old) != OK)
        log_warn("%s stays, though it is no longer needed", f->path);
}

void checkpoint_folder_retire(const char *run_folder, struct checkpoint_keep keep)
{
    struct checkpoint_folders l;

    if (checkpoint_folders_list(&l, run_folder, true) != OK) return;
    for (int i = 0; i < l.n; i++) {
        const struct checkpoint_folder *f = &l.at[i];
        /* a manifest that is damaged or gone can be restored from a copy, as long as the rest is there */
        const bool is_damaged = f->sequence < 0;
        const bool is_kept = i < keep.newest || i == 0 || is_damaged ||
                             (keep.every > 0 && f->step % keep.every == 0);

        if (!is_kept) retire_one(run_folder, f);
    }
    checkpoint_folders_destroy(&l);
}

void checkpoint_folder_sweep(const char *run_folder)
{
    char folder[DURABLE_PATH], path[DURABLE_PATH];
    const struct dirent *entry;
    DIR *d;

    if (checkpoint_folder_path(folder, "%s/checkpoints", run_folder) != OK) return;
    d = opendir(folder);
    if (!d) return;
    while ((entry = readdir(d))) {
        const bool is_left_over = strncmp(entry->d_name, ".tmp-step-", 10) == 0 ||
                                  strncmp(entry->d_name, ".old-step-", 10) == 0;

        if (!is_left_over || checkpoint_folder_path(path, "%s/%s", folder, entry->d_name) != OK)
            continue;
        log_info("removing %s, left by a save that was killed", path);
        if (remove_flat(path) != OK) log_warn("%s stays", path);
    }
    closedir(d);
}

/* ---- commit -----------------------------------------------------------------------------------
 */

static enum status make_folder(const char *path)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        FAIL(E_IO, "making folder %s: %s%s", path, strerror(errno), durable_cure(errno));
    return OK;
}

enum status checkpoint_folder_begin(const char *run_folder, int64_t step)
{
    char path[DURABLE_PATH];

    TRY(checkpoint_folder_path(path, "%s/checkpoints", run_folder));
    TRY(make_folder(path));
    TRY(checkpoint_folder_path(path, "%s/checkpoints/.tmp-step-%08" PRId64, run_folder, step));
    if (access(path, F_OK) == 0) TRY(remove_flat(path));
    return make_folder(path);
}

enum status checkpoint_folder_commit(const char *run_folder, int64_t step)
{
    char folder[DURABLE_PATH], from[DURABLE_PATH], to[DURABLE_PATH], old[DURABLE_PATH];
    bool had_old = false;

    TRY(checkpoint_folder_path(folder, "%s/checkpoints", run_folder));
    TRY(checkpoint_folder_path(from, "%s/.tmp-step-%08" PRId64, folder, step));
    TRY(checkpoint_folder_path(to, "%s/step-%08" PRId64, folder, step));
    TRY(checkpoint_folder_path(old, "%s/.old-step-%08" PRId64, folder, step));
    TRY(durable_sync_folder(from));
    if (access(to, F_OK) == 0) {
        if (access(old, F_OK) == 0) TRY(remove_flat(old));
        if (rename(to, old) != 0)
            FAIL(E_IO, "renaming %s: %s%s", to, strerror(errno), durable_cure(errno));
        had_old = true;
    }
    if (rename(from, to) != 0)
        FAIL(E_IO, "renaming %s to %s: %s%s", from, to, strerror(errno), durable_cure(errno));
    TRY(durable_sync_folder(folder));
    if (had_old && remove_flat(old) != OK) log_warn("%s stays", old);
    return OK;
}

enum status checkpoint_folder_set_latest(const char *run_folder, int64_t step)
{
    char path[DURABLE_PATH], link[DURABLE_PATH], name[64];

    snprintf(name, sizeof name, "step-%08" PRId64 "\n", step);
    TRY(checkpoint_folder_path(path, "%s/checkpoints/latest.txt", run_folder));
    TRY(durable_write(path, name, (int64_t)strlen(name)));
    name[strlen(name) - 1] = 0;
    TRY(checkpoint_folder_path(path, "%s/checkpoints/.tmp-latest", run_folder));
    TRY(checkpoint_folder_path(link, "%s/checkpoints/latest", run_folder));
    /* a convenience that some file systems lack: latest.txt says the same */
    unlink(path);
    if (symlink(name, path) != 0 || rename(path, link) != 0)
        log_debug("no symbolic link %s: %s", link, strerror(errno));
    return OK;
}
