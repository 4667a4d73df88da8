"""A swarm of bf16 experts trains; what is saved is f32, and the same server goes on from it in f32."""

from hivemind_lab import Training, check, checkpoints, run_test

UIDS = 'ffn.[0:2]'


def test(lab):
    state = lab.path('state')
    server = lab.serve(UIDS, '--dtype', 'bf16', state=state)
    start = server.start
    check(start['dtype'] == 'bf16', 'a server says what its experts multiply in', start)
    check('oneDNN' in start['bf16'] or 'f32' in start['bf16'], 'and how it does that here', start)
    training = Training(lab, server.join, UIDS, '--k-best', 1)
    training.steps(5)
    result = training.stop()
    check(result['steps'] >= 5, 'they train', result)
    check(server.terminate() == 0, 'the server saves and stops')
    saved = max(steps[0] for steps in checkpoints(state).values())

    server = lab.serve(UIDS, '--dtype', 'f32', state=state)
    start = server.start
    check(
        start['restored'] == 2 and start['restored_step'] == saved and start['dtype'] == 'f32' and 'bf16' not in start,
        'the same experts go on in f32 from where they were',
        start,
    )
    training = Training(lab, server.join, UIDS, '--k-best', 1)
    training.steps(2)
    training.stop()
    check(server.terminate() == 0, 'and save and stop')

    refused = lab.run('serve', '--new-swarm', '--experts', UIDS, '--dtype', 'f16')
    check(
        refused.code == 2 and "--dtype is 'f16'" in refused.err,
        'another dtype is a usage error',
        refused.err,
    )


run_test(test)
