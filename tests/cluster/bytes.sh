#!/usr/bin/env bash
# What a node receives over the network is what the plan says, and little more: for each prompt token and
# each decode step at most 1.1 times `choir plan`'s figure. A model so narrow that a gather of a decode step is less than a packet
# may need the headers of its messages besides.
#
#   tests/cluster/cluster.sh 2 tests/cluster/bytes.sh CHOIR
#
# Bytes are those of the interface: all headers and acknowledgements, of everything that runs. Two runs that differ in one
# number alone are subtracted, so that what a run sends to begin and to end cancels.
#
# Headers of a message: Ethernet 14, IPv4 20, TCP with timestamps 32, Open MPI 24; and 66 of an acknowledgement, if it does
# not travel with the answer. Messages of a decode step: 4 gathers a layer, the embedding's, and 3 with the coordinator, of some
# 200 bytes together.
. "$(dirname "${BASH_SOURCE[0]}")/cases.sh"
choir=$1
headers=$((14 + 20 + 32 + 24 + 66))
coordinator=200

# Widths of Qwen2.5-1.5B, where a gather of a decode step is a few packets.
cat >"$work/wide.json" <<'END'
{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12,
 "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 2048, "max_position_embeddings": 2048,
 "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true, "torch_dtype": "bfloat16"}
END

# received NODE: bytes that its interface has received. Not from /sys, which is the machine's.
received() {
    "$cluster" on "$1" awk '$1 == "eth0:" { print $2 }' /proc/net/dev
}

# run RANKS CONFIG PROMPT-TOKENS STEPS: sets now1 and now2 to what nodes 1 and 2 received in it
run() {
    local before1 before2
    before1=$(received 1) before2=$(received 2)
    on_all "$1" "$choir" bench --quiet --config "$2" --threads 1 --prompt-tokens "$3" --context 600 \
        --gen-tokens "$4" --batch 1 --warmup 0 --repeat 1 --read-mib 1 --watchdog-seconds 0 >"$work/out" 2>"$work/err" ||
        complain "choir bench fails"
    now1=$(($(received 1) - before1)) now2=$(($(received 2) - before2))
}

# plan_bytes RANKS CONFIG: what a node receives for a token
plan_bytes() {
    "$choir" plan --config "$2" --ranks $((2 * $1)) --node-ranks "$1" >"$work/out" 2>"$work/err" ||
        complain "choir plan fails"
    awk '/a node receives/ {
        for (i = 1; i < NF; i++)
            if ($i == "receives")
                printf "%d\n", $(i + 1) * ($(i + 2) == "MiB" ? 1048576 : $(i + 2) == "KiB" ? 1024 : 1)
    }' "$work/out"
}

# value CONFIG MEMBER
value() {
    grep -o "\"$2\": *[0-9]*" "$1" | grep -o '[0-9]*$'
}

# within NAME BYTES LIMIT FLOOR
within() {
    cases=$((cases + 1))
    echo "$1: $2 bytes, expected $4 to $3"
    { [ "$2" -le "$3" ] && [ "$2" -ge "$4" ]; } || complain "$1: expected $4 to $3 bytes, found $2"
}

# counts NAME CONFIG RANKS MESSAGES: the latter of a step, beyond what the 1.1 pays for
counts() {
    local name="$1, 2 nodes x $3" plan prompt base1 base2 node more
    local embedding=$((2 * $(value "$2" hidden_size))) layers
    layers=$(value "$2" num_hidden_layers)
    local extra=$(($4 > 0 ? $4 * headers + coordinator : 0))
    plan=$(plan_bytes "$3" "$2")
    prompt=$((embedding + (plan - embedding) * (layers - 1) / layers))
    run "$3" "$2" 64 4
    base1=$now1 base2=$now2
    run "$3" "$2" 320 4
    for node in 1 2; do
        more=base$node now=now$node
        # The embedding's row comes from one node only, so each may receive that much less; and nothing passes of the last
        # layer, which works on the prompt's last row.
        within "$name, prompt token, node $node" $(((${!now} - ${!more}) / 256)) $((prompt * 11 / 10)) $((prompt * 8 / 10))
    done
    run "$3" "$2" 64 36
    for node in 1 2; do
        more=base$node now=now$node
        within "$name, decode step, node $node" $(((${!now} - ${!more}) / 32)) \
            $((plan * 11 / 10 + extra)) $((plan * 8 / 10))
    done
}

counts "widths of 1.5B" "$work/wide.json" 1 0
counts "widths of 1.5B" "$work/wide.json" 2 0
counts "the demo model" "$root/configs/demo/config.json" 1 $((4 * 6 + 1 + 3))

finish
