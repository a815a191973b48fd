#include "cluster/launch.h"
#include "trainer/command.h"
#include "trainer/config.h"
#include "trainer/options.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_ROOM = 4096 };

static int64_t n_ranks = 1, restarts = 3;
static double grace = 60;

static const struct option_row rows[] = {
    { "ranks", 'n', OPTION_INT, &n_ranks, 1, 4096, "N", "ranks on this machine" },
    { "restarts", 0, OPTION_INT, &restarts, 0, 1000, "K",
      "failed starts in a row without progress before it gives up" },
    { "grace", 0, OPTION_NUMBER, &grace, 0, 86400, "SECONDS",
      "from a request to stop until the ranks are ended" },
    { .kind = OPTION_END },
};

static const struct option_spec spec = {
    .command = "launch",
    .arguments = "[--] [train|eval] …",
    .summary =
        "Runs train (unless said otherwise) or eval on N local ranks, and again after a failure.",
    .examples = "samforge launch -n 4 configs/tiny.yaml data.train=shards\n"
                "samforge launch -n 2 eval runs/tiny shards",
    .notes =
        "INT, TERM, USR1 or HUP asks the ranks to save and stop: exit code 85. A second INT ends "
        "them.\n"
        "A run that fails is started again from its last checkpoint while its steps grow; exit\n"
        "codes 0, 2, 3, 4, 5 and 85 are final. One rank needs no MPI.",
    .rows = rows,
    .max_arguments = 0,
};

/* Whether the option in word takes the next word as its value. */
static bool takes_next(const char *word)
{
    for (const struct option_row *r = rows; r->kind != OPTION_END; r++) {
        if (r->kind == OPTION_FLAG) continue;
        if (word[1] == '-' && strcmp(word + 2, r->name) == 0) return true;
        if (r->letter && word[1] == r->letter && !word[2]) return true;
    }
    return false;
}

/* Where launch's own options end: at the first word that is none, so that the options of the command stay its own. */
static int own_words(int argc, char **argv)
{
    int i = 1;

    while (i < argc && argv[i][0] == '-' && argv[i][1] && strcmp(argv[i], "--") != 0)
        i += takes_next(argv[i]) ? 2 : 1;
    return i < argc ? i : argc;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The file in which a training run keeps its step; empty when the words name no config. A wrong config fails here, before any
 * rank is started. */
static enum status status_path(char *const *words, char path[PATH_ROOM])
{
    static struct config config;
    char *overrides[256];
    const char *file = NULL;
    int n = 0;

    path[0] = 0;
    for (int i = 0; words[i]; i++) {
        if (!file && (ends_with(words[i], ".yaml") || ends_with(words[i], ".yml"))) {
            file = words[i];
        } else if (words[i][0] != '-' && strchr(words[i], '=')) {
            if (n == 256) FAIL(E_USAGE, "more than 256 settings on the command line");
            overrides[n++] = words[i];
        }
    }
    if (!file) return OK;
    TRY(config_load(&config, file, overrides, n));
    if (n_ranks > config.train_batch)
        FAIL(E_CONFIG,
             "%lld ranks for a batch of %lld images: some would have nothing to do; say -n %lld or "
             "fewer, or a greater train.batch",
             (long long)n_ranks, (long long)config.train_batch, (long long)config.train_batch);
    if (config.run_folder[0])
        snprintf(path, PATH_ROOM, "%s/status.json", config.run_folder);
    else
        snprintf(path, PATH_ROOM, "runs/%s/status.json", config.name);
    return OK;
}

/* The step in a run's status.json; −1 while there is none. */
static int64_t step_of(void *path)
{
    json_t *status = *(const char *)path ? json_load_file(path, 0, NULL) : NULL;
    const json_t *step = json_object_get(status, "step");
    const int64_t n = json_is_integer(step) ? json_integer_value(step) : -1;

    json_decref(status);
    return n;
}

static enum status status_of(int exit_code)
{
    static const enum status known[] = { OK,        E_FAILED,   E_CONFIG, E_NO_DEVICE,
                                         E_CORRUPT, E_DIVERGED, E_STOPPED };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (status_exit_code(known[i]) == exit_code) return known[i];
    FAIL(E_FAILED, "the ranks ended with code %d%s", exit_code,
         exit_code > 128 ? " (128 and a signal)" : "");
}

/* named: whether a command's first word is train or eval; without either it is train's. */
static enum status check_command(const char *word, bool *named)
{
#define COMMAND_NAME(name, summary) #name,
    static const char *const commands[] = { COMMAND_LIST(COMMAND_NAME) };
#undef COMMAND_NAME

    *named = strcmp(word, "train") == 0 || strcmp(word, "eval") == 0;
    for (size_t i = 0; !*named && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(word, commands[i]) == 0)
            FAIL(E_USAGE,
                 "launch runs train or eval on its ranks, not %s: say samforge %s … without launch",
                 word, word);
    return OK;
}

/* Whether the words ask for text alone, which needs no ranks. */
static bool only_prints(char *const *words)
{
    static const char *const asking[] = { "--help", "-h", "--dump-config", "--fields" };

    for (; *words && strcmp(*words, "--") != 0; words++)
        for (size_t i = 0; i < sizeof asking / sizeof *asking; i++)
            if (strcmp(*words, asking[i]) == 0) return true;
    return false;
}

/* A restart goes on from what the first start saved: --fresh is for that one alone. */
static void without_fresh(char **to, char *const *from)
{
    for (; *from; from++)
        if (strcmp(*from, "--fresh") != 0) *to++ = *from;
    *to = NULL;
}

enum status cmd_launch(int argc, char **argv)
{
    static char train[] = "train", self[PATH_ROOM], path[PATH_ROOM];
    const int own = own_words(argc, argv);
    int rest = own, n = 0, n_arguments, exit_code = 0;
    char **arguments, **words, **again;
    bool done = false, named, is_train, prints;
    ssize_t length;
    enum status s;

    TRY(options_parse(&spec, own, argv, &arguments, &n_arguments, &done));
    if (done) return OK;
    if (rest < argc && strcmp(argv[rest], "--") == 0) rest++;
    if (rest >= argc) FAIL(E_USAGE, "launch what? See samforge launch --help");
    TRY(check_command(argv[rest], &named));
    length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) FAIL(E_FAILED, "cannot find the program's own file: is /proc mounted?");
    self[length] = 0;

    words = calloc(2 * ((size_t)(argc - rest) + 3), sizeof *words);
    if (!words) FAIL(E_MEMORY, "%d words", argc - rest);
    again = words + argc - rest + 3;
    words[n++] = self;
    if (!named) words[n++] = train;
    for (int i = rest; i < argc; i++) words[n++] = argv[i];

    without_fresh(again, words);

    is_train = strcmp(words[1], "train") == 0;
    prints = only_prints(words + 2);
    s = is_train && !prints ? status_path(words + 2, path) : OK;
    if (s == OK && prints) {
        s = is_train ? cmd_train(n - 1, words + 1) : cmd_eval(n - 1, words + 1);
    } else if (s == OK) {
        const struct launch_options o = { .n_ranks = (int)n_ranks,
                                          .argv = words,
                                          .again = again,
                                          .grace_ms = (int64_t)(grace * 1e3),
                                          .restarts = restarts,
                                          .pause_ms = 1000,
                                          .progress = step_of,
                                          .arg = path };

        s = launch_run(&o, &exit_code);
    }
    free(words);
    return s == OK ? status_of(exit_code) : s;
}
