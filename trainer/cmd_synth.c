#include "trainer/command.h"

#include "data_pipeline/synth.h"
#include "trainer/options.h"

#include <unistd.h>

enum status cmd_synth(int argc, char **argv)
{
    int64_t images = 100, per_tar = 250, seed = 0, first_id = 0, width = 320, height = 240;
    int64_t objects = 3, quality = 90, threads = sysconf(_SC_NPROCESSORS_ONLN);
    const struct option_row rows[] = {
        { "images", 'n', OPTION_INT, &images, 1, 1e9, "N", "how many images" },
        { "per-tar", 0, OPTION_INT, &per_tar, 1, 1e6, "N", "images in a tar" },
        { "seed", 's', OPTION_INT, &seed, 0, 9e15, "N", "another seed, other images" },
        { "first-id", 0, OPTION_INT, &first_id, 0, 1e12, "N",
          "id of the first image; an id's image is the same in every set of that seed" },
        { "width", 'W', OPTION_INT, &width, SYNTH_SIDE_MIN, SYNTH_SIDE_MAX, "PIXELS",
          "mean width; images differ by up to a fifth" },
        { "height", 'H', OPTION_INT, &height, SYNTH_SIDE_MIN, SYNTH_SIDE_MAX, "PIXELS",
          "mean height" },
        { "objects", 0, OPTION_INT, &objects, 1, SYNTH_OBJECTS_MAX / 2, "N",
          "mean number of objects in an image; there are about 1.5 masks an object" },
        { "quality", 'q', OPTION_INT, &quality, 1, 100, "Q", "of the JPEGs" },
        { "threads", 'j', OPTION_INT, &threads, 1, 1024, "N",
          "images drawn at a time; changes no byte" },
        { .kind = OPTION_END },
    };
    const struct option_spec spec = {
        .command = "synth",
        .arguments = "OUT",
        .summary = "Writes a synthetic set of images and masks into folder OUT, in SA-1B form.",
        .examples = "samforge synth data/train --images 500\n"
                    "samforge synth data/val --images 50 --first-id 1000000\n"
                    "samforge synth data/large --images 50 --width 2250 --height 1500 "
                    "--objects 60\n",
        .notes = "OUT gets sa_000000.tar, sa_000001.tar … of sa_ID.jpg and sa_ID.json, which\n"
                 "`samforge pack` turns into shards. Training and validation sets come from one\n"
                 "seed with --first-id far apart. The same options give the same bytes.\n",
        .rows = rows,
        .min_arguments = 1,
        .max_arguments = 1,
    };
    char **arguments;
    int n_arguments;
    bool done = false;

    TRY(options_parse(&spec, argc, argv, &arguments, &n_arguments, &done));
    if (done) return OK;

    const struct synth_set set = {
        .options = { .seed = (uint64_t)seed,
                     .width = (int32_t)width,
                     .height = (int32_t)height,
                     .n_objects = (int32_t)objects,
                     .quality = (int)quality },
        .first_id = first_id,
        .n_images = images,
        .per_tar = per_tar,
        .n_threads = (int)threads,
    };

    return synth_write(arguments[0], &set);
}
