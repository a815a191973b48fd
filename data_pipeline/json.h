/* JSON from outside: jansson behind bounds. Before jansson sees a byte, nesting, the length of
 * numbers and strings, and the number of values are capped, so that neither stack nor memory
 * follows from what a stranger wrote. Duplicate keys, NUL in strings and bytes after the value are
 * errors. The getters check type and range at once and never convert. */
#ifndef DATA_PIPELINE_JSON_H
#define DATA_PIPELINE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum { JSON_DEPTH = 16, JSON_NUMBER = 32 }; /* levels; characters */
#define JSON_VALUES ((int64_t)1 << 23)      /* values in one text */

enum { JSON_WHY = 160 };

/* Of the whole text, and of each string in it. */
struct json_limits {
    int64_t bytes, string_bytes;
};

/* Parses text[0..n). On failure E_CORRUPT with the reason in why, nothing logged. *root: the
 * caller's, released with json_decref. */
enum status json_parse(const char *text, int64_t n, const struct json_limits *limits, json_t **root,
                       char why[JSON_WHY]) MUST_CHECK;

/* True when o has `key` of that type and within the range; *v is set only then. A number counts
 * as an integer when it is written as one or has no fraction. */
bool json_get_int(const json_t *o, const char *key, int64_t min, int64_t max, int64_t *v);
bool json_get_text(const json_t *o, const char *key, const char **text, int64_t *n);

/* Four finite numbers, |v| ≤ 1e9; *integral: all of them are whole. */
bool json_get_box(const json_t *o, const char *key, double v[4], bool *integral);

/* One value of a text that was not parsed yet: moves *at past white space and past the value that
 * starts there, by brackets and quotes alone. false when the text ends first, nests deeper than
 * JSON_DEPTH, or no value starts there. For texts too large to parse at once. */
bool json_skip_value(const char *text, int64_t n, int64_t *at);
void json_skip_space(const char *text, int64_t n, int64_t *at);

#endif
