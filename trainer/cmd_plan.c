#include <jansson.h>
#include <stdio.h>

#include "cluster/plan.h"
#include "trainer/command.h"
#include "trainer/config.h"
#include "trainer/cost.h"
#include "trainer/device.h"
#include "trainer/learner.h"
#include "trainer/options.h"

/* Sizes of SA-1B as published (SAM paper §5 and the dataset's card), for storage. */
#define SA1B_IMAGES     11185362.0
#define SA1B_JPEG_BYTES 1.0e6 /* mean, short side 1500 */
#define SA1B_MASK_BYTES 6.3e4 /* mean, the JSON of an image */
#define RESIZED_SHARE   0.45  /* a JPEG scaled to a long side of 1024, of its bytes */

struct plan {
    struct config config;
    struct cost cost;
    const struct ops *ops; /* whose precision, fused ops and scratch are counted with */
    double gpus, peak_tflops, mfu, price, images;
    double flops, hours, gpu_hours; /* of the whole run */
    int n_gradients;                /* that a rank holds at once, where it computes */
};

/* A rank has the levels of its own images where they are summed. On the host: then one gradient on its device. */
static int gradients_of_ranks(const struct plan *p)
{
    const int64_t batch = p->config.train_batch;
    const int n = p->gpus < (double)batch ? (int)p->gpus : (int)batch;
    const bool here =
        p->ops->host_memory || learner_sums_on_devices(&p->config, p->ops, (int)p->gpus);
    int most = 1;

    for (int r = 0; here && r < n; r++) {
        const int levels = plan_levels(plan_part(batch, n, r));

        if (levels > most) most = levels;
    }
    return most;
}

static void work_out(struct plan *p)
{
    const struct config *c = &p->config;

    p->flops = p->cost.step_flops_reference * (double)c->train_steps;
    p->gpu_hours = p->flops / (p->peak_tflops * 1e12 * p->mfu) / 3600;
    p->hours = p->gpu_hours / p->gpus;
    p->n_gradients = p->gpus > 1 ? gradients_of_ranks(p) : p->cost.n_gradients;
}

static void print_pass(const char *name, const struct cost_pass *k)
{
    printf("  %-34s %10.3f %10.3f %10.3f %10.3f\n", name, k->forward.flops_reference / 2e9,
           k->forward.flops / 2e9, k->backward.flops / 2e9,
           (k->forward.bytes + k->backward.bytes) / 1e9);
}

static void print_text(const struct plan *p)
{
    const struct config *c = &p->config;
    const struct cost *k = &p->cost;

    printf("model      %s, %lld × %lld pixels\n", c->model_name, (long long)c->model_image_size,
           (long long)c->model_image_size);
    printf("parameters %lld in %lld tensors\n\n", (long long)k->n_params, (long long)k->n_tensors);
    printf("multiply-adds, 10^9                    reference       here   backward   GB moved\n");
    print_pass("image encoder, one image", &k->encoder);
    print_pass("decoder, one mask, first round", &k->decoder_first);
    print_pass("decoder, one mask, later rounds", &k->decoder_next);
    printf("\ntraining FLOPs, 10^12                  reference       here\n");
    printf("  one image, %3lld masks × %2lld rounds   %10.3f %10.3f\n", (long long)c->train_masks,
           (long long)c->train_rounds, k->image_flops_reference / 1e12, k->image_flops / 1e12);
    printf("  one step, %5lld images             %10.1f %10.1f\n", (long long)c->train_batch,
           k->step_flops_reference / 1e12, k->step_flops / 1e12);
    printf("  %lld steps, 10^18              %10.2f\n\n", (long long)c->train_steps,
           p->flops / 1e18);
    printf("memory a rank, device %s, activations in %s, GB\n", p->ops->name,
           dtype_name(k->compute));
    printf("  weights, two moments, gradients: %-4d%8.3f\n", p->n_gradients,
           ((k->compute == BF16 ? 3.5 : 3.0) + p->n_gradients) * (double)k->weights_bytes / 1e9);
    printf("  encoder activations                 %8.3f\n", (double)k->encoder_bytes / 1e9);
    printf("  encoder activations, recomputed     %8.3f   train.recompute=true\n",
           (double)k->encoder_bytes_recomputed / 1e9);
    printf("  decoder, a chunk of %2lld masks        %8.3f\n\n", (long long)c->train_chunk,
           (double)k->decoder_bytes / 1e9);
    printf("storage, GB\n");
    printf("  a checkpoint                        %8.3f   kept: %lld\n",
           (double)k->checkpoint_bytes / 1e9, (long long)c->checkpoint_keep);
    printf("  %.0f images as SA-1B has them  %8.0f\n", p->images,
           p->images * (SA1B_JPEG_BYTES + SA1B_MASK_BYTES) / 1e9);
    printf("  the same packed with --resize 1024  %8.0f\n\n",
           p->images * (RESIZED_SHARE * SA1B_JPEG_BYTES + SA1B_MASK_BYTES) / 1e9);
    printf("the run on %.0f GPUs of %.0f TFLOP/s at %.0f %% of it\n", p->gpus, p->peak_tflops,
           100 * p->mfu);
    printf("  a step                              %8.3f s\n",
           p->hours * 3600 / (double)c->train_steps);
    printf(
        "  in all                              %8.1f hours, %.0f GPU-hours, %.0f dollars at %.2f\n",
        p->hours, p->gpu_hours, p->gpu_hours * p->price, p->price);
}

