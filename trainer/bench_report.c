#include "trainer/bench_report.h"

#include <math.h>
#include <string.h>

/* Of the published run and of eager PyTorch, to stand beside ours: 256 A100 for 68 hours (SAM paper, appendix F); 102 tensors
 * of 4096×256 in bf16 a mask and round, three times for forward and backward, 64 masks, 11 rounds. */
#define PAPER_GPU_HOURS   17408.0
#define PAPER_IMAGES      (90000.0 * 256)
#define EAGER_DECODER     452e9
#define DECODER_BYTES_MAX 60e9

static double phase_bytes(const struct account *a, enum bench_phase p)
{
    double sum = 0;

    for (int i = 0; i < a->n; i++)
        if (a->row[i].phase == p) sum += a->row[i].bytes;
    return sum;
}

static double phase_scratch(const struct account *a, enum bench_phase p)
{
    double sum = 0;

    for (int i = 0; i < a->n; i++)
        if (a->row[i].phase == p) sum += a->row[i].scratch;
    return sum;
}

static double phase_flops(const struct account *a, enum bench_phase p)
{
    double sum = 0;

    for (int i = 0; i < a->n; i++)
        if (a->row[i].phase == p) sum += a->row[i].flops;
    return sum;
}

static double phase_seconds(const struct account *a, enum bench_phase p, const struct machine *m)
{
    double sum = 0;

    for (int i = 0; i < a->n; i++)
        if (a->row[i].phase == p) sum += account_seconds(a->row + i, m, NULL);
    return sum;
}

/* Decoder, and what goes with its masks; operands. */
static double decoder_bytes(const struct account *a)
{
    return phase_bytes(a, BENCH_DECODER_FORWARD) + phase_bytes(a, BENCH_DECODER_BACKWARD) +
           phase_bytes(a, BENCH_PROMPTS) + phase_bytes(a, BENCH_LOSS);
}

static double decoder_scratch(const struct account *a)
{
    return phase_scratch(a, BENCH_DECODER_FORWARD) + phase_scratch(a, BENCH_DECODER_BACKWARD);
}

/* Shares of a modelled step, by what its rows do. */
struct shares {
    double seconds;
    double f32_products; /* products on f32 units */
    double scalar;       /* on tensor cores or not, bound by other operations */
    double memory;       /* without products, bound by bytes */
    double off;          /* all rows that have no product on tensor cores */
};

static struct shares shares_of(const struct account *a, const struct machine *m)
{
    struct shares s = { 0 };

    for (int i = 0; i < a->n; i++) {
        const struct account_row *r = a->row + i;
        enum account_bound bound;
        const double t = account_seconds(r, m, &bound);

        s.seconds += t;
        if (!r->tensor) s.off += t;
        if (!r->tensor && r->flops > 0) s.f32_products += t;
        if (bound == BOUND_SCALAR) s.scalar += t;
        if (!r->tensor && r->flops == 0 && bound == BOUND_MEMORY) s.memory += t;
    }
    s.f32_products /= s.seconds;
    s.scalar /= s.seconds;
    s.memory /= s.seconds;
    s.off /= s.seconds;
    return s;
}

/* ---- text ----------------------------------------------------------------------------------- */
static void print_phases(const struct account *a)
{
    printf("\n%-18s %10s %10s %9s %9s %9s %9s\n", "one step", "TFLOP", "reference", "GB", "scratch",
           "ms, A100", "ms, H200");
    for (int p = 0; p < BENCH_N_PHASES; p++) {
        const enum bench_phase phase = (enum bench_phase)p;

        if (phase_bytes(a, phase) == 0) continue;
        printf("%-18s %10.3f %10.3f %9.3f %9.3f %9.2f %9.2f\n", bench_phase_name(phase),
               phase_flops(a, phase) / 1e12, a->flops_reference[p] / 1e12,
               phase_bytes(a, phase) / 1e9, phase_scratch(a, phase) / 1e9,
               1e3 * phase_seconds(a, phase, account_machines),
               1e3 * phase_seconds(a, phase, account_machines + 1));
    }
}

