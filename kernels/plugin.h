/* The CUDA backend lives in a module of its own, libsamforge_cuda.so, opened when it is first asked for: the program
 * itself is linked with nothing of CUDA and runs where there is none.
 *
 * Both sides of the contract. The module exports one function, plugin_entry; host and module were
 * built from the same headers if and only if their plugin_abi agree, and only then is anything else
 * of the table looked at. What fails inside the module is said in the host's log. */
#ifndef KERNELS_PLUGIN_H
#define KERNELS_PLUGIN_H

#include "kernels/image_to_token.h"
#include "kernels/ops.h"
#include "kernels/token_to_image.h"
#include "kernels/upscale.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PLUGIN_ABI = 1, PLUGIN_TEXT = 512 };
#define PLUGIN_FILE  "libsamforge_cuda.so"
#define PLUGIN_ENTRY "samforge_cuda_plugin"

/* What crosses the boundary by value or by pointer. */
#define PLUGIN_TYPES(X)                                                                            \
    X(struct ops)                                                                                  \
    X(struct tensor)                                                                               \
    X(struct stream)                                                                               \
    X(struct adamw_segment)                                                                        \
    X(struct adamw_options)                                                                        \
    X(struct mask_loss_options)                                                                    \
    X(struct prompt_options)                                                                       \
    X(struct image_to_token_weights)                                                               \
    X(struct token_to_image_weights)                                                               \
    X(struct upscale_weights)

/* The first thing in the table, of one layout for ever. */
struct plugin_abi {
    int32_t number; /* PLUGIN_ABI */
    int32_t bytes;  /* of this struct */
    const char *version;
    const char *names; /* of the ops, in the order of the table */
    int32_t sizes[16];
};

#define PLUGIN_SIZE(type) (int32_t)sizeof(type),
#define PLUGIN_NAME(name) #name " "
#define PLUGIN_ABI_HERE                                                                            \
    {                                                                                              \
        PLUGIN_ABI, (int32_t)sizeof(struct plugin_abi), SAMFORGE_VERSION, OPS_LIST(PLUGIN_NAME),   \
        {                                                                                          \
            PLUGIN_TYPES(PLUGIN_SIZE)                                                              \
        }                                                                                          \
    }

/* What the module may ask of the host. */
struct plugin_host {
    int local_rank; /* of this process among the node's ranks: which GPU it takes */
    void (*log)(int level, const char *text);
    void (*fail)(int status, const char *file, int line, const char *text);
    void (*check_failed)(const char *file, int line, const char *condition);
};

struct plugin_table {
    struct plugin_abi abi;
    /* NULL when this process has a GPU it can use; else why not, and what to do. Repeated calls
     * change nothing; makes no context. */
    const char *(*reason)(void);
    const char *(*device)(
        uint64_t *id); /* its name and memory; id: the same for the same GPU only */
    /* Memory that host and device may touch by turns, for tests; NULL when there is none. */
    void *(*shared_alloc)(int64_t bytes);
    void (*shared_free)(void *p); /* NULL is allowed */
    struct ops ops;
};
typedef const struct plugin_table *plugin_entry(const struct plugin_host *host);

/* ---- the host's side -------------------------------------------------------------------------- */
/* Before the first of those below: which of the node's ranks this process is. */
void plugin_set_local_rank(int local_rank);

/* The backend, when the module is there, fits this program, and finds a GPU; else NULL. The module
 * is beside the program, or in ../lib/samforge, or what SAMFORGE_PLUGIN in the environment names. */
const struct ops *plugin_ops(void);

/* The module's ops where there is a module that fits, with a GPU or without: for planning, which touches no device. */
const struct ops *plugin_planning_ops(void);

/* Why plugin_ops is NULL, and the cure; "" when it is not. */
const char *plugin_reason(void);

/* Whether there is no module at all, and none was named: built without CUDA, which is nobody's fault. */
bool plugin_is_absent(void);

/* The table, or NULL as plugin_ops. */
const struct plugin_table *plugin_table(void);

#ifdef __cplusplus
}
#endif
#endif
