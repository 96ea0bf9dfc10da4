/* Defects planted into an opened model, one at a time: verification has to name the component that
 * is wrong, and only components that may be. Weights, tables and the kernels' table are altered
 * here; the engine itself knows nothing of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/model/rope.h"
#include "engine/verify/verify_forward.h"
#include "tests/defects.h"
#include "tests/wrong_kernels.h"

#define MODEL CHOIR_SOURCE_DIR "/configs/demo"
#define REFERENCE CHOIR_SOURCE_DIR "/tests/golden/demo-reference.safetensors"
/* Random weights of seed 1, three layers. */
#define QWEN3 CHOIR_SOURCE_DIR "/tests/oracle/shapes/qwen3.json"
#define QWEN3_REFERENCE CHOIR_SOURCE_DIR "/tests/golden/qwen3-reference.safetensors"
#define LLAMA CHOIR_SOURCE_DIR "/tests/oracle/shapes/llama.json"
#define LLAMA_REFERENCE CHOIR_SOURCE_DIR "/tests/golden/llama-reference.safetensors"
#define AVX2_REFERENCE CHOIR_SOURCE_DIR "/tests/golden/demo-reference-avx2.safetensors"
/* The demo model, but two matrices (avx2_scale_mlp). */
#define DENORMALS_REFERENCE CHOIR_SOURCE_DIR "/tests/golden/denormals-avx2.safetensors"
#define TINY CHOIR_SOURCE_DIR "/tests/oracle/shapes/tiny.json"
#define TINY_REFERENCE CHOIR_SOURCE_DIR "/tests/golden/tiny-reference-avx2.safetensors"
/* Attention alone, in the shape of the tiny model. */
#define KEYS_REFERENCE CHOIR_SOURCE_DIR "/tests/golden/keys-avx2.safetensors"
#define MOE CHOIR_SOURCE_DIR "/tests/oracle/shapes/qwen3_moe_small.json"
#define MOE_REFERENCE CHOIR_SOURCE_DIR "/tests/golden/qwen3-moe-reference.safetensors"
#define QUANTISED CHOIR_SOURCE_DIR "/tests/golden/quantised"
#define MAX_WIDTH 2048

/* ---- Altered models -------------------------------------------------------------------------- */

static void use_rope_of_neighbours(bench_t *bench)
{
    bench->model.kernels.rope = rope_of_neighbours;
}

static void use_rope_of_swapped_halves(bench_t *bench)
{
    bench->model.kernels.rope = rope_of_swapped_halves;
}

static void use_norm_rounded_once(bench_t *bench)
{
    bench->model.kernels.rms_norm = norm_rounded_once;
}

static void use_norm_without_eps(bench_t *bench)
{
    bench->model.kernels.rms_norm = norm_without_eps;
}

static void use_scores_without_scale(bench_t *bench)
{
    bench->model.kernels.scale_scores = scores_without_scale;
}

static void use_softmax_in_bf16(bench_t *bench)
{
    bench->model.kernels.softmax = softmax_in_bf16;
}

static void use_softmax_of_one_key_less(bench_t *bench)
{
    bench->model.kernels.softmax = softmax_of_one_key_less;
}

static void use_swiglu_rounded_once(bench_t *bench)
{
    bench->model.kernels.store_swiglu = swiglu_rounded_once;
}

static void use_swiglu_of_the_other(bench_t *bench)
{
    bench->model.kernels.store_swiglu = swiglu_of_the_other;
}

static void use_residual_dropped(bench_t *bench)
{
    bench->model.kernels.store_residual = residual_dropped;
}

static void use_residual_rounded_once(bench_t *bench)
{
    bench->model.kernels.store_residual = residual_rounded_once;
}

static void use_logits_unrounded(bench_t *bench)
{
    bench->model.kernels.store_logits = logits_unrounded;
}

static void use_short_leaves(bench_t *bench)
{
    bench->model.kernels.tile = tile_of_short_leaves;
}

static void use_the_next_head(bench_t *bench)
{
    bench->model.kernels.tile = tile_of_the_next_head;
}

static void use_sdpa_without_scale(bench_t *bench)
{
    bench->model.kernels.sdpa_weights = sdpa_without_scale;
}

static void use_sdpa_of_one_key_less(bench_t *bench)
{
    bench->model.kernels.sdpa_weights = sdpa_of_one_key_less;
}