static void print_rows(const struct account *a)
{
    static const char *const bounds[] = { "tensor", "f32", "scalar", "memory" };

    printf("\n%-18s %-16s %8s %9s %9s %9s %8s %9s %-7s %9s %s\n", "", "op", "calls", "TFLOP", "GB",
           "scratch", "on", "ms, A100", "bound", "ms, H200", "bound");
    for (int i = 0; i < a->n; i++) {
        const struct account_row *r = a->row + i;
        enum account_bound on_a100, on_h200;
        const double a100 = account_seconds(r, account_machines, &on_a100);
        const double h200 = account_seconds(r, account_machines + 1, &on_h200);

        printf("%-18s %-16s %8.0f %9.4f %9.3f %9.3f %8s %9.3f %-7s %9.3f %s\n",
               bench_phase_name(r->phase), r->op, r->calls, r->flops / 1e12, r->bytes / 1e9,
               r->scratch / 1e9,
               r->tensor      ? "tensor"
               : r->flops > 0 ? "f32"
                              : "-",
               1e3 * a100, bounds[on_a100], 1e3 * h200, bounds[on_h200]);
    }
}

/* The rows without a product on tensor cores that take longest. */
static void print_off(const struct account *a, const struct machine *m, double seconds)
{
    bool said[ACCOUNT_ROWS] = { false };

    for (int n = 0; n < 6; n++) {
        int most = -1;

        for (int i = 0; i < a->n; i++)
            if (!a->row[i].tensor && !said[i] &&
                (most < 0 ||
                 account_seconds(a->row + i, m, NULL) > account_seconds(a->row + most, m, NULL)))
                most = i;
        if (most < 0) return;
        said[most] = true;
        printf("%s%s (%s) %.1f %%", n ? ", " : "  most: ", a->row[most].op,
               bench_phase_name(a->row[most].phase),
               100 * account_seconds(a->row + most, m, NULL) / seconds);
    }
    printf("\n");
}

static void print_shares(const struct account *a)
{
    for (int i = 0; i < 2; i++) {
        const struct machine *m = account_machines + i;
        const struct shares s = shares_of(a, m);

        printf(
            "roofline, %s: %.1f ms a step; ops without a product on tensor cores take %.1f %%, at "
            "most 2 wanted: %s\n",
            m->name, 1e3 * s.seconds, 100 * s.off, s.off <= 0.02 ? "met" : "MISSED");
        printf(
            "  of the step: %.2f %% products on f32 units, %.1f %% no product and bound by memory, "
            "%.1f %% bound by other operations, on tensor cores or not\n",
            100 * s.f32_products, 100 * s.memory, 100 * s.scalar);
        print_off(a, m, s.seconds);
    }
}

static void print_checks(const struct config *c, const struct cost *k, const struct account *a)
{
    const double decoder = decoder_bytes(a);
    const bool paper = c->model_image_size == 1024 && c->train_batch == 1 && c->train_masks == 64 &&
                       c->train_rounds == 11;

    printf("\ndecoder traffic, with prompts and loss: %.2f GB a step, every operand once",
           decoder / 1e9);
    if (paper)
        printf("; at most 60 wanted: %s; eager PyTorch %.0f",
               decoder <= DECODER_BYTES_MAX ? "met" : "MISSED", EAGER_DECODER / 1e9);
    printf("\n  and %.2f GB of scratch, %.1f MB a chunk and round, where it leaves the L2 cache\n",
           decoder_scratch(a) / 1e9,
           decoder_scratch(a) / 1e6 / (double)(k->n_chunks * c->train_batch * c->train_rounds));
    printf("attention of the encoder: largest tensor written %.1f MB, scratch in all %.1f MB; "
           "tokens × tokens would be %.1f MB: %s\n",
           a->attention_tensor / 1e6, a->attention_scratch / 1e6, a->attention_scores / 1e6,
           a->attention_tensor < a->attention_scores && a->attention_scratch < a->attention_scores
               ? "never written"
               : "NOT EXCLUDED by sizes");
    print_shares(a);
}

static void print_launches(const struct bench_count *n)
{
    printf("\n%8s kernel\n", "launches");
    for (int64_t i = 0; i < n->n_kernels; i++)
        printf("%8lld %s\n", (long long)n->kernel[i].n, n->kernel[i].kernel);
    printf("%8lld in all; %.3f GB of the device's memory\n", (long long)n->n_launches,
           (double)n->memory / 1e9);
}

void report_account(const struct config *c, const struct cost *k, const struct account *a,
                    const struct bench_count *count)
{
    printf("%s: %lld images × %lld masks × %lld rounds, %s\n", c->model_name,
           (long long)c->train_batch, (long long)c->train_masks, (long long)c->train_rounds,
           dtype_name(k->compute));
    print_phases(a);
    printf("%-18s %10.3f %10.3f\n", "all", k->step_flops / 1e12, k->step_flops_reference / 1e12);
    print_rows(a);
    print_checks(c, k, a);
    if (count) print_launches(count);
}

