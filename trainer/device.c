#include "trainer/device.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
#include "kernels/plugin.h"
#include "trainer/agree.h"
#include "trainer/nearest.h"

static const char *const names[DEVICE_COUNT] = { "auto", "cpu", "ref", "cuda", "emu" };
static const char no_device[] =
    "this program has no device %s: samforge_emu has, which the tests' build makes in tests/emu of "
    "the build folder; cpu computes the same";

enum status device_named(const char *name, int *choice)
{
    struct nearest near = nearest_start(name);
    char hint[NEAREST_TEXT];

    for (int i = 0; i < DEVICE_COUNT; i++) {
        if (strcmp(names[i], name) == 0) {
            *choice = i;
            return OK;
        }
        nearest_offer(&near, names[i]);
    }
    FAIL(E_USAGE, "no device is called \"%s\": auto, cpu, ref, cuda or emu%s", name,
         nearest_text(&near, "", hint));
}

/* *id: of the GPU; 0 on hosts. */
static enum status find(int choice, int local_rank, const struct ops **ops, uint64_t *id)
{
    const char *missing, *text;

    *id = 0;
    if (choice == DEVICE_AUTO || choice == DEVICE_CUDA) {
        plugin_set_local_rank(local_rank);
        *ops = ops_find("cuda");
        text = *ops ? plugin_table()->device(id) : plugin_reason();
        if (!*ops && choice == DEVICE_CUDA) FAIL(E_NO_DEVICE, "device cuda: %s", text);
        if (!*ops && plugin_is_absent())
            log_root("device: the CPU (built without CUDA)");
        else
            log_root("device: %s%s", *ops ? "" : "the CPU, since ", text);
        if (!*ops) choice = DEVICE_CPU;
    }
    if (choice != DEVICE_AUTO && choice != DEVICE_CUDA) *ops = ops_find(names[choice]);
    if (!*ops) FAIL(E_NO_DEVICE, no_device, names[choice]);
    if (ops_missing(*ops, &missing) > 0)
        FAIL(E_NO_DEVICE, "device %s has no %s yet", (*ops)->name, missing);
    return (*ops)->open();
}

/* What a rank tells the others of its device. */
struct found {
    char name[8];
    uint64_t id;
    bool exchanges, records; /* what its plugin was built to do */
};

static enum status compare(const struct found *all, int n, bool share_gpu)
{
    for (int a = 0; a < n; a++)
        for (int b = 0; b < a; b++) {
            if (strcmp(all[a].name, all[b].name) != 0)
                FAIL(E_CONFIG,
                     "rank %d computes on %s and rank %d on %s: say run.device, or take nodes of "
                     "one kind",
                     b, all[b].name, a, all[a].name);
            if (all[a].exchanges != all[b].exchanges || all[a].records != all[b].records)
                FAIL(E_CONFIG,
                     "ranks %d and %d have plugins of different builds (with NCCL or without, or "
                     "one of type Debug): install the same on all nodes",
                     b, a);
            if (all[a].id && all[a].id == all[b].id && !share_gpu)
                FAIL(E_CONFIG,
                     "ranks %d and %d are on the same GPU: start one rank a GPU, or allow it with "
                     "run.share_gpu=true",
                     b, a);
        }
    return OK;
}

enum status device_open(const struct device_options *o, struct comm *c, const struct ops **ops)
{
    struct found mine = { 0 }, *all = calloc((size_t)c->n_ranks, sizeof *all);
    enum status s = OK;

    if (!all) s = status_fail(E_MEMORY, __FILE__, __LINE__, "a list of %d ranks", c->n_ranks);
    if (s == OK) s = find(o->choice, c->local_rank, ops, &mine.id);
    s = agree_worst(c, s);
    if (s == OK) {
        strncpy(mine.name, (*ops)->name, sizeof mine.name - 1);
        mine.exchanges = (*ops)->exchange != NULL;
        mine.records = (*ops)->record_begin != NULL;
        s = c->ops->all_gather(c, all, &mine, sizeof mine);
    }
    /* the same list on every rank; said once */
    if (s == OK) s = agree_worst(c, c->rank == 0 ? compare(all, c->n_ranks, o->share_gpu) : OK);
    free(all);
    return s;
}

enum status device_for_counting(int choice, const struct ops **ops)
{
    const char *missing = NULL;

    if (choice != DEVICE_CUDA) return device_for_planning(choice, ops);
    *ops = plugin_planning_ops();
    if (!*ops) FAIL(E_NO_DEVICE, "device cuda: %s; cpu is counted everywhere", plugin_reason());
    if (ops_missing(*ops, &missing) > 0) FAIL(E_NO_DEVICE, "device cuda has no %s yet", missing);
    return OK;
}

enum status device_for_planning(int choice, const struct ops **ops)
{
    const char *missing = NULL;

    if (choice == DEVICE_AUTO || choice == DEVICE_CUDA) {
        const bool gpu = ops_find("cuda") != NULL;

        *ops = gpu || choice == DEVICE_CUDA ? plugin_planning_ops() : NULL;
        if (*ops && ops_missing(*ops, &missing) == 0) return OK;
        if (*ops) log_warn("planned for the CPU: device cuda has no %s", missing);
        if (!*ops && choice == DEVICE_CUDA) log_warn("planned for the CPU: %s", plugin_reason());
        choice = DEVICE_CPU;
    }
    *ops = ops_find(names[choice]);
    if (!*ops) FAIL(E_NO_DEVICE, no_device, names[choice]);
    return OK;
}
