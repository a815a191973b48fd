/* The loader: every slot is what the order, the shard and the decoders say, whatever the threads
 * and ranks; damage stops it by name; its memory is bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <xxhash.h>

#include "data_pipeline/loader.h"
#include "data_pipeline/picture.h"
#include "kernels/base/arena.h"
#include "kernels/base/log.h"
#include "tests/data_pipeline/sample_shard.h"

enum { N_IMAGES = 7, FRAME = 64, MASKS = 3, WAIT_MS = 60000, SEED = 99 };

/* Landscape, portrait, square, smaller than the frame, exactly the frame, a strip. */
static const int32_t sizes[N_IMAGES][2] = { { 90, 140 }, { 150, 80 }, { 70, 70 }, { 30, 41 },
                                            { 64, 48 },  { 64, 64 },  { 300, 9 } };

enum { LOG_TEXT = 8192 };

static char folder[SAMPLE_PATH];
static struct shard_set *set;

/* ---- a disk that hangs ----------------------------------------------------------------------- */

static pthread_mutex_t bar_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t bar_lifted = PTHREAD_COND_INITIALIZER;
static bool barred;
static atomic_int n_barred; /* reads that were held up */

static void bar_reads(bool on)
{
    pthread_mutex_lock(&bar_lock);
    barred = on;
    pthread_cond_broadcast(&bar_lifted);
    pthread_mutex_unlock(&bar_lock);
}

static int let_read(void **state)
{
    (void)state;
    bar_reads(false);
    return 0;
}

/* Takes the place of libc's in this program: how the loader's threads read. */
ssize_t pread(int fd, void *p, size_t n, off_t at)
{
    pthread_mutex_lock(&bar_lock);
    if (barred) atomic_fetch_add(&n_barred, 1);
    while (barred) pthread_cond_wait(&bar_lifted, &bar_lock);
    pthread_mutex_unlock(&bar_lock);
    return syscall(SYS_pread64, fd, p, n, at);
}

/* ---- what the log says ----------------------------------------------------------------------- */

struct saved_log {
    int fd, hush;
};

static void log_begin(struct saved_log *log)
{
    char path[] = "/tmp/samforge-log-XXXXXX";

    log->fd = mkstemp(path);
    assert_true(log->fd >= 0);
    unlink(path);
    log_set_file(log->fd);
    log->hush = sample_hush();
}

static void log_end(const struct saved_log *log, char text[LOG_TEXT])
{
    ssize_t n;

    sample_speak(log->hush);
    log_set_file(-1);
    n = syscall(SYS_pread64, log->fd, text, LOG_TEXT - 1, (off_t)0);
    close(log->fd);
    assert_true(n >= 0);
    text[n] = 0;
}

static void assert_log(const char *text, const char *wanted)
{
    if (!strstr(text, wanted)) print_message("the log says:\n%s", text);
    assert_non_null(strstr(text, wanted));
}

/* ---- the set --------------------------------------------------------------------------------- */

static void draw(struct picture *p, int64_t i)
{
    const struct rng_key key = rng_stream(11, RNG_TEST, (uint64_t)i, 0);

    assert_int_equal(picture_reserve(p, sizes[i][0], sizes[i][1]), OK);
    for (int32_t y = 0; y < p->height; y++)
        for (int32_t x = 0; x < p->width; x++)
            for (int32_t c = 0; c < 3; c++)
                p->rgb[(y * p->width + x) * 3 + c] =
                    (uint8_t)(40 + (3 * x + 2 * y * (c + 1)) % 150 +
                              (int)rng_below(key, (uint64_t)(y / 8 * 99 + x / 8), 60));
}

/* How a record is spoiled before it is hashed, so that only its decoder can tell. */
enum spoil { WHOLE, BAD_IMAGE, BAD_SIZE, BAD_MASK };

