"""A server dies by SIGKILL in the middle of a training: the next steps are quick, and it is found again when back."""

import time

from hivemind_lab import SLOW, Training, checkpoints, check, gaps, run_test, until

ROWS = ['ffn.0.[0:3]', 'ffn.1.[0:3]', 'ffn.2.[0:3]']
NEXT_STEP_S = 2 * SLOW  # the bar


def test(lab):
    meeting = lab.dht()
    states = [lab.path(f'state{i}') for i in range(3)]
    servers = [
        lab.serve(row, '--save-interval', '200ms', join=meeting.join, state=state)
        for row, state in zip(ROWS, states)
    ]
    training = Training(lab, meeting.join, 'ffn.[0:3].[0:3]', '--k-best', 4, '--k-min', 1)
    before = training.steps(20)
    check(before['experts_alive'] == 9, 'the trainer sees the experts of all servers', before)
    check(before['calls_failed'] == 0, 'no call fails while all is well', before)
    until(
        lambda: all(steps and steps[0] > 0 for steps in checkpoints(states[1]).values())
        and len(checkpoints(states[1])) == 3,
        'periodic checkpoints of every expert of server 1',
    )

    last = training.last()
    killed_at = time.monotonic()
    servers[1].kill()
    # The step under way may have been done with the dead server already: the one after it counts.
    training.until(
        lambda event: event['status'] == 'HM_OK' and event['step'] >= last['step'] + 2,
        'a step after the kill',
        NEXT_STEP_S + 15,
    )
    took = time.monotonic() - killed_at
    check(took < NEXT_STEP_S, f'SIGKILL of a server: the next step is done in less than {NEXT_STEP_S} s', took)
    training.steps(20)
    events = [event for event in training.events() if event['step'] >= last['step']]
    good = [event for event in events if event['status'] == 'HM_OK']
    check(max(gaps(good)) < NEXT_STEP_S, 'and so is every one of the next 20', max(gaps(good)))
    check(
        all(event['status'] == 'HM_OK' for event in events),
        'none of them fails: dead experts are masked out',
        [event['status'] for event in events if event['status'] != 'HM_OK'],
    )
    check(training.last()['calls_failed'] > 0, 'failed calls are counted', training.last())

    saved = {uid: steps[0] for uid, steps in checkpoints(states[1]).items()}
    servers[1] = lab.serve(ROWS[1], '--save-interval', '200ms', join=meeting.join, state=states[1])
    start = servers[1].start
    check(
        (start['restored'], start['restored_step']) == (3, max(saved.values())),
        'started again, the server restores its experts at the saved step',
        (start, saved),
    )
    training.until(lambda event: event['experts_alive'] == 9, 'the trainer finds all experts again', 30 * SLOW)
    check(True, 'the trainer finds all experts again')
    until(
        lambda: sum(steps[0] for steps in checkpoints(states[1]).values()) > sum(saved.values()),
        'the experts that came back make steps',
        30 * SLOW,
    )
    check(True, 'and trains them: their checkpoints move on')
    failed = training.last()['calls_failed']
    training.steps(10)
    check(training.last()['calls_failed'] == failed, 'no call fails any more', training.last())
    swarm = lab.status(meeting.join)
    check(
        len(swarm['experts']) == 9 and all(server['alive'] for server in swarm['servers'] if server['experts']),
        'status shows every expert',
        swarm,
    )
    result = training.stop()
    check(
        result['steps_failed'] == 0 and result['calls_failed'] == failed,
        'Ctrl-C ends the training with its result',
        result,
    )
    check([server.terminate() for server in servers] == [0, 0, 0], 'all servers stop in order')


run_test(test)
