"""A swarm on four nodes over UCX: by shared memory within a node, by UCX's TCP between nodes; and a node whose link is
cut while it trains, for a while and for good.
"""
import glob
import json
import re
import time

from hivemind_lab import SLOW, check, until
from slurm_lab import accuracies, in_slurm


def counters(job, who):
    """(messages over UCX, over tcp after joining) of each trainer or server, from its last line."""
    what = {'trainers': r'accuracy=.*', 'servers': r'stopped; .*'}[who]
    found = re.findall(what + r' ucx_messages=(\d+) tcp_messages_after_join=(\d+)', job.out())
    return [(int(ucx), int(tcp)) for ucx, tcp in found]


def finished(job, trainers=2):
    record = job.ended()
    found = accuracies(job.out())
    check(record['JobState'] == 'COMPLETED' and record['ExitCode'] == '0:0', 'the job ends with 0', (record, job.out()))
    check(len(found) == trainers and min(found) >= 0.95, f'{trainers} trainers reach an accuracy of 0.95', found)
    return found


def the_fabric_by_itself(cluster):
    """Of four nodes; without --fabric-tcp only those of one node meet."""
    job = cluster.submit('swarm.sbatch', HM_STATE=f'{cluster.dir}/shm', HM_STEPS=200)
    finished(job)
    found = counters(job, 'trainers')
    check(len(found) == 2 and all(ucx > 100 for ucx, _ in found), 'within a node calls go over UCX', found)
    check(all(tcp > 100 for _, tcp in found), 'between nodes over tcp', found)


def the_fabric_over_tcp(cluster):
    job = cluster.submit('swarm.sbatch', HM_STATE=f'{cluster.dir}/tcp', HM_STEPS=200, HM_FABRIC_TCP=1)
    found = finished(job)
    print(f'figure: fabric: submit to accuracy {min(found):.3f} in {time.monotonic() - job.started:.1f} s', flush=True)
    found = counters(job, 'trainers') + counters(job, 'servers')
    check(len(found) == 8 and all(ucx > 100 for ucx, _ in found), '--fabric-tcp: everything goes over UCX', found)
    check(all(tcp == 0 for _, tcp in found), 'no call and no DHT message over tcp after joining', found)


class Watched:
    """A training and the events of its trainers."""

    def __init__(self, cluster, name, *options, **variables):
        self.events = f'{cluster.dir}/{name}-events'
        self.job = cluster.submit('swarm.sbatch', *options, HM_STATE=f'{cluster.dir}/{name}', HM_EVENTS=self.events,
                                  **variables)
        self.steps(30)

    def last(self):
        """The last complete line of each trainer."""
        found = []
        for path in glob.glob(f'{self.events}.rank*'):
            with open(path, encoding='utf-8') as file:
                lines = [line for line in file if line.endswith('\n')]
            found += [json.loads(lines[-1])] if lines else []
        return found if len(found) == 2 else [{'step': 0}]

    def steps(self, count):
        goal = max(event['step'] for event in self.last()) + count
        until(lambda: min(event['step'] for event in self.last()) >= goal,
              f'{goal} steps: {self.last()} {self.job.out()[-500:]}', 120 * SLOW)


def cut_for_a_while(cluster, **variables):
    """n2 has two of the six servers."""
    run = Watched(cluster, f'while{len(variables)}', HM_STEPS=300, **variables)
    cluster.call('cut', 'n2')
    run.steps(5)
    time.sleep(4)  # Slurm gives a node up after 10
    cluster.call('mend', 'n2')
    finished(run.job)
    check(len(re.findall(r'stopped; \d+ checkpoints written', run.job.out())) == 6,
          'a link cut for a while: every server is there at the end', run.job.out())


def cut_for_good(cluster):
    run = Watched(cluster, 'good', '--no-kill', HM_STEPS=300)
    cluster.call('cut', 'n2')
    finished(run.job)
    check(len(re.findall(r'stopped; \d+ checkpoints written', run.job.out())) == 4,
          'a link cut for good: the other servers save and end', run.job.out())


def test(cluster):
    the_fabric_by_itself(cluster)
    the_fabric_over_tcp(cluster)
    cut_for_a_while(cluster)
    cut_for_a_while(cluster, HM_FABRIC_TCP=1)
    cut_for_good(cluster)


in_slurm(test)
