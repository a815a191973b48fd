#include "data_pipeline/folder.h"

#include "data_pipeline/grow.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum status read_names(struct folder *f, DIR *d, const char *path)
{
    for (;;) {
        const struct dirent *entry;
        char *name;

        errno = 0;
        entry = readdir(d);
        if (!entry) break;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (f->n == FOLDER_NAMES_MAX)
            FAIL(E_USAGE, "folder: %s holds more than %d files", path, FOLDER_NAMES_MAX);
        GROW(f->names, f->room, f->n + 1);
        name = strdup(entry->d_name);
        if (!name) FAIL(E_MEMORY, "folder: no memory to list %s", path);
        f->names[f->n++] = name;
    }
    if (errno) FAIL(E_IO, "folder: cannot read %s: %s", path, strerror(errno));
    return OK;
}

enum status folder_list(struct folder *f, const char *path)
{
    struct folder fresh = { 0 };
    DIR *const d = opendir(path);
    enum status s;

    if (!d) FAIL(E_IO, "folder: cannot open %s: %s", path, strerror(errno));
    s = read_names(&fresh, d, path);
    closedir(d);
    if (s != OK) {
        folder_destroy(&fresh);
        return s;
    }
    if (fresh.n) qsort(fresh.names, (size_t)fresh.n, sizeof *fresh.names, by_name);
    *f = fresh;
    return OK;
}

void folder_destroy(struct folder *f)
{
    if (!f) return;
    for (int64_t i = 0; i < f->n; i++) free(f->names[i]);
    free(f->names);
    memset(f, 0, sizeof *f);
}

bool folder_has(const struct folder *f, const char *name)
{
    return f->n && bsearch(&name, f->names, (size_t)f->n, sizeof *f->names, by_name);
}

bool folder_ends_with(const char *name, const char *suffix)
{
    const size_t n = strlen(name), m = strlen(suffix);

    return n > m && strcmp(name + n - m, suffix) == 0;
}

static enum status make_one(const char *path)
{
    struct stat info;
    int problem;

    if (mkdir(path, 0777) == 0) return OK;
    problem = errno;
    if (problem != EEXIST) FAIL(E_IO, "folder: cannot make %s: %s", path, strerror(problem));
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        FAIL(E_USAGE, "folder: %s is a file: name a folder, or one that is to be made", path);
    return OK;
}

enum status folder_make(const char *path)
{
    char part[FOLDER_PATH];
    const size_t n = strlen(path);

    if (n == 0 || n >= sizeof part)
        FAIL(E_USAGE, "folder: a path of %zu bytes; 1 to %d are possible", n, FOLDER_PATH - 1);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        part[i] = 0;
        TRY(make_one(part));
        part[i] = path[i];
    }
    return OK;
}

enum status folder_sync(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int problem = 0;

    if (fd < 0) FAIL(E_IO, "folder: cannot open %s: %s", path, strerror(errno));
    /* EINVAL: a file system that has no such call and needs none */
    if (fsync(fd) != 0 && errno != EINVAL) problem = errno;
    close(fd);
    if (problem) FAIL(E_IO, "folder: cannot sync %s: %s", path, strerror(problem));
    return OK;
}

enum status folder_join(char path[FOLDER_PATH], const char *folder, const char *name)
{
    if (snprintf(path, FOLDER_PATH, "%s/%s", folder, name) >= FOLDER_PATH)
        FAIL(E_USAGE, "folder: the path of %.200s is longer than %d bytes", name, FOLDER_PATH);
    return OK;
}

void folder_file_destroy(struct folder_file *f)
{
    if (!f) return;
    free(f->bytes);
    memset(f, 0, sizeof *f);
}

static enum status read_open(struct folder_file *f, int fd, const char *path, int64_t max,
                             const char **why)
{
    struct stat info;

    if (fstat(fd, &info) != 0) FAIL(E_IO, "folder: cannot stat %s: %s", path, strerror(errno));
    *why = "is not a regular file";
    if (!S_ISREG(info.st_mode)) return E_CORRUPT;
    *why = "is larger than allowed";
    if (info.st_size > max) return E_CORRUPT;
    GROW(f->bytes, f->room, (int64_t)info.st_size);
    f->n = 0;
    while (f->n < info.st_size) {
        const ssize_t got = read(fd, f->bytes + f->n, (size_t)(info.st_size - f->n));

        if (got < 0 && errno == EINTR) continue;
        if (got < 0) FAIL(E_IO, "folder: reading %s failed: %s", path, strerror(errno));
        if (got == 0) break; /* became shorter meanwhile: its parser will say so */
        f->n += got;
    }
    return OK;
}

enum status folder_read(struct folder_file *f, const char *path, int64_t max, const char **why)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not stop us */
    enum status s;

    if (fd < 0 &&
        (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG)) {
        *why = "is missing";
        return E_CORRUPT;
    }
    if (fd < 0) FAIL(E_IO, "folder: cannot open %s: %s", path, strerror(errno));
    s = read_open(f, fd, path, max, why);
    close(fd);
    return s;
}
