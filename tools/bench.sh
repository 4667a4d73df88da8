#!/usr/bin/env bash
# Throughput through one server, and a raw OpenSSL echo program with the same sizes in the same run: the ratio is what
# counts, absolute figures drift with the machine.
#   tools/bench.sh          bulk nop (8 clients x 2048 rows x 1024 columns) and single rows (64 clients)
set -euo pipefail
cd "$(dirname "$0")/.."
hivemind=build/bin/hivemind raw=build/bin/perf-raw_tls_echo
field() { sed -nE "s/.*\"$1\":([0-9.]+).*/\1/p"; }

compare() { # NAME FIELD RAW-ARGUMENTS -- BENCH-ARGUMENTS
    local name=$1 unit=$2 ours limit
    local -a raw_args=()
    shift 2
    while [ "$1" != -- ]; do raw_args+=("$1"); shift; done
    shift
    limit=$("$raw" "${raw_args[@]}" | field "$unit" | tail -n 1)
    ours=$("$hivemind" bench throughput "$@" --json | field "$unit")
    awk -v name="$name" -v unit="$unit" -v ours="$ours" -v limit="$limit" \
        'BEGIN { printf "%-12s %12.0f %s, raw OpenSSL %12.0f, ratio %.2f\n", name, ours, unit, limit, ours / limit }'
}

compare "bulk nop" rows_per_second --mode bulk --clients 8 -- --preset nop --clients 8 --batches 40
compare "single rows" calls_per_second --mode single --connections 64 -- \
    --preset nop --rows 1 --clients 64 --experts 1 --batches 2000
