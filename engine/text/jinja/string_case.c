/* Properties of characters and changes of case, as Python's str has them. */
#include <string.h>
#include <utf8proc.h>

#include "engine/text/jinja/jinja_internal.h"

/* Characters whose upper or title case is longer than one character (Unicode's SpecialCasing). */
static const struct {
    uint32_t point, upper[3], title[3];
} special_cases[] = {

    {0xDF, {0x53, 0x53}, {0x53, 0x73}}, {0x149, {0x2BC, 0x4E}, {0x2BC, 0x4E}},
    {0x1F0, {0x4A, 0x30C}, {0x4A, 0x30C}}, {0x390, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x3B0, {0x3A5, 0x308, 0x301}, {0x3A5, 0x308, 0x301}}, {0x587, {0x535, 0x552}, {0x535, 0x582}},
    {0x1E96, {0x48, 0x331}, {0x48, 0x331}}, {0x1E97, {0x54, 0x308}, {0x54, 0x308}},
    {0x1E98, {0x57, 0x30A}, {0x57, 0x30A}}, {0x1E99, {0x59, 0x30A}, {0x59, 0x30A}},
    {0x1E9A, {0x41, 0x2BE}, {0x41, 0x2BE}}, {0x1F50, {0x3A5, 0x313}, {0x3A5, 0x313}},
    {0x1F52, {0x3A5, 0x313, 0x300}, {0x3A5, 0x313, 0x300}},
    {0x1F54, {0x3A5, 0x313, 0x301}, {0x3A5, 0x313, 0x301}},
    {0x1F56, {0x3A5, 0x313, 0x342}, {0x3A5, 0x313, 0x342}}, {0x1F80, {0x1F08, 0x399}, {0x1F88}},
    {0x1F81, {0x1F09, 0x399}, {0x1F89}}, {0x1F82, {0x1F0A, 0x399}, {0x1F8A}},
    {0x1F83, {0x1F0B, 0x399}, {0x1F8B}}, {0x1F84, {0x1F0C, 0x399}, {0x1F8C}},
    {0x1F85, {0x1F0D, 0x399}, {0x1F8D}}, {0x1F86, {0x1F0E, 0x399}, {0x1F8E}},
    {0x1F87, {0x1F0F, 0x399}, {0x1F8F}}, {0x1F88, {0x1F08, 0x399}, {0x1F88}},
    {0x1F89, {0x1F09, 0x399}, {0x1F89}}, {0x1F8A, {0x1F0A, 0x399}, {0x1F8A}},
    {0x1F8B, {0x1F0B, 0x399}, {0x1F8B}}, {0x1F8C, {0x1F0C, 0x399}, {0x1F8C}},
    {0x1F8D, {0x1F0D, 0x399}, {0x1F8D}}, {0x1F8E, {0x1F0E, 0x399}, {0x1F8E}},
    {0x1F8F, {0x1F0F, 0x399}, {0x1F8F}}, {0x1F90, {0x1F28, 0x399}, {0x1F98}},
    {0x1F91, {0x1F29, 0x399}, {0x1F99}}, {0x1F92, {0x1F2A, 0x399}, {0x1F9A}},
    {0x1F93, {0x1F2B, 0x399}, {0x1F9B}}, {0x1F94, {0x1F2C, 0x399}, {0x1F9C}},
    {0x1F95, {0x1F2D, 0x399}, {0x1F9D}}, {0x1F96, {0x1F2E, 0x399}, {0x1F9E}},
    {0x1F97, {0x1F2F, 0x399}, {0x1F9F}}, {0x1F98, {0x1F28, 0x399}, {0x1F98}},
    {0x1F99, {0x1F29, 0x399}, {0x1F99}}, {0x1F9A, {0x1F2A, 0x399}, {0x1F9A}},
    {0x1F9B, {0x1F2B, 0x399}, {0x1F9B}}, {0x1F9C, {0x1F2C, 0x399}, {0x1F9C}},
    {0x1F9D, {0x1F2D, 0x399}, {0x1F9D}}, {0x1F9E, {0x1F2E, 0x399}, {0x1F9E}},
    {0x1F9F, {0x1F2F, 0x399}, {0x1F9F}}, {0x1FA0, {0x1F68, 0x399}, {0x1FA8}},
    {0x1FA1, {0x1F69, 0x399}, {0x1FA9}}, {0x1FA2, {0x1F6A, 0x399}, {0x1FAA}},
    {0x1FA3, {0x1F6B, 0x399}, {0x1FAB}}, {0x1FA4, {0x1F6C, 0x399}, {0x1FAC}},
    {0x1FA5, {0x1F6D, 0x399}, {0x1FAD}}, {0x1FA6, {0x1F6E, 0x399}, {0x1FAE}},
    {0x1FA7, {0x1F6F, 0x399}, {0x1FAF}}, {0x1FA8, {0x1F68, 0x399}, {0x1FA8}},
    {0x1FA9, {0x1F69, 0x399}, {0x1FA9}}, {0x1FAA, {0x1F6A, 0x399}, {0x1FAA}},
    {0x1FAB, {0x1F6B, 0x399}, {0x1FAB}}, {0x1FAC, {0x1F6C, 0x399}, {0x1FAC}},
    {0x1FAD, {0x1F6D, 0x399}, {0x1FAD}}, {0x1FAE, {0x1F6E, 0x399}, {0x1FAE}},
    {0x1FAF, {0x1F6F, 0x399}, {0x1FAF}}, {0x1FB2, {0x1FBA, 0x399}, {0x1FBA, 0x345}},
    {0x1FB3, {0x391, 0x399}, {0x1FBC}}, {0x1FB4, {0x386, 0x399}, {0x386, 0x345}},
    {0x1FB6, {0x391, 0x342}, {0x391, 0x342}},
    {0x1FB7, {0x391, 0x342, 0x399}, {0x391, 0x342, 0x345}}, {0x1FBC, {0x391, 0x399}, {0x1FBC}},
    {0x1FC2, {0x1FCA, 0x399}, {0x1FCA, 0x345}}, {0x1FC3, {0x397, 0x399}, {0x1FCC}},
    {0x1FC4, {0x389, 0x399}, {0x389, 0x345}}, {0x1FC6, {0x397, 0x342}, {0x397, 0x342}},
    {0x1FC7, {0x397, 0x342, 0x399}, {0x397, 0x342, 0x345}}, {0x1FCC, {0x397, 0x399}, {0x1FCC}},
    {0x1FD2, {0x399, 0x308, 0x300}, {0x399, 0x308, 0x300}},
    {0x1FD3, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x1FD6, {0x399, 0x342}, {0x399, 0x342}},
    {0x1FD7, {0x399, 0x308, 0x342}, {0x399, 0x308, 0x342}},
    {0x1FE2, {0x3A5, 0x308, 0x300}, {0x3A5, 0x308, 0x300}},
    {0x1FE3, {0x3A5, 0x308, 0x301}, {0x3A5, 0x308, 0x301}},
    {0x1FE4, {0x3A1, 0x313}, {0x3A1, 0x313}}, {0x1FE6, {0x3A5, 0x342}, {0x3A5, 0x342}},
    {0x1FE7, {0x3A5, 0x308, 0x342}, {0x3A5, 0x308, 0x342}},
    {0x1FF2, {0x1FFA, 0x399}, {0x1FFA, 0x345}}, {0x1FF3, {0x3A9, 0x399}, {0x1FFC}},
    {0x1FF4, {0x38F, 0x399}, {0x38F, 0x345}}, {0x1FF6, {0x3A9, 0x342}, {0x3A9, 0x342}},
    {0x1FF7, {0x3A9, 0x342, 0x399}, {0x3A9, 0x342, 0x345}}, {0x1FFC, {0x3A9, 0x399}, {0x1FFC}},
    {0xFB00, {0x46, 0x46}, {0x46, 0x66}}, {0xFB01, {0x46, 0x49}, {0x46, 0x69}},
    {0xFB02, {0x46, 0x4C}, {0x46, 0x6C}}, {0xFB03, {0x46, 0x46, 0x49}, {0x46, 0x66, 0x69}},
    {0xFB04, {0x46, 0x46, 0x4C}, {0x46, 0x66, 0x6C}}, {0xFB05, {0x53, 0x54}, {0x53, 0x74}},
    {0xFB06, {0x53, 0x54}, {0x53, 0x74}}, {0xFB13, {0x544, 0x546}, {0x544, 0x576}},
    {0xFB14, {0x544, 0x535}, {0x544, 0x565}}, {0xFB15, {0x544, 0x53B}, {0x544, 0x56B}},
    {0xFB16, {0x54E, 0x546}, {0x54E, 0x576}}, {0xFB17, {0x544, 0x53D}, {0x544, 0x56D}}};

