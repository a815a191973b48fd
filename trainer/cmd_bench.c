#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/clock.h"
#include "kernels/cpu/peak.h"
#include "trainer/account.h"
#include "trainer/bench_count.h"
#include "trainer/bench_loader.h"
#include "trainer/bench_report.h"
#include "trainer/bench_step.h"
#include "trainer/command.h"
#include "trainer/config.h"
#include "trainer/device.h"
#include "trainer/learner.h"
#include "trainer/nearest.h"
#include "trainer/options.h"

/* What the machine can do, measured in the same run as everything it is compared with; 0 on devices where it is not. */
struct limits {
    double flops, bandwidth;
    int threads;
};

static enum status measure_limits(struct limits *l, const struct bench_step *b)
{
    *l = (struct limits){ .threads = omp_get_max_threads(),
                          .flops = b->limits.product,
                          .bandwidth = b->limits.copy };
    if (!b->on_host) return OK;
    l->flops = peak_flops();
    l->bandwidth = peak_bandwidth();
    if (l->bandwidth <= 0) FAIL(E_MEMORY, "no 192 MiB to measure the memory's speed with");
    return OK;
}

static void print_limits(const struct limits *l, const struct bench_step *b)
{
    if (!b->on_host) {
        printf("device %s\n\n", b->device);
        return;
    }
    printf("machine: %d threads, %.1f GFLOP/s of f32 multiply-adds, %.1f GB/s of memory, measured "
           "now\n\n",
           l->threads, l->flops / 1e9, l->bandwidth / 1e9);
}

/* ---- step ----------------------------------------------------------------------------------- */
static void print_step(const struct bench_step *b, const struct limits *l)
{
    const double s = b->step_seconds, n = (double)b->config->train_batch;
    const double iterations = n * (double)b->config->train_masks * (double)b->config->train_rounds;

    printf("%s: %lld images × %lld masks × %lld rounds, %lld steps timed, %s\n",
           b->config->model_name, (long long)b->config->train_batch,
           (long long)b->config->train_masks, (long long)b->config->train_rounds,
           (long long)b->n_timed, b->data ? b->data : "made-up slots");
    for (int i = 0; i < BENCH_N_PHASES; i++)
        printf("  %-18s %9.1f ms %5.1f %%\n", bench_phase_name((enum bench_phase)i),
               1e3 * b->phase[i], 100 * b->phase[i] / s);
    printf("  %-18s %9.1f ms   median; %.1f … %.1f\n", "step", 1e3 * s, 1e3 * b->step_min,
           1e3 * b->step_max);
    printf("  %.2f images/s, %.0f mask-iterations/s\n", n / s, iterations / s);
    printf("  %.1f GFLOP/s done here; %.1f GFLOP/s of the reference's\n", b->flops / s / 1e9,
           b->flops_reference / s / 1e9);
    if (b->on_host) printf("  %.1f %% of the multiply-add peak\n", 100 * b->flops / s / l->flops);
}

static void print_ops(const struct bench_step *b, const struct limits *l)
{
    const double none = NAN;

    printf("\n%-6s %-16s %8s %9s %6s %10s %7s %8s %7s\n", "", "op", "calls", "ms/step", "share",
           "GFLOP/s", "peak", "GB/s", "memory");
    for (int part = 0; part < BENCH_N_PARTS; part++)
        for (int op = 0; op < NODE_OP_COUNT; op++) {
            const struct bench_op *k = &b->op[part][op];

            if (k->calls == 0) continue;
            printf("%-6s %-16s %8.0f %9.2f %5.1f%% %10.1f %6.1f%% %8.1f %6.1f%%\n",
                   bench_part_name((enum bench_part)part), program_op_name((enum node_op)op),
                   k->calls, 1e3 * k->seconds, 100 * k->seconds / b->profiled_seconds,
                   k->flops / k->seconds / 1e9,
                   l->flops > 0 ? 100 * k->flops / k->seconds / l->flops : none,
                   k->bytes / k->seconds / 1e9,
                   l->flops > 0 ? 100 * k->bytes / k->seconds / l->bandwidth : none);
        }
    printf("bytes count every operand once, wherever it lies: above 100 %% of memory it lay in a "
           "cache\n");
}

static enum status dump(json_t *j)
{
    const int bad = !j || json_dumpf(j, stdout, JSON_INDENT(2)) != 0;

    json_decref(j);
    if (bad) FAIL(E_IO, "cannot write the figures");
    putchar('\n');
    return OK;
}

static json_t *ops_object(const struct bench_step *b)
{
    json_t *list = json_array();

    for (int part = 0; list && part < BENCH_N_PARTS; part++)
        for (int op = 0; op < NODE_OP_COUNT; op++) {
            const struct bench_op *k = &b->op[part][op];

            if (k->calls > 0)
                json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f}", "part",
                                                      bench_part_name((enum bench_part)part), "op",
                                                      program_op_name((enum node_op)op), "calls",
                                                      k->calls, "seconds", k->seconds, "flops",
                                                      k->flops, "bytes", k->bytes));
        }
    return list;
}

