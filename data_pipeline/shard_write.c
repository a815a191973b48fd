#define _GNU_SOURCE /* O_TMPFILE, mkostemp */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data_pipeline/folder.h"
#include "data_pipeline/shard_file.h"

enum { PATH_ROOM = 4096, COPY = 1 << 20, INDEX_FIRST = 256 };

/* A contiguous dataset needs its size beforehand, so the bulk waits in nameless files. */
struct spool {
    int fd; /* owned */
    int64_t bytes;
};

struct shard_writer {
    char folder[PATH_ROOM], path[PATH_ROOM], temporary[PATH_ROOM];
    struct spool spool[SHARD_BULKS];
    struct shard_bulk_hash hash;
    struct shard_index index; /* owned; room for n_room images */
    int64_t n_images, n_room, n_masks;
    struct shard_summary summary;
};

static enum status spool_open(struct spool *s, const char *folder)
{
    char name[PATH_ROOM];

    s->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (s->fd >= 0) return OK;
    /* not every file system has nameless files */
    if (snprintf(name, sizeof name, "%s/.spool-XXXXXX", folder) >= PATH_ROOM)
        FAIL(E_USAGE, "shard: the path %.64s… is too long", folder);
    s->fd = mkostemp(name, O_CLOEXEC);
    if (s->fd < 0)
        FAIL(E_IO, "shard: cannot make a temporary file in %s: %s", folder, strerror(errno));
    if (unlink(name) != 0) FAIL(E_IO, "shard: cannot unlink %s: %s", name, strerror(errno));
    return OK;
}

static enum status spool_add(struct spool *s, const char *what, const void *p, int64_t n)
{
    TRY(shard_pwrite(s->fd, what, p, n, s->bytes));
    s->bytes += n;
    return OK;
}

enum status shard_writer_create(struct shard_writer **w, const struct shard_writer_options *o)
{
    struct shard_writer *x;
    enum status s = OK;

    if (!shard_name_valid(o->name))
        FAIL(E_USAGE, "shard: \"%s\" cannot be a shard's name", o->name);
    x = calloc(1, sizeof *x);
    if (!x) FAIL(E_MEMORY, "shard: no memory for a writer");
    for (int i = 0; i < SHARD_BULKS; i++) x->spool[i].fd = -1;
    snprintf(x->summary.name, sizeof x->summary.name, "%s", o->name);
    if (snprintf(x->folder, PATH_ROOM, "%s", o->folder) >= PATH_ROOM ||
        snprintf(x->path, PATH_ROOM, "%s/%s", o->folder, o->name) >= PATH_ROOM ||
        snprintf(x->temporary, PATH_ROOM, "%s/%s.tmp", o->folder, o->name) >= PATH_ROOM)
        s = status_fail(E_USAGE, __FILE__, __LINE__, "shard: the path %.64s… is too long",
                        o->folder);
    if (s == OK) s = shard_bulk_hash_create(&x->hash);
    for (int i = 0; i < SHARD_BULKS && s == OK; i++) s = spool_open(&x->spool[i], o->folder);
    if (s == OK) s = shard_index_create(&x->index, INDEX_FIRST);
    if (s == OK) x->n_room = INDEX_FIRST;
    if (s == OK && unlink(x->temporary) != 0 && errno != ENOENT)
        s = status_fail(E_IO, __FILE__, __LINE__,
                        "shard: cannot remove %s, left by a killed run: %s", x->temporary,
                        strerror(errno));
    if (s != OK) {
        shard_writer_destroy(x);
        return s;
    }
    *w = x;
    return OK;
}

void shard_writer_destroy(struct shard_writer *w)
{
    if (!w) return;
    for (int i = 0; i < SHARD_BULKS; i++)
        if (w->spool[i].fd >= 0) close(w->spool[i].fd);
    shard_bulk_hash_destroy(&w->hash);
    shard_index_destroy(&w->index);
    free(w);
}

int64_t shard_writer_bytes(const struct shard_writer *w)
{
    int64_t bytes = w->n_images * SHARD_ROW * (int64_t)sizeof(int64_t);

    for (int i = 0; i < SHARD_BULKS; i++) bytes += w->spool[i].bytes;
    return bytes;
}

static enum status grow_index(struct shard_writer *w)
{
    struct shard_index x;
    const int64_t room = 2 * w->n_room;

    TRY(shard_index_create(&x, room));
    for (int i = 0; i < SHARD_INDEXES; i++)
        memcpy(*shard_index_column(&x, i), *shard_index_column(&w->index, i),
               (size_t)(w->n_room + shard_indexes[i].extra) *
                   (size_t)shard_type_bytes(shard_indexes[i].type));
    shard_index_destroy(&w->index);
    w->index = x;
    w->n_room = room;
    return OK;
}

/* The hash in the order shard_file_read() lays a record out. */
static uint64_t record_hash(XXH3_state_t *state, const int64_t row[SHARD_ROW],
                            const struct shard_record *r)
{
    const size_t n = (size_t)r->n_masks;

    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, row, SHARD_ROW * sizeof *row);
    if (n > 0) {
        XXH3_64bits_update(state, r->mask_end, n * sizeof *r->mask_end);
        XXH3_64bits_update(state, r->mask_area, n * sizeof *r->mask_area);
        XXH3_64bits_update(state, r->mask_box, n * 4 * sizeof *r->mask_box);
        XXH3_64bits_update(state, r->mask_text, (size_t)shard_text_bytes(r));
    }
    XXH3_64bits_update(state, r->image, (size_t)r->image_bytes);
    return XXH3_64bits_digest(state);
}

static enum status add_index(struct shard_writer *w, const struct shard_record *r)
{
    struct shard_index *x = &w->index;
    const int64_t i = w->n_images;
    int64_t row[SHARD_ROW];
    XXH3_state_t *state = XXH3_createState();

