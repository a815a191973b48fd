/* A run's configuration: one table of fields, from which come the struct, YAML parsing,
 * section.key=value overrides, range checks, --help and the dump stored with every run.
 *
 * Precedence: defaults < the file's parent (`extends:`) < the file < the command line. Every field
 * knows where it came from. */
#ifndef TRAINER_CONFIG_H
#define TRAINER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/base/status.h"

enum { CONFIG_TEXT = 512, CONFIG_LIST = 64 };

/* A short list of integers: global attention blocks, milestones. */
struct config_list {
    int64_t v[CONFIG_LIST];
    int n;
};

/* X(section, key, type, default, min, max, help)
 *   INT int64_t; NUMBER double; FLAG bool; TEXT char[]; LIST config_list (default as text "2,5,8");
 *   CHOICE int, with the choices in place of min: "a|b|c", default by name */
#define CONFIG_FIELDS(INT, NUMBER, FLAG, TEXT, LIST, CHOICE)                                       \
    TEXT(model, name, "vit_b", "what the run calls its model")                                     \
    INT(model, image_size, 1024, 16, 4096, "side of the padded square frame, pixels")              \
    INT(model, patch_size, 16, 1, 64, "side of a patch, pixels")                                   \
    INT(model, embed_dim, 768, 8, 8192, "width of the image encoder")                              \
    INT(model, depth, 12, 1, 256, "blocks of the image encoder")                                   \
    INT(model, n_heads, 12, 1, 256, "attention heads of the image encoder")                        \
    INT(model, mlp_ratio, 4, 1, 16, "width of the encoder's MLP over its own")                     \
    INT(model, window, 14, 0, 128, "side of an attention window, tokens; 0: all blocks global")    \
    LIST(model, global_blocks, "2,5,8,11", "blocks with global attention")                         \
    INT(model, prompt_dim, 256, 8, 4096, "width of the prompt encoder and mask decoder")           \
    INT(model, decoder_heads, 8, 1, 64, "attention heads of the mask decoder")                     \
    INT(model, decoder_mlp, 2048, 8, 65536, "width of the mask decoder's MLP")                     \
    INT(model, decoder_depth, 2, 1, 16, "layers of the mask decoder")                              \
    INT(model, mask_channels, 16, 4, 256,                                                          \
        "channels of the mask prompt before its last convolution")                                 \
    INT(model, iou_hidden, 256, 8, 4096, "width of the IoU head")                                  \
    CHOICE(model, init, "vitdet", "vitdet|torch",                                                  \
           "initial weights: ViTDet's truncated normal, or PyTorch's defaults")                    \
    TEXT(data, train, "", "folder of shards to train on")                                          \
    TEXT(data, val, "", "folder of shards to evaluate on during training; empty: none")            \
    NUMBER(data, min_area, 0, 0, 1, "masks below this share of the image are left out")            \
    NUMBER(data, max_area, 0.9, 0, 1, "masks above this share of the image are left out")          \
    INT(data, min_pixels, 1, 1, 1 << 28, "masks of fewer original pixels are left out")            \
    INT(data, n_threads, 2, 1, 256, "loader threads a rank")                                       \
    INT(data, ahead, 4, 1, 4096, "slots a rank's loader holds ready")                              \
    FLAG(data, blind, false, "hide the image from the model (a control experiment)")               \
    INT(train, seed, 0, 0, 9e15, "every random choice of the run follows from it")                 \
    INT(train, steps, 90000, 0, 1e9, "optimizer steps")                                            \
    INT(train, batch, 256, 1, 65536, "images a step, over all ranks")                              \
    INT(train, masks, 64, 1, 1024, "masks an image at most")                                       \
    INT(train, rounds, 11, 1, 64, "interaction rounds: one first prompt and the corrections")      \
    INT(train, silent_rounds, 2, 0, 8,                                                             \
        "of these, rounds without a new click: one last, the others at random")                    \
    INT(train, chunk, 8, 1, 1024, "masks the decoder works on at a time")                          \
    NUMBER(train, drop_path, 0, 0, 0.95,                                                           \
           "rate at the last block, rising linearly from 0 at the first")                          \
    NUMBER(train, dropout, 0.1, 0, 0.95, "in the mask decoder, after attention and MLP outputs")   \
    FLAG(train, recompute, false,                                                                  \
         "compute encoder activations again backward instead of keeping them")                     \
    FLAG(train, through_rounds, false,                                                             \
         "back-propagate through the fed-back masks (keeps all rounds of a chunk)")                \
    NUMBER(train, box_share, 0.5, 0, 1, "masks whose first prompt is a box")                       \
    NUMBER(train, box_noise, 0.1, 0, 1, "noise of a box corner over the box's side")               \
    NUMBER(train, box_noise_max, 20, 0, 4096, "its limit, pixels of a 1024 frame")                 \
    CHOICE(train, box_noise_law, "normal", "normal|uniform",                                       \
           "SAM's text and SAM 3's code say normal; SAM 2's code uniform")                         \
    FLAG(train, box_multimask, true, "a lone box gets three masks, like a lone point")             \
    FLAG(train, silent_multimask, false,                                                           \
         "a first prompt with only a fed-back mask still gets three masks")                        \
    CHOICE(loss, resolution, "full", "full|low", "full: the frame's; low: the logits'")            \
    CHOICE(loss, area, "all", "all|valid", "whether the padding counts")                           \
    NUMBER(loss, focal_alpha, 0.25, 0, 1, "weight of foreground pixels")                           \
    NUMBER(loss, focal_gamma, 2, 0, 8, "focusing exponent")                                        \
    NUMBER(loss, w_focal, 20, 0, 1e6, "weight of the focal loss")                                  \
    NUMBER(loss, w_dice, 1, 0, 1e6, "weight of the dice loss")                                     \
    NUMBER(loss, w_iou, 1, 0, 1e6, "weight of the IoU head's loss")                                \
    CHOICE(loss, iou, "mse", "mse|l1", "loss of the IoU head")                                     \
    FLAG(loss, iou_all, false, "the IoU head learns from all masks, not only the best one")        \
    NUMBER(optim, lr, 8e-4, 0, 10, "peak learning rate")                                           \
    INT(optim, warmup, 250, 0, 1e9, "steps of linear warm-up from lr/1000")                        \
    LIST(optim, milestones, "60000,86666", "steps at which the learning rate falls to a tenth")    \
    NUMBER(optim, beta1, 0.9, 0, 0.99999, "AdamW")                                                 \
    NUMBER(optim, beta2, 0.999, 0, 0.999999, "AdamW")                                              \
    NUMBER(optim, eps, 1e-8, 1e-20, 1, "AdamW")                                                    \
    NUMBER(optim, weight_decay, 0.1, 0, 10, "AdamW; none for biases, norms and positions")         \
    FLAG(optim, decay_all, false, "decay every parameter (the paper is silent)")                   \
    NUMBER(optim, layer_decay, 1, 0.01, 1,                                                         \
           "learning rate factor a block, counted from the neck down")                             \
    NUMBER(optim, clip, 0, 0, 1e9, "greatest gradient norm; 0: no clipping")                       \
    INT(optim, bad_steps, 3, 0, 1000,                                                              \
        "non-finite steps skipped in a row before the run stops as diverged")                      \
    TEXT(run, folder, "", "where the run lives; empty: runs/<config's name>")                      \
    CHOICE(run, device, "auto", "auto|cpu|ref|cuda|emu",                                           \
           "where ops run; auto: the GPU, else the CPU; emu: only in samforge_emu")                \
    FLAG(run, share_gpu, false, "several ranks may compute on one GPU")                            \
    CHOICE(run, precision, "auto", "auto|f32|bf16",                                                \
           "of activations and products; auto: bf16 where the device has it, else f32")            \
    CHOICE(run, absorb, "auto", "auto|off|on",                                                     \
           "decoder attention to and from the image with its projections absorbed into the "       \
           "tokens; auto: where the device is faster so")                                          \
    CHOICE(run, fuse_upscaling, "auto", "auto|off|on",                                             \
           "the decoder's upscaling, norm and mask product as one op")                             \
    FLAG(run, own_products, false,                                                                 \
         "on a GPU: no product by cuBLASLt or cuDNN, all by the kernels of this project")          \
    FLAG(run, one_mask, true,                                                                      \
         "after the first round decode only the mask that is used; off: all four, as the "         \
         "reference does")                                                                         \
    CHOICE(run, fuse_norms, "auto", "auto|off|on",                                                 \
           "the encoder's residual sums and the norms behind them as one op")                      \
    CHOICE(run, graph, "auto", "auto|off|on",                                                      \
           "on a device: a rank's part of a step, up to 16 images and 176 rounds of chunks, "      \
           "recorded ahead and launched as one graph; the same bits without")                      \
    CHOICE(run, nccl, "auto", "auto|off|on",                                                       \
           "several ranks, each on a GPU of its own, sum gradients there by NCCL; off: on the "    \
           "hosts by MPI, the same bits")                                                          \
    INT(run, threads, 0, 0, 1024,                                                                  \
        "threads of the CPU backend a rank; 0: the node's cores over its ranks")                   \
    NUMBER(run, budget_hours, 0, 0, 1e9,                                                           \
           "rank-hours after which the run checkpoints and stops; 0: none")                        \
    INT(run, timeout_s, 600, 1, 86400, "longest wait for another rank or the loader")              \
    INT(run, bucket_bytes, 83886080, 1024, 1 << 30, "gradients sent at a time")                    \
    INT(checkpoint, every, 100, 0, 1e9, "steps between checkpoints; 0: only the last")             \
    INT(checkpoint, keep, 2, 1, 1000, "newest checkpoints kept")                                   \
    INT(checkpoint, keep_every, 0, 0, 1e9,                                                         \
        "checkpoints at multiples of this step are kept for ever; 0: none")                        \
    INT(eval, every, 0, 0, 1e9, "steps between evaluations on data.val; 0: none")                  \
    INT(eval, max_masks, 5, 1, 100000, "masks an image in evaluations during training")

