/* The methods of Python's str. */
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

typedef value_t method_t(run_t *run, const string_t *self, const args_t *args);

/* An optional argument that may be None. */
static bool given(value_t value)
{
    return value.kind != MISSING && value.kind != NONE;
}

static value_t upper(run_t *run, const string_t *self, const args_t *args)
{
    jinja_args_bind(run, "upper", args, "", NULL);
    return jinja_string_case(run, self, CASE_UPPER);
}

static value_t lower(run_t *run, const string_t *self, const args_t *args)
{
    jinja_args_bind(run, "lower", args, "", NULL);
    return jinja_string_case(run, self, CASE_LOWER);
}

static value_t casefold(run_t *run, const string_t *self, const args_t *args)
{
    jinja_args_bind(run, "casefold", args, "", NULL);
    return jinja_string_case(run, self, CASE_FOLD);
}

static value_t title(run_t *run, const string_t *self, const args_t *args)
{
    jinja_args_bind(run, "title", args, "", NULL);
    return jinja_string_title(run, self, false);
}

static value_t capitalize(run_t *run, const string_t *self, const args_t *args)
{
    jinja_args_bind(run, "capitalize", args, "", NULL);
    return jinja_string_capitalize(run, self);
}

static value_t swapcase(run_t *run, const string_t *self, const args_t *args)
{
    buffer_t out = {0};
    jinja_args_bind(run, "swapcase", args, "", NULL);
    for (size_t at = 0, length; at < self->bytes; at += length) {
        uint32_t point = jinja_point_at(self->text + at, &length);
        jinja_buffer_case(run, &out, point, jinja_point_upper(point) ? CASE_LOWER : CASE_UPPER);
    }
    return jinja_buffer_value(run, &out);
}

static value_t strip_with(
    run_t *run, const string_t *self, const args_t *args, const char *name, bool left, bool right)
{
    value_t chars;
    jinja_args_bind(run, name, args, "[chars]", &chars);
    return jinja_string_strip(
        run, self, given(chars) ? jinja_want_string(run, chars, name) : NULL, left, right);
}

static value_t strip(run_t *run, const string_t *self, const args_t *args)
{
    return strip_with(run, self, args, "strip", true, true);
}

static value_t lstrip(run_t *run, const string_t *self, const args_t *args)
{
    return strip_with(run, self, args, "lstrip", true, false);
}

static value_t rstrip(run_t *run, const string_t *self, const args_t *args)
{
    return strip_with(run, self, args, "rstrip", false, true);
}

/* str[start:end] by optional arguments; where it begins, in *from. */
static const string_t *part_of(
    run_t *run, const string_t *self, value_t start, value_t end, int64_t *from)
{
    int64_t count = (int64_t)self->chars, ends[2] = {0, count};
    const value_t values[2] = {start, end};
    for (int i = 0; i < 2; i++) {
        if (!given(values[i]))
            continue;
        ends[i] = jinja_want_integer(run, values[i]);
        if (ends[i] < 0)
            ends[i] = ends[i] + count < 0 ? 0 : ends[i] + count;
    }
    *from = ends[0];
    if (ends[0] > count || ends[1] < ends[0])
        return NULL;
    size_t to = (size_t)(ends[1] > count ? count : ends[1]);
    return jinja_string_slice(run, self, (size_t)ends[0], to).string;
}

static value_t affix(run_t *run, const string_t *self, const args_t *args, bool starts)
{
    const char *name = starts ? "startswith" : "endswith";
    value_t a[3];
    int64_t from;
    jinja_args_bind(run, name, args, "prefix [start end]", a);
    const string_t *part = part_of(run, self, a[1], a[2], &from);
    value_t tuple = a[0];
    if (tuple.kind == STRING) {
        tuple = jinja_value_sequence(run, TUPLE, 1);
        jinja_sequence_add(run, tuple, a[0]);
    }
    jinja_require_defined(run, a[0]);
    if (tuple.kind != SEQUENCE || tuple.sequence->kind != TUPLE)
        jinja_fail(
            run, "%s first arg must be str or a tuple of str, not %s", name, jinja_type_name(a[0]));
    for (size_t i = 0; i < tuple.sequence->count; i++) {
        const string_t *one = jinja_want_string(run, tuple.sequence->items[i], name);
        if (part != NULL && one->bytes <= part->bytes &&
            memcmp(part->text + (starts ? 0 : part->bytes - one->bytes), one->text, one->bytes) ==
                0)
            return jinja_value_bool(true);
    }
    return jinja_value_bool(false);
}

