"""Every batch script of jobs/slurm but swarm.sbatch is submitted and does what its head says; every one of them refuses
a wrong option with one line.
"""
import json
import re

from hivemind_lab import HIVEMIND, check, checkpoints, until
from slurm_lab import COUNT, accuracies, in_slurm


def read(path):
    with open(path, encoding='utf-8') as file:
        return file.read().strip()


def status(cluster, join):
    return json.loads(cluster.run(HIVEMIND, 'status', '--join', join, '--json').stdout)


def servers_and_a_trainer(cluster):
    """serve.sbatch twice, the second one with the first one's line; train.sbatch by their folder, and by HM_JOIN."""
    first, second = f'{cluster.dir}/first', f'{cluster.dir}/second'
    one = cluster.submit('serve.sbatch', HM_EXPERTS='ffn.[0:2].[0:4]', HM_STATE=first)
    one.says(r'serving 8 experts')
    join = until(lambda: read(f'{first}/join'), 'a line to join with')
    check(join in one.out(), 'serve.sbatch writes the line that it prints into its folder', one.out())
    two = cluster.submit('serve.sbatch', HM_EXPERTS='ffn.[2:4].[0:4]', HM_STATE=second, HM_JOIN=join)
    two.says(r'serving 8 experts')
    found = status(cluster, join)
    check(len(found['experts']) == COUNT, 'two of them make one swarm', found)

    trainers = [
        cluster.submit('train.sbatch', HM_STATE=first, HM_STEPS=200),
        cluster.submit('train.sbatch', HM_STATE=None, HM_JOIN=join, HM_STEPS=200, HM_SEED=1),
    ]
    for trainer in trainers:
        record = trainer.ended()
        check(record['JobState'] == 'COMPLETED', 'train.sbatch ends with 0', (record, trainer.out()))
        check(min(accuracies(trainer.out())) >= 0.95, 'and with an accuracy of 0.95', trainer.out())

    for job, state in ((one, first), (two, second)):
        job.cancel()
        job.says(r'stopped; \d+ checkpoints written')
        record = job.ended()
        saved = checkpoints(state)
        check(len(saved) == 8 and all(steps[0] > 0 for steps in saved.values()), 'scancel: its experts are saved', saved)
    again = cluster.submit('serve.sbatch', HM_EXPERTS='ffn.[0:2].[0:4]', HM_STATE=first)
    newest = max(steps[0] for steps in checkpoints(first).values())
    again.says(rf'8 restored from checkpoints, the newest at step {newest}')
    print(f'ok: submitted again with the same HM_STATE it goes on at step {newest}', flush=True)
    again.cancel()
    again.ended()


def an_array(cluster):
    """Its tasks find each other, also when the first one is gone, and share the experts."""
    state = f'{cluster.dir}/array'
    servers = cluster.submit('serve_array.sbatch', '--array=3-6', HM_STATE=state)
    shares = servers.says(r'serving (\d+) experts', times=4)
    check(sorted(map(int, shares)) == [4, 4, 4, 4], 'four tasks share the experts', shares)
    joins = {read(f'{state}/join.{place}') for place in range(4)}
    found = [len(status(cluster, join)['experts']) for join in joins]
    check(found == [COUNT] * 4, 'each of their lines leads into the same swarm', found)
    cluster.run('scancel', f'{servers.number}_3')
    servers.says(r'stopped; \d+ checkpoints written')
    late = cluster.submit('serve_array.sbatch', '--array=0', HM_STATE=state, HM_EXPERTS='late.[0:2]')
    late.says(r'serving 2 experts')
    found = status(cluster, read(f'{state}/join.1'))
    check(any(expert['uid'] == 'late.1' for expert in found['experts']),
          'a first task whose swarm is there joins it, and does not start another one', found)
    cluster.run('scancel', servers.number, late.number)
    servers.says(r'stopped; \d+ checkpoints written', times=4)


def a_benchmark(cluster):
    job = cluster.submit('bench.sbatch', HM_PRESET='nop', HM_CLIENTS=4, HM_BATCHES=8, HM_ROWS=64)
    record = job.ended()
    check(record['JobState'] == 'COMPLETED', 'bench.sbatch ends with 0, whatever HM_EXPERTS is for swarms',
          (record, job.out()))
    figures = [json.loads(line) for line in job.out().splitlines() if line.startswith('{')]
    check(len(figures) == 1 and figures[0]['rows_per_second'] > 0, 'it prints one line of JSON with the throughput',
          job.out())


def wrong_options_are_refused(cluster):
    state = f'{cluster.dir}/wrong'
    for script, variables, pattern in (
        ('swarm.sbatch', {'HM_SERVERS': 9}, 'HM_SERVERS is 9; set it to a number from 1 to 7'),
        ('swarm.sbatch', {'HM_HIDDEN': 0}, 'HM_HIDDEN.* from 1 to'),
        ('swarm.sbatch', {'HM_EXPERTS': 'ffn'}, 'ffn'),
        ('swarm.sbatch', {'HM_DATA': '/nonexistent.csv'}, '/nonexistent.csv'),
        ('swarm.sbatch', {'HIVEMIND': '/nonexistent'}, 'no program at /nonexistent; .*HIVEMIND'),
        ('serve.sbatch', {'HM_DRAIN_TIMEOUT': '2h'}, 'HM_DRAIN_TIMEOUT'),
        ('serve.sbatch', {'HM_STATE': '/proc/x'}, '/proc/x.*; set HM_STATE to a folder'),
        ('serve.sbatch', {'HM_JOIN': 'nonsense'}, 'does not start with hm://'),
        ('serve_array.sbatch', {'HM_STATE': None}, 'set HM_STATE to a folder that all nodes see'),
        ('serve_array.sbatch', {'HM_WAIT': '1min'}, "HM_WAIT is '1min'; set it to a number from 1 to 86400"),
        ('train.sbatch', {'HM_WAIT': 0}, 'HM_WAIT is 0; set it to a number from 1 to 86400'),
        ('train.sbatch', {'HM_WAIT': 1}, 'no server of .* answers within 1 s; set HM_JOIN or HM_STATE'),
        ('train.sbatch', {'HM_JOIN': 'nonsense'}, 'does not start with hm://'),
        ('bench.sbatch', {'HM_PRESET': 'fast'}, 'fast'),
    ):
        options = ['--array=0'] if script == 'serve_array.sbatch' else []
        job = cluster.submit(script, *options, **({'HM_STATE': state} | variables))
        record = job.ended()
        # srun says in words of its own that a task has failed.
        said = [line for line in job.out().splitlines() if not line.startswith('srun: ')]
        check(record['JobState'] == 'FAILED' and len(said) == 1 and re.search(pattern, said[0]),
              f'{script} with {variables}: {said[0] if said else ""}', (record, job.out()))


def test(cluster):
    servers_and_a_trainer(cluster)
    an_array(cluster)
    a_benchmark(cluster)
    wrong_options_are_refused(cluster)


in_slurm(test)
