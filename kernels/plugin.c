#include "kernels/plugin.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"

enum { PATH_ROOM = 4096 };

static struct {
    bool tried, absent;
    int local_rank;
    const struct plugin_table *table; /* with a GPU */
    const struct plugin_table *fits;  /* with or without */
    char reason[PLUGIN_TEXT];
} plugin;

static void log_line(int level, const char *text)
{
    log_write((enum log_level)level, "%s", text);
}

static void fail_line(int status, const char *file, int line, const char *text)
{
    const enum status said = status_fail((enum status)status, file, line, "%s", text);

    (void)said; /* the module passes it on itself */
}

/* The folder of the running program. */
static bool own_folder(char folder[PATH_ROOM])
{
    const ssize_t n = readlink("/proc/self/exe", folder, PATH_ROOM - 1);
    char *slash;

    if (n <= 0) return false;
    folder[n] = 0;
    slash = strrchr(folder, '/');
    if (!slash) return false;
    *slash = 0;
    return true;
}

static const char cure_named[] =
    ": let it name the whole " PLUGIN_FILE " that was built with this program, or unset it";

static const char *named_file(void)
{
    const char *named = getenv("SAMFORGE_PLUGIN");

    return named && *named ? named : NULL;
}

static bool is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The module's path; false when there is no such file. */
static bool find_file(char path[PATH_ROOM + 64])
{
    static const char *const places[] = { "%s/" PLUGIN_FILE, "%s/../lib/samforge/" PLUGIN_FILE };
    const char *named = named_file();
    char folder[PATH_ROOM];

    if (named) {
        snprintf(path, PATH_ROOM + 64, "%s", named);
        if (access(path, R_OK) == 0 && !is_folder(path)) return true;
        snprintf(plugin.reason, sizeof plugin.reason, "SAMFORGE_PLUGIN names %.300s, which %s%s",
                 named, is_folder(path) ? "is a folder, not a module" : "cannot be read",
                 cure_named);
        return false;
    }
    if (own_folder(folder)) {
        snprintf(path, PATH_ROOM + 64, places[0], folder);
        if (access(path, R_OK) == 0) return true;
        snprintf(path, PATH_ROOM + 64, places[1], folder);
        if (access(path, R_OK) == 0) return true;
    }
    plugin.absent = true;
    snprintf(plugin.reason, sizeof plugin.reason,
             "this program came without " PLUGIN_FILE
             ": build it where CMake finds CUDA's compiler nvcc, and keep the two files together");
    return false;
}

/* Of a file that was cut short, as by a copy that is not done, dlopen maps what is not there, and the process dies of SIGBUS:
 * whether all that it maps is. */
static bool is_whole(const char *path)
{
    FILE *f = fopen(path, "rb");
    Elf64_Ehdr head;
    Elf64_Phdr part;
    int64_t bytes = -1;
    bool whole;

    if (!f) return true; /* dlopen says why */
    if (fseek(f, 0, SEEK_END) == 0) bytes = ftell(f);
    rewind(f);
    whole = bytes >= 0 && fread(&head, sizeof head, 1, f) == 1 &&
            memcmp(head.e_ident, ELFMAG, SELFMAG) == 0 && head.e_ident[EI_CLASS] == ELFCLASS64 &&
            head.e_phentsize == sizeof part && head.e_phoff <= (uint64_t)bytes &&
            fseek(f, (long)head.e_phoff, SEEK_SET) == 0;
    for (int i = 0; whole && i < head.e_phnum; i++)
        whole = fread(&part, sizeof part, 1, f) == 1 &&
                (part.p_type != PT_LOAD || (part.p_offset <= (uint64_t)bytes &&
                                            part.p_filesz <= (uint64_t)bytes - part.p_offset));
    fclose(f);
    return whole;
}

static bool fits(const struct plugin_abi *there, const char *path)
{
    static const struct plugin_abi here = PLUGIN_ABI_HERE;

    if (there->number == here.number && there->bytes == here.bytes &&
        memcmp(there->sizes, here.sizes, sizeof here.sizes) == 0 &&
        strcmp(there->names, here.names) == 0 && strcmp(there->version, here.version) == 0)
        return true;
    snprintf(plugin.reason, sizeof plugin.reason,
             "%.300s is of another build than this program: build and install both together", path);
    return false;
}

static const struct plugin_table *open_module(void)
{
    const struct plugin_host host = { plugin.local_rank, log_line, fail_line, check_failed };
    char path[PATH_ROOM + 64];
    const struct plugin_table *table;
    plugin_entry *entry = NULL;
    const char *reason;
    void *module, *symbol;

    if (!find_file(path)) return NULL;
    if (!is_whole(path)) {
        snprintf(plugin.reason, sizeof plugin.reason, "%.300s was cut short, or is no module%s",
                 path, named_file() ? cure_named : ": build or copy it again");
        return NULL;
    }
    module = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* stays until the process ends */
    symbol = module ? dlsym(module, PLUGIN_ENTRY) : NULL;
    if (!symbol) {
        const char *why = dlerror();

        snprintf(plugin.reason, sizeof plugin.reason, "%.300s%s%s", why ? why : path,
                 named_file() ? "; SAMFORGE_PLUGIN names it" : "",
                 named_file() ? cure_named : "; build it again, together with this program");
        return NULL;
    }
    memcpy(&entry, &symbol, sizeof entry); /* C has no cast from object to function */
    table = entry(&host);
    if (!fits(&table->abi, path)) return NULL;
    plugin.fits = table;
    reason = table->reason();
    if (reason) snprintf(plugin.reason, sizeof plugin.reason, "%s", reason);
    return reason ? NULL : table;
}

void plugin_set_local_rank(int local_rank)
{
    ASSERT(!plugin.tried || local_rank == plugin.local_rank);
    plugin.local_rank = local_rank;
}

const struct plugin_table *plugin_table(void)
{
    if (!plugin.tried) plugin.table = open_module();
    plugin.tried = true;
    return plugin.table;
}

const struct ops *plugin_ops(void)
{
    const struct plugin_table *t = plugin_table();

    return t ? &t->ops : NULL;
}

const struct ops *plugin_planning_ops(void)
{
    (void)plugin_table();
    return plugin.fits ? &plugin.fits->ops : NULL;
}

bool plugin_is_absent(void)
{
    (void)plugin_table();
    return plugin.absent;
}

const char *plugin_reason(void)
{
    return plugin.reason;
}
