#include "data_pipeline/tar.h"

#include "tests/check.h"
#include "tests/data_pipeline/crafted_tar.h"

/* Everything a tar gives, as one line of text a member, and how it ended. */
static void listing(const uint8_t *bytes, int64_t n, const struct tar_limits *limits, char *text,
                    size_t room)
{
    uint8_t *const exact = malloc((size_t)n + 1);
    struct tar *t = NULL;
    struct tar_member m;
    enum status s;
    size_t at = 0;

    memcpy(exact, bytes, (size_t)n);
    text[0] = 0;
    CHECK(tar_open_memory(&t, exact, n, limits) == OK);
    do {
        s = tar_next(t, &m);
        if (s == OK && m.kind == TAR_FILE) {
            char *const data = calloc((size_t)m.bytes + 1, 1);

            s = tar_read(t, (uint8_t *)data);
            if (s == OK)
                at += (size_t)snprintf(text + at, room - at, "%s=%s|", m.name,
                                       m.bytes < 80 ? data : "long");
            free(data);
        } else if (s == OK && m.kind == TAR_REFUSED) {
            at += (size_t)snprintf(text + at, room - at, "!%s %s|", m.name, m.refused);
        }
        ASSERT(at < room);
    } while (s == OK && m.kind != TAR_END);
    if (s == E_CORRUPT) snprintf(text + at, room - at, "#%s", tar_why(t));
    CHECK(s == OK || (s == E_CORRUPT && tar_why(t)[0]));
    tar_close(t);
    free(exact);
}

static void expect_limited(const struct crafted *c, const struct tar_limits *limits,
                           const char *wanted)
{
    char text[8192];

    listing(c->p, c->n, limits, text, sizeof text);
    if (strncmp(text, wanted, strlen(wanted)) != 0) printf("wanted %s\nfound  %s\n", wanted, text);
    CHECK(strncmp(text, wanted, strlen(wanted)) == 0);
}

/* The listing begins with wanted; and so does that of the gzipped archive. */
static void expect(struct crafted *c, const char *wanted)
{
    struct crafted zipped = crafted_gzip(c);

    expect_limited(c, &tar_limits_default, wanted);
    expect_limited(&zipped, &tar_limits_default, wanted);
    crafted_free(&zipped);
    crafted_free(c);
}

static void test_plain(void)
{
    struct crafted c = { 0 };
    char path[64], file[96];
    struct tar *t = NULL;
    struct tar_member m;

    crafted_member(&c, "./", '5', "", 0);
    crafted_text(&c, "./sa_1.jpg", "one");
    crafted_text(&c, "sa_1.json", "");
    crafted_member(&c, "old", 0, "v7", 2);
    crafted_end(&c);
    crafted_zeros(&c, 8192); /* GNU tar pads */

    crafted_folder(path);
    snprintf(file, sizeof file, "%s/a.tar", path);
    crafted_save(file, c.p, c.n);
    CHECK(tar_open(&t, file, &tar_limits_default) == OK);
    CHECK(tar_next(t, &m) == OK && strcmp(m.name, "sa_1.jpg") == 0 && m.offset == 512);
    CHECK(tar_next(t, &m) == OK && m.bytes == 0); /* not read: passed over */
    CHECK(tar_next(t, &m) == OK && strcmp(m.name, "old") == 0);
    CHECK(tar_next(t, &m) == OK && m.kind == TAR_END);
    CHECK(tar_bytes_in(t) == c.n);
    tar_close(t);
    CHECK(tar_open(&t, "crafted-nowhere/x.tar", &tar_limits_default) == E_IO);
    crafted_remove(path);
    expect(&c, "sa_1.jpg=one|sa_1.json=|old=v7|");
}