    if (!state) FAIL(E_MEMORY, "shard: no memory for a hash");
    x->id[i] = r->image_id;
    x->height[i] = r->height;
    x->width[i] = r->width;
    x->stored_height[i] = r->stored_height;
    x->stored_width[i] = r->stored_width;
    x->codec[i] = (int32_t)r->codec;
    x->offset[i] = w->spool[BULK_IMAGE].bytes;
    x->length[i] = r->image_bytes;
    x->text_offset[i] = w->spool[BULK_TEXT].bytes;
    x->text_length[i] = shard_text_bytes(r);
    x->first_mask[i] = w->n_masks;
    x->first_mask[i + 1] = w->n_masks + r->n_masks;
    shard_row(x, i, row);
    x->hash[i] = record_hash(state, row, r);
    XXH3_freeState(state);
    return OK;
}

enum status shard_writer_add(struct shard_writer *w, const struct shard_record *r)
{
    const void *data[SHARD_BULKS] = { r->image, r->mask_text, r->mask_end, r->mask_area,
                                      r->mask_box };
    int64_t bytes[SHARD_BULKS];
    const char *why;

    if (shard_record_check(r, &why) != OK)
        FAIL(E_CORRUPT, "shard: %s: image id %" PRId64 " cannot be added: %s", w->path, r->image_id,
             why);
    if (w->n_images == SHARD_IMAGES_MAX)
        FAIL(E_USAGE, "shard: %s has %d images already, as many as a shard can", w->path,
             (int)SHARD_IMAGES_MAX);
    if (w->n_images == w->n_room) TRY(grow_index(w));
    TRY(add_index(w, r));
    bytes[BULK_IMAGE] = r->image_bytes;
    bytes[BULK_TEXT] = shard_text_bytes(r);
    bytes[BULK_END] = bytes[BULK_AREA] = 8 * r->n_masks;
    bytes[BULK_BOX] = 16 * r->n_masks;
    for (int i = 0; i < SHARD_BULKS; i++) TRY(spool_add(&w->spool[i], w->path, data[i], bytes[i]));
    shard_bulk_hash_add(&w->hash, r);
    w->n_masks += r->n_masks;
    w->n_images++;
    return OK;
}

static enum status copy_spool(int fd, const char *path, const struct spool *s, int64_t at,
                              void *block)
{
    for (int64_t done = 0; done < s->bytes;) {
        const int64_t n = s->bytes - done < COPY ? s->bytes - done : COPY;

        TRY(shard_pread(s->fd, path, block, n, done));
        TRY(shard_pwrite(fd, path, block, n, at + done));
        done += n;
    }
    return OK;
}

/* Copies the bulk into its place, and brings everything to the disk. */
static enum status fill_bulk(struct shard_writer *w, int fd)
{
    enum status s = OK;
    void *block = malloc(COPY);

    if (!block) FAIL(E_MEMORY, "shard: no memory to copy %s", w->path);
    for (int i = 0; i < SHARD_BULKS && s == OK; i++)
        s = copy_spool(fd, w->temporary, &w->spool[i], w->summary.bulk_at[i], block);
    free(block);
    if (s == OK && fsync(fd) != 0)
        FAIL(E_IO, "shard: fsync of %s: %s", w->temporary, strerror(errno));
    /* only so that reading back asks the disk where it can; a refusal changes nothing */
    if (s == OK) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return s;
}

static enum status write_temporary(struct shard_writer *w)
{
    struct shard_summary *sum = &w->summary;
    struct stat st;
    enum status s;
    int fd;

    TRY(shard_h5_write(w->temporary, sum, &w->index));
    fd = open(w->temporary, O_RDWR | O_CLOEXEC);
    if (fd < 0) FAIL(E_IO, "shard: cannot open %s: %s", w->temporary, strerror(errno));
    s = fill_bulk(w, fd);
    if (s == OK && fstat(fd, &st) != 0)
        s = status_fail(E_IO, __FILE__, __LINE__, "shard: %s: %s", w->temporary, strerror(errno));
    if (s == OK) sum->bytes = st.st_size;
    if (s == OK) s = shard_head_hash(fd, w->temporary, sum, &sum->head_hash);
    if (close(fd) != 0 && s == OK)
        s = status_fail(E_IO, __FILE__, __LINE__, "shard: closing %s: %s", w->temporary,
                        strerror(errno));
    return s;
}

static enum status read_back(const struct shard_writer *w)
{
    struct shard_file f;
    enum status s;

    TRY(shard_file_open(&f, w->temporary, &w->summary));
    s = shard_file_verify(&f, w->temporary);
    shard_file_close(&f);
    return s;
}

enum status shard_writer_commit(struct shard_writer *w, struct shard_summary *summary)
{
    struct shard_summary *sum = &w->summary;
    enum status s;

    if (w->n_images == 0) FAIL(E_USAGE, "shard: %s: nothing to commit", w->path);
    sum->n_images = w->n_images;
    sum->n_masks = w->n_masks;
    for (int i = 0; i < SHARD_BULKS; i++) sum->bulk_bytes[i] = w->spool[i].bytes;
    sum->bulk_hash = shard_bulk_hash_value(&w->hash);
    s = write_temporary(w);
    if (s == OK) s = read_back(w);
    if (s == OK && rename(w->temporary, w->path) != 0)
        s = status_fail(E_IO, __FILE__, __LINE__, "shard: renaming %s: %s", w->temporary,
                        strerror(errno));
    if (s == OK) s = folder_sync(w->folder);
    if (s != OK) {
        unlink(w->temporary);
        return s;
    }
    *summary = *sum;
    return OK;
}
