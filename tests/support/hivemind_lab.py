"""What the integration scripts share: processes of the program, their output, and the end of everything.

A Lab owns a fresh folder and every process that it started.  Leaving it, also by a failure, kills what still runs,
looks through what the processes said for a crash, and removes the folder.  Every wait has a deadline.
Where the processes are built with a sanitizer, SLOW is how much longer things may take.

    with Lab() as lab:
        server = lab.serve('ffn.[0:2]', new_swarm=True)
        check(server.start['experts'] == 2, 'a server says how many experts it hosts')
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HIVEMIND = os.path.abspath(os.environ.get('HIVEMIND', 'build/bin/hivemind'))
SANITIZED = os.environ.get('HM_SANITIZED', '')
SLOW = {'': 1, 'address': 4, 'thread': 8}[SANITIZED]
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DIGITS = os.path.join(SOURCE, 'data', 'digits.csv.gz')
HIDDEN = 32  # columns of the experts here: small, so that steps are quick
WAIT_S = 15 * SLOW  # for what should happen at once

CRASH = re.compile(r'Sanitizer|runtime error:|assertion|Assertion|Segmentation|stack trace|core dumped')
libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    pass


def check(truth, claim, found=None):
    """One claim: printed where it holds, the end of the test where it does not."""
    if not truth:
        raise Failed(f'{claim}' + ('' if found is None else f'; found: {found}'))
    print(f'ok: {claim}', flush=True)


def skip(reason):
    print(f'SKIP: {reason}', flush=True)
    sys.exit(77)


def until(condition, what, seconds=WAIT_S):
    """The first true value of condition(); Failed when there is none by the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f'not within {seconds} s: {what}')
        time.sleep(0.02)


def run_test(test):
    """Runs the script's test with a lab; the exit code is the verdict."""
    try:
        with Lab() as lab:
            test(lab)
    except Failed as failure:
        print(f'FAILED: {failure}', flush=True)
        sys.exit(1)


def own_machine(required=True):
    """Goes on in mount, process and network namespaces of this test's own: nothing outside is in its way or sees its
    names, and what it starts and mounts ends with it, however it ends.  Without root it skips, or (not required) goes
    on as it is."""
    if 'HM_OWN_MACHINE' in os.environ:
        return
    flags = ['--mount', '--pid', '--net', '--ipc', '--uts', '--fork', '--kill-child', '--mount-proc']
    # The first process has to take in what loses its parent: a shell does.  /sys shows a network's cards.
    begin = (
        'mount -t sysfs sysfs /sys && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip link set lo up && '
        'ip netns add probe && ip -n probe link add v0 type veth peer name v1 && ip -n probe link add b0 type bridge && '
        'ip netns del probe'
    )
    reason = 'namespaces need root'
    if os.geteuid() == 0:
        try:
            probe = subprocess.run(
                ['unshare', *flags, 'bash', '-c', begin], capture_output=True, text=True, check=False, timeout=30
            )
            reason = f'no namespaces here: {probe.stderr.strip()}' if probe.returncode else ''
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = f'no namespaces here: {error}'
    if reason and required:
        skip(reason)
    if reason:
        return
    os.environ['HM_OWN_MACHINE'] = '1'
    os.execvp('unshare', ['unshare', *flags, 'bash', '-c', begin + '; "$@"; exit $?', 'bash', sys.executable, *sys.argv])


def _clean_environment():
    """Without HM_...: those are options of the program.  ASAN_OPTIONS and the like stay."""
    return {name: value for name, value in os.environ.items() if not name.startswith('HM_')}