static utf8proc_category_t category(uint32_t point)
{
    return utf8proc_category((utf8proc_int32_t)point);
}

bool jinja_point_space(uint32_t point)
{
    return (point >= 0x09 && point <= 0x0D) || (point >= 0x1C && point <= 0x20) || point == 0x85 ||
           point == 0xA0 || point == 0x1680 || (point >= 0x2000 && point <= 0x200A) ||
           point == 0x2028 || point == 0x2029 || point == 0x202F || point == 0x205F ||
           point == 0x3000;
}

bool jinja_point_printable(uint32_t point)
{
    if (point < 0x7F)
        return point >= 0x20;
    switch (category(point)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    default:
        return true;
    }
}

bool jinja_point_alpha(uint32_t point)
{
    utf8proc_category_t c = category(point);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool jinja_point_decimal(uint32_t point)
{
    return category(point) == UTF8PROC_CATEGORY_ND;
}

bool jinja_point_numeric(uint32_t point)
{
    utf8proc_category_t c = category(point);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool jinja_point_upper(uint32_t point)
{
    return category(point) == UTF8PROC_CATEGORY_LU;
}

bool jinja_point_lower(uint32_t point)
{
    return category(point) == UTF8PROC_CATEGORY_LL || point == 0xAA || point == 0xBA;
}

bool jinja_point_title(uint32_t point)
{
    return category(point) == UTF8PROC_CATEGORY_LT;
}

bool jinja_point_cased(uint32_t point)
{
    return jinja_point_upper(point) || jinja_point_lower(point) || jinja_point_title(point);
}

static void add_case(run_t *run, buffer_t *out, uint32_t point, letter_case_t to)
{
    utf8proc_int32_t same = (utf8proc_int32_t)point;
    jinja_buffer_point(run, out,
        (uint32_t)(to == CASE_UPPER   ? utf8proc_toupper(same)
                   : to == CASE_TITLE ? utf8proc_totitle(same)
                                      : utf8proc_tolower(same)));
}

static void add_folded(run_t *run, buffer_t *out, uint32_t point)
{
    utf8proc_int32_t folded[8];
    int bounds = 0;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)point, folded, 8, UTF8PROC_CASEFOLD, &bounds);
    for (utf8proc_ssize_t i = 0; i < n && i < 8; i++)
        jinja_buffer_point(run, out, (uint32_t)folded[i]);
}

