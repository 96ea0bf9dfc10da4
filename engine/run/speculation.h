/* How many drafted tokens a step verifies.
 *
 * A step that verifies drafts takes longer than one without, and gives more tokens. Both are
 * learned from the steps of the run: how often a drafted token is right after a match of some
 * length, and how long a step of some rows takes. Drafts are as long as makes tokens a second the
 * most; where none pays, there is none. Never changes a bit: a draft decides only what is computed
 * together. Plain data; pure functions of it. One thread at a time. */
#ifndef CHOIR_RUN_SPECULATION_H
#define CHOIR_RUN_SPECULATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SPECULATION_MOST_DRAFTS = 31, /* of a sequence in a step */
    SPECULATION_MOST_ROWS = 64,   /* drafted in a step, all sequences together */
    SPECULATION_TIMED_ROWS = 128, /* rows of a step whose time is learned */
    SPECULATION_LENGTHS = 13      /* kinds of matches, by their length */
};

typedef struct speculation_options {
    bool on;
    bool model;          /* a smaller model drafts: the text itself otherwise */
    size_t draft_tokens; /* that a sequence drafts; 0: as many as pay */
} speculation_options_t;

/* Drafted rows of a step at most, for so many sequences. */
size_t speculation_most_rows(const speculation_options_t *options, size_t n_sequences);

typedef struct speculation {
    speculation_options_t options;
    double tried[SPECULATION_LENGTHS], right[SPECULATION_LENGTHS];
    /* By rows of a step: logarithm of what it costs, against others, and how often it was measured;
     * the step before; and how long one of cost 1 takes lately (0: not known). */
    double log_cost[SPECULATION_TIMED_ROWS + 1], timed[SPECULATION_TIMED_ROWS + 1];
    size_t last_rows;
    double last_ns, one_ns;
    double draft_ns; /* a token drafted by a model, of all sequences at once; 0: not known */
} speculation_t;

void speculation_init(speculation_t *speculation, const speculation_options_t *options);

/* A sequence that could draft. */
typedef struct speculation_candidate {
    size_t match, most; /* length of its match; drafted tokens at most */
    size_t n;           /* what is chosen for it */
} speculation_candidate_t;

/* Chooses every candidate's n; together at most `rows`. n_rows: of the step without drafts. prefills:
 * it has rows of prompts too, so many that time goes by rows: then a draft pays that is right more
 * often than not. */
void speculation_choose(speculation_t *speculation, speculation_candidate_t *candidates, size_t n,
    size_t n_rows, size_t rows, bool prefills);

/* Of n_drafted tokens after a match, the first n_accepted were right. */
void speculation_learn(
    speculation_t *speculation, size_t match, size_t n_drafted, size_t n_accepted);

/* A step of decode rows only took so long. */
void speculation_time(speculation_t *speculation, size_t n_rows, uint64_t ns);

/* A model drafted n_tokens one after another, in so long. */
void speculation_time_drafts(speculation_t *speculation, size_t n_tokens, uint64_t ns);

/* How long a step of so many decode rows takes relative to others, and in nanoseconds (0: no step
 * has been timed), as far as is known. */
double speculation_cost(const speculation_t *speculation, size_t n_rows);
double speculation_ns(const speculation_t *speculation, size_t n_rows);

#endif