/* Choices, in the order of their texts above. */
enum { SWITCH_AUTO, SWITCH_OFF, SWITCH_ON };
enum { PRECISION_AUTO, PRECISION_F32, PRECISION_BF16 };

#define CONFIG_C_INT(section, key, ...)    int64_t section##_##key;
#define CONFIG_C_NUMBER(section, key, ...) double section##_##key;
#define CONFIG_C_FLAG(section, key, ...)   bool section##_##key;
#define CONFIG_C_TEXT(section, key, ...)   char section##_##key[CONFIG_TEXT];
#define CONFIG_C_LIST(section, key, ...)   struct config_list section##_##key;
#define CONFIG_C_CHOICE(section, key, ...) int section##_##key;

#define CONFIG_COUNT(...) +1
enum {
    CONFIG_N_FIELDS = 0 CONFIG_FIELDS(CONFIG_COUNT, CONFIG_COUNT, CONFIG_COUNT, CONFIG_COUNT,
                                      CONFIG_COUNT, CONFIG_COUNT),
    CONFIG_FILES = 8, /* a file and its ancestors */
    CONFIG_COMMAND_LINE = -1
};

/* Where a field's value came from. */
struct config_origin {
    int line; /* of file[file]; 0: the default; CONFIG_COMMAND_LINE */
    int file;
};

