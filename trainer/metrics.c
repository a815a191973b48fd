#include "trainer/metrics.h"

#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/durable_file.h"
#include "trainer/eval_score.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 4096, LOG_EVERY = 10, BLOCK = 1 << 16 };

struct metrics {
    char path[DURABLE_PATH];
    int fd;
    int64_t steps, first; /* first: the first step of this process, always shown; −1: not yet */
    double recent[METRICS_RECENT]; /* loss n in n mod METRICS_RECENT */
    int64_t n_recent;
    bool live; /* stderr is a terminal that understands \r */
};

/* A line being built; what does not fit is a programmer's mistake that shows as a cut line. */
struct line {
    char text[LINE];
    int n;
    char nonfinite[LINE / 2];
};

static void add(struct line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct line *l, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    l->n += vsnprintf(l->text + l->n, (size_t)(LINE - l->n), fmt, ap);
    va_end(ap);
    if (l->n >= LINE) l->n = LINE - 1;
}

static void add_int(struct line *l, const char *key, int64_t v)
{
    add(l, "%s\"%s\":%" PRId64, l->n ? "," : "{", key, v);
}

/* The shortest decimal that reads back as the same double. */
static void add_number(struct line *l, const char *key, double v)
{
    const size_t used = strlen(l->nonfinite);
    char text[32] = "null";

    for (int digits = 6; digits <= 17 && isfinite(v); digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    add(l, "%s\"%s\":%s", l->n ? "," : "{", key, text);
    if (!isfinite(v) && strncmp(key, "time/", 5) != 0)
        snprintf(l->nonfinite + used, sizeof l->nonfinite - used, "%s\"%s\"", used ? "," : "", key);
}

/* One write() a line: a reader never sees half of one, and a kill leaves whole lines. */
static enum status put(struct metrics *m, struct line *l)
{
    ssize_t n;

    if (l->nonfinite[0]) add(l, ",\"nonfinite\":[%s]", l->nonfinite);
    add(l, "}\n");
    n = write(m->fd, l->text, (size_t)l->n);
    if (n != l->n)
        FAIL(E_IO, "writing %s: %s%s", m->path, n < 0 ? strerror(errno) : "only part of a line",
             durable_cure(n < 0 ? errno : ENOSPC));
    return OK;
}

/* ---- resuming ---------------------------------------------------------------------------------
 */

/* The step of a line that begins {"step":N, or −1. */
static int64_t step_of(const char *line)
{
    static const char begin[] = "{\"step\":";
    const size_t n = sizeof begin - 1;
    char *end;
    int64_t step;

    if (strncmp(line, begin, n) != 0 || line[n] < '0' || line[n] > '9') return -1;
    step = strtoll(line + n, &end, 10);
    return *end == ',' || *end == '}' ? step : -1;
}

/* What was read of the file: lines that stay, and others. */
struct scan {
    int64_t restored;      /* no line of a later step stays */
    int64_t keep;          /* bytes in front of the first line that goes */
    int64_t n_gone;        /* torn, damaged, or of a later step */
    int64_t n_behind;      /* that stay, behind one that goes */
    int64_t n_steps, last; /* that have a line that stays, and the last of them */
    int64_t furthest;      /* step of any line */
};

/* Whether it stays. */
static bool scan_line(struct scan *s, const char *line, int64_t n)
{
    const int64_t step = step_of(line);

    if (step > s->furthest) s->furthest = step;
    if (line[n - 1] != '\n' || step < s->last || step > s->restored) {
        s->n_gone++;
        return false;
    }
    if (s->n_gone == 0)
        s->keep += n;
    else
        s->n_behind++;
    if (step > s->last) { /* an evaluation's line is of the step before it */
        s->last = step;
        s->n_steps++;
    }
    return true;
}

/* What metrics_step has written behind the key, or NaN. */
static double number_of(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    double x = NAN;
    char *end;

    if (!at) return NAN;
    at += strlen(key);
    x = strtod(at, &end);
    return end > at ? x : NAN; /* null */
}

static void remember(struct metrics *m, const char *line)
{
    const double loss = number_of(line, "\"train/loss/total\":");

    if (isfinite(loss) && number_of(line, "\"train/masks\":") > 0)
        m->recent[m->n_recent++ % METRICS_RECENT] = loss;
}

int metrics_recent(const struct metrics *m, double loss[METRICS_RECENT])
{
    const int n = m->n_recent < METRICS_RECENT ? (int)m->n_recent : METRICS_RECENT;

    for (int i = 0; i < n; i++) loss[i] = m->recent[(m->n_recent - n + i) % METRICS_RECENT];
    return n;
}

static void say_scan(const struct metrics *m, const struct scan *s)
{
    if (s->n_steps < s->restored)
        log_warn("%s has lines for %" PRId64 " of the %" PRId64 " steps that the run has made, the "
                 "last for step %" PRId64 "; the run goes on, and the others stay missing",
                 m->path, s->n_steps, s->restored, s->last);
    if (s->n_gone == 0) return;
    if (s->restored == 0 && s->furthest > 0)
        log_warn("this run had come to step %" PRId64 " and has no checkpoint: it begins again at "
                 "step 0; if it had not saved yet, a smaller checkpoint.every loses less; if its "
                 "checkpoints were removed, stop it now and restore them",
                 s->furthest);
    log_info("%s: %" PRId64 " lines that are behind step %" PRId64 ", or damaged, are dropped",
             m->path, s->n_gone, s->restored);
}

/* Reads the lines once more, and writes those that stay; to what is open for it. */
static enum status copy_staying(FILE *f, struct durable_file *to, int64_t restored)
{
    struct scan scan = { .restored = restored };
    enum status s = OK;
    char *line = NULL;
    size_t room = 0;
    ssize_t n;

    rewind(f);
    while (s == OK && (n = getline(&line, &room, f)) > 0)
        if (scan_line(&scan, line, n)) s = durable_file_write(to, line, n);
    free(line);
    if (s == OK && ferror(f)) FAIL(E_IO, "reading %s: %s", to->path, strerror(errno));
    return s;
}

static enum status open_file(struct metrics *m)
{
    if (m->fd >= 0) close(m->fd);
    m->fd = open(m->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (m->fd < 0) FAIL(E_IO, "%s: %s%s", m->path, strerror(errno), durable_cure(errno));
    return OK;
}

/* Lines stay behind one that goes: it was damaged, and they must not go with it. */
static enum status mend(struct metrics *m, FILE *f, int64_t restored)
{
    struct durable_file to = { 0 };
    enum status s;

    TRY(durable_file_create(&to, m->path));
    s = copy_staying(f, &to, restored);
    if (s == OK) s = durable_file_commit(&to);
    if (s != OK) {
        durable_file_abandon(&to);
        return s;
    }
    return open_file(m);
}

static enum status drop(struct metrics *m, FILE *f, const struct scan *s)
{
    if (s->n_behind > 0) return mend(m, f, s->restored);
    if (s->n_gone > 0 && ftruncate(m->fd, s->keep) != 0)
        FAIL(E_IO, "cutting %s: %s", m->path, strerror(errno));
    return OK;
}

/* Drops lines that are of a later step, torn, or none of ours. */
static enum status cut_back(struct metrics *m, int64_t restored)
{
    FILE *f = fopen(m->path, "r");
    struct scan scan = { .restored = restored };
    char *line = NULL;
    size_t room = 0;
    enum status s;
    ssize_t n;

    if (!f) FAIL(E_IO, "reading %s: %s", m->path, strerror(errno));
    while ((n = getline(&line, &room, f)) > 0)
        if (scan_line(&scan, line, n)) remember(m, line);
    free(line);
    if (ferror(f)) {
        fclose(f);
        FAIL(E_IO, "reading %s: %s", m->path, strerror(errno));
    }
    say_scan(m, &scan);
    s = drop(m, f, &scan);
    fclose(f);
    return s;
}

static bool terminal_is_live(void)
{
    const char *term = getenv("TERM");

    return isatty(STDERR_FILENO) && !getenv("NO_COLOR") && term && strcmp(term, "dumb") != 0;
}

enum status metrics_open(struct metrics **m, const char *run_folder, int64_t restored,
                         int64_t steps)
{
    struct metrics *draft = calloc(1, sizeof *draft);
    enum status s;

    if (!draft) FAIL(E_MEMORY, "metrics");
    draft->steps = steps;
    draft->first = -1;
    draft->live = terminal_is_live();
    snprintf(draft->path, sizeof draft->path, "%s/metrics.jsonl", run_folder);
    draft->fd = -1;
    s = open_file(draft);
    if (s == OK) s = cut_back(draft, restored);
    if (s != OK)
        metrics_close(draft);
    else
        *m = draft;
    return s;
}

enum status metrics_sync(struct metrics *m)
{
    if (fdatasync(m->fd) != 0) FAIL(E_IO, "cannot sync %s: %s", m->path, strerror(errno));
    return OK;
}

void metrics_close(struct metrics *m)
{
    if (!m) return;
    if (m->live && m->first >= 0) fputc('\n', stderr); /* below the progress line */
    if (m->fd >= 0) close(m->fd);
    free(m);
}

/* ---- steps ------------------------------------------------------------------------------------
 */

const char *metrics_text(const struct metrics_row *row, char line[METRICS_LINE])
{
    const double seconds = row->step_seconds > 0 ? row->step_seconds : NAN;

    snprintf(line, METRICS_LINE,
             "step: %2" PRId64 "  loss: %7.4f  grad_norm: %7.4f  lr: %.3e  iou: %.3f>%.3f  "
             "memory: %5.2fGiB  images/s: %.2f  gflops: %.1f  data: %.1f%%",
             row->step, row->loss_total, row->grad_norm, row->lr, row->iou_first, row->iou_last,
             row->memory_gib, row->images_per_second, row->gflops,
             100 * row->data_wait_seconds / seconds);
    return line;
}

static void show(struct metrics *m, const struct metrics_row *row)
{
    const bool is_due = m->first == row->step || row->step % LOG_EVERY == 0 ||
                        row->step == m->steps || !isfinite(row->loss_total);
    char line[METRICS_LINE];

    metrics_text(row, line);
    if (m->live)
        fprintf(stderr, "\r%s  of %" PRId64 "\x1b[K%s", line, m->steps, is_due ? "\n" : "");
    else if (is_due)
        log_info("%s", line);
}

enum status metrics_step(struct metrics *m, const struct metrics_row *row)
{
    struct line l = { .n = 0 };

#define ROW_INT(member, key)    add_int(&l, key, row->member);
#define ROW_NUMBER(member, key) add_number(&l, key, row->member);
    METRICS_ROW(ROW_INT, ROW_NUMBER)
#undef ROW_INT
#undef ROW_NUMBER
    add_number(&l, "time/wall", 1e-3 * floor(1e-6 * (double)clock_wall_ns()));
    TRY(put(m, &l));
    if (m->first < 0) m->first = row->step;
    show(m, row);
    return OK;
}

enum status metrics_eval(struct metrics *m, int64_t step, const struct eval_scores *scores)
{
    struct line l = { .n = 0 };

    add_int(&l, "step", step);
    add_int(&l, "eval/images", scores->n_images);
    add_int(&l, "eval/masks", scores->n_masks);
    for (int i = 0; i < EVAL_N_SCORES; i++) {
        char key[64];

        if (isnan(scores->mean[i])) continue; /* not asked for */
        snprintf(key, sizeof key, "eval/%s", eval_score_key((enum eval_score)i));
        add_number(&l, key, scores->mean[i]);
    }
    return put(m, &l);
}
