#include "trainer/command.h"

#include "cluster/signals.h"
#include "data_pipeline/pack.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/options.h"

#include <stdio.h>
#include <unistd.h>

#include <jansson.h>

static const int64_t line_ns = 100 * 1000 * 1000; /* between two progress lines */

/* How a progress line is drawn; none when stderr is no terminal. */
struct painter {
    bool on, drawn;
    int64_t started, last; /* ns */
};

static void draw(struct painter *d, const struct pack_progress *p)
{
    const double seconds = (double)(clock_ns() - d->started) * 1e-9;
    const int64_t n_bad = p->tally.n_bad_masks + p->tally.n_bad_items;
    char share[32] = "";

    if (p->bytes_all > 0)
        snprintf(share, sizeof share, ", %.0f %% of %.0f MB",
                 100.0 * (double)p->bytes_in / (double)p->bytes_all, (double)p->bytes_all * 1e-6);
    fprintf(stderr,
            "\r\033[Kpacking: part %lld of %lld%s, %lld images, %lld masks, %lld quarantined, "
            "%.0f images/s",
            (long long)p->n_parts_done, (long long)p->n_parts, share, (long long)p->tally.n_images,
            (long long)p->tally.n_masks, (long long)n_bad,
            seconds > 0 ? (double)p->tally.n_images / seconds : 0);
    fflush(stderr);
    d->drawn = true;
}

static bool progress(void *user, const struct pack_progress *p)
{
    struct painter *const d = user;
    const int64_t now = clock_ns();

    if (d->on && now - d->last >= line_ns) {
        d->last = now;
        draw(d, p);
    }
    return !signals_stop_wanted();
}

static void print_table(const char *out, const struct pack_progress *p)
{
    const struct {
        const char *what;
        int64_t n;
    } rows[] = { { "images", p->tally.n_images },
                 { "masks", p->tally.n_masks },
                 { "shards", p->n_shards },
                 { "bytes", p->tally.bytes_out },
                 { "parts kept from an earlier run", p->n_parts_kept },
                 { "masks left out, too large", p->tally.n_large },
                 { "masks left out, empty", p->tally.n_empty },
                 { "masks left out, crowd", p->tally.n_crowd },
                 { "images without a mask", p->tally.n_bare },
                 { "quarantined masks", p->tally.n_bad_masks },
                 { "quarantined members and sources", p->tally.n_bad_items } };

    printf("%s\n", out);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        printf("  %-32s %14lld\n", rows[i].what, (long long)rows[i].n);
    if (p->tally.n_bad_masks + p->tally.n_bad_items > 0)
        printf("  %s/quarantine.jsonl says what was quarantined, and why\n", out);
}

static enum status print_json(const char *out, const struct pack_progress *p)
{
    const struct pack_tally *const t = &p->tally;
    json_t *const o = json_pack(
        "{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "out", out, "images",
        (json_int_t)t->n_images, "masks", (json_int_t)t->n_masks, "shards", (json_int_t)p->n_shards,
        "bytes", (json_int_t)t->bytes_out, "parts", (json_int_t)p->n_parts, "parts_kept",
        (json_int_t)p->n_parts_kept, "masks_too_large", (json_int_t)t->n_large, "masks_empty",
        (json_int_t)t->n_empty, "masks_crowd", (json_int_t)t->n_crowd, "images_without_mask",
        (json_int_t)t->n_bare, "quarantined_masks", (json_int_t)t->n_bad_masks,
        "quarantined_members", (json_int_t)t->n_bad_items);
    const int rc = o ? json_dumpf(o, stdout, JSON_INDENT(2)) : -1;

    json_decref(o);
    if (rc != 0 || putchar('\n') == EOF) FAIL(E_IO, "pack: cannot write the summary");
    return OK;
}

static enum status run(struct pack_options *o, bool json, bool strict)
{
    struct painter painter = { .on = isatty(STDERR_FILENO) == 1, .started = clock_ns() };
    struct pack_progress p;
    enum status s;
    int64_t n_bad;

