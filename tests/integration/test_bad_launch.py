"""Launches that cannot be: the processes of `hivemind swarm` all end, with a code, and what is said is one line with
the remedy, by one of them.  Nobody waits for somebody who has given up."""

import os
import re
import shutil

from hivemind_lab import DIGITS, HIVEMIND, SLOW, check, run_test, until

FAILED, USAGE = 1, 2
NO_STATE = 'hivemind: no --state: experts are not saved, and identities are new each time\n'
SWARM = ['swarm', '--experts', 'ffn.[0:2].[0:2]', '--hidden', 32, '--data', DIGITS, '--listen', '127.0.0.1:0']


def lines(processes):
    return ''.join(process.err for process in processes).replace(NO_STATE, '')


def refused(lab, what, code, words, *arguments, **how):
    """One process."""
    process = lab.start(*SWARM, *arguments, **how)
    said = (process.wait(), process.out, process.err)
    check(said[0] == code and re.fullmatch(r'hivemind: [^\n]+\n', said[2]) and not said[1], what, said)
    check(all(word in said[2] for word in words), f'... {said[2].strip()[10:]}', said)


def launch_refused(lab, what, code, said_by, words, ranks, folder, *arguments):
    """As many processes as `ranks`, which has what each is given besides; said_by: how many of them say a line."""
    size = ['--size', len(ranks), '--bootstrap', f'file:{lab.path(folder)}', '--bootstrap-timeout', '60s']
    processes = [
        lab.start(*SWARM, *size, '--rank', rank, *map(str, own), *arguments) for rank, own in enumerate(ranks)
    ]
    codes = [process.wait() for process in processes]
    said = lines(processes)
    check(codes == [code] * len(ranks), f'{what}: everybody ends', (codes, said))
    count = len(re.findall(r'^hivemind: [^\n]+$', said, re.MULTILINE))
    check(count == said.count('\n') == said_by, f'{what}: a line', said)
    check(all(word in said for word in words), f'... {said.splitlines()[0][10:]}', said)


def no_launcher(lab):
    """--bootstrap mpi, or by itself, where no launcher or no module is there."""
    words = ['mpirun', 'srun --mpi=pmix', '--bootstrap file:DIR']
    refused(lab, 'no launcher', USAGE, words, '--servers', 1)
    refused(lab, 'no launcher, and mpi asked for', USAGE, words, '--servers', 1, '--bootstrap', 'mpi')
    os.makedirs(lab.path('alone/bin'))
    alone = shutil.copy(HIVEMIND, lab.path('alone/bin/hivemind'))
    launched = {'OMPI_COMM_WORLD_RANK': '0', 'OMPI_COMM_WORLD_SIZE': '1'}
    words = ['mpi module is not there', 'tools/packages.sh cluster', '--bootstrap file:DIR']
    for means in ([], ['--bootstrap', 'mpi']):
        how = {'program': alone, 'environment': launched}
        refused(lab, 'mpirun without the module', FAILED, words, '--servers', 1, *means, **how)
    shutil.copy(os.path.join(os.environ['HM_BUILD_DIR'], 'lib', 'modules-for-tests', 'stale.so'), lab.path('mpi.so'))
    words = ['another build', '--bootstrap file:DIR']
    launched['HM_MODULE_PATH'] = lab.path('')
    refused(lab, 'mpirun with a module of another build', FAILED, words, '--servers', 1, environment=launched)
    refused(lab, 'a means that is none', USAGE, ["'nfs'", 'file:DIR'], '--servers', 1, '--bootstrap', 'nfs')


def numbers(lab):
    few = '3 processes were started for 3 servers and 1 trainers; start 4'
    launch_refused(lab, 'too few', USAGE, 1, [few], [[]] * 3, 'few', '--servers', 3, '--trainers', 1)
    many = '6 processes were started for 3 servers and 1 trainers; start 4'
    launch_refused(lab, 'too many', USAGE, 1, [many], [[]] * 6, 'many', '--servers', 3, '--trainers', 1)
    launch_refused(lab, 'nobody serves', USAGE, 1, ['a server'], [['--role', 'trainer']] * 2, 'unserved')
    launch_refused(lab, 'half a role', USAGE, 1, ['1 of 2', '--role'], [['--role', 'server'], []], 'half')
    launch_refused(lab, 'no roles', USAGE, 1, ['--servers N --trainers M'], [[]] * 2, 'none')
    refused(lab, 'a role that is none', USAGE, ["'boss'", 'trainer'], '--role', 'boss')


def folders(lab):
    one = ['--servers', 1, '--trainers', 1, '--size', 2, '--rank', 0, '--bootstrap-timeout', '1s', '--bootstrap']
    meet = f'file:{lab.path("meet")}'
    refused(lab, 'nobody else comes', FAILED, ['rank 1', 'meet', '--size'], *one, meet)
    refused(lab, 'what that launch has left behind', USAGE, ['earlier launch', 'fresh folder'], *one, meet)
    os.makedirs(lab.path('noise'), 0o700)
    lab.write('noise/round-0.rank-1', b'x' * 300)
    refused(lab, 'noise', FAILED, ['noise/round-0.rank-1', 'fresh folder'], *one, f'file:{lab.path("noise")}')
    lab.write('file', b'')
    refused(lab, 'a file', USAGE, ['no folder'], *one, f'file:{lab.path("file")}')
    refused(lab, 'what cannot be made', FAILED, ['cannot make', 'write'], *one, f'file:{lab.path("file/x")}')
    refused(lab, 'what cannot be written', FAILED, ['cannot write', '/sys/kernel'], *one, 'file:/sys/kernel')
    os.makedirs(lab.path('open'))
    os.chmod(lab.path('open'), 0o777)
    refused(lab, 'a folder that others write', USAGE, ['chmod 700'], *one, f'file:{lab.path("open")}')
    refused(lab, 'no rank', USAGE, ['--rank', '--size'], '--servers', 1, '--bootstrap', meet)


def one_rank_twice(lab):
    """Both have started at once, and the later one's file has replaced the other's."""
    places = [lab.path('first'), lab.path('second')]
    first, second = [
        lab.start(*SWARM, '--servers', 1, '--size', 2, '--rank', 0, '--bootstrap', f'file:{place}', *patience)
        for place, patience in zip(places, (['--bootstrap-timeout', f'{3 * SLOW}s'], []))
    ]
    files = [os.path.join(place, 'round-0.rank-0') for place in places]
    until(lambda: all(os.path.exists(file) for file in files), 'both wait for the others')
    os.replace(files[1], files[0])
    said = (first.wait(), first.err)
    check(said[0] == USAGE and 'two processes are rank 0' in said[1], 'one rank twice: said when nobody else comes', said)
    second.kill()


def states(lab):
    """One rank's folder is enough."""
    for rank, what in ((0, 'the first server'), (1, 'another server'), (2, 'a trainer')):
        folder = f'state{rank}'
        os.makedirs(lab.path(folder))
        lab.write(f'{folder}/rank{rank}', b'not a folder')
        words = [f'rank {rank} on ', f'{folder}/rank{rank}']
        arguments = ['--servers', 2, '--trainers', 1, '--state', lab.path(folder)]
        launch_refused(lab, f'{what} without a state folder', FAILED, 1, words, [[]] * 3, f'meet{rank}', *arguments)


def test(lab):
    no_launcher(lab)
    numbers(lab)
    folders(lab)
    one_rank_twice(lab)
    states(lab)


run_test(test)
