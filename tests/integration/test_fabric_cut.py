"""The fast path's own network goes down while the connections stay: calls go on over tcp, none fails, and the path comes
back.  UCX's TCP has a wire of its own between two namespaces, which is cut without a word."""

import os

from hivemind_lab import SLOW, Training, check, gaps, run_test, skip, until
from hivemind_wire import make_wire

NOTICED_S = 3 + 3 * SLOW  # a silent path is noticed in 2 s (docs/adr/0006)


def test(lab):
    if not os.path.exists(os.path.join(os.environ['HM_BUILD_DIR'], 'lib', 'hivemind', 'ucx.so')):
        skip('the ucx module was not built')
    wire, why_not = make_wire(lab, 'wire', 'fast')
    if not wire:
        skip(why_not)
    with open(lab.path('key'), 'wb') as file:
        file.write(os.urandom(32))
    os.chmod(lab.path('key'), 0o600)
    fabric = ['--fabric', 'fast', '--fabric-tcp', '--fabric-key', lab.path('key')]
    # In other networks of one machine: UCX would find shared memory between them.
    environment = {'HM_UCX_TLS': 'tcp'}
    here = {'inside': ['ip', 'netns', 'exec', wire.here], 'environment': environment}
    there = {'inside': ['ip', 'netns', 'exec', wire.there], 'environment': environment}
    server = lab.serve('ffn.[0:4]', *fabric, listen='10.71.0.2:0', **there)

    def path():
        return lab.run('status', '--join', server.join, *fabric, '--json', **here).json['paths']

    check(path()['fabric_peers'] == 1, "over UCX's TCP between two networks", path())
    training = Training(lab, server.join, 'ffn.[0:4]', '--k-best', 2, *fabric, **here)
    training.steps(20)
    before = training.last()
    wire.cut('fast')
    after = training.steps(20, 30 * SLOW)
    cut = [event for event in training.events() if event['step'] >= before['step']]
    longest = max(gaps(cut))
    check(longest < NOTICED_S, f'the fast path is cut: the longest step takes less than {NOTICED_S} s', longest)
    print(f'the longest step took {longest:.2f} s', flush=True)
    check(all(event['status'] == 'HM_OK' for event in cut), 'no step fails', [event['status'] for event in cut])
    check(after['calls_failed'] == 0, 'no call fails', after)
    late = path()
    check(late['tcp_peers'] == 1 and late['tcp'][0]['why'], 'who joins now does it over tcp, and says why', late)
    wire.mend()
    until(lambda: path()['fabric_peers'] == 1, 'the fast path is there for others again', 30 * SLOW)
    training.steps(20, 30 * SLOW)
    result = training.stop()
    check(result['calls_failed'] == 0 and result['steps_failed'] == 0, 'mended: nothing has failed', result)
    check(result['tcp_messages_after_join'] > 0 and result['ucx_messages'] > 0, 'it has used both', result)
    check(server.terminate() == 0, 'the server stops in order')


run_test(test)
