"""The main job by hand: a swarm is started, joined, looked at and trained on; its servers stop and come back."""

import contextlib
import itertools
import json
import re
import socket
import threading

from hivemind_lab import check, checkpoints, port_of, run_test

GRID = 'ffn.[0:2].[0:3]'
SAVES_AT_EXIT = ['--save-interval', '12h']


def look_at(lab, first, second):
    swarm = lab.status(first.join)
    uids = sorted(expert['uid'] for expert in swarm['experts'])
    check(
        uids == [f'ffn.{i}.{j}' for i in range(2) for j in range(3)],
        'status lists every expert of both servers once',
        uids,
    )
    check(
        len(swarm['servers']) == 2 and all(server['alive'] for server in swarm['servers']),
        'status lists both servers, alive',
        swarm['servers'],
    )
    ids = {server['id'] for server in swarm['servers']}
    check(
        ids == {re.search('hm://([0-9a-f]{64})@', server.join).group(1) for server in (first, second)},
        'a server is known by the id of its join line',
    )
    check(
        sorted(server['experts'] for server in swarm['servers']) == [3, 3],
        'each server says how many experts it has',
    )
    check({expert['server'] for expert in swarm['experts']} == ids, 'every expert is at one of them')
    table = lab.run('status', '--join', second.join, '--experts')
    check(
        table.code == 0 and all(uid in table.out for uid in uids),
        'the table says the same as the JSON, through either server',
    )


def train(lab, join):
    events = lab.path('events')
    result = lab.train(join, GRID, '--steps', 60, '--seed', 3, '--events', events)
    lines = [json.loads(line) for line in open(events, encoding='ascii')]
    check([line['step'] for line in lines] == list(range(1, 61)), 'the events file has a line for every step')
    first, last = lines[0]['loss'], lines[-1]['loss']
    check(last < 0.7 * first, 'the loss falls', f'{first} -> {last}')
    check(
        result['steps'] == 60 and result['steps_failed'] == 0 and result['calls_failed'] == 0,
        'no step and no call fails',
        result,
    )
    check(result['accuracy'] > 0.3, 'after 60 steps it knows more than chance', result['accuracy'])
    check(result['calls'] >= 2 * 2 * 60, 'every mixture of every step called the swarm', result['calls'])

    asked = lab.run('status', '--join', join, '--json', '--metrics').json['servers']
    metrics = [server['status']['metrics'] for server in asked]
    check(len(metrics) == 2, 'each server says its metrics')
    rows = sum(one['sched.rows'] for one in metrics)
    check(rows >= 2 * 60, 'which count the rows that were run', rows)
    for stage in ('admit', 'batch_wait', 'compute', 'reply'):
        found = [one[f'server.{stage}_ns'] for one in metrics]
        check(
            sum(one['count'] for one in found) > 0 and all(one['p50'] <= one['p99'] <= one['max'] for one in found),
            f'and how long {stage} took, of some calls',
            found,
        )


def state_is_locked(lab, state, join):
    refused = lab.run(
        'serve', '--join', join, '--listen', '127.0.0.1:0', '--experts', 'ffn.9.9', '--hidden', 32, '--state', state
    )
    check(
        refused.code == 1, 'a second process with the same state folder is refused with exit code 1', refused.code
    )
    check(
        re.fullmatch(r'hivemind: .*\n', refused.err) and state in refused.err,
        'in one line that names the folder',
        refused.err,
    )
    check('ffn.9.9' not in checkpoints(state), 'and leaves the folder alone')


def stop_in_order(lab, first, second, states):
    check(second.terminate() == 0, 'SIGTERM: the server exits with 0')
    uids = {expert['uid'] for expert in lab.status(first.join)['experts']}
    check(
        uids == {'ffn.0.0', 'ffn.0.1', 'ffn.0.2'},
        'a server that has stopped in order has withdrawn its experts at once',
        uids,
    )
    check(first.terminate() == 0, 'SIGTERM: the last server exits with 0, too')
    for row, state in enumerate(states):
        found = checkpoints(state)
        check(
            sorted(found) == [f'ffn.{row}.{i}' for i in range(3)] and all(found.values()),
            f'server {row} has left a checkpoint of every expert',
            found,
        )
    stopped = [line for line in second.out.splitlines() if '"stopped"' in line]
    check(len(stopped) == 1 and '"checkpoints_written":3' in stopped[0], 'it says how many it wrote', second.out)


def come_back(lab, states):
    newest = [max(steps[0] for steps in checkpoints(state).values()) for state in states]
    check(max(newest) > 0, 'the experts have made steps', newest)
    first = lab.serve('ffn.0.[0:3]', state=states[0])
    check(
        (first.start['restored'], first.start['restored_step']) == (3, newest[0]),
        'started again, a server restores its experts at the saved step',
        first.start,
    )
    second = lab.serve('ffn.1.[0:3]', join=first.join, state=states[1])
    check(
        (second.start['restored'], second.start['restored_step']) == (3, newest[1]),
        'and so does the other',
        second.start,
    )
    result = lab.train(first.join, GRID, '--steps', 10)
    check(result['steps_failed'] == 0 and result['experts_alive'] == 6, 'the swarm trains on', result)
    check(first.terminate() == 0 and second.terminate() == 0, 'both stop in order again')
    after = [max(steps[0] for steps in checkpoints(state).values()) for state in states]
    check(
        all(now >= before for now, before in zip(after, newest)) and sum(after) > sum(newest),
        'steps are counted on from the restored ones',
        f'{newest} -> {after}',
    )


def busy_door(upstream, refusals):
    """A port that hangs up on the first callers, as a server without room for strangers does, and then leads to it."""
    door = socket.create_server(('127.0.0.1', 0))

    def pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve():
        for number in itertools.count():
            caller, _ = door.accept()
            if number < refusals:
                caller.close()
                continue
            inside = socket.create_connection(upstream)
            for ends in ((caller, inside), (inside, caller)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return door.getsockname()[1]


def joins_a_busy_node(lab):
    node = lab.dht()
    _, port = port_of(node.join)
    through = node.join.replace(f':{port}', f':{busy_door(("127.0.0.1", port), 2)}')
    check(lab.status(through)['experts'] == [], 'who is hung up on tries to join again, until --join-timeout')
    check(node.terminate() == 0, 'the node ends in order')


def same_identity(lab, state):
    ids = []
    for _ in range(2):
        node = lab.dht('--state', state)
        ids.append(re.search('hm://([0-9a-f]{64})@', node.join).group(1))
        check(node.terminate() == 0, 'a DHT node ends in order on SIGTERM')
    check(ids[0] == ids[1], 'a node with --state keeps its identity over restarts')


def test(lab):
    states = [lab.path('a'), lab.path('b')]
    first = lab.serve('ffn.0.[0:3]', *SAVES_AT_EXIT, state=states[0])
    check(
        first.start['experts'] == 3 and first.start['restored'] == 0,
        'serve --new-swarm says what it serves',
        first.start,
    )
    second = lab.serve('ffn.1.[0:3]', *SAVES_AT_EXIT, join=first.join, state=states[1])
    check(second.start['experts'] == 3, 'a second server joins by the line of the first', second.start)
    look_at(lab, first, second)
    train(lab, second.join)
    state_is_locked(lab, states[0], second.join)
    stop_in_order(lab, first, second, states)
    come_back(lab, states)
    joins_a_busy_node(lab)
    same_identity(lab, lab.path('dht'))


run_test(test)
