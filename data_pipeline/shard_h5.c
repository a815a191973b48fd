#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <hdf5.h>

#include "data_pipeline/shard_file.h"

enum { FORMAT_TEXT = 32 };

/* Packing threads commit at the same time, and not every HDF5 is built for threads. */
static pthread_mutex_t h5_lock = PTHREAD_MUTEX_INITIALIZER;

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bulk bytes are read as they lie");

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *text)
{
    (void)n;
    snprintf(text, 160, "%s in %s", e->desc ? e->desc : "no reason given", e->func_name);
    return 1; /* the first one walking upward is the cause */
}

/* Fails with HDF5's own reason behind ours. */
static enum status h5_fail(enum status s, int line, const char *path, const char *what)
{
    char why[160] = "no reason given";

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, why);
    H5Eclear2(H5E_DEFAULT);
    return status_fail(s, __FILE__, line, "shard: %s: %s (HDF5: %s)", path, what, why);
}

#define CHECK_H5(cond, s, path, what)                                                              \
    do {                                                                                           \
        if (!(cond)) return h5_fail((s), __LINE__, (path), (what));                                \
    } while (0)

/* HDF5 prints nothing and loads no plugins. */
static void h5_begin(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
}

static hid_t h5_type(enum shard_type t)
{
    switch (t) {
    case SHARD_U8:
        return H5T_STD_U8LE;
    case SHARD_I32:
        return H5T_STD_I32LE;
    case SHARD_I64:
        return H5T_STD_I64LE;
    case SHARD_U64:
        return H5T_STD_U64LE;
    case SHARD_F32:
        return H5T_IEEE_F32LE;
    }
    return -1;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A contiguous dataset with its room taken; *offset is where it lies, 0 when it is empty. */
static enum status make_dataset(hid_t file, const char *path, const char *name,
                                enum shard_type type, int64_t rows, int64_t columns,
                                const void *data, int64_t *offset)
{
    const hsize_t dims[2] = { (hsize_t)rows, (hsize_t)columns };
    const hid_t space = H5Screate_simple(columns > 1 ? 2 : 1, dims, NULL);
    const hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    hid_t set = -1;
    haddr_t at = 0;
    int good = space >= 0 && plist >= 0 && H5Pset_layout(plist, H5D_CONTIGUOUS) >= 0 &&
               H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY) >= 0 &&
               H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER) >= 0 &&
               H5Pset_obj_track_times(plist, 0) >= 0;

    if (good) set = H5Dcreate2(file, name, h5_type(type), space, H5P_DEFAULT, plist, H5P_DEFAULT);
    good = good && set >= 0;
    if (good && data) good = H5Dwrite(set, h5_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    if (good && rows > 0) {
        at = H5Dget_offset(set);
        good = at != HADDR_UNDEF;
    }
    if (set >= 0) good = H5Dclose(set) >= 0 && good;
    if (plist >= 0) good = H5Pclose(plist) >= 0 && good;
    if (space >= 0) good = H5Sclose(space) >= 0 && good;
    CHECK_H5(good, E_IO, path, name);
    *offset = (int64_t)at;
    return OK;
}

static enum status make_groups(hid_t file, const char *path)
{
    const hid_t plist = H5Pcreate(H5P_GROUP_CREATE);
    int good = plist >= 0 && H5Pset_obj_track_times(plist, 0) >= 0;
    const char *names[] = { "/image", "/mask" };

    for (int i = 0; i < 2 && good; i++) {
        const hid_t g = H5Gcreate2(file, names[i], H5P_DEFAULT, plist, H5P_DEFAULT);

        good = g >= 0 && H5Gclose(g) >= 0;
    }
    if (plist >= 0) good = H5Pclose(plist) >= 0 && good;
    CHECK_H5(good, E_IO, path, "cannot make its groups");
    return OK;
}

static enum status make_attributes(hid_t file, const char *path)
{
    const hid_t space = H5Screate(H5S_SCALAR), text = H5Tcopy(H5T_C_S1);
    const char format[FORMAT_TEXT] = SHARD_FORMAT;
    const int32_t version = SHARD_VERSION;
    int good = space >= 0 && text >= 0 && H5Tset_size(text, FORMAT_TEXT) >= 0;

    if (good) {
        const hid_t a = H5Acreate2(file, "format", text, space, H5P_DEFAULT, H5P_DEFAULT);

        good = a >= 0 && H5Awrite(a, text, format) >= 0;
        if (a >= 0) good = H5Aclose(a) >= 0 && good;
    }
    if (good) {
        const hid_t a = H5Acreate2(file, "version", H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT);

        good = a >= 0 && H5Awrite(a, H5T_STD_I32LE, &version) >= 0;
        if (a >= 0) good = H5Aclose(a) >= 0 && good;
    }
    if (text >= 0) good = H5Tclose(text) >= 0 && good;
    if (space >= 0) good = H5Sclose(space) >= 0 && good;
    CHECK_H5(good, E_IO, path, "cannot write its attributes");
    return OK;
}

