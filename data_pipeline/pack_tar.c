/* Pairs out of a tar whose members come in any order, in bounded memory. What has come without its
 * other half is held, up to pending_bytes; what does not fit is left for another pass over the tar.
 * Every pass completes at least one pair, so it ends; usual tars need one pass. */
#include "data_pipeline/annotation.h"
#include "data_pipeline/grow.h"
#include "data_pipeline/pack_part.h"
#include "data_pipeline/tar.h"
#include "kernels/base/check.h"

#include <string.h>

enum { PASSES_MAX = 1000 };
enum half { HALF_IMAGE, HALF_JSON, HALVES };

static const char *const suffix[HALVES] = { ".jpg", ".json" };

struct pair {
    int64_t id;
    struct {
        int64_t offset; /* of the member, −1: not seen */
        int64_t n;
        uint8_t *bytes; /* owned while pending */
    } half[HALVES];
    char name[TAR_NAME]; /* of the member seen first */
    bool done;
};

struct pairs {
    struct pack_worker *w;
    struct tar *tar;
    struct pair *pairs; /* in the order they were first seen */
    int64_t n, room;
    struct id_map index;
    int64_t pending; /* bytes held */
    int64_t n_done;  /* pairs completed by this pass */
    int64_t n_left;  /* members not held for lack of room, in this pass */
    bool again;      /* not the first pass */
};

static void drop(struct pairs *p, struct pair *pair)
{
    for (int i = 0; i < HALVES; i++) {
        if (!pair->half[i].bytes) continue;
        p->pending -= pair->half[i].n;
        free(pair->half[i].bytes);
        pair->half[i].bytes = NULL;
    }
}

static void pairs_destroy(struct pairs *p)
{
    for (int64_t i = 0; i < p->n; i++) drop(p, &p->pairs[i]);
    free(p->pairs);
    id_map_destroy(&p->index);
    tar_close(p->tar);
}

static enum status find_pair(struct pairs *p, int64_t id, const char *name, struct pair **pair)
{
    int32_t row;

    TRY(id_map_add(&p->index, id, (int32_t)p->n, &row));
    if (row == p->n) {
        GROW(p->pairs, p->room, p->n + 1);
        memset(&p->pairs[p->n], 0, sizeof *p->pairs);
        p->pairs[p->n].id = id;
        p->pairs[p->n].half[HALF_IMAGE].offset = p->pairs[p->n].half[HALF_JSON].offset = -1;
        snprintf(p->pairs[p->n].name, TAR_NAME, "%s", name);
        p->n++;
    }
    *pair = &p->pairs[row];
    return OK;
}

/* Reads the member at hand into the pair's half. E_CORRUPT: the tar ends here. */
static enum status hold(struct pairs *p, struct pair *pair, enum half half, int64_t n)
{
    uint8_t *const bytes = malloc((size_t)n + 1);
    enum status s;

    if (!bytes) FAIL(E_MEMORY, "pack: no memory for %s", pair->name);
    s = tar_read(p->tar, bytes);
    if (s != OK) {
        free(bytes);
        return s;
    }
    pair->half[half].bytes = bytes;
    pair->half[half].n = n;
    p->pending += n;
    return OK;
}

static enum status complete(struct pairs *p, struct pair *pair)
{
    char name[TAR_NAME];
    enum status s;

    snprintf(name, sizeof name, "%s", pair->name);
    if (annotation_file_id(name, suffix[HALF_JSON]) >= 0) /* the image has the same number */
        snprintf(name, sizeof name, "sa_%lld.jpg", (long long)pair->id);
    s = pack_pair(p->w, pair->id, name, pair->half[HALF_IMAGE].bytes, pair->half[HALF_IMAGE].n,
                  pair->half[HALF_JSON].bytes, pair->half[HALF_JSON].n);
    drop(p, pair);
    pair->done = true;
    p->n_done++;
    return s;
}

static enum status take_member(struct pairs *p, const struct tar_member *m)
{
    enum half half = HALF_IMAGE;
    int64_t id = annotation_file_id(m->name, suffix[HALF_IMAGE]);
    struct pair *pair;
    const int64_t room = p->w->shared->options->pending_bytes;

    if (id < 0) {
        half = HALF_JSON;
        id = annotation_file_id(m->name, suffix[HALF_JSON]);
    }
    if (id < 0)
        return p->again ? OK : pack_reject(p->w, m->name, -1, "not named sa_<number>.jpg or .json");
    TRY(find_pair(p, id, m->name, &pair));
    if (p->again) {
        const bool wanted = !pair->done && pair->half[HALF_IMAGE].offset >= 0 &&
                            pair->half[HALF_JSON].offset >= 0 &&
                            pair->half[half].offset == m->offset;

        if (!wanted) return OK;
    } else if (pair->half[half].offset >= 0) {
        return pack_reject(p->w, m->name, -1, "duplicate: a member before it has its number too");
    }
    if (!pair->half[!half].bytes && p->pending > 0 && p->pending + m->bytes > room) {
        pair->half[half].offset = m->offset;
        p->n_left++;
        return OK;
    }
    TRY(hold(p, pair, half, m->bytes));
    pair->half[half].offset = m->offset;
    return pair->half[!half].bytes ? complete(p, pair) : OK;
}

/* One reading of the tar, to its end or its damage, which is quarantined once. */
static enum status pass(struct pairs *p)
{
    const char *const path = p->w->part->source->path;
    struct tar_member m;
    enum status s;

    p->n_done = p->n_left = 0;
    TRY(tar_open(&p->tar, path, &tar_limits_default));
    do {
        s = tar_next(p->tar, &m);
        if (s == OK && m.kind == TAR_REFUSED && !p->again)
            s = pack_reject(p->w, m.name, -1, "member is %s", m.refused);
        else if (s == OK && m.kind == TAR_FILE)
            s = take_member(p, &m);
        if (s == OK) s = pack_step(p->w, p->again ? p->w->part->bytes : tar_bytes_in(p->tar));
    } while (s == OK && m.kind != TAR_END);
    if (s == E_CORRUPT && tar_why(p->tar)[0])
        s = p->again ? OK : pack_reject(p->w, NULL, -1, "%s", tar_why(p->tar));
    tar_close(p->tar);
    p->tar = NULL;
    return s;
}

static enum status reject_rest(struct pairs *p)
{
    for (int64_t i = 0; i < p->n; i++) {
        const struct pair *const pair = &p->pairs[i];

        if (pair->done) continue;
        if (pair->half[HALF_IMAGE].offset >= 0 && pair->half[HALF_JSON].offset >= 0)
            TRY(pack_reject(p->w, pair->name, -1, "cannot be read again; its tar is damaged"));
        else if (pair->half[HALF_JSON].offset >= 0)
            TRY(pack_reject(p->w, pair->name, -1, "its image is missing"));
        else if (pair->half[HALF_IMAGE].offset >= 0)
            TRY(pack_reject(p->w, pair->name, -1, "its JSON is missing"));
    }
    return OK;
}

enum status pack_tar(struct pack_worker *w)
{
    struct pairs p = { .w = w };
    enum status s = pass(&p);

    for (int i = 1; s == OK && p.n_left > 0 && i < PASSES_MAX; i++) {
        for (int64_t k = 0; k < p.n; k++) drop(&p, &p.pairs[k]);
        p.again = true;
        s = pass(&p);
        if (p.n_done == 0) break;
    }
    if (s == OK) s = reject_rest(&p);
    pairs_destroy(&p);
    return s;
}
