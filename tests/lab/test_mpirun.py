"""hivemind swarm under mpirun on this machine: six ranks; a rank that is killed, also the one that leads; SIGTERM;
meeting through a folder; and what is said where something is missing.
"""
import glob
import os
import re
import shutil
import signal
import time

from hivemind_lab import DIGITS, HIVEMIND, SLOW, Failed, Process, check, checkpoints, own_machine, run_test, skip, until

EXPERTS, COUNT = 'ffn.[0:4].[0:4]', 16
MPIRUN = ['mpirun', '--oversubscribe', '--bind-to', 'none', '--enable-recovery', '--mca', 'odls_base_sigkill_timeout',
          '8']
ROOT = {'OMPI_ALLOW_RUN_AS_ROOT': '1', 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM': '1'}
COMMON = ['--experts', EXPERTS, '--hidden', '64', '--data', DIGITS, '--lane-threads', '1', '--listen', '127.0.0.1:0']


def mpirun(lab, ranks, *arguments, name, launcher=None, environment=None):
    argv = [*(launcher or MPIRUN), '-np', str(ranks), HIVEMIND, 'swarm', *COMMON, *map(str, arguments)]
    process = Process(lab, name, argv, ROOT | (environment or {}), None)
    lab.processes.append(process)
    # mpirun's own processes end with it; ranks that outlive a failed test are found by their state's lock.
    return process


def rank_pid(state, rank):
    with open(f'{state}/rank{rank}/lock', encoding='ascii') as file:
        return int(file.read())


def end_ranks(state):
    for lock in glob.glob(f'{state}/rank*/lock'):
        with open(lock, encoding='ascii') as file:
            pid = int(file.read() or 0)
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as file:
                if state.encode() in file.read():
                    os.kill(pid, signal.SIGKILL)
        except OSError:
            pass


def state_of(lab, name):
    state = lab.path(name)
    lab.cleanups.callback(end_ranks, state)
    return state


def accuracies(text):
    return [float(found) for found in re.findall(r'accuracy=([0-9.]+) ', text)]


def six_ranks_train(lab):
    state = state_of(lab, 'six')
    run = mpirun(lab, 6, '--servers', 4, '--steps', 200, '--state', state, name='six')
    run_up(run, servers=4, trainers=2)
    check(run.wait(120 * SLOW) == 0, 'mpirun -np 6 ends with 0', run.err[-800:])
    found = accuracies(run.out)
    check(len(found) == 2 and min(found) >= 0.95, 'both trainers reach an accuracy of 0.95', run.out)
    saved = {}
    for rank in range(4):
        saved |= checkpoints(f'{state}/rank{rank}')
    check(len(saved) == COUNT, 'the servers share the experts, and each saves its own', saved)
    keys = {open(f'{state}/rank{rank}/key.pem', encoding='ascii').read() for rank in range(6)}
    check(len(keys) == 6, 'each rank has an identity of its own')


def run_up(run, servers, trainers):
    def look():
        found = re.findall(rf'rank \d+: {servers} of {servers} servers serve after ([0-9.]+) s', run.err)
        if not run.running() and len(found) < trainers:
            raise Failed(f'{run.name} ended with {run.popen.returncode}: {run.err[-800:]}')
        return found if len(found) == trainers else None
    took = until(look, f'all servers of {run.name} serve: {run.out[-500:]} {run.err[-500:]}', 60 * SLOW)
    print(f'figure: {run.name}: up in {max(map(float, took)):.2f} s', flush=True)


def steps(run, events, count):
    """Waits until a trainer has done so many; `events` is what --events was."""

    def look():
        if not run.running():
            raise Failed(f'{run.name} ended with {run.popen.returncode}: {run.err[-800:]}')
        for path in glob.glob(f'{events}.rank*'):
            with open(path, encoding='utf-8') as file:
                if sum(1 for _ in file) >= count:
                    return True
        return False

    until(look, f'{count} steps: {run.err[-400:]}', 90 * SLOW)


def a_killed_rank_takes_no_other_along(lab, victim, what, survivors):
    state = state_of(lab, f'kill{victim}')
    events = lab.path(f'events{victim}')
    run = mpirun(lab, 6, '--servers', 4, '--steps', 200, '--trainer-timeout', '5s', '--state', state, '--events', events,
                 name=f'kill{victim}')
    run_up(run, servers=4, trainers=2)
    steps(run, events, 10)
    os.kill(rank_pid(state, victim), signal.SIGKILL)
    code = run.wait(180 * SLOW)
    check(code == 0, f'SIGKILL of {what}: mpirun --enable-recovery ends with 0', (code, run.err[-800:]))
    found = accuracies(run.out)
    check(len(found) == survivors and min(found) >= 0.95, f'SIGKILL of {what}: the others finish the job', run.out)
    ended = re.findall(r'rank=(\d) stopped', run.out)
    check(len(ended) == (4 if victim > 3 else 3), f'SIGKILL of {what}: the servers that live save and end', run.out)


def sigterm_to_mpirun_saves(lab):
    state = state_of(lab, 'term')
    events = lab.path('events-term')
    run = mpirun(lab, 4, '--servers', 3, '--steps', 10**6, '--state', state, '--events', events, name='term')
    run_up(run, servers=3, trainers=1)
    steps(run, events, 10)
    run.signal(signal.SIGTERM)  # mpirun: CONT, 8 s, TERM to the ranks, 8 s, KILL
    run.wait(30 * SLOW)
    saved = {}
    for rank in range(3):
        saved |= checkpoints(f'{state}/rank{rank}')
    check(len(saved) == COUNT and all(saved.values()), 'SIGTERM to mpirun: every expert is saved', saved)


def a_folder_does_without_mpi(lab):
    folder = lab.path('meeting')
    ranks = [lab.start('swarm', '--bootstrap', f'file:{folder}', '--rank', rank, '--size', 3, '--servers', 2, '--steps',
                       20, *COMMON,
                       name=f'folder{rank}') for rank in range(3)]
    codes = [rank.wait(60 * SLOW) for rank in ranks]
    check(codes == [0, 0, 0], 'three processes meet through a folder, train and end with 0',
          [rank.err[-300:] for rank in ranks])
    check(len(accuracies(ranks[2].out)) == 1, 'the trainer says its result', ranks[2].out)
    again = lab.run('swarm', '--bootstrap', f'file:{folder}', '--rank', 0, '--size', 3, '--servers', 2, *COMMON)
    check(again.code == 2 and 'fresh folder' in again.err, 'a used folder is refused with the remedy', again.err)


def a_late_process_joins(lab):
    state = state_of(lab, 'late')
    run = mpirun(lab, 3, '--servers', 2, '--steps', 10**6, '--state', state, name='late')
    run_up(run, servers=2, trainers=1)
    join = run.line('^hm://')
    server = lab.serve('late.[0:2]', join=join)
    status = lab.status(join)
    check(any(expert['uid'] == 'late.0' for expert in status['experts']),
          'a process outside the launch joins by the join line', status)
    server.terminate()
    run.signal(signal.SIGTERM)
    run.wait(30 * SLOW)


def what_is_missing_is_said(lab):
    plain = ['mpirun', '--oversubscribe']
    bare = lab.run('swarm', '--servers', 1, *COMMON)
    check(bare.code == 2 and 'file:DIR' in bare.err and 'mpirun' in bare.err, 'no launcher: a line with both remedies',
          bare.err)
    # A copy of the program alone: its modules are looked for beside it.
    os.makedirs(lab.path('alone', 'bin'))
    alone = shutil.copy(HIVEMIND, lab.path('alone', 'bin', 'hivemind'))
    process = Process(lab, 'alone', [*plain, '-np', '1', alone, 'swarm', '--servers', '1', *COMMON], ROOT, None)
    lab.processes.append(process)
    code = process.wait(30 * SLOW)
    check(code != 0 and 'mpi module is not there' in process.err and '--bootstrap file:DIR' in process.err,
          'mpirun without the module: a line with the remedy', process.err[:600])
    few = mpirun(lab, 3, '--servers', 3, '--trainers', 3, name='few', launcher=plain)
    check(few.wait(30 * SLOW) != 0 and '3 processes were started for 3 servers and 3 trainers; start 6' in few.err,
          'too few ranks: a line says how many', few.err[:600])
    bad = mpirun(lab, 3, '--servers', 2, '--state', '/proc/x', name='bad', launcher=plain)
    check(bad.wait(30 * SLOW) != 0 and 'cannot make the state folder' in bad.err,
          'a rank without a state folder: a line says so', bad.err[:600])


def test(lab):
    if not shutil.which('mpirun'):
        skip('mpirun is not installed (tools/packages.sh cluster)')
    if not os.path.exists(os.path.join(os.path.dirname(os.path.dirname(HIVEMIND)), 'lib', 'hivemind', 'mpi.so')):
        skip('hivemind was built without Open MPI (tools/packages.sh cluster)')
    six_ranks_train(lab)
    a_killed_rank_takes_no_other_along(lab, 1, 'a server', 2)
    a_killed_rank_takes_no_other_along(lab, 0, 'the server that leads', 2)
    a_killed_rank_takes_no_other_along(lab, 5, 'a trainer', 1)
    sigterm_to_mpirun_saves(lab)
    a_folder_does_without_mpi(lab)
    a_late_process_joins(lab)
    what_is_missing_is_said(lab)


own_machine(required=False)
started = time.monotonic()
run_test(test)
print(f'figure: all of it in {time.monotonic() - started:.0f} s', flush=True)
