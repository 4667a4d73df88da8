#!/usr/bin/env bash
# A short look at what this machine does with hivemind: every case beside the raw program that does the same work in the
# same run.  A line of JSON a case in build/bench.jsonl, one table on the terminal; less than three minutes.
#   tools/bench.sh              all cases;  tools/bench.sh WORD  those whose name has the word;  BUILD=build-rel
# What is measured, and how to read a ratio on a machine that others use: perf/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build} word=${1:-}
hivemind=$build/bin/hivemind out=$build/bench.jsonl

field() { # NAME or OBJECT.NAME, of a line of JSON
    local object=${1%.*} name=${1##*.}
    if [ "$object" = "$name" ]; then # of the line itself: objects in it have fields of the same names
        sed -E 's/^\{//; s/\{[^}]*\}/{}/g' | sed -nE "s/.*\"$name\":(-?[0-9.e+-]+).*/\1/p"
    else
        sed -nE "s/.*\"$object\":\\{[^}]*\"$name\":(-?[0-9.e+-]+).*/\1/p"
    fi
}

# RATIO is a field where 1 is as good as raw and less is worse; with 1/ before it, where more is worse.
# Its bar: ten # are as good as raw.
bench() { # NAME UNIT FIGURE LIMIT RATIO MORE -- ARGUMENTS
    local name=$1 unit=$2 figure=$3 limit=$4 ratio=$5 more=$6 line
    shift 7
    [[ $name == *$word* ]] || return 0
    if ! line=$("$hivemind" bench "$@" --json 2>/dev/null | tail -n 1) || [ -z "$line" ]; then
        printf '%-34s did not run: hivemind bench %s\n' "$name" "$*"
        return 0
    fi
    printf '{"case":"%s",%s\n' "$name" "${line#\{}" >>"$out"
    awk -v name="$name" -v unit="$unit" -v more="$more" -v ours="$(field "$figure" <<<"$line")" \
        -v limit="$(field "$limit" <<<"$line")" -v ratio="$(field "${ratio#1/}" <<<"$line")" \
        -v inverse="${ratio%%[!1/]*}" \
        -v value="$([ -z "$more" ] || field "$more" <<<"$line")" 'BEGIN {
            digits = ours < 1000 ? 1 : 0
            printf "%-34s %11.*f %-8s", name, digits, ours, unit
            if (inverse != "" && ratio > 0) ratio = 1 / ratio
            if (ratio != "") printf " %11.*f  %5.2f", digits, limit, ratio; else printf " %11s  %5s", "-", "-"
            bar = ""
            for (i = 1; i <= 20 && (i <= 10 || i <= ratio * 10 + 0.5); i++) bar = bar (i <= ratio * 10 + 0.5 ? "#" : ".")
            if (value != "") printf "  %-20s  %s %.*f", bar, more, value < 1000 ? 1 : 0, value; else printf "  %s", bar
            printf "\n" }'
}

throughput() { # NAME FIGURE -- ARGUMENTS
    local name=$1 figure=$2
    shift 3
    bench "$name" "${figure%_per_second}/s" "$figure" limit ratio p99_us -- throughput --seconds 2s "$@"
}

: >"$out"
printf '%-34s %11s %-8s %11s  %5s  %s\n' case ours '' limit ratio 'as good as raw: ##########'
transports=tcp
[ ! -e "$build/lib/hivemind/ucx.so" ] || transports='tcp ucx'
for t in $transports; do
    bench "latency $t" 'us p50' p50_us limit ratio p99_us -- latency --transport "$t"
    throughput "bulk nop $t" rows_per_second -- --clients 8 --transport "$t"
    throughput "bulk nop u8 $t" rows_per_second -- --clients 8 --codec u8 --transport "$t"
    for processes in 64 4 1; do
        throughput "single rows $processes x $((64 / processes)) $t" calls_per_second -- \
            --rows 1 --experts 1 --clients 64 --client-processes "$processes" --transport "$t"
    done
    bench "transport $t 8 B" us mean_us limit.mean_us 1/ratio.mean_us p99_us -- \
        transport --transport "$t" --size 8
    bench "transport $t 1 MiB" MB/s megabytes_per_second limit.megabytes_per_second ratio.megabytes_per_second \
        '' -- transport --transport "$t" --size 1M
done
for dtype in f32 bf16; do
    throughput "ffn forward $dtype" rows_per_second -- --preset ffn_small_batch --clients 8 --dtype $dtype
    throughput "ffn forward + training $dtype" rows_per_second -- --preset ffn_small_batch --clients 8 --backward \
        --dtype $dtype
    bench "Adam $dtype, 25.2 M parameters" ms ms limit_ms ratio '' -- expert --pass adam --dtype $dtype
done
bench "codec u8 1 MiB" GB/s both_gb_per_second limit_memcpy_gb_per_second ratio '' -- codec --codec u8 --bytes 1M
echo "JSON lines: $out"