static void use_another_eps(bench_t *bench)
{
    bench->model.config.rms_norm_eps = 1e-3;
}

static void forget_bias(bench_t *bench, matrix_t *matrix)
{
    memset(matrix->bias, 0, matrix->rows * bench->model.kernels.element_bytes);
}

static void forget_q_bias(bench_t *bench)
{
    forget_bias(bench, &bench->model.layers[0].of[WEIGHT_Q].matrix);
}

static void forget_k_bias(bench_t *bench)
{
    forget_bias(bench, &bench->model.layers[5].of[WEIGHT_K].matrix);
}

static void forget_v_bias(bench_t *bench)
{
    forget_bias(bench, &bench->model.layers[0].of[WEIGHT_V].matrix);
}

static void forget_o_bias(bench_t *bench)
{
    forget_bias(bench, &bench->model.layers[0].of[WEIGHT_O].matrix);
}

static void forget_gate_bias(bench_t *bench)
{
    forget_bias(bench, &bench->model.layers[2].of[WEIGHT_GATE].matrix);
}

static void forget_up_bias(bench_t *bench)
{
    forget_bias(bench, &bench->model.layers[0].of[WEIGHT_UP].matrix);
}

static void forget_down_bias(bench_t *bench)
{
    forget_bias(bench, &bench->model.layers[2].of[WEIGHT_DOWN].matrix);
}

static void set_ones(bench_t *bench, void *vector)
{
    for (size_t i = 0; i < bench->model.config.hidden_size; i++)
        ((uint16_t *)vector)[i] = 0x3f80;
}

static void ignore_post_norm(bench_t *bench)
{
    set_ones(bench, bench->model.layers[5].of[WEIGHT_POST_NORM].vector);
}

static void ignore_final_norm(bench_t *bench)
{
    set_ones(bench, bench->model.outside.of[WEIGHT_FINAL_NORM].vector);
}

static void tables_from(bench_t *bench, const config_t *config, size_t first)
{
    model_t *model = &bench->model;
    rope_tables(
        config, model->mode, first, model->rope_positions, model->rope_cos, model->rope_sin);
}

static void use_another_theta(bench_t *bench)
{
    config_t config = bench->model.config;
    config.rope_theta = 1000000;
    tables_from(bench, &config, 0);
}

static void use_another_rope_factor(bench_t *bench)
{
    config_t config = bench->model.config;
    config.rope.factor = 32;
    tables_from(bench, &config, 0);
}

static void forget_rope_scaling(bench_t *bench)
{
    config_t config = bench->model.config;
    config.rope.type = ROPE_DEFAULT;
    tables_from(bench, &config, 0);
}

static void count_positions_from_one(bench_t *bench)
{
    tables_from(bench, &bench->model.config, 1);
}

/* A tensor's rows of the checkpoint as they are, or turned, into a rank's matrix. */
static void load_rows(
    bench_t *bench, const char *name, matrix_t *matrix, size_t first_row, bool turned)
{
    const checkpoint_tensor_t *tensor = checkpoint_find(bench->checkpoint, name);
    size_t rows = tensor->shape[0], columns = tensor->shape[1];
    uint16_t *values = malloc(rows * columns * sizeof *values), row[MAX_WIDTH];
    fail_t fail = {0};
    checkpoint_read(
        bench->checkpoint, tensor, 0, rows, 0, columns, values, DTYPE_BF16, NULL, &fail);
    for (size_t r = 0; r < matrix->rows; r++) {
        size_t p = r / KERNEL_PANEL;
        for (size_t c = 0; c < columns; c++)
            row[c] = turned ? values[c * columns + first_row + r]
                            : values[(first_row + r) * columns + c];
        panel_pack_rows(DTYPE_BF16, 1, columns, row, (void *)(uintptr_t)matrix_panel(matrix, p, 0),
            matrix_panel_width(matrix, p), r % KERNEL_PANEL);
    }
    free(values);
}

static void transpose_o_proj(bench_t *bench)
{
    load_rows(bench, "model.layers.5.self_attn.o_proj.weight",
        &bench->model.layers[5].of[WEIGHT_O].matrix, model_share(&bench->model)->hidden.begin,
        true);
}

/* Ranks 0 and 1 have each other's rows of down_proj. */
static void mix_up_ranks(bench_t *bench)
{
    const plan_share_t *shares = bench->model.plan.shares;
    size_t rank = bench->model.rank;
    if (rank > 1)
        return;
    load_rows(bench, "model.layers.0.mlp.down_proj.weight",
        &bench->model.layers[0].of[WEIGHT_DOWN].matrix, shares[1 - rank].hidden.begin, false);
}

