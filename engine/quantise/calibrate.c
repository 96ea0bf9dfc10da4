#include "engine/quantise/calibrate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/fault.h"
#include "comm/watch/progress_record.h"
#include "engine/base/clock.h"
#include "engine/base/digest.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/quantise/hessian.h"
#include "engine/quantise/layer_run.h"

/* What is done to a layer, in this order. */
typedef enum stage { STAGE_SUMS, STAGE_FACTORS, STAGE_ROWS, STAGE_FORWARD, STAGES } stage_t;

static const char *const stage_names[] = {"sums", "factors", "rows", "forward"};

struct calibration {
    quantise_job_t *job;
    blas_t blas;
    layer_run_t run;
    quantised_scheme_t scheme;
    hessian_t hessians[LAYER_INPUTS];
    float *scratch, *errors, *row;
    size_t scratch_bytes, error_bytes, row_bytes;
    /* Progress: a layer's stages as they took the last time, first as estimated. */
    double seconds[STAGES], begun[STAGES];
    size_t layer;
    stage_t stage;
    uint64_t stage_ns;
};

/* ---- Progress -------------------------------------------------------------------------------- */

static bool layer_is_done(const calibration_t *c, size_t layer)
{
    const quantise_plan_t *plan = &c->job->plan;
    for (size_t i = 0; i < plan->n_matrices; i++) {
        const quantise_matrix_t *m = &plan->matrices[i];
        for (size_t r = 0; m->layer == layer && r < m->rows; r += QUANTISE_BLOCK_ROWS)
            if (c->job->done[m->first_block + r / QUANTISE_BLOCK_ROWS] == 0)
                return false;
    }
    return true;
}

/* Operations of the stages, over the rate at which they run. */
static void estimate_stages(calibration_t *c)
{
    const double rate = c->run.loaded.options.dot == DOT_AMX ? 6 : 1, rows = (double)c->run.n_rows,
                 workers = (double)comm_size(c->job->comm);
    double weights = 0, errors = 0, squares = 0, factors = 0;
    for (size_t i = 0; i < c->job->plan.n_matrices; i++) {
        const quantise_matrix_t *m = &c->job->plan.matrices[i];
        weights += m->layer != 0 ? 0 : (double)m->rows * (double)m->columns;
        errors += m->layer != 0 ? 0 : (double)m->rows * (double)m->columns * (double)m->columns;
    }
    for (int i = 0; i < LAYER_INPUTS; i++) {
        double n = (double)c->hessians[i].factor.n;
        squares += rows * n * n;
        factors += n * n * n * (2.0 / 3);
    }
    c->seconds[STAGE_FORWARD] = 2 * rows * weights / rate / workers;
    c->seconds[STAGE_SUMS] = c->seconds[STAGE_FORWARD] + squares / workers;
    c->seconds[STAGE_FACTORS] = factors / workers;
    c->seconds[STAGE_ROWS] = errors / workers;
}

static double layer_seconds(const calibration_t *c, size_t layer)
{
    double sum = c->seconds[STAGE_FORWARD];
    for (int s = 0; s < STAGE_FORWARD; s++)
        sum += layer_is_done(c, layer) ? 0 : c->seconds[s];
    return sum;
}

/* part: of the stage under way, 0 to 1 */
static void tell_progress(const calibration_t *c, double part)
{
    const quantise_options_t *o = c->job->options;
    double total = 0, done = part * c->seconds[c->stage];
    if (o->progress == NULL)
        return;
    for (size_t l = 0; l < c->job->plan.config.num_hidden_layers; l++) {
        total += layer_seconds(c, l);
        done += l < c->layer ? layer_seconds(c, l) : 0;
    }
    for (int s = 0; s < (int)c->stage; s++)
        done += layer_is_done(c, c->layer) ? 0 : c->seconds[s];
    o->progress(o->progress_context, (uint64_t)(done / total * 1e6), 1000000);
}

static void begin_stage(calibration_t *c, size_t layer, stage_t stage)
{
    char point[32];
    snprintf(point, sizeof point, "%s-%zu", stage_names[stage], layer);
    fault_at(point);
    c->layer = layer;
    c->stage = stage;
    c->stage_ns = clock_ns();
    tell_progress(c, 0);
}

/* The next layer's stages will take as long. */
static void end_stage(calibration_t *c)
{
    c->begun[c->stage] = (double)(clock_ns() - c->stage_ns) * 1e-9;
    log_write(
        LOG_DEBUG, "layer %zu: %s %.2f s", c->layer, stage_names[c->stage], c->begun[c->stage]);
    bool all = true;
    for (int s = 0; s < STAGES; s++)
        all = all && c->begun[s] > 0;
    if (all)
        memcpy(c->seconds, c->begun, sizeof c->seconds);
}

/* ---- Stages ---------------------------------------------------------------------------------- */