/* null where there is no limit to compare with. */
static json_t *number(double v)
{
    return v > 0 ? json_real(v) : json_null();
}

static enum status step_json(const struct bench_step *b, const struct limits *l,
                             const struct account *a)
{
    json_t *phases = json_object();

    for (int i = 0; phases && i < BENCH_N_PHASES; i++)
        json_object_set_new(phases, bench_phase_name((enum bench_phase)i), json_real(b->phase[i]));
    return dump(json_pack(
        "{s:s, s:s, s:i, s:o, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:o, s:o, s:o}", "model",
        b->config->model_name, "device", b->device, "threads", l->threads, "peak_flops",
        number(l->flops), "peak_bandwidth", number(l->bandwidth), "step_seconds", b->step_seconds,
        "step_min", b->step_min, "step_max", b->step_max, "images_per_second",
        (double)b->config->train_batch / b->step_seconds, "flops", b->flops, "flops_reference",
        b->flops_reference, "peak_share",
        number(l->flops > 0 ? b->flops / b->step_seconds / l->flops : 0), "phases", phases, "ops",
        ops_object(b), "on_device", b->on_host ? json_null() : report_device_json(b, a)));
}

/* ---- loader --------------------------------------------------------------------------------- */
static void print_loader(const struct bench_loader *b)
{
    printf("%lld images to a frame of %lld pixels with up to %lld masks, %d threads\n",
           (long long)b->n_images, (long long)b->frame, (long long)b->masks, b->threads);
    printf("  loader             %9.1f images/s by the wall\n", b->images_per_second);
    printf("  loader             %9.1f images per core-second\n", b->images_per_core_second);
    printf("  JPEG decoding only %9.1f images per core-second\n", b->decodes_per_core_second);
    printf("  share of the decode limit %.3f\n",
           b->images_per_core_second / b->decodes_per_core_second);
}

static enum status loader_json(const struct bench_loader *b)
{
    return dump(json_pack("{s:I, s:I, s:i, s:f, s:f, s:f, s:f}", "images", (json_int_t)b->n_images,
                          "frame", (json_int_t)b->frame, "threads", b->threads, "images_per_second",
                          b->images_per_second, "images_per_core_second", b->images_per_core_second,
                          "decodes_per_core_second", b->decodes_per_core_second, "share",
                          b->images_per_core_second / b->decodes_per_core_second));
}

/* ---- counted, not run ------------------------------------------------------------------------ */
static enum status count_step(const struct config *c, bool json)
{
    const struct ops *ops;
    struct cost cost;
    struct account account;
    struct bench_count count;
    const struct bench_count *counted = NULL;

    TRY(device_for_counting(c->run_device, &ops));
    TRY(learner_check(c, ops, 1));
    TRY(cost_of(c, ops, &cost));
    TRY(account_of(c, ops, &cost, &account));
    if (ops->count) {
        TRY(bench_count_run(&count, c, ops));
        counted = &count;
    }
    if (json) return dump(report_account_json(c, ops, &cost, &account, counted));
    printf("device %s, nothing was run\n", ops->name);
    report_account(c, &cost, &account, counted);
    if (!counted)
        printf("\nlaunches: not counted on this device; samforge_emu --device emu counts them (see "
               "bench --help)\n");
    return OK;
}

static enum status time_step(struct bench_step *step, bool ops, bool json)
{
    struct limits l;
    struct cost cost;
    struct account account;
    const struct ops *device;

    TRY(bench_step_run(step, ops));
    TRY(measure_limits(&l, step));
    TRY(device_for_counting(step->config->run_device, &device));
    TRY(cost_of(step->config, device, &cost));
    TRY(account_of(step->config, device, &cost, &account));
    if (json) return step_json(step, &l, &account);
    print_limits(&l, step);
    print_step(step, &l);
    if (!step->on_host) report_device(step, &account);
    if (ops) print_ops(step, &l);
    return OK;
}

/* ---- the command ---------------------------------------------------------------------------- */
enum what { BENCH_STEP, BENCH_OPS, BENCH_LOADER, BENCH_COUNT };

static const struct bench_step step_defaults = { .side = 8192, .n_timed = 10 };
static const struct bench_loader loader_defaults = {
    .frame = 1024, .masks = 64, .threads = 1, .n_images = 200
};

static enum status find_what(const char *word, enum what *what)
{
    static const char *const names[BENCH_COUNT] = { "step", "ops", "loader" };
    struct nearest near = nearest_start(word);
    char hint[NEAREST_TEXT];

    for (int i = 0; i < BENCH_COUNT; i++) {
        if (strcmp(word, names[i]) == 0) {
            *what = (enum what)i;
            return OK;
        }
        nearest_offer(&near, names[i]);
    }
    FAIL(E_USAGE,
         "bench times a step, its ops or the loader, not %s%s: say samforge bench step CONFIG (see "
         "samforge bench --help)",
         word, nearest_text(&near, "", hint));
}

