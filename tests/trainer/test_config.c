#include "trainer/config.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "trainer/model.h"

enum { TEXT = 1 << 16 };

/* The top of the source tree, from where this file was compiled. */
static const char *source(const char *path)
{
    static char full[PATH_MAX];
    const char *tail = strstr(__FILE__, "tests/trainer/");

    snprintf(full, sizeof full, "%.*s%s", tail ? (int)(tail - __FILE__) : 0, __FILE__, path);
    return full;
}

static enum status parse(struct config *c, const char *text)
{
    config_defaults(c);
    return config_parse(c, text, (int64_t)strlen(text), "test.yaml");
}

static char scratch[] = "/tmp/samforge-config-XXXXXX";

static const char *write_file(const char *name, const char *text)
{
    static char path[2][PATH_MAX];
    static int next;
    char *p = path[next++ % 2];
    FILE *f;

    snprintf(p, PATH_MAX, "%s/%s", scratch, name);
    f = fopen(p, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return p;
}

static char *dump(const struct config *c)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    assert_int_equal(config_dump(c, f), OK);
    fclose(f);
    return text;
}

/* ---- values -----------------------------------------------------------------------------------
 */

static void values_of_every_kind(void **state)
{
    struct config c;

    (void)state;
    assert_int_equal(parse(&c, "model:\n  name: \"a: #b\"\n  global_blocks: [1, 3]\n  init: torch\n"
                               "train:\n  batch: 1e3\n  box_multimask: false\n"
                               "optim:\n  lr: 2e-3\n  milestones: []\n"),
                     OK);
    assert_string_equal(c.model_name, "a: #b");
    assert_int_equal(c.model_global_blocks.n, 2);
    assert_int_equal(c.model_global_blocks.v[1], 3);
    assert_int_equal(c.model_init, 1);
    assert_int_equal(c.train_batch, 1000);
    assert_false(c.train_box_multimask);
    assert_true(c.optim_lr == 2e-3);
    assert_int_equal(c.optim_milestones.n, 0);
    assert_int_equal(c.train_masks, 64); /* a default */
    assert_string_equal(c.name, "test");
}

static void empty_files_and_sections(void **state)
{
    static const char *const texts[] = { "", "---\n", "# nothing\n",
                                         "model:\ntrain:\n  batch: 256\n", "{model: {depth: 12}}" };
    struct config c, d;

    (void)state;
    config_defaults(&d);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(parse(&c, texts[i]), OK);
        assert_int_equal(config_hash(&c), config_hash(&d));
    }
}

static void wrong_texts(void **state)
{
    static const char *const texts[] = {
        "train:\n  bacth: 8\n",                     /* unknown key */
        "trian:\n  batch: 8\n",                     /* unknown section */
        "batch: 8\n",                               /* key without its section */
        "train: 8\n",                               /* section as a value */
        "train:\n  batch: 8\n  batch: 8\n",         /* twice */
        "train:\n  batch: 8\ntrain:\n  masks: 8\n", /* section twice */
        "train:\n  batch: 9k\n",
        "train:\n  batch: 1.5\n",
        "train:\n  batch: 0x10\n",
        "train:\n  batch: \"8\"\n", /* a text */
        "train:\n  batch: 0\n",     /* below */
        "train:\n  batch: 65537\n", /* above */
        "train:\n  batch: [8]\n",
        "train:\n  batch:\n",
        "train:\n  batch: 1e400\n",
        "optim:\n  lr: fast\n",
        "optim:\n  lr: .nan\n",
        "optim:\n  lr: nan\n",
        "optim:\n  lr: inf\n",
        "optim:\n  milestones: 5\n",
        "optim:\n  milestones: [5, x]\n",
        "optim:\n  milestones: [-1]\n",
        "optim:\n  milestones: [[5]]\n",
        "loss:\n  iou: mes\n",
        "train:\n  recompute: yes\n",
        "train:\n  recompute: \"true\"\n",
        "train:\n  recompute: 1\n",
        "model:\n  name: &a x\n",
        "model:\n  name: !!str x\n",
        "model: &a\n  depth: 12\n",
        "model:\n  name: \"a\\0b\"\n",
        "model:\n  name: \"a\\u0007b\"\n",
        "model: {name: {a: b}}\n",
        "a\n",
        "- a\n",
        "[model]\n",
        "? [a]\n: b\n",
        "--- {}\n--- {}\n",
        "%YAML 1.1\n---\nmodel:\n  depth: 12\n",
        "%TAG ! tag:x,2000:\n---\nmodel:\n  depth: 12\n",
        "model:\n\tdepth: 12\n",
        "model: [\n",
        "extends: other.yaml\n", /* only in files */
        "model:\n  name: *a\n",
    };
    struct config c, before;

    (void)state;
    config_defaults(&before);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (parse(&c, texts[i]) != E_CONFIG) fail_msg("accepted: %s", texts[i]);
        assert_int_equal(c.n_files, 0); /* and left alone */
        assert_int_equal(config_hash(&c), config_hash(&before));
    }
}

