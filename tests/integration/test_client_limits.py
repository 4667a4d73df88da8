"""What one node may have in flight at a server is what the server was told: over it there are plain refusals, and nobody
else is touched."""

from hivemind_lab import SLOW, check, run_test

SMALL, LARGE = 8, 1024  # rows of a batch: 1 KiB and 128 KiB of 32 columns, f32


def steps(lab, join, rows, *arguments):
    """A short training: whether its steps were made, and what it said."""
    return lab.run(
        *lab.train_arguments(
            join, 'ffn.[0:2].[0:2]', '--k-best', 2, '--k-min', 1, '--batch', rows, '--steps', 5, *arguments
        ),
        seconds=60 * SLOW,
        name='train',
    )


def refused_by(lab, join):
    """How many requests the servers have refused so far, without a handler."""
    told = lab.run('status', '--join', join, '--json', '--metrics').json
    return sum(server['status']['metrics']['rpc.requests_refused'] for server in told['servers'])


def test(lab):
    tight = lab.serve('ffn.[0:2].[0:2]', '--client-bytes-max', '64K')
    check(steps(lab, tight.join, SMALL).code == 0, 'calls within the limit are served')
    before = refused_by(lab, tight.join)
    large = steps(lab, tight.join, LARGE, '--failures-max', 2)
    check(
        large.code != 0 and 'over a fixed limit' in large.err,
        'a call that is over the limit by itself fails, and says why',
        (large.code, large.err),
    )
    check(refused_by(lab, tight.join) > before, 'and the server has counted the refusals')
    check(steps(lab, tight.join, SMALL).code == 0, 'the next one within it is served again')
    check(tight.terminate() == 0, 'the server stops in order')
    one = lab.serve('ffn.[0:2].[0:2]', '--client-calls-max', 1)
    one_at_a_time = steps(lab, one.join, LARGE)
    check(
        one_at_a_time.code == 0 and one_at_a_time.json['steps_failed'] == 0,
        'who makes one call at a time is served by a server that takes no more',
        (one_at_a_time.code, one_at_a_time.err),
    )
    check(one.terminate() == 0, 'it stops in order')


run_test(test)
