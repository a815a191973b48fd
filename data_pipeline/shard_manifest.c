#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data_pipeline/folder.h"
#include "data_pipeline/json.h"
#include "data_pipeline/shard_file.h"
#include "kernels/base/check.h"

enum { PATH_ROOM = 4096, HEX = 16, ENTRY_ROOM = 1024 };

/* The last bytes of a manifest: the hash of everything before its 16 digits, then this. */
static const char tail[] = "\"\n}\n";
enum { TAIL = sizeof tail - 1 };

static enum status manifest_path(const char *folder, const char *suffix, char path[PATH_ROOM])
{
    if (snprintf(path, PATH_ROOM, "%s/manifest.json%s", folder, suffix) >= PATH_ROOM)
        FAIL(E_USAGE, "shard: the path %.64s… is too long", folder);
    return OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static enum status write_file(const char *path, const char *text, size_t n)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    enum status s;

    if (fd < 0) FAIL(E_IO, "shard: cannot create %s: %s", path, strerror(errno));
    s = shard_pwrite(fd, path, text, (int64_t)n, 0);
    if (s == OK && fsync(fd) != 0)
        s = status_fail(E_IO, __FILE__, __LINE__, "shard: fsync of %s: %s", path, strerror(errno));
    if (close(fd) != 0 && s == OK)
        s = status_fail(E_IO, __FILE__, __LINE__, "shard: closing %s: %s", path, strerror(errno));
    return s;
}

static int print_shard(char *to, size_t room, const struct shard_summary *s, int last)
{
    int n = snprintf(to, room,
                     "    {\"name\": \"%s\", \"bytes\": %" PRId64 ", \"images\": %" PRId64
                     ", \"masks\": %" PRId64 ",\n     \"head_hash\": \"%016" PRIx64
                     "\", \"bulk_hash\": \"%016" PRIx64 "\",\n     \"bulk\": [",
                     s->name, s->bytes, s->n_images, s->n_masks, s->head_hash, s->bulk_hash);

    for (int i = 0; i < SHARD_BULKS; i++)
        n += snprintf(to + n, room - (size_t)n, "%s[%" PRId64 ", %" PRId64 "]", i ? ", " : "",
                      s->bulk_at[i], s->bulk_bytes[i]);
    return n + snprintf(to + n, room - (size_t)n, "]}%s\n", last ? "" : ",");
}

static size_t print_manifest(char *text, size_t room, const struct shard_summary *shards,
                             int64_t n_shards, int64_t resized_to)
{
    int64_t n_images = 0, n_masks = 0;
    size_t n;

    for (int64_t i = 0; i < n_shards; i++) {
        n_images += shards[i].n_images;
        n_masks += shards[i].n_masks;
    }
    n = (size_t)snprintf(text, room,
                         "{\n  \"format\": \"%s\",\n  \"version\": %d,\n  \"resized_to\": %" PRId64
                         ",\n  \"images\": %" PRId64 ",\n  \"masks\": %" PRId64
                         ",\n  \"shards\": [\n",
                         SHARD_MANIFEST_FORMAT, SHARD_VERSION, resized_to, n_images, n_masks);
    for (int64_t i = 0; i < n_shards; i++)
        n += (size_t)print_shard(text + n, room - n, &shards[i], i + 1 == n_shards);
    n += (size_t)snprintf(text + n, room - n, "  ],\n  \"hash\": \"");
    n += (size_t)snprintf(text + n, room - n, "%016" PRIx64 "%s", XXH3_64bits(text, n), tail);
    ASSERT(n < room);
    return n;
}