/* What the loader, or a step, has no use for is not passed over in silence, unless it is what holds by default. */
static enum status check_use(bool of_loader, const struct bench_step *step,
                             const struct bench_loader *loader, bool count, const char *device)
{
    const struct {
        const char *name;
        bool said, of_loader;
    } option[] = {
        { "count", count, false },
        { "device", device != NULL, false },
        { "data", step->data != NULL, false },
        { "steps", step->n_timed != step_defaults.n_timed, false },
        { "side", step->side != step_defaults.side, false },
        { "frame", loader->frame != loader_defaults.frame, true },
        { "masks", loader->masks != loader_defaults.masks, true },
        { "threads", loader->threads != loader_defaults.threads, true },
        { "images", loader->n_images != loader_defaults.n_images, true },
    };

    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        if (option[i].said && option[i].of_loader != of_loader)
            FAIL(E_USAGE, "bench %s: leave out --%s",
                 of_loader
                     ? "loader runs on the CPU, on shards alone, and is timed, not counted"
                     : "step and ops have their sizes from the configuration, as section.key=value",
                 option[i].name);
    return OK;
}

enum status cmd_bench(int argc, char **argv)
{
    struct config c;
    struct bench_step step = step_defaults;
    struct bench_loader loader = loader_defaults;
    int64_t threads = loader.threads;
    bool json = false, count = false, done = false;
    const char *device = NULL;
    const struct option_row rows[] = {
        { "steps", 's', OPTION_INT, &step.n_timed, 1, 1e6, "N",
          "steps timed, behind three of warm-up" },
        { "data", 'd', OPTION_TEXT, &step.data, 0, 0, "SHARDS",
          "train on these through the loader; default: made-up slots in memory" },
        { "device", 0, OPTION_TEXT, &device, 0, 0, "NAME",
          "auto, cpu, ref, cuda or emu; default: run.device" },
        { "count", 0, OPTION_FLAG, &count, 0, 0, NULL,
          "run nothing: FLOPs, bytes, launches and a roofline of one step, on --device; cuda needs "
          "its plugin, but no GPU" },
        { "side", 0, OPTION_INT, &step.side, 16, 65536, "N",
          "GPU: side of the product its limits are measured with; 16 N² bytes are copied" },
        { "frame", 0, OPTION_INT, &loader.frame, 16, 8192, "PIXELS", "loader: side of the frame" },
        { "masks", 0, OPTION_INT, &loader.masks, 1, 4096, "N", "loader: masks an image at most" },
        { "threads", 't', OPTION_INT, &threads, 1, 256, "N", "loader: threads" },
        { "images", 'n', OPTION_INT, &loader.n_images, 1, 1e9, "N", "loader: images timed" },
        { "json", 0, OPTION_FLAG, &json, 0, 0, NULL, "one JSON object on stdout" },
        { .kind = OPTION_END },
    };
    const struct option_spec spec = {
        .command = "bench",
        .arguments = "step|ops CONFIG [section.key=value…] | loader SHARDS",
        .summary = "Times a training step, its ops, or the loader against what this machine can do "
                   "at most.",
        .examples = "samforge bench step configs/tiny.yaml\n"
                    "samforge bench ops configs/micro.yaml --steps 20 --json\n"
                    "samforge bench step configs/vit_h.yaml --device cuda train.batch=1\n"
                    "samforge bench loader shards/train --threads 1 --frame 1024",
        .notes =
            "step: without the cost of timing single ops. ops: each op of one step, forward and "
            "backward.\n"
            "Limits are measured in the same run; on a busy machine only ratios say something.\n"
            "Device emu, a GPU's kernels counted or run without a GPU, is in another program, "
            "samforge_emu,\n"
            "which ./bootstrap.sh test builds, or ninja -C build samforge_emu, but not setup:\n"
            "  build/tests/emu/samforge_emu bench step configs/vit_h.yaml --device emu --count "
            "train.batch=1",
        .rows = rows,
        .min_arguments = 2,
        .max_arguments = -1,
    };
    char **arguments;
    enum what what = BENCH_STEP;
    bool ops;
    int n;

    TRY(options_parse(&spec, argc, argv, &arguments, &n, &done));
    if (done) return OK;
    TRY(find_what(arguments[0], &what));
    ops = what == BENCH_OPS;
    loader.threads = (int)threads;
    step.config = &c;
    TRY(check_use(what == BENCH_LOADER, &step, &loader, count, device));
    if (what == BENCH_LOADER) {
        if (n > 2)
            FAIL(E_USAGE,
                 "bench loader wants the folder of shards alone; it reads no configuration");
        TRY(bench_loader_run(&loader, arguments[1]));
        if (json) return loader_json(&loader);
        print_loader(&loader);
        return OK;
    }
    TRY(config_load(&c, arguments[1], arguments + 2, n - 2));
    if (device) TRY(device_named(device, &c.run_device));
    return count ? count_step(&c, json) : time_step(&step, ops, json);
}
