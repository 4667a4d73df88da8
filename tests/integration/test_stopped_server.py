"""A server is stopped (SIGSTOP), or its packets are dropped: nobody closes a connection, only deadlines end calls."""

import signal

from hivemind_lab import SLOW, Training, check, checkpoints, gaps, run_test, until
from hivemind_wire import make_wire

TIMEOUT_S = 1.5 if SLOW == 1 else 3
AFTER_K_MIN_S = TIMEOUT_S / 5
# What a trainer does in a step besides calls: it looks around (at most 0.5 s), rests after a failure (at most 1 s), and
# computes.  An epoch is many small steps, so that none ends in the silence: a test of its accuracy is many calls.
SLACK_S = 1.5 + 1.0 * SLOW
TIMES = [
    '--timeout',
    f'{TIMEOUT_S}s',
    '--timeout-after-k-min',
    f'{AFTER_K_MIN_S}s',
    '--layers',
    1,
    '--failures-max',
    1000000,
    '--batch',
    8,
]


def steps_of(state):
    return sum(steps[0] for steps in checkpoints(state).values() if steps)


def goes_on_without(lab, how, join, state, silence, wake, **place):
    """A trainer with three servers, one of which falls silent and comes back."""
    training = Training(lab, join, 'ffn.[0:3].[0:2]', '--k-best', 4, '--k-min', 1, *TIMES, **place)
    training.steps(20)
    until(lambda: len(checkpoints(state)) == 2, 'checkpoints of the server that will be silent')
    before = training.last()
    silence()
    training.steps(8, 60 * SLOW)
    quiet = [event for event in training.events() if event['step'] >= before['step']]
    check(
        all(event['status'] == 'HM_OK' for event in quiet),
        f'{how}: steps go on, its experts are masked out',
        [event['status'] for event in quiet if event['status'] != 'HM_OK'],
    )
    check(
        training.last()['calls_failed'] > before['calls_failed'],
        f'{how}: calls to it fail and are counted',
        training.last(),
    )
    # One layer: a forward and a backward.
    check(
        max(gaps(quiet)) < 2 * TIMEOUT_S + SLACK_S, f'{how}: every step ends within its deadlines', max(gaps(quiet))
    )
    at = steps_of(state)
    wake()
    until(lambda: training.process.running() and steps_of(state) > at + 2, f'{how}: it is used again', 60 * SLOW)
    check(True, f'{how}: when it is back it is used again')
    failed = training.last()['calls_failed']
    training.steps(10)
    check(training.last()['calls_failed'] == failed, f'{how}: and calls fail no more', training.last())
    training.stop()
    # The first steps, which connect, may be too slow on a busy machine for these deadlines.
    events = [event for event in training.events() if event['seconds'] > before['seconds']]
    failures = [event for event in events if event['status'] != 'HM_OK']
    check(not failures, f'{how}: no step has failed since it fell silent', failures)


def fails_at_deadline(lab, how, join, silence, wake, **place):
    """Every expert is silent: what is measured is the deadline itself."""
    training = Training(lab, join, 'one.[0:2]', '--k-best', 2, '--k-min', 1, *TIMES, **place)
    training.steps(10)
    silence()
    failing = [
        training.until(
            lambda event: event['status'] != 'HM_OK', f'{how}: a failed step', 2 * TIMEOUT_S + SLACK_S + 5
        )
    ]
    before = training.last()
    until(
        lambda: training.last()['seconds'] > before['seconds'] + 3 * TIMEOUT_S,
        f'{how}: more failed steps',
        20 * TIMEOUT_S,
    )
    events = [event for event in training.events() if event['seconds'] >= before['seconds']]
    check(
        all(event['status'] != 'HM_OK' for event in events),
        f'{how}: with no expert left, steps fail with a status',
        failing,
    )
    check(
        max(gaps(events)) < TIMEOUT_S + SLACK_S, f'{how}: each ends at its deadline, never later', max(gaps(events))
    )
    wake()
    training.until(lambda event: event['status'] == 'HM_OK', f'{how}: a step when the server is back', 90 * SLOW)
    training.steps(5, 60 * SLOW)
    check(True, f'{how}: steps are done again when it is back')
    training.stop()


def stopped(lab):
    meeting = lab.dht()
    servers = [
        lab.serve(f'ffn.{i}.[0:2]', '--save-interval', '200ms', join=meeting.join, state=lab.path(f'stopped{i}'))
        for i in range(3)
    ]
    goes_on_without(
        lab,
        'SIGSTOP',
        meeting.join,
        lab.path('stopped1'),
        servers[1].freeze,
        lambda: servers[1].signal(signal.SIGCONT),
    )
    alone = lab.serve('one.[0:2]', join=meeting.join)
    fails_at_deadline(lab, 'SIGSTOP', meeting.join, alone.freeze, lambda: alone.signal(signal.SIGCONT))
    check(
        [server.terminate() for server in (*servers, alone, meeting)] == [0] * 5,
        'SIGSTOP: everybody stops in order',
    )


# ---- cut off --------------------------------------------------------------------------------------------


def cut_off(lab, wire):
    here = {'inside': ['ip', 'netns', 'exec', wire.here]}
    there = {'inside': ['ip', 'netns', 'exec', wire.there]}
    meeting = lab.dht(listen='10.71.0.1:0', **here)
    near = [lab.serve(f'ffn.{i}.[0:2]', join=meeting.join, listen='10.71.0.1:0', **here) for i in (0, 2)]
    far = lab.serve(
        'ffn.1.[0:2]',
        '--save-interval',
        '200ms',
        join=meeting.join,
        state=lab.path('far'),
        listen='10.71.0.2:0',
        **there,
    )
    goes_on_without(lab, 'cut off', meeting.join, lab.path('far'), wire.cut, wire.mend, **here)
    alone = lab.serve('one.[0:2]', join=meeting.join, listen='10.71.0.2:0', **there)
    fails_at_deadline(lab, 'cut off', meeting.join, wire.cut, wire.mend, **here)
    check(
        [server.terminate() for server in (*near, far, alone, meeting)] == [0] * 5,
        'cut off: everybody stops in order',
    )


def test(lab):
    stopped(lab)
    wire, why_not = make_wire(lab)
    if wire:
        cut_off(lab, wire)
    else:
        print(f'SKIP: a server cut off in a namespace: {why_not}', flush=True)


run_test(test)