void jinja_buffer_case(run_t *run, buffer_t *out, uint32_t point, letter_case_t to)
{
    if (point < 0x80 || (point >= 0xD800 && point < 0xE000)) {
        bool upper = point >= 'A' && point <= 'Z', lower = point >= 'a' && point <= 'z';
        bool raise = to == CASE_UPPER || to == CASE_TITLE;
        jinja_buffer_point(run, out,
            raise && lower    ? point - 32
            : !raise && upper ? point + 32
                              : point);
        return;
    }
    if (to == CASE_FOLD) {
        add_folded(run, out, point);
        return;
    }
    if (to == CASE_LOWER && point == 0x130) {
        jinja_buffer_text(run, out, "i\xCC\x87");
        return;
    }
    for (size_t i = 0; to != CASE_LOWER && i < sizeof special_cases / sizeof special_cases[0]; i++)
        if (special_cases[i].point == point) {
            const uint32_t *points =
                to == CASE_UPPER ? special_cases[i].upper : special_cases[i].title;
            for (size_t k = 0; k < 3 && points[k] != 0; k++)
                jinja_buffer_point(run, out, points[k]);
            return;
        }
    add_case(run, out, point, to);
}

/* A capital sigma at the end of a word is a final one in lower case. */
static bool final_sigma(const string_t *string, size_t at)
{
    bool cased_before = false, cased_after = false;
    for (size_t i = 0, length; i < string->bytes; i += length) {
        uint32_t point = jinja_point_at(string->text + i, &length);
        bool ignorable = point == '\'' || point == 0xAD || point == 0x2019 || point == '.' ||
                         point == ':' || point == 0xB7 || category(point) == UTF8PROC_CATEGORY_MN ||
                         category(point) == UTF8PROC_CATEGORY_LM ||
                         category(point) == UTF8PROC_CATEGORY_CF;
        if (i == at || ignorable)
            continue;
        if (i < at)
            cased_before = jinja_point_cased(point);
        else {
            cased_after = jinja_point_cased(point);
            break;
        }
    }
    return cased_before && !cased_after;
}

static void add_lower(run_t *run, buffer_t *out, const string_t *string, size_t at, uint32_t point)
{
    if (point == 0x3A3) {
        jinja_run_step(run, string->bytes / 16);
        jinja_buffer_point(run, out, final_sigma(string, at) ? 0x3C2 : 0x3C3);
    } else {
        jinja_buffer_case(run, out, point, CASE_LOWER);
    }
}

value_t jinja_string_case(run_t *run, const string_t *string, letter_case_t to)
{
    buffer_t out = {0};
    for (size_t at = 0, length; at < string->bytes; at += length) {
        uint32_t point = jinja_point_at(string->text + at, &length);
        if (to == CASE_LOWER)
            add_lower(run, &out, string, at, point);
        else
            jinja_buffer_case(run, &out, point, to);
    }
    return jinja_buffer_value(run, &out);
}

/* The method begins a word at every cased letter behind one that is not; the filter where white
 * space, a dash or an opening bracket stands before. */
value_t jinja_string_title(run_t *run, const string_t *string, bool as_filter)
{
    buffer_t out = {0};
    bool inside = false;
    for (size_t at = 0, length; at < string->bytes; at += length) {
        uint32_t point = jinja_point_at(string->text + at, &length);
        if (inside)
            add_lower(run, &out, string, at, point);
        else
            jinja_buffer_case(run, &out, point, as_filter ? CASE_UPPER : CASE_TITLE);
        inside = as_filter ? !(jinja_point_space(point) || (point < 0x80 && point != 0 &&
                                                               strchr("-({[<", (int)point) != NULL))
                           : jinja_point_cased(point);
    }
    return jinja_buffer_value(run, &out);
}

value_t jinja_string_capitalize(run_t *run, const string_t *string)
{
    buffer_t out = {0};
    for (size_t at = 0, length; at < string->bytes; at += length) {
        uint32_t point = jinja_point_at(string->text + at, &length);
        if (at == 0)
            jinja_buffer_case(run, &out, point, CASE_TITLE);
        else
            add_lower(run, &out, string, at, point);
    }
    return jinja_buffer_value(run, &out);
}
