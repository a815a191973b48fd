/* The emulated device's memory, as host code sees it, and what the emulator has to say.
 *
 * Each buffer has exactly its size: a kernel's access outside is reported with its source line in a
 * checked build; in a fast one it meets a guard page or, within 256 bytes, a pattern looked at when
 * the buffer is given back. Not for several threads: the emulator lives on the one that uses it. */
#ifndef TESTS_EMU_DEVICE_MEMORY_H
#define TESTS_EMU_DEVICE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What can be reported, and what it is called. Each has a planted bug in selftest.cu. */
#define EMU_REPORT_LIST(X)                                                                         \
    X(RACE, "RACE")                           /* two accesses, no barrier between */               \
    X(IN_FLIGHT, "CPASYNC-IN-FLIGHT")         /* touched before its cp.async was waited for */     \
    X(NOT_WAITED, "CPASYNC-NOT-WAITED")       /* a thread ends with a copy of its own open */      \
    X(UNINIT, "UNINIT")                       /* read, never written */                            \
    X(OOB, "OOB")                             /* outside its buffer, or after it was given back */ \
    X(MISALIGNED, "MISALIGNED")               /* a vector at an address it cannot have */          \
    X(BAD_INDEX, "INDEX")                     /* outside an array of known length */               \
    X(WILD, "WILD")                           /* a kernel at host memory */                        \
    X(HOST_DEREF, "HOST-DEREF")               /* host code of a .cu file at device memory */       \
    X(HOST_OOB, "HOST-OOB")                   /* a copy or fill outside its buffer */              \
    X(BAD_FREE, "FREE")                       /* given back twice, or never taken */               \
    X(DIVERGENT_BARRIER, "DIVERGENT-BARRIER") /* not all threads at the same one */                \
    X(WARP_MASK, "WARP-MASK")                 /* names lanes that are not there, or not itself */  \
    X(WARP_DIVERGENCE, "WARP-DIVERGENCE")     /* lanes at different collectives */                 \
    X(SHUFFLE, "SHFL")                        /* from a lane outside the mask */                   \
    X(DEADLOCK, "DEADLOCK")                   /* threads nobody will release */                    \
    X(FAULT, "FAULT")                         /* the processor says so; stack overflow */          \
    X(LAUNCH, "LAUNCH")                       /* no GPU would take it */

#define EMU_REPORT_ENUM(name, text) EMU_##name,
enum emu_report { EMU_REPORT_LIST(EMU_REPORT_ENUM) EMU_REPORT_COUNT };
#undef EMU_REPORT_ENUM

/* 256-byte aligned; zeros, or NaN that counts as never written. Stops the program when the 64 GiB
 * of addresses are used up: they are not used again. Keeps name. */
void *emu_take(int64_t bytes, const char *name, bool zeros);
void emu_give(void *p); /* NULL is allowed */

/* True when [p, p + bytes) lies in one buffer; else a report. write: counts as written. */
bool emu_range(const void *p, int64_t bytes, bool write);

/* Copies from the device, for host code of a .cu file, whose own accesses are reported. */
bool emu_read(void *host, const void *dev, int64_t bytes);

/* From here on device memory is out of reach but for kernels, the verbs and the functions above: host
 * code that touches it ends the program, and where is said. For whole programs; tests of ops touch
 * their tensors by plain pointers. unlock … lock: the way in, for the verbs; may be nested. */
void emu_set_strict(void);
void emu_unlock(void);
void emu_lock(void);

/* Counting, as in struct ops: launches are counted and not run, and buffers taken from then on are
 * addresses without memory. */
void emu_count(bool on);
bool emu_counts(void);
struct launch_count;
int64_t emu_launches(struct launch_count *list, int64_t room);

/* The two queues of the device, and the verbs of struct ops on ranges that were checked: done, or while
 * recording kept, or while counting neither. call: of the host's code with a copy of the argument, when
 * its turn in the queue comes. All of it is in the order of the calls, done at once or replayed; unless EMU_SIDE in
 * the environment says where the side runs, first or last. Then what joins the queue that lags is held until the other
 * comes after it, or it is waited for, and a replayed step too runs one of them as far ahead as `after` lets it. */
void *emu_queue(void);
void *emu_side(void);
void emu_put(void *dev, const void *host, int64_t bytes, const void *queue);
void emu_copy(void *dst, const void *src, int64_t bytes, const void *queue);
void emu_zero(void *dev, int64_t bytes, const void *queue);
bool emu_call(bool (*call)(const void *argument), const void *argument, int64_t bytes,
              const void *queue);                            /* false: done at once, it failed */
const char *emu_after(const void *queue, const void *other); /* NULL, or why not */
bool emu_wait(const void *queue); /* until all of it is done; false: some of it failed */
bool emu_wait_all(void);

/* Recording, as in struct ops: between begin and end launches and the verbs above are kept and not done;
 * replay does what the last end kept. */
void emu_record_begin(void);
const char *emu_record_end(bool keep); /* NULL, or why there is nothing to replay */
bool emu_records(void);
bool emu_replay(void); /* false: nothing is kept, or a launch failed */

/* What the device did since emu_trace(true), an item a launch, put, copy or zero: two runs that did the
 * same have the same items, queue by queue. The text says what it was; it lives until emu_trace. */
struct emu_item {
    char text[120];
    uint64_t bits; /* of all its arguments, and of what was put */
    bool side;     /* on which queue */
};
void emu_trace(bool on);
int64_t emu_traced(const struct emu_item **items);

/* 0 threads in order; 1 the last one first, and it runs as far ahead as it can; 2… at random. */
void emu_set_seed(unsigned seed);

/* Checked builds are those where a kernel was compiled with -fsanitize=thread. */
bool emu_is_checked(void);

int64_t emu_reports(void); /* since the last emu_forget_reports */
int64_t emu_reports_of(enum emu_report kind);
const char *emu_report_name(enum emu_report kind);
const char *emu_first_report(void); /* its text, "" when there was none */
void emu_forget_reports(void);

#ifdef __cplusplus
}
#endif
#endif
