#include "engine/text/python_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int append(text_buffer_t *out, const char *text, fail_t *fail)
{
    return text_buffer_append(out, text, strlen(text), fail);
}

static int append_string(text_buffer_t *out, const char *text, size_t bytes, fail_t *fail)
{
    append(out, "\"", fail);
    size_t copied = 0;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        text_buffer_append(out, text + copied, i - copied, fail);
        copied = i + 1;
        static const char letters[] = "btn\0fr"; /* for 8 to 13 */
        char escape[8] = {'\\', (char)c, 0};
        if (c >= 8 && c <= 13 && c != 11)
            escape[1] = letters[c - 8];
        else if (c < 0x20)
            snprintf(escape, sizeof escape, "\\u%04x", c);
        append(out, escape, fail);
    }
    text_buffer_append(out, text + copied, bytes - copied, fail);
    return append(out, "\"", fail);
}

/* The shortest digits that read back as the same number; returns how many, with *exponent such that
 * the value is 0.d1d2d3... * 10^exponent. */
static int shortest_digits(double value, char digits[32], int *exponent)
{
    char text[64];
    for (int precision = 0;; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, value);
        if (precision == 16 || strtod(text, NULL) == value)
            break;
    }
    int n = 0;
    const char *at = text;
    for (; *at != 'e'; at++)
        if (*at >= '0' && *at <= '9')
            digits[n++] = *at;
    *exponent = (int)strtol(at + 1, NULL, 10) + 1;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

/* Python's repr of a float. */
static int append_real(text_buffer_t *out, double value, fail_t *fail)
{
    if (signbit(value))
        append(out, "-", fail);
    char digits[32], text[64];
    int exponent, n = shortest_digits(fabs(value), digits, &exponent);
    if (value == 0.0)
        return append(out, "0.0", fail);
    if (exponent > 16 || exponent < -3) {
        snprintf(text, sizeof text, "%c%s%.*se%+03d", digits[0], n > 1 ? "." : "", n - 1,
            digits + 1, exponent - 1);
    } else if (exponent <= 0) {
        snprintf(text, sizeof text, "0.%.*s%.*s", -exponent, "000", n, digits);
    } else if (n <= exponent) {
        snprintf(text, sizeof text, "%.*s%.*s.0", n, digits, exponent - n, "0000000000000000");
    } else {
        snprintf(text, sizeof text, "%.*s.%.*s", exponent, digits, n - exponent, digits + exponent);
    }
    return append(out, text, fail);
}

static int append_array(text_buffer_t *out, const json_t *array, fail_t *fail)
{
    append(out, "[", fail);
    for (size_t i = 0; i < json_array_size(array); i++) {
        if (i > 0)
            append(out, ", ", fail);
        python_json_append(out, json_array_get(array, i), fail);
    }
    return append(out, "]", fail);
}

static int append_object(text_buffer_t *out, const json_t *object, fail_t *fail)
{
    const char *separator = "{";
    json_t *members = (json_t *)object; /* jansson's iterators take no const */
    const char *key;
    size_t bytes;
    json_t *value;
    json_object_keylen_foreach(members, key, bytes, value)
    {
        append(out, separator, fail);
        append_string(out, key, bytes, fail);
        append(out, ": ", fail);
        python_json_append(out, value, fail);
        separator = ", ";
    }
    return append(out, json_object_size(object) == 0 ? "{}" : "}", fail);
}

int python_json_append(text_buffer_t *out, const json_t *value, fail_t *fail)
{
    char text[32];
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return append_object(out, value, fail);
    case JSON_ARRAY:
        return append_array(out, value, fail);
    case JSON_STRING:
        return append_string(out, json_string_value(value), json_string_length(value), fail);
    case JSON_INTEGER:
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return append(out, text, fail);
    case JSON_REAL:
        return append_real(out, json_real_value(value), fail);
    case JSON_TRUE:
        return append(out, "true", fail);
    case JSON_FALSE:
        return append(out, "false", fail);
    default:
        return append(out, "null", fail);
    }
}