static void a_text_that_is_too_long(void **state)
{
    char text[2 * CONFIG_TEXT];
    struct config c;

    (void)state;
    snprintf(text, sizeof text, "model:\n  name: %0*d\n", CONFIG_TEXT - 1, 1);
    assert_int_equal(parse(&c, text), OK);
    snprintf(text, sizeof text, "model:\n  name: %0*d\n", CONFIG_TEXT, 1);
    assert_int_equal(parse(&c, text), E_CONFIG);
}

static void large_and_deep_texts(void **state)
{
    const size_t n = (1 << 20) + 1;
    char *text = malloc(n + 1);
    struct config c;

    (void)state;
    assert_non_null(text);
    memset(text, ' ', n);
    text[n] = 0;
    assert_int_equal(parse(&c, text), E_CONFIG);
    memset(text, '[', n - 1);
    text[n - 1] = 0;
    assert_int_equal(parse(&c, text), E_CONFIG);
    free(text);
}

/* ---- command line -----------------------------------------------------------------------------
 */

static void overrides(void **state)
{
    static const char *const wrong[] = { "train.batch",     "=8",
                                         "batch=8",         "train.bacth=8",
                                         "train.batch=",    "train.batch=8x",
                                         "train.batch= 8",  "model.global_blocks=[1,2",
                                         "model.name=a\nb", "model.name=\xff" };
    struct config c;

    (void)state;
    config_defaults(&c);
    assert_int_equal(config_override(&c, "train.batch=16"), OK);
    assert_int_equal(c.train_batch, 16);
    assert_int_equal(config_override(&c, "model.name=a=b \"c\""), OK);
    assert_string_equal(c.model_name, "a=b \"c\"");
    assert_int_equal(config_override(&c, "model.global_blocks=[1, 3]"), OK);
    assert_int_equal(c.model_global_blocks.n, 2);
    assert_int_equal(config_override(&c, "model.global_blocks=4,5,6"), OK);
    assert_int_equal(c.model_global_blocks.n, 3);
    assert_int_equal(config_override(&c, "model.global_blocks="), OK);
    assert_int_equal(c.model_global_blocks.n, 0);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (config_override(&c, wrong[i]) != E_CONFIG) fail_msg("accepted: %s", wrong[i]);
    assert_int_equal(c.train_batch, 16);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static void parents_come_first(void **state)
{
    char *const over[] = { "train.rounds=5" };
    const char *path;
    struct config c;
    char *text;

    (void)state;
    write_file("base.yaml", "train:\n  batch: 2\n  masks: 3\n  rounds: 4\n");
    write_file("middle.yaml", "train:\n  masks: 30\nextends: base.yaml\n");
    path = write_file("young.yaml", "extends: middle.yaml\ntrain:\n  rounds: 40\n");
    assert_int_equal(config_load(&c, path, over, 1), OK);
    assert_int_equal(c.train_batch, 2);
    assert_int_equal(c.train_masks, 30);
    assert_int_equal(c.train_rounds, 5);
    assert_string_equal(c.name, "young");
    text = dump(&c);
    assert_non_null(strstr(text, "batch: 2  # "));
    assert_non_null(strstr(text, "base.yaml:2\n"));
    assert_non_null(strstr(text, "middle.yaml:2\n"));
    assert_non_null(strstr(text, "rounds: 5  # command line\n"));
    assert_non_null(strstr(text, "depth: 12  # default\n"));
    free(text);
}

static void families_that_cannot_be(void **state)
{
    char *const over[] = { "train.rounds=5" };
    struct config c;
    char name[32], body[64];

    (void)state;
    write_file("a.yaml", "extends: b.yaml\n");
    write_file("b.yaml", "extends: a.yaml\n");
    assert_int_equal(config_load(&c, write_file("self.yaml", "extends: self.yaml\n"), NULL, 0),
                     E_CONFIG);
    assert_int_equal(config_load(&c, write_file("c.yaml", "extends: a.yaml\n"), NULL, 0), E_CONFIG);
    assert_int_equal(
        config_load(&c, write_file("two.yaml", "extends: a.yaml\nextends: b.yaml\n"), NULL, 0),
        E_CONFIG);
    assert_int_equal(config_load(&c, write_file("list.yaml", "extends: [a.yaml]\n"), NULL, 0),
                     E_CONFIG);
    assert_int_equal(config_load(&c, write_file("lost.yaml", "extends: no.yaml\n"), NULL, 0),
                     E_CONFIG);
    for (int i = 0; i < 9; i++) {
        snprintf(name, sizeof name, "g%d.yaml", i);
        snprintf(body, sizeof body, i ? "extends: g%d.yaml\n" : "train:\n  batch: 2\n", i - 1);
        assert_int_equal(config_load(&c, write_file(name, body), NULL, 0), i < 8 ? OK : E_CONFIG);
    }
    assert_int_equal(config_load(&c, scratch, NULL, 0), E_CONFIG); /* a folder */
    assert_int_equal(config_load(&c, "/dev/zero", NULL, 0), E_CONFIG);
    assert_int_equal(config_load(&c, "/dev/null", NULL, 0), E_CONFIG);
    assert_int_equal(config_load(&c, write_file("0.yaml", "# depth: 3\n"), over, 1), E_CONFIG);
    assert_int_equal(config_load(&c, write_file("0.yaml", "model:\n"), NULL, 0), E_CONFIG);
    assert_int_equal(config_load(&c, write_file("1.yaml", "extends: 0.yaml\n"), NULL, 0), E_CONFIG);
    write_file("0.yaml", "train:\n  batch: 2\n");
    assert_int_equal(config_load(&c, write_file("1.yaml", "extends: 0.yaml\n"), NULL, 0), OK);
}

/* ---- all fields -------------------------------------------------------------------------------
 */

/* A value for each field that is not its default, and what a dump makes of it. */
static void dump_reads_back_exactly(void **state)
{
    static const char *const sets[] = {
        "model.name=ä \\ \" ' # : {x}",
        "optim.lr=0.1",
        "optim.lr=3.3333333333333335e-05",
        "loss.w_iou=1e-300",
        "data.max_area=0.30000000000000004",
        "train.seed=9000000000000000",
        "model.global_blocks=",
        "optim.milestones=1,2,3,1000000000",
        "run.device=ref",
        "loss.iou_all=true",
        "run.folder=/a b/c",
        "loss.iou=l1",
    };
    struct config c, d;

    (void)state;
    config_defaults(&c);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char *text, *again;

        assert_int_equal(config_override(&c, sets[i]), OK);
        text = dump(&c);
        config_defaults(&d);
        assert_int_equal(config_parse(&d, text, (int64_t)strlen(text), "dump"), OK);
        assert_memory_equal(&c, &d, offsetof(struct config, name));
        memcpy(d.origin, c.origin, sizeof d.origin);
        again = dump(&d);
        assert_string_equal(text, again);
        free(text);
        free(again);
    }
}

