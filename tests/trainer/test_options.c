#include "trainer/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { WORDS = 16 };

static struct {
    bool verify;
    int64_t n;
    double share;
    const char *out;
} value;

static const struct option_row rows[] = {
    { "verify", 'v', OPTION_FLAG, &value.verify, 0, 0, NULL, "check everything" },
    { "n-masks", 'n', OPTION_INT, &value.n, 1, 100, "N", "how many" },
    { "share", 0, OPTION_NUMBER, &value.share, 0, 0, NULL, "of the whole" },
    { "out", 'o', OPTION_TEXT, &value.out, 0, 0, "FILE", "where to" },
    { .kind = OPTION_END },
};

static const struct option_spec spec = { .command = "pack",
                                         .arguments = "SRC… OUT",
                                         .summary = "Packs.",
                                         .examples = "samforge pack a b",
                                         .rows = rows,
                                         .min_arguments = 2,
                                         .max_arguments = 3 };

struct parsed {
    enum status status;
    char **arguments;
    int n;
    bool done;
};

/* Splits `line` at spaces and parses it. */
static struct parsed parse(const char *line)
{
    static char text[256];
    static char *argv[WORDS];
    struct parsed p = { .n = -1 };
    char *save = NULL;
    int argc = 0;

    value.verify = false;
    value.n = 5;
    value.share = 0.5;
    value.out = "here";
    strcpy(text, line);
    for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    p.status = options_parse(&spec, argc, argv, &p.arguments, &p.n, &p.done);
    return p;
}

static void any_order(void **state)
{
    static const char *const lines[] = {
        "pack --verify -n 7 --share=0.25 --out x a b",
        "pack a -v --n-masks 7 b --share 0.25 -ox",
        "pack a b -n7 --share 2.5e-1 -o=x --verify",
        "pack -n=7 --out=x -v --share 0.25 -- a b",
    };

    (void)state;
    for (int i = 0; i < 4; i++) {
        const struct parsed p = parse(lines[i]);

        assert_int_equal(p.status, OK);
        assert_int_equal(p.n, 2);
        assert_string_equal(p.arguments[0], "a");
        assert_string_equal(p.arguments[1], "b");
        assert_true(value.verify);
        assert_int_equal(value.n, 7);
        assert_true(value.share == 0.25);
        assert_string_equal(value.out, "x");
    }
}

static void defaults_stay(void **state)
{
    (void)state;
    assert_int_equal(parse("pack a b c").status, OK);
    assert_false(value.verify);
    assert_int_equal(value.n, 5);
    assert_string_equal(value.out, "here");
}

static void double_dash_ends_options(void **state)
{
    const struct parsed p = parse("pack a -- --verify - ");

    (void)state;
    assert_int_equal(p.status, OK);
    assert_int_equal(p.n, 3);
    assert_string_equal(p.arguments[0], "a");
    assert_string_equal(p.arguments[1], "--verify");
    assert_string_equal(p.arguments[2], "-");
    assert_false(value.verify);
}

static void negative_numbers_are_values(void **state)
{
    (void)state;
    assert_int_equal(parse("pack a b --share -1.5").status, OK);
    assert_true(value.share == -1.5);
}

static void wrong_lines(void **state)
{
    static const char *const lines[] = {
        "pack",
        "pack a",
        "pack a b c d",
        "pack a b --verfy",
        "pack a b -x",
        "pack a b -n",
        "pack a b -n 0",
        "pack a b -n 101",
        "pack a b -n 7k",
        "pack a b -n 1e1",
        "pack a b --verify=1",
        "pack a b --share nan",
        "pack a b --share 0x",
        "pack a b --n-masks=",
        "pack a b -n 99999999999999999999",
    };

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (parse(lines[i]).status != E_USAGE) fail_msg("'%s' was accepted", lines[i]);
}

static void help(void **state)
{
    const struct parsed p = parse("pack --nonsense-comes-after --help");
    const struct parsed q = parse("pack --help");

    (void)state;
    assert_int_equal(p.status, E_USAGE);
    assert_int_equal(q.status, OK);
    assert_true(q.done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order),
        cmocka_unit_test(defaults_stay),
        cmocka_unit_test(double_dash_ends_options),
        cmocka_unit_test(negative_numbers_are_values),
        cmocka_unit_test(wrong_lines),
        cmocka_unit_test(help),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
