#!/usr/bin/env bash
# Builds Choir and runs all of its tests:
#   tests/run.sh [--quick] [--oracle] [--help]
#
#   --quick    the release build only
#   --oracle   instead of the tests: installs PyTorch and transformers into .venv-oracle, remakes the
#              golden files with them, and compares (tests/oracle/README.md). PyTorch's build for CPUs
#              is enough; PIP_EXTRA_INDEX_URL tells pip where to find it
#
# Two builds, warnings being errors: release with all tests, and one with assertions, AddressSanitizer and
# UndefinedBehaviorSanitizer, with fewer rank counts and runs of the program. What the builds need and this machine
# lacks is installed first. The last line is "N passed, N failed" (", N skipped" where some were); the exit
# status is 0 when none failed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
}

quick=
oracle=
for argument; do
    case "$argument" in
    --quick) quick=yes ;;
    --oracle) oracle=yes ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
done

passed=0
failed=0
skipped=0

say() {
    echo "== $* ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
}

finish() {
    local line="$passed passed, $failed failed"
    [ "$skipped" -eq 0 ] || line="$line, $skipped skipped"
    echo "$line"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}

# step NAME COMMAND...: one check; its output is shown when it fails
step() {
    local name=$1 log
    shift
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        say "$name: passed"
        rm -f "$log"
        return 0
    fi
    cat "$log"
    rm -f "$log"
    failed=$((failed + 1))
    say "$name: FAILED"
    return 1
}

# count_of REPORT ATTRIBUTE: a count in the first element of a JUnit report
count_of() {
    tr '\n' ' ' <"$1" | sed "s/.*<testsuite \([^>]*\)>.*/\1/; s/.*[[:space:]]$2=\"\([0-9]*\)\".*/\1/"
}

# run_build PRESET FOLDER LABEL [CMAKE_OPTION...]: configures, builds, and runs the tests, but not those
# of LABEL, which may be empty
run_build() {
    local preset=$1 folder=$2 without=$3 report all bad skips
    shift 3
    say "$preset"
    step "configure" cmake --preset "$preset" -DCHOIR_WERROR=ON "$@" || return 0
    step "build" cmake --build --preset "$preset" || return 0
    report=$root/$folder/tests.xml
    rm -f "$report"
    # Whether all went well is read from the report. Half of the tests' time is waiting: for processes that start and
    # end, and for ranks that are stopped.
    ctest --test-dir "$folder" -j $((2 * $(nproc))) --output-on-failure --no-tests=error \
        --output-junit "$report" ${without:+-LE "$without"} || true
    if [ ! -s "$report" ]; then
        failed=$((failed + 1))
        say "$preset: ctest left no report"
        return 0
    fi
    all=$(count_of "$report" tests)
    bad=$(count_of "$report" failures)
    skips=$(($(count_of "$report" skipped) + $(count_of "$report" disabled)))
    passed=$((passed + all - bad - skips))
    failed=$((failed + bad))
    skipped=$((skipped + skips))
    say "$preset: $all tests, $bad failed, $skips skipped"
}

run_oracle() {
    local python=$root/.venv-oracle/bin/python
    step "configure" cmake --preset release -DCHOIR_WERROR=ON || finish
    step "build" cmake --build --preset release || finish
    step "what Python needs" launch/install-deps.sh --oracle || finish
    step "virtual environment" python3 -m venv .venv-oracle || finish
    step "PyTorch and transformers" \
        "$python" -m pip install --disable-pip-version-check -r tests/oracle/requirements.txt || finish
    say "comparing"
    if "$python" tests/oracle/run.py; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    finish
}

step "what the builds need" launch/install-deps.sh --tests || finish
[ -z "$oracle" ] || run_oracle

run_build release build ""
if [ -z "$quick" ]; then
    export UBSAN_OPTIONS=print_stacktrace=1
    export CHOIR_TEST_QUESTIONS=40 CHOIR_TEST_PROMPTS=4
    # Tests labelled "sources" look at files, which are the same for all builds.
    run_build asan build-asan sources -DCHOIR_MPI_RANKS="1;3"
fi
finish
