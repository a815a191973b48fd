/* Configuration text: refused, or read to values that their dump reads back to. */
#include "trainer/config.h"

#include "kernels/base/check.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static void check_dump(const struct config *c)
{
    struct config again;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    config_defaults(&again);
    ASSERT(f && config_dump(c, f) == OK && fclose(f) == 0);
    ASSERT(config_parse(&again, text, (int64_t)n, "dump") == OK);
    ASSERT(memcmp(c, &again, offsetof(struct config, name)) == 0);
    ASSERT(config_hash(c) == config_hash(&again));
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct config c;

    config_defaults(&c);
    if (config_parse(&c, (const char *)data, (int64_t)n, "fuzz") != OK) return 0;
    check_dump(&c);
    ASSERT(config_check(&c) == OK || config_check(&c) == E_CONFIG);
    return 0;
}
