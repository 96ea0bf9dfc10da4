#include "launch/options.h"

#include "engine/kernels/kernels.h"
#include "engine/model/order.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define AT(member) offsetof(options_t, member)
#define GROUP(title, args)                                                                         \
    {                                                                                              \
        title, args, COUNT(args)                                                                   \
    }

options_t options_defaults(void)
{
    return (options_t){
        .watchdog_seconds = 30,
        .max_tokens = 512,
        .top_p = 1,
        .repetition_penalty = 1,
        .attention = ATTENTION_AUTO,
        .dot = DOT_AUTO,
        .verify_dot = DOT_CHAIN,
        .attentions = 2,
        .file_mib = 1024,
        .prompt_tokens = 512,
        .gen_tokens = 32,
        .batch = 1,
        .repeat = 5,
        .warmup = 1,
        .read_mib = 1024,
    };
}

static const arg_t model_dir_args[] = {
    {"--model", ARG_STRING, AT(model), "DIR", 0, 0,
        "Model directory as downloaded from its hub: config.json, tokenizer files, *.safetensors; "
        "or "
        "a model's name there, Org/Name or Org/Name@REVISION, which is looked up in the cache of "
        "the hub's tools ($HF_HUB_CACHE, $HF_HOME). Without it the small demo model that comes "
        "with "
        "Choir is used."},
};

static const arg_t model_args[] = {
    {"--dtype", ARG_CHOICE, AT(dtype), "bf16|f32|f64", 0, 0,
        "Numeric mode: what weights, activations and cache are rounded to. Default bf16."},
    {"--order", ARG_CHOICE, AT(order), "torch|uniform", 0, 0,
        "Order of additions. torch (default): the bits of Hugging Face transformers, prompt and "
        "decode steps as there. uniform: one order for every row, so that decoding gives the bits "
        "of a prefill."},
    {"--attention", ARG_CHOICE, AT(attention), "eager|sdpa|auto", 0, 0,
        "Which of transformers' attention implementations to equal. Default auto: sdpa, as in "
        "transformers, or eager where sdpa's order is not defined (--order uniform, sliding "
        "windows)."},
    {"--dot", ARG_CHOICE, AT(dot), "chain|amx|auto", 0, 0,
        "How bf16 linear layers add products: chain as vdpbf16ps, amx as TDPBF16PS. Every CPU can "
        "do both with the same bits, the one it has no instruction for slower. Default auto: amx "
        "where every rank has AMX, else chain. Golden texts and PyTorch's bits belong to chain."},
    {"--allow-nonfinite", ARG_SWITCH, AT(allow_nonfinite), NULL, 0, 0,
        "Go on when logits are NaN or infinite; for those who port a model. By default that ends "
        "the run, and the layer and rank where it begins are named."},
};

static const arg_t run_args[] = {
    {"--stage", ARG_STRING, AT(stage), "DIR", 0, 0,
        "With a shard store: keep what this node's ranks need of it in a folder on the node's own "
        "disk, and read it there the next time; everything is checked."},
    {"--combine", ARG_CHOICE, AT(combine), "gather|reduce", 0, 0,
        "How ranks put activations together. gather (default): the same bits at any number of "
        "ranks. reduce: two sums a layer across ranks, whose bits depend on their number."},
    {"--shares", ARG_STRING, AT(shares), "auto|even|2,1,1", 0, 0,
        "How much of the model each rank takes, for machines of different speed. even (default); "
        "auto: in proportion to the memory bandwidth that each rank measures at the start; or a "
        "number for each rank of a replica, 0 for none. Never changes a bit."},
    {"--comm", ARG_CHOICE, AT(comm), "auto|mpi", 0, 0,
        "auto (default): shared memory within a node and MPI between nodes. mpi: MPI collectives "
        "only."},
    {"--threads", ARG_SIZE, AT(threads), "N", 1, 4096,
        "Threads of each rank. Default: the cores the rank is bound to, or its part of the node."},
    {"--bind", ARG_CHOICE, AT(bind), "none|core|numa", 0, 0,
        "Where the rank's threads may run, within what mpirun bound the rank to. none (default): "
        "anywhere; core: each on a core of its own; numa: each within a NUMA node."},
};

