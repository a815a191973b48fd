/* The valid name that a mistyped one most likely meant, for "did you mean …" in errors. */
#ifndef TRAINER_NEAREST_H
#define TRAINER_NEAREST_H

struct nearest {
    const char *typed; /* not owned */
    const char *name;  /* the best candidate so far; NULL: none close enough to name. Not owned */
    int distance;
};

/* Starts a search for typed; then offer every valid name. */
struct nearest nearest_start(const char *typed);

/* Keeps name when it is nearer than what came before: edits, letters swapped with their neighbour
 * counting as one; a word that means name elsewhere, as gpu means cuda, counts as none. */
void nearest_offer(struct nearest *n, const char *name);

/* "; did you mean NAME?" or "" into buf; returns buf. */
enum { NEAREST_TEXT = 160 };
const char *nearest_text(const struct nearest *n, const char *prefix, char buf[NEAREST_TEXT]);

#endif
