#!/bin/bash
# A real Slurm cluster of N "nodes" on one machine, each a set of namespaces: its own network address, host name, /tmp,
# /dev/shm and /sys, and eight pretended GPUs.  Needs slurm-wlm and munge (tools/packages.sh lab), and is run in a machine
# of its own (own_machine in tests/support/hivemind_lab.py): everything here ends with that.
#
#   slurm_cluster.sh up DIR N FOLDER...   ready in under a second; DIR and the FOLDERs are shared by all nodes
#   slurm_cluster.sh run DIR HOST CMD...  as if logged in on head, n1, ... nN; in DIR
#   slurm_cluster.sh kill DIR HOST        ends every process of a node at once, as a power cut would
#   slurm_cluster.sh cut DIR HOST         takes its network cable out;  mend DIR HOST  puts it back
#   slurm_cluster.sh down DIR             ends it
#
# Nodes are 10.90.0.11, .12, ... on a bridge that nothing else is connected to.
# Partitions "low" and, with 10 s of grace, "graced" are preempted by "main".  KillWait is 10 s: what a job has between SIGTERM and SIGKILL.
set -eu
command=$1 dir=$2

inside() { # HOST CMD...
    local host=$1
    shift
    SLURM_CONF=$dir/slurm.conf nsenter --target="$(cat "$dir/keeper/$host")" --mount --uts --ipc --net --wdns="$dir" "$@"
}

configure() { # N
    echo "127.0.0.1 localhost" >"$dir/hosts"
    echo "10.90.0.1 head" >>"$dir/hosts"
    for i in $(seq "$1"); do echo "10.90.0.$((10 + i)) n$i" >>"$dir/hosts"; done
    head -c 128 /dev/urandom >"$dir/munge.key"
    chmod 600 "$dir/munge.key"
    echo "NodeName=n[1-$1] Name=gpu Type=h100 File=/dev/shm/gpu[0-7]" >"$dir/gres.conf"
    echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf" # used by nothing here, but not to be looked for
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
PartitionName=graced Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10
CONF
}

# An empty PLACE of this node's own, in which the shared FOLDERs under it are seen all the same.
empty() { # PLACE FOLDER...
    local place=$1 folder
    shift
    mount -t tmpfs -o mode=1777 tmpfs "$dir/new"
    for folder in "$@"; do
        case $folder in "$place"/*)
            mkdir -p "$dir/new/${folder#"$place"/}"
            mount --bind "$folder" "$dir/new/${folder#"$place"/}"
            ;;
        esac
    done
    mount --move "$dir/new" "$place"
}

# The first process of a host, in its namespaces, which it keeps.  (A mount namespace kept by a file would do, but Linux
# 6.18 refuses some: it compares numbers that every processor draws for itself.)
keep() { # HOST FOLDER...
    local host=$1
    shift
    hostname "$host"
    empty /dev/shm "$@"
    empty /tmp "$@"
    mount --bind "$dir/hosts" /etc/hosts
    for gpu in $(seq 0 7); do
        touch "/dev/shm/gpu$gpu"
        mount --bind /dev/null "/dev/shm/gpu$gpu"
    done
    echo $$ >"$dir/keeper/$host"
    exec sleep infinity
}

make_host() { # HOST ADDRESS FOLDER...
    local host=$1 address=$2
    shift 2
    ip netns add "$host"
    ip -n "$host" link set lo up
    ip -n bridge link add "v$host" type veth peer name eth0 netns "$host"
    ip -n bridge link set "v$host" master br0 up
    ip -n "$host" addr add "$address/24" dev eth0
    ip -n "$host" link set eth0 up
    # ip also shows it the /sys of its own network.
    ip netns exec "$host" unshare --mount --uts --ipc "$0" keep "$dir" "$host" "$@" </dev/null >>"$dir/log/keeper" 2>&1 &
    for _ in $(seq 500); do
        [ ! -s "$dir/keeper/$host" ] || break
        sleep 0.02
    done
    [ -s "$dir/keeper/$host" ] || return 1
    inside "$host" munged --key-file="$dir/munge.key" --socket=/dev/shm/munge.sock --pid-file=/dev/shm/munged.pid \
        --log-file=/dev/shm/munged.log --seed-file=/dev/shm/munge.seed
}

up() { # N FOLDER...
    local count=$1
    shift
    mkdir -p "$dir"/{state,log,keeper,new}
    chmod 755 "$dir"
    configure "$count"
    ip netns add bridge
    ip -n bridge link add br0 type bridge
    ip -n bridge link set br0 up
    make_host head 10.90.0.1 "$dir" "$@"
    for i in $(seq "$count"); do make_host "n$i" "10.90.0.$((10 + i))" "$dir" "$@"; done
    inside head slurmctld -f "$dir/slurm.conf"
    for i in $(seq "$count"); do inside "n$i" slurmd -f "$dir/slurm.conf"; done
    for _ in $(seq 600); do
        [ "$(inside head sinfo -h -p main -N -o %T 2>/dev/null | grep -c idle)" = "$count" ] && return 0
        sleep 0.1
    done
    echo "slurm_cluster: the nodes are not idle after 60 s" >&2
    return 1
}

kill_host() {
    local pid keeper
    keeper=$(cat "$dir/keeper/$1")
    for pid in $(ip netns pids "$1"); do
        [ "$pid" = "$keeper" ] || kill -9 "$pid" 2>/dev/null || true
    done
}

down() {
    local host
    for host in $(ls "$dir/keeper"); do
        kill_host "$host"
        kill -9 "$(cat "$dir/keeper/$host")"
    done
}

case $command in
up)
    trap '[ $? = 0 ] || tail -n 20 "$dir"/log/* >&2' EXIT
    shift 2 && up "$@"
    ;;
keep) shift 2 && keep "$@" ;;
run) shift 2 && inside "$@" ;;
kill) kill_host "$3" ;;
cut) ip -n bridge link set "v$3" down ;;
mend) ip -n bridge link set "v$3" up ;;
down) down ;;
*) exit 2 ;;
esac
