#!/usr/bin/env bash
# Checks who includes whom (docs/architecture.md), and that no files include each other in a circle:
#   tests/check_includes.sh [--self-test] [ROOT]
# Prints each #include that breaks a rule and exits with 1. --self-test shows that it can: it breaks
# every rule in a tree of its own and expects to be told.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Folders that a folder may include from, besides itself.
allowed_folders() {
    local model="engine/base engine/kernels sharding"
    local run="$model engine/model engine/forward engine/text comm"
    case "$1" in
    engine/base) ;;
    engine/kernels | engine/text | comm | sharding) echo engine/base ;;
    engine/model) echo "$model" ;;
    engine/forward) echo "$model" engine/model comm ;;
    engine/run) echo "$run" ;;
    engine/verify | engine/measure | engine/doctor | engine/eval | engine/quantise) echo "$run" engine/run ;;
    engine/serve) echo engine/base engine/text engine/run ;;
    launch | tests | bench) echo "$run" engine/run engine/verify engine/measure engine/doctor engine/eval engine/serve engine/quantise ;;
    tests/launch) echo "$(allowed_folders tests)" launch ;;
    esac
}

# The folders that a header of a library may be included in; of those in one_file, in one file alone.
system_folder() {
    case "$1" in
    mpi.h | hwloc.h) echo comm ;;
    zstd.h) echo sharding ;;
    sleef.h) echo engine/kernels engine/model engine/run ;;
    cblas.h | *intrin.h | arm_neon.h | arm_sve.h) echo engine/kernels ;;
    histedit.h) echo launch ;;
    microhttpd.h) echo engine/serve ;;
    jansson.h) echo engine/base engine/model engine/text engine/run engine/verify engine/measure engine/eval engine/serve sharding launch engine/quantise ;;
    pcre2.h) echo engine/text engine/model ;;
    utf8proc.h) echo engine/text ;;
    *) echo any ;;
    esac
}
one_file=" hwloc.h zstd.h cblas.h histedit.h "

