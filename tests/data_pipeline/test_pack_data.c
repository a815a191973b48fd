/* Packs the real data beside the project, where it is: BSDS500 in SA-1B form, BBBC038,
 * PubLayNet. */
#include "data_pipeline/pack.h"
#include "data_pipeline/shard.h"

#include "kernels/base/log.h"
#include "tests/check.h"
#include "tests/data_pipeline/crafted_tar.h"

#include <unistd.h>

enum { PATH = 4096 };

/* $SAMFORGE_SHARED/data, or shared/data beside the project's folder. */
static void data_folder(char path[PATH])
{
    const char *const shared = getenv("SAMFORGE_SHARED");
    const char *const here = __FILE__;
    const char *const inside = strstr(here, "tests/data_pipeline/");

    if (shared && *shared)
        snprintf(path, PATH, "%s/data", shared);
    else
        snprintf(path, PATH, "%.*s../shared/data", inside ? (int)(inside - here) : 0, here);
}

/* Counts as they are in the files, less the masks over 90 % of their image. */
static const struct {
    const char *name;
    int64_t n_images, n_masks, n_large;
} sets[] = {
    { "bsds/train", 200, 13943, 12 }, { "bsds/val", 100, 6877, 10 }, { "bsds/test", 100, 7624, 3 },
    { "nuclei/val", 40, 1553, 0 },    { "publaynet", 20, 193, 0 },
};

int main(void)
{
    char data[PATH], source[PATH + 32], folder[64], out[96];

    data_folder(data);
    if (access(data, R_OK) != 0) {
        printf("skipped: there is no %s\n", data);
        return CHECK_SKIP;
    }
    log_set_level(LOG_WARN);
    crafted_folder(folder);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        struct pack_options o = pack_options_default();
        const char *const sources[] = { source };
        struct shard_set *set = NULL;
        struct pack_progress p;

        snprintf(source, sizeof source, "%s/%s", data, sets[i].name);
        snprintf(out, sizeof out, "%s/%zu", folder, i);
        o.sources = sources;
        o.n_sources = 1;
        o.out = out;
        o.n_threads = 2;
        CHECK(pack_run(&o, &p) == OK);
        printf("%s: %lld images, %lld masks\n", sets[i].name, (long long)p.tally.n_images,
               (long long)p.tally.n_masks);
        CHECK(p.tally.n_images == sets[i].n_images);
        CHECK(p.tally.n_masks == sets[i].n_masks - sets[i].n_large);
        CHECK(p.tally.n_large == sets[i].n_large);
        CHECK(p.tally.n_empty == 0 && p.tally.n_bare == 0);
        CHECK(p.tally.n_bad_masks == 0 && p.tally.n_bad_items == 0);
        CHECK(shard_set_open(&set, out) == OK);
        if (set) CHECK(shard_set_images(set) == sets[i].n_images && shard_set_verify(set) == OK);
        shard_set_close(set);
    }
    crafted_remove(folder);
    return check_done("pack_data");
}
