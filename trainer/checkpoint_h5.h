/* A rank's file of a checkpoint: written once through HDF5, one contiguous dataset an array, so
 * that any tool reads it; read back with pread at the offsets its manifest names, after its hash
 * was checked, so that no parser ever sees damaged bytes. */
#ifndef TRAINER_CHECKPOINT_H5_H
#define TRAINER_CHECKPOINT_H5_H

#include "cluster/plan.h"
#include "trainer/checkpoint_manifest.h"

/* Local. Writes elements `part` of every array of s to path, makes them durable, reads all of it
 * back and compares with hashes taken from memory before the first byte was written. Fills *f. */
enum status checkpoint_h5_write(const char *path, const struct checkpoint_state *s,
                                struct plan_range part, struct checkpoint_file *f) MUST_CHECK;

/* Local. Size and hash of the whole file as f says, or E_CORRUPT. */
enum status checkpoint_h5_verify(const char *path, const struct checkpoint_file *f) MUST_CHECK;

/* Local. n floats at byte `offset`; no check. */
enum status checkpoint_h5_read(const char *path, int64_t offset, int64_t n, float *out) MUST_CHECK;

/* Local. The hash of bytes in memory, as hex. */
void checkpoint_h5_hash(const void *p, int64_t bytes, char hash[CHECKPOINT_HASH]);

#endif
