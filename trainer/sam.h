/* A SAM with its memory: the image encoder's program, the decoder-round programs, their weights and everything they need
 * for one image at a time. All memory is taken by sam_create; nothing is taken afterwards.
 *
 * One image's work: sam_encode, then for each chunk of its masks rounds of sam_decode; when training, each round's
 * gradient through sam_decode_backward, and sam_encode_backward once at the end. */
#ifndef TRAINER_SAM_H
#define TRAINER_SAM_H

#include "trainer/image_encoder.h"
#include "trainer/mask_decoder.h"

/* The rounds a decoder program can be for. */
enum sam_round {
    SAM_FIRST, /* no mask prompt; three masks (tokens 1…3) */
    SAM_NEXT,  /* mask fed back; one mask (token 0) */
    SAM_FIRST_ALL, /* no mask prompt; all four tokens: when a lone box gets one mask, but a point three */
    SAM_NEXT_THREE, /* mask fed back; three masks: a silent round right behind the first prompt, when so configured */
    SAM_ROUNDS
};

struct sam_decoder {
    struct program *program; /* NULL: not needed by this configuration */
    struct mask_decoder at;
    struct mask_decoder_shape shape;
};

/* Tensors of one chunk of masks: the programs' inputs, device memory inside the sam. */
struct sam_prompts {
    struct tensor coords, labels, n_points, n_tokens; /* (M,P,2) (M,P) (M) (M) */
    struct tensor mask;                               /* (M,4H,4W) the fed-back logits */
    struct tensor key;                                /* (2) i64: dropout */
};

struct sam {
    const struct config *config; /* not owned */
    const struct ops *ops;
    struct params params;
    struct stream stream;
    bool train;
    int64_t M, P, H;   /* masks a chunk, prompt slots, side of the token grid */
    int n_rounds_kept; /* decoder blocks: the rounds when back-propagating through them, else 1 */

    enum dtype compute;  /* F32 or BF16: of activations and products */
    float *weights;      /* (params.n_floats) device; owned */
    uint16_t *weights16; /* the same, rounded, when computing in BF16; else NULL */
    struct program *encoder;
    struct image_encoder encoder_at;
    struct sam_decoder decoder[SAM_ROUNDS];
    void *encoder_block, *decoder_block; /* owned, as is all below */
    int64_t decoder_bytes;               /* of one round's block */
    void *memory;                        /* one piece of device memory behind all of these */
    int64_t memory_bytes;

    struct tensor pixels_u8, pixels_f32,
        pixels_size; /* (1,S,S,3) u8; normalized f32; (1,2) i32; not when training */
    struct tensor embedding, d_embedding,
        image_pe;                /* (1,H,W,C) twice, (H,W,C); the gradient is F32 */
    struct tensor image_pe_f32;  /* image_pe itself when computing in F32 */
    struct tensor drop_scale;    /* (2·depth) f32 */
    uint8_t branch_off[2 * 256]; /* host: this image's dropped branches */
    struct sam_prompts *prompts; /* (n_rounds_kept): backward reads each round's own */
    struct program_profile encoder_profile, decoder_profile;
    bool profiling;
};

/* masks: M of a chunk; points: P; scratch: bytes the caller's own ops on s->stream need at least. train: backward is
 * planned too. Keeps c. */
enum status sam_create(struct sam **s, const struct config *c, const struct ops *ops, int64_t masks,
                       int64_t points, int64_t scratch, bool train) MUST_CHECK;
void sam_destroy(struct sam *s);

/* What a configuration means by run.precision on that device; E_CONFIG where it cannot. */
enum status sam_precision(const struct config *c, const struct ops *ops,
                          enum dtype *compute) MUST_CHECK;

/* After the weights were written other than by AdamW: loaded or initialized. */
enum status sam_weights_changed(struct sam *s) MUST_CHECK;

/* pixels (S,S,3) u8 on the host, the image at the top left rows × cols. Not when training. */
enum status sam_encode(struct sam *s, const uint8_t *pixels, int32_t rows, int32_t cols) MUST_CHECK;

/* The same from pixels (S,S,3) f32 of the device's, normalized, which sam_encode_backward reads again. */
enum status sam_encode_normalized(struct sam *s, float *pixels) MUST_CHECK;

/* One round over s->prompts[kept]. kept: which decoder block to use, 0 unless rounds are kept. Outputs stay valid until the block is
 * used again. */
enum status sam_decode(struct sam *s, enum sam_round round, int kept, struct tensor *logits,
                       struct tensor *iou) MUST_CHECK;

/* Where to write the gradients of logits and iou of that round, before sam_decode_backward. */
void sam_decode_grads(struct sam *s, enum sam_round round, int kept, struct tensor *d_logits,
                      struct tensor *d_iou);

/* Adds to grads and to s->d_embedding; d_mask (M,4H,4W) is added to when given (back-propagation through rounds). */
enum status sam_decode_backward(struct sam *s, enum sam_round round, int kept, float *grads,
                                float *d_mask) MUST_CHECK;

/* From s->d_embedding; param_ready as in program.h. */
enum status sam_encode_backward(struct sam *s, float *grads, void (*param_ready)(void *, int),
                                void *context) MUST_CHECK;

#endif
