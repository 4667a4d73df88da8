"""What the tests in a Slurm cluster share: four nodes, each in namespaces of its own (slurm_cluster.sh), and jobs."""
import os
import re
import shutil
import subprocess
import time

from hivemind_lab import DIGITS, HIVEMIND, SLOW, SOURCE, Failed, checkpoints, own_machine, run_test, skip, until

NODES = 4
EXPERTS, COUNT = 'ffn.[0:4].[0:4]', 16
SCRIPTS = os.path.join(SOURCE, 'jobs', 'slurm')
GRACE_S = 10  # the cluster's KillWait


class Cluster:
    def __init__(self, lab):
        self.dir = lab.path('cluster')
        self.script = os.path.join(SOURCE, 'tests', 'lab', 'slurm_cluster.sh')
        lab.cleanups.callback(self.call, 'down')
        self.call('up', NODES, SOURCE, os.path.dirname(os.path.dirname(HIVEMIND)))

    def call(self, command, *arguments):
        """A command of slurm_cluster.sh."""
        argv = [self.script, command, self.dir, *map(str, arguments)]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        if result.returncode != 0:
            raise Failed(f'slurm_cluster.sh {command} {arguments}: {result.stderr}')

    def run(self, *argv, host='head', environment=None):
        """A command on a host, without this process's HM_... and SLURM_... variables."""
        names = {name: value for name, value in os.environ.items() if not name.startswith(('HM_', 'SLURM_', 'SBATCH_'))}
        names |= {name: str(value) for name, value in (environment or {}).items()}
        argv = [self.script, 'run', self.dir, host, *map(str, argv)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=names)

    def submit(self, script, *options, **variables):
        """Runs jobs/slurm/<script> with HM_... variables (None: without); the job."""
        variables = {
            'HIVEMIND': HIVEMIND,
            'HM_JOBS': SCRIPTS,
            'HM_EXPERTS': EXPERTS,
            'HM_HIDDEN': 64,
            'HM_DATA': DIGITS,
            'HM_LANE_THREADS': 1,
            'HM_BOOTSTRAP_TIMEOUT': '60s',
        } | variables
        variables = {name: value for name, value in variables.items() if value is not None}
        out = f'{self.dir}/%x-%A-%a.out'
        path = os.path.join(SCRIPTS, script)
        result = self.run('sbatch', '--parsable', '-o', out, *options, path, environment=variables)
        if result.returncode != 0:
            raise Failed(f'sbatch {script}: {result.stderr}')
        return Job(self, result.stdout.strip(), script)

    def tell(self):
        """What a person needs to see after a failure."""
        names = [name for name in sorted(os.listdir(self.dir)) if name.endswith('.out')]
        for name in ['log/slurmctld.log', *names]:
            with open(os.path.join(self.dir, name), encoding='utf-8', errors='replace') as file:
                print(f'--- {name}\n{file.read()[-3000:]}', flush=True)


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
        """What matters of Slurm's record; {} for a job that it has forgotten."""
        text = self.cluster.run('scontrol', '-o', 'show', 'job', f'{self.number}{task}').stdout
        record = dict(re.findall(r'(\w+)=(\S*)', text.splitlines()[0] if text else ''))
        return {name: record[name] for name in ('JobState', 'ExitCode', 'Restarts', 'NodeList', 'Reason') if record}

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


def steps_of(state):
    found = {}
    for rank in sorted(os.listdir(state)):
        found |= checkpoints(os.path.join(state, rank))
    return found


def in_slurm(test):
    """Runs test(cluster) in a machine of its own."""
    own_machine()
    missing = [name for name in ('slurmctld', 'slurmd', 'munged', 'mpirun', 'ip', 'nsenter') if not shutil.which(name)]
    if missing:
        skip(f'{", ".join(missing)} not installed (tools/packages.sh lab)')
    if not os.path.exists(os.path.join(os.path.dirname(os.path.dirname(HIVEMIND)), 'lib', 'hivemind', 'mpi.so')):
        skip('hivemind was built without Open MPI (tools/packages.sh cluster)')

    def run(lab):
        cluster = Cluster(lab)
        try:
            test(cluster)
        except Failed:
            cluster.tell()
            raise

    run_test(run)