static void add_record(struct shard_writer *w, int64_t i, enum spoil spoil)
{
    static struct sample s;
    struct picture p = { 0 };
    uint8_t *bytes;
    int64_t n;

    draw(&p, i);
    assert_int_equal(picture_encode_jpeg(&p, 90, &bytes, &n), OK);
    sample_make(&s, 500 + i, sizes[i][0], sizes[i][1], i == 2 ? 0 : i + 1, bytes, n);
    if (spoil == BAD_IMAGE) bytes[n / 2] = 0xFF, bytes[n / 2 + 1] = 0xD9;
    if (spoil == BAD_SIZE) s.record.stored_height--;
    if (spoil == BAD_MASK) s.text[0] = 'o'; /* a number that goes on beyond its groups */
    assert_int_equal(shard_writer_add(w, &s.record), OK);
    free(bytes);
    picture_destroy(&p);
}

static void write_set(char to[SAMPLE_PATH], enum spoil spoil)
{
    struct shard_summary all[2];

    sample_folder(to);
    for (int k = 0; k < 2; k++) {
        const char *names[] = { "shard-00000.h5", "shard-00001.h5" };
        const struct shard_writer_options o = { .folder = to, .name = names[k] };
        struct shard_writer *w;

        assert_int_equal(shard_writer_create(&w, &o), OK);
        for (int64_t i = k ? 4 : 0; i < (k ? N_IMAGES : 4); i++)
            add_record(w, i, i == 3 ? spoil : WHOLE);
        assert_int_equal(shard_writer_commit(w, &all[k]), OK);
        shard_writer_destroy(w);
    }
    assert_int_equal(shard_manifest_write(to, all, 2, 0), OK);
}

static int make_set(void **state)
{
    (void)state;
    write_set(folder, WHOLE);
    return shard_set_open(&set, folder) == OK ? 0 : -1;
}

static int remove_set(void **state)
{
    (void)state;
    shard_set_close(set);
    sample_remove(folder);
    return 0;
}

static struct loader_options usual(void)
{
    return (struct loader_options){ .set = set,
                                    .seed = SEED,
                                    .frame = FRAME,
                                    .max_masks = MASKS,
                                    .max_area = 1,
                                    .batch = 5,
                                    .slot_end = 5,
                                    .n_threads = 2,
                                    .ahead = 4 };
}

/* The slot's pixels, made without the loader. */
static void check_pixels(const struct loader_slot *s, const struct shard_record *r)
{
    struct picture decoded = { 0 }, want = { 0 };
    const char *why;
    int32_t h, w;

    picture_fit(r->height, r->width, FRAME, &h, &w);
    assert_int_equal(s->new_height, h);
    assert_int_equal(s->new_width, w);
    assert_true(h == FRAME || w == FRAME);
    assert_int_equal(picture_decode(r->image, r->image_bytes, FRAME, &decoded, &why), OK);
    assert_int_equal(picture_resize(&want, &decoded, h, w), OK);
    for (int32_t y = 0; y < FRAME; y++)
        for (int32_t x = 0; x < FRAME; x++)
            for (int32_t c = 0; c < 3; c++)
                assert_int_equal(s->pixels[(y * FRAME + x) * 3 + c],
                                 y < h && x < w ? want.rgb[(y * w + x) * 3 + c] : 0);
    picture_destroy(&decoded);
    picture_destroy(&want);
}