static value_t startswith(run_t *run, const string_t *self, const args_t *args)
{
    return affix(run, self, args, true);
}

static value_t endswith(run_t *run, const string_t *self, const args_t *args)
{
    return affix(run, self, args, false);
}

static value_t remove_affix(run_t *run, const string_t *self, const args_t *args, bool prefix)
{
    value_t value;
    jinja_args_bind(run, prefix ? "removeprefix" : "removesuffix", args, "affix", &value);
    const string_t *one = jinja_want_string(run, value, "removeprefix");
    size_t at = prefix ? 0 : self->bytes - one->bytes;
    if (one->bytes == 0 || one->bytes > self->bytes ||
        memcmp(self->text + at, one->text, one->bytes) != 0)
        return jinja_value_string(self);
    return jinja_value_string(
        jinja_string_wrap(run, self->text + (prefix ? one->bytes : 0), self->bytes - one->bytes));
}

static value_t removeprefix(run_t *run, const string_t *self, const args_t *args)
{
    return remove_affix(run, self, args, true);
}

static value_t removesuffix(run_t *run, const string_t *self, const args_t *args)
{
    return remove_affix(run, self, args, false);
}

/* The first or last place of `what` in text, or NULL. */
static const char *place(run_t *run, const string_t *text, const string_t *what, bool last)
{
    if (what->bytes > text->bytes)
        return NULL;
    if (!last)
        return what->bytes == 0 ? text->text
                                : memmem(text->text, text->bytes, what->text, what->bytes);
    for (size_t at = text->bytes - what->bytes + 1; at-- > 0;) {
        if (at % 256 == 0)
            jinja_run_step(run, 16 + what->bytes / 4);
        if (memcmp(text->text + at, what->text, what->bytes) == 0)
            return text->text + at;
    }
    return NULL;
}

static value_t find_with(
    run_t *run, const string_t *self, const args_t *args, const char *name, bool last, bool must)
{
    value_t a[3];
    int64_t from;
    jinja_args_bind(run, name, args, "sub [start end]", a);
    const string_t *what = jinja_want_string(run, a[0], name),
                   *part = part_of(run, self, a[1], a[2], &from);
    const char *at = part != NULL ? place(run, part, what, last) : NULL;
    if (at == NULL && must)
        jinja_fail(run, "substring not found");
    if (at == NULL)
        return jinja_value_int(-1);
    return jinja_value_int(
        from + (int64_t)jinja_string_wrap(run, part->text, (size_t)(at - part->text))->chars);
}

static value_t find(run_t *run, const string_t *self, const args_t *args)
{
    return find_with(run, self, args, "find", false, false);
}

static value_t rfind(run_t *run, const string_t *self, const args_t *args)
{
    return find_with(run, self, args, "rfind", true, false);
}

static value_t index_of(run_t *run, const string_t *self, const args_t *args)
{
    return find_with(run, self, args, "index", false, true);
}

static value_t rindex_of(run_t *run, const string_t *self, const args_t *args)
{
    return find_with(run, self, args, "rindex", true, true);
}

