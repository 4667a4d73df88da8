#!/bin/bash
# A real Slurm cluster of N "nodes" on one machine, each a set of namespaces: its own network address, host name, /tmp
# and /dev/shm, and eight pretended GPUs.  Needs root, slurm-wlm and munge (tools/packages.sh lab).
#
#   slurm_cluster.sh up DIR N             ready in under a second; DIR is shared by all nodes, and not under /tmp
#   slurm_cluster.sh run DIR HOST CMD...  as if logged in on head, n1, ... nN
#   slurm_cluster.sh kill DIR HOST        ends every process of a node at once, as a power cut would
#   slurm_cluster.sh cut DIR HOST         takes its network cable out;  mend DIR HOST  puts it back
#   slurm_cluster.sh down DIR             removes all of it, also after a failed up
#
# Nodes are 10.90.0.11, .12, ... on a bridge that nothing else is connected to; names begin with the cluster's prefix.
# Partition "low" is preempted by "main".  KillWait is 10 s: what a job has between SIGTERM and SIGKILL.
set -u
command=$1 dir=$2
prefix=hml$(printf %s "$dir" | cksum | cut -c1-5)

namespace() { echo "$prefix$1"; }

inside() { # HOST CMD...
    local host=$1
    shift
    SLURM_CONF=$dir/slurm.conf nsenter --mount="$dir/ns/$host.mnt" --uts="$dir/ns/$host.uts" --ipc="$dir/ns/$host.ipc" \
        --net="/run/netns/$(namespace "$host")" --wdns="$PWD" "$@"
}

hosts() {
    echo head
    cat "$dir/nodes" 2>/dev/null
}

configure() { # N
    seq -f n%g "$1" >"$dir/nodes"
    echo "127.0.0.1 localhost" >"$dir/hosts"
    echo "10.90.0.1 head" >>"$dir/hosts"
    for i in $(seq "$1"); do echo "10.90.0.$((10 + i)) n$i" >>"$dir/hosts"; done
    head -c 128 /dev/urandom >"$dir/munge.key"
    chmod 600 "$dir/munge.key"
    for gpu in $(seq 0 7); do mknod "$dir/dev/gpu$gpu" c 1 3; done # /dev/null by another name
    echo "NodeName=n[1-$1] Name=gpu Type=h100 File=$dir/dev/gpu[0-7]" >"$dir/gres.conf"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=head
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/dev/shm/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=/dev/shm/slurmd
SlurmctldPidFile=/dev/shm/slurmctld.pid
SlurmdPidFile=/dev/shm/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SwitchType=switch/none
MpiDefault=pmix
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
SlurmdTimeout=10
SlurmctldTimeout=10
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-$1] CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=2000 Gres=gpu:h100:8 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0
CONF
}

make_host() { # HOST ADDRESS
    local space bridge mount
    space=$(namespace "$1") bridge=$(namespace br)
    ip netns add "$space" && ip -n "$space" link set lo up
    ip -n "$bridge" link add "v$1" type veth peer name eth0 netns "$space"
    ip -n "$bridge" link set "v$1" master br0 up
    ip -n "$space" addr add "$2/24" dev eth0
    ip -n "$space" link set eth0 up
    touch "$dir/ns/$1.mnt" "$dir/ns/$1.uts" "$dir/ns/$1.ipc"
    mount="mount -t tmpfs tmpfs /tmp -o mode=1777; mount -t tmpfs tmpfs /dev/shm -o mode=1777"
    mount="$mount; mount --bind $dir/hosts /etc/hosts"
    nsenter --net="/run/netns/$space" unshare --mount="$dir/ns/$1.mnt" --uts="$dir/ns/$1.uts" --ipc="$dir/ns/$1.ipc" \
        bash -c "hostname $1; $mount"
    inside "$1" munged --key-file="$dir/munge.key" --socket=/dev/shm/munge.sock --pid-file=/dev/shm/munged.pid \
        --log-file=/dev/shm/munged.log --seed-file=/dev/shm/munge.seed
}

up() { # N
    mkdir -p "$dir"/{state,log,ns,dev}
    chmod 755 "$dir"
    mount --bind "$dir/ns" "$dir/ns" && mount --make-private "$dir/ns" # namespaces are kept as mounts here
    configure "$1"
    ip netns add "$(namespace br)"
    ip -n "$(namespace br)" link add br0 type bridge
    ip -n "$(namespace br)" link set br0 up
    make_host head 10.90.0.1
    for i in $(seq "$1"); do make_host "n$i" "10.90.0.$((10 + i))"; done
    inside head slurmctld -f "$dir/slurm.conf"
    for i in $(seq "$1"); do inside "n$i" slurmd -f "$dir/slurm.conf"; done
    for try in $(seq 200); do
        [ "$(inside head sinfo -h -p main -N -o %T 2>/dev/null | grep -c idle)" = "$1" ] && return 0
        sleep 0.1
    done
    echo "slurm_cluster: the nodes are not idle after 20 s; see $dir/log" >&2
    return 1
}

kill_host() {
    for pid in $(ip netns pids "$(namespace "$1")" 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
}

down() {
    for host in $(hosts) br; do
        kill_host "$host"
        ip netns del "$(namespace "$host")" 2>/dev/null
        for kind in mnt uts ipc; do umount "$dir/ns/$host.$kind" 2>/dev/null; done
    done
    umount "$dir/ns" 2>/dev/null
    return 0
}

case $command in
up) up "$3" ;;
run) shift 2 && inside "$@" ;;
kill) kill_host "$3" ;;
cut) ip -n "$(namespace br)" link set "v$3" down ;;
mend) ip -n "$(namespace br)" link set "v$3" up ;;
down) down ;;
esac
