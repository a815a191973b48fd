#include "data_pipeline/shard_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data_pipeline/picture.h"
#include "data_pipeline/rle.h"

enum { BLOCK = 1 << 20 };

const struct shard_bulk_row shard_bulks[SHARD_BULKS] = {
    [BULK_IMAGE] = { "/image/bytes", SHARD_U8, 1 }, [BULK_TEXT] = { "/mask/text", SHARD_U8, 1 },
    [BULK_END] = { "/mask/end", SHARD_I64, 1 },     [BULK_AREA] = { "/mask/area", SHARD_I64, 1 },
    [BULK_BOX] = { "/mask/box", SHARD_F32, 4 },
};

#define COLUMN(x) offsetof(struct shard_index, x)
const struct shard_index_row shard_indexes[SHARD_INDEXES] = {
    { "/image/offset", SHARD_I64, 0, COLUMN(offset) },
    { "/image/length", SHARD_I64, 0, COLUMN(length) },
    { "/image/text_offset", SHARD_I64, 0, COLUMN(text_offset) },
    { "/image/text_length", SHARD_I64, 0, COLUMN(text_length) },
    { "/image/first_mask", SHARD_I64, 1, COLUMN(first_mask) },
    { "/image/xxh3", SHARD_U64, 0, COLUMN(hash) },
    { "/image/id", SHARD_I64, 0, COLUMN(id) },
    { "/image/height", SHARD_I32, 0, COLUMN(height) },
    { "/image/width", SHARD_I32, 0, COLUMN(width) },
    { "/image/stored_height", SHARD_I32, 0, COLUMN(stored_height) },
    { "/image/stored_width", SHARD_I32, 0, COLUMN(stored_width) },
    { "/image/codec", SHARD_I32, 0, COLUMN(codec) },
};

int64_t shard_type_bytes(enum shard_type t)
{
    static const int64_t bytes[] = { 1, 4, 8, 8, 4 };

    return bytes[t];
}

/* ---- index ----------------------------------------------------------------------------------- */

void **shard_index_column(struct shard_index *x, int column)
{
    return (void **)((char *)x + shard_indexes[column].position);
}

enum status shard_index_create(struct shard_index *x, int64_t n_images)
{
    memset(x, 0, sizeof *x);
    for (int i = 0; i < SHARD_INDEXES; i++) {
        const struct shard_index_row *t = &shard_indexes[i];
        void *p = calloc((size_t)(n_images + t->extra), (size_t)shard_type_bytes(t->type));

        if (!p) {
            shard_index_destroy(x);
            FAIL(E_MEMORY, "shard: no memory for the index of %" PRId64 " images", n_images);
        }
        *shard_index_column(x, i) = p;
    }
    return OK;
}

void shard_index_destroy(struct shard_index *x)
{
    for (int i = 0; i < SHARD_INDEXES; i++) free(*shard_index_column(x, i));
    memset(x, 0, sizeof *x);
}

void shard_row(const struct shard_index *x, int64_t i, int64_t row[SHARD_ROW])
{
    row[0] = x->id[i];
    row[1] = x->height[i];
    row[2] = x->width[i];
    row[3] = x->stored_height[i];
    row[4] = x->stored_width[i];
    row[5] = x->codec[i];
    row[6] = x->offset[i];
    row[7] = x->length[i];
    row[8] = x->text_offset[i];
    row[9] = x->text_length[i];
    row[10] = x->first_mask[i];
    row[11] = x->first_mask[i + 1] - x->first_mask[i];
}

/* Offsets ascend without gaps from 0 to the end of the bulk, so that every bulk byte belongs to
 * exactly one record and is covered by its hash. */