/* Collective. */
static int run_steps(calibration_t *c, bool keeps_inputs, fail_t *fail)
{
    for (size_t s = 0; s < c->run.n_steps; s++) {
        quantise_check_signal(c->job, fail);
        if (comm_agree(c->job->comm, fail) != 0)
            return fail->status;
        layer_run_step(&c->run, s, keeps_inputs);
        comm_set_phase(c->job->comm, PROGRESS_WORK, c->layer);
        for (int i = 0; keeps_inputs && i < LAYER_INPUTS; i++)
            hessian_add(&c->hessians[i], &c->blas, c->run.loaded.team, c->run.steps[s].n_rows,
                c->run.inputs[i]);
        tell_progress(c, (double)(s + 1) / (double)c->run.n_steps);
    }
    return 0;
}

/* Collective. What the layer's matrices multiply, with the weights as they are. */
static int add_sums(calibration_t *c, size_t layer, fail_t *fail)
{
    begin_stage(c, layer, STAGE_SUMS);
    for (int i = 0; i < LAYER_INPUTS; i++)
        hessian_clear(&c->hessians[i]);
    if (layer_run_begin(&c->run, layer, NULL, NULL, fail) == 0)
        run_steps(c, true, fail);
    layer_run_end(&c->run);
    end_stage(c);
    return fail->status;
}

static const char *input_name(int input)
{
    static const char *const names[] = {"q, k, v", "o", "gate, up", "down"};
    return names[input];
}

/* Collective. All ranks wait for all, those of other nodes too, as they do the same. */
static void wait_for_ranks(void *context)
{
    const calibration_t *c = context;
    comm_report_progress(c->job->comm);
    comm_barrier(c->job->comm);
}

/* Collective. */
static void factorise_input(calibration_t *c, size_t layer, int input, fail_t *fail)
{
    const hessian_t *h = &c->hessians[input];
    const gptq_team_t team = hessian_team(h, wait_for_ranks, c);
    const double damping = c->job->options->damping;
    if (team.i == 0)
        h->factor.state->damping = damping;
    gptq_outcome_t outcome =
        gptq_factorise(&c->blas, &h->factor, &team, c->job->options->desc_act, c->scratch);
    if (outcome != GPTQ_DONE)
        fail_set(fail, FAIL_MODEL,
            "layer %zu, inputs of %s: expected sums over the texts that are finite and, with damping, positive definite, found %s",
            layer, input_name(input),
            outcome == GPTQ_NOT_FINITE ? "infinities" : "a singular matrix");
    else if (h->factor.state->damping > damping && comm_rank(c->job->comm) == 0)
        log_write(LOG_WARN,
            "layer %zu, inputs of %s: the sums over the texts are singular with --damping %g: raised to %g; more texts help",
            layer, input_name(input), damping, h->factor.state->damping);
}

/* Collective. */
static int factorise(calibration_t *c, size_t layer, fail_t *fail)
{
    begin_stage(c, layer, STAGE_FACTORS);
    for (int i = 0; i < LAYER_INPUTS; i++)
        hessian_exchange(&c->hessians[i]);
    for (int i = 0; i < LAYER_INPUTS && fail->status == 0; i++)
        factorise_input(c, layer, i, fail);
    end_stage(c);
    return comm_agree(c->job->comm, fail);
}

static void report_work(void *context)
{
    const calibration_t *c = context;
    comm_report_progress(c->job->comm);
}

static int quantise_rows(
    calibration_t *c, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail)
{
    quantise_job_t *job = c->job;
    const quantise_options_t *o = job->options;
    const gptq_factor_t *factor = &c->hessians[layer_input_of(m->role)].factor;
    const gptq_format_t format = {
        o->bits, quantise_group(&job->plan, m), o->layout == QUANTISE_COMPRESSED_TENSORS};
    if (quantise_read_rows(job, m, first, n, fail) != 0)
        return fail->status;
    gptq_quantise(&c->blas, factor, &format,
        &(gptq_rows_t){.n = n,
            .weights = job->rows,
            .errors = c->errors,
            .row = c->row,
            .codes = job->codes,
            .scales = job->scales,
            .working = report_work,
            .context = c});
    return quantise_write_block(job, m, first, n, o->desc_act ? factor->order : NULL, fail);
}

/* Collective. */
static int write_rows(calibration_t *c, size_t layer, fail_t *fail)
{
    quantise_job_t *job = c->job;
    size_t n_blocks = 0, n_done = 0;
    begin_stage(c, layer, STAGE_ROWS);
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < job->plan.n_matrices; i++) {
            const quantise_matrix_t *m = &job->plan.matrices[i];
            for (size_t r = 0; m->layer == layer && r < m->rows; r += QUANTISE_BLOCK_ROWS) {
                size_t block = m->first_block + r / QUANTISE_BLOCK_ROWS;
                n_blocks += pass == 0;
                n_done += pass == 1;
                if (pass == 0 || !quantise_take_block(job, block, fail))
                    continue;
                quantise_rows(c, m, r, size_min(QUANTISE_BLOCK_ROWS, m->rows - r), fail);
                quantise_end_block(job, block, 0, fail);
                tell_progress(c, (double)n_done / (double)n_blocks);
            }
        }
    /* The other nodes' ranks open the file anew. */
    if (fail->status == 0 && comm_n_nodes(job->comm) > 1 && fdatasync(job->weights_fd) != 0)
        fail_set(fail, FAIL_FILE, "%s: %s", job->partial, strerror(errno));
    end_stage(c);
    return comm_agree(job->comm, fail);
}