static enum status fill_file(hid_t file, const char *path, struct shard_summary *s,
                             struct shard_index *x)
{
    int64_t ignored;

    TRY(make_attributes(file, path));
    TRY(make_groups(file, path));
    for (int i = 0; i < SHARD_INDEXES; i++) {
        const struct shard_index_row *t = &shard_indexes[i];

        TRY(make_dataset(file, path, t->name, t->type, s->n_images + t->extra, 1,
                         *shard_index_column(x, i), &ignored));
    }
    for (int i = 0; i < SHARD_BULKS; i++) {
        const struct shard_bulk_row *t = &shard_bulks[i];
        const int64_t rows = s->bulk_bytes[i] / (t->columns * shard_type_bytes(t->type));

        TRY(make_dataset(file, path, t->name, t->type, rows, t->columns, NULL, &s->bulk_at[i]));
    }
    CHECK_H5(H5Fflush(file, H5F_SCOPE_LOCAL) >= 0, E_IO, path, "cannot be flushed");
    return OK;
}

static enum status write_whole(const char *path, struct shard_summary *s, struct shard_index *x)
{
    hid_t file = -1;
    enum status status = OK;
    hid_t create, access;
    int good;

    h5_begin();
    create = H5Pcreate(H5P_FILE_CREATE);
    access = H5Pcreate(H5P_FILE_ACCESS);
    /* the same records give the same bytes: no times (the root group has some too), and one format,
     * whatever newer ones the library knows */
    good = create >= 0 && access >= 0 && H5Pset_obj_track_times(create, 0) >= 0 &&
           H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
           H5Pset_alignment(access, 65536, 4096) >= 0 && H5Pset_file_locking(access, 0, 1) >= 0 &&
           H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0;
    if (good) file = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    if (file < 0) status = h5_fail(E_IO, __LINE__, path, "cannot be created");
    if (status == OK) status = fill_file(file, path, s, x);
    if (file >= 0 && H5Fclose(file) < 0)
        KEEP_FIRST(status, h5_fail(E_IO, __LINE__, path, "cannot be closed"));
    if (create >= 0) H5Pclose(create);
    if (access >= 0) H5Pclose(access);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The group has exactly these links, all hard: nothing leads out of the file. */
static enum status check_links(hid_t file, const char *path, const char *group, const char **names,
                               int n)
{
    const hid_t g = H5Gopen2(file, group, H5P_DEFAULT);
    H5G_info_t info;
    int good;

    CHECK_H5(g >= 0, E_CORRUPT, path, "has no such group as a shard has");
    good = H5Gget_info(g, &info) >= 0 && info.nlinks == (hsize_t)n;
    for (int i = 0; i < n && good; i++) {
        H5L_info_t link;

        good = H5Lget_info(g, names[i], &link, H5P_DEFAULT) >= 0 && link.type == H5L_TYPE_HARD;
    }
    if (H5Gclose(g) < 0) good = 0;
    CHECK_H5(good, E_CORRUPT, path, "has other links than a shard has");
    return OK;
}

static enum status check_structure(hid_t file, const char *path)
{
    const char *groups[] = { "image", "mask" };
    const char *names[2][SHARD_INDEXES + SHARD_BULKS];
    int n[2] = { 0, 0 };

    for (int i = 0; i < SHARD_INDEXES + SHARD_BULKS; i++) {
        const char *name =
            i < SHARD_INDEXES ? shard_indexes[i].name : shard_bulks[i - SHARD_INDEXES].name;
        const int g = strncmp(name, "/image/", 7) != 0;

        names[g][n[g]++] = strrchr(name, '/') + 1;
    }
    TRY(check_links(file, path, "/", groups, 2));
    TRY(check_links(file, path, "/image", names[0], n[0]));
    return check_links(file, path, "/mask", names[1], n[1]);
}

/* One value of exactly that type, and no more: HDF5 would write as many as the file has. */
static int read_attribute(hid_t file, const char *name, hid_t type, void *value)
{
    const hid_t a = H5Aopen(file, name, H5P_DEFAULT);
    const hid_t told = a >= 0 ? H5Aget_type(a) : -1, space = a >= 0 ? H5Aget_space(a) : -1;
    const int good = told >= 0 && space >= 0 && H5Tequal(told, type) > 0 &&
                     H5Sget_simple_extent_type(space) == H5S_SCALAR && H5Aread(a, type, value) >= 0;

    if (space >= 0) H5Sclose(space);
    if (told >= 0) H5Tclose(told);
    if (a >= 0) H5Aclose(a);
    return good;
}

static enum status check_attributes(hid_t file, const char *path)
{
    const hid_t text = H5Tcopy(H5T_C_S1);
    char format[FORMAT_TEXT] = "";
    int32_t version = -1;
    const int good = text >= 0 && H5Tset_size(text, FORMAT_TEXT) >= 0 &&
                     read_attribute(file, "format", text, format) &&
                     read_attribute(file, "version", H5T_STD_I32LE, &version);