static const arg_t batch_args[] = {
    {"--kv-tokens", ARG_SIZE, AT(kv_tokens), "N", 1, 4294967296.0,
        "Tokens that the KV cache holds, all sequences together. Default: chosen by the model's "
        "length and the memory."},
    {"--prefill-chunk", ARG_SIZE, AT(prefill_chunk), "N", 1, 65536,
        "Prompt tokens of one step. Changes speed and memory, never a bit. Default 512."},
    {"--max-batch", ARG_SIZE, AT(max_batch), "N", 1, 4096,
        "Sequences that run at once, of each replica. Default: as many as there are prompts, at "
        "most 64."},
    {"--no-prefix-reuse", ARG_SWITCH, AT(no_prefix_reuse), NULL, 0, 0,
        "Compute every prompt whole, also where prompts begin alike. Changes speed, never a bit."},
};

static const arg_t prompt_args[] = {
    {"TEXT", ARG_STRING, AT(prompt), NULL, 0, 0,
        "The prompt, as an argument; after -- it may begin with a dash."},
    {"--prompt", ARG_STRING, AT(prompt), "TEXT", 0, 0,
        "The prompt. Without it and the flags below it is read from standard input."},
    {"--prompt-file", ARG_STRING, AT(prompt_file), "FILE", 0, 0,
        "The prompt is the text of a file (- for standard input)."},
    {"--prompts", ARG_STRING, AT(prompts), "FILE.jsonl", 0, 0,
        "Many prompts in one batch, a JSON object a line: {\"prompt\": TEXT}, {\"messages\": "
        "[{\"role\": ..., \"content\": ...}, ...], \"tools\": [...], \"documents\": [...], "
        "\"chat_template_kwargs\": {...}} or {\"prompt_ids\": [1, 2]}. "
        "A line may also say of its answer, in place of the flags: max_tokens, stop, temperature, "
        "top_p, top_k, min_p, repetition_penalty, seed, ignore_eos. "
        "Answers come in the order of the lines."},
    {"--ids", ARG_STRING, AT(ids), "1,2,3", 0, 0,
        "The prompt as token ids. Needs no tokenizer files; without them the answer is ids too."},
    {"--chat", ARG_SWITCH, AT(chat), NULL, 0, 0,
        "The prompt is a user's message, put into the model's chat template."},
    {"--raw", ARG_SWITCH, AT(raw), NULL, 0, 0,
        "The prompt goes to the model as it is, without a chat template (default)."},
    {"--system", ARG_STRING, AT(system), "TEXT", 0, 0,
        "System message before the user's; with --chat."},
};

static const arg_t chat_prompt_args[] = {
    {"--system", ARG_STRING, AT(system), "TEXT", 0, 0, "System message of the conversation."},
    {"--raw", ARG_SWITCH, AT(raw), NULL, 0, 0,
        "No chat template: what you type and what the model adds are one running text."},
    {"--no-history", ARG_SWITCH, AT(no_history), NULL, 0, 0,
        "Do not read or keep what you type in ~/.local/state/choir/history."},
};

static const arg_t template_args[] = {
    {"--chat-template", ARG_STRING, AT(chat_template), "FILE|NAME", 0, 0,
        "A chat template (Jinja) in place of the model's own, or the name of one of the model's "
        "templates."},
    {"--template-vars", ARG_STRING, AT(template_vars), "JSON", 0, 0,
        "Variables that the chat template sees, as an object: {\"enable_thinking\": false}."},
};

static const arg_t render_args[] = {
    {"--template", ARG_STRING, AT(template_file), "FILE", 0, 0,
        "The chat template (Jinja), in place of a model's."},
    {"--template-vars", ARG_STRING, AT(template_vars), "JSON", 0, 0,
        "Variables for all lines, as an object; a line's own count before them."},
};