static enum status print_json(const struct plan *p)
{
    const struct config *c = &p->config;
    const struct cost *k = &p->cost;
    json_t *j = json_pack(
        "{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:s, "
        "s:s, s:f, s:f, s:f, s:f, s:i}",
        "model", c->model_name, "parameters", (json_int_t)k->n_params, "tensors",
        (json_int_t)k->n_tensors, "encoder_gmac_reference",
        k->encoder.forward.flops_reference / 2e9, "encoder_gmac", k->encoder.forward.flops / 2e9,
        "decoder_first_gmac", k->decoder_first.forward.flops / 2e9, "decoder_next_gmac",
        k->decoder_next.forward.flops / 2e9, "image_tflop_reference",
        k->image_flops_reference / 1e12, "image_tflop", k->image_flops / 1e12,
        "step_tflop_reference", k->step_flops_reference / 1e12, "step_tflop", k->step_flops / 1e12,
        "weights_bytes", (json_int_t)k->weights_bytes, "encoder_activation_bytes",
        (json_int_t)k->encoder_bytes, "encoder_activation_bytes_recomputed",
        (json_int_t)k->encoder_bytes_recomputed, "decoder_activation_bytes",
        (json_int_t)k->decoder_bytes, "checkpoint_bytes", (json_int_t)k->checkpoint_bytes, "device",
        p->ops->name, "precision", dtype_name(k->compute), "run_eflop", p->flops / 1e18,
        "gpu_hours", p->gpu_hours, "hours", p->hours, "dollars", p->gpu_hours * p->price,
        "gradients_held", p->n_gradients);
    const int bad = !j || json_dumpf(j, stdout, JSON_INDENT(2)) != 0;

    json_decref(j);
    if (bad) FAIL(E_IO, "cannot write the plan");
    putchar('\n');
    return OK;
}

enum status cmd_plan(int argc, char **argv)
{
    struct plan p = {
        .gpus = 256, .peak_tflops = 312, .mfu = 0.3, .price = 2, .images = SA1B_IMAGES
    };
    bool json = false, done = false;
    const struct option_row rows[] = {
        { "gpus", 'g', OPTION_NUMBER, &p.gpus, 1, 1e6, "N", "GPUs, for the run's hours" },
        { "peak-tflops", 0, OPTION_NUMBER, &p.peak_tflops, 1e-3, 1e6, "T",
          "what one GPU can do at most; 312: an A100 in bf16" },
        { "mfu", 0, OPTION_NUMBER, &p.mfu, 1e-4, 1, "SHARE", "share of it that the run reaches" },
        { "price", 0, OPTION_NUMBER, &p.price, 0, 1e6, "DOLLARS", "of a GPU-hour" },
        { "images", 0, OPTION_NUMBER, &p.images, 1, 1e12, "N", "images to store; default: SA-1B" },
        { "json", 0, OPTION_FLAG, &json, 0, 0, NULL, "one JSON object on stdout" },
        { .kind = OPTION_END },
    };
    const struct option_spec spec = {
        .command = "plan",
        .arguments = "CONFIG [section.key=value…]",
        .summary = "Counts a configuration's parameters, FLOPs, memory and storage from its op "
                   "list, before any run.",
        .examples =
            "samforge plan configs/vit_h.yaml\n"
            "samforge plan configs/vit_b.yaml train.masks=32 --gpus 8 --peak-tflops 989 --json",
        .notes = "Reference: the published model's multiply-adds, with window padding. Here: what "
                 "samforge does.\n"
                 "The hours follow from --mfu, an assumption; Meta's own run had 0.030.",
        .rows = rows,
        .min_arguments = 1,
        .max_arguments = -1,
    };
    char **arguments;
    int n;

    TRY(options_parse(&spec, argc, argv, &arguments, &n, &done));
    if (done) return OK;
    TRY(config_load(&p.config, arguments[0], arguments + 1, n - 1));
    TRY(device_for_planning(p.config.run_device, &p.ops));
    TRY(cost_of(&p.config, p.ops, &p.cost));
    work_out(&p);
    if (json) return print_json(&p);
    print_text(&p);
    return OK;
}
