#include "engine/run/answer.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/array.h"
#include "engine/base/size.h"

int answer_set_stops(answer_t *answer, const char *stops, size_t n_stops, fail_t *fail)
{
    const char *end = stops;
    for (size_t i = 0; i < n_stops; i++) {
        answer->longest_stop = size_max(answer->longest_stop, strlen(end));
        end += strlen(end) + 1;
    }
    size_t bytes = (size_t)(end - stops);
    answer->stops = malloc(bytes + 1);
    if (answer->stops == NULL)
        return fail_set(fail, FAIL_MEMORY, "answer: out of memory for %zu stop strings", n_stops);
    memcpy(answer->stops, stops, bytes);
    answer->n_stops = n_stops;
    return 0;
}

void answer_clear(answer_t *answer)
{
    free(answer->stops);
    free(answer->tokens);
    free(answer->logprobs);
    free(answer->choices);
    detokenizer_clear(&answer->detokenizer);
    text_buffer_clear(&answer->text);
    *answer = (answer_t){0};
}

static int grow(answer_t *a, fail_t *fail)
{
    static const char what[] = "answer: tokens";
    size_t n = a->n_tokens + 1, tokens = a->capacity, choices = a->capacity;
    array_reserve(&a->tokens, &tokens, n, sizeof *a->tokens, what, fail);
    if (a->keep_choices)
        array_reserve(&a->choices, &choices, n, sizeof *a->choices, what, fail);
    if (fail->status != 0)
        return fail->status;
    return array_reserve(&a->logprobs, &a->capacity, n, sizeof *a->logprobs, what, fail);
}

int answer_add(answer_t *a, const sampler_choice_t *choice, double logprob, fail_t *fail)
{
    if (a->n_tokens == a->capacity && grow(a, fail) != 0)
        return fail->status;
    if (a->keep_choices)
        a->choices[a->n_tokens] = *choice;
    a->tokens[a->n_tokens] = choice->token;
    a->logprobs[a->n_tokens++] = logprob;
    const uint64_t chain[2] = {a->digest, choice->digest};
    a->digest = XXH3_64bits(chain, sizeof chain);
    return 0;
}

/* Cuts the text before the first stop string that begins at or after `from`. */
static bool cut_at_stop(answer_t *a, size_t from)
{
    char *first = NULL;
    const char *stop = a->stops;
    for (size_t i = 0; i < a->n_stops; i++, stop += strlen(stop) + 1) {
        char *found = memmem(a->text.text + from, a->text.bytes - from, stop, strlen(stop));
        if (found != NULL && (first == NULL || found < first))
            first = found;
    }
    if (first == NULL)
        return false;
    a->text.bytes = (size_t)(first - a->text.text);
    *first = 0;
    return true;
}

/* After text was appended to the first `before` bytes. */
static void look_for_stop(answer_t *a, size_t before)
{
    if (a->n_stops > 0 && a->text.bytes > before)
        a->cut = cut_at_stop(a, before - size_min(before, a->longest_stop - 1));
}

int answer_push(answer_t *a, const sampler_choice_t *choice, bool *stopped, fail_t *fail)
{
    size_t before = a->text.bytes, bytes;
    *stopped = false;
    if (answer_add(a, choice, choice->logprob, fail) != 0)
        return fail->status;
    /* Rows that pad a model's vocabulary are no tokens. */
    if (a->tokenizer == NULL || tokenizer_bytes(a->tokenizer, choice->token, &bytes) == NULL)
        return 0;
    if (detokenizer_push(&a->detokenizer, a->tokenizer, choice->token, true, &a->text, fail) == 0)
        look_for_stop(a, before);
    *stopped = a->cut;
    return fail->status;
}

int answer_end(answer_t *a, fail_t *fail)
{
    size_t before = a->text.bytes;
    a->ended = true;
    if (a->tokenizer == NULL || a->cut)
        return 0;
    if (detokenizer_flush(&a->detokenizer, a->tokenizer, &a->text, fail) == 0)
        look_for_stop(a, before);
    return fail->status;
}

/* Bytes at the end of the text that a stop string might begin with. */
static size_t held_back(const answer_t *a)
{
    size_t held = 0;
    const char *stop = a->stops;
    for (size_t i = 0; i < a->n_stops; i++, stop += strlen(stop) + 1) {
        size_t most = size_min(strlen(stop) - 1, a->text.bytes);
        for (size_t n = most; n > held; n--)
            if (memcmp(a->text.text + a->text.bytes - n, stop, n) == 0)
                held = n;
    }
    return held;
}

const char *answer_take(answer_t *a, size_t *bytes)
{
    size_t end = a->text.bytes;
    if (!a->ended && !a->cut && end > 0)
        end -= held_back(a);
    const char *text = a->text.text == NULL ? "" : a->text.text + a->n_sent;
    *bytes = end > a->n_sent ? end - a->n_sent : 0;
    a->n_sent += *bytes;
    return text;
}
