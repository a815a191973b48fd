#include "trainer/metrics.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/eval_score.h"

#include <cmocka.h>

static char folder[] = "/tmp/samforge-metrics-XXXXXX";

static struct metrics_row row_of(int64_t step)
{
    const double x = (double)step;

    return (struct metrics_row){ .step = step,
                                 .loss_total = 1 / (3 + x),
                                 .grad_norm = 1e-9 * x,
                                 .lr = 2e-3,
                                 .n_masks = 64 * step,
                                 .images = 8 * step,
                                 .step_seconds = 0.25,
                                 .images_per_second = 32 };
}

static void write_steps(int64_t restored, int64_t last)
{
    struct metrics *m = NULL;

    assert_int_equal(metrics_open(&m, folder, restored, 100), OK);
    for (int64_t step = restored + 1; step <= last; step++) {
        const struct metrics_row row = row_of(step);

        assert_int_equal(metrics_step(m, &row), OK);
    }
    metrics_close(m);
}

static FILE *open_file(const char *mode)
{
    char path[256];

    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    return fopen(path, mode);
}

/* Lines as JSON without what measures time; json_array. */
static json_t *read_lines(void)
{
    FILE *f = open_file("r");
    json_t *lines = json_array();
    char line[8192];

    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        const char *key;
        void *next;
        json_t *value;

        assert_non_null(j);
        json_object_foreach_safe(j, next, key, value) if (strncmp(key, "time/", 5) == 0 ||
                                                          strncmp(key, "perf/", 5) == 0)
            json_object_del(j, key);
        json_array_append_new(lines, j);
    }
    fclose(f);
    return lines;
}

static int begin(void **state)
{
    FILE *f = open_file("w");

    (void)state;
    return f ? fclose(f) : 1;
}

static void a_line_holds_the_row(void **state)
{
    json_t *lines, *j;

    (void)state;
    write_steps(0, 3);
    lines = read_lines();
    assert_int_equal(json_array_size(lines), 3);
    j = json_array_get(lines, 2);
    assert_int_equal(json_integer_value(json_object_get(j, "step")), 3);
    assert_true(json_real_value(json_object_get(j, "train/loss/total")) == 1.0 / 6);
    assert_true(json_real_value(json_object_get(j, "train/grad_norm")) == 1e-9 * 3);
    assert_int_equal(json_integer_value(json_object_get(j, "train/masks")), 192);
    assert_null(json_object_get(j, "nonfinite"));
    json_decref(lines);
}

static void non_finite_is_null_and_named(void **state)
{
    struct metrics_row row = row_of(1);
    struct metrics *m = NULL;
    json_t *lines, *j, *names;

    (void)state;
    row.loss_total = NAN;
    row.grad_norm = -INFINITY;
    assert_int_equal(metrics_open(&m, folder, 0, 1), OK);
    assert_int_equal(metrics_step(m, &row), OK);
    metrics_close(m);
    lines = read_lines();
    j = json_array_get(lines, 0);
    names = json_object_get(j, "nonfinite");
    assert_true(json_is_null(json_object_get(j, "train/loss/total")));
    assert_int_equal(json_array_size(names), 2);
    assert_string_equal(json_string_value(json_array_get(names, 0)), "train/loss/total");
    json_decref(lines);
}

/* Killed at step 9 with half a line written, resumed at 6, and on to 12: as if nothing had been. */
static void resuming_equals_not_stopping(void **state)
{
    json_t *whole, *resumed;
    FILE *f;

    (void)state;
    write_steps(0, 12);
    whole = read_lines();
    begin(NULL);
    write_steps(0, 9);
    f = open_file("a");
    fputs("{\"step\":10,\"train/lo", f);
    fclose(f);
    write_steps(6, 12);
    resumed = read_lines();
    assert_int_equal(json_array_size(resumed), 12);
    assert_true(json_equal(whole, resumed));
    write_steps(0, 2); /* begun anew */
    json_decref(resumed);
    resumed = read_lines();
    assert_int_equal(json_array_size(resumed), 2);
    json_decref(whole);
    json_decref(resumed);
}

