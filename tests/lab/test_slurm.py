"""The batch scripts of jobs/slurm in a real Slurm cluster of four nodes, each in namespaces of its own
(slurm_cluster.sh).

A swarm trains to the demo's accuracy; scancel saves every expert within the grace time; a requeued job restores them; a
node that dies has its server come back on another one; two nodes and a GPU each see their own GPUs.
"""
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

from hivemind_lab import DIGITS, HIVEMIND, SLOW, SOURCE, Failed, check, checkpoints, run_test, skip, until

NODES = 4
EXPERTS, COUNT = 'ffn.[0:4].[0:4]', 16
SCRIPTS = os.path.join(SOURCE, 'jobs', 'slurm')
GRACE_S = 10  # the cluster's KillWait


class Cluster:
    def __init__(self):
        # Every node sees it: not under /tmp, which each has for itself.
        self.dir = tempfile.mkdtemp(prefix='lab-', dir=os.path.dirname(os.path.dirname(HIVEMIND)))
        os.chmod(self.dir, 0o755)
        self.script = os.path.join(SOURCE, 'tests', 'lab', 'slurm_cluster.sh')

    def call(self, command, *arguments, seconds=60):
        return subprocess.run([self.script, command, self.dir, *map(str, arguments)], capture_output=True, text=True,
                              timeout=seconds, check=False)

    def up(self):
        result = self.call('up', NODES)
        if result.returncode != 0:
            raise Failed(f'the cluster does not come up: {result.stderr}')

    def down(self):
        self.call('down')
        shutil.rmtree(self.dir, ignore_errors=True)

    def run(self, *argv, host='head', environment=None):
        names = {name: value for name, value in os.environ.items() if not name.startswith('HM_')}
        return subprocess.run([self.script, 'run', self.dir, host, *map(str, argv)], capture_output=True, text=True,
                              timeout=60,
                              check=False, cwd=self.dir, env=names | {k: str(v) for k,
                                                                      v in (environment or {}).items()})

    def submit(self, script, *options, **variables):
        """Runs jobs/slurm/<script> with HM_... variables; the job."""
        variables = {'HIVEMIND': HIVEMIND, 'HM_JOBS': SCRIPTS, 'HM_EXPERTS': EXPERTS, 'HM_HIDDEN': 64,
                     'HM_DATA': DIGITS,
                     'HM_LANE_THREADS': 1, 'HM_BOOTSTRAP_TIMEOUT': '60s'} | variables
        result = self.run('sbatch', '--parsable', '-o', f'{self.dir}/%x-%A-%a.out', *options,
                          os.path.join(SCRIPTS, script),
                          environment=variables)
        if result.returncode != 0:
            raise Failed(f'sbatch {script}: {result.stderr}')
        return Job(self, result.stdout.strip(), script)


class Job:
    def __init__(self, cluster, number, script):
        self.cluster, self.number, self.script = cluster, number, script
        self.started = time.monotonic()

    def out(self):
        """What it has printed so far, all array tasks together."""
        text = ''
        for name in sorted(os.listdir(self.cluster.dir)):
            if re.search(rf'-{self.number}-\d+\.out$', name):
                with open(os.path.join(self.cluster.dir, name), encoding='utf-8', errors='replace') as file:
                    text += file.read()
        return text

    def show(self, task=''):
        """Slurm's record as a dictionary; {} for a job that it has forgotten."""
        text = self.cluster.run('scontrol', '-o', 'show', 'job', f'{self.number}{task}').stdout
        return dict(re.findall(r'(\w+)=(\S*)', text.splitlines()[0] if text else ''))

    def says(self, pattern, times=1, seconds=60 * SLOW):
        def look():
            found = re.findall(pattern, self.out())
            return found if len(found) >= times else None
        try:
            return until(look, f'{self.script} says {pattern} {times} times', seconds)
        except Failed as failure:
            raise Failed(f'{failure}; it said: {self.out()[-2000:]}; {self.show()}') from None

    def ended(self, seconds=120 * SLOW):
        """Waits for its end; its state and exit code."""
        final = ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL', 'PREEMPTED')
        until(lambda: self.show().get('JobState') in final, f'{self.script} ends: {self.out()[-1500:]}', seconds)
        return self.show()

    def cancel(self):
        self.cluster.run('scancel', self.number)


