"""Two network namespaces and what lies between them, for tests that cut it."""

import os
import shutil
import subprocess

from hivemind_lab import until


class Wire:
    """Two network namespaces, gone with the lab, with wires between them: on `wire` `here` is 10.71.0.1 and `there`
    10.71.0.2, on `fast`, if there is one, 10.72.0.1 and 10.72.0.2."""

    def __init__(self, lab, names):
        self.here, self.there = f'hm{os.getpid()}a', f'hm{os.getpid()}b'
        for space in (self.here, self.there):
            self.ip('netns', 'add', space)
            lab.cleanups.callback(subprocess.run, ['ip', 'netns', 'del', space], check=False)
        for net, name in zip((71, 72), names):
            self.ip('-n', self.here, 'link', 'add', name, 'type', 'veth', 'peer', 'name', name, 'netns', self.there)
            for space, host in ((self.here, 1), (self.there, 2)):
                self.ip('-n', space, 'address', 'add', f'10.{net}.0.{host}/24', 'dev', name)
                self.ip('-n', space, 'link', 'set', name, 'up')
                self.ip('-n', space, 'link', 'set', 'lo', 'up')
        for name in names:
            until(lambda name=name: all(self.is_up(space, name) for space in (self.here, self.there)), 'carriers')

    def is_up(self, space, name):
        """The kernel takes up to a second to see the other end."""
        return 'state UP' in self.ip('-n', space, 'link', 'show', name).stdout.decode()

    @staticmethod
    def ip(*arguments):
        return subprocess.run(['ip', *arguments], check=True, capture_output=True, timeout=20)

    def nft(self, text):
        subprocess.run(
            ['ip', 'netns', 'exec', self.there, 'nft', '-f', '-'],
            input=text,
            text=True,
            check=True,
            capture_output=True,
            timeout=20,
        )

    def cut(self, name=None):
        """Packets are dropped without a word, as a pulled cable two switches away does; on one wire, or on all."""
        come, go = (f'iifname "{name}" drop;', f'oifname "{name}" drop;') if name else ('drop;', 'drop;')
        self.nft(
            f'table inet cut {{ chain in {{ type filter hook input priority 0; {come} }}\n'
            f'chain out {{ type filter hook output priority 0; {go} }}\n}}\n'
        )

    def mend(self):
        self.nft('delete table inet cut\n')


def make_wire(lab, *names):
    """Wires of these names, or "wire"; or why there cannot be any."""
    if os.geteuid() != 0:
        return None, 'network namespaces need root'
    for tool in ('ip', 'nft'):
        if not shutil.which(tool):
            return None, f'there is no {tool} (iproute2, nftables)'
    try:
        wire = Wire(lab, names or ('wire',))
        wire.cut()
        wire.mend()
        return wire, None
    except (subprocess.SubprocessError, OSError) as error:
        return None, f'this kernel or container has no namespaces for us: {getattr(error, "stderr", None) or error}'
