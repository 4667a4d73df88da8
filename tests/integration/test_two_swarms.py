"""Swarms have names and do not mix; a swarm on IPv6 works like one on IPv4."""

import re
import socket

from hivemind_lab import check, run_test


def names(lab):
    alpha = lab.serve('ffn.[0:2]', '--swarm', 'alpha')
    beta = lab.serve('ffn.[0:2]', '--swarm', 'beta')
    check('alpha' in alpha.join, "a join line has the swarm's name", alpha.join)
    more = lab.serve('ffn.[2:4]', join=alpha.join)
    check(
        'alpha' in more.join and len(lab.status(more.join)['experts']) == 4,
        'who joins by the line is of that swarm',
        more.join,
    )

    wrong = alpha.join.replace('alpha', 'beta')
    for what, arguments in (
        ('a trainer', lab.train_arguments(wrong, 'ffn.[0:2]', '--steps', 2)),
        ('status', ['status', '--join', wrong]),
        ('a DHT node', ['dht', '--join', wrong, '--listen', '127.0.0.1:0']),
        (
            'a server that names another',
            ['serve', '--join', alpha.join, '--swarm', 'beta', '--listen', '127.0.0.1:0', '--experts', 'ffn.5'],
        ),
    ):
        refused = lab.run(*arguments)
        check(
            refused.code == 1 and re.fullmatch(r'hivemind: [^\n]*another swarm[^\n]*\n', refused.err),
            f'{what} of swarm beta is refused by swarm alpha: {refused.err.strip()[10:70]}...',
            (refused.code, refused.out, refused.err),
        )
    check(
        len(lab.status(beta.join)['experts']) == 2 and len(lab.status(alpha.join)['experts']) == 4,
        'each swarm sees its own experts only',
    )
    result = lab.train(alpha.join, 'ffn.[0:4]', '--steps', 5)
    check(result['calls_failed'] == 0, 'and goes on', result)
    check([server.terminate() for server in (alpha, beta, more)] == [0, 0, 0], 'all stop in order')


def has_ipv6():
    try:
        with socket.create_server(('::1', 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def ipv6(lab):
    if not has_ipv6():
        print('SKIP: IPv6: this machine has no [::1]', flush=True)
        return
    first = lab.serve('ffn.[0:2]', listen='[::1]:0')
    check('@[::1]:' in first.join, 'a join line has an IPv6 address in brackets', first.join)
    second = lab.serve('ffn.[2:4]', join=first.join, listen='[::1]:0')
    swarm = lab.status(second.join)
    check(len(swarm['experts']) == 4, 'nodes on [::1] find each other', swarm)
    check(
        all('[::1]:' in address for server in swarm['servers'] for address in server['addresses']),
        'and say their addresses in brackets',
        swarm['servers'],
    )
    result = lab.train(second.join, 'ffn.[0:4]', '--steps', 5)
    check(result['calls_failed'] == 0, 'and train', result)
    check(first.terminate() == 0 and second.terminate() == 0, 'and stop in order')


def test(lab):
    names(lab)
    ipv6(lab)


run_test(test)
