# jobs/slurm/common.sh - what the batch scripts share; they source it.
#
# Every option of the program is also a variable (hivemind COMMAND --help), and sbatch hands variables on, so these
# scripts have no options of their own but
#   HIVEMIND         the program; default build/bin/hivemind in the folder of sbatch
#   HM_STATE         the folder of keys, experts and trainings, shared by all nodes; default hivemind-<job> there
#   HM_JOB_REQUEUE   1: a job that nears its time limit, or is preempted with a grace time (Slurm takes it for completed
#                    when it ends in order), puts itself back into the queue, and goes on from its checkpoints
# Sends no signal to srun, which would kill the step: tasks hear Slurm's TERM themselves.

hivemind=${HIVEMIND:-$SLURM_SUBMIT_DIR/build/bin/hivemind}
export HM_STATE=${HM_STATE:-$SLURM_SUBMIT_DIR/hivemind-$SLURM_JOB_ID}

die() {
    echo "${SLURM_JOB_NAME:-job}: $*" >&2
    exit 2
}
[ -x "$hivemind" ] || die "no program at $hivemind; run make there, or set HIVEMIND to the program"
said=$(mkdir -p "$HM_STATE" 2>&1) || die "$said; set HM_STATE to a folder that every node can write"

# Events go into a new file each time.
[ -z "${HM_EVENTS:-}" ] || [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || HM_EVENTS=$HM_EVENTS.restart$SLURM_RESTART_COUNT

# number NAME VALUE MIN MAX
number() {
    case $2 in
    '' | *[!0-9]*) die "$1 is '$2'; set it to a number from $3 to $4" ;;
    esac
    [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] || die "$1 is $2; set it to a number from $3 to $4"
}

# answers LINE: whether a swarm's node is there.  Without the job's variables, which mean other things to `status`.
answers() (
    unset ${!HM_@}
    "$hivemind" status --join "$1" --join-timeout 2s --timeout 5s >/dev/null 2>&1
)

preempted() {
    scontrol -o show job "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'
}

# run_step SRUN-ARGUMENTS...: runs the job's step to its end, also when the script is signalled meanwhile; gives its
# exit code, or puts the job back into the queue.
run_step() {
    local code again=
    trap : TERM # scancel: Slurm tells the tasks too
    # --signal=B:USR1@60, before the time limit: only the script hears it.
    trap 'again=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
    srun "$@" &
    local step=$!
    while :; do
        wait "$step"
        code=$?
        kill -0 "$step" 2>/dev/null || break
    done
    if [ "$code" -gt 128 ]; then # perhaps a signal's, which came as the step ended: bash remembers the step's
        wait "$step" 2>/dev/null
        local last=$?
        [ "$last" = 127 ] || code=$last
    fi
    # Of a preemption with a grace time only the tasks hear.
    if [ "${HM_JOB_REQUEUE:-0}" = 1 ] && { [ -n "$again" ] || preempted; }; then
        echo "$SLURM_JOB_NAME: ended with $code before its time; back into the queue"
        scontrol requeue "$SLURM_JOB_ID" && sleep 60
    fi
    return "$code"
}
