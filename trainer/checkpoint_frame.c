#include "trainer/checkpoint_frame.h"

#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

enum {
    ALIGN_FROM = 1 << 16, /* datasets of at least this size … */
    ALIGN_TO = 4096,      /* … begin at a page */
    WHY = 256
};

void checkpoint_frame_destroy(struct checkpoint_frame *frame)
{
    for (int i = 0; i < frame->n; i++) free(frame->patch[i].bytes);
    frame->n = 0;
}

/* ---- a driver that writes into a frame --------------------------------------------------------
 */

struct driver_file {
    H5FD_t pub; /* HDF5's own part, first */
    struct checkpoint_frame *frame;
    haddr_t end_allocated, end_written;
};

struct driver_info {
    struct checkpoint_frame *frame;
};

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t fapl, haddr_t max)
{
    const struct driver_info *info = H5Pget_driver_info(fapl);
    struct driver_file *f = calloc(1, sizeof *f);

    (void)name;
    (void)flags;
    (void)max;
    if (!f || !info) {
        free(f);
        return NULL;
    }
    f->frame = info->frame;
    return &f->pub;
}

static herr_t driver_close(H5FD_t *file)
{
    struct driver_file *f = (struct driver_file *)file;

    f->frame->bytes =
        (int64_t)(f->end_allocated > f->end_written ? f->end_allocated : f->end_written);
    free(f);
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const struct driver_file *)file)->end_allocated;
}

static herr_t driver_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t end)
{
    (void)type;
    ((struct driver_file *)file)->end_allocated = end;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const struct driver_file *)file)->end_written;
}

/* What the patches say, zeros where none does. */
static herr_t driver_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t n, void *to)
{
    const struct checkpoint_frame *frame = ((struct driver_file *)file)->frame;
    const int64_t begin = (int64_t)at, end = begin + (int64_t)n;

    (void)type;
    (void)dxpl;
    memset(to, 0, n);
    for (int i = 0; i < frame->n; i++) {
        const struct checkpoint_patch *p = &frame->patch[i];
        const int64_t a = p->offset > begin ? p->offset : begin;
        const int64_t b = p->offset + p->n < end ? p->offset + p->n : end;

        if (a < b) memcpy((char *)to + (a - begin), p->bytes + (a - p->offset), (size_t)(b - a));
    }
    return 0;
}

static herr_t driver_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t n,
                           const void *from)
{
    struct driver_file *f = (struct driver_file *)file;
    struct checkpoint_frame *frame = f->frame;
    char *copy = frame->n < CHECKPOINT_FRAME_PATCHES ? malloc(n ? n : 1) : NULL;

    (void)type;
    (void)dxpl;
    if (!copy) return -1;
    memcpy(copy, from, n);
    frame->patch[frame->n++] =
        (struct checkpoint_patch){ .offset = (int64_t)at, .n = (int64_t)n, .bytes = copy };
    if (at + n > f->end_written) f->end_written = at + n;
    return 0;
}

static const H5FD_class_t driver = {
#ifdef H5FD_CLASS_VERSION
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)700,
#endif
    .name = "samforge_frame",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_WEAK,
    .fapl_size = sizeof(struct driver_info),
    .open = driver_open,
    .close = driver_close,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .read = driver_read,
    .write = driver_write,
    .fl_map = H5FD_FLMAP_SINGLE,
};

/* ---- what goes into it ------------------------------------------------------------------------
 */

/* The innermost reason on HDF5's error stack. */
static herr_t take_reason(unsigned n, const H5E_error2_t *e, void *why)
{
    if (n == 0 && e->desc) snprintf(why, WHY, "%s", e->desc);
    return 0;
}

static enum status h5_failed(const char *what)
{
    char why[WHY] = "no reason given";

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, why);
    FAIL(E_IO, "laying out a checkpoint file, HDF5 fails %s: %s", what, why);
}

#define CHECK_H5(call, what)                                                                       \
    do {                                                                                           \
        if ((call) < 0) return h5_failed((what));                                                  \
    } while (0)

/* A file of the newest format, whose metadata carry checksums. */
static enum status create_file(struct checkpoint_frame *frame, hid_t *file)
{
    const struct driver_info info = { frame };
    const hid_t id = H5FDregister(&driver), fapl = H5Pcreate(H5P_FILE_ACCESS);
    herr_t bad = H5Pset_libver_bounds(fapl, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);

    bad |= H5Pset_alignment(fapl, ALIGN_FROM, ALIGN_TO);
    bad |= H5Pset_driver(fapl, id, &info);
    if (id < 0 || fapl < 0 || bad < 0) return h5_failed("preparing");
    *file = H5Fcreate("frame", H5F_ACC_TRUNC, H5P_DEFAULT, fapl);
    CHECK_H5(*file, "creating");
    CHECK_H5(H5Pclose(fapl), "preparing");
    CHECK_H5(H5FDunregister(id), "preparing");
    return OK;
}

/* Room for n floats, not filled; times are left out: same content, same bytes. */
static enum status add_dataset(hid_t file, const char *name, int64_t n, int64_t *offset)
{
    const hsize_t dims[1] = { (hsize_t)n };
    const hid_t space = H5Screate_simple(1, dims, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    herr_t bad = H5Pset_layout(dcpl, H5D_CONTIGUOUS);
    haddr_t at;
    hid_t set;

    bad |= H5Pset_fill_time(dcpl, H5D_FILL_TIME_NEVER);
    bad |= H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY);
    bad |= H5Pset_obj_track_times(dcpl, 0);
    if (space < 0 || dcpl < 0 || bad < 0) return h5_failed("describing a dataset");
    set = H5Dcreate2(file, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    CHECK_H5(set, "creating a dataset");
    at = H5Dget_offset(set);
    if (n > 0 && at == HADDR_UNDEF) return h5_failed("placing a dataset");
    *offset = n > 0 ? (int64_t)at : 0;
    CHECK_H5(H5Dclose(set), "closing a dataset");
    CHECK_H5(H5Pclose(dcpl), "closing a dataset");
    CHECK_H5(H5Sclose(space), "closing a dataset");
    return OK;
}

static enum status add_number(hid_t file, const char *name, int64_t value)
{
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(file, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);

    CHECK_H5(attribute, "adding a number");
    CHECK_H5(H5Awrite(attribute, H5T_NATIVE_INT64, &value), "adding a number");
    CHECK_H5(H5Aclose(attribute), "adding a number");
    CHECK_H5(H5Sclose(space), "adding a number");
    return OK;
}

static enum status fill(hid_t file, const struct checkpoint_state *s, struct plan_range part,
                        struct checkpoint_file *f)
{
    TRY(add_number(file, "step", s->counters.step));
    TRY(add_number(file, "begin", part.begin));
    TRY(add_number(file, "n", s->n));
    for (int a = 0; a < s->n_arrays; a++)
        TRY(add_dataset(file, s->array_name[a], part.end - part.begin, &f->slice[a].offset));
    return OK;
}

enum status checkpoint_frame_create(struct checkpoint_frame *frame,
                                    const struct checkpoint_state *s, struct plan_range part,
                                    struct checkpoint_file *f)
{
    enum status status;
    hid_t file = -1;

    frame->n = 0;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* failures are told by our own lines */
    TRY(create_file(frame, &file));
    status = fill(file, s, part, f);
    if (H5Fclose(file) < 0) KEEP_FIRST(status, h5_failed("closing"));
    if (status != OK) {
        checkpoint_frame_destroy(frame);
        return status;
    }
    f->bytes = frame->bytes;
    return OK;
}