static const arg_t answer_args[] = {
    {"--max-tokens", ARG_SIZE, AT(max_tokens), "N", 0, 4294967296.0,
        "Tokens to generate at most. Default 512; 0 computes the prompt only."},
    {"--temperature", ARG_REAL, AT(temperature), "X", 0, 1e4,
        "Default 0: greedy, always the most likely token. Above: draw, from flatter distributions "
        "the higher it is."},
    {"--top-k", ARG_SIZE, AT(top_k), "N", 0, 4294967295.0,
        "Draw from the N most likely tokens. Default 0: from all."},
    {"--top-p", ARG_REAL, AT(top_p), "P", 0, 1,
        "Draw from the fewest tokens that have probability P together. Default 1: from all."},
    {"--min-p", ARG_REAL, AT(min_p), "P", 0, 1,
        "Draw from tokens at least P times as likely as the most likely one. Default 0: from all."},
    {"--repetition-penalty", ARG_REAL, AT(repetition_penalty), "X", 0.01, 100,
        "Above 1: tokens that occurred become less likely. Default 1."},
    {"--sample", ARG_SWITCH, AT(sample), NULL, 0, 0,
        "Draw with the temperature, top-k, top-p, min-p and repetition penalty that the model's "
        "generation_config.json recommends; the flags above replace single ones."},
    {"--seed", ARG_SEED, AT(seed), "N", 0, 0,
        "Seed of the draws: the same seed and prompt give the same answer on any number of ranks. "
        "Default 0."},
    {"--stop", ARG_STRINGS, AT(stop), "TEXT", 0, 0,
        "End the answer before this text; may be given several times."},
    {"--ignore-eos", ARG_SWITCH, AT(ignore_eos), NULL, 0, 0,
        "Go on after tokens that end a text, up to --max-tokens."},
};

static const arg_t output_args[] = {
    {"--json", ARG_SWITCH, AT(json), NULL, 0, 0,
        "One JSON object a prompt: text, prompt_ids, output_ids, finish_reason, usage, timings."},
    {"--logprobs", ARG_SIZE, AT(logprobs), "N", 0, 20,
        "With --json: log-probability of every token, and of the N most likely ones."},
    {"--logits-out", ARG_STRING, AT(logits_out), "FILE.npy", 0, 0,
        "Write the logits of all prompt positions [tokens, vocabulary] as NumPy f32 (f64 with "
        "--dtype f64); for one prompt."},
};

static const arg_t tokenize_args[] = {
    {"--lines", ARG_SWITCH, AT(lines), NULL, 0, 0,
        "Every line is a text (or, with --decode, an array) of its own."},
    {"--decode", ARG_SWITCH, AT(decode), NULL, 0, 0, "From JSON arrays of ids to text."},
};

static const arg_t plan_args[] = {
    {"--config", ARG_STRING, AT(config), "FILE", 0, 0,
        "A model's config.json; without it, the one of --model."},
    {"--ranks", ARG_SIZE, AT(ranks), "N", 1, 65536,
        "Ranks to split the model over. Default: the ranks of this run."},
    {"--combine", ARG_CHOICE, AT(combine), "gather|reduce", 0, 0,
        "How ranks put activations together. Default gather."},
    {"--shares", ARG_STRING, AT(shares), "even|2,1,1", 0, 0,
        "How much of the model each rank takes: a number for each rank. Default even."},
    {"--dtype", ARG_CHOICE, AT(dtype), "bf16|f32|f64", 0, 0, "Numeric mode. Default bf16."},
    {"--predict", ARG_SWITCH, AT(predict), NULL, 0, 0,
        "Predict prefill and decode on 1 to 1,024 ranks, or on --ranks, and the best mesh of "
        "replicas; needs --cluster (docs/scaling.md)."},
    {"--cluster", ARG_STRING, AT(cluster), "FILE", 0, 0,
        "Measured rates, as choir bench --cluster writes them."},
    {"--what-if", ARG_STRING, AT(what_if), "GBIT[:US]", 0, 0,
        "Predict for a network of so many Gbit/s, of latency US in microseconds (default 20), in "
        "place of the measured one; several with commas: 10,25,100:5."},
    {"--against", ARG_STRING, AT(against), "ROWS.jsonl", 0, 0,
        "Predict rows that choir bench --json or --sweep wrote, and tell the errors."},
    {"--node-ranks", ARG_SIZE, AT(node_ranks), "N", 1, 65536,
        "Ranks on a node: tells what nodes receive. Default with --predict: the most that the "
        "cluster file has rates of."},
    {"--threads", ARG_SIZE, AT(threads), "N", 1, 4096,
        "Threads of a rank. Default: the most that the cluster file has rates of."},
    {"--layers", ARG_SIZE, AT(n_layers), "N", 1, 65536, "Only the first N layers. Default: all."},
    {"--prompt-tokens", ARG_SIZE, AT(prompt_tokens), "N", 1, 16777216, "Default 512."},
    {"--gen-tokens", ARG_SIZE, AT(gen_tokens), "N", 1, 16777216, "Default 32."},
    {"--batch", ARG_SIZE, AT(batch), "N", 1, 65536,
        "Sequences at once, all replicas together. Default 1."},
    {"--context", ARG_SIZE, AT(context), "N", 1, 16777216,
        "Keys in the cache when decoding begins. Default: the prompt's length."},
    {"--json", ARG_STRING, AT(json_file), "FILE", 0, 0,
        "Append predictions to a file as JSON lines; - for standard output in place of the table."},
};

