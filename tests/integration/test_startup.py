"""What a volunteer pays who has neither UCX nor MPI nor a GPU: none of their libraries is in his process, and it is
small."""

import os
import re

from hivemind_lab import SANITIZED, check, rss_bytes, run_test

RSS_MAX = 60e6  # the bar
HEAVY = re.compile(
    r'/(libuc[pst]|libucm|libmpi|libopen-(?:rte|pal)|libpmix|libcuda|libcublas|libnccl|librdmacm|libibverbs)\b'
)


def heavy(pid):
    """Libraries of modules that are in this process."""
    with open(f'/proc/{pid}/maps', encoding='utf-8') as file:
        return sorted(set(line.split()[-1] for line in file if HEAVY.search(line) or '/lib/hivemind/' in line))


def small(node, what):
    check(not heavy(node.pid), f'{what}: no library of a module is mapped', heavy(node.pid))
    if not SANITIZED:
        check(rss_bytes(node.pid) < RSS_MAX, f'{what}: below 60 MB resident', rss_bytes(node.pid))


def test(lab):
    node = lab.dht()
    small(node, 'a DHT node')
    small(lab.serve('ffn.[0:4]', join=node.join), 'a server')
    with open(lab.path('key'), 'wb') as file:
        file.write(b'k' * 32)
    os.chmod(lab.path('key'), 0o600)
    small(lab.dht('--fabric', 'none', '--fabric-key', lab.path('key')), '--fabric none')
    if os.path.exists(os.path.join(os.environ['HM_BUILD_DIR'], 'lib', 'hivemind', 'ucx.so')):
        fast = lab.dht('--fabric-key', lab.path('key'))
        check(len(heavy(fast.pid)) > 3, 'with a key they are there, and would have been seen', heavy(fast.pid))


run_test(test)
