"""The fast path between the nodes of one cluster: who has the key meets on UCX, everybody else stays on tcp and is
told why; what is wrong with key, module or interface is one line."""

import os
import re
import shutil
import subprocess
import time

from hivemind_lab import HIVEMIND, check, run_test, until

BUILD = os.environ.get('HM_BUILD_DIR', os.path.dirname(os.path.dirname(HIVEMIND)))
IDLE_S = 5


def key_file(lab, name, content, mode=0o600):
    path = lab.path(name)
    with open(path, 'wb') as file:
        file.write(content)
    os.chmod(path, mode)
    return path


def one_line_and_out(lab, what, code, words, *arguments, **how):
    """Refused: one line with these words, nothing on stdout."""
    result = lab.run('dht', '--new-swarm', '--listen', '127.0.0.1:0', *arguments, **how)
    said = (result.code, result.out, result.err)
    check(result.code == code and re.fullmatch(r'hivemind: [^\n]+\n', result.err) and not result.out, what, said)
    check(all(word in result.err for word in words), f'... {result.err.strip()[10:]}', said)


def bad_keys(lab):
    for what, code, arguments, words in (
        ('devices without a key', 2, ['--fabric', 'mlx5_0:1'], ['mlx5_0:1', '--fabric-key']),
        ("UCX's TCP without a key", 2, ['--fabric-tcp'], ['--fabric-tcp', '--fabric-key']),
        ('public networks without a key', 2, ['--fabric-public'], ['--fabric-public', '--fabric-key']),
        ('no file', 2, ['--fabric-key', lab.path('none')], ['none', 'openssl rand']),
        ('a folder', 2, ['--fabric-key', lab.path('')], ['not a file']),
        ('a key that others read', 2, ['--fabric-key', key_file(lab, 'open', b'k' * 32, 0o644)], ['chmod 600']),
        ('31 bytes', 2, ['--fabric-key', key_file(lab, 'short', b'k' * 31)], ['32 bytes', 'openssl rand']),
        ('no hexadecimal digits', 2, ['--fabric-key', key_file(lab, 'hex', b'g' * 64)], ['64 hexadecimal']),
    ):
        one_line_and_out(lab, what, code, words, *arguments)


def bad_devices(lab):
    key = ['--fabric-key', key_file(lab, 'key', b'k' * 32)]
    for what, arguments, words in (
        ('no such device', ['--fabric', 'eth9'], ["'eth9'", 'RDMA devices: ', ' lo']),
        ('no such device with --fabric-tcp', ['--fabric', 'eth9', '--fabric-tcp'], ["'eth9'", ' lo']),
        ('one of two', ['--fabric', 'lo,mlx5_9:1', '--fabric-tcp'], ["'mlx5_9:1'"]),
        ('an interface without --fabric-tcp', ['--fabric', 'lo'], ['lo', '--fabric-tcp']),
    ):
        one_line_and_out(lab, what, 1, words, *arguments, *key)
    variable = {'environment': {'HM_UCX_NET_DEVICES': 'eth9'}}
    level = {'HM_UCX_LOG_LEVEL': 'loud'}
    one_line_and_out(lab, 'a level of the log', 1, ['HM_UCX_LOG_LEVEL', 'info'], '--fabric-tcp', *key, environment=level)
    node = lab.dht(*key, environment={'HM_UCX_LOG_LEVEL': 'info'})
    until(lambda: re.search(r'UCX +INFO', node.out + node.err), 'HM_UCX_LOG_LEVEL=info: UCX speaks')
    one_line_and_out(lab, 'a variable', 1, ['HM_UCX_NET_DEVICES', "'eth9'", ' lo'], '--fabric-tcp', *key, **variable)


def without_the_module(lab):
    """No module, a file that is none, one of another build: auto says so and goes on, what was demanded does not."""
    key = ['--fabric-key', key_file(lab, 'key', b'k' * 32)]
    for folder in ('alone/bin', 'junk', 'stale'):
        os.makedirs(lab.path(folder))
    alone = lab.path('alone/bin/hivemind')
    shutil.copy(HIVEMIND, alone)
    lab.write('junk/ucx.so', b'no library')  # HM_MODULE_PATH goes before the folder of the build
    shutil.copy(os.path.join(BUILD, 'lib', 'modules-for-tests', 'stale.so'), lab.path('stale/ucx.so'))
    in_junk, in_stale = [{'environment': {'HM_MODULE_PATH': lab.path(name)}} for name in ('junk', 'stale')]
    for what, words, how in (
        ('no module', ['is not there', 'tools/packages.sh cluster', 'HM_MODULE_PATH'], {'program': alone}),
        ('no library', ['cannot be loaded', 'ucx.so', 'build it again'], in_junk),
        ('another build', ['another build', 'build both'], in_stale),
    ):
        node = lab.dht(*key, **how)
        until(lambda node=node: 'go over tcp' in node.err, 'a line that says that everything goes over tcp')
        check(node.err.count('\n') == 1 and all(word in node.err for word in words), f'{what}: said once', node.err)
        one_line_and_out(lab, f'{what}, with named devices', 1, words, '--fabric', 'mlx5_0:1', *key, **how)
        one_line_and_out(lab, f"{what}, with UCX's TCP", 1, words, '--fabric-tcp', *key, **how)
        quiet = [*key, '--json', '--log', 'error']
        paths = lab.run('status', '--join', node.join, *quiet).json['paths']
        why = [peer['why'] for peer in paths['tcp']]
        check(paths['fabric'] == 'ucx' and why == ['the other side has no fabric'], f'{what}: its peers say why', paths)
        paths = lab.run('status', '--join', node.join, *quiet, **how).json['paths']
        why = [peer['why'] for peer in paths['tcp']]
        check(paths['fabric'] == 'none' and why == ['this node has no fabric'], f'{what}: and so does it', paths)
        check(node.terminate() == 0, f'{what}: it stops in order')


