#include "data_pipeline/shard.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data_pipeline/shard_file.h"
#include "kernels/base/check.h"

enum { PATH_ROOM = 4096, FILES_BESIDE = 256, FILES_LEAST = 64, VERIFY_THREADS_MAX = 16 };

struct shard_set {
    char folder[PATH_ROOM];
    struct shard_summary *summaries; /* owned, as the manifest has them */
    struct shard_file *files;        /* (n_shards) owned */
    int64_t *first;                  /* (n_shards + 1) owned: images before each shard */
    int64_t n_shards, n_open, n_masks, resized_to;
    uint64_t hash;
};

/* Every shard keeps a descriptor open. */
static enum status allow_files(int64_t n)
{
    const rlim_t wanted = (rlim_t)(n + FILES_BESIDE);
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return OK;
    if (limit.rlim_max < (rlim_t)(n + FILES_LEAST))
        FAIL(E_IO,
             "shard: %" PRId64 " shards need as many open files, and the limit is %" PRId64
             ": raise it with ulimit -n, or pack into fewer, larger shards",
             n, (int64_t)limit.rlim_max);
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        FAIL(E_IO, "shard: cannot raise the limit of open files to %" PRId64,
             (int64_t)limit.rlim_cur);
    return OK;
}

static void shard_path(const struct shard_set *s, int64_t shard, char path[PATH_ROOM])
{
    snprintf(path, PATH_ROOM, "%.*s/%s", PATH_ROOM - SHARD_NAME - 2, s->folder,
             s->files[shard].summary.name);
}

/* The folder of path, and the shard's name when path names one file. */
static enum status split_path(const char *path, char folder[PATH_ROOM], const char **name)
{
    const char *slash = strrchr(path, '/');
    struct stat st;

    *name = NULL;
    if (strlen(path) >= PATH_ROOM - SHARD_NAME - 2)
        FAIL(E_USAGE, "shard: the path %.64s… is too long", path);
    if (stat(path, &st) != 0)
        FAIL(E_MISSING, "shards: %s: %s; name a folder that samforge pack made", path,
             strerror(errno));
    snprintf(folder, PATH_ROOM, "%s", path);
    if (S_ISDIR(st.st_mode)) return OK;
    *name = slash ? slash + 1 : path;
    if (!slash)
        snprintf(folder, PATH_ROOM, ".");
    else
        folder[slash == path ? 1 : slash - path] = 0;
    return OK;
}

/* Leaves only the shard of this name. */
static enum status choose_one(struct shard_set *s, const char *name)
{
    for (int64_t i = 0; i < s->n_shards; i++) {
        if (strcmp(s->summaries[i].name, name) != 0) continue;
        s->summaries[0] = s->summaries[i];
        s->n_shards = 1;
        s->hash = XXH3_64bits_withSeed(name, strlen(name), s->hash);
        return OK;
    }
    FAIL(E_CORRUPT, "shard: %s/manifest.json lists no shard %s", s->folder, name);
}

static enum status open_files(struct shard_set *s)
{
    char path[PATH_ROOM];

    TRY(allow_files(s->n_shards));
    s->files = calloc((size_t)s->n_shards, sizeof *s->files);
    s->first = calloc((size_t)s->n_shards + 1, sizeof *s->first);
    if (!s->files || !s->first)
        FAIL(E_MEMORY, "shard: no memory for %" PRId64 " shards", s->n_shards);
    for (int64_t i = 0; i < s->n_shards; i++) {
        s->files[i].summary = s->summaries[i];
        shard_path(s, i, path);
        TRY(shard_file_open(&s->files[i], path, &s->summaries[i]));
        s->n_open++;
        s->first[i + 1] = s->first[i] + s->summaries[i].n_images;
        s->n_masks += s->summaries[i].n_masks;
    }
    return OK;
}

enum status shard_set_open(struct shard_set **set, const char *path)
{
    struct shard_set *x = calloc(1, sizeof *x);
    const char *name;
    enum status s;

