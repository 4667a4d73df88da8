"""Every mistake that the user can make: one line that says what was wrong and how to mend it; nothing overwritten.

The line is the only one on stderr, begins with "hivemind: ", and names what is in `words`.  Exit code 2 is for what is
wrong on the command line itself, 1 for the rest."""

import gzip
import os
import re
import resource
import shutil
import signal
import socket
import subprocess

from hivemind_lab import DIGITS, HIDDEN, SLOW, WAIT_S, Failed, check, checkpoints, port_of, run_test, until

USAGE, FAILED = 2, 1


def refused(lab, code, what, arguments, *words, **how):
    result = lab.run(*arguments, name='refused', **how)
    said = f'code {result.code}, stdout {result.out[:300]!r}, stderr {result.err[:900]!r}'
    if result.code != code:
        raise Failed(f'{what}: exit code {code}; found {said}')
    if not re.fullmatch(r'hivemind: [^\n]+\n', result.err):
        raise Failed(f'{what}: exactly one line on stderr; found {said}')
    if result.out:
        raise Failed(f'{what}: nothing on stdout; found {said}')
    for word in words:
        if word not in result.err:
            raise Failed(f'{what}: the line names {word!r}; found {said}')
    print(f'ok: {what}: {result.err.strip()[10:]}', flush=True)


def serve(experts, *arguments):
    return ['serve', '--new-swarm', '--listen', '127.0.0.1:0', '--experts', experts, '--hidden', HIDDEN, *arguments]


def usage(lab):
    join = f'hm://{"0" * 63}1@127.0.0.1:1'
    for pattern in (
        'ffn',
        'ffn.',
        '.0',
        'ffn.01',
        'ffn..1',
        'ffn.-1',
        'ffn.0x1',
        'ffn.0 1',
        'ffn.[0:4',
        'ffn.[4:0]',
        'ffn.[2:2]',
        'ffn.[:4]',
        'ffn.[0:1:2]',
        'ffn.99999999999999999999',
        'ffn.[0:4294967296].[0:4294967296]',
        'ffn.0,',
        ',ffn.0',
        '',
        'a' * 500 + '.0',
    ):
        shown = pattern if 0 < len(pattern) < 30 else ''
        refused(
            lab,
            USAGE,
            f'malformed uid or pattern {pattern[:40]!r}',
            serve(pattern),
            shown.strip() if ',' not in shown else '',
            'a pattern looks like',
        )
        if not pattern.startswith(','):  # servers take lists; for a grid that comma is part of a name
            refused(
                lab,
                USAGE,
                f'malformed grid {pattern[:40]!r}',
                ['train', '--join', join, '--experts', pattern, '--data', DIGITS],
            )
    refused(
        lab,
        USAGE,
        'a grid that does not start at 0',
        ['train', '--join', join, '--experts', 'ffn.[1:4]', '--data', DIGITS],
        'ffn.[1:4]',
    )
    refused(lab, USAGE, 'no experts to serve', ['serve', '--new-swarm'], '--experts')
    refused(lab, USAGE, 'an unknown kind', serve('ffn.0', '--kind', 'fnn'), 'fnn', 'ffn')
    refused(lab, USAGE, 'an unknown optimizer', serve('ffn.0', '--optimizer', 'adamm'), 'adamm', 'adam')

    refused(lab, USAGE, 'a misspelt command', ['srve'], 'srve', 'serve')
    refused(lab, USAGE, 'an unknown command', ['frobnicate'], 'frobnicate', '--help')
    refused(lab, USAGE, 'a misspelt option', serve('ffn.0', '--hiden', '3'), '--hiden', '--hidden')
    refused(lab, USAGE, 'an unknown option', serve('ffn.0', '--frobnicate'), '--frobnicate', '--help')
    refused(lab, USAGE, 'an argument that is no option', ['status', '--join', join, 'extra'], 'extra', '--help')
    refused(lab, USAGE, 'an option without its value', ['serve', '--new-swarm', '--experts'], '--experts')
    refused(lab, USAGE, 'an option given twice', ['status', '--join', join, '--join', join], '--join', 'twice')
    for option, value in (
        ('--rate', 'fast'),
        ('--rate', '-1'),
        ('--rate', 'nan'),
        ('--batch-rows-max', '0'),
        ('--batch-rows-max', '1e99'),
        ('--seed', '12x'),
        ('--save-interval', '10'),
        ('--memory', '2Q'),
        ('--memory', '1'),
        ('--client-calls-max', '0'),
        ('--client-calls-max', '8193'),
        ('--client-bytes-max', '4095'),
        ('--client-bytes-max', 'many'),
        ('--log', 'loud'),
    ):
        refused(lab, USAGE, f'{option} {value}', serve('ffn.0', option, value), option, value)
    refused(
        lab,
        USAGE,
        'a queue shorter than a batch',
        serve('ffn.0', '--queue-rows-max', 10),
        '--queue-rows-max 10',
        '--batch-rows-max',
    )
    refused(
        lab,
        USAGE,
        'more for one client than there is',
        serve('ffn.0', '--memory', '16M', '--client-bytes-max', '17M'),
        '--client-bytes-max 17825792',
        '--memory 16777216',
    )
    refused(lab, USAGE, 'a wrong variable', serve('ffn.0'), 'HM_RATE', 'quick', environment={'HM_RATE': 'quick'})
    refused(lab, FAILED, 'a device that is not here', serve('ffn.0', '--device', 'abacus'), 'abacus', 'cpu')

    config = lab.write('config', 'rate = 0.1\nhiden = 3\n')
    refused(
        lab,
        USAGE,
        'an unknown name in a file of options',
        serve('ffn.0', '--config', config),
        f'{config}:2',
        'hiden',
    )
    refused(
        lab,
        USAGE,
        'a file of options that is not there',
        serve('ffn.0', '--config', '/nonexistent/file'),
        '/nonexistent/file',
    )

    refused(lab, USAGE, 'neither --join nor --new-swarm', ['serve', '--experts', 'ffn.0'], '--join', '--new-swarm')
    refused(
        lab, USAGE, 'both --join and --new-swarm', ['dht', '--new-swarm', '--join', join], '--join', '--new-swarm'
    )
    refused(lab, USAGE, 'status of no swarm', ['status'], '--join')
    for line in (
        '',
        'hello',
        'http://example.org',
        'hm://',
        f'hm://{"0" * 64}',
        f'hm://{"0" * 63}@127.0.0.1:1',
        f'hm://{"g" * 64}@127.0.0.1:1',
        f'hm://{"0" * 64}@',
        f'hm://{"0" * 64}@127.0.0.1',
        f'hm://{"0" * 64}@127.0.0.1:0',
        f'hm://{"0" * 64}@127.0.0.1:65536',
        f'hm://{"0" * 64}@::1:4242',
        f'hm://{"0" * 64}@127.0.0.1:1?sworm=a',
        f'hm://{"0" * 64}@127.0.0.1:1?swarm=',
        'hm://' + 'x' * 5000,
    ):
        refused(lab, USAGE, f'wrong join line {line[:24]!r}...{line[-20:]!r}', ['status', '--join', line])
    for listen in ('127.0.0.1', '127.0.0.1:x', '127.0.0.1:65536', '::1:80', '[::1', ':', 'a b:1'):
        refused(lab, USAGE, f'--listen {listen}', ['dht', '--new-swarm', '--listen', listen], listen)
    refused(
        lab,
        USAGE,
        "a swarm's name with a space",
        ['dht', '--new-swarm', '--listen', '127.0.0.1:0', '--swarm', 'a b'],
        'a b',
    )
    refused(lab, USAGE, 'no data file', ['train', '--join', join], '--data')
    refused(
        lab,
        USAGE,
        '--k-min over --k-best',
        ['train', '--join', join, '--data', DIGITS, '--k-best', '2', '--k-min', '3'],
        '--k-min',
        '--k-best',
    )


