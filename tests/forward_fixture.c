#include "tests/forward_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "tests/plain_model.h"

const config_t forward_small = {.arch = &arch_qwen2,
    .parts = ARCH_QKV_BIAS,
    .hidden_size = 48,
    .intermediate_size = 90,
    .num_hidden_layers = 1,
    .num_attention_heads = 6,
    .num_key_value_heads = 2,
    .head_dim = 16,
    .vocab_size = 131,
    .max_position_embeddings = FORWARD_MAX_CONTEXT,
    .rope_theta = 10000,
    .rms_norm_eps = 1e-6,
    .max_window_layers = 1};

static const uint64_t seed = 3;

int forward_rank_open(forward_rank_t *rank, comm_t *comm, const config_t *config,
    const model_source_t *source, const forward_case_t *c, const forward_options_t *limits,
    size_t n_blocks, fail_t *fail)
{
    const model_options_t model_options = {.combine = c->combine,
        .n_ranks = comm == NULL ? 1 : (size_t)comm_size(comm),
        .rank = comm == NULL ? 0 : (size_t)comm_rank(comm),
        .mode = c->mode,
        .dot = c->dot,
        .packed = c->packed,
        .isa = c->isa,
        .max_positions = limits->max_context};
    forward_options_t options = *limits;
    options.order = c->order;
    options.attention = c->attention;
    options.dot = c->dot;
    if (team_open(&rank->team, c->threads, true, fail) == 0 &&
        model_load(&rank->model, config, source, &model_options, rank->team, fail) == 0 &&
        kv_cache_open(&rank->cache, c->mode, config->num_hidden_layers,
            plan_count(model_share(&rank->model)->kv_heads), config->head_dim, n_blocks, fail) == 0)
        forward_open(&rank->forward, &rank->model, &rank->cache, rank->team, comm, &options, fail);
    return fail->status;
}

void forward_rank_close(forward_rank_t *rank)
{
    forward_close(rank->forward);
    kv_cache_close(&rank->cache);
    model_close(&rank->model);
    team_close(rank->team);
}

bool forward_next_rows(const forward_progress_t *at, size_t chunk, bool single_row,
    size_t first_row, forward_sequence_t *rows)
{
    bool prompt = at->done < at->n_prompt;
    if (at->done == at->n_all || chunk == 0 || single_row != (!prompt || at->n_prompt == 1))
        return false;
    *rows = (forward_sequence_t){.first_row = first_row,
        .n_rows = prompt ? size_min(chunk, at->n_prompt - at->done) : 1,
        .first_position = at->done,
        .ref_q_len = prompt ? at->n_prompt : 1,
        .single_row = single_row,
        .blocks = at->blocks};
    return true;
}

