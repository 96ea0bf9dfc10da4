#include "engine/run/speculation.h"

#include <math.h>

#include "engine/base/size.h"

/* What is known before anything has been measured: how often a drafted token is right by the length
 * of its match, with the weight of so many trials; and that a row more makes a step so much longer. */
static const double first_rates[SPECULATION_LENGTHS] = {
    0.15, 0.3, 0.45, 0.5, 0.55, 0.6, 0.65, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9};
#define FIRST_TRIALS 3.0
/* The same of a model's drafts; and a token that it drafts takes so long, as against a step. */
#define FIRST_MODEL_RATE 0.7
#define FIRST_DRAFT_COST 0.15
#define FIRST_ROW_COST 0.05
/* Trials are forgotten by halves. */
#define MOST_TRIALS 128.0
/* Where matches are not tried, what is known of them fades, so that they are tried again: a few
 * tokens in this many. */
#define FADE (1.0 / 1024)
#define COST_FADE (1.0 / 1024)
/* Steps without drafts are measured as often as keeps them known so many times. */
#define LEAST_TIMED 2.0
/* Of the latest step: in how fast the machine is, and in what its rows cost. Speed follows at once,
 * as others use the machine too; what rows cost does not. */
#define SPEED_WEIGHT 0.25
#define COST_WEIGHT 0.05
#define MOST_OFF 0.4 /* in natural logarithms: a step that was held up longer tells nothing */
/* Drafts less likely than this give less than any row costs. */
#define LEAST_CHANCE 0.01
/* A gain below this is not worth the risk of a wrong guess. */
#define LEAST_GAIN 1.01

size_t speculation_most_rows(const speculation_options_t *options, size_t n_sequences)
{
    if (!options->on)
        return 0;
    size_t each = options->draft_tokens != 0 ? options->draft_tokens : SPECULATION_MOST_DRAFTS;
    return size_min(n_sequences * size_min(each, SPECULATION_MOST_DRAFTS), SPECULATION_MOST_ROWS);
}

static size_t length_of(size_t match)
{
    return match <= 8    ? size_max(match, 1) - 1
           : match <= 12 ? 8
           : match <= 16 ? 9
           : match <= 32 ? 10
           : match <= 63 ? 11
                         : 12;
}

static double first_rate(const speculation_t *s, size_t i)
{
    return s->options.model ? FIRST_MODEL_RATE : first_rates[i];
}

static double first_cost(size_t n_rows)
{
    return 1 + FIRST_ROW_COST * (double)(n_rows - 1);
}

void speculation_init(speculation_t *s, const speculation_options_t *options)
{
    *s = (speculation_t){.options = *options};
    for (size_t i = 0; i < SPECULATION_LENGTHS; i++) {
        s->tried[i] = FIRST_TRIALS;
        s->right[i] = FIRST_TRIALS * first_rate(s, i);
    }
}

/* ---- What is learned ------------------------------------------------------------------------- */

static void learn_one(speculation_t *s, size_t match, bool right)
{
    size_t i = length_of(match);
    s->tried[i] += 1;
    s->right[i] += right;
    if (s->tried[i] > MOST_TRIALS) {
        s->tried[i] /= 2;
        s->right[i] /= 2;
    }
}

void speculation_learn(speculation_t *s, size_t match, size_t n_drafted, size_t n_accepted)
{
    /* A token that was right makes the match longer by one. */
    for (size_t i = 0; i < n_accepted; i++)
        learn_one(s, match + i, true);
    if (n_accepted < n_drafted)
        learn_one(s, match + n_accepted, false);
}

static void fade(speculation_t *s, size_t match)
{
    size_t i = length_of(match);
    s->tried[i] += FADE * (FIRST_TRIALS - s->tried[i]);
    s->right[i] += FADE * (FIRST_TRIALS * first_rate(s, i) - s->right[i]);
}

static double weight_of(const speculation_t *s, size_t n_rows)
{
    return fmax(COST_WEIGHT, 1 / (s->timed[n_rows] + 2));
}

/* Of every step against the one before it, which had the same part of the machine. */
void speculation_time(speculation_t *s, size_t n_rows, uint64_t ns)
{
    if (n_rows == 0 || n_rows > SPECULATION_TIMED_ROWS || ns == 0)
        return;
    size_t last = s->last_rows;
    double known = s->timed[n_rows] > 0 ? s->log_cost[n_rows] : log(speculation_cost(s, n_rows));
    s->log_cost[n_rows] = known;
    if (last != 0 && last != n_rows) {
        double off = log((double)ns / s->last_ns) - (known - s->log_cost[last]);
        off = fmax(-MOST_OFF, fmin(MOST_OFF, off));
        s->log_cost[n_rows] += weight_of(s, n_rows) * off;
        s->log_cost[last] -= weight_of(s, last) * off;
    }
    s->timed[n_rows] += 1;
    s->last_rows = n_rows;
    s->last_ns = (double)ns;
    double one = (double)ns / exp(s->log_cost[n_rows]);
    s->one_ns += (s->one_ns == 0 ? 1 : SPEED_WEIGHT) * (one - s->one_ns);
    /* What has not been measured lately becomes what is supposed at first, as against this. */
    double scale = s->log_cost[n_rows] - log(first_cost(n_rows));
    for (size_t r = 1; r <= SPECULATION_TIMED_ROWS; r++)
        if (r != n_rows && s->timed[r] > 0) {
            s->timed[r] -= FADE * s->timed[r];
            s->log_cost[r] += COST_FADE * (scale + log(first_cost(r)) - s->log_cost[r]);
        }
}

