#!/usr/bin/env bash
# choir doctor as a user runs it: what it shows of nodes, ranks and links, what it writes for tools,
# what it finds when something is made wrong, and how it exits. No measured number is judged.
#
#   tests/cli/doctor.sh CHOIR RANKS
# shellcheck source=tests/cli/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# doctor NAME STATUS ARGS...
doctor() {
    local name=$1 expected=$2
    shift 2
    ends "$name" "$expected" "${run[@]}" "$choir" doctor --read-mib 2 --threads 1 "$@"
}

# ---- What it shows -------------------------------------------------------------------------------

export CHOIR_WEIGHTS_RATES=5,6.5
doctor "text" 0 --config "$root/configs/qwen2.5-0.5b.json" --json "$work/facts.jsonl"
for text in "Open MPI" "on 1 node" "Machine 0  $(hostname)" "NUMA node 0" "PU " "instruction sets up to " \
    "wall clock +0.000 s" "/dev/shm " "ulimit -l " "huge pages " "network: " "libmpi " "weights GiB" \
    "Recommended:" "choir ..."; do
    says "text" out "$text"
done
says "bindings" out "  rank"
says "weights" out "5.00 dense, 6.50 packed billion weights/s a thread, as given; packed ones decode at 1.30 of the speed, --weights auto chooses packed"
[ "$(grep -c "^$((ranks - 1))  " "$work/out")" -ge 1 ] || complain "text: expected a line of the last rank"
if [ "$ranks" -gt 1 ]; then
    says "pairs" out "Between ranks, above the diagonal latency (us), below it bandwidth (GB/s)"
    says "pairs" out "within nodes, $((ranks * (ranks - 1) / 2)) pair"
fi

# ---- What it writes for tools --------------------------------------------------------------------

[ "$(wc -l <"$work/facts.jsonl")" -eq 1 ] || complain "--json: expected one line"
for member in nodes ranks pairs findings recommended shared_cores memory_available_bytes weight_bytes \
    read_bytes_per_s matrix_flop_per_s dense_weights_per_s packed_weights_per_s transports interfaces; do
    grep -q "\"$member\":" "$work/facts.jsonl" || complain "--json: expected $member"
done
[ "$(grep -o '"rank":[0-9]*' "$work/facts.jsonl" | wc -l)" -eq "$ranks" ] ||
    complain "--json: expected $ranks ranks"
[ "$(grep -o '"latency_s":' "$work/facts.jsonl" | wc -l)" -eq $((ranks * (ranks - 1) / 2)) ] ||
    complain "--json: expected every pair"

unset CHOIR_WEIGHTS_RATES
doctor "measured" 0
says "measured" out " packed billion weights/s a thread; packed ones"
CHOIR_WEIGHTS_RATES=5 doctor "wrong rates" 2
says "wrong rates" err "CHOIR_WEIGHTS_RATES: expected"
export CHOIR_WEIGHTS_RATES=5,5

# ---- What it finds -------------------------------------------------------------------------------

# More threads than there are cores.
export CHOIR_ISA=scalar
doctor "threads" 0 --threads $((2 * $(nproc))) --json -
unset CHOIR_ISA
for name in hyperthreads isa-lowered; do
    says "threads" out "\"name\":\"$name\""
done
says "threads" out "unset CHOIR_ISA"

# A cache that fits nowhere is badly wrong.
doctor "memory" 1 --config "$root/configs/qwen2.5-7b.json" --kv-tokens 4294967296
says "memory" out "bad [memory]"
says "memory" out "fix: "
says "memory" err "choir: error: doctor: 1 of "

if [ "$ranks" -gt 1 ]; then
    OMPI_MCA_btl=tcp,self doctor "tcp" 0
    says "tcp" out "[tcp-in-node]"
    says "tcp" out "mpirun --mca btl self,vader,tcp"
    CHOIR_RANKS_PER_NODE=1 doctor "nodes" 0
    says "nodes" out "on $ranks nodes"
    says "nodes" out "between nodes, "
fi

# ---- What it refuses -----------------------------------------------------------------------------

doctor "two models" 2 --config x --model "$demo"
says "two models" err "expected --config or --model, found both"
doctor "no such file" 1 --config "$work/none.json"
says "no such file" err "$work/none.json"
doctor "no such folder" 1 --json "$work/none/facts.jsonl"
says "no such folder" err "$work/none/facts.jsonl"

conclude