static bool ranks_can_be_mixed_up(const bench_t *bench)
{
    const plan_t *plan = &bench->model.plan;
    return plan->n_ranks > 1 && plan_count(plan->shares[0].hidden) > 0 &&
           plan_count(plan->shares[0].hidden) == plan_count(plan->shares[1].hidden);
}

static void swap_gate_and_up(bench_t *bench)
{
    model_weight_t *of = bench->model.layers[0].of, gate = of[WEIGHT_GATE];
    of[WEIGHT_GATE] = of[WEIGHT_UP];
    of[WEIGHT_UP] = gate;
}

static void take_v_for_k(bench_t *bench)
{
    load_rows(bench, "model.layers.0.self_attn.v_proj.weight",
        &bench->model.layers[0].of[WEIGHT_K].matrix,
        model_share(&bench->model)->kv_heads.begin * bench->model.config.head_dim, false);
}

static void ignore_q_norm(bench_t *bench)
{
    uint16_t *weight = bench->model.layers[2].of[WEIGHT_Q_NORM].vector;
    for (size_t i = 0; i < bench->model.config.head_dim; i++)
        weight[i] = 0x3f80;
}

static void take_q_norm_for_k(bench_t *bench)
{
    model_weight_t *of = bench->model.layers[0].of;
    memcpy(of[WEIGHT_K_NORM].vector, of[WEIGHT_Q_NORM].vector,
        bench->model.config.head_dim * bench->model.kernels.element_bytes);
}

static void embed_another_token(bench_t *bench)
{
    bench->reference->prompts[1].ids[1]++;
}

/* lm_head is another matrix than the embedding it is tied to. */
static void untie_lm_head(bench_t *bench)
{
    model_t *model = &bench->model;
    fail_t fail = {0};
    matrix_t *lm_head = &model->outside.of[WEIGHT_LM_HEAD].matrix;
    const matrix_t *embedding = &model->outside.of[WEIGHT_EMBEDDING].matrix;
    *lm_head = *embedding;
    lm_head->panels = memory_alloc(lm_head->bytes, "lm_head", &fail);
    bench->untied = *lm_head;
    memcpy(lm_head->panels, embedding->panels, lm_head->bytes);
    for (size_t i = 0; i < lm_head->bytes; i += 2)
        ((char *)lm_head->panels)[i] ^= 1;
    model->config.tie_word_embeddings = false;
}

static bool keys_of_two_heads(const bench_t *bench)
{
    return plan_count(model_share(&bench->model)->kv_heads) > 1;
}

/* ---- Defects --------------------------------------------------------------------------------- */