static void test_refused(void)
{
    struct crafted c = { 0 };
    char long_name[120];

    memset(long_name, 'n', sizeof long_name);
    crafted_member(&c, "/etc/passwd", '0', "x", 1);
    crafted_member(&c, "../sa_1.jpg", '0', "x", 1);
    crafted_member(&c, "a/../../b", '0', "x", 1);
    crafted_member(&c, "..", '0', "x", 1);
    crafted_member(&c, "a/..", '0', "x", 1);
    crafted_member(&c, "folder/sa_1.jpg", '0', "x", 1);
    crafted_member(&c, "back\\slash", '0', "x", 1);
    crafted_member(&c, "bell\a", '0', "x", 1);
    crafted_member(&c, "", '0', "x", 1);
    crafted_member(&c, "hard", '1', NULL, 700); /* a size without data */
    crafted_member(&c, "soft", '2', NULL, 0);
    crafted_member(&c, "char", '3', NULL, 0);
    crafted_member(&c, "block", '4', NULL, 0);
    crafted_member(&c, "pipe", '6', NULL, 0);
    crafted_member(&c, "sparse", 'S', "xy", 2);
    crafted_member(&c, "volume", 'M', "xy", 2);
    crafted_member(&c, "strange", 'Z', "xy", 2);
    crafted_text(&c, "good", "g");
    crafted_end(&c);
    expect(&c, "!/etc/passwd named by an absolute path|!../sa_1.jpg named by a path with ..|"
               "!a/../../b named by a path with ..|!.. named by a path with ..|"
               "!a/.. named by a path with ..|"
               "!folder/sa_1.jpg inside a folder; make the tar of the files alone|"
               "!back\\slash inside a folder; make the tar of the files alone|"
               "!bell? named with unprintable characters|! without a name|!hard a hard link|"
               "!soft a symbolic link|!char a device|!block a device|!pipe a named pipe|"
               "!sparse a sparse file|!volume part of a multi-volume archive|"
               "!strange of an unknown type|good=g|");
}

static void test_long_names(void)
{
    static const char pax_size[] = "9 size=3\n", pax_up[] = "17 path=../x.jpg\n",
                      pax_sparse[] = "22 GNU.sparse.major=1\n";
    char name[300], record[400];
    struct crafted c = { 0 };

    memset(name, 'n', sizeof name);
    name[150] = 0;
    crafted_member(&c, "././@LongLink", 'L', name, 151);
    crafted_text(&c, "nnn", "L");
    crafted_member(&c, "PaxHeader", 'x', "17 path=sa_7.jpg\n", 17);
    crafted_text(&c, "cut", "x");
    crafted_member(&c, "PaxHeader", 'x', pax_size, (int64_t)sizeof pax_size - 1);
    crafted_member(&c, "sized", '0', "abc", 3);
    crafted_member(&c, "PaxHeader", 'x', pax_up, (int64_t)sizeof pax_up - 1);
    crafted_text(&c, "innocent", "x");
    crafted_member(&c, "PaxHeader", 'x', pax_sparse, (int64_t)sizeof pax_sparse - 1);
    crafted_text(&c, "thin", "x");
    crafted_member(&c, "global", 'g', "13 comment=a\n", 13);
    crafted_text(&c, "plain", "p");
    crafted_end(&c);
    snprintf(record, sizeof record,
             "%.150s=L|sa_7.jpg=x|sized=abc|!../x.jpg named by a path with ..|"
             "!thin a sparse file|plain=p|",
             name);
    expect(&c, record);

    name[150] = 'n';
    name[299] = 0;
    crafted_member(&c, "././@LongLink", 'L', name, 300);
    crafted_text(&c, "nnn", "L");
    crafted_text(&c, "next", "x");
    crafted_end(&c);
    snprintf(record, sizeof record, "!%.255s named by more than 255 bytes|next=x|", name);
    expect(&c, record);
}

