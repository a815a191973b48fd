#include "data_pipeline/pack_state.h"

#include "data_pipeline/grow.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

/* Bump the version when struct head changes without changing its size. */
struct head {
    char magic[16];
    int64_t head_bytes, summary_bytes;
    uint64_t key;
    char source[PACK_NAME];
    struct pack_tally tally;
    int64_t n_shards, n_ids, n_excluded;
};

static const char magic[16] = "samforge-pack-1";

enum { DONE_BYTES_MAX = 1 << 30 };

void pack_done_destroy(struct pack_done *d)
{
    if (!d) return;
    free(d->shards);
    free(d->ids);
    free(d->excluded);
    memset(d, 0, sizeof *d);
}

void pack_state_shard_name(char name[SHARD_NAME], int64_t part, int64_t shard)
{
    snprintf(name, SHARD_NAME, "shard-%05lld-%03lld.h5", (long long)part, (long long)shard);
}

static enum status part_path(const struct pack_state *s, int64_t part, const char *suffix,
                             char path[FOLDER_PATH])
{
    char name[64];

    snprintf(name, sizeof name, ".pack/part-%05lld%s", (long long)part, suffix);
    return folder_join(path, s->out, name);
}

static enum status sync_state(const struct pack_state *s)
{
    char path[FOLDER_PATH];

    TRY(folder_join(path, s->out, ".pack"));
    return folder_sync(path);
}

static enum status remove_file(const char *path)
{
    if (unlink(path) != 0 && errno != ENOENT)
        FAIL(E_IO, "pack: cannot remove %s: %s", path, strerror(errno));
    return OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum status check_ours(const char *out)
{
    struct folder list = { 0 };
    bool ours;

    TRY(folder_list(&list, out));
    ours = list.n == 0 || folder_has(&list, ".pack");
    folder_destroy(&list);
    if (!ours)
        FAIL(E_USAGE, "pack: %s is not empty and was not made by pack; name a new folder", out);
    return OK;
}

enum status pack_state_open(struct pack_state *s, const char *out)
{
    char path[FOLDER_PATH];
    int lock;

    if (snprintf(s->out, sizeof s->out, "%s", out) >= FOLDER_PATH - 128)
        FAIL(E_USAGE, "pack: the path %.200s… is too long", out);
    TRY(folder_make(out));
    TRY(check_ours(out));
    TRY(folder_join(path, out, ".pack"));
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        FAIL(E_IO, "pack: cannot make the folder %s: %s", path, strerror(errno));
    TRY(folder_join(path, out, ".pack/lock"));
    lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock < 0) FAIL(E_IO, "pack: cannot open %s: %s", path, strerror(errno));
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        const bool busy = errno == EWOULDBLOCK;

        close(lock);
        if (busy) FAIL(E_USAGE, "pack: another pack is writing to %s", out);
        FAIL(E_IO, "pack: cannot lock %s: %s", path, strerror(errno));
    }
    s->lock = lock;
    return OK;
}