static void check_masks(const struct loader_slot *s, const struct shard_record *r)
{
    int32_t chosen[MASKS], runs[SAMPLE_TEXT];
    const char *why;

    assert_int_equal(s->n_masks, order_masks(SEED, s->place, r->n_masks, MASKS, chosen));
    assert_int_equal(s->first[0], 0);
    for (int64_t i = 0; i < MASKS; i++) {
        const int64_t m = chosen[i], begin = m > 0 && i < s->n_masks ? r->mask_end[m - 1] : 0;
        int64_t n;

        if (i >= s->n_masks) {
            assert_int_equal(s->first[i + 1], s->n_runs);
            for (int j = 0; j < 4; j++) assert_true(s->box[4 * i + j] == 0);
            continue;
        }
        assert_int_equal(s->mask_index[i], m);
        assert_int_equal(rle_decode(r->mask_text + begin, r->mask_end[m] - begin, r->height,
                                    r->width, runs, SAMPLE_TEXT, &n, &why),
                         OK);
        assert_int_equal(s->first[i + 1] - s->first[i], n);
        assert_memory_equal(s->runs + s->first[i], runs, (size_t)n * sizeof *runs);
        for (int j = 0; j < 4; j++) {
            const double scale =
                j % 2 ? (double)s->new_height / r->height : (double)s->new_width / r->width;
            const double want = (double)r->mask_box[4 * m + j] * scale;

            assert_true(s->box[4 * i + j] >= want * (1 - 1e-6) &&
                        s->box[4 * i + j] <= want * (1 + 1e-6));
        }
    }
    assert_int_equal(s->first[s->n_masks], s->n_runs);
}

static void slots_are_what_the_shard_says(void **state)
{
    const struct loader_options o = usual();
    struct shard_buffer b = { 0 };
    struct loader *l;

    (void)state;
    assert_int_equal(loader_create(&l, &o), OK);
    for (int64_t q = 0; q < 30; q++) {
        const struct order_place place = order_at(SEED, N_IMAGES, q);
        const struct loader_slot *s;
        struct shard_record r;

        assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
        assert_int_equal(s->step, q / 5);
        assert_int_equal(s->slot, q % 5);
        assert_int_equal(s->place.epoch, place.epoch);
        assert_int_equal(s->place.image, place.image);
        assert_int_equal(shard_set_read(set, place.image, &b, &r), OK);
        assert_int_equal(s->image_id, r.image_id);
        assert_int_equal(s->height, r.height);
        assert_int_equal(s->width, r.width);
        check_pixels(s, &r);
        check_masks(s, &r);
        loader_done(l, s);
    }
    loader_destroy(l);
    shard_buffer_destroy(&b);
}

static uint64_t slot_hash(const struct loader_slot *s)
{
    const int64_t head[] = { s->step,      s->slot,    s->place.epoch, s->place.image,
                             s->image_id,  s->height,  s->width,       s->new_height,
                             s->new_width, s->n_masks, s->n_runs };
    uint64_t h = XXH3_64bits(head, sizeof head);

    h = XXH3_64bits_withSeed(s->pixels, FRAME * FRAME * 3, h);
    h = XXH3_64bits_withSeed(s->mask_index, (size_t)s->n_masks * sizeof *s->mask_index, h);
    h = XXH3_64bits_withSeed(s->runs, (size_t)s->n_runs * sizeof *s->runs, h);
    h = XXH3_64bits_withSeed(s->first, (MASKS + 1) * sizeof *s->first, h);
    return XXH3_64bits_withSeed(s->box, MASKS * 4 * sizeof *s->box, h);
}

enum { STEPS = 6, BATCH = 10 };

/* Runs one rank over STEPS steps and puts each slot's hash at its place in the run. */
static void run_rank(struct loader_options o, uint64_t hash[STEPS * BATCH])
{
    const int64_t n = (STEPS - o.step_first) * (o.slot_end - o.slot_begin);
    struct loader *l;

    assert_int_equal(loader_create(&l, &o), OK);
    for (int64_t i = 0; i < n; i++) {
        const struct loader_slot *s;

        assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
        assert_int_equal(hash[s->step * BATCH + s->slot], 0);
        hash[s->step * BATCH + s->slot] = slot_hash(s);
        loader_done(l, s);
    }
    loader_destroy(l);
}

