#include "data_pipeline/tar_input.h"

#include "kernels/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum status fill(struct tar_input *x)
{
    int64_t n = 0;

    if (x->at < x->end || x->ended) return OK;
    if (x->fd < 0) {
        n = x->memory_left < TAR_INPUT_PULL ? x->memory_left : TAR_INPUT_PULL;
        if (n > 0) memcpy(x->buffer, x->memory, (size_t)n);
        x->memory += n;
        x->memory_left -= n;
    } else {
        do n = read(x->fd, x->buffer, TAR_INPUT_PULL);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            FAIL(E_IO, "tar: reading failed at byte %lld: %s", (long long)x->bytes_in,
                 strerror(errno));
    }
    x->at = 0;
    x->end = n;
    x->bytes_in += n;
    x->ended = n == 0;
    return OK;
}

static enum status pull_plain(struct tar_input *x, uint8_t *bytes, int64_t n, int64_t *got)
{
    *got = 0;
    while (*got < n) {
        int64_t part;

        TRY(fill(x));
        if (x->ended) break;
        part = x->end - x->at;
        if (part > n - *got) part = n - *got;
        memcpy(bytes + *got, x->buffer + x->at, (size_t)part);
        x->at += part;
        *got += part;
    }
    return OK;
}

/* One step of inflate; *stop at the end of the file. */
static enum status inflate_some(struct tar_input *x, bool *stop)
{
    int rc;

    TRY(fill(x));
    if (x->ended && x->gzip_inside) {
        snprintf(x->why, sizeof x->why,
                 "gzip stream is truncated at byte %lld; fetch the file again",
                 (long long)x->bytes_in);
        return E_CORRUPT;
    }
    *stop = x->ended;
    if (x->ended) return OK;
    if (!x->gzip_inside) {           /* one gzip stream behind another is one file, as in gunzip */
        if (x->buffer[x->at] == 0) { /* padding with zeros is allowed */
            x->at++;
            return OK;
        }
        ASSERT(inflateReset(&x->z) == Z_OK);
        x->gzip_inside = true;
    }
    x->z.next_in = x->buffer + x->at;
    x->z.avail_in = (uInt)(x->end - x->at);
    rc = inflate(&x->z, Z_NO_FLUSH);
    x->at = x->end - (int64_t)x->z.avail_in;
    if (rc == Z_STREAM_END) {
        x->gzip_inside = false;
    } else if (rc != Z_OK && rc != Z_BUF_ERROR) {
        snprintf(x->why, sizeof x->why,
                 "gzip stream is damaged before byte %lld (%s); fetch the file again",
                 (long long)(x->bytes_in - x->end + x->at),
                 x->z.msg ? x->z.msg : "no reason given");
        return E_CORRUPT;
    }
    return OK;
}

enum status tar_input_pull(struct tar_input *x, uint8_t *bytes, int64_t n, int64_t *got)
{
    bool stop = false;

    ASSERT(n <= TAR_INPUT_PULL);
    if (!x->gzip) return pull_plain(x, bytes, n, got);
    x->z.next_out = bytes;
    x->z.avail_out = (uInt)n;
    while (x->z.avail_out > 0 && !stop) TRY(inflate_some(x, &stop));
    *got = n - (int64_t)x->z.avail_out;
    return OK;
}

enum status tar_input_skip(struct tar_input *x, int64_t n, int64_t *skipped)
{
    const int64_t held = x->end - x->at;

    *skipped = 0;
    if (x->gzip) return OK;
    *skipped = n < held ? n : held;
    x->at += *skipped;
    n -= *skipped;
    if (n > TAR_INPUT_PULL && x->bytes_in + n <= x->file_bytes) {
        if (lseek(x->fd, n, SEEK_CUR) < 0) FAIL(E_IO, "tar: cannot seek: %s", strerror(errno));
        x->bytes_in += n;
        *skipped += n;
    }
    return OK;
}

static enum status start(struct tar_input *x)
{
    x->buffer = malloc(TAR_INPUT_PULL);
    if (!x->buffer) FAIL(E_MEMORY, "tar: no memory for a buffer");
    TRY(fill(x));
    if (x->end >= 2 && x->buffer[0] == 0x1f && x->buffer[1] == 0x8b) {
        if (inflateInit2(&x->z, 15 + 16) != Z_OK) FAIL(E_MEMORY, "tar: zlib cannot start");
        x->gzip = x->gzip_inside = true;
    }
    return OK;
}

enum status tar_input_open(struct tar_input *x, const char *path)
{
    struct stat info;

    memset(x, 0, sizeof *x);
    x->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (x->fd < 0) FAIL(E_IO, "tar: cannot open %s: %s", path, strerror(errno));
    if (fstat(x->fd, &info) == 0 && S_ISREG(info.st_mode)) x->file_bytes = info.st_size;
    return start(x);
}

enum status tar_input_open_memory(struct tar_input *x, const uint8_t *bytes, int64_t n)
{
    memset(x, 0, sizeof *x);
    x->fd = -1;
    x->memory = bytes;
    x->memory_left = n;
    return start(x);
}

void tar_input_close(struct tar_input *x)
{
    if (x->gzip) inflateEnd(&x->z);
    if (x->fd >= 0) close(x->fd);
    free(x->buffer);
}
