/* What is to be packed: the sources given on the command line, as a list of parts in a fixed
 * order. */
#ifndef DATA_PIPELINE_PACK_PLAN_H
#define DATA_PIPELINE_PACK_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "data_pipeline/coco.h"
#include "data_pipeline/folder.h"
#include "data_pipeline/json.h"
#include "data_pipeline/pack.h"
#include "kernels/base/status.h"

enum { PACK_NAME = 256 };
enum pack_form { PACK_TAR, PACK_LOOSE, PACK_COCO, PACK_PNG };

/* Loose files of one image id: indices of names, −1: missing. */
struct pack_loose {
    int64_t id;
    int32_t jpg, json;
    bool again; /* a second file for an id that has one: one of jpg and json is set */
};

/* What the parts of one source share. */
struct pack_source {
    char path[FOLDER_PATH];   /* tar, folder or JSON */
    char images[FOLDER_PATH]; /* COCO */
    struct folder names;      /* loose: all files; PNG: the image folders; owned */
    struct pack_loose *loose; /* owned */
    int64_t n_loose, loose_room;
    struct coco *coco;     /* owned; NULL when broken */
    char broken[JSON_WHY]; /* not empty: why the source as a whole cannot be used */
};

struct pack_part {
    enum pack_form form;
    const struct pack_source *source; /* not owned */
    int64_t begin, end;               /* of its images; a tar has one part, and does not know */
    int64_t bytes;                    /* of a tar */
    uint64_t key; /* changes when the source's name, size or time does, or an option */
};

struct pack_plan {
    struct pack_source **sources; /* owned, as are they */
    int64_t n_sources, sources_room;
    struct pack_part *parts; /* owned */
    int64_t n_parts, parts_room;
};

/* E_USAGE or E_IO (logged) when a source is missing or of no known form. */
enum status pack_plan_create(struct pack_plan *p, const struct pack_options *o) MUST_CHECK;
void pack_plan_destroy(struct pack_plan *p);

/* The last name in path, of it the last PACK_NAME − 1 bytes: what a source is known by, wherever it
 * lies. */
void pack_plan_name(char name[PACK_NAME], const char *path);

#endif
