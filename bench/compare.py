"""The parts of compare.sh and compare_cluster.sh that are not their order of turns.

    compare.py shape --config CONFIG.json --layers N --out FILE      the config with N layers (0: its own)
    compare.py turn --out FILE.jsonl ... -- COMMAND...               runs one engine, appends one line
    compare.py table FILE.jsonl [--max-other-load X]                 medians, ratios, shares of the roof

A line of FILE.jsonl describes one turn; compare.sh and compare_cluster.sh say what a turn is:

    name, engine, version, dtype       what ran; engine is choir, transformers, llama-bench or distributed-llama
    peer, round                        a line of Choir and the peer's line before it have both in common
    config, layers, parameters, threads, prompt_tokens, gen_tokens
    nodes, rate                        where there are several: how many, of so many threads each; what tc limits links to
    prefill_tokens_per_s, decode_tokens_per_s
    date                               when the turn began, UTC
    cpu, cpus                          model, family and instruction sets; how many this process may use
    wall_s, other_load                 length; CPUs that on average worked for others meanwhile
    command                            the words of it
    for Choir also the members of its own line that FROM_CHOIR lists; docs/bench-json.md explains them
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s")
FROM_CHOIR = ("read_bandwidth_bytes_per_s", "peak_flop_per_s", "fma_flop_per_s", "decode_bytes_per_s",
              "prefill_flop_per_s", "prefill_split", "decode_split", "logits_digest", "isa", "dot", "order")
SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd", "bf16")


class Failure(Exception):
    """One line for the user."""


# ---- The shape ------------------------------------------------------------------------------------


def read_config(path):
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config["num_hidden_layers"], int):
            raise ValueError("no whole number of layers")
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"{path}: expected a Qwen2 config.json: {error}") from error
    return config


def write_shape(args):
    config = read_config(args.config)
    if args.layers > 0:
        config["num_hidden_layers"] = args.layers
        config.pop("layer_types", None)
    Path(args.out).write_text(json.dumps(config, indent=2), encoding="utf-8")


def parameter_counts(config):
    """All weights and biases, with tied embeddings counted once, as most do, and twice."""
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    layer = 2 * hidden * q + q + 2 * (hidden * kv + kv) + 3 * hidden * mlp + 2 * hidden
    rest, embedding = config["num_hidden_layers"] * layer + hidden, config["vocab_size"] * hidden
    return [rest + embedding, rest + 2 * embedding] if config.get("tie_word_embeddings") else [rest + 2 * embedding]


# ---- One turn -------------------------------------------------------------------------------------


def cpu_facts():
    """Virtual machines hide the model's name, so family, model and instruction sets stand beside it."""
    facts = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {"model": facts.get("model name", platform.machine()), "vendor": facts.get("vendor_id", ""),
            "family": facts.get("cpu family", ""), "model_number": facts.get("model", ""),
            "sets": [name for name in SETS if name in flags]}


