# shellcheck shell=bash
# What compare.sh, compare_cluster.sh and compare_serve.sh share; sourced by them. They set here, prompt_tokens, gen_tokens
# and repeat, and define own_flag NAME VALUE, which fails for a name that is none of theirs.

config='' layers='' out='' choir_flags=''
choir=$here/../build/choir

die() {
    echo "$(basename "$0" .sh): $*" >&2
    exit 2
}

whole_number() {
    case $2 in
    '' | *[!0-9]* | 0*) die "$1: expected a whole number from 1, found '$2'" ;;
    esac
}

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help)
            sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        esac
        [ $# -ge 2 ] || die "$1: expected a value after it, or an unknown flag; see --help"
        case $1 in
        --prompt-tokens) prompt_tokens=$2 ;;
        --gen-tokens) gen_tokens=$2 ;;
        --repeat) repeat=$2 ;;
        --choir) choir=$2 ;;
        --choir-flags) choir_flags=$2 ;;
        --out) out=$2 ;;
        *) own_flag "$1" "$2" || die "$1: unknown flag; see --help" ;;
        esac
        shift 2
    done
}

# Flags of those that measure a shape.
shape_flag() {
    case $1 in
    --config) config=$2 ;;
    --layers) layers=$2 ;;
    *) return 1 ;;
    esac
}

check_shape() {
    [ -n "$config" ] || die "--config: expected a shape, like configs/qwen2.5-1.5b.json"
    [ -r "$config" ] || die "--config: $config: no such file"
    [ -z "$layers" ] || whole_number --layers "$layers"
}

# What all take.
check_common() {
    [ -n "$out" ] || die "--out: expected a file for the results, like bench/results/NAME.jsonl"
    [ ! -e "$out" ] || die "--out: $out exists already; take another name, results are kept"
    [ -d "$(dirname "$out")" ] || die "--out: $(dirname "$out"): no such folder"
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
