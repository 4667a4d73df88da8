"""The fast path between the nodes of one cluster: who has the key meets on UCX, everybody else stays on tcp and is told
why; what is wrong with the key is one line."""

import os
import re

from hivemind_lab import HIVEMIND, check, run_test, until


def key_file(lab, name, content, mode=0o600):
    path = lab.path(name)
    with open(path, 'wb') as file:
        file.write(content)
    os.chmod(path, mode)
    return path


def bad_keys(lab):
    for what, code, arguments, words in (
        ('devices without a key', 2, ['--fabric', 'mlx5_0:1'], ['--fabric-key']),
        ('no file', 2, ['--fabric-key', lab.path('none')], ['none', 'openssl rand']),
        ('a folder', 2, ['--fabric-key', lab.path('')], ['not a file']),
        ('a key that others read', 2, ['--fabric-key', key_file(lab, 'open', b'k' * 32, 0o644)], ['chmod 600']),
        ('31 bytes', 2, ['--fabric-key', key_file(lab, 'short', b'k' * 31)], ['32 bytes', 'openssl rand']),
        ('no hexadecimal digits', 2, ['--fabric-key', key_file(lab, 'hex', b'g' * 64)], ['64 hexadecimal']),
    ):
        result = lab.run('dht', '--new-swarm', '--listen', '127.0.0.1:0', *arguments)
        said = (result.code, result.out, result.err)
        check(result.code == code and re.fullmatch(r'hivemind: [^\n]+\n', result.err) and not result.out, what, said)
        check(all(word in result.err for word in words), f'... {result.err.strip()[10:]}', said)


def bad_devices(lab):
    key = ['--fabric-key', key_file(lab, 'key', b'k' * 32)]
    for what, arguments, words in (
        ('no such device', ['--fabric', 'eth9'], ["'eth9'", 'RDMA devices: ', ' lo']),
        ('no such device with --fabric-tcp', ['--fabric', 'eth9', '--fabric-tcp'], ["'eth9'", ' lo']),
        ('one of two', ['--fabric', 'lo,mlx5_9:1', '--fabric-tcp'], ["'mlx5_9:1'"]),
        ('an interface without --fabric-tcp', ['--fabric', 'lo'], ['lo', '--fabric-tcp']),
    ):
        result = lab.run('dht', '--new-swarm', '--listen', '127.0.0.1:0', *arguments, *key)
        said = (result.code, result.out, result.err)
        check(result.code == 1 and re.fullmatch(r'hivemind: [^\n]+\n', result.err) and not result.out, what, said)
        check(all(word in result.err for word in words), f'... {result.err.strip()[10:]}', said)


def without_the_module(lab):
    key = key_file(lab, 'key', b'k' * 32)
    lab.write('ucx.so', b'no library')  # HM_MODULE_PATH goes before the folder of the build
    node = lab.dht('--fabric-key', key, environment={'HM_MODULE_PATH': lab.path('')})
    until(lambda: 'go over tcp' in node.err, 'a line that says that everything goes over tcp')
    check(node.err.count('\n') == 1 and 'ucx' in node.err, 'the line names what is missing', node.err)
    result = lab.run(
        *['dht', '--new-swarm', '--listen', '127.0.0.1:0', '--fabric', 'mlx5_0:1', '--fabric-key', key],
        environment={'HM_MODULE_PATH': lab.path('')},
    )
    check(result.code == 1 and 'ucx' in result.err, 'with named devices it is an error', (result.code, result.err))
    paths = lab.run('status', '--join', node.join, '--fabric-key', key, '--json', '--log', 'error').json['paths']
    check(paths['fabric_peers'] == 0 and paths['tcp_peers'] == 1, 'who has the module stays on tcp with it', paths)
    check(node.terminate() == 0, 'it stops in order')


def over_ucx(lab):
    key, other = key_file(lab, 'key', os.urandom(32)), key_file(lab, 'other', os.urandom(32).hex().encode() + b'\n')
    server = lab.serve('ffn.[0:4]', '--fabric-key', key)
    paths = lab.run('status', '--join', server.join, '--fabric-key', key, '--json').json['paths']
    check(paths['fabric'] == 'ucx' and paths['fabric_peers'] == 1, 'the same key: over ucx', paths)

    result = lab.train(server.join, 'ffn.[0:4]', '--steps', 20, '--fabric-key', key)
    check(result['ucx_messages'] > 20, 'calls go over ucx', result)
    check(result['tcp_messages_after_join'] == 0, 'and none over tcp', result)
    check(result['calls_failed'] == 0, 'none fails', result)

    said = lab.run('status', '--join', server.join, '--fabric-key', other)
    check('another fabric key' in said.out, 'another key: status says so', said.out)
    result = lab.train(server.join, 'ffn.[0:4]', '--steps', 5, '--fabric-key', other, '--log', 'error')
    check(result['ucx_messages'] == 0 and result['calls_failed'] == 0, 'and everything works over tcp', result)
    result = lab.train(server.join, 'ffn.[0:4]', '--steps', 5)
    check('ucx_messages' not in result and result['calls_failed'] == 0, 'a volunteer has tcp, as ever', result)
    check(server.terminate() == 0, 'the server stops in order')


def test(lab):
    bad_keys(lab)
    module = os.path.join(os.path.dirname(HIVEMIND), '..', 'lib', 'hivemind', 'ucx.so')
    if not os.path.exists(module):
        print('SKIP: over ucx: the module was not built', flush=True)
        return
    bad_devices(lab)
    without_the_module(lab)
    over_ucx(lab)


run_test(test)
