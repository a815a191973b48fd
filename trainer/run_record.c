#include "trainer/run_record.h"

#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/checkpoint_folder.h"
#include "trainer/durable_file.h"
#include "trainer/yaml.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { GIT_LINE = 256 };

static bool is_id(const char *text)
{
    return text && *text && strlen(text) < CHECKPOINT_RUN_ID && !strchr(text, '/');
}

bool run_record_read(const char *folder, char id[CHECKPOINT_RUN_ID], uint64_t *hash)
{
    char path[DURABLE_PATH];
    const char *text, *hex;
    json_error_t error;
    bool is_good;
    json_t *j;

    if (checkpoint_folder_path(path, "%s/run.json", folder) != OK) return false;
    j = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    text = json_string_value(json_object_get(j, "id"));
    hex = json_string_value(json_object_get(j, "config_hash"));
    is_good = is_id(text) && hex && strlen(hex) == 16 && strspn(hex, "0123456789abcdef") == 16;
    if (is_good) {
        memset(id, 0, CHECKPOINT_RUN_ID);
        strcpy(id, text);
        *hash = strtoull(hex, NULL, 16);
    }
    json_decref(j);
    return is_good;
}

/* The id on which all readable manifests agree, and the hash of the newest. *n_told: of how many; 0: there are none. */
static enum status ask_checkpoints(const struct checkpoint_folders *l, char id[CHECKPOINT_RUN_ID],
                                   uint64_t *hash, int *n_told)
{
    *n_told = 0;
    for (int i = 0; i < l->n && l->at[i].sequence >= 0; i++) {
        const struct checkpoint_folder *f = &l->at[i];
        struct checkpoint_manifest m;
        bool agrees;

        TRY(checkpoint_manifest_parse(&m, f->text, f->bytes, f->path));
        if (i == 0) {
            memcpy(id, m.run, CHECKPOINT_RUN_ID);
            *hash = m.config_hash;
        }
        agrees = is_id(m.run) && strcmp(id, m.run) == 0;
        checkpoint_manifest_destroy(&m);
        if (!agrees)
            FAIL(
                E_CORRUPT,
                "run.json is missing or damaged, and the checkpoints beside it are not of one run: "
                "%s is of %s, and %s is not; restore run.json, move out what does not belong "
                "here, or begin anew with --fresh",
                l->at[0].path, id, f->path);
        ++*n_told;
    }
    return OK;
}

enum status run_record_find(const char *folder, char id[CHECKPOINT_RUN_ID], uint64_t *hash,
                            bool *found)
{
    struct checkpoint_folders l;
    char path[DURABLE_PATH];
    enum status s;
    bool is_there;
    int n = 0;

    *found = run_record_read(folder, id, hash);
    if (*found) return OK;
    TRY(checkpoint_folder_path(path, "%s/run.json", folder));
    is_there = access(path, F_OK) == 0;
    TRY(checkpoint_folders_list(&l, folder, true));
    s = ask_checkpoints(&l, id, hash, &n);
    if (s == OK && l.n > 0 && n == 0)
        s = status_fail(E_CORRUPT, __FILE__, __LINE__,
                        "%s is %s, and none of %d checkpoints has a manifest that tells the run: "
                        "restore the one or the other from a copy, or begin anew with --fresh",
                        path, is_there ? "damaged" : "missing", l.n);
    checkpoint_folders_destroy(&l);
    if (s != OK) return s;
    *found = n > 0;
    if (*found)
        log_warn("%s is %s: made anew for run %s, which %d checkpoint%s beside it name%s", path,
                 is_there ? "damaged" : "missing", id, n, n == 1 ? "" : "s", n == 1 ? "s" : "");
    else if (is_there)
        log_warn("%s is damaged, and there is no checkpoint that needs it: made anew", path);
    return OK;
}

void run_record_new_id(char id[CHECKPOINT_RUN_ID])
{
    const time_t now = (time_t)(clock_wall_ns() / 1000000000);
    uint32_t chance = 0;
    struct tm utc;

    if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) != (ssize_t)sizeof chance)
        chance = (uint32_t)clock_ns() ^ (uint32_t)getpid();
    gmtime_r(&now, &utc);
    memset(id, 0, CHECKPOINT_RUN_ID);
    snprintf(id, CHECKPOINT_RUN_ID, "%04d%02d%02d-%02d%02d%02d-%08" PRIx32, utc.tm_year + 1900,
             utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, chance);
}

static enum status write_text(const char *folder, const char *name, const char *text)
{
    char path[DURABLE_PATH];

    TRY(checkpoint_folder_path(path, "%s/%s", folder, name));
    return durable_write(path, text, (int64_t)strlen(text));
}

static enum status write_json(const char *folder, const char *name, json_t *j)
{
    char *text = j ? json_dumps(j, JSON_INDENT(1) | JSON_SORT_KEYS) : NULL;
    enum status s;

    json_decref(j);
    if (!text) FAIL(E_MEMORY, "%s, or a text in it that is not UTF-8", name);
    s = write_text(folder, name, text);
    free(text);
    return s;
}

static enum status write_run(const char *folder, const char *id, const struct run_folder_options *o,
                             int n_ranks)
{
    char hash[17], time[CLOCK_TEXT];

    snprintf(hash, sizeof hash, "%016" PRIx64, config_hash(o->config));
    return write_json(folder, "run.json",
                      json_pack("{ss ss ss si ss}", "id", id, "name", o->config->name,
                                "config_hash", hash, "n_ranks", n_ranks, "started",
                                clock_text(clock_wall_ns(), time)));
}

