"""The batch scripts of jobs/slurm in a Slurm cluster of four nodes.

A swarm trains to the demo's accuracy; scancel saves every expert within the grace time; a requeued job restores them; a
node that dies has its server come back on another one; two nodes and a GPU each see their own GPUs.
"""
import json
import os
import re
import time

from hivemind_lab import HIVEMIND, SLOW, SOURCE, check, checkpoints, until
from slurm_lab import COUNT, GRACE_S, accuracies, in_slurm, steps_of


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


def test(cluster):
    a_swarm_trains(cluster)
    scancel_saves_and_the_next_restores(cluster)
    gpus_by_gres(cluster)
    a_dead_nodes_server_comes_back(cluster)


in_slurm(test)
