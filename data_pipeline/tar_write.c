#include "data_pipeline/tar_write.h"

#include "data_pipeline/folder.h"
#include "kernels/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 512, END_BLOCKS = 2 };
#define MEMBER_MAX (((int64_t)1 << 33) - 1) /* eleven octal digits */

struct tar_writer {
    char folder[PATH_MAX], path[PATH_MAX], temporary[PATH_MAX];
    FILE *file; /* owned; NULL once committed */
};

/* A member's first block as POSIX.1-1988 lays it out; numbers are octal text. */
struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type;
    char link[100], magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155];
    char rest[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a ustar header is one block");

enum status tar_writer_create(struct tar_writer **w, const char *folder, const char *name)
{
    struct tar_writer *t = calloc(1, sizeof *t);

    if (!t) FAIL(E_MEMORY, "a tar writer");
    const int a = snprintf(t->folder, sizeof t->folder, "%s", folder);
    const int b = snprintf(t->path, sizeof t->path, "%s/%s", folder, name);
    const int c = snprintf(t->temporary, sizeof t->temporary, "%s/.%s.XXXXXX", folder, name);
    if (a >= PATH_MAX || b >= PATH_MAX || c >= PATH_MAX) {
        free(t);
        FAIL(E_USAGE, "the path of %s in %.100s… is too long", name, folder);
    }
    const int fd = mkstemp(t->temporary);
    if (fd >= 0) t->file = fdopen(fd, "wb");
    if (!t->file) {
        const int error = errno;

        if (fd >= 0) {
            close(fd);
            unlink(t->temporary);
        }
        free(t);
        FAIL(E_IO, "cannot write %s in %s: %s", name, folder, strerror(error));
    }
    *w = t;
    return OK;
}

void tar_writer_destroy(struct tar_writer *w)
{
    if (!w) return;
    if (w->file) {
        fclose(w->file);
        unlink(w->temporary);
    }
    free(w);
}

static enum status put(struct tar_writer *w, const void *bytes, int64_t n)
{
    if (fwrite(bytes, 1, (size_t)n, w->file) != (size_t)n)
        FAIL(E_IO, "writing %s stopped: %s", w->path, strerror(errno));
    return OK;
}

enum status tar_writer_add(struct tar_writer *w, const char *name, const void *bytes, int64_t n)
{
    static const char zeros[BLOCK];
    struct header h;
    unsigned sum = 0;
    const size_t n_name = strlen(name);

    ASSERT(n >= 0 && n <= MEMBER_MAX && n_name > 0 && n_name < sizeof h.name);
    memset(&h, 0, sizeof h);
    memcpy(h.name, name, n_name);
    memcpy(h.mode, "0000644", sizeof h.mode);
    memcpy(h.uid, "0000000", sizeof h.uid);
    memcpy(h.gid, "0000000", sizeof h.gid);
    snprintf(h.size, sizeof h.size, "%011llo", (unsigned long long)n);
    memcpy(h.mtime, "00000000000", sizeof h.mtime);
    memcpy(h.magic, "ustar", sizeof h.magic);
    memcpy(h.version, "00", sizeof h.version);
    h.type = '0';
    memset(h.checksum, ' ', sizeof h.checksum); /* what the sum counts its own field as */
    for (size_t i = 0; i < sizeof h; i++) sum += ((const unsigned char *)&h)[i];
    snprintf(h.checksum, sizeof h.checksum - 1, "%06o", sum);
    TRY(put(w, &h, sizeof h));
    TRY(put(w, bytes, n));
    return put(w, zeros, (BLOCK - n % BLOCK) % BLOCK);
}

enum status tar_writer_commit(struct tar_writer *w)
{
    static const char end[END_BLOCKS * BLOCK];

    TRY(put(w, end, sizeof end));
    if (fflush(w->file) || fsync(fileno(w->file)) || fchmod(fileno(w->file), 0644))
        FAIL(E_IO, "writing %s stopped: %s", w->path, strerror(errno));
    const int error = fclose(w->file) ? errno : 0;
    w->file = NULL;
    if (error || rename(w->temporary, w->path)) {
        const int cause = error ? error : errno;

        unlink(w->temporary);
        FAIL(E_IO, "cannot finish %s: %s", w->path, strerror(cause));
    }
    return folder_sync(w->folder);
}
