"""Slurm ends jobs of its own accord: the time limit's warning, the limit itself, preemption without and with a grace
time.  Each time every expert is saved by then, and the job that comes back restores it at that step.
"""
import re
import time

from hivemind_lab import SLOW, check, checkpoints, until
from slurm_lab import COUNT, GRACE_S, in_slurm, steps_of

ENDLESS = 1000000


def training(cluster, *options, **variables):
    """A swarm.sbatch that goes on until somebody ends it, some steps far; its job and its state."""
    state = f'{cluster.dir}/run{time.monotonic_ns()}'
    job = cluster.submit('swarm.sbatch', *options, HM_STATE=state, HM_STEPS=ENDLESS, **variables)
    job.says(rf'\n\d+: (?:[2-9]\d|\d{{3,}})/{ENDLESS}')
    return job, state


def saved_in_time(job, state, why, seconds):
    """All servers have drained and saved."""
    job.says(r'stopped; \d+ checkpoints written', times=6, seconds=seconds)
    found = steps_of(state)
    check(len(found) == COUNT and all(steps[0] > 0 for steps in found.values()), f'{why}: every expert is saved', found)
    return {uid: steps[0] for uid, steps in found.items()}


def restored(job, before, why):
    """It has come back as the same job, with what it had."""
    found = [
        (int(count), int(step))
        for count, step in job.says(r', (\d+) restored from checkpoints, the newest at step (\d+)', 6, 120 * SLOW)
    ]
    check(sum(count for count, _ in found) == COUNT, f'{why}: the job comes back and restores every expert', found)
    check(max(step for _, step in found) == max(before.values()), 'at the steps that were saved', (found, before))
    found = job.says(r'the training goes on at step (\d+)', 2)
    check(min(map(int, found)) >= 20, 'and its trainers go on where they were', found)
    check(int(job.show()['Restarts']) == 1, 'Slurm counts one restart', job.show())


def stays_cancelled(cluster, job):
    """One that has been requeued, also by itself."""
    job.cancel()
    job.ended()
    until(lambda: job.number not in cluster.run('squeue', '-h', '-o', '%i').stdout.split(), 'it leaves the queue')
    check(job.show()['JobState'] == 'CANCELLED', 'scancel ends it for good', job.show())


def the_time_limit(cluster):
    """Slurm itself sends the warning of swarm.sbatch (30 s before the end instead of 60); beside it a server that is not
    warned has what is between TERM and KILL."""
    limit = f'{cluster.dir}/limit'
    server = cluster.submit('serve.sbatch', '--time=1', '--signal=B:URG@1', HM_STATE=limit)
    job, state = training(cluster, '--time=1', '--signal=B:USR1@30', HM_JOB_REQUEUE=1)
    before = saved_in_time(job, state, 'warned of its time limit', 120)
    restored(job, before, 'the time limit')
    stays_cancelled(cluster, job)
    server.says(r'DUE TO TIME LIMIT', seconds=150)
    server.says(rf'stopped; {COUNT} checkpoints written', seconds=GRACE_S)
    record = server.ended()
    check(record['JobState'] == 'TIMEOUT' and len(checkpoints(limit)) == COUNT,
          'at its time limit, without a warning: every expert is saved', record)


def preempted(cluster, partition, grace_s, **variables):
    why = f'preempted with a grace time of {grace_s} s'
    job, state = training(cluster, '-p', partition, **variables)
    urgent = cluster.run('sbatch', '--parsable', '-p', 'main', '-N4', '--exclusive', '-o', '/dev/null', '--wrap', 'sleep 1')
    number = urgent.stdout.strip()
    job.says(r'CANCELLED AT|stopped')
    started = time.monotonic()
    before = saved_in_time(job, state, why, GRACE_S)
    print(f'figure: {why}: saved in {time.monotonic() - started:.1f} s of {GRACE_S}', flush=True)
    until(lambda: 'COMPLETED' in cluster.run('scontrol', '-o', 'show', 'job', number).stdout, 'the urgent job runs', 60)
    restored(job, before, why)
    stays_cancelled(cluster, job)


def test(cluster):
    preempted(cluster, 'low', 0)
    preempted(cluster, 'graced', 10, HM_JOB_REQUEUE=1)
    the_time_limit(cluster)


in_slurm(test)