/* ---- JSON ----------------------------------------------------------------------------------- */
static json_t *rows_json(const struct account *a)
{
    json_t *list = json_array();

    for (int i = 0; list && i < a->n; i++) {
        const struct account_row *r = a->row + i;

        json_array_append_new(
            list, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:b, s:f, s:f}", "phase",
                            bench_phase_name(r->phase), "op", r->op, "calls", r->calls, "flops",
                            r->flops, "bytes", r->bytes, "scratch_bytes", r->scratch,
                            "scalar_operations", r->scalar, "tensor_cores", r->tensor,
                            "seconds_a100", account_seconds(r, account_machines, NULL),
                            "seconds_h200", account_seconds(r, account_machines + 1, NULL)));
    }
    return list;
}

static json_t *phases_json(const struct account *a)
{
    json_t *j = json_object();

    for (int p = 0; j && p < BENCH_N_PHASES; p++) {
        const enum bench_phase phase = (enum bench_phase)p;

        if (phase_bytes(a, phase) > 0)
            json_object_set_new(j, bench_phase_name(phase),
                                json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "flops",
                                          phase_flops(a, phase), "flops_reference",
                                          a->flops_reference[p], "bytes", phase_bytes(a, phase),
                                          "scratch_bytes", phase_scratch(a, phase), "seconds_a100",
                                          phase_seconds(a, phase, account_machines), "seconds_h200",
                                          phase_seconds(a, phase, account_machines + 1)));
    }
    return j;
}

static json_t *roofline_json(const struct account *a)
{
    json_t *j = json_object();

    for (int i = 0; j && i < 2; i++) {
        const struct shares s = shares_of(a, account_machines + i);

        json_object_set_new(j, account_machines[i].name,
                            json_pack("{s:f, s:f, s:f, s:f, s:f}", "seconds", s.seconds,
                                      "off_tensor_cores", s.off, "products_on_f32", s.f32_products,
                                      "memory_without_products", s.memory, "bound_by_other",
                                      s.scalar));
    }
    return j;
}

static json_t *launches_json(const struct bench_count *n)
{
    json_t *j = n ? json_object() : json_null();

    for (int64_t i = 0; n && j && i < n->n_kernels; i++)
        json_object_set_new(j, n->kernel[i].kernel, json_integer((json_int_t)n->kernel[i].n));
    return j;
}

json_t *report_account_json(const struct config *c, const struct ops *ops, const struct cost *k,
                            const struct account *a, const struct bench_count *n)
{
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:o, s:f, s:f, s:f, s:f, s:f, "
        "s:o, s:o, s:o}",
        "model", c->model_name, "device", ops->name, "precision", dtype_name(k->compute), "images",
        (json_int_t)c->train_batch, "masks", (json_int_t)c->train_masks, "rounds",
        (json_int_t)c->train_rounds, "flops", k->step_flops, "flops_reference",
        k->step_flops_reference, "phases", phases_json(a), "rows", rows_json(a), "roofline",
        roofline_json(a), "decoder_bytes", decoder_bytes(a), "decoder_scratch_bytes",
        decoder_scratch(a), "attention_tensor_bytes", a->attention_tensor,
        "attention_scratch_bytes", a->attention_scratch, "attention_scores_bytes",
        a->attention_scores, "launches", n ? json_integer((json_int_t)n->n_launches) : json_null(),
        "launches_by_kernel", launches_json(n), "memory",
        n ? json_integer((json_int_t)n->memory) : json_null());
}

/* ---- measured on a device ------------------------------------------------------------------- */
/* What was measured of it; operations that are no products at the ratio of an H200. */
static struct machine measured_of(const struct bench_step *b)
{
    const struct machine *h200 = account_machines + 1;

    return (struct machine){ "measured", b->limits.product,
                             b->limits.product * h200->f32_flops / h200->tensor_flops,
                             b->limits.copy };
}

/* An A100's step: each phase reaches the share of its roofline that it reached here. Phases are timed with waits between them;
 * the step without. Reading data is taken to be hidden. */