void forward_fixture_open(forward_fixture_t *f, const forward_case_t *c, const config_t *config)
{
    fail_t fail = {0};
    *f = (forward_fixture_t){.c = *c, .config = *config};
    const model_source_t source = model_source_random(&seed);
    const forward_options_t limits = {.max_rows = FORWARD_MAX_ROWS,
        .max_logits = 2 * FORWARD_MAX_ROWS,
        .max_context = FORWARD_MAX_CONTEXT};
    size_t n_blocks = FORWARD_MAX_PROMPTS * sizeof f->prompts[0].blocks / sizeof(int32_t);
    if (forward_rank_open(&f->rank, NULL, config, &source, c, &limits, n_blocks, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        abort();
    }
    memset(f->rank.cache.blocks, 0xff, f->rank.cache.bytes);
}

void forward_fixture_close(forward_fixture_t *f)
{
    for (size_t i = 0; i < f->n_prompts; i++)
        free(f->prompts[i].logits);
    forward_rank_close(&f->rank);
}

static size_t row_bytes(const forward_fixture_t *f)
{
    return f->config.vocab_size * f->rank.model.kernels.accumulator_bytes;
}

size_t forward_fixture_bytes(const forward_fixture_t *f, size_t prompt)
{
    return f->prompts[prompt].n_all * row_bytes(f);
}

/* Blocks of the prompts lie among each other, the later ones first. */
void forward_fixture_add(forward_fixture_t *f, size_t n_prompt, size_t n_fed)
{
    size_t i = f->n_prompts++, n = sizeof f->prompts[0].blocks / sizeof(int32_t);
    forward_prompt_t *p = &f->prompts[i];
    p->n_prompt = n_prompt;
    p->n_all = n_prompt + n_fed;
    for (size_t t = 0; t < p->n_all; t++)
        p->ids[t] = (int32_t)((t * 37 + i * 11 + t * t) % f->config.vocab_size);
    for (size_t b = 0; b < n; b++)
        p->blocks[b] = (int32_t)((n - 1 - b) * FORWARD_MAX_PROMPTS + i);
    p->logits = calloc(1, forward_fixture_bytes(f, i));
}

/* ---- Steps ------------------------------------------------------------------------------------ */

typedef struct step {
    forward_batch_t batch;
    int32_t ids[FORWARD_MAX_ROWS];
    forward_sequence_t sequences[FORWARD_MAX_PROMPTS];
    forward_logits_row_t rows[2 * FORWARD_MAX_ROWS];
    char *to[2 * FORWARD_MAX_ROWS]; /* where the logits of a row go */
    forward_prompt_t *of[FORWARD_MAX_PROMPTS];
} step_t;

static void add_rows(
    forward_fixture_t *f, step_t *s, forward_prompt_t *p, size_t chunk, bool single_row)
{
    const forward_progress_t at = {p->n_prompt, p->n_all, p->done, p->blocks};
    forward_sequence_t *rows = &s->sequences[s->batch.n_sequences];
    if (!forward_next_rows(&at, chunk, single_row, s->batch.n_rows, rows))
        return;
    s->of[s->batch.n_sequences++] = p;
    for (size_t i = 0; i < rows->n_rows; i++) {
        size_t token = p->done + i;
        s->ids[s->batch.n_rows] = p->ids[token];
        if (f->wants == NULL || f->wants(token)) {
            s->to[s->batch.n_logits] = p->logits + token * row_bytes(f);
            s->rows[s->batch.n_logits++] = (forward_logits_row_t){s->batch.n_rows, single_row};
        }
        s->batch.n_rows++;
    }
}

static bool run_step(forward_fixture_t *f, size_t begin, size_t end, size_t chunk)
{
    static step_t s;
    s.batch =
        (forward_batch_t){.token_ids = s.ids, .sequences = s.sequences, .logits_rows = s.rows};
    for (int single_row = 1; single_row >= 0; single_row--)
        for (size_t i = begin; i < end; i++)
            add_rows(f, &s, &f->prompts[i], chunk, single_row);
    if (s.batch.n_rows == 0)
        return false;
    forward_step(f->rank.forward, &s.batch);
    for (size_t i = 0; i < s.batch.n_logits; i++)
        memcpy(s.to[i], forward_logits(f->rank.forward, i), row_bytes(f));
    for (size_t i = 0; i < s.batch.n_sequences; i++)
        s.of[i]->done += s.sequences[i].n_rows;
    return true;
}

void forward_fixture_run(forward_fixture_t *f, size_t begin, size_t end, size_t chunk)
{
    for (size_t i = begin; i < end; i++) {
        f->prompts[i].done = 0;
        memset(f->prompts[i].logits, 0, forward_fixture_bytes(f, i));
    }
    while (run_step(f, begin, end, chunk))
        continue;
}

double forward_fixture_error(const forward_fixture_t *f, size_t prompt)
{
    const forward_prompt_t *p = &f->prompts[prompt];
    size_t n = p->n_all * f->config.vocab_size;
    double *exact = malloc(n * sizeof *exact);
    plain_logits(&f->config, &seed, f->c.mode, p->ids, p->n_all, exact);
    double error =
        plain_difference(exact, p->logits, f->c.mode == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32, n);
    free(exact);
    return error;
}