void speculation_time_drafts(speculation_t *s, size_t n_tokens, uint64_t ns)
{
    if (n_tokens == 0 || ns == 0)
        return;
    double one = (double)ns / (double)n_tokens;
    s->draft_ns += (s->draft_ns == 0 ? 1 : SPEED_WEIGHT) * (one - s->draft_ns);
}

/* ---- What is chosen -------------------------------------------------------------------------- */

/* The nearest number of rows from n_rows on, up or down, whose cost was measured; 0: none. */
static size_t known_rows(const speculation_t *s, size_t n_rows, bool up)
{
    for (size_t r = n_rows; r >= 1 && r <= SPECULATION_TIMED_ROWS; r += up ? 1 : SIZE_MAX)
        if (s->timed[r] > 0)
            return r;
    return 0;
}

/* Between known costs on a line; beyond them a row more costs what is supposed at first. */
double speculation_cost(const speculation_t *s, size_t n_rows)
{
    n_rows = size_min(n_rows, SPECULATION_TIMED_ROWS);
    size_t below = known_rows(s, n_rows, false), above = known_rows(s, n_rows, true);
    if (below == 0 && above == 0)
        return first_cost(n_rows);
    if (above == 0 || below == 0)
        return exp(s->log_cost[above + below]) / first_cost(above + below) * first_cost(n_rows);
    double low = exp(s->log_cost[below]);
    if (above == below)
        return low;
    double share = (double)(n_rows - below) / (double)(above - below);
    return low + share * (exp(s->log_cost[above]) - low);
}

double speculation_ns(const speculation_t *s, size_t n_rows)
{
    return s->one_ns * speculation_cost(s, n_rows);
}

/* What n tokens cost to draft, as a step's rows do. */
static double draft_cost(const speculation_t *s, size_t n)
{
    if (!s->options.model)
        return 0;
    bool known = s->draft_ns > 0 && s->one_ns > 0;
    return (double)n * (known ? s->draft_ns / s->one_ns : FIRST_DRAFT_COST);
}

static double rate_of(const speculation_t *s, size_t match)
{
    size_t i = length_of(match);
    return s->right[i] / s->tried[i];
}

/* The chance that a candidate's next drafted token will be accepted, the n before it included. */
static double chance_of(const speculation_t *s, const speculation_candidate_t *candidate)
{
    double chance = 1;
    if (candidate->n >= candidate->most)
        return 0;
    for (size_t i = 0; i <= candidate->n; i++)
        chance *= rate_of(s, candidate->match + i);
    return chance;
}

/* The candidate whose next token has the best chance; NULL: there is none. */
static speculation_candidate_t *best_of(
    const speculation_t *s, speculation_candidate_t *candidates, size_t n, double *chance)
{
    speculation_candidate_t *best = NULL;
    *chance = 0;
    for (size_t i = 0; i < n; i++) {
        double its = chance_of(s, &candidates[i]);
        if (its > *chance) {
            *chance = its;
            best = &candidates[i];
        }
    }
    return best;
}

/* Takes the tokens of the best chances, up to `rows`; the number that gives most tokens a second. */
static size_t best_number(const speculation_t *s, speculation_candidate_t *candidates, size_t n,
    size_t n_rows, size_t rows, bool prefills)
{
    double tokens = (double)n_rows, chance, before = speculation_cost(s, n_rows);
    double best = tokens / before * LEAST_GAIN;
    size_t best_number = 0, longest = 0;
    bool fixed = s->options.draft_tokens != 0;
    for (size_t taken = 1; taken <= rows; taken++) {
        speculation_candidate_t *candidate = best_of(s, candidates, n, &chance);
        if (candidate == NULL || (!fixed && chance < (prefills ? 0.5 : LEAST_CHANCE)))
            break;
        candidate->n++;
        tokens += chance;
        /* A longer step is never quicker, whatever was measured. */
        double cost = speculation_cost(s, n_rows + taken);
        before = fmax(before, cost);
        longest = size_max(longest, candidate->n);
        double rate = tokens / (before + draft_cost(s, longest));
        if (fixed || prefills || rate > best) {
            best_number = taken;
            best = rate;
        }
    }
    return best_number;
}

void speculation_choose(speculation_t *s, speculation_candidate_t *candidates, size_t n,
    size_t n_rows, size_t rows, bool prefills)
{
    double chance;
    size_t each = s->options.draft_tokens != 0 ? s->options.draft_tokens : SPECULATION_MOST_DRAFTS;
    for (size_t i = 0; i < n; i++) {
        candidates[i].most = size_min(candidates[i].most, each);
        candidates[i].n = 0;
    }
    /* What drafts cost is known only against steps without. */
    if (s->options.draft_tokens == 0 && !prefills && n_rows <= SPECULATION_TIMED_ROWS &&
        s->timed[n_rows] < LEAST_TIMED)
        rows = 0;
    size_t number = best_number(s, candidates, n, n_rows, rows, prefills);
    for (size_t i = 0; i < n; i++)
        candidates[i].n = 0;
    for (size_t taken = 0; taken < number; taken++)
        best_of(s, candidates, n, &chance)->n++;
    for (size_t i = 0; i < n; i++)
        if (candidates[i].n == 0 && candidates[i].match > 0)
            fade(s, candidates[i].match);
}