def addresses(lab):
    taken = socket.create_server(('127.0.0.1', 0))
    port = taken.getsockname()[1]
    refused(
        lab, FAILED, 'a port in use', ['dht', '--new-swarm', '--listen', f'127.0.0.1:{port}'], str(port), 'port'
    )
    refused(
        lab, FAILED, 'an address that is not ours', ['dht', '--new-swarm', '--listen', '192.0.2.1:0'], '192.0.2.1'
    )
    taken.close()


def data_files(lab, join):
    def train(path):
        return ['train', '--join', join, '--experts', 'ffn.[0:2]', '--hidden', HIDDEN, '--data', path, '--steps', 2]

    rows = ''.join(f'{i},{i + 1},{i % 3}\n' for i in range(40))
    packed = gzip.compress(rows.encode() * 100)
    refused(
        lab, FAILED, 'a data file that is not there', train('/nonexistent/digits.csv'), '/nonexistent/digits.csv'
    )
    refused(lab, FAILED, 'a folder instead of a data file', train(lab.folder), lab.folder)
    for what, name, content, words in (
        ('an empty data file', 'empty.csv', '', ['empty.csv']),
        ('a ragged data file', 'ragged.csv', rows[:30] + '1,2,3,1\n' + rows, ['ragged.csv']),
        ('a word among the numbers', 'word.csv', rows + 'one,2,1\n', ['word.csv', '41']),
        ('a label that is no whole number', 'label.csv', rows + '1,2,0.5\n', ['label.csv', '41']),
        ('a label below 0', 'below.csv', rows + '1,2,-1\n', ['below.csv', '41']),
        ('a number that is none', 'nan.csv', rows + 'nan,2,1\n', ['nan.csv', '41']),
        ('a row that misses its last value', 'short.csv', rows + '1,2\n', ['short.csv', '41']),
        ('one column only', 'column.csv', '1\n2\n3\n', ['column.csv']),
        ('one row only', 'row.csv', '1,2,1\n', ['row.csv']),
        ('random bytes', 'bytes.csv', os.urandom(4096), ['bytes.csv']),
        ('a gzip file that is cut', 'cut.csv.gz', packed[: len(packed) // 2], ['cut.csv.gz']),
        (
            'a gzip file with a wrong byte',
            'wrong.csv.gz',
            packed[:40] + bytes([packed[40] ^ 255]) + packed[41:],
            ['wrong.csv.gz'],
        ),
    ):
        refused(lab, FAILED, what, train(lab.write(name, content)), *words)


def swarms(lab, server):
    """Lines that parse and lead nowhere, or to the wrong place."""
    host, port = port_of(server.join)
    free = socket.create_server(('127.0.0.1', 0))
    dead = free.getsockname()[1]
    free.close()
    node = server.join[5:69]
    other = ('1' if node[0] == '0' else '0') + node[1:]
    refused(
        lab,
        FAILED,
        'a dead join line',
        ['status', '--join', f'hm://{node}@127.0.0.1:{dead}', '--join-timeout', '2s'],
        str(dead),
        'nobody answers',
        'join line',
    )
    refused(
        lab,
        FAILED,
        'a join line with another node id',
        ['status', '--join', f'hm://{other}@{host}:{port}', '--join-timeout', '2s'],
        str(port),
        'is not the one that the join line names',
    )
    silent = socket.create_server(('127.0.0.1', 0))
    mute = silent.getsockname()[1]
    refused(
        lab,
        FAILED,
        'a join line to something that does not answer',
        ['status', '--join', f'hm://{node}@127.0.0.1:{mute}', '--join-timeout', '1s'],
        str(mute),
    )
    refused(
        lab,
        FAILED,
        'a server that cannot join',
        [
            'serve',
            '--join',
            f'hm://{node}@127.0.0.1:{mute}',
            '--join-timeout',
            '1s',
            '--listen',
            '127.0.0.1:0',
            '--experts',
            'ffn.0',
        ],
        str(mute),
    )
    silent.close()
    meeting = lab.dht()
    refused(
        lab,
        FAILED,
        'training in an empty swarm',
        lab.train_arguments(meeting.join, 'ffn.[0:2]', '--steps', 2),
        'ffn',
    )
    check(lab.status(meeting.join)['experts'] == [], 'status of an empty swarm has no experts, and is no error')
    refused(
        lab, FAILED, 'a grid that nobody serves', lab.train_arguments(server.join, 'fnn.[0:2]', '--steps', 2), 'fnn'
    )
    refused(
        lab,
        FAILED,
        'a grid of other dimensions than the swarm has',
        lab.train_arguments(server.join, 'ffn.[0:2].[0:2]', '--steps', 2),
        "'ffn'",
        '--experts',
    )
    refused(
        lab,
        FAILED,
        'shapes that do not fit: --hidden other than the experts',
        lab.train_arguments(server.join, 'ffn.[0:2]', '--steps', 2, hidden=HIDDEN * 2),
        str(HIDDEN),
        '--hidden',
    )


def outputs(lab, join):
    train = lab.train_arguments(join, 'ffn.[0:2]', '--steps', 2)
    kept = lab.write('kept', 'precious\n')
    refused(lab, FAILED, 'an events file that exists', [*train, '--events', kept], kept, '--events')
    with open(kept, encoding='ascii') as file:
        check(file.read() == 'precious\n', 'and it is not overwritten')
    refused(
        lab,
        FAILED,
        'an events file in no folder',
        [*train, '--events', lab.path('no', 'events')],
        lab.path('no', 'events'),
    )


def states(lab):
    kept = lab.write('file', 'precious\n')
    refused(
        lab,
        FAILED,
        'a state folder below a file',
        ['dht', '--new-swarm', '--listen', '127.0.0.1:0', '--state', kept + '/state'],
        kept,
    )
    refused(
        lab,
        FAILED,
        'a state folder that is a file',
        ['dht', '--new-swarm', '--listen', '127.0.0.1:0', '--state', kept],
        kept,
    )

    state = lab.path('state')
    server = lab.serve('ffn.[0:2]', state=state)
    refused(lab, FAILED, 'a locked state folder', serve('ffn.[0:2]', '--state', state), state, str(server.pid))
    lab.train(server.join, 'ffn.[0:2]', '--k-best', 2, '--steps', 3)
    check(server.terminate() == 0, 'the owner of the folder is not disturbed')
    files = contents(state)
    check(len([name for name in files if name.endswith('.h5')]) == 2, 'it has left its checkpoints', list(files))

    for option, value in (('--hidden', HIDDEN * 2), ('--optimizer', 'sgd'), ('--kind', 'nop')):
        arguments = [
            argument
            for argument in serve('ffn.[0:2]', '--state', state)
            if option != '--hidden' or argument not in ('--hidden', HIDDEN)
        ]
        refused(lab, FAILED, f'checkpoints of another {option[2:]}', [*arguments, option, value], state, str(value))
    check(contents(state) == files, 'no checkpoint is overwritten')

    key = os.path.join(state, 'key.pem')
    with open(key, 'w', encoding='ascii') as file:
        file.write('not a key\n')
    refused(lab, FAILED, 'a damaged key', serve('ffn.[0:2]', '--state', state), key)
    with open(key, encoding='ascii') as file:
        check(file.read() == 'not a key\n', 'and it is not overwritten')


def contents(folder):
    """Name -> bytes of every file that a refused start must leave alone."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            if name != 'lock':
                with open(os.path.join(root, name), 'rb') as file:
                    found[os.path.join(root, name)] = file.read()
    return found


def small_files():
    """Files of at most 8 KiB, as if the disk were full: key and output fit, checkpoints do not."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def full_disk(lab):
    state = lab.path('full')
    first = lab.serve('ffn.0', state=state)
    lab.train(first.join, 'ffn.[0:1]', '--k-best', 1, '--steps', 3)
    check(first.terminate() == 0, 'a server leaves a checkpoint while there is room')
    before = contents(state)

    second = lab.serve('ffn.0', '--save-interval', '86400s', state=state, before_exec=small_files)
    check(second.start['restored'] == 1, 'one that cannot write still restores it', second.start)
    lab.train(second.join, 'ffn.[0:1]', '--k-best', 1, '--steps', 3)
    code = second.terminate()
    lines = [line for line in second.err.splitlines() if line.startswith('hivemind: ')]
    check(code == 1, 'a full disk: the server that could not save exits with 1', (code, second.err))
    check(
        len(lines) == 1 and state in lines[0] and 'full' in lines[0],
        'one line says what could not be written, and why',
        second.err,
    )
    check(contents(state) == before, 'what was saved before is untouched, and nothing half-written is left')
    third = lab.serve('ffn.0', state=state)
    check(third.start['restored_step'] == checkpoints(state)['ffn.0'][0], 'and can still be restored', third.start)
    check(third.terminate() == 0, 'with room again, it stops in order')


def full_tmpfs(lab):
    """A disk that is really full (ENOSPC), mounted where only the server sees it."""
    if os.geteuid() != 0 or not shutil.which('unshare'):
        print('SKIP: a full tmpfs: needs root and unshare', flush=True)
        return
    mount = lab.path('tmpfs')
    os.mkdir(mount)
    inside = ['unshare', '--mount', 'sh', '-c', f'mount -t tmpfs -o size=64k none {mount} && exec "$@"', 'sh']
    if subprocess.run([*inside, 'true'], check=False, capture_output=True, timeout=WAIT_S).returncode != 0:
        print('SKIP: a full tmpfs: no mount namespaces here', flush=True)
        return
    server = lab.serve('ffn.0', '--save-interval', '300ms', state=os.path.join(mount, 'state'), inside=inside)
    lab.train(server.join, 'ffn.[0:1]', '--k-best', 1, '--steps', 20)
    until(lambda: 'ffn.0 is not saved' in server.err, 'the server has tried to save', 5 * SLOW)
    check(
        server.running() and lab.train(server.join, 'ffn.[0:1]', '--k-best', 1, '--steps', 5)['steps_failed'] == 0,
        'a full disk does not keep a server from serving',
    )
    folder = f'/proc/{server.pid}/root{mount}/state/experts/ffn.0'
    until(
        lambda: not [name for name in os.listdir(folder) if name.endswith('.tmp')],
        'unfinished files are removed',
        5 * SLOW,
    )
    code = server.terminate()
    lines = [line for line in server.err.splitlines() if line.startswith('hivemind: ')]
    check(
        code == 1 and len(lines) == 1 and mount in lines[0],
        'and at the end it exits with 1 and one line',
        (code, server.err),
    )


def test(lab):
    usage(lab)
    addresses(lab)
    server = lab.serve('ffn.[0:2]')
    data_files(lab, server.join)
    swarms(lab, server)
    outputs(lab, server.join)
    states(lab)
    full_disk(lab)
    full_tmpfs(lab)
    check(
        lab.train(server.join, 'ffn.[0:2]', '--k-best', 2, '--steps', 2)['steps_failed'] == 0,
        'no mistake of others has disturbed the server',
    )
    check(server.terminate() == 0, 'it stops in order')


run_test(test)