static void test_malformed(void)
{
    static const struct {
        char type;
        const char *data;
        const char *wanted;
    } v[] = {
        { 'x', "path=x\n", "#pax header at byte 0 is malformed" },
        { 'x', "99 path=x\n", "#pax header at byte 0 is malformed" },
        { 'x', "5 a=b", "#pax header at byte 0 is malformed" },
        { 'x', "6 abc\n", "#pax header at byte 0 is malformed" },
        { 'x', "10 size=x\n", "#pax header at byte 0 has an invalid size" },
        { 'x', "28 size=9999999999999999999\n", "#pax header at byte 0 has an invalid size" },
        { 'g', "10 path=x\n", "#global pax header at byte 0 sets a path or a size" },
    };
    struct crafted c = { 0 };

    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        crafted_member(&c, "PaxHeader", v[i].type, v[i].data, (int64_t)strlen(v[i].data));
        crafted_text(&c, "x", "x");
        crafted_end(&c);
        expect(&c, v[i].wanted);
    }
    crafted_member(&c, "PaxHeader", 'x', NULL, 1 << 20);
    expect(&c, "#pax header at byte 0 is larger than");
    crafted_member(&c, "@LongLink", 'L', NULL, 1 << 20);
    expect(&c, "#long name at byte 0 is longer than");
    crafted_text(&c, "x", "x");
    c.p[3] ^= 1;
    expect(&c, "#header at byte 0 has a wrong checksum; fetch the file again");
    crafted_text(&c, "x", "x");
    memcpy(c.p + 124, "0000009000 ", 11); /* 9 is no octal digit */
    crafted_checksum(&c, 0);
    expect(&c, "#header at byte 0 has an invalid size");
    crafted_text(&c, "x", "x");
    memset(c.p + 124, 0xff, 12); /* base 256, negative */
    crafted_checksum(&c, 0);
    expect(&c, "#header at byte 0 has an invalid size");
    crafted_member(&c, "x", '0', NULL, 0);
    memcpy(c.p + 124, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12);
    crafted_checksum(&c, 0);
    expect(&c, "#header at byte 0 has an invalid size");
    crafted_member(&c, "x", '0', NULL, 0);
    memcpy(c.p + 124, "\x80\0\0\0\0\xff\xff\xff\xff\xff\xff\xff", 12);
    crafted_checksum(&c, 0);
    expect(&c, "#member x at byte 0 claims");
    crafted_member(&c, "PaxHeader", 'x', "10 path=x\n", 10);
    crafted_end(&c);
    expect(&c, "#an extension header without a member");
    crafted_text(&c, "x", "x");
    crafted_end(&c);
    crafted_text(&c, "y", "y");
    crafted_end(&c);
    expect(&c, "x=x|#data behind the end mark at byte 2048");
}

/* Base 256 is how GNU tar says 8 GiB and more; and how a member may say 3 bytes. */
static void test_base256(void)
{
    struct crafted c = { 0 };

    crafted_member(&c, "x", '0', "abc", 3);
    memcpy(c.p + 124, "\x80\0\0\0\0\0\0\0\0\0\0\3", 12);
    crafted_checksum(&c, 0);
    crafted_end(&c);
    expect(&c, "x=abc|");
}

/* Cut anywhere: what lies whole before the cut comes out, then the damage, with its place. */
static void test_truncated(void)
{
    struct crafted c = { 0 }, zipped;
    char text[256], place[64];

    crafted_text(&c, "a", "1");
    crafted_text(&c, "b", "2");
    crafted_end(&c);
    for (int64_t n = 0; n < c.n; n++) {
        listing(c.p, n, &tar_limits_default, text, sizeof text);
        CHECK((strstr(text, "a=1|") != NULL) == (n >= 513));
        CHECK((strstr(text, "b=2|") != NULL) == (n >= 1537));
        snprintf(place, sizeof place, "#truncated at byte %lld", (long long)n);
        CHECK(strstr(text, place));
    }
    zipped = crafted_gzip(&c);
    for (int64_t n = 2; n < zipped.n; n++) {
        listing(zipped.p, n, &tar_limits_default, text, sizeof text);
        snprintf(place, sizeof place, "#gzip stream is truncated at byte %lld", (long long)n);
        CHECK(strstr(text, place));
    }
    zipped.p[zipped.n - 5] ^= 1; /* its checksum */
    listing(zipped.p, zipped.n, &tar_limits_default, text, sizeof text);
    CHECK(strstr(text, "#gzip stream is damaged"));
    crafted_free(&zipped);
    crafted_free(&c);
}

