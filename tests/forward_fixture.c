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

void forward_fixture_open(forward_fixture_t *f, const forward_case_t *c, const config_t *config)
{
    fail_t fail = {0};
    *f = (forward_fixture_t){.c = *c, .config = *config};
    const model_source_t source = model_source_random(&seed);
    const model_options_t model_options = {.combine = c->combine,
        .n_ranks = 1,
        .mode = c->mode,
        .dot = c->dot,
        .isa = c->isa,
        .max_positions = FORWARD_MAX_CONTEXT};
    const forward_options_t options = {.order = c->order,
        .attention = c->attention,
        .dot = c->dot,
        .max_rows = FORWARD_MAX_ROWS,
        .max_logits = 2 * FORWARD_MAX_ROWS,
        .max_context = FORWARD_MAX_CONTEXT};
    size_t n_blocks = FORWARD_MAX_PROMPTS * sizeof f->prompts[0].blocks / sizeof(int32_t);
    if (team_open(&f->team, c->threads, true, &fail) != 0 ||
        model_load(&f->model, config, &source, &model_options, f->team, &fail) != 0 ||
        kv_cache_open(&f->cache, c->mode, config->num_hidden_layers, config->num_key_value_heads,
            config->head_dim, n_blocks, &fail) != 0 ||
        forward_open(&f->forward, &f->model, &f->cache, f->team, NULL, &options, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        abort();
    }
    size_t n = config->num_hidden_layers * config->num_key_value_heads * n_blocks;
    memset(f->cache.k, 0xff, n * f->cache.k_block_bytes);
    memset(f->cache.v, 0xff, n * f->cache.v_block_bytes);
}

void forward_fixture_close(forward_fixture_t *f)
{
    for (size_t i = 0; i < f->n_prompts; i++)
        free(f->prompts[i].logits);
    forward_close(f->forward);
    kv_cache_close(&f->cache);
    model_close(&f->model);
    team_close(f->team);
}

static size_t row_bytes(const forward_fixture_t *f)
{
    return f->config.vocab_size * f->model.kernels.accumulator_bytes;
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
    bool prompt = p->done < p->n_prompt;
    if (p->done == p->n_all || single_row != (!prompt || p->n_prompt == 1))
        return;
    size_t n = prompt ? size_min(chunk, p->n_prompt - p->done) : 1;
    s->of[s->batch.n_sequences] = p;
    s->sequences[s->batch.n_sequences++] = (forward_sequence_t){.first_row = s->batch.n_rows,
        .n_rows = n,
        .first_position = p->done,
        .ref_q_len = prompt ? p->n_prompt : 1,
        .single_row = single_row,
        .blocks = p->blocks};
    for (size_t i = 0; i < n; i++) {
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
    forward_step(f->forward, &s.batch);
    for (size_t i = 0; i < s.batch.n_logits; i++)
        memcpy(s.to[i], forward_logits(f->forward, i), row_bytes(f));
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
