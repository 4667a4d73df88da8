#!/bin/sh
# Installs what hivemind is built and tested with, on Debian 12 and its relatives; elsewhere it prints the list.
#
#   tools/packages.sh build     what `make` and `make demo` need
#   tools/packages.sh test      the same, and what `make test` needs
#   tools/packages.sh check     the same, and what `make check` (sanitizers) needs
#   tools/packages.sh cluster   what the cluster's modules are built with (UCX, Open MPI); `test` installs it too
#   tools/packages.sh lab       the same, and Slurm for `make lab`
#   tools/packages.sh goldens   python3-torch, to make the stored values of tests/parity again (large; no test needs it)
#
# Nothing is asked of apt when every package is there, so that a second run costs milliseconds and no network.
set -eu

build="gcc g++ make cmake ninja-build pkg-config libuv1-dev libssl-dev libhwloc-dev libhdf5-dev libdnnl-dev libxxhash-dev zlib1g-dev"
test="libcmocka-dev python3 python3-h5py python3-numpy iproute2 nftables"
cluster="libucx-dev openmpi-bin libopenmpi-dev libpmix-dev"
lab="slurm-wlm munge"
check="libasan8 libubsan1 libtsan2"

case "${1:-}" in
build) want=$build ;;
test) want="$build $test $cluster" ;;
check) want="$build $test $cluster $check" ;;
cluster) want="$build $cluster" ;;
lab) want="$build $test $cluster $lab" ;;
goldens) want="python3-torch" ;;
*)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

if ! command -v apt-get >/dev/null 2>&1; then
    echo "hivemind: this system has no apt-get. Install these packages (Debian's names), then run make again:" >&2
    printf '  %s\n' $want >&2
    exit 1
fi

missing=""
for package in $want; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "hivemind: not root, and there is no sudo. As root:  apt-get install$missing" >&2
        exit 1
    }
    sudo=sudo
fi
echo "hivemind: installing$missing"
install() {
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
}
# Package lists may be old or absent: refresh them only when the first try fails.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if install >"$log" 2>&1 || { $sudo apt-get update -q >"$log" 2>&1 && install >>"$log" 2>&1; }; then
    exit 0
fi
tail -n 20 "$log" >&2
echo "hivemind: apt-get could not install:$missing" >&2
exit 1