static enum status check_index(const struct shard_index *x, const struct shard_summary *s,
                               const char *path)
{
    int64_t image_at = 0, text_at = 0;

    for (int64_t i = 0; i < s->n_images; i++) {
        const int64_t first = x->first_mask[i], last = x->first_mask[i + 1];

        if (x->offset[i] != image_at || x->length[i] < 1 || x->length[i] > SHARD_IMAGE_BYTES_MAX ||
            x->length[i] > s->bulk_bytes[BULK_IMAGE] - image_at || x->text_offset[i] != text_at ||
            x->text_length[i] < 0 || x->text_length[i] > SHARD_IMAGE_BYTES_MAX ||
            x->text_length[i] > s->bulk_bytes[BULK_TEXT] - text_at || first < 0 || last < first ||
            last > s->n_masks || last - first > SHARD_MASKS_MAX)
            FAIL(E_CORRUPT, "shard: %s: the index of record %" PRId64 " points outside its data",
                 path, i);
        image_at += x->length[i];
        text_at += x->text_length[i];
    }
    if (image_at != s->bulk_bytes[BULK_IMAGE] || text_at != s->bulk_bytes[BULK_TEXT] ||
        x->first_mask[0] != 0 || x->first_mask[s->n_images] != s->n_masks)
        FAIL(E_CORRUPT, "shard: %s: the index does not cover all of its data", path);
    return OK;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

enum status shard_pread(int fd, const char *path, void *p, int64_t n, int64_t at)
{
    char *to = p;

    while (n > 0) {
        const ssize_t got = pread(fd, to, (size_t)n, at);

        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            FAIL(E_IO, "shard: %s: reading at byte %" PRId64 ": %s", path, at, strerror(errno));
        if (got == 0)
            FAIL(E_CORRUPT, "shard: %s is truncated at byte %" PRId64 SHARD_CURE, path, at);
        to += got;
        at += got;
        n -= got;
    }
    return OK;
}

enum status shard_pwrite(int fd, const char *path, const void *p, int64_t n, int64_t at)
{
    const char *from = p;

    while (n > 0) {
        const ssize_t done = pwrite(fd, from, (size_t)n, at);

        if (done < 0 && errno == EINTR) continue;
        if (done <= 0)
            FAIL(E_IO, "shard: writing %s at byte %" PRId64 ": %s", path, at, strerror(errno));
        from += done;
        at += done;
        n -= done;
    }
    return OK;
}

void shard_buffer_destroy(struct shard_buffer *b)
{
    if (!b) return;
    free(b->data);
    *b = (struct shard_buffer){ 0 };
}

static enum status reserve(struct shard_buffer *b, int64_t bytes)
{
    const int64_t room = bytes + bytes / 4 + 64;

    if (bytes <= b->bytes) return OK;
    free(b->data);
    b->data = malloc((size_t)room);
    b->bytes = b->data ? room : 0;
    if (!b->data) FAIL(E_MEMORY, "shard: no memory for a record of %" PRId64 " bytes", bytes);
    return OK;
}

/* ---- hashes ---------------------------------------------------------------------------------- */

static enum status hash_range(int fd, const char *path, int64_t begin, int64_t end, void *block,
                              XXH3_state_t *state)
{
    while (begin < end) {
        const int64_t n = end - begin < BLOCK ? end - begin : BLOCK;

        TRY(shard_pread(fd, path, block, n, begin));
        XXH3_64bits_update(state, block, (size_t)n);
        begin += n;
    }
    return OK;
}

int shard_bulk_order(const struct shard_summary *s, int order[SHARD_BULKS])
{
    int64_t at = 0;

    for (int i = 0; i < SHARD_BULKS; i++) {
        int k = i;

        for (; k > 0 && s->bulk_at[order[k - 1]] > s->bulk_at[i]; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    for (int k = 0; k < SHARD_BULKS; k++) {
        const int64_t begin = s->bulk_at[order[k]], bytes = s->bulk_bytes[order[k]];

        if (bytes < 0 || begin < 0 || (bytes == 0 && begin != 0)) return 0;
        if (bytes > 0 && (begin < at || begin > s->bytes || bytes > s->bytes - begin)) return 0;
        if (bytes > 0) at = begin + bytes;
    }
    return 1;
}

enum status shard_head_hash(int fd, const char *path, const struct shard_summary *s, uint64_t *hash)
{
    XXH3_state_t *state = XXH3_createState();
    void *block = malloc(BLOCK);
    enum status status = OK;
    int order[SHARD_BULKS];
    int64_t at = 0;

    if (!state || !block) {
        status = status_fail(E_MEMORY, __FILE__, __LINE__, "shard: no memory to hash %s", path);
    } else if (!shard_bulk_order(s, order)) {
        status = status_fail(E_CORRUPT, __FILE__, __LINE__, "shard: %s: its bulk datasets overlap",
                             path);
    } else {
        XXH3_64bits_reset(state);
        for (int k = 0; k < SHARD_BULKS && status == OK; k++) {
            const int i = order[k];

            if (s->bulk_bytes[i] == 0) continue;
            status = hash_range(fd, path, at, s->bulk_at[i], block, state);
            at = s->bulk_at[i] + s->bulk_bytes[i];
        }
        if (status == OK) status = hash_range(fd, path, at, s->bytes, block, state);
        if (status == OK) *hash = XXH3_64bits_digest(state);
    }
    free(block);
    XXH3_freeState(state);
    return status;
}

enum status shard_bulk_hash_create(struct shard_bulk_hash *h)
{
    for (int i = 0; i < SHARD_BULKS; i++) h->state[i] = XXH3_createState();
    for (int i = 0; i < SHARD_BULKS; i++) {
        if (!h->state[i]) {
            shard_bulk_hash_destroy(h);
            FAIL(E_MEMORY, "shard: no memory for hashes");
        }
        XXH3_64bits_reset(h->state[i]);
    }
    return OK;
}

void shard_bulk_hash_destroy(struct shard_bulk_hash *h)
{
    for (int i = 0; i < SHARD_BULKS; i++) {
        XXH3_freeState(h->state[i]);
        h->state[i] = NULL;
    }
}

void shard_bulk_hash_add(struct shard_bulk_hash *h, const struct shard_record *r)
{
    const size_t n = (size_t)r->n_masks;

    XXH3_64bits_update(h->state[BULK_IMAGE], r->image, (size_t)r->image_bytes);
    if (n == 0) return;
    XXH3_64bits_update(h->state[BULK_TEXT], r->mask_text, (size_t)shard_text_bytes(r));
    XXH3_64bits_update(h->state[BULK_END], r->mask_end, n * sizeof *r->mask_end);
    XXH3_64bits_update(h->state[BULK_AREA], r->mask_area, n * sizeof *r->mask_area);
    XXH3_64bits_update(h->state[BULK_BOX], r->mask_box, n * 4 * sizeof *r->mask_box);
}

uint64_t shard_bulk_hash_value(const struct shard_bulk_hash *h)
{
    uint64_t digest[SHARD_BULKS];

    for (int i = 0; i < SHARD_BULKS; i++) digest[i] = XXH3_64bits_digest(h->state[i]);
    return XXH3_64bits(digest, sizeof digest);
}

/* ---- records --------------------------------------------------------------------------------- */

int64_t shard_text_bytes(const struct shard_record *r)
{
    return r->n_masks > 0 ? r->mask_end[r->n_masks - 1] : 0;
}

static const char *mask_fault(const struct shard_record *r, int64_t m)
{
    const float *b = r->mask_box + 4 * m;

    if (r->mask_end[m] <= (m > 0 ? r->mask_end[m - 1] : 0)) return "mask texts do not ascend";
    if (r->mask_end[m] > SHARD_IMAGE_BYTES_MAX) return "mask texts beyond the cap";
    if (r->mask_area[m] < 0 || r->mask_area[m] > (int64_t)r->height * r->width)
        return "a mask's area is not within the image";
    if (!(b[0] >= 0 && b[0] <= b[2] && b[2] <= (float)r->width && b[1] >= 0 && b[1] <= b[3] &&
          b[3] <= (float)r->height))
        return "a mask's box is not within the image";
    return NULL;
}

enum status shard_record_check(const struct shard_record *r, const char **why)
{
    *why = NULL;
    if (r->height < 1 || r->height > RLE_SIDE_MAX || r->width < 1 || r->width > RLE_SIDE_MAX ||
        (int64_t)r->height * r->width > RLE_AREA_MAX)
        *why = "image size beyond the cap";
    else if (r->stored_height < 1 || r->stored_height > r->height || r->stored_width < 1 ||
             r->stored_width > r->width ||
             (int64_t)r->stored_height * r->stored_width > PICTURE_PIXELS_MAX)
        *why = "stored size beyond the image's or the cap";
    else if (r->codec != SHARD_JPEG && r->codec != SHARD_PNG)
        *why = "unknown codec";
    else if (r->image_bytes < 1 || r->image_bytes > SHARD_IMAGE_BYTES_MAX)
        *why = "image bytes beyond the cap";
    else if (r->n_masks < 0 || r->n_masks > SHARD_MASKS_MAX)
        *why = "number of masks beyond the cap";
    for (int64_t m = 0; m < r->n_masks && !*why; m++) *why = mask_fault(r, m);
    return *why ? E_CORRUPT : OK;
}

/* The buffer holds row, ends, areas, boxes, texts, image, one behind the other: that is also the
 * order in which they are hashed, so that one call hashes them all. */
enum status shard_file_read(const struct shard_file *f, const char *path, int64_t i,
                            struct shard_buffer *b, struct shard_record *r)
{
    const struct shard_index *x = &f->index;
    const int64_t first = x->first_mask[i], n = x->first_mask[i + 1] - first;
    const int64_t text = x->text_length[i], image = x->length[i];
    const int64_t row_bytes = SHARD_ROW * (int64_t)sizeof(int64_t);
    const int64_t all = row_bytes + n * 32 + text + image;
    const int64_t *at = f->summary.bulk_at;
    uint8_t *end, *area, *box, *texts, *pixels;
    const char *why;
    uint64_t hash;

    TRY(reserve(b, all));
    end = b->data + row_bytes;
    area = end + 8 * n;
    box = area + 8 * n;
    texts = box + 16 * n;
    pixels = texts + text;
    shard_row(x, i, (int64_t *)(void *)b->data);
    TRY(shard_pread(f->fd, path, end, 8 * n, at[BULK_END] + 8 * first));
    TRY(shard_pread(f->fd, path, area, 8 * n, at[BULK_AREA] + 8 * first));
    TRY(shard_pread(f->fd, path, box, 16 * n, at[BULK_BOX] + 16 * first));
    TRY(shard_pread(f->fd, path, texts, text, at[BULK_TEXT] + x->text_offset[i]));
    TRY(shard_pread(f->fd, path, pixels, image, at[BULK_IMAGE] + x->offset[i]));
    hash = XXH3_64bits(b->data, (size_t)all);
    if (hash != x->hash[i])
        FAIL(E_CORRUPT,
             "shard: %s, record %" PRId64 " (image id %" PRId64 "): its bytes hash to %016" PRIx64
             ", its index says %016" PRIx64 SHARD_CURE,
             path, i, x->id[i], hash, x->hash[i]);
    *r = (struct shard_record){ .image_id = x->id[i],
                                .height = x->height[i],
                                .width = x->width[i],
                                .stored_height = x->stored_height[i],
                                .stored_width = x->stored_width[i],
                                .codec = (enum shard_codec)x->codec[i],
                                .image = pixels,
                                .image_bytes = image,
                                .n_masks = n,
                                .mask_text = (const char *)texts,
                                .mask_end = (const int64_t *)(const void *)end,
                                .mask_area = (const int64_t *)(const void *)area,
                                .mask_box = (const float *)(const void *)box };
    if (shard_record_check(r, &why) != OK)
        FAIL(E_CORRUPT, "shard: %s, record %" PRId64 " (image id %" PRId64 "): %s", path, i,
             x->id[i], why);
    if (shard_text_bytes(r) != text)
        FAIL(E_CORRUPT,
             "shard: %s, record %" PRId64 " (image id %" PRId64 "): %" PRId64
             " bytes of mask texts, its masks end at %" PRId64,
             path, i, x->id[i], text, shard_text_bytes(r));
    return OK;
}

/* ---- files ----------------------------------------------------------------------------------- */

int shard_name_valid(const char *name)
{
    const size_t n = strlen(name);

    return n > 0 && n < SHARD_NAME && name[0] != '.' &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static enum status check_head(int fd, const char *path, const struct shard_summary *s)
{
    struct stat st;
    uint64_t hash;

    if (fstat(fd, &st) != 0) FAIL(E_IO, "shard: %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) FAIL(E_CORRUPT, "shard: %s is not a regular file", path);
    if (st.st_size != s->bytes)
        FAIL(E_CORRUPT, "shard: %s has %" PRId64 " bytes, the manifest says %" PRId64 SHARD_CURE,
             path, (int64_t)st.st_size, s->bytes);
    TRY(shard_head_hash(fd, path, s, &hash));
    if (hash != s->head_hash)
        FAIL(E_CORRUPT,
             "shard: %s: its head hashes to %016" PRIx64
             ", the manifest says %016" PRIx64 SHARD_CURE,
             path, hash, s->head_hash);
    return OK;
}

enum status shard_file_open(struct shard_file *f, const char *path,
                            const struct shard_summary *summary)
{
    enum status s;

    *f = (struct shard_file){ .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK),
                              .summary = *summary };
    if (f->fd < 0 && errno == ENOENT)
        FAIL(E_CORRUPT,
             "shard: %s is listed in the manifest but missing; fetch it again, or pack again",
             path);
    if (f->fd < 0) FAIL(E_IO, "shard: cannot open %s: %s", path, strerror(errno));
    s = check_head(f->fd, path, summary);
    if (s == OK) s = shard_h5_read(path, summary, &f->index);
    if (s == OK) s = check_index(&f->index, summary, path);
    if (s != OK) shard_file_close(f);
    return s;
}

void shard_file_close(struct shard_file *f)
{
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
    shard_index_destroy(&f->index);
}

enum status shard_file_verify(const struct shard_file *f, const char *path)
{
    struct shard_buffer b = { 0 };
    struct shard_bulk_hash h = { 0 };
    struct shard_record r;
    enum status s;

    TRY(check_head(f->fd, path, &f->summary));
    s = shard_bulk_hash_create(&h);
    for (int64_t i = 0; i < f->summary.n_images && s == OK; i++) {
        s = shard_file_read(f, path, i, &b, &r);
        if (s == OK) shard_bulk_hash_add(&h, &r);
    }
    if (s == OK && shard_bulk_hash_value(&h) != f->summary.bulk_hash)
        s = status_fail(E_CORRUPT, __FILE__, __LINE__,
                        "shard: %s: every record is whole, but together they are not what the "
                        "manifest says: the shard was replaced",
                        path);
    shard_bulk_hash_destroy(&h);
    shard_buffer_destroy(&b);
    return s;
}
