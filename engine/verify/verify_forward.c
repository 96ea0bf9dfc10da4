#include "engine/verify/verify_forward.h"

#include <stdlib.h>

#include "engine/base/size.h"
#include "engine/verify/verify_forward_internal.h"

/* Tokens of a prompt that one step takes, unless it takes all. */
#define CHUNK 512

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Collective. Feeds n tokens; logits have been asked for. */
static void feed(
    pass_t *pass, const int32_t *ids, size_t first_position, size_t n, size_t ref_q_len)
{
    const verify_forward_t *v = pass->verify;
    forward_sequence_t sequence = {.n_rows = n,
        .first_position = first_position,
        .ref_q_len = ref_q_len,
        .single_row = ref_q_len == 1,
        .blocks = pass->blocks};
    plan_range_t vocab = model_share(v->model)->vocab;
    pass->batch.n_rows = n;
    pass->batch.n_sequences = 1;
    pass->batch.token_ids = ids;
    pass->batch.sequences = &sequence;
    pass->batch.logits_rows = pass->logits_rows;
    pass->step++;
    forward_step(pass->forward, &pass->batch);
    if (!pass->taps)
        for (size_t i = 0; i < pass->batch.n_logits; i++)
            verify_look_at_logits(
                pass, i, vocab.begin, plan_count(vocab), forward_logits(pass->forward, i));
    verify_free_targets(pass);
    pass->done_tokens += n;
    if (v->progress != NULL)
        v->progress(v->progress_context, pass->done_tokens, pass->total_tokens);
}

/* Collective. The whole prompt, and what generate() computes of its last row. */
static void prefill(pass_t *pass)
{
    const reference_prompt_t *prompt = &pass->verify->reference->prompts[pass->prompt];
    size_t n_ids = prompt->n_ids;
    for (size_t first = 0; first < n_ids; first += pass->max_rows) {
        size_t n = size_min(pass->max_rows, n_ids - first);
        pass->first_row = first;
        verify_set_targets(pass, false, !pass->taps, first == 0);
        if (first + n == n_ids) {
            verify_want_logits(pass, n - 1, true, n_ids - 1);
            pass->logits[0].again = true;
            verify_expect_logits(pass, KIND_GENERATE_LOGITS, KIND_GENERATE_LOGITS, false, 0);
        }
        for (size_t r = 0; r < n; r++) {
            verify_want_logits(pass, r, n_ids == 1, first + r);
            verify_expect_logits(pass, COMPONENT_LOGITS, COMPONENT_LOGITS, false, first + r);
        }
        feed(pass, prompt->ids + first, first, n, n_ids);
    }
}

/* Collective. The i-th generated token after the prompt. */
static void decode(pass_t *pass, size_t i)
{
    const reference_prompt_t *prompt = &pass->verify->reference->prompts[pass->prompt];
    attention_t attention = pass->verify->attention;
    pass->first_row = 0;
    verify_set_targets(pass, true, !pass->taps, true);
    verify_want_logits(pass, 0, true, 0);
    if (pass->taps) {
        verify_expect_logits(pass, KIND_DECODE_LOGITS, COMPONENT_LOGITS, true, 0);
    } else {
        verify_expect_logits(pass, KIND_DECODE_LOGITS, KIND_DECODE_LOGITS, false, i);
        verify_expect_logits(pass, KIND_GENERATE_LOGITS, KIND_GENERATE_LOGITS, false, i + 1);
    }
    feed(pass, prompt->new_ids[attention] + i, prompt->n_ids + i, 1, 1);
}

/* Collective. The prompt's i-th token alone. */
static void step_one(pass_t *pass, size_t i)
{
    verify_set_targets(pass, false, true, false);
    verify_want_logits(pass, 0, true, 0);
    verify_expect_logits(pass, KIND_STEPWISE_LOGITS, KIND_STEPWISE_LOGITS, false, i);
    feed(pass, pass->verify->reference->prompts[pass->prompt].ids + i, i, 1, 1);
}

/* The runs of a prompt; equal on all ranks. */
typedef struct itinerary {
    size_t n_decode, n_stepwise;
} itinerary_t;

static itinerary_t itinerary_of(const pass_t *pass)
{
    const reference_prompt_t *prompt = &pass->verify->reference->prompts[pass->prompt];
    size_t n_new = prompt->n_new[pass->verify->attention];
    reference_place_t stepwise = verify_place(pass, false, 0, KIND_STEPWISE_LOGITS);
    if (pass->taps)
        return (itinerary_t){.n_decode = n_new > 0 ? 1 : 0};
    return (itinerary_t){n_new, verify_find_target(pass, &stepwise) != NULL ? prompt->n_ids : 0};
}

/* Collective. */
static int run_prompt(pass_t *pass, fail_t *fail)
{
    itinerary_t itinerary = itinerary_of(pass);
    prefill(pass);
    for (size_t i = 0; i < itinerary.n_decode; i++)
        decode(pass, i);
    for (size_t i = 0; i < itinerary.n_stepwise; i++)
        step_one(pass, i);
    if (pass->fail.status != 0)
        fail_set(fail, pass->fail.status, "%s", pass->fail.message);
    return comm_agree(pass->verify->comm, fail);
}

/* ---- Passes ---------------------------------------------------------------------------------- */