static void same_for_any_threads_ranks_and_restarts(void **state)
{
    static const int threads[] = { 1, 3, 8 };
    uint64_t want[STEPS * BATCH] = { 0 };
    struct loader_options o = usual();

    (void)state;
    o.batch = o.slot_end = BATCH;
    o.n_threads = 1;
    o.ahead = 1;
    run_rank(o, want);
    for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
        uint64_t got[STEPS * BATCH] = { 0 };

        o.n_threads = threads[k];
        o.ahead = 5;
        run_rank(o, got);
        assert_memory_equal(got, want, sizeof got);
    }
    for (int64_t ranks = 2; ranks <= 7; ranks++) {
        uint64_t got[STEPS * BATCH] = { 0 };

        for (int64_t rank = 0; rank < ranks; rank++) {
            o.slot_begin = BATCH * rank / ranks;
            o.slot_end = BATCH * (rank + 1) / ranks;
            o.n_threads = 2;
            run_rank(o, got);
        }
        assert_memory_equal(got, want, sizeof got);
    }
    o.slot_begin = 0;
    o.slot_end = BATCH;
    for (o.step_first = 1; o.step_first < STEPS; o.step_first++) {
        uint64_t got[STEPS * BATCH] = { 0 };
        const size_t from = (size_t)o.step_first * BATCH;

        run_rank(o, got);
        assert_memory_equal(got + from, want + from, sizeof got - from * sizeof *got);
    }
}

static void filters_come_before_the_choice(void **state)
{
    struct loader_options o = usual();
    struct shard_buffer b = { 0 };
    struct loader *l;
    int64_t n_out = 0;

    (void)state;
    o.min_area = 0.01;
    o.max_area = 0.5;
    o.min_pixels = 50;
    assert_int_equal(loader_create(&l, &o), OK);
    for (int64_t q = 0; q < 2 * N_IMAGES; q++) {
        const struct loader_slot *s;
        int32_t good[SAMPLE_MASKS], chosen[MASKS];
        struct shard_record r;
        int64_t n = 0, k;

        assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
        assert_int_equal(shard_set_read(set, s->place.image, &b, &r), OK);
        for (int64_t m = 0; m < r.n_masks; m++) {
            const double share = (double)r.mask_area[m] / ((double)r.height * r.width);

            if (r.mask_area[m] >= 50 && share >= 0.01 && share <= 0.5) good[n++] = (int32_t)m;
        }
        n_out += r.n_masks - n;
        k = order_masks(SEED, s->place, n, MASKS, chosen);
        assert_int_equal(s->n_masks, k);
        for (int64_t i = 0; i < k; i++) assert_int_equal(s->mask_index[i], good[chosen[i]]);
        loader_done(l, s);
    }
    assert_true(n_out > 5); /* the filters had something to do */
    loader_destroy(l);
    shard_buffer_destroy(&b);
}

static void blind_keeps_all_but_the_pixels(void **state)
{
    struct loader_options o = usual();
    struct loader *l;
    const struct loader_slot *s;

    (void)state;
    o.blind = true;
    assert_int_equal(loader_create(&l, &o), OK);
    for (int64_t q = 0; q < N_IMAGES; q++) {
        assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
        for (int32_t y = 0; y < FRAME; y++)
            for (int32_t x = 0; x < FRAME; x++) {
                const uint8_t *p = s->pixels + (y * FRAME + x) * 3;
                const int in = y < s->new_height && x < s->new_width;

                assert_int_equal(p[0], in ? 124 : 0);
                assert_int_equal(p[1], in ? 116 : 0);
                assert_int_equal(p[2], in ? 104 : 0);
            }
        loader_done(l, s);
    }
    loader_destroy(l);
}