def other_settings(lab):
    """As another version of UCX: its line of settings is not ours."""
    key = ['--fabric-key', key_file(lab, 'key', b'k' * 32)]
    node = lab.dht(*key, environment={'HM_UCX_POSIX_SEG_SIZE': '16k'})
    said = lab.run('status', '--join', node.join, *key)
    check(said.code == 0 and re.search(r'tcp: other settings: .*POSIX_SEG_SIZE=16k. there and .ucx', said.out),
          'other settings: tcp, and status says which', said.out)
    result = lab.run('status', '--join', node.join, *key, '--json', environment={'HM_UCX_POSIX_SEG_SIZE': '16k'}).json
    check(result['paths']['fabric_peers'] == 1, 'the same ones: ucx', result)
    check(node.terminate() == 0, 'it stops in order')


def public_interface(lab):
    """A network of its own with an address that anybody may reach."""
    setup = (
        'ip link set lo up && ip link add pub type veth peer name other && ip link set other up && '
        'ip address add 203.0.113.5/24 dev pub && ip link set pub up'
    )
    inside = ['unshare', '--net', 'sh', '-c', f'{setup} && exec "$@"', 'sh']
    if os.geteuid() != 0 or subprocess.run([*inside, 'true'], check=False, capture_output=True).returncode != 0:
        print('SKIP: a public interface: needs root and namespaces', flush=True)
        return
    key = ['--fabric-key', key_file(lab, 'key', b'k' * 32)]
    words = ['pub', 'public address', '--fabric-public']
    one_line_and_out(lab, 'a public interface', 1, words, '--fabric', 'pub', '--fabric-tcp', *key, inside=inside)
    forced = lab.dht('--fabric', 'pub', '--fabric-public', *key, inside=inside)
    check(forced.terminate() == 0, '--fabric-public forces it')
    auto = lab.dht('--fabric-tcp', '--log', 'info', *key, inside=inside)
    check('pub' not in auto.err and auto.terminate() == 0, 'by itself only private ones are taken', auto.err)


def cpu_seconds(process):
    with open(f'/proc/{process.pid}/stat', encoding='ascii') as file:
        fields = file.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def sleeps_when_idle(lab):
    """A worker looks on for a moment after each message; with a peer that is up and silent it has to end."""
    key = key_file(lab, 'key', os.urandom(32))
    server = lab.serve('ffn.[0:4]', '--fabric-key', key)
    result = lab.train(server.join, 'ffn.[0:4]', '--steps', 5, '--fabric-key', key)
    check(result['ucx_messages'] > 5, 'calls go over ucx', result)
    peer = lab.start('dht', '--join', server.join, '--listen', '127.0.0.1:0', '--fabric-key', key)
    status = ['status', '--join', server.join, '--fabric-key', key, '--json']
    until(lambda: lab.run(*status).json['paths']['fabric_peers'] == 2, 'the fabric has a second peer')
    before = [cpu_seconds(process) for process in (server, peer)]
    time.sleep(IDLE_S)
    used = [cpu_seconds(process) - start for process, start in zip((server, peer), before)]
    check(max(used) < IDLE_S / 20, f'idle over {IDLE_S} s they sleep (CPU seconds: {used[0]:.2f} and {used[1]:.2f})')
    check(peer.terminate() == 0 and server.terminate() == 0, 'and stop in order')


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
    if not os.path.exists(os.path.join(BUILD, 'lib', 'hivemind', 'ucx.so')):
        print('SKIP: over ucx: the module was not built', flush=True)
        return
    bad_devices(lab)
    without_the_module(lab)
    other_settings(lab)
    public_interface(lab)
    over_ucx(lab)
    sleeps_when_idle(lab)


run_test(test)