static void hash_follows_results_only(void **state)
{
    static const char *const same[] = { "run.folder=x",      "run.threads=3",     "train.steps=5",
                                        "checkpoint.keep=9", "eval.every=7",      "data.ahead=9",
                                        "data.train=/x",     "model.name=x",      "run.timeout_s=5",
                                        "data.n_threads=9",  "run.budget_hours=1" };
    static const char *const other[] = { "train.seed=1",       "optim.lr=1",       "model.depth=13",
                                         "train.batch=8",      "data.blind=true",  "loss.iou=l1",
                                         "optim.milestones=1", "data.min_area=0.1" };
    struct config d, c;
    char text[CONFIG_TEXT];

    (void)state;
    config_defaults(&d);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        config_defaults(&c);
        assert_int_equal(config_override(&c, same[i]), OK);
        assert_int_equal(config_hash(&c), config_hash(&d));
        assert_string_equal(config_difference(&d, &c, text), "");
    }
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        config_defaults(&c);
        assert_int_equal(config_override(&c, other[i]), OK);
        assert_int_not_equal(config_hash(&c), config_hash(&d));
        assert_memory_equal(config_difference(&d, &c, text), other[i], strcspn(other[i], "="));
    }
}

/* What config_settings says, added to the second, gives the first. */
static void settings_undo_a_difference(void **state)
{
    static const char *const changed[] = { "optim.milestones=[3, 5]", "run.device=ref",
                                           "loss.focal_alpha=0.1", "data.blind=true" };
    struct config was, now;
    char text[CONFIG_SETTINGS];

    (void)state;
    config_defaults(&was);
    config_defaults(&now);
    assert_string_equal(config_settings(&was, &now, text), "");
    for (int i = 0; i < 4; i++) assert_int_equal(config_override(&was, changed[i]), OK);
    assert_string_equal(config_settings(&was, &now, text),
                        "data.blind=true loss.focal_alpha=0.1 'optim.milestones=[3, 5]' "
                        "run.device=ref");
    was.optim_milestones.n = CONFIG_LIST; /* does not fit: nothing, not a part of it */
    for (int i = 0; i < CONFIG_LIST; i++) was.optim_milestones.v[i] = 1000000 + i;
    assert_string_equal(config_settings(&was, &now, text), "");
}

