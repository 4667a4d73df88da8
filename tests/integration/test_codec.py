"""Training with coded rows: it learns as it does without, servers that take fewer codecs are served plain rows, and a
codec that nobody knows is refused by name."""

from hivemind_lab import check, run_test

GRID = 'ffn.[0:2].[0:2]'
ENOUGH = 0.9  # of the digits, after these steps, with codec none and with u8


def train(lab, join, codec):
    return lab.train(join, GRID, '--codec', codec, '--steps', 200, '--rate', 0.01, '--seed', 1)


def learns(lab):
    server = lab.serve(GRID)
    record = lab.status(server.join)['servers'][0]
    check(record['codecs'] == 'none,f16,bf16,u8', 'a server takes every codec, and its record says so', record)
    coded = train(lab, server.join, 'u8')
    check(coded['accuracy'] >= ENOUGH, 'a training with u8 learns', coded)
    check(
        coded['calls_coded'] == coded['calls'] and coded['calls_failed'] == coded['steps_failed'] == 0,
        'every call of it was coded, and none failed',
        coded,
    )
    check(server.terminate() == 0, 'the server stops in order')


def served_plain(lab):
    first = lab.serve('ffn.0.[0:2]', '--codecs', 'none,f16')
    second = lab.serve('ffn.1.[0:2]', join=first.join)
    result = lab.run(
        *lab.train_arguments(first.join, GRID, '--codec', 'u8', '--steps', 200, '--rate', 0.01, '--seed', 1),
        name='train',
    )
    check(result.code == 0, 'a trainer whose codec one server does not take goes on', result.err)
    lines = [line for line in result.err.splitlines() if 'codec' in line]
    check(
        len(lines) == 1 and 'u8' in lines[0] and 'none,f16' in lines[0],
        'and says so once, with the codec and what the server takes',
        lines,
    )
    said = result.json
    check(said['accuracy'] >= ENOUGH, 'it learns', said)
    check(
        0 < said['calls_coded'] < said['calls'] and said['calls_failed'] == 0,
        'calls to the other server are coded, and none fails',
        said,
    )
    check(first.terminate() == 0 and second.terminate() == 0, 'both stop in order')


def refused_by_name(lab):
    for arguments in (
        ['train', '--join', 'hm://' + '0' * 64 + '@127.0.0.1:1', '--data', 'x', '--codec', 'zip'],
        ['serve', '--new-swarm', '--experts', GRID, '--codecs', 'u8,zip'],
        ['bench', 'throughput', '--codec', 'zip'],
        ['bench', 'codec', '--codec', 'zip'],
    ):
        result = lab.run(*arguments)
        check(
            result.code == 2 and result.err == "hivemind: 'zip' is no codec; there are none,f16,bf16,u8\n",
            f'{arguments[0]}: an unknown codec is a usage error that names it and the known ones',
            (result.code, result.err),
        )


def benchmarks(lab):
    result = lab.run('bench', 'codec', '--bytes', '64K', '--repeats', 1, '--json')
    check(result.code == 0 and len(result.out.splitlines()) == 4, 'bench codec says a line a codec', result.out)
    last = result.json
    check(
        last['codec'] == 'u8' and last['rms_error'] <= 0.01 and last['bytes_ratio'] <= 0.26,
        'u8 takes 26 % of the bytes at most, and is off by 1 % at most',
        last,
    )


def test(lab):
    refused_by_name(lab)
    benchmarks(lab)
    learns(lab)
    served_plain(lab)


if __name__ == '__main__':
    run_test(test)
