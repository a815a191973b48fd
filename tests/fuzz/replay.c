/* Runs a fuzz target on files, without a fuzzer: a crash found elsewhere, or the committed corpus.
 *   replay_<name> FILE|FOLDER … */
#include "data_pipeline/folder.h"

#include <stdio.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REPLAY_BYTES ((int64_t)1 << 30)

static enum status replay_file(const char *path)
{
    struct folder_file f = { 0 };
    const char *why;
    const enum status s = folder_read(&f, path, REPLAY_BYTES, &why);

    if (s == E_CORRUPT) FAIL(E_USAGE, "replay: %s %s", path, why);
    TRY(s);
    LLVMFuzzerTestOneInput(f.bytes, (size_t)f.n);
    folder_file_destroy(&f);
    return OK;
}

static enum status replay(const char *path)
{
    struct folder list = { 0 };
    struct stat info;
    enum status s = OK;

    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) return replay_file(path);
    TRY(folder_list(&list, path));
    for (int64_t i = 0; i < list.n && s == OK; i++) {
        char file[FOLDER_PATH];

        s = folder_join(file, path, list.names[i]);
        if (s == OK) s = replay_file(file);
    }
    printf("%s: %lld inputs\n", path, (long long)list.n);
    folder_destroy(&list);
    return s;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const enum status s = replay(argv[i]);

        if (s != OK) return status_exit_code(s);
    }
    return 0;
}
