#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cluster/signals.h"
#include "kernels/base/log.h"
#include "trainer/command.h"
#include "trainer/config.h"
#include "trainer/device.h"
#include "trainer/eval.h"
#include "trainer/options.h"
#include "trainer/weights.h"

struct evaluation {
    struct eval_options o;
    struct device_options device;
    struct config config;
    struct shard_set *set, *train_set;
    struct comm *comm;
    struct eval *eval;
    float *weights;
    struct eval_scores scores, untrained;
    bool json, compare, blind;
};

static void progress(void *arg, int64_t done, int64_t all)
{
    (void)arg;
    fprintf(stderr, "\r%lld of %lld images", (long long)done, (long long)all);
    if (done == all) fputc('\n', stderr);
}

static void print_table(const struct evaluation *e)
{
    printf("%lld images, %lld masks, mean IoU at the original size\n\n",
           (long long)e->scores.n_images, (long long)e->scores.n_masks);
    printf("%-30s %8s%s\n", "", "model", e->compare ? "  untrained" : "");
    for (int i = 0; i < EVAL_N_SCORES; i++) {
        if (isnan(e->scores.mean[i])) continue;
        printf("%-30s %8.4f", eval_score_text((enum eval_score)i), e->scores.mean[i]);
        if (e->compare && i < EVAL_disc) printf("   %8.4f", e->untrained.mean[i]);
        putchar('\n');
    }
}

static json_t *object_of(const struct eval_scores *s)
{
    json_t *j = json_object();

    for (int i = 0; j && i < EVAL_N_SCORES; i++)
        if (json_object_set_new(j, eval_score_key((enum eval_score)i),
                                isnan(s->mean[i]) ? json_null() : json_real(s->mean[i])) != 0) {
            json_decref(j);
            return NULL;
        }
    return j;
}

static enum status print_json(const struct evaluation *e)
{
    json_t *model = object_of(&e->scores);
    json_t *untrained = e->compare ? object_of(&e->untrained) : json_null();
    json_t *j = json_pack("{s:I, s:I, s:f, s:o, s:o}", "images", (json_int_t)e->scores.n_images,
                          "masks", (json_int_t)e->scores.n_masks, "median_area", e->o.median_area,
                          "model", model, "untrained", untrained);
    const int bad = !j || json_dumpf(j, stdout, JSON_INDENT(2)) != 0;

    json_decref(j);
    if (bad) FAIL(E_IO, "cannot write the scores");
    putchar('\n');
    return OK;
}

/* The same model before any training, on the same masks. */
static enum status score_untrained(struct evaluation *e)
{
    params_initialize(eval_params(e->eval), (uint64_t)e->config.train_seed, e->weights);
    TRY(eval_weights(e->eval, e->weights));
    return eval_run(e->eval, e->comm, &e->untrained);
}

static enum status evaluate(struct evaluation *e, const char *path)
{
    TRY(signals_release());
    TRY(comm_create(&e->comm, e->config.run_timeout_s * 1000));
    TRY(device_open(&e->device, e->comm, &e->o.ops));
    if (!e->o.ops->bf16) /* trained in what this device has not */
        e->config.run_precision = PRECISION_AUTO;
    e->config.run_absorb = e->config.run_fuse_upscaling = e->config.run_fuse_norms = SWITCH_AUTO;
    if (e->comm->rank == 0 && isatty(STDERR_FILENO)) e->o.progress = progress;
    if (e->o.median_area <= 0)
        TRY(eval_median_area(e->train_set ? e->train_set : e->set, &e->config, &e->o.median_area));
    if (e->compare) { /* first, so that pictures and table of masks are the trained model's */
        struct eval_options quiet = e->o;

        quiet.overlays = quiet.csv = NULL;
        TRY(eval_create(&e->eval, &quiet));
        e->weights = malloc((size_t)eval_params(e->eval)->n_floats * sizeof *e->weights);
        if (!e->weights) FAIL(E_MEMORY, "weights");
        TRY(score_untrained(e));
        eval_destroy(e->eval);
        e->eval = NULL;
    }
    TRY(eval_create(&e->eval, &e->o));
    if (!e->weights)
        e->weights = malloc((size_t)eval_params(e->eval)->n_floats * sizeof *e->weights);
    if (!e->weights) FAIL(E_MEMORY, "weights");
    TRY(weights_load(path, eval_params(e->eval), e->weights));
    TRY(eval_weights(e->eval, e->weights));
    TRY(eval_run(e->eval, e->comm, &e->scores));
    if (e->comm->rank != 0) return OK;
    if (e->json) return print_json(e);
    print_table(e);
    return OK;
}

