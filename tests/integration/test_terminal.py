"""What a person at a terminal sees: one progress line that never wraps; a benchmark that is killed leaves nothing
behind; a trainer that outlives an outage of all its servers."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from hivemind_lab import HIDDEN, HIVEMIND, SLOW, check, run_test, until

COLUMNS = 78


def under_terminal(argv, columns, seconds):
    """Runs argv with a terminal of so many columns as its stderr; exit code and what was drawn."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    drawn, deadline = b'', time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            drawn += chunk
        return process.wait(5), drawn.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)


def progress_line(lab):
    server = lab.serve('ffn.[0:2]')
    argv = [HIVEMIND, *map(str, lab.train_arguments(server.join, 'ffn.[0:2]', '--steps', 60, '--layers', 1))]
    code, drawn = under_terminal(argv, COLUMNS, 60 * SLOW)
    check(code == 0, 'a training under a terminal ends well', (code, drawn))
    lines = re.sub(r'\x1b\[K', '', drawn).replace('\r\n', '').split('\r')[1:]
    fit = len(lines) > 1 and all(len(line) < COLUMNS for line in lines)
    check(fit, 'no progress line reaches the edge of the terminal', lines)
    one = drawn.count('\n') == 1 and drawn.endswith('\n')
    check(one, 'they are drawn over one another, and the last one is ended', drawn)
    check(any(re.match(r'\[#*\.*\] \d+/60 loss', line) for line in lines), 'a bar shows how far it is', lines)
    check(server.terminate() == 0, 'the server stops in order')


def children_of(pid):
    with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as file:
        return [int(child) for child in file.read().split()]


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def killed_benchmark(lab):
    size = ['--clients', 2, '--experts', 1, '--rows', 1, '--hidden', HIDDEN, '--batches', 10**8]
    bench = lab.start('bench', 'throughput', '--preset', 'nop', *size)
    until(lambda: len(children_of(bench.pid)) == 3, 'a server and two clients run')
    children = children_of(bench.pid)
    bench.kill()
    until(lambda: not any(alive(child) for child in children), 'they end with the benchmark that started them')
    print('ok: a benchmark that is killed leaves no process behind', flush=True)


def outage(lab):
    meeting = lab.dht()
    where = dict(join=meeting.join, state=lab.path('only'))
    server = lab.serve('ffn.[0:2]', '--save-interval', '1s', **where)
    how = ['--steps', 10**9, '--layers', 1, '--timeout', '1s', '--events', lab.path('events')]
    trainer = lab.start(*lab.train_arguments(meeting.join, 'ffn.[0:2]', *how))

    def events(what):
        with open(lab.path('events'), encoding='ascii') as file:
            return len(re.findall(what, file.read()))
    until(lambda: os.path.exists(lab.path('events')) and events('"status":"HM_OK"') > 5, 'it trains')
    server.kill()
    until(lambda: events('"status":"HM_ERR') > 2, 'steps fail while no server is there', 60 * SLOW)
    lab.serve('ffn.[0:2]', **where)
    before = events('"status":"HM_OK"')
    until(lambda: events('"status":"HM_OK"') > before + 5, 'it trains on when the server is back', 60 * SLOW)
    trainer.signal(signal.SIGINT)
    check(trainer.wait() == 0, 'a training outlives an outage of all its servers')


def test(lab):
    progress_line(lab)
    killed_benchmark(lab)
    outage(lab)


run_test(test)