/* As given. A pipe was read already: then config.resolved.yaml must do. */
static enum status copy_config(const char *folder, const char *from)
{
    char *text = malloc(YAML_BYTES_MAX + 1), path[DURABLE_PATH];
    FILE *f = fopen(from, "r");
    enum status s = OK;
    size_t n = 0;

    if (text && f) n = fread(text, 1, YAML_BYTES_MAX, f);
    if (f) fclose(f);
    if (n) s = checkpoint_folder_path(path, "%s/config.yaml", folder);
    if (n && s == OK) s = durable_write(path, text, (int64_t)n);
    free(text);
    return s;
}

static enum status write_config(const char *folder, const struct run_folder_options *o)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    enum status s;

    if (!f) FAIL(E_MEMORY, "the configuration's text");
    s = config_dump(o->config, f);
    if (fclose(f) != 0) KEEP_FIRST(s, E_MEMORY);
    if (s == OK) s = write_text(folder, "config.resolved.yaml", text);
    free(text);
    return s == OK && o->config_path ? copy_config(folder, o->config_path) : s;
}

/* A word as a shell would read it back. */
static void put_quoted(FILE *f, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "%+,-./:=@_";

    if (*word && strspn(word, plain) == strlen(word)) {
        fputs(word, f);
        return;
    }
    fputc('\'', f);
    for (; *word; word++) fputs(*word == '\'' ? "'\\''" : (char[]){ *word, 0 }, f);
    fputc('\'', f);
}

/* A line a start: the history of restarts. */
static enum status add_command(const char *folder, const struct run_folder_options *o, int n_ranks)
{
    char path[DURABLE_PATH], time[CLOCK_TEXT];
    bool is_bad;
    FILE *f;

    TRY(checkpoint_folder_path(path, "%s/cmd.txt", folder));
    f = fopen(path, "a");
    if (!f) FAIL(E_IO, "%s: %s%s", path, strerror(errno), durable_cure(errno));
    fprintf(f, "# %s, %d rank%s\nsamforge", clock_text(clock_wall_ns(), time), n_ranks,
            n_ranks == 1 ? "" : "s");
    for (int i = 0; i < o->argc; i++) {
        fputc(' ', f);
        put_quoted(f, o->argv[i]);
    }
    fputc('\n', f);
    is_bad = ferror(f) != 0;
    is_bad |= fclose(f) != 0;
    if (is_bad) FAIL(E_IO, "writing %s: %s", path, strerror(errno));
    return OK;
}

/* What steers a run, and nothing that could be a secret. */
static bool is_relevant(const char *name)
{
    static const char *const begin[] = { "OMPI_",     "PMIX_", "SLURM_",    "OMP_",
                                         "OPENBLAS_", "CUDA_", "NCCL_",     "HDF5_",
                                         "SAMFORGE_", "GOMP_", "HOSTNAME=", NULL };
    static const char *const never[] = { "TOKEN", "SECRET", "PASS", "JWT", "KEY", "CRED", NULL };
    char upper[128];
    size_t n = 0;

    for (; name[n] && name[n] != '=' && n < sizeof upper - 1; n++)
        upper[n] = (char)(name[n] >= 'a' && name[n] <= 'z' ? name[n] - 32 : name[n]);
    upper[n] = 0;
    for (int i = 0; never[i]; i++)
        if (strstr(upper, never[i])) return false;
    for (int i = 0; begin[i]; i++)
        if (strncmp(name, begin[i], strlen(begin[i])) == 0) return true;
    return false;
}

static enum status write_environment(const char *folder)
{
    json_t *j = json_object();

    for (char **e = environ; *e; e++) {
        const char *equals = strchr(*e, '=');
        char name[128];

        if (!equals || equals - *e >= (long)sizeof name || !is_relevant(*e)) continue;
        snprintf(name, sizeof name, "%.*s", (int)(equals - *e), *e);
        /* a value that is not UTF-8 is left out */
        if (json_object_set_new(j, name, json_string(equals + 1)) != 0)
            log_debug("%s is not recorded", name);
    }
    return write_json(folder, "env.json", j);
}

/* The commit this was started in, when there is a git and a repository. Five seconds at most: work
 * trees can be large and far away. */
static enum status write_git(const char *folder)
{
    static const char command[] = "timeout 5 git rev-parse HEAD 2>/dev/null && "
                                  "timeout 5 git status --porcelain -uno 2>/dev/null";
    char text[8 * GIT_LINE] = "", line[GIT_LINE];
    size_t used = 0;
    FILE *f = popen(command, "r");

    while (f && fgets(line, sizeof line, f))
        if (used + strlen(line) + 1 < sizeof text) {
            strcpy(text + used, line);
            used += strlen(line);
        }
    if (!f || pclose(f) == -1 || !used) strcpy(text, "no git repository\n");
    return write_text(folder, "git.txt", text);
}

enum status run_record_write(const char *folder, const char *id, const struct run_folder_options *o,
                             int n_ranks)
{
    TRY(write_config(folder, o));
    TRY(add_command(folder, o, n_ranks));
    TRY(write_environment(folder));
    TRY(write_git(folder));
    return write_run(folder, id, o, n_ranks);
}