    TRY(signals_catch());
    signals_notice("stop requested: it takes effect behind the image at hand; a second INT "
                   "(Ctrl-C) ends it at once",
                   true);
    o->progress = progress;
    o->user = &painter;
    s = pack_run(o, &p);
    if (painter.drawn) fputs("\r\033[K", stderr);
    if (s == OK && json)
        TRY(print_json(o->out, &p));
    else if (s == OK)
        print_table(o->out, &p);
    TRY(s);
    n_bad = p.tally.n_bad_masks + p.tally.n_bad_items;
    if (n_bad == 0) return OK;
    if (strict)
        FAIL(E_CORRUPT, "pack: quarantined %lld, and --strict is given; see %s/quarantine.jsonl",
             (long long)n_bad, o->out);
    log_warn("pack: quarantined %lld; see %s/quarantine.jsonl", (long long)n_bad, o->out);
    return OK;
}

enum status cmd_pack(int argc, char **argv)
{
    struct pack_options o = pack_options_default();
    int64_t resize = 0, threads = o.n_threads;
    double shard_gib = (double)o.shard_bytes / (1 << 30);
    double pending_mib = (double)o.pending_bytes / (1 << 20);
    bool json = false, strict = false;
    const struct option_row rows[] = {
        { "images", 'i', OPTION_TEXT, &o.images, 0, 0, "DIR",
          "where a COCO JSON's images are; the JSON's own folder otherwise" },
        { "resize", 'r', OPTION_INT, &resize, 0, 1 << 16, "PIXELS",
          "store larger images with this long side, as JPEG of quality 95; 0: as they come" },
        { "max-area", 0, OPTION_NUMBER, &o.max_area, 0, 1, "SHARE",
          "leave out masks over this share of the image" },
        { "shard-gib", 0, OPTION_NUMBER, &shard_gib, 1e-6, 1024, "GIB",
          "a shard of this size is closed and the next one begun" },
        { "pending-mib", 0, OPTION_NUMBER, &pending_mib, 1, 1 << 20, "MIB",
          "memory a thread may hold in images and JSONs waiting for each other" },
        { "verify-pixels", 0, OPTION_FLAG, &o.verify_pixels, 0, 0, NULL,
          "decode every image in full, not just its header" },
        { "strict", 0, OPTION_FLAG, &strict, 0, 0, NULL,
          "exit with 4 when anything was quarantined" },
        { "threads", 'j', OPTION_INT, &threads, 1, 256, "N",
          "sources packed at a time; changes no byte" },
        { "json", 0, OPTION_FLAG, &json, 0, 0, NULL, "print the summary as JSON" },
        { .kind = OPTION_END },
    };
    const struct option_spec spec = {
        .command = "pack",
        .arguments = "SRC… OUT",
        .summary = "Turns images and masks into a folder OUT of HDF5 shards, checking every one.",
        .examples = "samforge pack data/sa_000000.tar data/sa_000001.tar shards\n"
                    "samforge pack data/tars shards --resize 1024\n"
                    "samforge pack coco/annotations/instances_val2017.json shards "
                    "--images coco/val2017\n",
        .notes =
            "SRC is an SA-1B tar (plain or gzip), a COCO instances JSON, or a folder: of tars,\n"
            "of sa_ID.jpg with sa_ID.json, of one COCO JSON with its images, or of folders\n"
            "ID/image.png with ID/masks/*.png. What is broken is quarantined, with the reason\n"
            "in OUT/quarantine.jsonl; all the rest is packed. A pack that was stopped or\n"
            "killed goes on when the same command is given again.\n",
        .rows = rows,
        .min_arguments = 2,
        .max_arguments = -1,
    };
    char **arguments;
    int n_arguments;
    bool done = false;

    TRY(options_parse(&spec, argc, argv, &arguments, &n_arguments, &done));
    if (done) return OK;
    o.sources = (const char *const *)arguments;
    o.n_sources = n_arguments - 1;
    o.out = arguments[n_arguments - 1];
    o.resize = (int32_t)resize;
    o.n_threads = (int)threads;
    o.shard_bytes = (int64_t)(shard_gib * (1 << 30));
    o.pending_bytes = (int64_t)(pending_mib * (1 << 20));
    return run(&o, json, strict);
}
