#include "data_pipeline/masks.h"

#include "data_pipeline/grow.h"
#include "data_pipeline/rle.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { BYTES_A_RUN = 7 }; /* of text, at most */

void masks_start(struct masks *m, int32_t h, int32_t w, double max_area)
{
    m->height = h;
    m->width = w;
    m->max_area = max_area;
    m->n = m->n_seen = m->n_empty = m->n_large = m->n_broken = 0;
}

void masks_destroy(struct masks *m)
{
    if (!m) return;
    free(m->text);
    free(m->end);
    free(m->area);
    free(m->box);
    free(m->broken);
    free(m->runs);
    memset(m, 0, sizeof *m);
}

enum status masks_add_broken(struct masks *m, const char *fmt, ...)
{
    va_list ap;

    GROW(m->broken, m->broken_room, m->n_broken + 1);
    m->broken[m->n_broken].index = m->n_seen++;
    va_start(ap, fmt);
    vsnprintf(m->broken[m->n_broken].why, MASKS_WHY, fmt, ap);
    va_end(ap);
    m->n_broken++;
    return OK;
}

static int64_t text_end(const struct masks *m)
{
    return m->n ? m->end[m->n - 1] : 0;
}

/* True when the mask is worth keeping; counts it otherwise. */
static bool wanted(struct masks *m, const struct rle_extent *e)
{
    if (e->area == 0)
        m->n_empty++;
    else if ((double)e->area > m->max_area * (double)m->height * (double)m->width)
        m->n_large++;
    else
        return true;
    m->n_seen++;
    return false;
}

/* The n_text bytes behind text_end(m) are the text of the next mask. */
static enum status keep(struct masks *m, int64_t n_text, const struct rle_extent *e)
{
    const int64_t end = text_end(m) + n_text;
    float *box;

    if (end > MASKS_TEXT_MAX)
        return masks_add_broken(m, "the image's masks have more text than a shard may hold");
    GROW(m->end, m->end_room, m->n + 1);
    GROW(m->area, m->area_room, m->n + 1);
    GROW(m->box, m->box_room, 4 * (m->n + 1));
    m->end[m->n] = end;
    m->area[m->n] = e->area;
    box = m->box + 4 * m->n;
    box[0] = (float)e->x0;
    box[1] = (float)e->y0;
    box[2] = (float)e->x1;
    box[3] = (float)e->y1;
    m->n++;
    m->n_seen++;
    return OK;
}

static bool box_holds(const struct masks_claim *c, const struct rle_extent *e)
{
    const double slack = c->box_integral ? 0 : 1;

    return fabs(c->box[0] - e->x0) <= slack && fabs(c->box[1] - e->y0) <= slack &&
           fabs(c->box[0] + c->box[2] - e->x1) <= slack &&
           fabs(c->box[1] + c->box[3] - e->y1) <= slack;
}

enum status masks_add_text(struct masks *m, const char *text, int64_t n_text,
                           const struct masks_claim *claim)
{
    const char *why;
    struct rle_extent e;
    int64_t n_runs;

    GROW(m->runs, m->runs_room, rle_max_runs(n_text));
    if (rle_decode(text, n_text, m->height, m->width, m->runs, m->runs_room, &n_runs, &why) != OK)
        return masks_add_broken(m, "%s", why);
    e = rle_extent(m->runs, n_runs, m->height);
    if (claim && claim->has_area && claim->area != e.area)
        return masks_add_broken(m, "area is given as %lld, the runs have %lld",
                                (long long)claim->area, (long long)e.area);
    if (claim && claim->has_box && !box_holds(claim, &e))
        return masks_add_broken(
            m, "bbox is given as %.6g %.6g %.6g %.6g, the runs have %d %d %d %d", claim->box[0],
            claim->box[1], claim->box[2], claim->box[3], e.x0, e.y0, e.x1 - e.x0, e.y1 - e.y0);
    if (!wanted(m, &e)) return OK;
    GROW(m->text, m->text_room, text_end(m) + n_text);
    memcpy(m->text + text_end(m), text, (size_t)n_text);
    return keep(m, n_text, &e);
}

enum status masks_add_runs(struct masks *m, const int32_t *runs, int64_t n_runs)
{
    const struct rle_extent e = rle_extent(runs, n_runs, m->height);
    int64_t n_text;

    if (!wanted(m, &e)) return OK;
    GROW(m->text, m->text_room, text_end(m) + BYTES_A_RUN * n_runs);
    TRY(rle_encode(runs, n_runs, m->text + text_end(m), BYTES_A_RUN * n_runs, &n_text));
    return keep(m, n_text, &e);
}