def busy_seconds():
    """CPU seconds that this machine's CPUs have worked, or were taken by its host; None where unknown."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command):
    """(standard output, wall seconds, load of others); what the command says of errors passes through."""
    busy, own, start = busy_seconds(), children_seconds(), time.monotonic()
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from error
    wall = time.monotonic() - start
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-2000:])
        raise Failure(f"exit status {done.returncode} from: {shlex.join(command)}")
    if busy is None:
        return done.stdout, wall, None
    return done.stdout, wall, max(0.0, busy_seconds() - busy - (children_seconds() - own)) / wall


def last_line_of_json(text, whose):
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise Failure(f"{whose}: expected a line of JSON, found: {text.strip()[-200:]!r}") from error


def from_choir(args, _stdout):
    try:
        text = Path(args.json).read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"choir bench wrote no {args.json}: {error.strerror}") from error
    line = last_line_of_json(text, "choir bench --json")
    return {"engine": "choir", "version": line.get("version", ""),
            **{name: line[name] for name in (*SPEEDS, *FROM_CHOIR) if name in line}}


def from_pytorch(_args, stdout):
    line = last_line_of_json(stdout, "peer_pytorch.py")
    return {name: line[name] for name in ("engine", "version", "attention", "parameters", *SPEEDS)}


def from_llama(args, stdout):
    """llama-bench -o json: a list of tests, here one of the prompt and one of generation."""
    try:
        tests = json.loads(stdout)
        prefill = next(t for t in tests if t["n_prompt"] == args.prompt_tokens and t["n_gen"] == 0)
        decode = next(t for t in tests if t["n_gen"] == args.gen_tokens)
        return {"engine": "llama-bench", "version": prefill["build_commit"], "type": prefill["model_type"],
                "parameters": int(prefill["model_n_params"]), "file_bytes": int(prefill["model_size"]),
                "prefill_tokens_per_s": prefill["samples_ts"][-1],
                "decode_tokens_per_s": decode["samples_ts"][-1]}
    except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
        raise Failure(f"llama-bench: expected tests of the prompt and of generation in JSON ({error!r}), "
                      f"found: {stdout.strip()[-200:]!r}") from error


def from_dllama(_args, stdout):
    """A line for each batch of the prompt and each step; the first of either kind is its warm-up."""
    time = r"\s*(\d+) ms Sync\s*(\d+) ms"
    batches = [(int(tokens), int(work) + int(sync))
               for work, sync, tokens in re.findall(f"Eval{time}.*\\((\\d+) tokens\\)", stdout)][1:]
    steps = [int(work) + int(sync) for work, sync in re.findall(f"Pred{time}", stdout)][1:]
    if not batches or not steps:
        raise Failure(f"dllama inference: expected lines of two batches and two steps at least, found: "
                      f"{stdout.strip()[-200:]!r}")
    return {"engine": "distributed-llama", "version": "", "type": "q40",
            "prefill_tokens_per_s": 1e3 * sum(n for n, _ in batches) / sum(ms for _, ms in batches),
            "decode_tokens_per_s": 1e3 * len(steps) / sum(steps)}


def take_turn(args):
    shape, began = read_config(args.shape), datetime.datetime.now(datetime.timezone.utc)
    stdout, wall, others = run(args.command)
    found = {"choir": from_choir, "pytorch": from_pytorch, "llama": from_llama,
             "dllama": from_dllama}[args.engine](args, stdout)
    expected = parameter_counts(shape)
    if found.setdefault("parameters", expected[0]) not in expected:
        raise Failure(f"{args.name}: expected {expected[0]} parameters, as {args.config} has with "
                      f"{shape['num_hidden_layers']} layers, found {found['parameters']}")
    for name in SPEEDS:
        if not isinstance(found.get(name), (int, float)) or found[name] <= 0:
            raise Failure(f"{args.name}: {name}: expected a number above 0, found {found.get(name)!r}")
    line = {"name": args.name, "peer": args.peer, "round": args.round, "dtype": args.dtype, **found,
            "config": Path(args.config).name, "layers": shape["num_hidden_layers"], "threads": args.threads,
            **({"nodes": args.nodes, "rate": args.rate} if args.nodes > 1 else {}), "prompt_tokens": args.prompt_tokens, "gen_tokens": args.gen_tokens,
            "date": began.strftime("%Y-%m-%dT%H:%M:%SZ"), "cpu": cpu_facts(), "cpus": len(os.sched_getaffinity(0)),
            "wall_s": round(wall, 2), "other_load": None if others is None else round(others, 3),
            "command": [Path(args.command[0]).name, *(Path(w).name for w in args.command[1:])]}
    with open(args.out, "a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


# ---- The table ------------------------------------------------------------------------------------


def read_lines(path):
    try:
        lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: expected lines of JSON written by compare.sh: {error}") from error
    if not lines:
        raise Failure(f"{path}: expected at least one turn, found none")
    return lines


def pairs_of(lines, max_other_load):
    """{peer: [(line of the peer, line of Choir)]}, without pairs in which others had more than the limit."""
    turns = {}
    for line in lines:
        turns.setdefault((line["peer"], line["round"]), {})[line["engine"] == "choir"] = line
    pairs = {}
    for (peer, _), both in turns.items():
        loads = [line["other_load"] or 0 for line in both.values()]
        if len(both) == 2 and max(loads) <= max_other_load:
            pairs.setdefault(peer, []).append((both[False], both[True]))
    return pairs


def ratio_text(pairs, speed):
    ratios = sorted(choir[speed] / peer[speed] for peer, choir in pairs)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"


def check_digests(lines):
    """A faster wrong answer shows: Choir's turns of one type must agree."""
    digests = {}
    for line in lines:
        if line["engine"] == "choir" and "logits_digest" in line:
            digests.setdefault(line["dtype"], set()).add(line["logits_digest"])
    for dtype, found in digests.items():
        if len(found) > 1:
            raise Failure(f"choir {dtype}: expected the same logits in every turn, found digests "
                          f"{', '.join(sorted(found))}")


def median_of(lines, name):
    return statistics.median(line[name] for line in lines)


def print_peers(pairs):
    print(f"{'':24}{'prefill, tokens/s':^44}{'decode, tokens/s':^44}")
    head = f"{'peer':>10}{'Choir':>10}  {'ratio (of all rounds)':<22}"
    print(f"{'peer':24}{head}{head} rounds")
    for name, both in pairs.items():
        row = f"{name:24}"
        for speed in SPEEDS:
            peer, choir = (median_of([pair[i] for pair in both], speed) for i in (0, 1))
            row += f"{peer:10.2f}{choir:10.2f}  {ratio_text(both, speed):<22}"
        print(f"{row} {len(both)}")