static value_t count(run_t *run, const string_t *self, const args_t *args)
{
    value_t a[3];
    int64_t from, n = 0;
    jinja_args_bind(run, "count", args, "sub [start end]", a);
    const string_t *what = jinja_want_string(run, a[0], "count"),
                   *part = part_of(run, self, a[1], a[2], &from);
    if (part == NULL)
        return jinja_value_int(0);
    if (what->bytes == 0)
        return jinja_value_int((int64_t)part->chars + 1);
    const char *at = part->text, *end = part->text + part->bytes;
    while (at < end && (at = memmem(at, (size_t)(end - at), what->text, what->bytes)) != NULL) {
        at += what->bytes;
        n++;
    }
    return jinja_value_int(n);
}

static value_t replace(run_t *run, const string_t *self, const args_t *args)
{
    value_t a[3];
    jinja_args_bind(run, "replace", args, "old new [count]", a);
    return jinja_string_replace(run, self, jinja_want_string(run, a[0], "replace"),
        jinja_want_string(run, a[1], "replace"), given(a[2]) ? jinja_want_integer(run, a[2]) : -1);
}

/* ---- splitting ------------------------------------------------------------------------------- */

static void add_piece(run_t *run, value_t list, const char *begin, const char *end)
{
    jinja_sequence_add(
        run, list, jinja_value_string(jinja_string_wrap(run, begin, (size_t)(end - begin))));
}

static bool space_before(const char *begin, const char *end, size_t *length)
{
    const char *at = end - 1;
    while (at > begin && ((unsigned char)*at & 0xC0) == 0x80)
        at--;
    size_t ignored;
    *length = (size_t)(end - at);
    return jinja_point_space(jinja_point_at(at, &ignored));
}

static value_t split_spaces(run_t *run, const string_t *self, int64_t limit)
{
    value_t list = jinja_value_sequence(run, LIST, 0);
    const char *at = self->text, *end = at + self->bytes;
    size_t length;
    for (;;) {
        while (at < end && jinja_point_space(jinja_point_at(at, &length)))
            at += length;
        if (at == end)
            return list;
        if (limit >= 0 && (int64_t)list.sequence->count >= limit) {
            add_piece(run, list, at, end);
            return list;
        }
        const char *begin = at;
        while (at < end && !jinja_point_space(jinja_point_at(at, &length)))
            at += length;
        add_piece(run, list, begin, at);
    }
}

static void reverse_list(sequence_t *list)
{
    for (size_t i = 0; i < list->count / 2; i++) {
        value_t item = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = item;
    }
}

static value_t rsplit_spaces(run_t *run, const string_t *self, int64_t limit)
{
    value_t list = jinja_value_sequence(run, LIST, 0);
    const char *begin = self->text, *end = begin + self->bytes;
    size_t length;
    for (;;) {
        while (end > begin && space_before(begin, end, &length))
            end -= length;
        if (end == begin)
            break;
        if (limit >= 0 && (int64_t)list.sequence->count >= limit) {
            add_piece(run, list, begin, end);
            break;
        }
        const char *last = end;
        while (end > begin && !space_before(begin, end, &length))
            end -= length;
        add_piece(run, list, end, last);
    }
    reverse_list(list.sequence);
    return list;
}

static value_t split_at(
    run_t *run, const string_t *self, const string_t *by, int64_t limit, bool last)
{
    value_t list = jinja_value_sequence(run, LIST, 0);
    string_t rest = *self;
    while (limit < 0 || (int64_t)list.sequence->count < limit) {
        const char *at = place(run, &rest, by, last);
        jinja_run_step(run, 1);
        if (at == NULL)
            break;
        const char *end = rest.text + rest.bytes;
        if (last) {
            add_piece(run, list, at + by->bytes, end);
            rest.bytes = (size_t)(at - rest.text);
        } else {
            add_piece(run, list, rest.text, at);
            rest = (string_t){at + by->bytes, (size_t)(end - at) - by->bytes, 0};
        }
    }
    add_piece(run, list, rest.text, rest.text + rest.bytes);
    if (last)
        reverse_list(list.sequence);
    return list;
}

