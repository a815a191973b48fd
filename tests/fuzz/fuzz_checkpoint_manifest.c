/* Manifests of checkpoints: as they come, and with the hash made right, so that what lies behind it
 * is reached. What parses is printed and parsed again to the same text. */
#include "trainer/checkpoint_manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kernels/base/check.h"

enum { TAIL = 64 };

static void check_printed(const struct checkpoint_manifest *m)
{
    struct checkpoint_manifest again;
    char *text = NULL, *text_again = NULL;
    int64_t n = 0, n_again = 0;

    ASSERT(checkpoint_manifest_print(m, &text, &n) == OK);
    ASSERT(checkpoint_manifest_parse(&again, text, n, "again") == OK);
    ASSERT(checkpoint_manifest_print(&again, &text_again, &n_again) == OK);
    ASSERT(n == n_again && memcmp(text, text_again, (size_t)n) == 0);
    for (int64_t i = 0; i < m->n_tensors; i++)
        ASSERT(m->tensor[i].offset + checkpoint_tensor_count(&m->tensor[i]) <= m->n);
    checkpoint_manifest_destroy(&again);
    free(text);
    free(text_again);
}

static void parse(const char *text, int64_t n)
{
    struct checkpoint_manifest m;

    if (checkpoint_manifest_parse(&m, text, n, "fuzz") != OK) return;
    check_printed(&m);
    checkpoint_manifest_destroy(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const XXH128_hash_t h = XXH3_128bits(data, n);
    char *sealed = malloc(n + TAIL);

    ASSERT(sealed);
    parse((const char *)data, (int64_t)n);
    if (n) memcpy(sealed, data, n);
    parse(sealed, (int64_t)n + snprintf(sealed + n, TAIL,
                                        ",\n \"xxh3_128\": \"%016" PRIx64 "%016" PRIx64 "\"\n}\n",
                                        h.high64, h.low64));
    free(sealed);
    return 0;
}