static void between_fields(void **state)
{
    static const char *const wrong[] = {
        "model.embed_dim=770",    "model.prompt_dim=264",   "model.image_size=1000",
        "model.mask_channels=18", "model.global_blocks=12", "model.global_blocks=3,2",
        "train.rounds=2",         "optim.milestones=9,9",   "optim.milestones=0",
        "data.min_area=0.9",      "eval.every=5",
    };
    struct config c;

    (void)state;
    config_defaults(&c);
    assert_int_equal(config_check(&c), OK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        config_defaults(&c);
        assert_int_equal(config_override(&c, wrong[i]), OK);
        if (config_check(&c) != E_CONFIG) fail_msg("accepted: %s", wrong[i]);
    }
}

/* Absorbed projections take 16 tokens a mask: 5 of its own, a first prompt of 2, and a click for each of 9 later rounds. */
static void absorbing_has_a_limit(void **state)
{
    static const struct {
        const char *rounds, *absorb;
        enum status expected;
        int resolved; /* on a device that is faster with it */
    } rows[] = {
        { "train.rounds=12", "run.absorb=on", OK, SWITCH_ON },
        { "train.rounds=13", "run.absorb=on", E_CONFIG, SWITCH_ON },
        { "train.rounds=12", "run.absorb=auto", OK, SWITCH_ON },
        { "train.rounds=13", "run.absorb=auto", OK, SWITCH_OFF },
        { "train.rounds=13", "run.absorb=off", OK, SWITCH_OFF },
    };
    struct ops device = ops_ref;

    (void)state;
    device.fused = true;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;

        config_defaults(&c);
        assert_int_equal(config_override(&c, "train.silent_rounds=2"), OK);
        assert_int_equal(config_override(&c, rows[i].rounds), OK);
        assert_int_equal(config_override(&c, rows[i].absorb), OK);
        assert_int_equal(config_check(&c), rows[i].expected);
        model_resolve(&c, &device);
        assert_int_equal(c.run_absorb, rows[i].resolved);
    }
}

/* ---- what ships -------------------------------------------------------------------------------
 */

static void shipped(struct config *c, const char *name)
{
    char path[64];

    snprintf(path, sizeof path, "configs/%s.yaml", name);
    assert_int_equal(config_load(c, source(path), NULL, 0), OK);
    assert_string_equal(c->name, name);
}

static void paper_configs(void **state)
{
    static const struct {
        const char *name;
        int64_t dim, depth, heads, last, steps, batch;
        double lr, layer_decay, drop_path;
    } row[] = {
        { "vit_b", 768, 12, 12, 11, 180000, 128, 8e-4, 0.6, 0.6 },
        { "vit_l", 1024, 24, 16, 23, 180000, 128, 4e-4, 0.8, 0.4 },
        { "vit_h", 1280, 32, 16, 31, 90000, 256, 8e-4, 0.8, 0.4 },
    };
    struct config c;

    (void)state;
    for (int i = 0; i < 3; i++) {
        shipped(&c, row[i].name);
        assert_int_equal(c.model_embed_dim, row[i].dim);
        assert_int_equal(c.model_depth, row[i].depth);
        assert_int_equal(c.model_n_heads, row[i].heads);
        assert_int_equal(c.model_global_blocks.n, 4);
        assert_int_equal(c.model_global_blocks.v[3], row[i].last);
        assert_int_equal(c.train_steps, row[i].steps);
        assert_int_equal(c.train_batch, row[i].batch);
        assert_int_equal(c.optim_milestones.v[0], row[i].steps * 2 / 3);
        assert_true(c.optim_lr == row[i].lr);
        assert_true(c.optim_layer_decay == row[i].layer_decay);
        assert_true(c.train_drop_path == row[i].drop_path);
        assert_true(c.train_dropout == 0.1 && c.optim_weight_decay == 0.1);
        assert_int_equal(c.train_rounds, 11);
        assert_int_equal(c.optim_warmup, 250);
    }
}