static value_t split_with(run_t *run, const string_t *self, const args_t *args, bool last)
{
    value_t a[2];
    jinja_args_bind(run, last ? "rsplit" : "split", args, "[sep maxsplit]", a);
    int64_t limit = given(a[1]) ? jinja_want_integer(run, a[1]) : -1;
    if (!given(a[0]))
        return last ? rsplit_spaces(run, self, limit) : split_spaces(run, self, limit);
    const string_t *by = jinja_want_string(run, a[0], "split");
    if (by->bytes == 0)
        jinja_fail(run, "empty separator");
    return split_at(run, self, by, limit, last);
}

static value_t split(run_t *run, const string_t *self, const args_t *args)
{
    return split_with(run, self, args, false);
}

static value_t rsplit(run_t *run, const string_t *self, const args_t *args)
{
    return split_with(run, self, args, true);
}

static value_t splitlines(run_t *run, const string_t *self, const args_t *args)
{
    value_t keep;
    jinja_args_bind(run, "splitlines", args, "[keepends]", &keep);
    return jinja_string_lines(run, self, jinja_value_true(keep));
}

static value_t partition_with(run_t *run, const string_t *self, const args_t *args, bool last)
{
    value_t sep, tuple = jinja_value_sequence(run, TUPLE, 3);
    jinja_args_bind(run, last ? "rpartition" : "partition", args, "sep", &sep);
    const string_t *by = jinja_want_string(run, sep, "partition");
    if (by->bytes == 0)
        jinja_fail(run, "empty separator");
    const char *at = place(run, self, by, last), *end = self->text + self->bytes;
    if (at == NULL)
        at = last ? self->text : end;
    bool found = (size_t)(end - at) >= by->bytes && memcmp(at, by->text, by->bytes) == 0;
    const char *behind = found ? at + by->bytes : at;
    add_piece(run, tuple, self->text, at);
    add_piece(run, tuple, at, behind);
    add_piece(run, tuple, behind, end);
    return tuple;
}

static value_t partition(run_t *run, const string_t *self, const args_t *args)
{
    return partition_with(run, self, args, false);
}

static value_t rpartition(run_t *run, const string_t *self, const args_t *args)
{
    return partition_with(run, self, args, true);
}

static value_t join(run_t *run, const string_t *self, const args_t *args)
{
    value_t iterable;
    buffer_t out = {0};
    jinja_args_bind(run, "join", args, "iterable", &iterable);
    if (!jinja_value_iterable(iterable))
        jinja_fail(run, "can only join an iterable");
    const sequence_t *items = jinja_value_items(run, iterable);
    for (size_t i = 0; i < items->count; i++) {
        if (items->items[i].kind != STRING)
            jinja_fail(run, "sequence item %zu: expected str instance, %s found", i,
                jinja_type_name(items->items[i]));
        if (i > 0)
            jinja_buffer_string(run, &out, self);
        jinja_buffer_string(run, &out, items->items[i].string);
    }
    return jinja_buffer_value(run, &out);
}

static value_t pad_with(
    run_t *run, const string_t *self, const args_t *args, const char *name, int left_share)
{
    value_t a[2];
    jinja_args_bind(run, name, args, "width [fillchar]", a);
    return jinja_string_center(run, self, jinja_want_integer(run, a[0]),
        given(a[1]) ? jinja_want_string(run, a[1], name) : NULL, left_share);
}

static value_t center(run_t *run, const string_t *self, const args_t *args)
{
    return pad_with(run, self, args, "center", 1);
}

static value_t ljust(run_t *run, const string_t *self, const args_t *args)
{
    return pad_with(run, self, args, "ljust", 0);
}

static value_t rjust(run_t *run, const string_t *self, const args_t *args)
{
    return pad_with(run, self, args, "rjust", 2);
}

static value_t zfill(run_t *run, const string_t *self, const args_t *args)
{
    value_t width;
    jinja_args_bind(run, "zfill", args, "width", &width);
    bool sign = self->bytes > 0 && (self->text[0] == '-' || self->text[0] == '+');
    buffer_t out = {0};
    jinja_buffer_add(run, &out, self->text, sign);
    for (int64_t i = (int64_t)self->chars, n = jinja_want_integer(run, width); i < n; i++)
        jinja_buffer_text(run, &out, "0");
    jinja_buffer_add(run, &out, self->text + sign, self->bytes - sign);
    return jinja_buffer_value(run, &out);
}