static const arg_t verify_args[] = {
    {"--reference", ARG_STRING, AT(reference), "REF.safetensors", 0, 0,
        "What Hugging Face computed, as tests/oracle/reference.py writes it."},
    {"--candidate", ARG_STRING, AT(candidate), "OTHER.safetensors", 0, 0,
        "Compare this dump with the reference, and run no model."},
    {"--isolated", ARG_SWITCH, AT(isolated), NULL, 0, 0,
        "Only each component by itself, fed with the reference's own inputs."},
    {"--chained", ARG_SWITCH, AT(chained), NULL, 0, 0,
        "Only the whole forward, and the logits of prefill, decode and generate()."},
    {"--layers", ARG_STRING, AT(layers), "0,5-7", 0, 0,
        "Layers whose components are compared. Default: all that the reference has."},
    {"--attention", ARG_CHOICE, AT(attentions), "eager|sdpa|both", 0, 0,
        "Which attention to compare. Default both, where the reference has both."},
    {"--dtype", ARG_CHOICE, AT(dtype), "bf16|f32|f64", 0, 0,
        "Numeric mode. Default: the reference's."},
    {"--dot", ARG_CHOICE, AT(verify_dot), "chain|amx|auto", 0, 0,
        "How bf16 linear layers add products. Default chain, whose bits are PyTorch's."},
    {"--tolerance", ARG_REAL, AT(tolerance), "X", 0, 1e30,
        "Largest absolute difference that passes. Default 0: every bit equal."},
    {"--partial", ARG_SWITCH, AT(partial), NULL, 0, 0,
        "Let a dump or reference pass that lacks tensors; how many is said. Without it that "
        "fails."},
    {"--skip-digest", ARG_SWITCH, AT(skip_digest), NULL, 0, 0,
        "Do not read the whole checkpoint for its digest."},
    {"--shares", ARG_STRING, AT(shares), "auto|even|2,1,1", 0, 0,
        "How much of the model each rank takes. Default even. Never changes a bit."},
    {"--json", ARG_SWITCH, AT(json), NULL, 0, 0, "One JSON object in place of the tables."},
    {"--threads", ARG_SIZE, AT(threads), "N", 1, 4096,
        "Threads of each rank. Default: the cores the rank is bound to, or its part of the node."},
    {"--comm", ARG_CHOICE, AT(comm), "auto|mpi", 0, 0,
        "auto (default): shared memory within a node and MPI between nodes. mpi: MPI collectives "
        "only."},
};

static const arg_t bench_args[] = {
    {"--config", ARG_STRING, AT(config), "FILE", 0, 0,
        "A model's config.json, such as those of configs/: that shape with random weights made in "
        "memory, in place of --model."},
    {"--layers", ARG_SIZE, AT(n_layers), "N", 1, 65536,
        "Only the first N layers, for shapes larger than the memory. Default: all."},
    {"--prompt-tokens", ARG_SIZE, AT(prompt_tokens), "N", 1, 16777216, "Default 512."},
    {"--gen-tokens", ARG_SIZE, AT(gen_tokens), "N", 1, 16777216,
        "Decode steps of a repetition. Default 32."},
    {"--batch", ARG_SIZE, AT(batch), "N", 1, 4096,
        "Sequences at once, each with a prompt of its own. Default 1."},
    {"--context", ARG_SIZE, AT(context), "N", 1, 16777216,
        "Keys in the cache when decoding begins; beyond the prompt's, copies of them. Default: the "
        "prompt's length."},
    {"--repeat", ARG_SIZE, AT(repeat), "N", 1, 1000, "Repetitions. Default 5."},
    {"--warmup", ARG_SIZE, AT(warmup), "N", 0, 1000, "Repetitions before those. Default 1."},
    {"--read-mib", ARG_SIZE, AT(read_mib), "N", 1, 1048576,
        "MiB that each rank reads to measure the bandwidth of memory. Default 1024."},
    {"--gemm", ARG_SWITCH, AT(gemm), NULL, 0, 0,
        "Measure the matrix kernels alone, shape by shape, beside OpenBLAS; on one rank, whose "
        "threads are bound to a core each unless --bind says otherwise."},
    {"--kernels", ARG_SWITCH, AT(kernels), NULL, 0, 0,
        "Measure every kernel alone on one thread: its time, its share of this core's limit, and "
        "scalar C beside it; needs no model."},
    {"--sweep", ARG_STRING, AT(sweep), "LISTS", 0, 0,
        "Measure on more and more of the ranks and threads: \"ranks=1,2 threads=1,2 mesh=1,2 "
        "batch=1,16 context=128,2048 scaling=strong,weak\", or \"auto\"; prompts as long as the "
        "context unless --prompt-tokens is given (docs/scaling.md)."},
    {"--cluster", ARG_STRING, AT(cluster), "FILE", 0, 0,
        "Measure the rates of this machine and network, and keep them for choir plan --predict. "
        "With --sweep: of those ranks and threads."},
    {"--json", ARG_STRING, AT(json_file), "FILE", 0, 0,
        "Append the results to a file of JSON lines (docs/bench-json.md); - for standard output in "
        "place of the table."},
    {"--csv", ARG_STRING, AT(csv_file), "FILE", 0, 0,
        "Append the results to a file of comma-separated values; - likewise."},
};

