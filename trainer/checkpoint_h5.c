#include "trainer/checkpoint_h5.h"

#include "trainer/checkpoint_folder.h"
#include "trainer/checkpoint_frame.h"
#include "trainer/durable_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { BLOCK = 4 << 20 }; /* bytes read at a time */

static void hash_text(XXH128_hash_t h, char hash[CHECKPOINT_HASH])
{
    snprintf(hash, CHECKPOINT_HASH, "%016" PRIx64 "%016" PRIx64, h.high64, h.low64);
}

void checkpoint_h5_hash(const void *p, int64_t bytes, char hash[CHECKPOINT_HASH])
{
    hash_text(XXH3_128bits(p, (size_t)bytes), hash);
}

/* ---- writing plain ----------------------------------------------------------------------------
 */

static enum status write_at(int fd, const char *path, int64_t offset, const void *p, int64_t bytes)
{
    const char *from = p;

    while (bytes > 0) {
        const size_t part = bytes > 1 << 30 ? 1 << 30 : (size_t)bytes;
        const ssize_t put = pwrite(fd, from, part, offset);

        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) FAIL(E_IO, "writing %s: %s%s", path, strerror(errno), durable_cure(errno));
        from += put;
        offset += put;
        bytes -= put;
    }
    return OK;
}

static enum status write_file(int fd, const char *path, const struct checkpoint_frame *frame,
                              const struct checkpoint_state *s, struct plan_range part,
                              const struct checkpoint_file *f)
{
    if (ftruncate(fd, f->bytes) != 0)
        FAIL(E_IO, "making %s of %lld bytes: %s%s", path, (long long)f->bytes, strerror(errno),
             durable_cure(errno));
    for (int i = 0; i < frame->n; i++)
        TRY(write_at(fd, path, frame->patch[i].offset, frame->patch[i].bytes, frame->patch[i].n));
    for (int a = 0; a < s->n_arrays; a++)
        TRY(write_at(fd, path, f->slice[a].offset, s->array[a] + part.begin,
                     (part.end - part.begin) * (int64_t)sizeof(float)));
    if (fsync(fd) != 0) FAIL(E_IO, "fsync of %s: %s%s", path, strerror(errno), durable_cure(errno));
    return OK;
}

/* ---- reading plain ----------------------------------------------------------------------------
 */

static enum status read_at(int fd, const char *path, int64_t offset, void *p, int64_t bytes)
{
    char *to = p;

    while (bytes > 0) {
        const size_t part = bytes > 1 << 30 ? 1 << 30 : (size_t)bytes;
        const ssize_t got = pread(fd, to, part, offset);

        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return checkpoint_folder_unread(path, errno);
        if (got == 0) FAIL(E_CORRUPT, "%s is cut off at byte %lld", path, (long long)offset);
        to += got;
        offset += got;
        bytes -= got;
    }
    return OK;
}

static enum status hash_range(int fd, const char *path, int64_t offset, int64_t bytes,
                              char hash[CHECKPOINT_HASH])
{
    XXH3_state_t *state = XXH3_createState();
    char *block = malloc(BLOCK);
    enum status s = OK;

    if (state && block) {
        XXH3_128bits_reset(state);
        while (bytes > 0 && s == OK) {
            const int64_t part = bytes < BLOCK ? bytes : BLOCK;

            s = read_at(fd, path, offset, block, part);
            if (s == OK) XXH3_128bits_update(state, block, (size_t)part);
            offset += part;
            bytes -= part;
        }
        hash_text(XXH3_128bits_digest(state), hash);
    }
    free(block);
    if (!state || !block) {
        XXH3_freeState(state);
        FAIL(E_MEMORY, "%s: a block to read it in", path);
    }
    XXH3_freeState(state);
    return s;
}

static enum status open_plain(const char *path, int *fd, int64_t *bytes)
{
    struct stat info;

    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0) return checkpoint_folder_unread(path, errno);
    if (fstat(*fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(*fd);
        FAIL(E_CORRUPT, "%s is not a regular file", path);
    }
    *bytes = info.st_size;
    return OK;
}

/* From the disk where the cache can be told to forget, and from its first byte. */
static enum status read_back(int fd, const char *path, const struct checkpoint_state *s,
                             struct plan_range part, struct checkpoint_file *f)
{
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    TRY(hash_range(fd, path, 0, f->bytes, f->hash));
    for (int a = 0; a < s->n_arrays; a++) {
        char hash[CHECKPOINT_HASH];

        TRY(hash_range(fd, path, f->slice[a].offset,
                       (part.end - part.begin) * (int64_t)sizeof(float), hash));
        if (strcmp(hash, f->slice[a].hash) != 0)
            FAIL(E_CORRUPT,
                 "%s: %s read back differs from memory; this node's disk or memory is failing",
                 path, s->array_name[a]);
    }
    return OK;
}

static enum status write_through(const char *path, const struct checkpoint_frame *frame,
                                 const struct checkpoint_state *s, struct plan_range part,
                                 struct checkpoint_file *f)
{
    const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    enum status status;

    if (fd < 0) FAIL(E_IO, "creating %s: %s%s", path, strerror(errno), durable_cure(errno));
    status = write_file(fd, path, frame, s, part, f);
    if (status == OK) status = read_back(fd, path, s, part, f);
    if (close(fd) != 0 && status == OK) FAIL(E_IO, "closing %s: %s", path, strerror(errno));
    return status;
}

enum status checkpoint_h5_write(const char *path, const struct checkpoint_state *s,
                                struct plan_range part, struct checkpoint_file *f)
{
    struct checkpoint_frame *frame = calloc(1, sizeof *frame);
    enum status status;

    if (!frame) FAIL(E_MEMORY, "%s: its frame", path);
    for (int a = 0; a < s->n_arrays; a++)
        checkpoint_h5_hash(s->array[a] + part.begin,
                           (part.end - part.begin) * (int64_t)sizeof(float), f->slice[a].hash);
    status = checkpoint_frame_create(frame, s, part, f);
    if (status == OK) status = write_through(path, frame, s, part, f);
    checkpoint_frame_destroy(frame);
    free(frame);
    return status;
}

enum status checkpoint_h5_verify(const char *path, const struct checkpoint_file *f)
{
    char hash[CHECKPOINT_HASH] = "";
    int64_t bytes = 0;
    enum status s = OK;
    int fd = -1;

    TRY(open_plain(path, &fd, &bytes));
    if (bytes == f->bytes) s = hash_range(fd, path, 0, bytes, hash);
    close(fd);
    if (s != OK) return s;
    if (bytes != f->bytes)
        FAIL(E_CORRUPT, "%s has %lld bytes, its manifest says %lld", path, (long long)bytes,
             (long long)f->bytes);
    if (strcmp(hash, f->hash) != 0)
        FAIL(E_CORRUPT, "%s does not match its hash: damaged, or of another checkpoint", path);
    return OK;
}

enum status checkpoint_h5_read(const char *path, int64_t offset, int64_t n, float *out)
{
    int64_t bytes = 0;
    enum status s;
    int fd = -1;

    TRY(open_plain(path, &fd, &bytes));
    s = read_at(fd, path, offset, out, n * (int64_t)sizeof(float));
    close(fd);
    return s;
}