static value_t expandtabs(run_t *run, const string_t *self, const args_t *args)
{
    value_t size;
    buffer_t out = {0};
    jinja_args_bind(run, "expandtabs", args, "[tabsize]", &size);
    int64_t tab = given(size) ? jinja_want_integer(run, size) : 8, column = 0;
    for (size_t at = 0, length; at < self->bytes; at += length) {
        uint32_t point = jinja_point_at(self->text + at, &length);
        if (point == '\t') {
            for (int64_t n = tab > 0 ? tab - column % tab : 0; n > 0; n--, column++)
                jinja_buffer_text(run, &out, " ");
            continue;
        }
        column = point == '\n' || point == '\r' ? 0 : column + 1;
        jinja_buffer_add(run, &out, self->text + at, length);
    }
    return jinja_buffer_value(run, &out);
}

static value_t format(run_t *run, const string_t *self, const args_t *args)
{
    return jinja_string_format(run, self, args);
}

static value_t format_map(run_t *run, const string_t *self, const args_t *args)
{
    value_t map;
    jinja_args_bind(run, "format_map", args, "mapping", &map);
    if (map.kind != DICT)
        jinja_fail(run, "format_map: expected dict, found %s", jinja_type_name(map));
    args_t spread = {0};
    spread.keywords = jinja_arena_alloc(run, map.dict->count * sizeof *spread.keywords);
    for (size_t i = 0; i < map.dict->count; i++)
        if (map.dict->entries[i].key.kind == STRING)
            spread.keywords[spread.n_keywords++] =
                (keyword_t){map.dict->entries[i].key.string, map.dict->entries[i].value};
    return jinja_string_format(run, self, &spread);
}

static const struct {
    const char *name;
    method_t *method;
} string_methods[] = {{"upper", upper}, {"lower", lower}, {"casefold", casefold}, {"title", title},
    {"capitalize", capitalize}, {"swapcase", swapcase}, {"strip", strip}, {"lstrip", lstrip},
    {"rstrip", rstrip}, {"startswith", startswith}, {"endswith", endswith},
    {"removeprefix", removeprefix}, {"removesuffix", removesuffix}, {"find", find},
    {"rfind", rfind}, {"index", index_of}, {"rindex", rindex_of}, {"count", count},
    {"replace", replace}, {"split", split}, {"rsplit", rsplit}, {"splitlines", splitlines},
    {"partition", partition}, {"rpartition", rpartition}, {"join", join}, {"center", center},
    {"ljust", ljust}, {"rjust", rjust}, {"zfill", zfill}, {"expandtabs", expandtabs},
    {"isalnum", jinja_string_isalnum}, {"isalpha", jinja_string_isalpha},
    {"isascii", jinja_string_isascii}, {"isdecimal", jinja_string_isdecimal},
    {"isdigit", jinja_string_isdigit}, {"isnumeric", jinja_string_isnumeric},
    {"isprintable", jinja_string_isprintable}, {"isspace", jinja_string_isspace},
    {"isidentifier", jinja_string_isidentifier}, {"islower", jinja_string_islower},
    {"isupper", jinja_string_isupper}, {"istitle", jinja_string_istitle}, {"format", format},
    {"format_map", format_map}};

int jinja_string_method_find(const string_t *name)
{
    for (size_t i = 0; i < sizeof string_methods / sizeof string_methods[0]; i++)
        if (jinja_string_is(name, string_methods[i].name))
            return (int)i;
    return -1;
}

const char *jinja_string_method_name(int id)
{
    return string_methods[id].name;
}

value_t jinja_string_method(run_t *run, int id, const string_t *self, const args_t *args)
{
    jinja_run_step(run, self->bytes / 16);
    return string_methods[id].method(run, self, args);
}
