#!/usr/bin/env bash
# A short look at what this machine does with hivemind: every case beside the raw program that does the same work in the
# same run.  One line of JSON a case in build/bench.jsonl, one table on the terminal; less than three minutes.
#   tools/bench.sh              all cases;  tools/bench.sh WORD  those whose name has the word;  BUILD=build-rel
# What is measured, and how to read a ratio on a machine that others use: perf/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build} word=${1:-}
hivemind=$build/bin/hivemind out=$build/bench.jsonl
field() { sed -nE "s/.*\"$1\":(-?[0-9.e+-]+).*/\1/p"; }

row() { # NAME UNIT FIGURE LIMIT RATIO MORE
    awk -v name="$1" -v unit="$2" -v ours="$3" -v limit="$4" -v ratio="$5" -v more="$6" 'BEGIN {
        digits = ours < 1000 ? 1 : 0
        printf "%-34s %11.*f %-8s", name, digits, ours, unit
        if (ratio != "") printf " %11.*f  %5.2f", digits, limit, ratio; else printf " %11s  %5s", "-", "-"
        printf "  %s\n", more }'
}

bench() { # NAME UNIT FIELD MORE-FIELD -- ARGUMENTS
    local name=$1 unit=$2 figure=$3 more=$4 line
    shift 5
    [[ $name == *$word* ]] || return 0
    if ! line=$("$hivemind" bench "$@" --json 2>/dev/null | tail -n 1) || [ -z "$line" ]; then
        printf '%-34s did not run: hivemind bench %s\n' "$name" "$*"
        return 0
    fi
    printf '{"case":"%s",%s\n' "$name" "${line#\{}" >>"$out"
    row "$name" "$unit" "$(field "$figure" <<<"$line")" "$(field limit <<<"$line")" "$(field ratio <<<"$line")" \
        "${more:+$more $(field "$more" <<<"$line" | cut -c1-8)}"
}

: >"$out"
printf '%-34s %11s %-8s %11s  %5s\n' case ours '' limit ratio
transports=tcp
[ ! -e $build/lib/hivemind/ucx.so ] || transports='tcp ucx'
for t in $transports; do
    bench "latency $t" 'us p50' p50_us p99_us -- latency --transport "$t"
    bench "bulk nop $t" rows/s rows_per_second p99_us -- throughput --clients 8 --transport "$t"
    bench "single rows 64 x 1 $t" calls/s calls_per_second p99_us -- \
        throughput --rows 1 --experts 1 --clients 64 --client-processes 64 --transport "$t"
    bench "single rows 4 x 16 $t" calls/s calls_per_second p99_us -- \
        throughput --rows 1 --experts 1 --clients 64 --client-processes 4 --transport "$t"
    bench "single rows 1 x 64 $t" calls/s calls_per_second p99_us -- \
        throughput --rows 1 --experts 1 --clients 64 --client-processes 1 --transport "$t"
done
bench "ffn forward f32" rows/s rows_per_second batch_rows_mean -- \
    throughput --preset ffn_small_batch --clients 8 --transport tcp
bench "ffn training f32" rows/s rows_per_second batch_rows_mean -- \
    throughput --preset ffn_small_batch --clients 8 --backward --transport tcp
echo "JSON lines: $out"
