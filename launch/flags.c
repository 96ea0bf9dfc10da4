#include "launch/flags.h"

#include <string.h>

#include "engine/run/engine_choices.h"
#include "engine/run/speculation.h"
#include "engine/text/chat.h"

#define AT(member) offsetof(common_flags_t, member)

static const arg_t model_args[] = {
    FLAG_TEXT("--model", AT(model), "DIR",
        "Model directory as downloaded from its hub: config.json, tokenizer files, *.safetensors; or a model's name there, Org/Name or Org/Name@REVISION, which is looked up in the cache of the hub's tools ($HF_HUB_CACHE, $HF_HOME). Default: Choir's small demo model."),
};
const arg_group_t flags_model = ARG_GROUP("Model", model_args);

static const arg_t path_args[] = {
    FLAG_CHOICE("--comm", AT(path), engine_paths,
        "auto (default): shared memory within a node and MPI between nodes. mpi: MPI collectives "
        "only."),
};
const arg_group_t flags_path = ARG_GROUP(NULL, path_args);

static const arg_t common_args[] = {
    FLAG_SWITCH("--quiet", AT(quiet), "Only answers and errors."),
    FLAG_SWITCH("--verbose", AT(verbose), "More messages on standard error."),
    FLAG_TEXT("--trace", AT(trace), "FILE.json",
        "Write a timeline of all ranks, by step, layer and phase, for ui.perfetto.dev or chrome://tracing."),
    FLAG_SIZE("--watchdog-seconds", AT(watchdog_seconds), "N", 0, 86400,
        "Abort if there is no progress for N seconds, from start to end, with a message that names the rank that the others wait for. Waiting for a user does not count. Default 30; 0: never."),
    FLAG_SWITCH("--help", AT(help), "Print this."),
};
const arg_group_t flags_common = ARG_GROUP("Other", common_args);

#undef AT
#define AT(member) offsetof(run_flags_t, member)

static const arg_t numerics_args[] = {
    FLAG_CHOICE("--dtype", AT(mode), engine_modes,
        "Numeric mode: the type of weights, activations and cache. Default bf16."),
    FLAG_CHOICE("--order", AT(order), engine_orders,
        "Order of additions. torch (default): the bits of Hugging Face transformers, prompt and "
        "decode steps as there, on a CPU with AVX512-BF16; torch-avx2: on one with AVX2 only, bf16. "
        "Every CPU can compute both. uniform: one order for every row, so that decoding gives the "
        "bits of a prefill."),
    FLAG_CHOICE("--attention", AT(attention), engine_attentions,
        "Which of transformers' attention implementations to match. Default auto: sdpa, as in transformers, or eager where sdpa's order is not defined (--order uniform)."),
    FLAG_CHOICE("--dot", AT(dot), engine_dots,
        "How bf16 linear layers add products: chain as vdpbf16ps, amx as TDPBF16PS. Every CPU can compute both with the same bits; without the instruction it is slower. Default auto: amx where every rank has AMX, else chain. chain gives PyTorch's bits and the golden texts."),
    FLAG_CHOICE("--quantised-order", AT(quantised_order), engine_quantised_orders,
        "Of quantised matrices. torch (default): what Hugging Face's libraries compute on a CPU; int4 "
        "stays packed in memory. dequantize: weights are rounded to the mode's type while loading, "
        "then computed as others: the bits of the dequantised model."),
    FLAG_CHOICE("--weights", AT(weights), engine_weights,
        "How bf16 weights are kept in memory. dense (default): as they are. packed: in 12 bits each, without loss, so that a decode step reads a quarter less. auto: packed where dense weights do not fit, or where a measurement at start (0.1 s) expects it to be faster. Never changes a bit."),
    FLAG_SWITCH("--allow-nonfinite", AT(allow_nonfinite),
        "Continue when logits are NaN or infinite, for porting a model. By default the run ends, and a message names the layer and rank where it begins."),
};
const arg_group_t flags_numerics = ARG_GROUP("Numerics", numerics_args);

/* Between these two stands --comm, which is common_flags_t's. */
static const arg_t ranks_args[] = {
    FLAG_TEXT("--stage", AT(stage), "DIR",
        "With a shard store: keep the parts that this node's ranks need in a folder on the node's own disk, and read them there the next time; checksums are compared."),
    FLAG_CHOICE("--combine", AT(combine), engine_combines,
        "How ranks combine activations. gather (default): the same bits at any number of ranks. reduce: two sums a layer across ranks, whose bits depend on their number."),
    FLAG_TEXT("--shares", AT(shares), "auto|even|2,1,1",
        "How much of the model each rank takes, for machines of different speed. even (default); "
        "auto: in proportion to the memory bandwidth that each rank measures at the start; or a "
        "number for each rank of a replica, 0 for none. Never changes a bit."),
};
const arg_group_t flags_ranks = ARG_GROUP("Ranks and threads", ranks_args);

static const arg_t threads_args[] = {
    FLAG_THREADS(AT(threads)),
    FLAG_CHOICE("--bind", AT(bind), engine_binds,
        "Where the rank's threads may run, within what mpirun bound the rank to. none (default): "
        "anywhere; core: each on a core of its own; numa: each within a NUMA node."),
};
const arg_group_t flags_threads = ARG_GROUP(NULL, threads_args);

