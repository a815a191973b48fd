/* Image ids to small numbers; never forgets. Zero is a valid empty map. */
#ifndef DATA_PIPELINE_ID_MAP_H
#define DATA_PIPELINE_ID_MAP_H

#include <stdint.h>

#include "kernels/base/status.h"

struct id_map {
    struct id_map_row {
        int64_t id;    /* −1: free */
        int32_t value; /* ≥ 0 */
    } * rows;          /* (room) owned; open addressing */
    int64_t n, room;   /* room: a power of two, at least twice n */
};

/* Keeps (id ≥ 0, value ≥ 0) unless id is there already. *found: the value it has now. */
enum status id_map_add(struct id_map *m, int64_t id, int32_t value, int32_t *found) MUST_CHECK;

/* The value, or −1. */
int32_t id_map_find(const struct id_map *m, int64_t id);
void id_map_destroy(struct id_map *m);

#endif
