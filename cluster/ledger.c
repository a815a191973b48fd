#include "cluster/ledger.h"

#include "kernels/base/clock.h"
#include "kernels/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { LINE_ROOM = 256, PATH_ROOM = 4096, RANKS_MAX = 1 << 24 };

enum kind { START, NOTE, STOP };
static const char *const kind_names[] = { "start", "note", "stop" };

struct line {
    enum kind kind;
    int64_t wall_ns, incarnation, n_ranks, step;
    int64_t spent_ns; /* rank-nanoseconds in this incarnation */
    int64_t gap_ns;   /* a start's: rank-nanoseconds billed for the end of the incarnation before */
};

struct ledger {
    int fd;
    char path[PATH_ROOM];
    int64_t budget_ns;
    int64_t size; /* of the file's good lines, bytes */
    int64_t n_lines;
    uint64_t hash; /* of the last line */
    struct line last;
    int64_t longest_ns; /* rank-nanoseconds between two lines of the last incarnation */
    int64_t start_ns; /* the longest before a note in the last one that has notes, the same unit */
    int64_t earlier_ns; /* incarnations before the last line's, gaps included */
    int64_t opened_ns;  /* CLOCK_MONOTONIC */
};

/* a + b for a ≥ 0, b ≥ 0, never past INT64_MAX: 292 rank-years of nanoseconds must not wrap into an empty bill. */
static int64_t add_time(int64_t a, int64_t b)
{
    int64_t sum;

    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int64_t times(int64_t ns, int64_t n)
{
    int64_t product;

    return __builtin_mul_overflow(ns, n, &product) ? INT64_MAX : product;
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* Writes the line with its newline; returns its length. The one form a line may have: reading writes it again and compares. */
static int format(const struct line *l, uint64_t seed, char text[LINE_ROOM], uint64_t *hash)
{
    int n = snprintf(text, LINE_ROOM,
                     "%s wall=%" PRId64 " incarnation=%" PRId64 " ranks=%" PRId64 " step=%" PRId64
                     " spent=%" PRId64 " gap=%" PRId64,
                     kind_names[l->kind], l->wall_ns, l->incarnation, l->n_ranks, l->step,
                     l->spent_ns, l->gap_ns);

    *hash = XXH3_64bits_withSeed(text, (size_t)n, seed);
    n += snprintf(text + n, (size_t)(LINE_ROOM - n), " xxh3=%016" PRIx64 "\n", *hash);
    return n;
}

static int parse(const char *text, struct line *l)
{
    char kind[8];
    const int n =
        sscanf(text,
               "%7s wall=%" SCNd64 " incarnation=%" SCNd64 " ranks=%" SCNd64 " step=%" SCNd64
               " spent=%" SCNd64 " gap=%" SCNd64,
               kind, &l->wall_ns, &l->incarnation, &l->n_ranks, &l->step, &l->spent_ns, &l->gap_ns);

    if (n != 7) return 0;
    for (int k = START; k <= STOP; k++) {
        if (strcmp(kind, kind_names[k]) != 0) continue;
        l->kind = (enum kind)k;
        return 1;
    }
    return 0;
}

/* Whether a line may follow the last one; and what it adds. */
static int follows(struct ledger *l, const struct line *x)
{
    const struct line *last = &l->last;

    if (x->n_ranks < 1 || x->n_ranks > RANKS_MAX || x->step < 0 || x->spent_ns < 0 || x->gap_ns < 0)
        return 0;
    if (x->kind == START) {
        if (x->incarnation != last->incarnation + 1 || x->spent_ns != 0) return 0;
        l->earlier_ns = add_time(l->earlier_ns, add_time(last->spent_ns, x->gap_ns));
        l->longest_ns = 0;
    } else {
        if (l->n_lines == 0 || last->kind == STOP || x->incarnation != last->incarnation ||
            x->n_ranks != last->n_ranks || x->spent_ns < last->spent_ns || x->gap_ns != 0)
            return 0;
        if (x->spent_ns - last->spent_ns > l->longest_ns)
            l->longest_ns = x->spent_ns - last->spent_ns;
        if (x->kind == NOTE) l->start_ns = l->longest_ns;
    }
    return 1;
}

/* One line of n bytes, newline included, terminated. */
static enum status replay_line(struct ledger *l, const char *text, int64_t n)
{
    char again[LINE_ROOM];
    struct line x = { 0 };
    uint64_t hash = 0;

    if (!parse(text, &x) || format(&x, l->hash, again, &hash) != n || strcmp(text, again) != 0 ||
        !follows(l, &x))
        FAIL(E_CORRUPT,
             "%s: line %lld is damaged; restore the file, or remove it to start counting anew",
             l->path, (long long)l->n_lines + 1);
    l->last = x;
    l->hash = hash;
    l->n_lines++;
    l->size += n;
    return OK;
}

static enum status replay(struct ledger *l)
{
    char line[LINE_ROOM];
    int64_t n = 0;
    int byte;
    FILE *f = fopen(l->path, "re");
    enum status s = OK;

    if (!f) FAIL(E_IO, "%s: %s", l->path, strerror(errno));
    while (s == OK && (byte = getc(f)) != EOF) {
        line[n++] = (char)byte;
        if (byte != '\n' && n < LINE_ROOM - 1) continue;
        line[n] = 0;
        s = replay_line(l, line, n);
        n = 0;
    }
    if (s == OK && ferror(f))
        s = status_fail(E_IO, __FILE__, __LINE__, "%s cannot be read", l->path);
    fclose(f);
    if (s != OK || n == 0) return s;
    log_warn("%s: the last line is torn (%lld bytes): dropped", l->path, (long long)n);
    if (ftruncate(l->fd, l->size) != 0)
        FAIL(E_IO, "%s: cannot drop a torn line: %s", l->path, strerror(errno));
    return OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static enum status append(struct ledger *l, struct line x, int durable)
{
    char text[LINE_ROOM];
    uint64_t hash;
    const int n = format(&x, l->hash, text, &hash);
    const ssize_t written = pwrite(l->fd, text, (size_t)n, l->size);

    if (written != n) {
        const int cause = written < 0 ? errno : ENOSPC;

        if (ftruncate(l->fd, l->size) != 0) log_warn("%s: a torn line is left behind", l->path);
        FAIL(E_IO, "%s: cannot write: %s", l->path, strerror(cause));
    }
    if (durable && fdatasync(l->fd) != 0)
        FAIL(E_IO, "%s: cannot make it durable: %s", l->path, strerror(errno));
    l->size += n;
    l->hash = hash;
    l->last = x;
    l->n_lines++;
    return OK;
}

static int64_t spent_here(const struct ledger *l)
{
    return times(clock_ns() - l->opened_ns, l->last.n_ranks);
}

/* The bill for what an incarnation did after its last line, in its rank-nanoseconds. */
static int64_t gap(const struct ledger *l, int64_t wall_ns)
{
    const struct line *last = &l->last;
    const int64_t limit =
        l->longest_ns > 0 ? times(l->longest_ns, 2) : times(LEDGER_FIRST_NS, last->n_ranks);
    int64_t passed;

    if (l->n_lines == 0 || last->kind == STOP) return 0;
    if (wall_ns < last->wall_ns) return limit;
    passed = times(wall_ns - last->wall_ns, last->n_ranks);
    return passed < limit ? passed : limit;
}

static enum status sync_folder(const char *path)
{
    char folder[PATH_ROOM];
    char *slash;
    int fd, bad;

    snprintf(folder, sizeof folder, "%s", path);
    slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = 0;
    else
        strcpy(folder, ".");
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bad = fd < 0 || fsync(fd) != 0;
    if (fd >= 0) close(fd);
    if (bad) FAIL(E_IO, "%s: cannot make the new file durable: %s", folder, strerror(errno));
    return OK;
}

static enum status start(struct ledger *l, const struct ledger_options *o)
{
    struct line x = { .kind = START, .n_ranks = o->n_ranks };
    const int fresh = l->n_lines == 0;

    x.wall_ns = clock_wall_ns();
    x.incarnation = l->last.incarnation + 1;
    x.step = l->last.step;
    x.gap_ns = gap(l, x.wall_ns);
    if (!follows(l, &x)) FAIL(E_CONFIG, "ledger: %d ranks", o->n_ranks);
    l->opened_ns = clock_ns();
    TRY(append(l, x, 1));
    return fresh ? sync_folder(l->path) : OK;
}

static enum status open_file(struct ledger *l, const char *path)
{
    if (snprintf(l->path, sizeof l->path, "%s", path) >= (int)sizeof l->path)
        FAIL(E_USAGE, "a path of more than %d bytes", PATH_ROOM);
    l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (l->fd < 0) FAIL(E_IO, "%s: %s", path, strerror(errno));
    if (flock(l->fd, LOCK_EX | LOCK_NB) != 0)
        FAIL(E_FAILED, "%s: %s", path,
             errno == EWOULDBLOCK ? "another process trains in this folder" : strerror(errno));
    return OK;
}

enum status ledger_open(struct ledger **l, const struct ledger_options *o)
{
    struct ledger *made = calloc(1, sizeof *made);
    enum status s;

    if (!made) FAIL(E_MEMORY, "%zu bytes for the ledger", sizeof *made);
    made->fd = -1;
    made->budget_ns = o->budget_ns;
    s = open_file(made, o->path);
    if (s == OK) s = replay(made);
    if (s == OK) s = start(made, o);
    if (s != OK) {
        if (made->fd >= 0) close(made->fd);
        free(made);
        return s;
    }
    *l = made;
    return OK;
}

enum status ledger_note(struct ledger *l, int64_t step, int durable)
{
    struct line x = l->last;

    x.kind = NOTE;
    x.wall_ns = clock_wall_ns();
    x.step = step;
    x.spent_ns = spent_here(l);
    x.gap_ns = 0;
    if (!follows(l, &x)) FAIL(E_FAILED, "ledger: step %lld cannot follow", (long long)step);
    return append(l, x, durable);
}

void ledger_close(struct ledger *l)
{
    struct line x;

    if (!l) return;
    x = l->last;
    x.kind = STOP;
    x.wall_ns = clock_wall_ns();
    x.spent_ns = spent_here(l);
    x.gap_ns = 0;
    if (append(l, x, 1) != OK) log_warn("%s: the next start bills this one's end", l->path);
    close(l->fd);
    free(l);
}

/* ---- sums ------------------------------------------------------------------------------------ */

int64_t ledger_spent_ns(const struct ledger *l)
{
    return add_time(l->earlier_ns, spent_here(l));
}

int64_t ledger_restarts(const struct ledger *l)
{
    return l->last.incarnation - 1;
}

int ledger_fits(const struct ledger *l, int64_t step_ns, int64_t save_ns)
{
    const int64_t more = times(add_time(step_ns, save_ns), l->last.n_ranks);

    return l->budget_ns == 0 || add_time(ledger_spent_ns(l), more) <= l->budget_ns;
}

int ledger_fits_start(const struct ledger *l)
{
    return l->budget_ns == 0 || add_time(ledger_spent_ns(l), l->start_ns) <= l->budget_ns;
}
