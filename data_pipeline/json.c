#include "data_pipeline/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_number_char(char c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

/* The end of the string that opens at text[at] == '"': the index past its closing quote, or -1. */
static int64_t string_end(const char *text, int64_t n, int64_t at)
{
    for (at++; at < n; at++) {
        if (text[at] == '"') return at + 1;
        if (text[at] == '\\') at++;
    }
    return -1;
}

static int64_t number_end(const char *text, int64_t n, int64_t at)
{
    while (at < n && is_number_char(text[at])) at++;
    return at;
}

/* Nesting, lengths and counts only; the grammar is jansson's business. NULL when within bounds. */
static const char *beyond_bounds(const char *text, int64_t n, const struct json_limits *limits)
{
    int64_t at = 0, depth = 0, n_values = 0, end;

    if (n > limits->bytes) return "JSON is larger than allowed";
    while (at < n) {
        const char c = text[at];

        if (c == '"') {
            end = string_end(text, n, at);
            if (end < 0) return "JSON ends inside a string";
            if (end - at - 2 > limits->string_bytes) return "JSON has an overlong string";
            n_values++;
            at = end;
        } else if (is_number_char(c)) {
            end = number_end(text, n, at);
            if (end - at > JSON_NUMBER) return "JSON has an overlong number";
            n_values++;
            at = end;
        } else {
            if (c == '[' || c == '{') {
                n_values++;
                if (++depth > JSON_DEPTH) return "JSON is nested too deep";
            } else if (c == ']' || c == '}') {
                depth--;
            }
            at++;
        }
        if (n_values > JSON_VALUES) return "JSON has too many values";
    }
    return NULL;
}

enum status json_parse(const char *text, int64_t n, const struct json_limits *limits, json_t **root,
                       char why[JSON_WHY])
{
    const char *const beyond = beyond_bounds(text, n, limits);
    json_error_t error;
    json_t *value;

    if (beyond) {
        snprintf(why, JSON_WHY, "%s", beyond);
        return E_CORRUPT;
    }
    value = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &error);
    if (!value) {
        snprintf(why, JSON_WHY, "JSON, byte %d: %.*s", error.position, JSON_WHY - 40, error.text);
        return E_CORRUPT;
    }
    *root = value;
    return OK;
}

bool json_get_int(const json_t *o, const char *key, int64_t min, int64_t max, int64_t *v)
{
    const json_t *const item = json_object_get(o, key);
    int64_t value;

    if (json_is_integer(item)) {
        value = (int64_t)json_integer_value(item);
    } else if (json_is_real(item)) {
        const double d = json_real_value(item);

        if (!(fabs(d) <= 9007199254740992.0) || d != floor(d)) return false;
        value = (int64_t)d;
    } else {
        return false;
    }
    if (value < min || value > max) return false;
    *v = value;
    return true;
}

bool json_get_text(const json_t *o, const char *key, const char **text, int64_t *n)
{
    const json_t *const item = json_object_get(o, key);

    if (!json_is_string(item)) return false;
    *text = json_string_value(item);
    *n = (int64_t)json_string_length(item);
    return true;
}

bool json_get_box(const json_t *o, const char *key, double v[4], bool *integral)
{
    const json_t *const item = json_object_get(o, key);

    if (!json_is_array(item) || json_array_size(item) != 4) return false;
    *integral = true;
    for (size_t i = 0; i < 4; i++) {
        const json_t *const number = json_array_get(item, i);

        if (!json_is_number(number)) return false;
        v[i] = json_number_value(number);
        if (!(fabs(v[i]) <= 1e9)) return false;
        if (v[i] != floor(v[i])) *integral = false;
    }
    return true;
}

void json_skip_space(const char *text, int64_t n, int64_t *at)
{
    while (*at < n && strchr(" \t\r\n", text[*at]) && text[*at]) (*at)++;
}

bool json_skip_value(const char *text, int64_t n, int64_t *at)
{
    int64_t i, depth = 0;

    json_skip_space(text, n, at);
    i = *at;
    if (i >= n || strchr(",:]}", text[i]) || !text[i]) return false;
    do {
        const char c = text[i];

        if (c == '"') {
            i = string_end(text, n, i);
            if (i < 0) return false;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH) return false;
            i++;
        } else if (c == ']' || c == '}') {
            depth--;
            i++;
        } else if (depth == 0) { /* number, true, false, null: up to what may follow a value */
            while (i < n && text[i] && !strchr(",:]} \t\r\n", text[i])) i++;
        } else {
            i++;
        }
    } while (depth > 0 && i < n);
    *at = i;
    return depth == 0;
}