static void test_limits(void)
{
    struct tar_limits limits = { .member_bytes = 4, .n_members = 3, .total_bytes = 4096 };
    struct crafted c = { 0 }, zipped;

    crafted_text(&c, "a", "12345");
    crafted_text(&c, "b", "1234");
    crafted_end(&c);
    expect_limited(&c, &limits, "!a larger than allowed|b=1234|");
    limits.n_members = 1;
    expect_limited(&c, &limits, "!a larger than allowed|#more than 1 members");
    limits.n_members = 3;
    crafted_zeros(&c, 1 << 20); /* small when zipped */
    zipped = crafted_gzip(&c);
    CHECK(zipped.n < 4096);
    expect_limited(&zipped, &limits, "!a larger than allowed|b=1234|#archive unpacks to more");
    crafted_free(&zipped);
    crafted_free(&c);
}

/* A gzip in two pieces is one file to gunzip, and to us. */
static void test_gzip_pieces(void)
{
    struct crafted c = { 0 }, half, first, second;

    crafted_text(&c, "a", "1");
    crafted_text(&c, "b", "2");
    crafted_end(&c);
    half = c;
    half.n = 700;
    first = crafted_gzip(&half);
    half = (struct crafted){ .p = c.p + 700, .n = c.n - 700 };
    second = crafted_gzip(&half);
    crafted_append(&first, second.p, second.n);
    expect_limited(&first, &tar_limits_default, "a=1|b=2|");
    crafted_append(&first, "garbage", 7);
    expect_limited(&first, &tar_limits_default, "a=1|b=2|#gzip stream is damaged");
    crafted_free(&first);
    crafted_free(&second);
    crafted_free(&c);
}

/* A member longer than the read buffer, read or passed over by a seek. */
static void test_large(void)
{
    const int64_t n = 1 << 20;
    uint8_t *const data = calloc((size_t)n, 1), *const back = calloc((size_t)n, 1);
    struct crafted c = { 0 };
    char path[64], file[96];
    struct tar_member m;

    for (int64_t i = 0; i < n; i++) data[i] = (uint8_t)(i * 7 + i / 251);
    crafted_member(&c, "large", '0', data, n);
    crafted_text(&c, "next", "x");
    crafted_end(&c);
    crafted_folder(path);
    snprintf(file, sizeof file, "%s/a.tar", path);
    crafted_save(file, c.p, c.n);
    for (int read = 0; read < 2; read++) {
        struct tar *t = NULL;

        CHECK(tar_open(&t, file, &tar_limits_default) == OK);
        CHECK(tar_next(t, &m) == OK && m.bytes == n);
        if (read) {
            CHECK(tar_read(t, back) == OK);
            CHECK_SAME_BITS(data, back, n);
        }
        CHECK(tar_next(t, &m) == OK && strcmp(m.name, "next") == 0 && m.offset == n + 512);
        CHECK(tar_next(t, &m) == OK && m.kind == TAR_END && tar_bytes_in(t) == c.n);
        tar_close(t);
    }
    crafted_save(file, c.p, n / 2); /* a file that ends inside the member, not seeked over */
    {
        struct tar *t = NULL;

        CHECK(tar_open(&t, file, &tar_limits_default) == OK);
        CHECK(tar_next(t, &m) == OK && tar_next(t, &m) == E_CORRUPT);
        CHECK(strstr(tar_why(t), "truncated at byte 524288"));
        tar_close(t);
    }
    crafted_remove(path);
    crafted_free(&c);
    free(data);
    free(back);
}

int main(void)
{
    test_plain();
    test_refused();
    test_long_names();
    test_malformed();
    test_base256();
    test_truncated();
    test_limits();
    test_gzip_pieces();
    test_large();
    return check_done("tar");
}
