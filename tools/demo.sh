#!/usr/bin/env bash
# The main job on this machine: a DHT node, three servers that share 16 experts, a trainer on real data.  At half of the
# steps one server is killed with SIGKILL and started again; it restores its experts from their checkpoints.
#
#   tools/demo.sh [SEED] [STEPS]       HM_DEMO_KILL=0: nobody is killed     HM_DEMO_KEEP=1: the folder with logs is kept
#                                      FABRIC=1: messages go over UCX, none of DHT and experts over tcp after joining
#
# Everything listens on loopback at ports that the system picks; files go to a fresh folder; no process is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${1:-0} steps=${2:-800} kill_one=${HM_DEMO_KILL:-1}
hivemind=${HIVEMIND:-build/bin/hivemind}
dir=$(mktemp -d "${TMPDIR:-/tmp}/hivemind-demo.XXXXXX")
pids=()
fabric=()
if [ "${FABRIC:-0}" = 1 ]; then
    (umask 077 && head -c 32 /dev/urandom >"$dir/fabric.key")
    fabric=(--fabric auto --fabric-key "$dir/fabric.key")
fi

finish() {
    local code=$?
    trap - EXIT INT TERM
    [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    if [ "$code" -ne 0 ] && [ "$code" -ne 130 ]; then
        echo "demo failed; the ends of its logs:" >&2
        tail -n 5 "$dir"/*.err >&2 || true
    fi
    [ "${HM_DEMO_KEEP:-0}" = 1 ] && echo "logs: $dir" >&2 || rm -rf "$dir"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits until the file has a line that matches, for 20 s at most; prints it.
line_of() { # FILE PATTERN PID
    for _ in $(seq 400); do
        grep -m 1 -E "$2" "$1" 2>/dev/null && return 0
        kill -0 "$3" 2>/dev/null || break
        sleep 0.05
    done
    echo "demo: process $3 printed no line '$2'" >&2
    return 1
}

start_dht() {
    "$hivemind" dht --new-swarm --listen 127.0.0.1:0 --state "$dir/dht" "${fabric[@]}" >"$dir/dht.out" 2>"$dir/dht.err" &
    dht=$!
    pids+=("$dht")
}
rows=('ffn.0.[0:4],ffn.1.[0:2]' 'ffn.1.[2:4],ffn.2.[0:3]' 'ffn.2.[3:4],ffn.3.[0:4]')
start_server() { # NUMBER
    "$hivemind" serve --join "$join" --listen 127.0.0.1:0 --state "$dir/server$1" --experts "${rows[$1]}" \
        --hidden 64 --rate 0.001 --seed "$seed" --save-interval 2s --lane-threads 1 --json "${fabric[@]}" \
        >"$dir/server$1.out" 2>>"$dir/server$1.err" &
    server[$1]=$!
    pids+=("$!")
}

started=$(date +%s%N)
declare -a server
start_dht
join=$(line_of "$dir/dht.out" '^hm://' "$dht")
for i in 0 1 2; do start_server $i; done
for i in 0 1 2; do line_of "$dir/server$i.out" '"event":"serving"' "${server[$i]}" >/dev/null; done

# The one that is killed comes back with its own key and folder, at another port.
killed=0
kill_and_restart() {
    local half=$((steps / 2))
    until grep -q "\"step\":$half," "$dir/events" 2>/dev/null; do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.02
    done
    kill -KILL "${server[1]}"
    wait "${server[1]}" 2>/dev/null || true
    killed=1
    sleep 1
    start_server 1
    line_of "$dir/server1.out" '"event":"serving"' "${server[1]}" >"$dir/restarted"
}

"$hivemind" train --join "$join" --experts 'ffn.[0:4].[0:4]' --data data/digits.csv.gz --hidden 64 --layers 2 --k-best 4 \
    --k-min 1 --steps "$steps" --seed "$seed" --events "$dir/events" --json "${fabric[@]}" >"$dir/train.out" &
trainer=$!
pids+=("$trainer")
[ "$kill_one" = 0 ] || kill_and_restart "$trainer"
wait "$trainer"

field() { sed -nE "s/.*\"$2\":\"?([^,\"}]*).*/\1/p" "$1" | tail -n 1; }
"$hivemind" status --join "$join" --json "${fabric[@]}" >"$dir/status"
experts=$(grep -o '"uid":' "$dir/status" | wc -l)
# Recovered: its five experts were restored at a step, and the trainer missed them and then had them again.
recovered=0
if [ "$killed" = 1 ] && [ "$(field "$dir/restarted" restored)" = 5 ] && [ "$(field "$dir/restarted" restored_step)" -gt 0 ] &&
    grep -q '"experts_alive":11,' "$dir/events" && tail -n 1 "$dir/events" | grep -q '"experts_alive":16,'; then
    recovered=1
fi
for i in 0 1 2; do kill -TERM "${server[$i]}"; done
for i in 0 1 2; do wait "${server[$i]}" || { echo "demo: server $i did not stop in order" >&2; exit 1; }; done
checkpoints=$(find "$dir"/server*/experts -name manifest.json | wc -l)
seconds=$((($(date +%s%N) - started) / 1000000000))
accuracy=$(field "$dir/train.out" accuracy)

result="accuracy=$accuracy seconds=$seconds rows_per_second=$(field "$dir/train.out" rows_per_second) experts=$experts"
result="$result servers_killed=$killed servers_recovered=$recovered checkpoints=$checkpoints"
result="$result calls_failed=$(field "$dir/train.out" calls_failed)"
if [ ${#fabric[@]} -gt 0 ]; then
    kill -TERM "$dht"
    wait "$dht" || { echo "demo: the DHT node did not stop in order" >&2; exit 1; }
    sum() { sed -nE "s/.*$1\"?[=:]([0-9]+).*/\1/p" "$dir"/*.out | awk '{ n += $1 } END { print n + 0 }'; }
    ucx=$(sum ucx_messages) tcp=$(sum tcp_messages_after_join)
    result="$result ucx_messages=$ucx tcp_messages_after_join=$tcp"
    [ "$ucx" -gt 0 ] && [ "$tcp" = 0 ] || { echo "demo: not all over the fabric: $result" >&2; exit 1; }
fi
awk -v a="$accuracy" 'BEGIN { exit !(a >= 0.95) }' || { echo "demo: accuracy below 0.95: $result" >&2; exit 1; }
[ "$experts" = 16 ] && [ "$checkpoints" = 16 ] && [ "$recovered" = "$killed" ] || { echo "demo: not whole: $result" >&2; exit 1; }
echo "demo ok: $result"