static void memory_is_bounded(void **state)
{
    struct loader_options o = usual();
    const struct loader_slot *held[4], *s;
    struct loader *l;
    int64_t takes;
    int hush;

    (void)state;
    assert_int_equal(loader_create(&l, &o), OK);
    takes = arena_n_takes();
    for (int64_t q = 0; q < 60; q++) {
        assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
        assert_in_range(loader_stats(l).queue_depth, 0, 3);
        loader_done(l, s);
    }
    assert_int_equal(arena_n_takes(), takes);
    assert_int_equal(loader_stats(l).n_slots, 60);
    assert_int_equal(loader_stats(l).n_grown, 0);
    /* a caller that keeps all is told so instead of waiting for ever */
    for (int i = 0; i < 4; i++) assert_int_equal(loader_next(l, &held[i], WAIT_MS), OK);
    hush = sample_hush();
    assert_int_equal(loader_next(l, &s, WAIT_MS), E_USAGE);
    sample_speak(hush);
    /* given back in any order, it goes on */
    for (int i = 3; i >= 0; i--) loader_done(l, held[i]);
    assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
    assert_int_equal(s->step * 5 + s->slot, 64);
    loader_destroy(l);
}

static void destroyed_while_busy(void **state)
{
    struct loader_options o = usual();
    struct loader *l;
    const struct loader_slot *s;

    (void)state;
    o.n_threads = 4;
    for (int i = 0; i < 60; i++) {
        assert_int_equal(loader_create(&l, &o), OK);
        for (int k = 0; k < i % 4; k++) assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
        loader_destroy(l);
    }
    loader_destroy(NULL);
}

static void late_slots_time_out(void **state)
{
    struct loader_options o = usual();
    const struct loader_slot *s;
    char text[LOG_TEXT], where[SHARD_WHERE], wanted[SHARD_WHERE + 32];
    struct loader *l;
    struct saved_log log;

    (void)state;
    o.n_threads = 1;
    bar_reads(true);
    assert_int_equal(loader_create(&l, &o), OK);
    log_begin(&log);
    assert_int_equal(loader_next(l, &s, 0), E_TIMEOUT);
    while (!atomic_load(&n_barred)) sched_yield(); /* the thread has begun to read */
    assert_int_equal(loader_next(l, &s, 5), E_TIMEOUT);
    log_end(&log, text);
    snprintf(wanted, sizeof wanted, "thread 0 reading %s for ",
             shard_set_where(set, order_at(SEED, N_IMAGES, 0).image, where));
    assert_log(text, wanted);
    bar_reads(false);
    for (int64_t q = 0; q < 6; q++) { /* waiting in vain has skipped nothing */
        assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
        assert_int_equal(s->step * 5 + s->slot, q);
        loader_done(l, s);
    }
    assert_true(loader_stats(l).n_waits >= 2);
    loader_destroy(l);
}

/* Runs a loader over a set until it fails; the log must name the record. */
static void fails_naming(const struct shard_set *bad, const char *name)
{
    char text[LOG_TEXT];
    struct loader_options o = usual();
    const struct loader_slot *s;
    enum status status = OK;
    struct saved_log log;
    struct loader *l;

    log_begin(&log);
    o.set = bad;
    assert_int_equal(loader_create(&l, &o), OK);
    for (int q = 0; q < 3 * N_IMAGES && status == OK; q++) {
        status = loader_next(l, &s, WAIT_MS);
        if (status == OK) loader_done(l, s);
    }
    assert_int_equal(status, E_CORRUPT);
    assert_int_equal(loader_next(l, &s, WAIT_MS), E_CORRUPT); /* it does not go on */
    assert_true(loader_stats(l).n_bad > 0);
    loader_destroy(l);
    log_end(&log, text);
    assert_log(text, name);
}