void pack_state_close(struct pack_state *s)
{
    if (s->lock >= 0) close(s->lock);
    s->lock = -1;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static bool take(const struct folder_file *f, int64_t *at, void *p, int64_t n)
{
    if (n > f->n - *at) return false;
    if (n > 0) memcpy(p, f->bytes + *at, (size_t)n);
    *at += n;
    return true;
}

static bool counts_fit(const struct head *h, int64_t n)
{
    return h->n_shards >= 0 && h->n_ids >= 0 && h->n_excluded >= 0 && h->n_shards <= n &&
           h->n_ids <= n && h->n_excluded <= n;
}

static enum status decode(const struct folder_file *f, struct pack_done *d, bool *good)
{
    struct head h;
    uint64_t hash;
    int64_t at = 0;

    *good = false;
    if (!take(f, &at, &h, sizeof h) || memcmp(h.magic, magic, sizeof magic) != 0 ||
        h.head_bytes != (int64_t)sizeof h ||
        h.summary_bytes != (int64_t)sizeof(struct shard_summary) ||
        !memchr(h.source, 0, sizeof h.source) || !counts_fit(&h, f->n))
        return OK;
    memcpy(&hash, f->bytes + f->n - sizeof hash, sizeof hash);
    if (hash != XXH3_64bits(f->bytes, (size_t)f->n - sizeof hash)) return OK;
    d->key = h.key;
    memcpy(d->source, h.source, sizeof d->source);
    d->tally = h.tally;
    GROW(d->shards, d->shards_room, h.n_shards);
    GROW(d->ids, d->ids_room, h.n_ids);
    GROW(d->excluded, d->excluded_room, h.n_excluded);
    d->n_shards = h.n_shards;
    d->n_ids = h.n_ids;
    d->n_excluded = h.n_excluded;
    *good = take(f, &at, d->shards, h.n_shards * (int64_t)sizeof *d->shards) &&
            take(f, &at, d->ids, h.n_ids * (int64_t)sizeof *d->ids) &&
            take(f, &at, d->excluded, h.n_excluded * (int64_t)sizeof *d->excluded) &&
            at == f->n - (int64_t)sizeof hash;
    return OK;
}

static enum status shards_there(const struct pack_state *s, const struct pack_done *d, bool *there)
{
    *there = true;
    for (int64_t i = 0; i < d->n_shards; i++) {
        char path[FOLDER_PATH];
        struct stat info;

        TRY(folder_join(path, s->out, d->shards[i].name));
        if (stat(path, &info) != 0 || info.st_size != d->shards[i].bytes) *there = false;
    }
    return OK;
}

enum status pack_state_load(const struct pack_state *s, int64_t part, struct pack_done *d,
                            bool *found)
{
    struct folder_file f = { 0 };
    char path[FOLDER_PATH];
    const char *why;
    enum status read;

    *found = false;
    TRY(part_path(s, part, ".done", path));
    read = folder_read(&f, path, DONE_BYTES_MAX, &why);
    if (read == OK) read = decode(&f, d, found);
    folder_file_destroy(&f);
    if (read == E_CORRUPT) return OK; /* not there, or nothing of ours */
    TRY(read);
    if (*found) TRY(shards_there(s, d, found));
    if (!*found) pack_done_destroy(d);
    return OK;
}

static enum status write_done(FILE *f, const char *path, const struct pack_done *d)
{
    struct head h = { .head_bytes = sizeof h, .summary_bytes = sizeof *d->shards, .key = d->key };
    const struct {
        const void *p;
        size_t bytes;
    } pieces[] = { { &h, sizeof h },
                   { d->shards, (size_t)d->n_shards * sizeof *d->shards },
                   { d->ids, (size_t)d->n_ids * sizeof *d->ids },
                   { d->excluded, (size_t)d->n_excluded * sizeof *d->excluded } };
    XXH3_state_t *const state = XXH3_createState();
    uint64_t hash;
    bool good = state != NULL && XXH3_64bits_reset(state) == XXH_OK;

    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.source, d->source, sizeof h.source);
    h.tally = d->tally;
    h.n_shards = d->n_shards;
    h.n_ids = d->n_ids;
    h.n_excluded = d->n_excluded;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces && good; i++) {
        if (pieces[i].bytes == 0) continue;
        good = XXH3_64bits_update(state, pieces[i].p, pieces[i].bytes) == XXH_OK &&
               fwrite(pieces[i].p, 1, pieces[i].bytes, f) == pieces[i].bytes;
    }
    hash = good ? XXH3_64bits_digest(state) : 0;
    XXH3_freeState(state);
    if (!good || fwrite(&hash, sizeof hash, 1, f) != 1)
        FAIL(E_IO, "pack: cannot write %s: %s", path, strerror(errno));
    return OK;
}

/* Flushes, syncs and closes f; every return code counts. */
static enum status finish(FILE *f, const char *path)
{
    const bool good = fflush(f) == 0 && !ferror(f) && fsync(fileno(f)) == 0;
    const int cause = errno;

    if (fclose(f) != 0 || !good)
        FAIL(E_IO, "pack: cannot write %s: %s", path, strerror(good ? errno : cause));
    return OK;
}

static enum status rename_file(const char *from, const char *to)
{
    if (rename(from, to) != 0) FAIL(E_IO, "pack: cannot rename %s: %s", from, strerror(errno));
    return OK;
}

enum status pack_state_save(const struct pack_state *s, int64_t part, const struct pack_done *d,
                            FILE *quarantine)
{
    char path[FOLDER_PATH], temporary[FOLDER_PATH];
    enum status written;
    FILE *f;

    TRY(part_path(s, part, ".done", path));
    TRY(part_path(s, part, ".done.tmp", temporary));
    if (fflush(quarantine) != 0 || ferror(quarantine) || fsync(fileno(quarantine)) != 0)
        FAIL(E_IO, "pack: cannot write the quarantine of part %lld: %s", (long long)part,
             strerror(errno));
    f = fopen(temporary, "we");
    if (!f) FAIL(E_IO, "pack: cannot create %s: %s", temporary, strerror(errno));
    written = write_done(f, temporary, d);
    KEEP_FIRST(written, finish(f, temporary));
    TRY(written);
    TRY(rename_file(temporary, path));
    return sync_state(s);
}

