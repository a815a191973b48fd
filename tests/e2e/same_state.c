/* same_state [--values] A B: exit code 0 when two checkpoints (or the newest ones of two runs) hold the same bits: every array, and
 * every counter that does not measure time; however many ranks wrote them. --values: the arrays alone,
 * whatever the counters and the configurations say. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/checkpoint_manifest.h"

enum { AT_ONCE = 1 << 16 };

static int n_differences;

static void differ(const char *what, int64_t a, int64_t b)
{
    printf("%s: %lld and %lld\n", what, (long long)a, (long long)b);
    n_differences++;
}

static void compare_counters(const struct checkpoint_counters *a,
                             const struct checkpoint_counters *b)
{
#define COMPARE(name)                                                                              \
    if (strcmp(#name, "rank_ns") != 0 && a->name != b->name) differ(#name, a->name, b->name);
    CHECKPOINT_COUNTERS(COMPARE)
#undef COMPARE
}

static enum status compare_array(const struct checkpoint *a, const struct checkpoint *b,
                                 const char *name, int64_t n)
{
    static float of_a[AT_ONCE], of_b[AT_ONCE];

    for (int64_t at = 0; at < n; at += AT_ONCE) {
        const int64_t end = at + AT_ONCE < n ? at + AT_ONCE : n;

        TRY(checkpoint_read(a, name, at, end, of_a));
        TRY(checkpoint_read(b, name, at, end, of_b));
        for (int64_t i = 0; i < end - at; i++) {
            if (memcmp(of_a + i, of_b + i, sizeof *of_a) == 0) continue;
            printf("%s[%lld]: %.9g and %.9g\n", name, (long long)(at + i), (double)of_a[i],
                   (double)of_b[i]);
            n_differences++;
            return OK; /* one a name is enough */
        }
    }
    return OK;
}

static enum status compare(const struct checkpoint *a, const struct checkpoint *b, bool values)
{
    const struct checkpoint_manifest *ma = checkpoint_manifest(a), *mb = checkpoint_manifest(b);

    if (!values) compare_counters(&ma->counters, &mb->counters);
    if (ma->n != mb->n) differ("values", ma->n, mb->n);
    if (ma->n_arrays != mb->n_arrays) differ("arrays", ma->n_arrays, mb->n_arrays);
    if (!values && ma->config_hash != mb->config_hash) differ("configuration", 0, 1);
    if (n_differences) return OK;
    for (int i = 0; i < ma->n_arrays; i++) TRY(compare_array(a, b, ma->array_name[i], ma->n));
    printf("step %lld: %d arrays of %lld values, from %d and %d ranks\n",
           (long long)ma->counters.step, ma->n_arrays, (long long)ma->n, ma->n_ranks, mb->n_ranks);
    return OK;
}

int main(int argc, char **argv)
{
    struct checkpoint *a = NULL, *b = NULL;
    const bool values = argc == 4 && strcmp(argv[1], "--values") == 0;
    enum status s = E_USAGE;

    if (argc == 3 || values) s = checkpoint_open(&a, argv[argc - 2]);
    if (s == OK) s = checkpoint_open(&b, argv[argc - 1]);
    if (s == OK) s = compare(a, b, values);
    checkpoint_close(a);
    checkpoint_close(b);
    if (s != OK) return status_exit_code(s);
    return n_differences ? EXIT_FAILURE : EXIT_SUCCESS;
}