static const arg_t doctor_args[] = {
    {"--model", ARG_STRING, AT(model), "DIR", 0, 0,
        "A model directory, store or name on the hub: also see whether that model fits. Without it "
        "(and --config) no model is looked at."},
    {"--config", ARG_STRING, AT(config), "FILE", 0, 0,
        "The same for a model's config.json alone, such as those of configs/."},
    {"--dtype", ARG_CHOICE, AT(dtype), "bf16|f32|f64", 0, 0,
        "Numeric mode of that model. Default bf16."},
    {"--kv-tokens", ARG_SIZE, AT(kv_tokens), "N", 1, 4294967296.0,
        "Tokens that its KV cache is to hold. Default: 1024, the least that a run insists on."},
    {"--threads", ARG_SIZE, AT(threads), "N", 1, 4096,
        "Threads of each rank. Default: the cores the rank is bound to, or its part of the node."},
    {"--read-mib", ARG_SIZE, AT(read_mib), "N", 1, 1048576,
        "MiB that each rank reads to measure the bandwidth of memory. Default: 512 on each node, "
        "but 64 to 256 each."},
    {"--json", ARG_STRING, AT(json_file), "FILE", 0, 0,
        "Append the facts and findings to a file as a line of JSON (docs/clusters.md); - for "
        "standard output in place of the text."},
    {"--comm", ARG_CHOICE, AT(comm), "auto|mpi", 0, 0,
        "auto (default): shared memory within a node and MPI between nodes. mpi: MPI collectives "
        "only."},
};

static const arg_t mesh_args[] = {
    {"--mesh", ARG_STRING, AT(mesh), "DxT", 0, 0,
        "Split the ranks into D replicas of the model, each over T of them, which share out the "
        "work. D times T is the number of ranks. Default: one replica over all. No bit of a result "
        "depends on it."},
    {"--own-weights", ARG_SWITCH, AT(own_weights), NULL, 0, 0,
        "Give every replica weights of its own. By default replicas on a node have one copy of "
        "them; with NUMA nodes and memory to spare, copies may be faster. Never changes a bit."},
};

static const arg_t eval_args[] = {
    {"--task", ARG_STRING, AT(task), "NAME|FILE.json", 0, 0,
        "What to evaluate: a task of configs/tasks by its name, or a file like those "
        "(docs/eval.md)."},
    {"--out", ARG_STRING, AT(out), "DIR", 0, 0,
        "Folder of the results: results.jsonl, a line an item as it ends; run.json, what they "
        "depend on; summary.json. The same command again goes on where it stopped, on any mesh. "
        "Default: eval-NAME, by the task's name."},
    {"--data", ARG_STRING, AT(data), "FILE", 0, 0, "Items, in place of the task's."},
    {"--limit", ARG_SIZE, AT(limit), "N", 1, 4294967296.0, "Only the first N items. Default: all."},
    {"--shots", ARG_SIZE, AT(shots), "N", 0, 1000,
        "Solved examples before each item. Default: as the task says."},
    {"--max-tokens", ARG_SIZE, AT(max_tokens), "N", 1, 4294967296.0,
        "Tokens to generate at most. Default: as the task says."},
    {"--strict", ARG_SWITCH, AT(strict), NULL, 0, 0,
        "End with a failure at an item that cannot run, such as one longer than the KV cache, in "
        "place of scoring it as wrong."},
    {"--compare", ARG_PAIR, AT(compare), "A B", 0, 0,
        "Run nothing: tell in which items two results differ, files or folders, timings apart. "
        "Exit status 1 when any does."},
    {"--canonical", ARG_STRING, AT(canonical), "A", 0, 0,
        "Run nothing: print the lines of a result in the order of the items, without timings: "
        "equal results give equal bytes."},
};

