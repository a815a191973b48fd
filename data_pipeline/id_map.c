#include "data_pipeline/id_map.h"

#include "kernels/base/rng.h"

#include <stdlib.h>
#include <string.h>

enum { ROOM_FIRST = 64 };

/* The row of id, or the free one where it belongs. */
static struct id_map_row *row_of(const struct id_map *m, int64_t id)
{
    uint64_t at = rng_mix((uint64_t)id);

    for (;; at++) {
        struct id_map_row *const row = &m->rows[at & (uint64_t)(m->room - 1)];

        if (row->id == id || row->id < 0) return row;
    }
}

static enum status enlarge(struct id_map *m)
{
    struct id_map larger = { .n = m->n, .room = m->room ? 2 * m->room : ROOM_FIRST };

    larger.rows = malloc((size_t)larger.room * sizeof *larger.rows);
    if (!larger.rows) FAIL(E_MEMORY, "no memory for %lld image ids", (long long)larger.room);
    for (int64_t i = 0; i < larger.room; i++) larger.rows[i].id = -1;
    for (int64_t i = 0; i < m->room; i++)
        if (m->rows[i].id >= 0) *row_of(&larger, m->rows[i].id) = m->rows[i];
    free(m->rows);
    *m = larger;
    return OK;
}

enum status id_map_add(struct id_map *m, int64_t id, int32_t value, int32_t *found)
{
    struct id_map_row *row;

    if (2 * (m->n + 1) > m->room) TRY(enlarge(m));
    row = row_of(m, id);
    if (row->id < 0) {
        row->id = id;
        row->value = value;
        m->n++;
    }
    *found = row->value;
    return OK;
}

int32_t id_map_find(const struct id_map *m, int64_t id)
{
    const struct id_map_row *const row = m->room ? row_of(m, id) : NULL;

    return row && row->id >= 0 ? row->value : -1;
}

void id_map_destroy(struct id_map *m)
{
    if (!m) return;
    free(m->rows);
    memset(m, 0, sizeof *m);
}