enum status shard_manifest_write(const char *folder, const struct shard_summary *shards,
                                 int64_t n_shards, int64_t resized_to)
{
    const size_t room = (size_t)(n_shards + 1) * ENTRY_ROOM;
    char path[PATH_ROOM], temporary[PATH_ROOM];
    enum status s;
    char *text;

    TRY(manifest_path(folder, "", path));
    TRY(manifest_path(folder, ".tmp", temporary));
    if (n_shards < 1 || n_shards > SHARD_SHARDS_MAX)
        FAIL(E_USAGE, "shard: a manifest of %" PRId64 " shards; 1 to %d are possible", n_shards,
             (int)SHARD_SHARDS_MAX);
    for (int64_t i = 0; i < n_shards; i++)
        if (!shard_name_valid(shards[i].name))
            FAIL(E_USAGE, "shard: \"%s\" cannot be a shard's name", shards[i].name);
    text = malloc(room);
    if (!text) FAIL(E_MEMORY, "shard: no memory for a manifest of %" PRId64 " shards", n_shards);
    s = write_file(temporary, text, print_manifest(text, room, shards, n_shards, resized_to));
    if (s == OK && rename(temporary, path) != 0)
        s = status_fail(E_IO, __FILE__, __LINE__, "shard: renaming %s: %s", temporary,
                        strerror(errno));
    if (s == OK) s = folder_sync(folder);
    if (s != OK) unlink(temporary);
    free(text);
    return s;
}

/* ---- reading --------------------------------------------------------------------------------- */

static enum status read_text(const char *path, char **text, int64_t *n)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    enum status s = OK;
    struct stat st;

    if (fd < 0 && errno == ENOENT)
        FAIL(E_MISSING,
             "shards: there is no %s; name a folder in which samforge pack has packed all it was "
             "given",
             path);
    if (fd < 0)
        FAIL(E_IO, "shard: cannot open %s: %s; make it readable, or name another folder of shards",
             path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > SHARD_MANIFEST_MAX) {
        close(fd);
        FAIL(E_CORRUPT, "shard: %s is not a file of at most %d bytes", path,
             (int)SHARD_MANIFEST_MAX);
    }
    *n = st.st_size;
    *text = malloc((size_t)*n + 1);
    if (!*text)
        s = status_fail(E_MEMORY, __FILE__, __LINE__, "shard: no memory to read %s", path);
    else
        s = shard_pread(fd, path, *text, *n, 0);
    close(fd);
    if (s != OK) {
        free(*text);
        *text = NULL;
    }
    return s;
}

static int is_hex(const char *p)
{
    return strspn(p, "0123456789abcdef") == HEX && p[HEX] == 0;
}

static enum status check_hash(const char *path, const char *text, int64_t n, uint64_t *hash)
{
    char told[HEX + 1] = "", found[HEX + 1];
    const int64_t at = n - HEX - TAIL;

    if (at < 0 || memcmp(text + n - TAIL, tail, TAIL) != 0)
        FAIL(E_CORRUPT, "shard: %s does not end as a manifest does: fetch or pack it again", path);
    memcpy(told, text + at, HEX);
    *hash = XXH3_64bits(text, (size_t)at);
    snprintf(found, sizeof found, "%016" PRIx64, *hash);
    if (memcmp(told, found, HEX) != 0)
        FAIL(E_CORRUPT,
             "shard: %s hashes to %s, it says \"%s\": it was changed; fetch or pack it again", path,
             found, is_hex(told) ? told : "?");
    return OK;
}

static int parse_bulk(json_t *bulk, struct shard_summary *s)
{
    int order[SHARD_BULKS];

    if (!json_is_array(bulk) || json_array_size(bulk) != SHARD_BULKS) return 0;
    for (int i = 0; i < SHARD_BULKS; i++) {
        json_int_t offset, bytes;

        if (json_unpack(json_array_get(bulk, (size_t)i), "[I,I!]", &offset, &bytes) != 0) return 0;
        s->bulk_at[i] = offset;
        s->bulk_bytes[i] = bytes;
    }
    return shard_bulk_order(s, order) && s->bulk_bytes[BULK_END] == 8 * s->n_masks &&
           s->bulk_bytes[BULK_AREA] == 8 * s->n_masks && s->bulk_bytes[BULK_BOX] == 16 * s->n_masks;
}

static int parse_shard(json_t *entry, struct shard_summary *s)
{
    const char *name, *head, *bulk;
    json_int_t bytes, images, masks;
    json_t *ranges;

    if (json_unpack_ex(entry, NULL, JSON_STRICT, "{s:s,s:I,s:I,s:I,s:s,s:s,s:o}", "name", &name,
                       "bytes", &bytes, "images", &images, "masks", &masks, "head_hash", &head,
                       "bulk_hash", &bulk, "bulk", &ranges) != 0)
        return 0;
    if (!shard_name_valid(name) || bytes < 0 || images < 1 || images > SHARD_IMAGES_MAX ||
        masks < 0 || masks > images * SHARD_MASKS_MAX || !is_hex(head) || !is_hex(bulk))
        return 0;
    snprintf(s->name, sizeof s->name, "%s", name);
    s->bytes = bytes;
    s->n_images = images;
    s->n_masks = masks;
    s->head_hash = strtoull(head, NULL, 16);
    s->bulk_hash = strtoull(bulk, NULL, 16);
    return parse_bulk(ranges, s);
}

