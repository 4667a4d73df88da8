#!/bin/sh
# Builds with a sanitizer in a folder of its own and runs the suites that it is for.
#   tools/sanitize.sh address     address + undefined behaviour: unit, conformance, sim, parity, fuzz
#   tools/sanitize.sh thread      threads: sched and transport tests, integration
# Reports are fatal.  Suppressions name third-party libraries only, each with its reason: tools/tsan.supp.
set -eu
cd "$(dirname "$0")/.."
jobs=$(nproc)
case "${1:-}" in
address) preset=asan suites='^(unit|conformance|sim|parity|fuzz)$' without='^$' ;;
# UCX is not built with ThreadSanitizer and patches the C library's memory calls under it; its provider has one thread.
# integration-bench loads it as well, and integration-bad_launch, whose first rank opens it: a thread of UCX's that ends calls
# its madvise() hook, which locks through ThreadSanitizer after that has left the thread, and crashes; without the hooks it runs.
thread)
    export UCX_MEM_MMAP_HOOK_MODE=none
    preset=tsan suites='^(sched|transport|integration)$' without='^(conformance-transport-ucx|integration-transport-rpc_ucx|integration-transport-ucx_address|integration-fabric|integration-fabric_cut|integration-startup|integration-bench)$'
    ;;
*)
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cmake --preset "$preset" >"$log" 2>&1 || { cat "$log"; exit 1; }
cmake --build "build/$preset" -j "$jobs"
# The leak checker needs ptrace rights that some containers withhold; everything else works there.
export ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:suppressions=$PWD/tools/tsan.supp"
ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$jobs" -L "$suites" -E "$without"