/* Collective. The hidden states after the quantised layer. */
static int pass_on(calibration_t *c, size_t layer, fail_t *fail)
{
    begin_stage(c, layer, STAGE_FORWARD);
    if (layer_run_begin(&c->run, layer, c->job->partial, &c->scheme, fail) == 0)
        run_steps(c, false, fail);
    layer_run_end(&c->run);
    end_stage(c);
    return fail->status;
}

int calibrate_layers(calibration_t *c, fail_t *fail)
{
    size_t n_layers = c->job->plan.config.num_hidden_layers, last = 0;
    bool any = false;
    for (size_t l = 0; l < n_layers; l++)
        if (!layer_is_done(c, l)) {
            last = l;
            any = true;
        }
    for (size_t l = 0; any && l <= last; l++) {
        if (!layer_is_done(c, l) && (add_sums(c, l, fail) != 0 || factorise(c, l, fail) != 0 ||
                                        write_rows(c, l, fail) != 0))
            return fail->status;
        if (l < last && pass_on(c, l, fail) != 0)
            return fail->status;
    }
    return 0;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static void add_digest(calibration_t *c)
{
    const quantise_options_t *o = c->job->options;
    const quantise_texts_t *t = &o->texts;
    uint64_t *digest = &c->job->plan.digest;
    *digest = digest_bytes(*digest, t->counts, t->n * sizeof *t->counts);
    *digest = digest_bytes(*digest, t->ids, c->run.n_rows * sizeof *t->ids);
    *digest = digest_f64(*digest, o->damping);
    *digest = digest_u64(*digest, o->desc_act);
    *digest = digest_u64(*digest, (uint64_t)c->run.loaded.options.dot);
    *digest = digest_string(digest_string(*digest, c->blas.core), c->blas.description);
}

/* Collective. */
static int open_blas(calibration_t *c, fail_t *fail)
{
    uint64_t digest = DIGEST_START;
    blas_choose_core(c->run.loaded.isa);
    if (blas_open(&c->blas, fail) == 0 && blas_need_lapack(&c->blas, fail) == 0) {
        c->blas.set_threads(1);
        digest = digest_string(digest_string(digest, c->blas.core), c->blas.description);
    }
    return comm_agree_same(c->job->comm, digest, "OpenBLAS and the CPU that it runs for", fail);
}

static int allocate(calibration_t *c, fail_t *fail)
{
    size_t most = QUANTISE_BLOCK_ROWS;
    for (int i = 0; i < LAYER_INPUTS; i++) {
        size_t n = layer_input_columns(&c->job->plan.config, (layer_input_t)i);
        most = size_max(most, n);
        if (hessian_open(&c->hessians[i], c->job->comm, n, fail) != 0)
            return fail->status;
    }
    c->scratch_bytes = 2 * most * sizeof(float);
    c->row_bytes = most * sizeof(float);
    c->error_bytes = (size_t)QUANTISE_BLOCK_ROWS * GPTQ_BLOCK * sizeof(float);
    c->scratch = memory_alloc(c->scratch_bytes, "rows to quantise", fail);
    c->row = memory_alloc(c->row_bytes, "rows to quantise", fail);
    c->errors = memory_alloc(c->error_bytes, "rows to quantise", fail);
    return comm_agree(c->job->comm, fail);
}

int calibrate_open(calibration_t **out, quantise_job_t *job, fail_t *fail)
{
    const quantise_options_t *o = job->options;
    calibration_t *c = calloc(1, sizeof *c);
    *out = c;
    if (c == NULL)
        fail_set(fail, FAIL_MEMORY, "quantize: out of memory");
    if (comm_agree(job->comm, fail) != 0)
        return fail->status;
    c->job = job;
    c->scheme = (quantised_scheme_t){
        .layout = o->layout == QUANTISE_GPTQ ? QUANTISED_GPTQ : QUANTISED_PACKED,
        .bits = o->bits,
        .group = o->group,
        .zeros_minus_one = o->layout == QUANTISE_GPTQ,
        .act_order = o->desc_act};
    if (layer_run_open(&c->run, job->comm, o, fail) != 0 || open_blas(c, fail) != 0 ||
        allocate(c, fail) != 0)
        return fail->status;
    add_digest(c);
    estimate_stages(c);
    return 0;
}

void calibrate_close(calibration_t *c)
{
    if (c == NULL)
        return;
    for (int i = 0; i < LAYER_INPUTS; i++)
        hessian_close(&c->hessians[i]);
    memory_free(c->scratch, c->scratch_bytes);
    memory_free(c->row, c->row_bytes);
    memory_free(c->errors, c->error_bytes);
    layer_run_close(&c->run);
    free(c);
}