struct config {
    CONFIG_FIELDS(CONFIG_C_INT, CONFIG_C_NUMBER, CONFIG_C_FLAG, CONFIG_C_TEXT, CONFIG_C_LIST,
                  CONFIG_C_CHOICE)
    char name[CONFIG_TEXT];                       /* the file's stem */
    struct config_origin origin[CONFIG_N_FIELDS]; /* in the table's order */
    char file[CONFIG_FILES][CONFIG_TEXT];
    int n_files;
};

/* All defaults. */
void config_defaults(struct config *c);

/* Defaults, then path (after its `extends:` parent, whose path is relative to the file), then
 * overrides "section.key=value"; ends with config_check. Any wrong key, type or range: E_CONFIG
 * naming file, line and the nearest valid name. Sets *c only on success. */
enum status config_load(struct config *c, const char *path, char *const *overrides,
                        int n_overrides) MUST_CHECK;

/* Applies YAML text to *c, without `extends:` and without config_check: what config_dump wrote, as
 * a checkpoint holds it. name stands for the file in messages. Changes *c only on success. */
enum status config_parse(struct config *c, const char *text, int64_t n,
                         const char *name) MUST_CHECK;

enum status config_override(struct config *c, const char *assignment) MUST_CHECK;

/* Checks between fields: heads divide widths, window and blocks fit … */
enum status config_check(const struct config *c) MUST_CHECK;

/* Prompt slots a mask needs: two for the first prompt and one a click. Tokens it has with all of them in use. */
enum { CONFIG_OUTPUT_TOKENS = 5 }; /* the IoU head's and four masks' */
int64_t config_points(const struct config *c);
int64_t config_tokens(const struct config *c);

/* The whole configuration as YAML that config_parse reads back to the same values, each with its
 * origin in a comment. */
enum status config_dump(const struct config *c, FILE *f) MUST_CHECK;

/* A hash over all fields that change the result of some step; names, folders, threads, budget,
 * retention and the number of steps do not, and the data has a hash of its own. */
uint64_t config_hash(const struct config *c);

/* The fields that change results and differ, as "train.batch 8 → 16, …", cut to fit; returns buf.
 */
const char *config_difference(const struct config *a, const struct config *b,
                              char buf[CONFIG_TEXT]);

/* What to add to a command that b comes of, so that its results are a's: "run.device=ref 'optim.milestones=[3]'", as a shell reads
 * it, into buf. "" when nothing differs or it does not fit; returns buf. */
enum { CONFIG_SETTINGS = 256 };
const char *config_settings(const struct config *a, const struct config *b,
                            char buf[CONFIG_SETTINGS]);

/* The table for people: section.key, type, default, range, help. */
void config_help(FILE *f);

#endif
