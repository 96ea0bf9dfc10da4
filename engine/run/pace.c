#include "engine/run/pace.h"

#include <math.h>

#include "engine/base/size.h"

#define FORGOTTEN 0.125     /* of what steps took beyond the line, with every step */
#define REMEMBERED 0.97     /* what a step before counts in the line */
#define MIN_SPREAD 256.0    /* of positions, below which the line's slope stays */
#define MIN_MEASURED_ROWS 8 /* of a prompt: the time of fewer tells little */
#define CHUNK_ROWS 32       /* long chunks are multiples, as kernels like them */
#define LEAST_ROWS 8        /* short ones of this: 32 rows may take longer than a step without */
#define FIRST_ROWS 16       /* of a chunk before anything is known */
#define MAX_ROWS ((size_t)1 << 20)
#define MIN_SHARE 0.05 /* of a step's time is that of its prompt rows, however short it was */
#define SHORT_NS 5e6   /* steps up to this length delay nothing that anybody sees */

static void learn_decode(pace_t *p, double ns)
{
    double sorted[PACE_DECODES];
    p->decodes_ns[p->n_decodes++ % PACE_DECODES] = ns;
    size_t n = size_min(p->n_decodes, PACE_DECODES);
    for (size_t i = 0; i < n; i++) {
        size_t at = i;
        for (; at > 0 && sorted[at - 1] > p->decodes_ns[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = p->decodes_ns[i];
    }
    p->decode_ns = sorted[(n - 1) / 2];
}

static void fit(pace_t *p, double x, double y)
{
    p->n = REMEMBERED * p->n + 1;
    p->x = REMEMBERED * p->x + x;
    p->y = REMEMBERED * p->y + y;
    p->xx = REMEMBERED * p->xx + x * x;
    p->xy = REMEMBERED * p->xy + x * y;
    double mean_x = p->x / p->n, mean_y = p->y / p->n, spread = p->xx / p->n - mean_x * mean_x;
    if (spread > MIN_SPREAD * MIN_SPREAD)
        p->position_ns = fmax(p->xy / p->n - mean_x * mean_y, 0) / spread;
    /* A row at position 0 takes some time, whatever noise says. */
    p->position_ns = fmin(p->position_ns, 0.9 * mean_y / fmax(mean_x, 1));
    p->row_ns = mean_y - p->position_ns * mean_x;
}

void pace_learn(pace_t *p, const scheduler_step_t *step, double ns)
{
    /* Prompts of one token cost what a decode's rows cost. */
    if (step->n_single_rows + step->n_draft_rows == step->n_rows) {
        learn_decode(p, ns);
        return;
    }
    /* Without a decode's time it would be taken for the rows'. */
    if (step->n_prompt_rows < MIN_MEASURED_ROWS || p->decode_ns == 0)
        return;
    double rows = (double)step->n_prompt_rows;
    double x = (double)step->prompt_positions / rows;
    double y = fmax(ns - p->decode_ns, MIN_SHARE * ns) / rows;
    if (p->n > 0) {
        double against = fmin(y / (p->row_ns + p->position_ns * x), 4);
        p->slower = fmax(against, p->slower + FORGOTTEN * (against - p->slower));
        p->slower = fmax(p->slower, 1);
    } else {
        p->slower = 1;
    }
    fit(p, x, y);
    size_t most = size_max(p->most_rows, FIRST_ROWS);
    if (step->n_rows > step->n_prompt_rows && step->n_prompt_rows >= most)
        p->most_rows = size_min(2 * most, MAX_ROWS);
}

scheduler_limit_t pace_limit(const pace_t *p, double ratio)
{
    if (p->decode_ns == 0)
        return (scheduler_limit_t){.most_rows = 0};
    return (scheduler_limit_t){.multiple = CHUNK_ROWS,
        .least = LEAST_ROWS,
        .most_rows = size_max(p->most_rows, FIRST_ROWS),
        .budget = fmax((ratio - 1) * p->decode_ns, SHORT_NS - p->decode_ns),
        .row = p->slower * p->row_ns,
        .position = p->slower * p->position_ns};
}