static enum status parse_shards(const char *path, json_t *list, struct shard_summary **shards,
                                int64_t *n_shards, int64_t n_images, int64_t n_masks)
{
    const int64_t n = (int64_t)json_array_size(list);
    int64_t images = 0, masks = 0;
    struct shard_summary *all;

    if (!json_is_array(list) || n < 1 || n > SHARD_SHARDS_MAX)
        FAIL(E_CORRUPT, "shard: %s lists no shards, or more than %d", path, (int)SHARD_SHARDS_MAX);
    all = calloc((size_t)n, sizeof *all);
    if (!all) FAIL(E_MEMORY, "shard: no memory for %" PRId64 " shards", n);
    for (int64_t i = 0; i < n; i++) {
        if (!parse_shard(json_array_get(list, (size_t)i), &all[i])) {
            free(all);
            FAIL(E_CORRUPT,
                 "shard: %s: its entry %" PRId64 " is not what a manifest says of a shard", path,
                 i);
        }
        images += all[i].n_images;
        masks += all[i].n_masks;
    }
    if (images != n_images || masks != n_masks) {
        free(all);
        FAIL(E_CORRUPT, "shard: %s: its counts are not the sums over its shards", path);
    }
    *shards = all;
    *n_shards = n;
    return OK;
}

static enum status parse_manifest(const char *path, json_t *root, struct shard_summary **shards,
                                  int64_t *n_shards, int64_t *resized_to)
{
    json_int_t version = 0, resized = 0, images = 0, masks = 0;
    const char *format = "", *hash;
    json_error_t why;
    json_t *list;

    if (json_unpack(root, "{s:s,s:I}", "format", &format, "version", &version) != 0 ||
        strcmp(format, SHARD_MANIFEST_FORMAT) != 0)
        FAIL(E_CORRUPT, "shard: %s is not a manifest of shards", path);
    if (version != SHARD_VERSION)
        FAIL(E_CORRUPT,
             "shard: %s has format version %d; this program reads version %d: pack again", path,
             (int)version, (int)SHARD_VERSION);
    if (json_unpack_ex(root, &why, JSON_STRICT, "{s:s,s:I,s:I,s:I,s:I,s:o,s:s}", "format", &format,
                       "version", &version, "resized_to", &resized, "images", &images, "masks",
                       &masks, "shards", &list, "hash", &hash) != 0)
        FAIL(E_CORRUPT, "shard: %s: %s", path, why.text);
    if (resized < 0 || resized > INT32_MAX)
        FAIL(E_CORRUPT, "shard: %s: resized_to is %" PRId64, path, (int64_t)resized);
    TRY(parse_shards(path, list, shards, n_shards, images, masks));
    *resized_to = resized;
    return OK;
}

enum status shard_manifest_read(const char *folder, struct shard_summary **shards,
                                int64_t *n_shards, int64_t *resized_to, uint64_t *hash)
{
    static const struct json_limits limits = { .bytes = SHARD_MANIFEST_MAX,
                                               .string_bytes = SHARD_NAME };
    char path[PATH_ROOM], why[JSON_WHY], *text = NULL;
    uint64_t found = 0;
    int64_t n = 0;
    enum status s;

    TRY(manifest_path(folder, "", path));
    TRY(read_text(path, &text, &n));
    s = check_hash(path, text, n, &found);
    if (s == OK) {
        json_t *root = NULL;

        s = json_parse(text, n, &limits, &root, why);
        if (s == OK)
            s = parse_manifest(path, root, shards, n_shards, resized_to);
        else
            s = status_fail(E_CORRUPT, __FILE__, __LINE__, "shard: %s: %s", path, why);
        json_decref(root);
    }
    if (s == OK && hash) *hash = found;
    free(text);
    return s;
}
