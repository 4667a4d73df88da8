"""Rows that a server turns away are answered by their next best experts in the same step, at another server."""

from hivemind_lab import SLOW, check, run_test

BATCH = 64


def train(lab, join, *arguments):
    """A short training that needs every one of its k best."""
    grid = ['ffn.[0:4].[0:2]', '--k-best', 3, '--k-min', 3, '--layers', 1, '--batch', BATCH]
    return lab.run(
        *lab.train_arguments(join, *grid, '--steps', 20, '--failures-max', 2, *arguments),
        seconds=60 * SLOW,
        name='train',
    )


def test(lab):
    narrow = lab.serve('ffn.[0:2].[0:2]', '--batch-rows-max', 8, '--queue-rows-max', 8)
    wide = lab.serve('ffn.[2:4].[0:2]', join=narrow.join)
    without = train(lab, narrow.join, '--spares', 0)
    check(
        without.code != 0 and 'answers it needs' in without.err,
        'without spares a server that turns rows away fails the steps that need its experts',
        (without.code, without.err),
    )
    spared = train(lab, narrow.join, '--spares', 5)
    check(
        spared.code == 0 and spared.json['steps_failed'] == 0,
        'with spares every step gets all its answers',
        (spared.code, spared.err),
    )
    check(spared.json['parts_failed'] > 0, 'although rows were turned away', spared.json)
    check(narrow.terminate() == 0 and wide.terminate() == 0, 'the servers stop in order')


run_test(test)
