/* How the module of the CUDA backend is found, and refused: "test_plugin FOLDER", where the fakes of
 * fake_plugin.c lie. The module is looked for once a process, so every case is one. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/plugin.h"
#include "tests/check.h"

/* What a process with that module says: its log, then plugin_reason, or "found". */
static const char *said(const char *module)
{
    static char text[4096];
    size_t n;
    int end[2];
    pid_t child;
    FILE *f;

    fflush(NULL);
    if (pipe(end) != 0) exit(1);
    child = fork();
    if (child < 0) exit(1);
    if (child == 0) {
        dup2(end[1], 1);
        dup2(end[1], 2);
        if (module)
            setenv("SAMFORGE_PLUGIN", module, 1);
        else
            unsetenv("SAMFORGE_PLUGIN");
        plugin_set_local_rank(0);
        printf("%s\n", ops_find("cuda") ? "found" : plugin_reason());
        if (ops_find("cuda") && ops_find("cuda")->open() != OK) printf("not opened\n");
        if (module && plugin_is_absent()) printf("absent, which was named: disagree\n");
        if (!ops_find("cuda") != !plugin_table()) printf("table and ops disagree\n");
        fflush(NULL);
        _exit(0);
    }
    close(end[1]);
    f = fdopen(end[0], "r");
    n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = 0;
    if (f) fclose(f);
    waitpid(child, NULL, 0);
    return text;
}

static void expect(const char *module, const char *wanted)
{
    const char *text = said(module);

    if (strstr(text, wanted) && !strstr(text, "disagree")) return;
    fprintf(stderr, "%s: wanted \"%s\", got \"%s\"\n", module ? module : "none", wanted, text);
    check_fails++;
}

int main(int argc, char **argv)
{
    static const char *const refusals[] = { "has no GPU", "another build", "another build",
                                            "another build" };
    char path[4096];

    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER, where libfake_plugin_N.so are\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/libfake_plugin_%d.so", argv[1], i);
        expect(path, refusals[i]);
    }
    snprintf(path, sizeof path, "%s/libfake_plugin_0.so", argv[1]);
    expect(path, "error: the module speaks");
    snprintf(path, sizeof path, "%s/libfake_plugin_4.so", argv[1]);
    expect(path, "device call failed: the fake does not open");
    expect(path, "found\nnot opened");
    expect("/nowhere/at-all.so", "which cannot be read");
    expect("/proc/self/exe", "dynamically load"); /* a program is no module: the loader's words */
    expect(NULL, "came without " PLUGIN_FILE);    /* this test's folder has none */
    return check_done("test_plugin");
}
