#include "trainer/checkpoint_absent.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trainer/checkpoint_folder.h"

/* A run, a checkpoint, or shards. */
static bool is_something(const char *folder)
{
    return checkpoint_folder_holds(folder, "manifest.json") ||
           checkpoint_folder_holds(folder, "run.json") ||
           checkpoint_folder_holds(folder, "checkpoints");
}

/* The last by name of the folders in it that are something: of steps the newest. Empty: none. */
static void find_inside(const char *folder, char found[DURABLE_PATH])
{
    char path[DURABLE_PATH];
    const struct dirent *entry;
    DIR *d = opendir(folder);

    found[0] = 0;
    while (d && (entry = readdir(d)))
        if (entry->d_name[0] != '.' &&
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < DURABLE_PATH &&
            is_something(path) && strcmp(path, found) > 0)
            snprintf(found, DURABLE_PATH, "%s", path);
    if (d) closedir(d);
}

bool checkpoint_was_saved(const char *run)
{
    char path[DURABLE_PATH];
    json_t *status;
    bool saved;

    if (snprintf(path, sizeof path, "%s/status.json", run) >= DURABLE_PATH) return false;
    status = json_load_file(path, 0, NULL);
    saved = json_is_integer(json_object_get(status, "checkpoint_step"));
    json_decref(status);
    return saved;
}

enum status checkpoint_absent(const char *path)
{
    char inside[DURABLE_PATH];
    struct stat info;

    if (stat(path, &info) != 0)
        FAIL(errno == ENOENT || errno == ENOTDIR ? E_MISSING : E_IO,
             "%s: %s; name a run's folder or one of its checkpoints", path, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        FAIL(E_USAGE,
             "%s is a file, and runs and checkpoints are folders: name one of these; weights in a "
             "file are read from a .safetensors",
             path);
    if (checkpoint_folder_holds(path, "rank-0000.h5"))
        FAIL(E_CORRUPT,
             "%s is a checkpoint that has lost its manifest.json: restore it from a copy, or name "
             "another",
             path);
    if (checkpoint_was_saved(path))
        FAIL(E_CORRUPT,
             "%s has saved checkpoints, says its status.json, and there is none in %s/checkpoints: "
             "restore that folder from a copy",
             path, path);
    if (checkpoint_folder_holds(path, "run.json") || checkpoint_folder_holds(path, "checkpoints"))
        FAIL(E_MISSING,
             "%s is a run without a checkpoint: the first comes after checkpoint.every steps, at "
             "the end, or when the run is asked to stop",
             path);
    find_inside(path, inside);
    if (*inside)
        FAIL(E_USAGE, "%s is neither a run nor a checkpoint: name what is in it, such as %s", path,
             inside);
    FAIL(E_USAGE,
         "%s is neither a checkpoint (it has no manifest.json) nor a run (no run.json): name one "
         "of these",
         path);
}