    if (!x) FAIL(E_MEMORY, "shard: no memory for a set of shards");
    s = split_path(path, x->folder, &name);
    if (s == OK)
        s = shard_manifest_read(x->folder, &x->summaries, &x->n_shards, &x->resized_to, &x->hash);
    if (s == OK && name) s = choose_one(x, name);
    if (s == OK) s = open_files(x);
    if (s != OK) {
        shard_set_close(x);
        return s;
    }
    *set = x;
    return OK;
}

void shard_set_close(struct shard_set *set)
{
    if (!set) return;
    for (int64_t i = 0; i < set->n_open; i++) shard_file_close(&set->files[i]);
    free(set->files);
    free(set->first);
    free(set->summaries);
    free(set);
}

int64_t shard_set_images(const struct shard_set *set)
{
    return set->first[set->n_shards];
}

int64_t shard_set_masks(const struct shard_set *set)
{
    return set->n_masks;
}

int64_t shard_set_shards(const struct shard_set *set)
{
    return set->n_shards;
}

const struct shard_summary *shard_set_summary(const struct shard_set *set, int64_t shard)
{
    ASSERT(shard >= 0 && shard < set->n_shards);
    return &set->summaries[shard];
}

int64_t shard_set_resized_to(const struct shard_set *set)
{
    return set->resized_to;
}

uint64_t shard_set_hash(const struct shard_set *set)
{
    return set->hash;
}

/* Which shard holds image; *record is its number there. */
static int64_t find_shard(const struct shard_set *set, int64_t image, int64_t *record)
{
    int64_t a = 0, b = set->n_shards;

    ASSERT(image >= 0 && image < shard_set_images(set));
    while (b - a > 1) {
        const int64_t m = a + (b - a) / 2;

        if (set->first[m] <= image)
            a = m;
        else
            b = m;
    }
    *record = image - set->first[a];
    return a;
}

const char *shard_set_where(const struct shard_set *set, int64_t image, char buf[SHARD_WHERE])
{
    int64_t record;
    const int64_t shard = find_shard(set, image, &record);

    snprintf(buf, SHARD_WHERE, "%s, record %" PRId64 " (image id %" PRId64 ")",
             set->summaries[shard].name, record, set->files[shard].index.id[record]);
    return buf;
}

enum status shard_set_read(const struct shard_set *set, int64_t image, struct shard_buffer *b,
                           struct shard_record *r)
{
    char path[PATH_ROOM];
    int64_t record;
    const int64_t shard = find_shard(set, image, &record);

    shard_path(set, shard, path);
    return shard_file_read(&set->files[shard], path, record, b, r);
}

int64_t shard_set_record_masks(const struct shard_set *set, int64_t image)
{
    int64_t record;
    const int64_t shard = find_shard(set, image, &record);
    const int64_t *first = set->files[shard].index.first_mask;

    return first[record + 1] - first[record];
}

/* ---- verify ---------------------------------------------------------------------------------- */

struct verify {
    const struct shard_set *set;
    atomic_llong next;
    atomic_int worst; /* the first failure */
};

static void *verify_some(void *arg)
{
    struct verify *v = arg;

    for (;;) {
        const int64_t i = atomic_fetch_add(&v->next, 1);
        char path[PATH_ROOM];
        enum status s;
        int good = OK;

        if (i >= v->set->n_shards) return NULL;
        shard_path(v->set, i, path);
        s = shard_file_verify(&v->set->files[i], path);
        if (s != OK) atomic_compare_exchange_strong(&v->worst, &good, (int)s);
    }
}

enum status shard_set_verify(const struct shard_set *set)
{
    struct verify v = { .set = set };
    pthread_t threads[VERIFY_THREADS_MAX];
    const int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
    int n = 0;

    atomic_init(&v.next, 0);
    atomic_init(&v.worst, OK);
    /* this thread works too; with fewer threads than wanted it only takes longer */
    while (n < VERIFY_THREADS_MAX && n + 1 < cores && n + 1 < set->n_shards &&
           pthread_create(&threads[n], NULL, verify_some, &v) == 0)
        n++;
    verify_some(&v);
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    return (enum status)atomic_load(&v.worst);
}
