# shellcheck shell=bash
# What compare.sh and compare_cluster.sh share; sourced by them. They set here, config, layers, out, prompt_tokens,
# gen_tokens and repeat.

die() {
    echo "$(basename "$0" .sh): $*" >&2
    exit 2
}

whole_number() {
    case $2 in
    '' | *[!0-9]* | 0*) die "$1: expected a whole number from 1, found '$2'" ;;
    esac
}

# What both take.
check_common() {
    [ -n "$config" ] || die "--config: expected a shape, like configs/qwen2.5-1.5b.json"
    [ -r "$config" ] || die "--config: $config: no such file"
    [ -n "$out" ] || die "--out: expected a file for the results, like bench/results/NAME.jsonl"
    [ ! -e "$out" ] || die "--out: $out exists already; take another name, results are kept"
    [ -d "$(dirname "$out")" ] || die "--out: $(dirname "$out"): no such folder"
    [ -z "$layers" ] || whole_number --layers "$layers"
    whole_number --prompt-tokens "$prompt_tokens"
    whole_number --gen-tokens "$gen_tokens"
    whole_number --repeat "$repeat"
    command -v python3 >/dev/null || die "python3 is missing"
}

# Makes work, a folder that goes when the script ends, and in it shape, what all engines read.
make_shape() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    shape=$work/$(basename "$config")
    python3 "$here/compare.py" shape --config "$config" --layers "${layers:-0}" --out "$shape"
}