def accuracies(text):
    return [float(found) for found in re.findall(r'accuracy=([0-9.]+) ', text)]


def a_swarm_trains(cluster):
    job = cluster.submit('swarm.sbatch', HM_STATE=f'{cluster.dir}/run1', HM_STEPS=250)
    record = job.ended()
    took, found = time.monotonic() - job.started, accuracies(job.out())
    check(record['JobState'] == 'COMPLETED' and record['ExitCode'] == '0:0', 'swarm.sbatch on four nodes ends with 0',
          (record, job.out()))
    check(len(found) == 2 and min(found) >= 0.95, 'both trainers reach an accuracy of 0.95', (found, job.out()))
    check(len(re.findall(r'stopped; \d+ checkpoints written', job.out())) == 6, 'every server has saved and ended',
          job.out())
    hosts = {line for line in re.findall(r'@(10\.90\.0\.\d+):', job.out())}
    check(hosts == {'10.90.0.11'}, "the first node's server leads", hosts)
    print(f'figure: submit to accuracy {min(found):.3f} in {took:.1f} s', flush=True)


def steps_of(state):
    found = {}
    for rank in sorted(os.listdir(state)):
        found |= checkpoints(os.path.join(state, rank))
    return found


def scancel_saves_and_the_next_restores(cluster):
    state = f'{cluster.dir}/run2'
    job = cluster.submit('swarm.sbatch', HM_STATE=state, HM_STEPS=1000000)
    job.says(r'\n\d+: (?:[2-9]\d|\d{3,})/1000000')
    before = time.monotonic()
    job.cancel()
    job.says(r'stopped; \d+ checkpoints written', times=6, seconds=GRACE_S * SLOW)
    took = time.monotonic() - before
    saved = steps_of(state)
    check(len(saved) == COUNT and all(saved.values()), f'scancel: all {COUNT} experts are saved within the grace time',
          saved)
    check(job.says(r'accuracy=[0-9.]+ ', times=2, seconds=GRACE_S * SLOW),
          'scancel: the trainers say how far they came')
    check(job.ended()['JobState'] in ('CANCELLED', 'COMPLETED'), 'scancel ends the job')
    print(f'figure: scancel to all experts saved in {took:.1f} s of {GRACE_S}', flush=True)

    again = cluster.submit('swarm.sbatch', HM_STATE=state, HM_STEPS=3)
    record = again.ended()
    restored = [(int(count), int(step)) for count,
                step in re.findall(r', (\d+) restored from checkpoints, the newest at step (\d+)', again.out())]
    check(record['ExitCode'] == '0:0' and sum(count for count, _ in restored) == COUNT,
          'the next job restores every expert', again.out())
    check(max(step for _, step in restored) == max(steps[0] for steps in saved.values()),
          'at the steps that were saved', (restored, saved))


def the_time_limits_warning_requeues(cluster):
    """Slurm sends the script USR1 a minute before the limit; here it is sent by hand."""
    state = f'{cluster.dir}/run3'
    job = cluster.submit('swarm.sbatch', HM_STATE=state, HM_STEPS=1000000, HM_JOB_REQUEUE=1)
    job.says(r'\n\d+: (?:[2-9]\d|\d{3,})/1000000')
    cluster.run('scancel', '--batch', '--signal=USR1', job.number)
    job.says(r'stopped; \d+ checkpoints written', times=6, seconds=GRACE_S * SLOW)
    saved = steps_of(state)
    check(len(saved) == COUNT and all(saved.values()), 'before its time limit: every expert is saved', saved)
    job.says(r'back into the queue')
    found = job.says(r', (\d+) restored from checkpoints', times=6, seconds=90 * SLOW)
    check(sum(map(int, found)) == COUNT, 'the job requeues itself, and restores every expert', job.out())
    check(job.show().get('Restarts') == '1', 'Slurm counts the restart', job.show())
    job.cancel()
    job.ended()


