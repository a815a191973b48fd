#include "trainer/durable_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TRIES = 100 }; /* temporary names tried before giving up */

const char *durable_cure(int error)
{
    switch (error) {
    case ENOSPC:
        return "; the disk is full: free some space and start again";
    case EDQUOT:
        return "; the quota is used up: free some space and start again";
    case EROFS:
        return "; the file system is mounted read-only";
    case EACCES:
    case EPERM:
        return "; check the folder's owner and permissions";
    default:
        return "";
    }
}

/* The folder part of path, "." when there is none, into buf; returns buf. */
static const char *folder_of(const char *path, char buf[DURABLE_PATH])
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        strcpy(buf, ".");
    else
        snprintf(buf, DURABLE_PATH, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    return buf;
}

enum status durable_sync_folder(const char *folder)
{
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int problem = 0;

    if (fd < 0) FAIL(E_IO, "folder %s: %s", folder, strerror(errno));
    /* EINVAL: a file system that has no such call and needs none */
    if (fsync(fd) != 0 && errno != EINVAL) problem = errno;
    close(fd);
    if (problem) FAIL(E_IO, "fsync of folder %s: %s", folder, strerror(problem));
    return OK;
}

enum status durable_file_create(struct durable_file *f, const char *path)
{
    struct durable_file draft = { .fd = -1 };

    if (strlen(path) + 32 >= DURABLE_PATH)
        FAIL(E_IO, "a path of %zu bytes is too long", strlen(path));
    strcpy(draft.path, path);
    for (int i = 0; i < TRIES && draft.fd < 0; i++) {
        snprintf(draft.temporary, DURABLE_PATH, "%.1160s.tmp-%ld-%d", path, (long)getpid(), i);
        draft.fd = open(draft.temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (draft.fd < 0 && errno != EEXIST) break;
    }
    if (draft.fd < 0)
        FAIL(E_IO, "%s cannot be created: %s%s", path, strerror(errno), durable_cure(errno));
    *f = draft;
    return OK;
}

enum status durable_file_write(struct durable_file *f, const void *p, int64_t n)
{
    const char *from = p;

    while (n > 0) {
        /* at most 1 GiB a call: Linux moves no more than 2 GiB − 4 KiB */
        const size_t part = n > 1 << 30 ? 1 << 30 : (size_t)n;
        const ssize_t put = write(f->fd, from, part);

        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) FAIL(E_IO, "writing %s: %s%s", f->path, strerror(errno), durable_cure(errno));
        from += put;
        n -= put;
    }
    return OK;
}

static enum status finish(struct durable_file *f)
{
    char folder[DURABLE_PATH];

    if (fsync(f->fd) != 0)
        FAIL(E_IO, "fsync of %s: %s%s", f->path, strerror(errno), durable_cure(errno));
    if (rename(f->temporary, f->path) != 0)
        FAIL(E_IO, "renaming to %s: %s%s", f->path, strerror(errno), durable_cure(errno));
    f->temporary[0] = 0;
    return durable_sync_folder(folder_of(f->path, folder));
}

enum status durable_file_commit(struct durable_file *f)
{
    enum status s = finish(f);

    if (close(f->fd) != 0 && s == OK) {
        f->fd = -1;
        FAIL(E_IO, "closing %s: %s", f->path, strerror(errno));
    }
    f->fd = -1;
    durable_file_abandon(f);
    return s;
}

void durable_file_abandon(struct durable_file *f)
{
    if (f->temporary[0]) {
        if (f->fd >= 0) close(f->fd);
        unlink(f->temporary);
    }
    f->fd = -1;
    f->temporary[0] = 0;
}

enum status durable_write(const char *path, const void *p, int64_t n)
{
    struct durable_file f;
    enum status s;

    TRY(durable_file_create(&f, path));
    s = durable_file_write(&f, p, n);
    if (s == OK) return durable_file_commit(&f);
    durable_file_abandon(&f);
    return s;
}
