#include "engine/text/normalizer.h"

#include <string.h>

#include "engine/text/nfc.h"
#include "engine/text/tokenizer_parts.h"

int text_replace(text_buffer_t *out, const char *text, size_t bytes, const text_buffer_t *from,
    const text_buffer_t *to, fail_t *fail)
{
    const char *end = text + bytes, *found;
    while ((found = memmem(text, (size_t)(end - text), from->text, from->bytes)) != NULL) {
        text_buffer_append(out, text, (size_t)(found - text), fail);
        text_buffer_append(out, to->text, to->bytes, fail);
        text = found + from->bytes;
    }
    return text_buffer_append(out, text, (size_t)(end - text), fail);
}

static int read_step(normalizer_t *normalizer, json_t *part, const char *name, fail_t *fail)
{
    static const char member[] = "normalizer";
    const char *type = part_type(part);
    if (normalizer->n_steps == NORMALIZER_MAX_STEPS)
        return fail_set(fail, FAIL_MODEL, "%s: normalizer: expected at most %d parts", name,
            NORMALIZER_MAX_STEPS);
    normalizer_step_t *step = &normalizer->steps[normalizer->n_steps++];
    if (strcmp(type, "NFC") == 0) {
        step->kind = NORMALIZE_NFC;
        return 0;
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = NORMALIZE_PREPEND;
        return part_text(part, "prepend", &step->to, name, member, fail);
    }
    if (strcmp(type, "Replace") == 0) {
        step->kind = NORMALIZE_REPLACE;
        return part_replacement(part, &step->from, &step->to, name, member, fail);
    }
    return part_refuse(
        name, member, "null, NFC, Prepend, Replace or a Sequence of these", part, fail);
}

int normalizer_read(normalizer_t *normalizer, json_t *json, const char *name, fail_t *fail)
{
    json_t *parts = json_object_get(json, "normalizers"), *part;
    size_t i;
    if (part_is_absent(json))
        return 0;
    if (strcmp(part_type(json), "Sequence") != 0 || !json_is_array(parts))
        return read_step(normalizer, json, name, fail);
    json_array_foreach (parts, i, part)
        if (read_step(normalizer, part, name, fail) != 0)
            return fail->status;
    return 0;
}

void normalizer_set_nfc(normalizer_t *normalizer)
{
    normalizer->n_steps = 1;
    normalizer->steps[0].kind = NORMALIZE_NFC;
}

void normalizer_clear(normalizer_t *normalizer)
{
    for (size_t i = 0; i < normalizer->n_steps; i++) {
        text_buffer_clear(&normalizer->steps[i].from);
        text_buffer_clear(&normalizer->steps[i].to);
    }
    *normalizer = (normalizer_t){0};
}

/* Appends the text as the step makes it. *changed false: nothing was appended. */
static int apply_step(const normalizer_step_t *step, const uint8_t *properties, const char *text,
    size_t bytes, text_buffer_t *out, bool *changed, fail_t *fail)
{
    *changed = false;
    switch (step->kind) {
    case NORMALIZE_NFC:
        return nfc_append(properties, text, bytes, out, changed, fail);
    case NORMALIZE_PREPEND:
        *changed = bytes > 0;
        if (*changed && text_buffer_append(out, step->to.text, step->to.bytes, fail) == 0)
            text_buffer_append(out, text, bytes, fail);
        return fail->status;
    case NORMALIZE_REPLACE:
        *changed = bytes > 0 && memmem(text, bytes, step->from.text, step->from.bytes) != NULL;
        return *changed ? text_replace(out, text, bytes, &step->from, &step->to, fail) : 0;
    }
    return 0;
}

int normalizer_apply(const normalizer_t *normalizer, const uint8_t *properties, const char *text,
    size_t bytes, text_buffer_t *out, bool *changed, fail_t *fail)
{
    text_buffer_t next = {0};
    *changed = false;
    out->bytes = 0;
    for (size_t i = 0; i < normalizer->n_steps && fail->status == 0; i++) {
        bool step_changed;
        next.bytes = 0;
        if (apply_step(&normalizer->steps[i], properties, *changed ? out->text : text,
                *changed ? out->bytes : bytes, &next, &step_changed, fail) != 0 ||
            !step_changed)
            continue;
        text_buffer_t before = *out;
        *out = next;
        next = before;
        *changed = true;
    }
    text_buffer_clear(&next);
    return fail->status;
}