    if (text >= 0) H5Tclose(text);
    format[FORMAT_TEXT - 1] = 0;
    CHECK_H5(good && strcmp(format, SHARD_FORMAT) == 0, E_CORRUPT, path, "is not a samforge shard");
    if (version != SHARD_VERSION)
        FAIL(E_CORRUPT,
             "shard: %s has format version %d; this program reads version %d: pack again", path,
             (int)version, (int)SHARD_VERSION);
    return OK;
}

/* Type, dims and layout of an open dataset are what the format says: contiguous, in this file. */
static int dataset_as_told(hid_t set, enum shard_type type, int64_t rows, int64_t columns)
{
    const hid_t space = H5Dget_space(set), plist = H5Dget_create_plist(set), t = H5Dget_type(set);
    const int rank = columns > 1 ? 2 : 1;
    hsize_t dims[2] = { 0, 0 };
    const int good = space >= 0 && plist >= 0 && t >= 0 && H5Tequal(t, h5_type(type)) > 0 &&
                     H5Sget_simple_extent_ndims(space) == rank &&
                     H5Sget_simple_extent_dims(space, dims, NULL) == rank &&
                     dims[0] == (hsize_t)rows && (rank == 1 || dims[1] == (hsize_t)columns) &&
                     H5Pget_layout(plist) == H5D_CONTIGUOUS && H5Pget_external_count(plist) == 0 &&
                     H5Pget_nfilters(plist) == 0;

    if (t >= 0) H5Tclose(t);
    if (plist >= 0) H5Pclose(plist);
    if (space >= 0) H5Sclose(space);
    return good;
}

static enum status read_index(hid_t file, const char *path, const struct shard_index_row *t,
                              int64_t n_images, void *column)
{
    const hid_t set = H5Dopen2(file, t->name, H5P_DEFAULT);
    int good = set >= 0 && dataset_as_told(set, t->type, n_images + t->extra, 1);

    good = good && H5Dread(set, h5_type(t->type), H5S_ALL, H5S_ALL, H5P_DEFAULT, column) >= 0;
    if (set >= 0) H5Dclose(set);
    CHECK_H5(good, E_CORRUPT, path, t->name);
    return OK;
}

static enum status check_bulk(hid_t file, const char *path, const struct shard_summary *s, int i)
{
    const struct shard_bulk_row *t = &shard_bulks[i];
    const int64_t row_bytes = t->columns * shard_type_bytes(t->type);
    const hid_t set = H5Dopen2(file, t->name, H5P_DEFAULT);
    int good = set >= 0 && s->bulk_bytes[i] % row_bytes == 0 &&
               dataset_as_told(set, t->type, s->bulk_bytes[i] / row_bytes, t->columns);

    if (good && s->bulk_bytes[i] > 0) {
        const haddr_t at = H5Dget_offset(set);

        good = at != HADDR_UNDEF && at == (haddr_t)s->bulk_at[i];
    }
    if (set >= 0) H5Dclose(set);
    CHECK_H5(good, E_CORRUPT, path, t->name);
    return OK;
}

static enum status read_file(hid_t file, const char *path, const struct shard_summary *s,
                             struct shard_index *x)
{
    TRY(check_attributes(file, path));
    TRY(check_structure(file, path));
    for (int i = 0; i < SHARD_BULKS; i++) TRY(check_bulk(file, path, s, i));
    for (int i = 0; i < SHARD_INDEXES; i++)
        TRY(read_index(file, path, &shard_indexes[i], s->n_images, *shard_index_column(x, i)));
    return OK;
}

static enum status read_whole(const char *path, const struct shard_summary *s,
                              struct shard_index *x)
{
    hid_t file = -1;
    enum status status = OK;
    hid_t access;

    TRY(shard_index_create(x, s->n_images));
    h5_begin();
    access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0 && H5Pset_file_locking(access, 0, 1) >= 0 &&
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0)
        file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (file < 0) status = h5_fail(E_CORRUPT, __LINE__, path, "cannot be opened");
    if (status == OK) status = read_file(file, path, s, x);
    if (file >= 0 && H5Fclose(file) < 0)
        KEEP_FIRST(status, h5_fail(E_IO, __LINE__, path, "cannot be closed"));
    if (access >= 0) H5Pclose(access);
    if (status != OK) shard_index_destroy(x);
    return status;
}

/* ---- one thread at a time -------------------------------------------------------------------- */

enum status shard_h5_write(const char *path, struct shard_summary *s, struct shard_index *x)
{
    enum status status;

    pthread_mutex_lock(&h5_lock);
    status = write_whole(path, s, x);
    pthread_mutex_unlock(&h5_lock);
    return status;
}

enum status shard_h5_read(const char *path, const struct shard_summary *s, struct shard_index *x)
{
    enum status status;

    pthread_mutex_lock(&h5_lock);
    status = read_whole(path, s, x);
    pthread_mutex_unlock(&h5_lock);
    return status;
}