typedef struct kind_of_pass {
    report_table_t table;
    bool isolates, taps;
} kind_of_pass_t;

static void use_pass(pass_t *pass, const kind_of_pass_t *kind)
{
    pass->isolates = kind->isolates;
    pass->taps = kind->taps;
    pass->table = (report_table_t)(kind->table + pass->verify->attention);
}

/* Collective. */
static int run_pass(pass_t *pass, fail_t *fail)
{
    const tap_t tap = {pass, verify_tap, pass->isolates ? verify_tap_refill : NULL};
    forward_set_tap(pass->forward, pass->taps ? &tap : NULL, fail);
    if (comm_agree(pass->verify->comm, fail) != 0)
        return fail->status;
    for (pass->prompt = 0; pass->prompt < pass->verify->reference->n_prompts; pass->prompt++)
        if (run_prompt(pass, fail) != 0)
            return fail->status;
    return forward_set_tap(pass->forward, NULL, fail);
}

static int run_passes(pass_t *pass, fail_t *fail)
{
    static const kind_of_pass_t kinds[] = {{REPORT_ISOLATED, true, true},
        {REPORT_CHAINED, false, true}, {REPORT_LOGITS, false, false}};
    enum { N_KINDS = sizeof kinds / sizeof *kinds };
    const verify_forward_t *v = pass->verify;
    for (size_t i = 0; i < N_KINDS; i++) {
        use_pass(pass, &kinds[i]);
        for (pass->prompt = 0; pass->prompt < v->reference->n_prompts; pass->prompt++) {
            itinerary_t itinerary = itinerary_of(pass);
            if (pass->isolates ? v->isolated : v->chained)
                pass->total_tokens += v->reference->prompts[pass->prompt].n_ids +
                                      itinerary.n_decode + itinerary.n_stepwise;
        }
    }
    for (size_t i = 0; i < N_KINDS; i++) {
        use_pass(pass, &kinds[i]);
        if ((pass->isolates ? v->isolated : v->chained) && run_pass(pass, fail) != 0)
            return fail->status;
    }
    return 0;
}

static size_t longest_prompt(const reference_t *reference)
{
    size_t longest = 1;
    for (size_t i = 0; i < reference->n_prompts; i++)
        longest = size_max(longest, reference->prompts[i].n_ids);
    return longest;
}

size_t verify_forward_positions(const reference_t *reference)
{
    size_t longest = 1;
    for (size_t i = 0; i < reference->n_prompts; i++)
        for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
            longest =
                size_max(longest, reference->prompts[i].n_ids + reference->prompts[i].n_new[a]);
    return longest;
}

static forward_options_t options_of(const model_t *model, const reference_t *reference,
    order_t order, attention_t attention, dot_t dot)
{
    size_t max_rows = longest_prompt(reference);
    if (!forward_wants_whole_prompts(&model->config, order, dot, model->mode))
        max_rows = size_min(max_rows, CHUNK);
    return (forward_options_t){.order = order,
        .attention = attention,
        .dot = dot,
        .max_rows = max_rows,
        .max_logits = max_rows + 1,
        .max_context = size_round_up(verify_forward_positions(reference), KV_BLOCK)};
}

size_t verify_forward_bytes(const model_t *model, const reference_t *reference, order_t order,
    dot_t dot, attention_t attention, size_t n_threads, int comm_size)
{
    forward_options_t options = options_of(model, reference, order, attention, dot);
    return forward_bytes(model, &options, n_threads, comm_size);
}

static int allocate(pass_t *pass, size_t n_blocks, fail_t *fail)
{
    pass->targets = calloc((pass->n_layers + 1) * COMPONENT_COUNT, sizeof *pass->targets);
    pass->logits = calloc(pass->max_rows + 1, sizeof *pass->logits);
    pass->logits_rows = calloc(pass->max_rows + 1, sizeof *pass->logits_rows);
    pass->blocks = calloc(n_blocks, sizeof *pass->blocks);
    if (pass->targets == NULL || pass->logits == NULL || pass->logits_rows == NULL ||
        pass->blocks == NULL)
        return fail_set(fail, FAIL_MEMORY, "verify: out of memory");
    for (size_t b = 0; b < n_blocks; b++)
        pass->blocks[b] = (int32_t)b;
    return 0;
}

int verify_forward(const verify_forward_t *verify, report_t *report, fail_t *fail)
{
    const model_t *model = verify->model;
    forward_options_t options =
        options_of(model, verify->reference, verify->order, verify->attention, verify->dot);
    pass_t pass = {.verify = verify,
        .report = report,
        .mode = model->mode,
        .logits_type = model->mode == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32,
        .n_layers = model->config.num_hidden_layers,
        .max_rows = options.max_rows};
    pthread_mutex_init(&pass.lock, NULL);
    allocate(&pass, options.max_context / KV_BLOCK, fail);
    /* Agrees on the failure above as well. */
    if (comm_agree(verify->comm, fail) == 0 && forward_open(&pass.forward, model, verify->cache,
                                                   verify->team, verify->comm, &options, fail) == 0)
        run_passes(&pass, fail);
    forward_close(pass.forward);
    free(pass.targets);
    free(pass.logits);
    free(pass.logits_rows);
    free(pass.blocks);
    pthread_mutex_destroy(&pass.lock);
    return fail->status;
}