static double projected_seconds(const struct bench_step *b, const struct account *a)
{
    const struct machine here = measured_of(b);
    double a100 = 0, waited = 0;

    for (int p = 0; p < BENCH_N_PHASES; p++) {
        const double model = phase_seconds(a, (enum bench_phase)p, &here);

        waited += b->phase[p];
        if (model > 0)
            a100 += phase_seconds(a, (enum bench_phase)p, account_machines) * b->phase[p] / model;
    }
    return waited > 0 ? a100 * b->step_seconds / waited : 0;
}

static double gpu_hours(const struct bench_step *b, double seconds)
{
    return seconds * PAPER_IMAGES / (double)b->config->train_batch / 3600;
}

void report_device(const struct bench_step *b, const struct account *a)
{
    const double a100 = projected_seconds(b, a);

    printf("\nlimits, measured now: %.1f TFLOP/s in a product of %lld³, %.1f GB/s in a copy\n",
           b->limits.product / 1e12, (long long)b->side, b->limits.copy / 1e9);
    for (int p = 0; p < BENCH_N_PHASES; p++) {
        const enum bench_phase phase = (enum bench_phase)p;

        if (phase_bytes(a, phase) == 0 || b->phase[p] <= 0) continue;
        printf("  %-18s %9.2f TFLOP/s %5.1f %% %9.1f GB/s %5.1f %%\n", bench_phase_name(phase),
               phase_flops(a, phase) / b->phase[p] / 1e12,
               100 * phase_flops(a, phase) / b->phase[p] / b->limits.product,
               phase_bytes(a, phase) / b->phase[p] / 1e9,
               100 * phase_bytes(a, phase) / b->phase[p] / b->limits.copy);
    }
    printf("  MFU %.2f %% (the reference's FLOPs), HFU %.2f %% (those done), of that product\n",
           100 * b->flops_reference / b->step_seconds / b->limits.product,
           100 * b->flops / b->step_seconds / b->limits.product);
    printf("  memory taken from the device %.3f GB\n", (double)b->memory / 1e9);
    if (b->used_before >= 0)
        printf(
            "  in use there %.3f GB more than before, the driver's own for graphs with it; graphs "
            "made %lld, given new parameters %lld\n",
            (double)(b->usage.bytes - b->used_before) / 1e9, (long long)b->usage.graphs_made,
            (long long)b->usage.graphs_changed);
    if (!isnan(b->idle))
        printf("  idle at most %.1f %%: 1 − Σ (ops by themselves, less a wait each; prompts, loss, "
               "sums, "
               "optimizer) / step\n",
               100 * b->idle);
    printf("  the recipe's 90,000 × 256 images: %.0f hours of this GPU; projected %.0f A100-hours "
           "(%.1f ms a step), the paper %.0f\n",
           gpu_hours(b, b->step_seconds), gpu_hours(b, a100), 1e3 * a100, PAPER_GPU_HOURS);
    printf(
        "  assumed: each phase reaches the share of its roofline (max of FLOPs and bytes) that it "
        "reached here, with an A100's\n  312 TFLOP/s and 1.7 TB/s; data and the exchange between "
        "GPUs hidden; no drop path but the configuration's\n");
}

/* null where the device does not say */
static json_t *in_use_json(const struct bench_step *b)
{
    if (b->used_before < 0) return json_null();
    return json_integer((json_int_t)(b->usage.bytes - b->used_before));
}

static json_t *graphs_json(const struct bench_step *b)
{
    if (b->used_before < 0) return json_null();
    return json_pack("{s:I, s:I}", "made", (json_int_t)b->usage.graphs_made, "changed",
                     (json_int_t)b->usage.graphs_changed);
}

json_t *report_device_json(const struct bench_step *b, const struct account *a)
{
    const double a100 = projected_seconds(b, a);

    return json_pack(
        "{s:f, s:f, s:I, s:f, s:f, s:I, s:o, s:o, s:o, s:f, s:f, s:f, s:f}", "product_flops",
        b->limits.product, "copy_bytes_per_second", b->limits.copy, "product_side",
        (json_int_t)b->side, "mfu", b->flops_reference / b->step_seconds / b->limits.product, "hfu",
        b->flops / b->step_seconds / b->limits.product, "memory", (json_int_t)b->memory, "in_use",
        in_use_json(b), "graphs", graphs_json(b), "idle",
        isnan(b->idle) ? json_null() : json_real(b->idle), "gpu_hours",
        gpu_hours(b, b->step_seconds), "a100_seconds_projected", a100, "a100_hours_projected",
        gpu_hours(b, a100), "a100_hours_paper", PAPER_GPU_HOURS);
}