/* A caller that ends before the record has no failure, and a warning; one that comes to it is told when it does. */
static void what_fails_ahead_is_told_when_needed(void **state)
{
    struct loader_options o = usual();
    char path[SAMPLE_PATH], text[LOG_TEXT];
    const struct loader_slot *s;
    struct shard_set *bad;
    int64_t n_good = 0;
    struct saved_log log;
    struct loader *l;

    (void)state;
    write_set(path, BAD_IMAGE);
    assert_int_equal(shard_set_open(&bad, path), OK);
    o.set = bad;
    o.ahead = N_IMAGES + 1; /* the whole epoch: the bad one is among them */
    while (order_at(SEED, N_IMAGES, n_good).image != 3) n_good++;
    for (int needed = 0; needed < 2; needed++) {
        log_begin(&log);
        assert_int_equal(loader_create(&l, &o), OK);
        while (loader_stats(l).n_bad == 0) sched_yield();
        for (int64_t q = 0; q < n_good; q++) {
            assert_int_equal(loader_next(l, &s, WAIT_MS), OK);
            loader_done(l, s);
        }
        if (needed) {
            assert_int_equal(loader_next(l, &s, WAIT_MS), E_CORRUPT);
            assert_int_equal(loader_next(l, &s, WAIT_MS), E_CORRUPT);
        }
        loader_destroy(l);
        log_end(&log, text);
        assert_log(text, "record 3 (image id 503)");
        assert_int_equal(strstr(text, "error: ") != NULL, needed);
        assert_int_equal(strstr(text, "warn: of the slots that were read ahead") != NULL, !needed);
        assert_ptr_equal(strstr(strstr(text, "image id 503") + 1, "image id 503"), NULL); /* once */
    }
    shard_set_close(bad);
    sample_remove(path);
}

static void undecodable_records_are_named(void **state)
{
    static const struct {
        enum spoil spoil;
        const char *says;
    } cases[] = { { BAD_IMAGE, "shard-00000.h5, record 3 (image id 503): the image: " },
                  { BAD_SIZE, "shard-00000.h5, record 3 (image id 503): the image: its size" },
                  { BAD_MASK, "shard-00000.h5, record 3 (image id 503): a mask: " } };

    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char path[SAMPLE_PATH];
        struct shard_set *bad;

        write_set(path, cases[k].spoil);
        assert_int_equal(shard_set_open(&bad, path), OK);
        fails_naming(bad, cases[k].says);
        shard_set_close(bad);
        sample_remove(path);
    }
}

static void damaged_records_are_named(void **state)
{
    char path[SAMPLE_PATH], file[SAMPLE_PATH + 32];
    struct shard_set *bad;
    uint8_t byte;
    int64_t at;
    int fd;

    (void)state;
    write_set(path, WHOLE);
    assert_int_equal(shard_set_open(&bad, path), OK);
    at = shard_set_summary(bad, 1)->bulk_at[0] + 40; /* in the first record's image */
    snprintf(file, sizeof file, "%s/shard-00001.h5", path);
    fd = open(file, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    fails_naming(bad, "shard-00001.h5, record 0 (image id 504): its bytes hash to ");
    shard_set_close(bad);
    sample_remove(path);
}

static void wrong_options_are_refused(void **state)
{
    struct loader_options o[6];
    struct loader *l;
    const int hush = sample_hush();

    (void)state;
    for (int i = 0; i < 6; i++) o[i] = usual();
    o[0].slot_begin = 5; /* a rank without slots */
    o[1].slot_end = 6;
    o[2].n_threads = 0;
    o[3].ahead = 0;
    o[4].max_area = 0.0 / 0.0;
    o[5].frame = 0;
    for (int i = 0; i < 6; i++) assert_int_equal(loader_create(&l, &o[i]), E_USAGE);
    sample_speak(hush);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_what_the_shard_says),
        cmocka_unit_test(same_for_any_threads_ranks_and_restarts),
        cmocka_unit_test(filters_come_before_the_choice),
        cmocka_unit_test(blind_keeps_all_but_the_pixels),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(destroyed_while_busy),
        cmocka_unit_test_teardown(late_slots_time_out, let_read),
        cmocka_unit_test(what_fails_ahead_is_told_when_needed),
        cmocka_unit_test(undecodable_records_are_named),
        cmocka_unit_test(damaged_records_are_named),
        cmocka_unit_test(wrong_options_are_refused),
    };

    return cmocka_run_group_tests(tests, make_set, remove_set);
}