enum status pack_state_quarantine(const struct pack_state *s, int64_t part, FILE **f)
{
    char path[FOLDER_PATH];

    TRY(part_path(s, part, ".quarantine", path));
    *f = fopen(path, "we");
    if (!*f) FAIL(E_IO, "pack: cannot create %s: %s", path, strerror(errno));
    return OK;
}

/* The part a file of OUT belongs to, by its name; −1: none of ours. */
static int64_t part_of(const char *name, const char *prefix)
{
    const size_t n = strlen(prefix);
    int64_t part = 0;

    if (strncmp(name, prefix, n) != 0 || name[n] < '0' || name[n] > '9') return -1;
    for (name += n; *name >= '0' && *name <= '9' && part < FOLDER_NAMES_MAX; name++)
        part = part * 10 + (*name - '0');
    return part;
}

/* Removes the shards of parts first … last, and what a kill left of them. */
static enum status remove_shards(const struct pack_state *s, int64_t first, int64_t last)
{
    struct folder list = { 0 };
    char path[FOLDER_PATH];
    enum status status = OK;

    TRY(folder_list(&list, s->out));
    for (int64_t i = 0; i < list.n && status == OK; i++) {
        const int64_t part = part_of(list.names[i], "shard-");

        if (part < first || part > last) continue;
        status = folder_join(path, s->out, list.names[i]);
        if (status == OK) status = remove_file(path);
    }
    folder_destroy(&list);
    return status;
}

enum status pack_state_forget(const struct pack_state *s, int64_t part)
{
    char path[FOLDER_PATH];

    TRY(part_path(s, part, ".done", path));
    TRY(remove_file(path));
    TRY(sync_state(s)); /* before the shards it speaks of go */
    return remove_shards(s, part, part);
}

enum status pack_state_sweep(const struct pack_state *s, int64_t n_parts)
{
    return remove_shards(s, n_parts, INT64_MAX);
}

enum status pack_state_unseal(const struct pack_state *s)
{
    char path[FOLDER_PATH];

    TRY(folder_join(path, s->out, "manifest.json"));
    TRY(remove_file(path));
    TRY(folder_join(path, s->out, "quarantine.jsonl"));
    TRY(remove_file(path));
    return folder_sync(s->out);
}

enum status pack_state_parts(const struct pack_state *s, int64_t *n)
{
    struct folder list = { 0 };
    char path[FOLDER_PATH];

    TRY(folder_join(path, s->out, ".pack"));
    TRY(folder_list(&list, path));
    *n = 0;
    for (int64_t i = 0; i < list.n; i++) {
        const int64_t part = part_of(list.names[i], "part-");

        if (part >= *n && folder_ends_with(list.names[i], ".done")) *n = part + 1;
    }
    folder_destroy(&list);
    return OK;
}

static enum status copy_to(FILE *to, const char *path)
{
    char block[1 << 16];
    size_t n;
    FILE *const from = fopen(path, "re");
    bool good;

    if (!from) FAIL(E_IO, "pack: cannot open %s: %s", path, strerror(errno));
    do {
        n = fread(block, 1, sizeof block, from);
        good = n == 0 || fwrite(block, 1, n, to) == n;
    } while (n > 0 && good);
    good = good && !ferror(from);
    fclose(from);
    if (!good) FAIL(E_IO, "pack: cannot copy %s: %s", path, strerror(errno));
    return OK;
}

enum status pack_state_gather(const struct pack_state *s, int64_t n_parts)
{
    char path[FOLDER_PATH], temporary[FOLDER_PATH], part[FOLDER_PATH];
    enum status status = OK;
    FILE *f;

    TRY(folder_join(path, s->out, "quarantine.jsonl"));
    TRY(folder_join(temporary, s->out, "quarantine.jsonl.tmp"));
    f = fopen(temporary, "we");
    if (!f) FAIL(E_IO, "pack: cannot create %s: %s", temporary, strerror(errno));
    for (int64_t i = 0; i < n_parts && status == OK; i++) {
        status = part_path(s, i, ".quarantine", part);
        if (status == OK) status = copy_to(f, part);
    }
    KEEP_FIRST(status, finish(f, temporary));
    TRY(status);
    TRY(rename_file(temporary, path));
    return folder_sync(s->out);
}