static const arg_t batch_args[] = {
    FLAG_SIZE("--kv-tokens", AT(kv_tokens), "N", 1, 4294967296.0,
        "Tokens that the KV cache holds, all sequences together. Default: chosen by the model's "
        "length and the memory."),
    FLAG_SIZE("--prefill-chunk", AT(prefill_chunk), "N", 1, 65536,
        "Prompt tokens of one step. Changes speed and memory, never a bit. Default 512."),
    FLAG_SIZE("--max-batch", AT(max_batch), "N", 1, 4096,
        "Sequences that run at once, of each replica. Default: as many as there are prompts, at "
        "most 64."),
    FLAG_TEXT("--speculate", AT(speculate), "ngram|DIR|off",
        "Draft tokens, and verify them in one step. ngram: those that followed where the prompt or the answer was as it is now; DIR: those of a smaller model with the same tokenizer, as --model names it. Changes speed, never the answer. Default off."),
    FLAG_SIZE("--draft-tokens", AT(draft_tokens), "N", 1, SPECULATION_MOST_DRAFTS,
        "With --speculate: tokens that a sequence drafts for a step. Default: as many as pay by what the run has measured."),
    FLAG_SWITCH("--no-prefix-reuse", AT(no_prefix_reuse),
        "Compute every prompt whole, without shared prefixes. Changes speed, never a bit."),
};
const arg_group_t flags_batch = ARG_GROUP("Batch and cache", batch_args);

static const arg_t mesh_args[] = {
    FLAG_TEXT("--mesh", AT(mesh), "DxT",
        "Split the ranks into D replicas of the model with T ranks each, which divide the work. D times T is the number of ranks. Default: one replica over all. Never changes a bit."),
    FLAG_SWITCH("--own-weights", AT(own_weights),
        "Give every replica its own weights. By default replicas on a node share one copy; with NUMA nodes and enough memory, separate copies may be faster. Never changes a bit."),
};
const arg_group_t flags_mesh = ARG_GROUP("Mesh", mesh_args);

#undef AT
#define AT(member) offsetof(answer_flags_t, member)

static const arg_t answer_args[] = {
    FLAG_SIZE("--max-tokens", AT(max_tokens), "N", 0, 4294967296.0,
        "Most tokens to generate. Default 512; 0 computes the prompt only."),
    FLAG_REAL("--temperature", AT(temperature), "X", 0, 1e4,
        "Default 0: greedy, always the most likely token. Above 0: draw; higher values give flatter distributions."),
    FLAG_SIZE("--top-k", AT(top_k), "N", 0, 4294967295.0,
        "Draw from the N most likely tokens. Default 0: from all."),
    FLAG_REAL("--top-p", AT(top_p), "P", 0, 1,
        "Draw from the fewest tokens with a total probability of P. Default 1: from all."),
    FLAG_REAL("--min-p", AT(min_p), "P", 0, 1,
        "Draw from tokens at least P times as likely as the most likely one. Default 0: from all."),
    FLAG_REAL("--repetition-penalty", AT(repetition_penalty), "X", 0.01, 100,
        "Above 1: tokens that occurred become less likely. Default 1."),
    FLAG_REAL("--presence-penalty", AT(presence_penalty), "X", -2, 2,
        "Subtracted from the logits of tokens that the answer has already. Default 0."),
    FLAG_REAL("--frequency-penalty", AT(frequency_penalty), "X", -2, 2,
        "The same, times the number of their occurrences in the answer. Default 0."),
    FLAG_SWITCH("--sample", AT(sample),
        "Draw with the temperature, top-k, top-p, min-p and repetition penalty that the model's "
        "generation_config.json recommends; the flags above replace single ones."),
    FLAG_SEED("--seed", AT(seed), "N",
        "Seed of the draws: the same seed and prompt give the same answer on any number of ranks. "
        "Default 0."),
    FLAG_TEXTS(
        "--stop", AT(stop), "TEXT", "End the answer before this text; may be given several times."),
    FLAG_SWITCH("--ignore-eos", AT(ignore_eos),
        "Continue after tokens that end a text, up to --max-tokens."),
};
const arg_group_t flags_answer = ARG_GROUP("Answer", answer_args);

#undef AT
#define AT(member) offsetof(chat_choice_t, member)

static const arg_t template_args[] = {
    FLAG_TEXT("--chat-template", AT(given), "FILE|NAME",
        "A chat template (Jinja) in place of the model's own, or the name of one of the model's "
        "templates."),
    FLAG_TEXT("--template-vars", AT(variables), "JSON",
        "Variables that the chat template sees, as an object: {\"enable_thinking\": false}."),
};
const arg_group_t flags_template = ARG_GROUP("Chat template", template_args);

/* ---- Rules ----------------------------------------------------------------------------------- */

/* That order has a dot product of its own. */
bool flags_own_dot(const void *run)
{
    return ((const run_flags_t *)run)->order == ORDER_TORCH_AVX2;
}

bool flags_no_drafts(const void *run)
{
    const char *speculate = ((const run_flags_t *)run)->speculate;
    return speculate == NULL || strcmp(speculate, "off") == 0;
}

bool flags_model_drafts(const run_flags_t *run)
{
    return !flags_no_drafts(run) && strcmp(run->speculate, "ngram") != 0;
}

/* Where weights are not bf16, products are added as by chain. */
bool flags_no_amx(const void *run)
{
    const run_flags_t *flags = run;
    return flags->mode != DTYPE_BF16 && flags->dot == DOT_AMX;
}