def a_dead_nodes_server_comes_back(cluster):
    """An array of three servers and a trainer; the node of one of them loses power."""
    state = f'{cluster.dir}/run4'
    servers = cluster.submit('serve_array.sbatch', '--spread-job', '--cpus-per-task=5', HM_STATE=state,
                             HM_SAVE_INTERVAL='1s')
    servers.says(r'serving \d+ experts', times=3)
    events = f'{cluster.dir}/events'
    trainer = cluster.submit('train.sbatch', HM_STATE=state, HM_STEPS=400, HM_EVENTS=events)
    until(lambda: os.path.exists(events) and sum(1 for _ in open(events, encoding='utf-8')) > 40, '40 steps', 60 * SLOW)
    until(lambda: len(checkpoints(f'{state}/server2')) >= 5, 'the server has saved its experts', 30 * SLOW)
    node = servers.show('_2')['NodeList']
    check(trainer.show()['NodeList'] != node, 'the trainer is on another node', node)
    cluster.call('kill', node)
    print(f'ok: node {node} has lost power', flush=True)
    back = servers.says(r'(\d+) restored from checkpoints', times=1, seconds=90 * SLOW)
    check(int(back[0]) in (5, 6), 'its server is requeued onto another node and restores its experts', back)
    record = trainer.ended()
    with open(events, encoding='utf-8') as file:
        alive = [json.loads(line)['experts_alive'] for line in file]
    check(record['ExitCode'] == '0:0' and min(accuracies(trainer.out())) >= 0.95, 'the training finishes all the same',
          trainer.out()[-600:])
    check(min(alive[40:]) < COUNT, 'it saw the experts go', alive[-20:])
    status = cluster.run(HIVEMIND, 'status', '--join', open(f'{state}/join.0', encoding='utf-8').read().strip(),
                         '--json')
    check(len(json.loads(status.stdout)['experts']) == COUNT, f'all {COUNT} experts are there again',
          status.stdout[:500])
    servers.cancel()
    servers.says(r'stopped; \d+ checkpoints written', times=3, seconds=GRACE_S * SLOW)


def gpus_by_gres(cluster):
    result = cluster.run('srun', '-n1', '-w', 'n1', '--gres=gpu:h100:2', HIVEMIND, 'topo', '--json', '--topology',
                         os.path.join(SOURCE, 'tests', 'fixtures', 'topo', 'hgx_8gpu.xml'))
    check(result.returncode == 0, 'a step with two GPUs runs', result.stderr)
    lanes = json.loads(result.stdout)['lanes']
    check([lane['device'] for lane in lanes] == ['cuda0', 'cuda1'],
          'the plan has a lane for each GPU of --gres, and no other', lanes)


def wrong_options_are_refused(cluster):
    for variables, pattern in (({'HM_SERVERS': 9}, r'HM_SERVERS is 9; set it to a number from 1 to 7'),
                               ({'HM_HIDDEN': 0}, r'HM_HIDDEN'), ({'HIVEMIND': '/nonexistent'},
                                                                  r'no program at /nonexistent')):
        job = cluster.submit('swarm.sbatch', HM_STATE=f'{cluster.dir}/run5', **variables)
        record = job.ended()
        check(record['JobState'] == 'FAILED' and re.search(pattern, job.out()), f'{variables} is refused with a line',
              (record, job.out()))


def test(lab):
    if os.geteuid() != 0:
        skip('namespaces need root')
    missing = [name for name in ('slurmctld', 'slurmd', 'munged', 'mpirun', 'ip', 'nsenter') if not shutil.which(name)]
    if missing:
        skip(f'{", ".join(missing)} not installed (tools/packages.sh lab)')
    if not os.path.exists(os.path.join(os.path.dirname(os.path.dirname(HIVEMIND)), 'lib', 'hivemind', 'mpi.so')):
        skip('hivemind was built without Open MPI (tools/packages.sh cluster)')
    cluster = Cluster()
    lab.cleanups.callback(cluster.down)
    cluster.up()
    a_swarm_trains(cluster)
    scancel_saves_and_the_next_restores(cluster)
    the_time_limits_warning_requeues(cluster)
    gpus_by_gres(cluster)
    wrong_options_are_refused(cluster)
    a_dead_nodes_server_comes_back(cluster)


run_test(test)