def _die_with_parent():
    """A test that ctest kills takes its processes along."""
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Process:
    """A process with its output in files of the lab's folder."""

    def __init__(self, lab, name, argv, environment, before_exec):
        self.name = name
        self.out_path = os.path.join(lab.folder, f'{name}.out')
        self.err_path = os.path.join(lab.folder, f'{name}.err')
        self.argv = argv
        self.ended_by_us = False

        def prepare():
            _die_with_parent()
            if before_exec:
                before_exec()

        # The folder may be of another mount namespace for the process: it gets open files.
        with open(self.out_path, 'wb') as out, open(self.err_path, 'wb') as err:
            self.popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=lab.folder,
                env=_clean_environment() | environment,
                preexec_fn=prepare,
            )
        self.pid = self.popen.pid

    @property
    def out(self):
        with open(self.out_path, encoding='utf-8', errors='replace') as file:
            return file.read()

    @property
    def err(self):
        with open(self.err_path, encoding='utf-8', errors='replace') as file:
            return file.read()

    def running(self):
        return self.popen.poll() is None

    def line(self, pattern, seconds=WAIT_S):
        """The first line of its output that matches; Failed if it ends, or the time does, before."""

        def look():
            ended = not self.running()
            found = re.search(f'^.*{pattern}.*$', self.out, re.MULTILINE)
            if not found and ended:
                raise Failed(
                    f'{self.name} ended with {self.popen.returncode} before it said {pattern}: {self.err[-600:]}'
                )
            return found

        return until(
            look, f'{self.name} says {pattern}; it said {self.out[-300:]!r} {self.err[-300:]!r}', seconds
        ).group(0)

    def wait(self, seconds=WAIT_S):
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f'{self.name} did not end within {seconds} s: {self.argv}') from None

    def signal(self, number):
        self.popen.send_signal(number)

    def freeze(self):
        """SIGSTOP, and waits until every thread stands still: on a busy machine that takes a while."""
        self.signal(signal.SIGSTOP)
        tasks = f'/proc/{self.pid}/task'

        def stopped():
            for task in os.listdir(tasks):
                with open(f'{tasks}/{task}/stat', encoding='ascii') as file:
                    if file.read().rsplit(')', 1)[1].split()[0] != 'T':
                        return False
            return True

        until(stopped, f'{self.name} stands still')

    def kill(self):
        """As a power cut would."""
        self.ended_by_us = True
        if self.running():
            self.popen.kill()
        self.popen.wait()

    def terminate(self, seconds=WAIT_S):
        """Asks it to end in order; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def crash(self):
        """What a person has to see, or None."""
        code = self.popen.poll()
        report = CRASH.search(self.err)
        if report:
            return f'{self.name}: {self.err[max(0, report.start() - 500):][:4000]}'
        if code is not None and code < 0 and not self.ended_by_us:
            return f'{self.name} was ended by signal {-code}: {self.err[-1000:]}'
        return None


class Result:
    """How a command that ran to its end did."""

    def __init__(self, process):
        self.code, self.out, self.err = process.popen.returncode, process.out, process.err

    @property
    def json(self):
        """Its last line of output."""
        return json.loads(self.out.strip().splitlines()[-1])


class Lab:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='hivemind-test-')
        self.processes = []
        self.cleanups = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, kind, failure, trace):
        for process in self.processes:
            if process.running():
                process.signal(signal.SIGCONT)
                process.kill()
        self.cleanups.close()
        crashes = [crash for crash in (process.crash() for process in self.processes) if crash]
        if kind and not issubclass(kind, SystemExit):
            for process in self.processes[-8:]:
                print(
                    f'--- {process.name} ({process.popen.returncode}): {" ".join(process.argv)}\n'
                    f'{process.out[-500:]}{process.err[-800:]}',
                    flush=True,
                )
        shutil.rmtree(self.folder, ignore_errors=True)
        if crashes:
            print('\n'.join(crashes), flush=True)
            raise Failed('a process crashed' + (f', and {failure}' if failure else ''))
        return False

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, content):
        path = self.path(name)
        with open(path, 'wb' if isinstance(content, bytes) else 'w') as file:
            file.write(content)
        return path

    def start(self, *arguments, name=None, environment=None, before_exec=None, inside=(), program=HIVEMIND):
        """Starts `hivemind arguments...`; `inside` is a command to run it with (ip netns exec ...)."""
        name = f'{len(self.processes)}-{name or next((a for a in arguments if a.isalpha()), "run")}'
        argv = [*inside, program, *map(str, arguments)]
        process = Process(self, name, argv, environment or {}, before_exec)
        self.processes.append(process)
        return process

    def run(self, *arguments, seconds=30 * SLOW, **how):
        process = self.start(*arguments, **how)
        process.wait(seconds)
        return Result(process)

    # ---- what a swarm has ---------------------------------------------------------------------------

    def dht(self, *arguments, listen='127.0.0.1:0', **how):
        """A meeting point; .join is its line."""
        node = self.start('dht', '--new-swarm', '--listen', listen, *arguments, **how)
        node.join = node.line('^hm://')
        return node

    def serve(
        self, experts, *arguments, join=None, state=None, hidden=HIDDEN, listen='127.0.0.1:0', ready=True, **how
    ):
        """A server of `experts` in the swarm of `join`, or in a new one; .join is its line, .start what it said."""
        where = ['--join', join] if join else ['--new-swarm']
        keep = ['--state', state] if state else []
        server = self.start(
            'serve',
            *where,
            *keep,
            '--listen',
            listen,
            '--experts',
            experts,
            '--hidden',
            hidden,
            '--lane-threads',
            1,
            '--json',
            *arguments,
            **how,
        )
        if ready:
            server.start = json.loads(server.line('"event":"serving"'))
            server.join = server.start['join']
        return server

    def status(self, join, **how):
        result = self.run('status', '--join', join, '--json', name='status', **how)
        if result.code != 0:
            raise Failed(f'status ended with {result.code}: {result.err}')
        return result.json

    def train_arguments(self, join, experts, *arguments, hidden=HIDDEN, data=DIGITS):
        """The deadlines are long, so that nothing is late because the machine is busy, and no dead server is
        survived by waiting only."""
        patience = [] if '--timeout' in arguments else ['--timeout', '60s', '--timeout-after-k-min', '60s']
        where = ['--join', join, '--experts', experts, '--hidden', hidden, '--data', data, '--json']
        return ['train', *where, *patience, *arguments]

    def train(self, join, experts, *arguments, seconds=60 * SLOW, **how):
        """Trains to the end."""
        result = self.run(*self.train_arguments(join, experts, *arguments), seconds=seconds, name='train', **how)
        if result.code != 0:
            raise Failed(f'train ended with {result.code}: {result.err}')
        return result.json


class Training:
    """A trainer in the background, seen through its events file."""

    def __init__(self, lab, join, experts, *arguments, steps=10**9, **how):
        self.events_path = lab.path(f'events-{len(lab.processes)}')
        self.process = lab.start(
            *lab.train_arguments(join, experts, '--steps', steps, '--events', self.events_path, *arguments),
            name='train',
            **how,
        )

    def events(self):
        """Every complete line so far."""
        try:
            with open(self.events_path, encoding='utf-8') as file:
                return [json.loads(line) for line in file if line.endswith('\n')]
        except FileNotFoundError:
            return []

    def last(self):
        events = self.events()
        return (
            events[-1]
            if events
            else {'step': 0, 'seconds': 0.0, 'calls_failed': 0, 'experts_alive': 0, 'status': ''}
        )

    def until(self, condition, what, seconds=WAIT_S):
        """Waits for an event that fulfils condition(event), and gives it; only new ones count."""
        seen = len(self.events())

        def look():
            if not self.process.running():
                raise Failed(
                    f'the training ended ({self.process.popen.returncode}) before: {what}: {self.process.err[-500:]}'
                )
            return next((event for event in self.events()[seen:] if condition(event)), None)

        return until(look, f'{what}; the last event was {self.last()}', seconds)

    def steps(self, count, seconds=WAIT_S):
        """Waits until so many more steps are done."""
        goal = self.last()['step'] + count
        return self.until(lambda event: event['step'] >= goal, f'{count} more steps', seconds)

    def stop(self, seconds=WAIT_S):
        """Ctrl-C; the result so far."""
        self.process.signal(signal.SIGINT)
        code = self.process.wait(seconds)
        if code != 0:
            raise Failed(f'the training ended with {code}: {self.process.err}')
        return Result(self.process).json


def gaps(events):
    """Seconds from each event to the next."""
    return [after['seconds'] - before['seconds'] for before, after in zip(events, events[1:])]


# ---- files and processes ----------------------------------------------------------------------------


def checkpoints(state):
    """uid -> steps of its generations, newest first."""
    found = {}
    folder = os.path.join(state, 'experts')
    for uid in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        steps = [re.fullmatch(r'step-(\d{20})\.h5', name) for name in os.listdir(os.path.join(folder, uid))]
        found[uid] = sorted((int(step.group(1)) for step in steps if step), reverse=True)
    return found


def checkpoint_path(state, uid, step):
    return os.path.join(state, 'experts', uid, f'step-{step:020d}.h5')


def rss_bytes(pid):
    with open(f'/proc/{pid}/statm', encoding='ascii') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def fd_count(pid):
    return len(os.listdir(f'/proc/{pid}/fd'))


def port_of(join):
    """Host and port of a join line's first address."""
    host, port = re.search(r'@(?:\[([^]]*)\]|([^:]*)):(\d+)', join).expand(r'\1\2 \3').split()
    return host, int(port)
