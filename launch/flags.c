#include "launch/flags.h"

#include "engine/run/engine_choices.h"
#include "engine/text/chat.h"

#define AT(member) offsetof(common_flags_t, member)

static const arg_t model_args[] = {
    FLAG_TEXT("--model", AT(model), "DIR",
        "Model directory as downloaded from its hub: config.json, tokenizer files, *.safetensors; "
        "or "
        "a model's name there, Org/Name or Org/Name@REVISION, which is looked up in the cache of "
        "the hub's tools ($HF_HUB_CACHE, $HF_HOME). Without it the small demo model that comes "
        "with "
        "Choir is used."),
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
    FLAG_SWITCH("--verbose", AT(verbose), "Say more on standard error."),
    FLAG_TEXT("--trace", AT(trace), "FILE.json",
        "Write what each rank did when, step by step and layer by layer, as a timeline for "
        "ui.perfetto.dev or chrome://tracing."),
    FLAG_SIZE("--watchdog-seconds", AT(watchdog_seconds), "N", 0, 86400,
        "End a run in which no rank gets on for so long, from its start to its end, with a message "
        "that names the one that holds it up. Waiting for a user does not count. Default 30; 0: "
        "never."),
    FLAG_SWITCH("--help", AT(help), "Print this."),
};
const arg_group_t flags_common = ARG_GROUP("Other", common_args);

#undef AT
#define AT(member) offsetof(run_flags_t, member)

static const arg_t numerics_args[] = {
    FLAG_CHOICE("--dtype", AT(mode), engine_modes,
        "Numeric mode: what weights, activations and cache are rounded to. Default bf16."),
    FLAG_CHOICE("--order", AT(order), engine_orders,
        "Order of additions. torch (default): the bits of Hugging Face transformers, prompt and "
        "decode steps as there. uniform: one order for every row, so that decoding gives the bits "
        "of a prefill."),
    FLAG_CHOICE("--attention", AT(attention), engine_attentions,
        "Which of transformers' attention implementations to equal. Default auto: sdpa, as in "
        "transformers, or eager where sdpa's order is not defined (--order uniform, sliding "
        "windows)."),
    FLAG_CHOICE("--dot", AT(dot), engine_dots,
        "How bf16 linear layers add products: chain as vdpbf16ps, amx as TDPBF16PS. Every CPU can "
        "do both with the same bits, the one it has no instruction for slower. Default auto: amx "
        "where every rank has AMX, else chain. Golden texts and PyTorch's bits belong to chain."),
    FLAG_SWITCH("--allow-nonfinite", AT(allow_nonfinite),
        "Go on when logits are NaN or infinite; for those who port a model. By default that ends "
        "the run, and the layer and rank where it begins are named."),
};
const arg_group_t flags_numerics = ARG_GROUP("Numerics", numerics_args);

/* Between these two stands --comm, which is common_flags_t's. */
static const arg_t ranks_args[] = {
    FLAG_TEXT("--stage", AT(stage), "DIR",
        "With a shard store: keep what this node's ranks need of it in a folder on the node's own "
        "disk, and read it there the next time; everything is checked."),
    FLAG_CHOICE("--combine", AT(combine), engine_combines,
        "How ranks put activations together. gather (default): the same bits at any number of "
        "ranks. reduce: two sums a layer across ranks, whose bits depend on their number."),
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
    FLAG_SWITCH("--no-prefix-reuse", AT(no_prefix_reuse),
        "Compute every prompt whole, also where prompts begin alike. Changes speed, never a bit."),
};
const arg_group_t flags_batch = ARG_GROUP("Batch and cache", batch_args);

static const arg_t mesh_args[] = {
    FLAG_TEXT("--mesh", AT(mesh), "DxT",
        "Split the ranks into D replicas of the model, each over T of them, which share out the "
        "work. D times T is the number of ranks. Default: one replica over all. No bit of a result "
        "depends on it."),
    FLAG_SWITCH("--own-weights", AT(own_weights),
        "Give every replica weights of its own. By default replicas on a node have one copy of "
        "them; with NUMA nodes and memory to spare, copies may be faster. Never changes a bit."),
};
const arg_group_t flags_mesh = ARG_GROUP("Mesh", mesh_args);

#undef AT
#define AT(member) offsetof(answer_flags_t, member)

static const arg_t answer_args[] = {
    FLAG_SIZE("--max-tokens", AT(max_tokens), "N", 0, 4294967296.0,
        "Tokens to generate at most. Default 512; 0 computes the prompt only."),
    FLAG_REAL("--temperature", AT(temperature), "X", 0, 1e4,
        "Default 0: greedy, always the most likely token. Above: draw, from flatter distributions "
        "the higher it is."),
    FLAG_SIZE("--top-k", AT(top_k), "N", 0, 4294967295.0,
        "Draw from the N most likely tokens. Default 0: from all."),
    FLAG_REAL("--top-p", AT(top_p), "P", 0, 1,
        "Draw from the fewest tokens that have probability P together. Default 1: from all."),
    FLAG_REAL("--min-p", AT(min_p), "P", 0, 1,
        "Draw from tokens at least P times as likely as the most likely one. Default 0: from all."),
    FLAG_REAL("--repetition-penalty", AT(repetition_penalty), "X", 0.01, 100,
        "Above 1: tokens that occurred become less likely. Default 1."),
    FLAG_SWITCH("--sample", AT(sample),
        "Draw with the temperature, top-k, top-p, min-p and repetition penalty that the model's "
        "generation_config.json recommends; the flags above replace single ones."),
    FLAG_SEED("--seed", AT(seed), "N",
        "Seed of the draws: the same seed and prompt give the same answer on any number of ranks. "
        "Default 0."),
    FLAG_TEXTS(
        "--stop", AT(stop), "TEXT", "End the answer before this text; may be given several times."),
    FLAG_SWITCH(
        "--ignore-eos", AT(ignore_eos), "Go on after tokens that end a text, up to --max-tokens."),
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

bool flags_one_replica(const void *run, const args_given_t *given)
{
    (void)given;
    return ((const run_flags_t *)run)->mesh == NULL;
}

/* Where weights are not bf16, products are added as by chain. */
bool flags_no_amx(const void *run, const args_given_t *given)
{
    const run_flags_t *flags = run;
    (void)given;
    return flags->mode != DTYPE_BF16 && flags->dot == DOT_AMX;
}
