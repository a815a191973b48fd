/* golden FILE.safetensors … [--backend NAME] [--precision f32|bf16] [--tensors] [section.key=value …]
 *
 * Runs the models of files made by the reference implementation (golden_model.h) on the chosen backend and prints, for every group
 * of tensors, which one came nearest to its bound; --tensors: every tensor. Exits 0 only if every forward tensor and every gradient
 * is within its bound; 77 when a file is missing. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/plugin.h"
#include "tests/golden_model.h"

/* Roundings of the weights whose worst bounds a tensor in bf16. */
enum { ROUNDING_DRAWS = 4, EXIT_SKIPPED = 77, FILES = 64 };

struct arguments {
    const char *file[FILES];
    int n_files;
    const char *backend;
    enum dtype compute;
    bool every;
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
        } else if (argv[i][0] == '-') {
            return false;
        } else if (!strchr(argv[i], '=')) {
            if (a->n_files == FILES) return false;
            a->file[a->n_files++] = argv[i];
        }
    }
    return a->n_files > 0;
}

static enum status errors_of(const char *path, const struct arguments *a, const struct ops *ops,
                             struct golden_errors *errors)
{
    const int n = a->compute == BF16 ? ROUNDING_DRAWS : 0;
    struct golden_options o = {
        .ops = ops, .compute = a->compute, .settings = a->words, .n_settings = a->n_words
    };
    struct golden_errors draw[ROUNDING_DRAWS] = { 0 };

    TRY(golden_run(path, &o, errors));
    o.ops = &ops_cpu;
    o.compute = F32;
    for (int i = 0; i < n; i++) {
        o.draw = i + 1;
        TRY(golden_run(path, &o, draw + i));
    }
    TRY(golden_bounds_set(errors, a->compute, draw, n));
    for (int i = 0; i < n; i++) golden_errors_free(draw + i);
    return OK;
}

int main(int argc, char **argv)
{
    struct arguments a;
    const bool wrong = !parse(&a, argc, argv);
    const struct ops *ops = wrong ? NULL : ops_find(a.backend);
    const char *missing;
    bool good = true;

    if (!wrong && !ops && *plugin_reason()) {
        printf("skipped: %s\n", plugin_reason());
        return EXIT_SKIPPED;
    }
    if (!ops) {
        fprintf(stderr, "usage: golden FILE.safetensors … [--backend ref|cpu|cuda|emu] "
                        "[--precision f32|bf16] [--tensors] [section.key=value …]\n");
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