static const defect_t defects[] = {
    {"RoPE rotates neighbours", use_rope_of_neighbours, COMPONENT_Q_ROPE, ROPES, EAGER, NULL},
    {"RoPE's halves are swapped", use_rope_of_swapped_halves, COMPONENT_Q_ROPE, ROPES, EAGER, NULL},
    {"another rope_theta", use_another_theta, COMPONENT_Q_ROPE, ROPES, EAGER, NULL},
    {"positions count from one", count_positions_from_one, COMPONENT_Q_ROPE, ROPES, EAGER, NULL},
    {"q_proj's bias is forgotten", forget_q_bias, COMPONENT_Q_PROJ, 0, EAGER, NULL},
    {"k_proj's bias is forgotten", forget_k_bias, COMPONENT_K_PROJ, 0, EAGER, NULL},
    {"v_proj's bias is forgotten", forget_v_bias, COMPONENT_V_PROJ, 0, EAGER, NULL},
    {"k_proj has v_proj's weights", take_v_for_k, COMPONENT_K_PROJ, 0, EAGER, NULL},
    {"the square o_proj is transposed", transpose_o_proj, COMPONENT_O_PROJ, 0, EAGER, NULL},
    {"KV heads are shared wrongly", use_the_next_head, COMPONENT_ATTN_WEIGHTS, 0, EAGER,
        keys_of_two_heads},
    {"the attention scale is dropped", use_scores_without_scale, COMPONENT_ATTN_WEIGHTS, 0, EAGER,
        NULL},
    {"the softmax is in bf16", use_softmax_in_bf16, COMPONENT_ATTN_WEIGHTS, 0, EAGER, NULL},
    {"the causal mask is off by one", use_softmax_of_one_key_less, COMPONENT_ATTN_WEIGHTS, 0, EAGER,
        NULL},
    {"another eps", use_another_eps, COMPONENT_NORMALIZED_INPUT, NORMS, EAGER, NULL},
    {"no eps", use_norm_without_eps, COMPONENT_NORMALIZED_AFTER_ATTN, NORMS, EAGER, NULL},
    {"RMSNorm skips a rounding", use_norm_rounded_once, COMPONENT_NORMALIZED_INPUT, NORMS, EAGER,
        NULL},
    {"a norm's weight is ignored", ignore_post_norm, COMPONENT_NORMALIZED_AFTER_ATTN, 0, EAGER,
        NULL},
    {"the final norm's weight is ignored", ignore_final_norm, COMPONENT_FINAL_NORM, 0, EAGER, NULL},
    {"gate_proj and up_proj are swapped", swap_gate_and_up, COMPONENT_GATE_PROJ,
        BIT(COMPONENT_UP_PROJ), EAGER, NULL},
    {"SiLU is taken of up", use_swiglu_of_the_other, COMPONENT_MLP_ACTIVATION, 0, EAGER, NULL},
    {"SiLU skips a rounding", use_swiglu_rounded_once, COMPONENT_MLP_ACTIVATION, 0, EAGER, NULL},
    {"leaves are too short", use_short_leaves, COMPONENT_MLP_OUTPUT, 0, EAGER, NULL},
    {"two ranks' slices are mixed up", mix_up_ranks, COMPONENT_MLP_OUTPUT, 0, EAGER,
        ranks_can_be_mixed_up},
    {"the residual is dropped", use_residual_dropped, COMPONENT_HIDDEN_AFTER_ATTN,
        BIT(COMPONENT_LAYER_OUTPUT), EAGER, NULL},
    {"the token is another", embed_another_token, COMPONENT_EMBEDDING_OUTPUT, 0, EAGER, NULL},
    {"lm_head is not the embedding", untie_lm_head, COMPONENT_LOGITS, ALL_LOGITS, EAGER, NULL},
    {"logits are not rounded", use_logits_unrounded, COMPONENT_LOGITS, ALL_LOGITS, EAGER, NULL},
    {"the residual skips a rounding", use_residual_rounded_once, COMPONENT_LOGITS, ALL_LOGITS,
        FUSED, NULL},
    {"sdpa drops the scale", use_sdpa_without_scale, COMPONENT_ATTN_OUTPUT, 0, SDPA, NULL},
    {"sdpa's mask is off by one", use_sdpa_of_one_key_less, COMPONENT_ATTN_OUTPUT, 0, SDPA, NULL},
};

static const defect_t qwen3_defects[] = {
    {"q_norm's weight is ignored", ignore_q_norm, COMPONENT_Q_NORM, 0, EAGER, NULL},
    {"k_norm has q_norm's weight", take_q_norm_for_k, COMPONENT_K_NORM, 0, EAGER, NULL},
    {"another eps of Qwen3", use_another_eps, COMPONENT_NORMALIZED_INPUT,
        NORMS | BIT(COMPONENT_Q_NORM) | BIT(COMPONENT_K_NORM), EAGER, NULL},
};

static const defect_t llama_defects[] = {
    {"another factor of llama3's RoPE", use_another_rope_factor, COMPONENT_Q_ROPE, ROPES, EAGER,
        NULL},
    {"llama3's RoPE is the default one", forget_rope_scaling, COMPONENT_Q_ROPE, ROPES, EAGER, NULL},
    {"o_proj's bias is forgotten", forget_o_bias, COMPONENT_O_PROJ, 0, EAGER, NULL},
    {"gate_proj's bias is forgotten", forget_gate_bias, COMPONENT_GATE_PROJ, 0, EAGER, NULL},
    {"up_proj's bias is forgotten", forget_up_bias, COMPONENT_UP_PROJ, 0, EAGER, NULL},
    {"down_proj's bias is forgotten", forget_down_bias, COMPONENT_MLP_OUTPUT, 0, EAGER, NULL},
};

static void die(const fail_t *fail)
{
    fprintf(stderr, "mpi_defects: %s\n", fail->message);
    comm_abort(1);
}