enum status cmd_eval(int argc, char **argv)
{
    struct evaluation e = { .o.max_clicks = EVAL_CLICKS, .o.n_overlays = 8 };
    const char *config = NULL, *train = NULL, *device = "auto";
    int64_t clicks = EVAL_CLICKS, min_pixels = -1;
    double min_area = -1, max_area = -1;
    bool done = false;
    const struct option_row rows[] = {
        { "config", 'c', OPTION_TEXT, &config, 0, 0, "FILE",
          "the model's, when the weights bring none" },
        { "device", 0, OPTION_TEXT, &device, 0, 0, "NAME",
          "auto, cpu, ref, cuda or emu, as run.device" },
        { "share-gpu", 0, OPTION_FLAG, &e.device.share_gpu, 0, 0, NULL,
          "several ranks may compute on one GPU" },
        { "clicks", 0, OPTION_INT, &clicks, 1, EVAL_CLICKS, "N", "clicks at most" },
        { "max-images", 0, OPTION_INT, &e.o.max_images, 0, 1e12, "N",
          "the first N images; 0: all" },
        { "max-masks", 0, OPTION_INT, &e.o.max_masks, 0, 1e9, "N",
          "N random masks an image; 0: all" },
        { "min-area", 0, OPTION_NUMBER, &min_area, -1, 1, "SHARE",
          "leave out smaller masks; -1: as the configuration says" },
        { "max-area", 0, OPTION_NUMBER, &max_area, -1, 1, "SHARE",
          "leave out larger masks; -1: as the configuration says" },
        { "min-pixels", 0, OPTION_INT, &min_pixels, -1, 1e12, "N",
          "leave out smaller masks; -1: as the configuration says" },
        { "train", 0, OPTION_TEXT, &train, 0, 0, "SHARDS",
          "the training set, whose median mask sizes the trivial disc; default: the set "
          "evaluated" },
        { "untrained", 0, OPTION_FLAG, &e.compare, 0, 0, NULL,
          "score the untrained model beside it" },
        { "blind", 0, OPTION_FLAG, &e.blind, 0, 0, NULL, "hide the image from the model" },
        { "overlays", 0, OPTION_TEXT, &e.o.overlays, 0, 0, "FOLDER",
          "pictures of the first images: photograph, answer with clicks, truth" },
        { "n-overlays", 0, OPTION_INT, &e.o.n_overlays, 0, 1e9, "N", "how many" },
        { "csv", 0, OPTION_TEXT, &e.o.csv, 0, 0, "FILE", "a line a mask" },
        { "json", 0, OPTION_FLAG, &e.json, 0, 0, NULL, "one JSON object on stdout" },
        { .kind = OPTION_END },
    };
    const struct option_spec spec = {
        .command = "eval",
        .arguments = "WEIGHTS SHARDS",
        .summary = "Scores a model: mean IoU by clicks, best of three, from boxes, beside answers "
                   "that need no model.",
        .examples = "samforge eval runs/micro shards/val\n"
                    "samforge eval runs/micro/checkpoints/step-00000700 shards/val --csv masks.csv "
                    "--overlays pictures\n"
                    "samforge launch -n 2 eval runs/micro shards/val --json",
        .notes =
            "WEIGHTS: a run's folder, one of its checkpoints, or a .safetensors with --config.\n"
            "The same scores come out on any number of ranks.",
        .rows = rows,
        .min_arguments = 2,
        .max_arguments = 2,
    };
    char **arguments;
    enum status s;
    int n;

    TRY(options_parse(&spec, argc, argv, &arguments, &n, &done));
    if (done) return OK;
    TRY(device_named(device, &e.device.choice));
    if (config)
        TRY(config_load(&e.config, config, NULL, 0));
    else
        TRY(weights_config(arguments[0], &e.config));
    if (min_area >= 0) e.config.data_min_area = min_area;
    if (max_area >= 0) e.config.data_max_area = max_area;
    if (min_pixels >= 0) e.config.data_min_pixels = min_pixels;
    if (e.blind) e.config.data_blind = true;
    e.o.config = &e.config;
    e.o.max_clicks = (int)clicks;
    s = shard_set_open(&e.set, arguments[1]);
    if (s == OK && train) s = shard_set_open(&e.train_set, train);
    e.o.set = e.set;
    if (s == OK) s = evaluate(&e, arguments[0]);
    if (s != OK && e.comm && e.comm->n_ranks > 1) e.comm->ops->abort(e.comm, status_exit_code(s));
    eval_destroy(e.eval);
    comm_destroy(e.comm);
    shard_set_close(e.set);
    shard_set_close(e.train_set);
    free(e.weights);
    return s;
}
