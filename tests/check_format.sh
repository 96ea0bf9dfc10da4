#!/usr/bin/env bash
# Checks that clang-format would leave every C file as it is:
#   tests/check_format.sh [--self-test | --fix]
# --fix formats them; --self-test shows that a badly laid out file is noticed. Exits with 77 (skipped)
# where there is no clang-format 14: other versions lay out differently.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=14

find_formatter() {
    local name
    for name in clang-format-$version clang-format; do
        if command -v "$name" >/dev/null 2>&1 && "$name" --version | grep -q " version $version\."; then
            echo "$name"
            return
        fi
    done
    echo "check_format: no clang-format $version; nothing checked" >&2
    exit 77
}

sources() {
    find launch engine comm sharding tests bench -name '*.[ch]' -print0
}

formatter=$(find_formatter)
case "${1:-}" in
--fix) sources | xargs -0 "$formatter" -i ;;
--self-test)
    printf 'int f( int x ){return x;}\n' |
        "$formatter" --dry-run -Werror --assume-filename=tests/x.c 2>/dev/null && {
        echo "self-test: a badly laid out file was not noticed" >&2
        exit 1
    }
    printf 'int f(int x)\n{\n    return x;\n}\n' | "$formatter" --dry-run -Werror --assume-filename=tests/x.c
    ;;
"") sources | xargs -0 "$formatter" --dry-run -Werror ;;
*)
    echo "usage: $0 [--self-test | --fix]" >&2
    exit 2
    ;;
esac
