/* golden FILE.safetensors … [--backend NAME] [--precision f32|bf16] [--tensors] [--draw N] [section.key=value …]
 *
 * Runs the models of files made by the reference implementation (golden_model.h) on the chosen backend and prints, for every group
 * of tensors, which one came nearest to its bound; --tensors: every tensor. Exits 0 only if every forward tensor and every gradient
 * is within its bound; 77 when a file is missing. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/plugin.h"
#include "tests/golden_model.h"
#include "tests/golden_relu.h"
#include "tests/golden_rounded.h"

/* Runs of the CPU with everything rounded to bf16, whose worst bounds a tensor in bf16. */
enum { DRAWS = 4, EXIT_SKIPPED = 77, FILES = 64 };

struct arguments {
    const char *file[FILES];
    int n_files;
    const char *backend;
    enum dtype compute;
    bool every;
    int draw;
    char *const *words; /* among them settings */
    int n_words;
};

static bool parse(struct arguments *a, int argc, char **argv)
{
    *a = (struct arguments){
        .backend = "cpu", .compute = F32, .words = argv + 1, .n_words = argc - 1
    };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--tensors") == 0) {
            a->every = true;
        } else if (strcmp(argv[i], "--backend") == 0) {
            if (++i == argc) return false;
            a->backend = argv[i];
        } else if (strcmp(argv[i], "--precision") == 0) {
            if (++i == argc) return false;
            if (strcmp(argv[i], "bf16") != 0 && strcmp(argv[i], "f32") != 0) return false;
            a->compute = strcmp(argv[i], "bf16") == 0 ? BF16 : F32;
        } else if (strcmp(argv[i], "--draw") == 0) {
            if (++i == argc || !isdigit(argv[i][0])) return false;
            a->draw = atoi(argv[i]);
        } else if (argv[i][0] == '-') {
            return false;
        } else if (!strchr(argv[i], '=')) {
            if (a->n_files == FILES) return false;
            a->file[a->n_files++] = argv[i];
        }
    }
    return a->n_files > 0;
}

/* A run in bf16: outputs are compared with the file, gradients with those of the CPU in f32 with the same units on. */
static enum status errors_of_rounded(const char *path, struct golden_options o,
                                     const struct golden_relu *exact, struct golden_errors *errors)
{
    struct golden_relu here = { 0 };
    float *gradients;

    o.compute = BF16;
    o.gradients = &gradients;
    o.ops = golden_relu_ops(o.ops, &here, false);
    TRY(golden_run(path, &o, errors));
    golden_errors_add(errors, "ReLU units turned", "ReLU units turned, of all", FORWARD,
                      golden_relu_turned(&here, exact));
    o.compute = F32;
    o.gradients = NULL;
    o.judged = gradients;
    o.ops = golden_relu_ops(&ops_cpu, &here, true);
    TRY(golden_run(path, &o, errors));
    golden_relu_free(&here);
    free(gradients);
    return OK;
}

static enum status errors_in_bf16(const char *path, struct golden_options o,
                                  struct golden_errors *errors)
{
    struct golden_errors draw[DRAWS] = { 0 }, ignored = { 0 };
    struct golden_options cpu = o;
    struct golden_relu exact = { 0 };

    cpu.compute = F32;
    cpu.ops = golden_relu_ops(&ops_cpu, &exact, false);
    TRY(golden_run(path, &cpu, &ignored));
    TRY(errors_of_rounded(path, o, &exact, errors));
    cpu.ops = golden_rounded_ops();
    for (int i = 0; i < DRAWS; i++) {
        cpu.draw = i + 1;
        TRY(errors_of_rounded(path, cpu, &exact, draw + i));
    }
    TRY(golden_bounds_set(errors, BF16, draw, DRAWS));
    for (int i = 0; i < DRAWS; i++) golden_errors_free(draw + i);
    golden_errors_free(&ignored);
    golden_relu_free(&exact);
    return OK;
}

static enum status errors_of(const char *path, const struct arguments *a, const struct ops *ops,
                             struct golden_errors *errors)
{
    const struct golden_options o = { .ops = ops,
                                      .compute = a->compute,
                                      .settings = a->words,
                                      .n_settings = a->n_words,
                                      .draw = a->draw };

    if (a->compute == BF16) return errors_in_bf16(path, o, errors);
    TRY(golden_run(path, &o, errors));
    return golden_bounds_set(errors, F32, NULL, 0);
}

static const struct ops *backend(const char *name)
{
    return strcmp(name, "rounded") == 0 ? golden_rounded_ops() : ops_find(name);
}

int main(int argc, char **argv)
{
    struct arguments a;
    const bool wrong = !parse(&a, argc, argv);
    const struct ops *ops = wrong ? NULL : backend(a.backend);
    const char *missing;
    bool good = true;

    if (!wrong && !ops && *plugin_reason()) {
        printf("skipped: %s\n", plugin_reason());
        return EXIT_SKIPPED;
    }
    if (!ops) {
        fprintf(stderr, "usage: golden FILE.safetensors … [--backend ref|cpu|rounded|cuda|emu] "
                        "[--precision f32|bf16] [--tensors] [--draw N] [section.key=value …]\n");
        return 2;
    }
    if (ops_missing(ops, &missing) > 0) {
        fprintf(stderr, "backend %s has no %s\n", ops->name, missing);
        return status_exit_code(E_NO_DEVICE);
    }
    if (ops->open() != OK) return status_exit_code(E_NO_DEVICE);
    for (int i = 0; i < a.n_files; i++) {
        struct golden_errors errors = { 0 };
        enum status s;
        bool ok;

        if (access(a.file[i], R_OK) != 0) {
            printf("skipped: %s is not there\n", a.file[i]);
            return good ? EXIT_SKIPPED : 1;
        }
        s = errors_of(a.file[i], &a, ops, &errors);
        if (s != OK) return status_exit_code(s);
        printf("%s on %s in %s\n", a.file[i], ops->name, a.compute == BF16 ? "bf16" : "f32");
        ok = golden_errors_report(&errors, a.every);
        printf("  %s\n", ok ? "ok" : "FAILED");
        good = good && ok;
        golden_errors_free(&errors);
    }
    printf("golden: %d files, %s\n", a.n_files, good ? "ok" : "FAILED");
    return !good;
}
