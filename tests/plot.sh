#!/usr/bin/env bash
# bench/plot.py on a small sweep: every chart, and a report that needs no other file.
#
#   tests/plot.sh CHOIR
#
# Exit status 77 with a message where Python has no matplotlib (CHOIR_PYTHON: another one than python3).
set -eu

choir=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${CHOIR_PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -c 'import matplotlib' 2>/dev/null || { echo "skipped: $python has no matplotlib (bench/plot-requirements.txt)" && exit 77; }
export OMPI_MCA_plm=isolated MPLCONFIGDIR=$work
"$choir" bench --config "$root/tests/oracle/shapes/odd.json" --layers 1 --gen-tokens 2 --repeat 1 --warmup 0 --read-mib 1 \
    --sweep "threads=1,2 batch=1,2 context=20 scaling=strong,weak" --json "$work/rows.jsonl" --quiet >/dev/null
"$python" "$root/bench/plot.py" "$work/rows.jsonl" --out "$work/charts"
for chart in scaling efficiency split roofline; do
    [ "$(head -c 8 "$work/charts/$chart.png" | tail -c 7 | head -c 3)" = PNG ] || { echo "$chart.png: not a PNG" >&2 && exit 1; }
    grep -q '</svg>' "$work/charts/$chart.svg" || { echo "$chart.svg: not whole" >&2 && exit 1; }
done
[ "$(grep -c 'src="data:image/png;base64,' "$work/charts/report.html")" -eq 4 ] || { echo "report.html: expected 4 pictures" >&2 && exit 1; }
! grep -qE '(src|href)="[^d]' "$work/charts/report.html" || { echo "report.html: needs other files" >&2 && exit 1; }
# One split of the cores was measured: nothing to name. Two: the fastest is named beside its point.
for chart in scaling efficiency; do
    ! grep -q '>[0-9]*×[0-9]*<' "$work/charts/$chart.svg" || { echo "$chart.svg: names the only split" >&2 && exit 1; }
done
sed 's/"ranks":1,"threads":2/"ranks":2,"threads":1/; s/"\(prefill\|decode\)_\(speedup\|efficiency\)":[0-9.]*/"\1_\2":99/g' \
    "$work/rows.jsonl" >"$work/two.jsonl"
"$python" "$root/bench/plot.py" "$work/rows.jsonl" "$work/two.jsonl" --out "$work/charts" >"$work/out"
for chart in scaling efficiency; do
    grep -q '>2×1<' "$work/charts/$chart.svg" || { echo "$chart.svg: expected the name of the fastest split" >&2 && exit 1; }
done
echo '{"schema": 1}' >"$work/none.jsonl"
! "$python" "$root/bench/plot.py" "$work/none.jsonl" --out "$work/charts" 2>"$work/err" || { echo "no rows: expected a failure" >&2 && exit 1; }
grep -q 'expected rows of choir bench --sweep' "$work/err"
# Load on servers: what clients saw, by clients and by rate.
for load in '"clients":1,"rate":0.0' '"clients":8,"rate":0.0' '"clients":0,"rate":2.5'; do
    echo '{"kind":"serve","url":"http://h","model":"m",'"$load"',"gen_tokens_each":8,"gen_tokens_per_s":9.5,"first_token_s":{"p50":0.1,"p90":0.2,"p99":0.3},"inter_token_s":{"p50":0.01,"p90":0.01,"p99":null}}'
done >"$work/load.jsonl"
"$python" "$root/bench/plot.py" "$work/load.jsonl" --out "$work/load" >"$work/out"
for chart in load-closed load-open; do
    grep -q 'time to first token' "$work/load/$chart.svg" || { echo "$chart.svg: not whole" >&2 && exit 1; }
done
[ "$(grep -c 'src="data:image/png;base64,' "$work/load/report.html")" -eq 2 ] || { echo "report.html: expected 2 pictures of loads" >&2 && exit 1; }