static void open_bench(bench_t *bench, const subject_t *subject, fail_t *fail)
{
    const config_t *config = &subject->config;
    size_t positions = size_round_up(verify_forward_positions(bench->reference), KV_BLOCK);
    model_options_t options = {.n_ranks = (size_t)comm_size(bench->comm),
        .rank = (size_t)comm_rank(bench->comm),
        .mode = DTYPE_BF16,
        .dot = subject->order == ORDER_TORCH_AVX2 ? DOT_FOLD : DOT_CHAIN,
        .isa = isa_detect(),
        .max_positions = positions};
    bench->checkpoint = subject->checkpoint;
    if (model_load(&bench->model, config, &subject->source, &options, bench->team, fail) != 0 ||
        kv_cache_open(&bench->cache, DTYPE_BF16, config->num_hidden_layers,
            plan_count(model_share(&bench->model)->kv_heads), config->head_dim,
            positions / KV_BLOCK, fail) != 0)
        die(fail);
    if (subject->prepare != NULL)
        subject->prepare(bench);
    wrong_kernels_begin(&bench->model.kernels, &bench->model.router_kernels, &bench->cache);
}

static void close_bench(bench_t *bench)
{
    memory_free(bench->untied.panels, bench->untied.bytes);
    bench->untied = (matrix_t){0};
    kv_cache_close(&bench->cache);
    model_close(&bench->model);
    reference_close(bench->reference);
}

/* Rank 0. Whether the report says what the defect deserves; a NULL defect deserves nothing. */
static bool judge(const report_t *report, const defect_t *defect)
{
    report_table_t table = defect == NULL || defect->where == EAGER ? REPORT_ISOLATED
                           : defect->where == SDPA ? REPORT_ISOLATED + ATTENTION_SDPA
                                                   : REPORT_LOGITS;
    const report_divergence_t *first = &report->totals.first[table];
    bool good = defect == NULL ? !first->found : first->found && first->place.kind == defect->named;
    if (!good)
        printf("    first divergence: %s, layer %zu, prompt %zu\n",
            first->found ? reference_kind_name(first->place.kind) : "none", first->place.layer,
            first->place.prompt);
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        bool may = defect != NULL && (kind == defect->named || (defect->may & BIT(kind)) != 0);
        if (compare_passes(&report->totals.cells[table][kind], 0) || may)
            continue;
        printf("    %s differs too\n", reference_kind_name(kind));
        good = false;
    }
    return good;
}

/* Collective. 1: as it should be, 0: not, -1: does not apply. */
static int try_defect(bench_t *bench, const subject_t *subject, const defect_t *defect)
{
    fail_t fail = {0};
    report_t *report;
    reference_t reference;
    bool fused = defect != NULL && defect->where == FUSED;
    bench->reference = &reference;
    if (report_open(&report, 0, &fail) != 0 ||
        reference_open(&reference, subject->reference, &fail) != 0)
        die(&fail);
    open_bench(bench, subject, &fail);
    bool applies = defect == NULL || defect->applies == NULL ||
                   comm_max(bench->comm, defect->applies(bench)) != 0;
    int result = -1;
    if (applies) {
        if (defect != NULL)
            defect->plant(bench);
        verify_forward_t verify = {.comm = bench->comm,
            .team = bench->team,
            .model = &bench->model,
            .cache = &bench->cache,
            .reference = &reference,
            .order = subject->order,
            .dot = subject->order == ORDER_TORCH_AVX2 ? DOT_FOLD : DOT_CHAIN,
            .attention = defect != NULL && defect->where == SDPA ? ATTENTION_SDPA : ATTENTION_EAGER,
            .isolated = !fused,
            .chained = fused};
        verify_forward(&verify, report, &fail);
        report_gather(report, bench->comm, &fail);
        if (fail.status != 0)
            die(&fail);
        result = comm_rank(bench->comm) != 0 || judge(report, defect);
    }
    close_bench(bench);
    report_close(report);
    return result;
}

typedef struct counts {
    size_t named, failed, skipped;
} counts_t;

/* Collective. Without a defect nothing is named; with each, its component. */
static void try_all(
    bench_t *bench, const subject_t *subject, const defect_t *list, size_t n, counts_t *counts)
{
    if (try_defect(bench, subject, NULL) != 1)
        counts->failed++;
    for (size_t i = 0; i < n; i++) {
        int result = try_defect(bench, subject, &list[i]);
        counts->named += result == 1;
        counts->skipped += result < 0;
        if (result != 0)
            continue;
        counts->failed++;
        printf("FAILED at %d ranks: %s: expected %s to be named\n", comm_size(bench->comm),
            list[i].name, reference_kind_name(list[i].named));
    }
}