static const arg_t shard_args[] = {
    {"--out", ARG_STRING, AT(shard_out), "STORE", 0, 0,
        "Make a shard store of --model, in a folder that is not there yet. Run again after an "
        "interruption, the same command goes on where it was. With --unpack: where the model "
        "directory goes."},
    {"--level", ARG_SIZE, AT(level), "N", 0, 19,
        "Default 0: entropy coding, fast, and already what weights give. 1 to 19: also try zstd's "
        "levels, for weights that repeat themselves."},
    {"--file-size", ARG_SIZE, AT(file_mib), "MIB", 1, 1048576,
        "Size of a data file at most. Data files go out to the ranks. Default 1024."},
    {"--layers", ARG_SIZE, AT(layers_per_file), "N", 1, 1000000,
        "Begin a new data file every N layers, and keep the rest apart from them."},
    {"--check", ARG_STRING, AT(check), "STORE", 0, 0,
        "Compare every checksum of a store; names file, tensor and rows of what is damaged."},
    {"--list", ARG_STRING, AT(list), "STORE", 0, 0, "Print what a store holds."},
    {"--unpack", ARG_STRING, AT(unpack), "STORE", 0, 0,
        "Write the model directory again that a store was made of, byte for byte, to --out."},
    {"--threads", ARG_SIZE, AT(threads), "N", 1, 4096,
        "Threads of each rank. Default: the cores the rank is bound to, or its part of the node."},
};

static const arg_t common_args[] = {
    {"--quiet", ARG_SWITCH, AT(quiet), NULL, 0, 0, "Only answers and errors."},
    {"--verbose", ARG_SWITCH, AT(verbose), NULL, 0, 0, "Say more on standard error."},
    {"--trace", ARG_STRING, AT(trace), "FILE.json", 0, 0,
        "Write what each rank did when, step by step and layer by layer, as a timeline for "
        "ui.perfetto.dev or chrome://tracing."},
    {"--watchdog-seconds", ARG_SIZE, AT(watchdog_seconds), "N", 0, 86400,
        "End a run in which no rank gets on for so long, from its start to its end, with a message "
        "that names the one that holds it up. Waiting for a user does not count. Default 30; 0: "
        "never."},
    {"--help", ARG_SWITCH, AT(help), NULL, 0, 0, "Print this."},
};

const arg_group_t options_model_dir = GROUP("Model", model_dir_args);
const arg_group_t options_model = GROUP("Numerics", model_args);
const arg_group_t options_run = GROUP("Ranks and threads", run_args);
const arg_group_t options_batch = GROUP("Batch and cache", batch_args);
const arg_group_t options_mesh = GROUP("Mesh", mesh_args);
const arg_group_t options_eval = GROUP("Evaluation", eval_args);
const arg_group_t options_doctor = GROUP("Examination", doctor_args);
const arg_group_t options_bench = GROUP("Measurement", bench_args);
const arg_group_t options_prompt = GROUP("Prompt", prompt_args);
const arg_group_t options_chat_prompt = GROUP("Conversation", chat_prompt_args);
const arg_group_t options_template = GROUP("Chat template", template_args);
const arg_group_t options_render = GROUP("Rendering", render_args);
const arg_group_t options_answer = GROUP("Answer", answer_args);
const arg_group_t options_output = GROUP("Output", output_args);
const arg_group_t options_tokenize = GROUP("Texts and ids", tokenize_args);
const arg_group_t options_plan = GROUP("Split", plan_args);
const arg_group_t options_verify = GROUP("Verification", verify_args);
const arg_group_t options_shard = GROUP("Store", shard_args);
const arg_group_t options_common = GROUP("Other", common_args);