folder_of() {
    local folder=${1%/*}
    # engine/kernels/x/y.h belongs to engine/kernels, launch/x/y.h to launch.
    case "$folder" in
    engine/*/*) echo "engine/$(folder_of "${folder#engine/}")" ;;
    engine/* | tests/launch) echo "$folder" ;;
    *) echo "${folder%%/*}" ;;
    esac
}

contains() { # WORDS WORD
    case " $1 " in *" $2 "*) return 0 ;; *) return 1 ;; esac
}

# FILE LINE TEXT: one violation
violation() {
    echo "$1:$2: $3" >&2
    violations=$((violations + 1))
}

check_ours() { # FILE LINE HEADER
    local folder target
    folder=$(folder_of "$1")
    if [ ! -f "$3" ]; then
        violation "$1" "$2" "includes \"$3\": no such file, counted from the repository's root"
        return
    fi
    target=$(folder_of "$3")
    if [ "$folder" = "$target" ]; then
        return
    fi
    if ! contains "$(allowed_folders "$folder")" "$target"; then
        violation "$1" "$2" "$folder may not include $target (\"$3\")"
    fi
    case "$3" in
    *internal.h) violation "$1" "$2" "\"$3\" is internal to $target" ;;
    esac
}

check_system() { # FILE LINE HEADER
    local folder folders
    folder=$(folder_of "$1")
    # Tests and benchmarks check and measure libraries directly where they need to.
    case "$folder" in tests* | bench) return ;; esac
    folders=$(system_folder "$3")
    if [ "$folders" != any ] && ! contains "$folders" "$folder"; then
        violation "$1" "$2" "<$3> belongs into $folders only"
    fi
    if contains "$one_file" "$3"; then
        if [ -n "${first_user[$3]:-}" ]; then
            violation "$1" "$2" "<$3> belongs into one file, and is in ${first_user[$3]} already"
        fi
        first_user[$3]=$1
    fi
}

# Reads "FILE HEADER" lines, prints those that lie on a circle. A .c counts as one with its .h and with the header of its
# internals: x.c, x.h and x_internal.h, and a folder's internal.h with the folder's own x/x.h. First whatever includes
# nobody is taken away, or is included by nobody, until nothing changes.
circles() {
    awk '
        function unit(file) {
            sub(/\.[ch]$/, "", file)
            sub(/_internal$/, "", file)
            if (file ~ /\/internal$/) {
                sub(/\/internal$/, "", file)
                sub(/[^\/]*$/, "&/&", file)
            }
            return file
        }
        function reaches(from, to,  n, i, others) {
            if (from == to)
                return 1
            if (seen[from]++)
                return 0
            n = split(next_of[from], others, " ")
            for (i = 1; i <= n; i++)
                if (reaches(others[i], to))
                    return 1
            return 0
        }
        {
            from = unit($1)
            to = unit($2)
            if (from != to)
                edges[from " " to] = $1 ": a circle of files: includes \"" $2 "\""
        }
        END {
            do {
                split("", has_out)
                split("", has_in)
                for (edge in edges) {
                    split(edge, ends, " ")
                    has_out[ends[1]] = has_in[ends[2]] = 1
                }
                n_removed = 0
                for (edge in edges) {
                    split(edge, ends, " ")
                    if (!(ends[2] in has_out) || !(ends[1] in has_in)) {
                        delete edges[edge]
                        n_removed++
                    }
                }
            } while (n_removed > 0)
            for (edge in edges) {
                split(edge, ends, " ")
                next_of[ends[1]] = next_of[ends[1]] " " ends[2]
            }
            for (edge in edges) {
                split(edge, ends, " ")
                split("", seen)
                if (reaches(ends[2], ends[1]))
                    print edges[edge]
            }
        }' | sort
}

check_tree() { # ROOT
    local file number header circle seen=0 pairs=""
    declare -A first_user=()
    violations=0
    cd "$1"
    while IFS=: read -r file number header; do
        seen=$((seen + 1))
        case "$header" in
        \"*\"*)
            header=${header#\"}
            header=${header%%\"*}
            check_ours "$file" "$number" "$header"
            pairs+="$file $header"$'\n'
            ;;
        \<*\>*)
            header=${header#<}
            check_system "$file" "$number" "${header%%>*}"
            ;;
        *) violation "$file" "$number" "an #include that this check cannot read: $header" ;;
        esac
    done < <(grep -rnE --include='*.[ch]' '^[[:space:]]*#[[:space:]]*include' \
        launch engine comm sharding tests bench 2>/dev/null |
        sed -E 's/^([^:]*:[0-9]+:)[[:space:]]*#[[:space:]]*include[[:space:]]*/\1/')
    while read -r circle; do
        echo "$circle" >&2
        violations=$((violations + 1))
    done < <(printf '%s' "$pairs" | circles)
    echo "$seen includes checked, $violations against the rules" >&2
    [ "$seen" -gt 0 ] && [ "$violations" -eq 0 ]
}

# expect_violation NAME FILE TEXT...: a tree that is right but for the lines of some files
expect_violation() {
    local name=$1 tree
    shift
    tree=$scratch/tree
    rm -rf "$tree"
    mkdir -p "$tree"/{launch,comm,sharding,tests,bench,engine/{base,kernels,model,forward,text,run,verify,measure,eval,serve}}
    for header in launch/args comm/comm comm/internal sharding/plan tests/fixture bench/timer \
        engine/base/status engine/kernels/kernels engine/model/model engine/forward/forward \
        engine/text/tokenizer engine/run/engine engine/verify/verify; do
        echo '#include <stddef.h>' >"$tree/$header.h"
    done
    echo '#include <hwloc.h>' >"$tree/comm/topology.c"
    if ! (check_tree "$tree") 2>/dev/null; then
        echo "self-test: a tree that keeps the rules is refused" >&2
        failures=$((failures + 1))
    fi
    for header in comm/b comm/c engine/base/status_b; do
        : >"$tree/$header.h"
    done
    local all="$*"
    while [ $# -gt 0 ]; do
        echo "$2" >>"$tree/$1"
        shift 2
    done
    if (check_tree "$tree") 2>/dev/null; then
        echo "self-test: not noticed: $name ($all)" >&2
        failures=$((failures + 1))
    fi
}

self_test() {
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    failures=0
    expect_violation "comm includes sharding" comm/comm.c '#include "sharding/plan.h"'
    expect_violation "sharding includes comm" sharding/plan_shares.c '#include "comm/comm.h"'
    expect_violation "comm includes the engine above it" comm/comm.h '#include "engine/model/model.h"'
    expect_violation "kernels include model" engine/kernels/scalar.c '#include "engine/model/model.h"'
    expect_violation "kernels include comm" engine/kernels/scalar.c '  #  include "comm/comm.h"'
    expect_violation "text includes model" engine/text/bpe.c '#include "engine/model/model.h"'
    expect_violation "model includes run" engine/forward/forward.c '#include "engine/run/engine.h"'
    expect_violation "eval includes verify, which is beside it" engine/eval/eval.c '#include "engine/verify/verify.h"'
    expect_violation "base includes kernels" engine/base/team.c '#include "engine/kernels/kernels.h"'
    expect_violation "engine includes launch" engine/run/engine.c '#include "launch/args.h"'
    expect_violation "engine includes tests" engine/run/engine.c '#include "tests/fixture.h"'
    expect_violation "launch includes bench" launch/main.c '#include "bench/timer.h"'
    expect_violation "tests of other folders include launch" tests/test_x.c '#include "launch/args.h"'
    expect_violation "tests include bench" tests/test_x.c '#include "bench/timer.h"'
    expect_violation "an internal header is included elsewhere" engine/forward/forward.c '#include "comm/internal.h"'
    expect_violation "an include that is not rooted" comm/comm.c '#include "comm.h"'
    expect_violation "mpi.h outside of comm" engine/run/step.c '#include <mpi.h>'
    expect_violation "hwloc.h in a second file" comm/threads.c '#include <hwloc.h>'
    expect_violation "zstd.h outside of sharding" engine/base/pack.c '#include <zstd.h>'
    expect_violation "cblas.h outside of kernels" engine/model/product.c '#include <cblas.h>'
    expect_violation "histedit.h outside of launch" engine/run/engine.c '#include <histedit.h>'
    expect_violation "serve includes forward" engine/serve/serve.c '#include "engine/forward/forward.h"'
    expect_violation "microhttpd.h outside of serve" launch/main.c '#include <microhttpd.h>'
    expect_violation "intrinsics outside of kernels" engine/model/fast.c '#include <immintrin.h>'
    expect_violation "two files that include each other" engine/base/status.h '#include "engine/base/status_b.h"' \
        engine/base/status_b.c '#include "engine/base/status.h"'
    expect_violation "a circle over a .c and internals" comm/internal.h '#include "comm/b.h"' comm/b.c '#include "comm/c.h"' \
        comm/c_internal.h '#include "comm/comm.h"'
    expect_violation "an include by macro" comm/comm.c '#include HEADER'
    [ "$failures" -eq 0 ] && echo "every broken rule was noticed" >&2
}

if [ "${1:-}" = --self-test ]; then
    self_test
else
    check_tree "${1:-$here/..}"
fi