/* A line is damaged in the middle: it goes, and those behind it stay. */
static void damage_costs_its_line_alone(void **state)
{
    const char *const damage[] = { "{\"stop\":4,", "{\"step\":400,", "{\"step\":1,", "\n\n" };

    (void)state;
    for (size_t k = 0; k < sizeof damage / sizeof *damage; k++) {
        char text[8192] = "", *at;
        json_t *lines;
        size_t n;
        FILE *f;

        write_steps(0, 8);
        f = open_file("r+");
        n = fread(text, 1, sizeof text - 1, f);
        assert_true(n > 100 && n < sizeof text - 1);
        at = strstr(text, "{\"step\":4,");
        assert_non_null(at);
        memcpy(at, damage[k], strlen(damage[k]));
        rewind(f);
        assert_int_equal(fwrite(text, 1, n, f), n);
        fclose(f);
        write_steps(7, 9);
        lines = read_lines();
        assert_int_equal(json_array_size(lines), 8);
        for (int i = 0; i < 8; i++)
            assert_int_equal(
                json_integer_value(json_object_get(json_array_get(lines, (size_t)i), "step")),
                i < 3 ? i + 1 : i + 2);
        json_decref(lines);
    }
}

/* Of 30 steps some have no masks and some no finite loss; restored at 27. */
static void the_last_losses_are_read_back(void **state)
{
    double loss[METRICS_RECENT], want[30];
    struct eval_scores scores = { .n_images = 4 };
    struct metrics *m = NULL;
    int n_want = 0;

    (void)state;
    for (int i = 0; i < EVAL_N_SCORES; i++) scores.mean[i] = 0.5;
    assert_int_equal(metrics_open(&m, folder, 0, 100), OK);
    assert_int_equal(metrics_recent(m, loss), 0);
    for (int64_t step = 1; step <= 30; step++) {
        struct metrics_row row = row_of(step);

        if (step % 7 == 0) row.n_masks = 0;
        if (step % 11 == 0) row.loss_total = NAN;
        if (step <= 27 && step % 7 && step % 11) want[n_want++] = row.loss_total;
        assert_int_equal(metrics_step(m, &row), OK);
        if (step % 5 == 0) assert_int_equal(metrics_eval(m, step, &scores), OK);
    }
    metrics_close(m);
    assert_int_equal(metrics_open(&m, folder, 27, 100), OK);
    assert_int_equal(metrics_recent(m, loss), METRICS_RECENT);
    metrics_close(m);
    assert_true(n_want > METRICS_RECENT);
    for (int i = 0; i < METRICS_RECENT; i++)
        assert_true(loss[i] == want[n_want - METRICS_RECENT + i]);
}

static void evaluations_have_lines_too(void **state)
{
    struct eval_scores scores = { .n_images = 4, .n_masks = 20 };
    struct metrics *m = NULL;
    char key[64];
    json_t *lines, *j;

    (void)state;
    for (int i = 0; i < EVAL_N_SCORES; i++) scores.mean[i] = i ? 0.5 : NAN;
    assert_int_equal(metrics_open(&m, folder, 0, 1), OK);
    assert_int_equal(metrics_eval(m, 7, &scores), OK);
    metrics_close(m);
    lines = read_lines();
    j = json_array_get(lines, 0);
    assert_int_equal(json_integer_value(json_object_get(j, "step")), 7);
    assert_int_equal(json_integer_value(json_object_get(j, "eval/masks")), 20);
    snprintf(key, sizeof key, "eval/%s", eval_score_key((enum eval_score)1));
    assert_true(json_real_value(json_object_get(j, key)) == 0.5);
    snprintf(key, sizeof key, "eval/%s", eval_score_key((enum eval_score)0));
    assert_null(json_object_get(j, key));
    json_decref(lines);
}

static void the_line_people_know(void **state)
{
    struct metrics_row row = row_of(1);
    char line[METRICS_LINE];

    (void)state;
    row.loss_total = 4.1;
    row.data_wait_seconds = 0.0025;
    metrics_text(&row, line);
    assert_memory_equal(line, "step:  1  loss:  4.1000  grad_norm: ", 36);
    assert_non_null(strstr(line, "images/s: 32.00"));
    assert_non_null(strstr(line, "data: 1.0%"));
}

static int start(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : 1;
}

static int finish(void **state)
{
    char command[256];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_line_holds_the_row, begin),
        cmocka_unit_test_setup(non_finite_is_null_and_named, begin),
        cmocka_unit_test_setup(resuming_equals_not_stopping, begin),
        cmocka_unit_test_setup(damage_costs_its_line_alone, begin),
        cmocka_unit_test_setup(the_last_losses_are_read_back, begin),
        cmocka_unit_test_setup(evaluations_have_lines_too, begin),
        cmocka_unit_test(the_line_people_know),
    };

    return cmocka_run_group_tests(tests, start, finish);
}