def share(lines, part, whole):
    """Median of part/whole, taken line by line; None where a line lacks one."""
    if not all(line.get(part) and line.get(whole) for line in lines):
        return None
    return statistics.median(line[part] / line[whole] for line in lines)


def print_roofs(pairs):
    """Choir's shares; a peer of the same type does the same work, so its share is Choir's over the ratio."""
    for name, both in pairs.items():
        choir = [pair[1] for pair in both]
        flop = share(choir, "prefill_flop_per_s", "peak_flop_per_s")
        read = share(choir, "decode_bytes_per_s", "read_bandwidth_bytes_per_s")
        if flop is None or read is None:
            continue
        peak, bandwidth = median_of(choir, "peak_flop_per_s"), median_of(choir, "read_bandwidth_bytes_per_s")
        print(f"beside {name}: Choir {choir[0]['dtype']} prefill {100 * flop:.0f}% of {peak / 1e12:.3g} TFLOP/s, "
              f"decode {100 * read:.0f}% of {bandwidth / 1e9:.3g} GB/s")
        bits = both[0][0].get("type", both[0][0]["dtype"]).lower()
        if bits.endswith(choir[0]["dtype"]):
            shares = [100 * s / statistics.median(c[speed] / p[speed] for p, c in both)
                      for s, speed in zip((flop, read), SPEEDS)]
            print(f"{'':{len('beside ')}}{name}: prefill {shares[0]:.0f}%, decode {shares[1]:.0f}%")


def print_table(args):
    lines = read_lines(args.file)
    first, cpu = lines[0], lines[0]["cpu"]
    nodes = f"{first['nodes']} nodes x " if "nodes" in first else ""
    print(f"{first['config']}, {first['layers']} layers, {nodes}{first['threads']} threads, prompt {first['prompt_tokens']}, "
          f"{first['gen_tokens']} generated")
    print(f"{cpu['model']} ({cpu['vendor']} family {cpu['family']} model {cpu['model_number']}; "
          f"{' '.join(cpu['sets'])}), {first['date']}")
    pairs = pairs_of(lines, args.max_other_load)
    if not pairs:
        raise Failure(f"{args.file}: no pair of turns in which others used at most {args.max_other_load} CPUs")
    check_digests(lines)
    loads = [line["other_load"] for line in lines if line["other_load"] is not None]
    if loads:
        print(f"CPUs at work for others: median {statistics.median(loads):.2f}, most {max(loads):.2f} "
              f"of {first['cpus']}")
    print()
    print_peers(pairs)
    print()
    print_roofs(pairs)


def print_servers(args):
    """Of compare_serve.sh's rows, for each number of streams."""
    lines = read_lines(args.file)
    print("| streams | tokens/s, Choir / peer | Choir | peer | rounds |\n|---|---|---|---|---|")
    for clients in sorted({line["clients"] for line in lines}):
        turns = {}
        for line in lines:
            if line["clients"] == clients:
                turns.setdefault(line["round"], {})[line["engine"]] = line
        pairs = [(both["peer"], both["choir"]) for both in turns.values() if len(both) == 2]
        speed = "gen_tokens_per_s"
        print(f"| {clients} | {ratio_text(pairs, speed)} | {median_of([c for _, c in pairs], speed):.1f} | "
              f"{median_of([p for p, _ in pairs], speed):.1f} | {len(pairs)} |")


# ---- Arguments ------------------------------------------------------------------------------------


def parse():
    parser = argparse.ArgumentParser(description="Turns and tables of compare.sh.")
    commands = parser.add_subparsers(dest="what", required=True)
    shape = commands.add_parser("shape")
    shape.add_argument("--config", required=True)
    shape.add_argument("--layers", type=int, default=0)
    shape.add_argument("--out", required=True)
    shape.set_defaults(run=write_shape)
    turn = commands.add_parser("turn")
    for name in ("out", "name", "engine", "dtype", "peer", "shape", "config", "json"):
        turn.add_argument("--" + name, required=True)
    for name in ("round", "threads", "prompt-tokens", "gen-tokens"):
        turn.add_argument("--" + name, type=int, required=True)
    turn.add_argument("--nodes", type=int, default=1)
    turn.add_argument("--rate", default="none")
    turn.add_argument("command", nargs="+")
    turn.set_defaults(run=take_turn)
    table = commands.add_parser("table")
    table.add_argument("file")
    table.add_argument("--max-other-load", type=float, default=float("inf"))
    table.set_defaults(run=print_table)
    servers = commands.add_parser("servers")
    servers.add_argument("file")
    servers.set_defaults(run=print_servers)
    return parser.parse_args()


def main():
    args = parse()
    try:
        args.run(args)
    except Failure as error:
        sys.exit(f"compare: {error}")


if __name__ == "__main__":
    main()