/* The sizes and recipe of the PyTorch trainer these are measured against. */
static void small_configs(void **state)
{
    static const struct {
        const char *name;
        int64_t image, dim, depth, heads, window, global[2], prompt, p_heads, mlp, masks, batch,
            rounds, warmup, steps;
        double lr;
    } row[] = {
        { "tiny", 256, 192, 6, 3, 7, { 2, 5 }, 128, 8, 512, 16, 4, 4, 100, 1000, 8e-4 },
        { "micro", 128, 128, 4, 2, 4, { 1, 3 }, 64, 4, 256, 8, 8, 3, 50, 700, 2e-3 },
    };
    struct config c;

    (void)state;
    for (int i = 0; i < 2; i++) {
        shipped(&c, row[i].name);
        assert_int_equal(c.model_image_size, row[i].image);
        assert_int_equal(c.model_patch_size, 16);
        assert_int_equal(c.model_embed_dim, row[i].dim);
        assert_int_equal(c.model_depth, row[i].depth);
        assert_int_equal(c.model_n_heads, row[i].heads);
        assert_int_equal(c.model_window, row[i].window);
        assert_int_equal(c.model_global_blocks.n, 2);
        assert_memory_equal(c.model_global_blocks.v, row[i].global, sizeof row[i].global);
        assert_int_equal(c.model_prompt_dim, row[i].prompt);
        assert_int_equal(c.model_iou_hidden, row[i].prompt);
        assert_int_equal(c.model_decoder_heads, row[i].p_heads);
        assert_int_equal(c.model_decoder_mlp, row[i].mlp);
        assert_int_equal(c.model_decoder_depth, 2);
        assert_int_equal(c.model_mask_channels, 16);
        assert_int_equal(c.model_mlp_ratio, 4);
        assert_int_equal(c.model_init, 0);
        assert_int_equal(c.train_masks, row[i].masks);
        assert_int_equal(c.train_batch, row[i].batch);
        assert_int_equal(c.train_rounds, row[i].rounds);
        assert_int_equal(c.train_silent_rounds, 1);
        assert_int_equal(c.optim_warmup, row[i].warmup);
        assert_int_equal(c.train_steps, row[i].steps);
        assert_int_equal(c.data_min_pixels, 100);
        assert_int_equal(c.loss_resolution, 1);
        assert_true(c.optim_lr == row[i].lr && c.optim_weight_decay == 0.1);
        assert_true(c.optim_layer_decay == 1 && c.train_drop_path == 0 && c.train_dropout == 0);
        /* the first whole steps at or past 2/3 and 0.963 of all */
        assert_int_equal(c.optim_milestones.v[0], (2 * row[i].steps + 2) / 3);
        assert_int_equal(c.optim_milestones.v[1], (963 * row[i].steps + 999) / 1000);
    }
    shipped(&c, "demo"); /* measured against nothing: only what it says of itself */
    assert_int_equal(c.model_embed_dim, 128);
    assert_int_equal(c.optim_milestones.v[0], 2 * c.train_steps / 3);
    assert_int_equal(c.optim_milestones.v[1], (963 * c.train_steps + 999) / 1000);
}

/* docs/configuration.md holds the table as config_help prints it. */
static void the_manual_is_up_to_date(void **state)
{
    char *help = NULL, *manual = calloc(1, TEXT), *save = NULL;
    size_t n = 0;
    FILE *f = fopen(source("docs/configuration.md"), "r");

    (void)state;
    assert_non_null(f);
    assert_true(fread(manual, 1, TEXT - 1, f) > 0);
    fclose(f);
    f = open_memstream(&help, &n);
    config_help(f);
    fclose(f);
    for (char *line = strtok_r(help, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!strstr(manual, line)) fail_msg("docs/configuration.md lacks: %s", line);
    free(help);
    free(manual);
}

static int start(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : 1;
}

static int finish(void **state)
{
    char command[PATH_MAX];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_every_kind),
        cmocka_unit_test(empty_files_and_sections),
        cmocka_unit_test(wrong_texts),
        cmocka_unit_test(a_text_that_is_too_long),
        cmocka_unit_test(large_and_deep_texts),
        cmocka_unit_test(overrides),
        cmocka_unit_test(parents_come_first),
        cmocka_unit_test(families_that_cannot_be),
        cmocka_unit_test(dump_reads_back_exactly),
        cmocka_unit_test(hash_follows_results_only),
        cmocka_unit_test(settings_undo_a_difference),
        cmocka_unit_test(between_fields),
        cmocka_unit_test(absorbing_has_a_limit),
        cmocka_unit_test(paper_configs),
        cmocka_unit_test(small_configs),
        cmocka_unit_test(the_manual_is_up_to_date),
    };

    return cmocka_run_group_tests(tests, start, finish);
}