/* A directory of golden/quantised, with its reference. */
static void try_quantised(
    bench_t *bench, const char *name, const defect_t *list, size_t n, counts_t *counts)
{
    char directory[512], reference[600];
    fail_t fail = {0};
    subject_t subject = {.reference = reference};
    snprintf(directory, sizeof directory, QUANTISED "/%s", name);
    snprintf(reference, sizeof reference, QUANTISED "/%s-reference.safetensors", name);
    if (config_load(&subject.config, directory, &fail) != 0 ||
        checkpoint_open(&subject.checkpoint, directory, &fail) != 0)
        die(&fail);
    subject.source = model_source_checkpoint(subject.checkpoint);
    try_all(bench, &subject, list, n, counts);
    checkpoint_close(subject.checkpoint);
}

int main(int argc, char **argv)
{
    static const uint64_t seed = 1;
    fail_t fail = {0};
    bench_t bench = {0};
    subject_t demo = {.reference = REFERENCE}, qwen3 = {.reference = QWEN3_REFERENCE},
              llama = {.reference = LLAMA_REFERENCE},
              avx2 = {.reference = AVX2_REFERENCE, .order = ORDER_TORCH_AVX2},
              denormal = {.reference = DENORMALS_REFERENCE,
                  .order = ORDER_TORCH_AVX2,
                  .prepare = avx2_scale_mlp},
              tiny = {.reference = TINY_REFERENCE, .order = ORDER_TORCH_AVX2}, keys,
              moe = {.reference = MOE_REFERENCE};
    counts_t counts = {0};
    if (comm_start(&argc, &argv, &fail) != 0 ||
        comm_open_world(&bench.comm, COMM_AUTO, &fail) != 0 ||
        config_load(&demo.config, MODEL, &fail) != 0 ||
        config_load_file(&qwen3.config, QWEN3, &fail) != 0 ||
        config_load_file(&llama.config, LLAMA, &fail) != 0 ||
        config_load_file(&moe.config, MOE, &fail) != 0 ||
        checkpoint_open(&demo.checkpoint, MODEL, &fail) != 0 ||
        config_load_file(&tiny.config, TINY, &fail) != 0 ||
        team_open(&bench.team, 1, true, &fail) != 0)
        die(&fail);
    demo.source = model_source_checkpoint(demo.checkpoint);
    qwen3.source = model_source_random(&seed);
    llama.source = model_source_random(&seed);
    moe.source = model_source_random(&seed);
    try_all(&bench, &demo, defects, sizeof defects / sizeof *defects, &counts);
    try_all(&bench, &qwen3, qwen3_defects, sizeof qwen3_defects / sizeof *qwen3_defects, &counts);
    avx2.config = denormal.config = demo.config;
    avx2.source = denormal.source = demo.source;
    tiny.source = model_source_random(&seed);
    keys = tiny;
    keys.reference = KEYS_REFERENCE;
    try_all(&bench, &avx2, &avx2_chain_defect, 1, &counts);
    try_all(&bench, &tiny, avx2_tiny_defects, n_avx2_tiny_defects, &counts);
    try_all(&bench, &keys, &avx2_keys_defect, 1, &counts);
    try_all(&bench, &denormal, &avx2_denormal_defect, 1, &counts);
    try_all(&bench, &llama, llama_defects, sizeof llama_defects / sizeof *llama_defects, &counts);
    try_all(&bench, &moe, moe_defects, n_moe_defects, &counts);
    try_quantised(&bench, "int4", int4_defects, n_int4_defects, &counts);
    try_quantised(&bench, "int8", int8_defects, n_int8_defects, &counts);
    try_quantised(&bench, "fp8", fp8_defects, n_fp8_defects, &counts);
    try_quantised(&bench, "mixed", compressed_defects, n_compressed_defects, &counts);
    if (comm_rank(bench.comm) == 0)
        printf("%zu defects named, %zu failed, %zu do not exist at %d ranks\n", counts.named,
            counts.failed, counts.skipped, comm_size(bench.comm));
    team_close(bench.team);
    checkpoint_close(demo.checkpoint);
    comm_close(bench.comm);
    comm_stop();
    return counts.failed != 0;
}
