"""The benchmarks run, tiny: what they say is complete and adds up, whoever runs them; wrong arguments are one line.
How fast anything is, is not judged here."""

import json
import math
import os
import re
import shutil

from hivemind_lab import HIVEMIND, SLOW, check, run_test

BIN = os.path.dirname(HIVEMIND)
UCX = os.path.exists(os.path.join(BIN, '..', 'lib', 'hivemind', 'ucx.so'))
WORK = {'preset', 'kind', 'transport', 'experts', 'hidden', 'rows', 'clients', 'client_processes', 'backward', 'repeats'}
FIGURES = {
    *('rows_per_second', 'calls_per_second', 'seconds', 'mean_us', 'p50_us', 'p99_us', 'p999_us', 'max_us'),
    *('cpu_seconds', 'cpu_seconds_server', 'cpu_seconds_clients', 'bytes_on_wire', 'copies_per_hop'),
    *('batches', 'batch_rows_mean'),
    *('batch_rows_p50', 'batch_rows_p99', 'batch_rows_max', 'resident_bytes_server', 'resident_bytes_clients'),
    *('calls_failed', 'stage_queue_us', 'stage_wire_us', 'stage_admit_us', 'stage_batch_wait_us', 'stage_compute_us'),
    *('stage_reply_us', 'stage_return_us'),
}
TRANSPORT = {'mean_us', 'p50_us', 'p99_us', 'p999_us', 'messages_per_second', 'megabytes_per_second'}
LIMIT = {'limit', 'ratio', 'limit_by'}


def bench(lab, *arguments, code=0, **how):
    """One line of JSON, which is all that it says."""
    result = lab.run('bench', *arguments, '--json', name=f'bench-{arguments[0]}', seconds=60 * SLOW, **how)
    check(result.code == code and result.out.count('\n') == 1, ' '.join(map(str, arguments)), (result.code, result.err))
    return result.json


def is_complete(line, wanted):
    missing = wanted - set(line)
    check(not missing, '... has every field', missing)
    numbers = [name for name in FIGURES | {'limit', 'ratio'} if name in line]
    wrong = [name for name in numbers if not (math.isfinite(line[name]) and line[name] >= 0)]
    check(not wrong, '... whose figures are numbers', {name: line[name] for name in wrong})
    check(line['p50_us'] <= line['p99_us'] <= line['p999_us'] <= line['max_us'], '... quantiles grow', line)
    stages = sum(line[name] for name in FIGURES if name.startswith('stage_'))
    mean = line['mean_us'] / (2 if line['backward'] else 1)
    check(0 < stages and line['stage_wire_us'] > 0, '... stages have times', line)
    return stages, mean


def latency(lab, transport, raw):
    line = bench(lab, 'latency', '--seconds', '200ms', '--repeats', 3, '--transport', transport)
    is_complete(line, WORK | FIGURES | LIMIT | {'limit_p99_us'})
    check(line['limit_by'] == raw and line['ratio'] > 0, f'{raw} is the limit', line)
    check(line['resident_growth_server'] < 1, 'rounds say how memory grows', line)
    line = bench(lab, 'latency', '--seconds', '200ms', '--no-blocking', '--no-limit', '--transport', transport)
    stages, mean = is_complete(line, WORK | FIGURES)
    check(abs(stages - mean) < 0.1 * mean, 'the stages of a call are its whole time', (stages, mean))
    check(not LIMIT & set(line), 'no limit was asked for, and none is given', line)
    check(line['batches'] == round(line['calls_per_second'] * line['seconds']), 'each call was a batch', line)


def copies_and_heap(line, library):
    """Payloads of 64 KiB: the library's copies, and of ours at most one."""
    check(library <= line['copies_per_hop'] < library + 1.1, 'copies of a byte on its way are counted', line)
    if os.path.exists(os.path.join(BIN, 'perf-count_heap.so')):
        calls = line['calls_per_second'] * line['seconds']
        check(line['allocations_per_call'] * calls < 100000, 'the heap is counted', line)
    else:
        check('allocations_per_call' not in line, 'no heap is counted without what counts it', line)


def throughput(lab, transport, raw):
    tiny = ['--hidden', 32, '--experts', 3, '--transport', transport]
    line = bench(
        lab, 'throughput', '--rows', 2, '--clients', 5, '--client-processes', 2, '--batches', 20, *tiny, '--blocking'
    )
    is_complete(line, WORK | FIGURES | LIMIT)
    check(line['limit_by'] == raw and line['ratio'] > 0, f'{raw} is the limit', line)
    check(round(line['calls_per_second'] * line['seconds']) == 100, 'so many calls as were asked for', line)
    check(round(line['rows_per_second'] * line['seconds']) == 200, 'and rows', line)
    check(line['bytes_on_wire'] > 2 * 200 * 32 * 4, 'rows went there and back', line)
    check(round(line['batches'] * line['batch_rows_mean']) == 200, 'all rows were in batches', line)

    line = bench(lab, 'throughput', '--seconds', '200ms', '--rows', 512, '--clients', 2, *tiny, '--no-limit')
    is_complete(line, WORK | FIGURES)
    copies_and_heap(line, 2 if transport == 'tcp' else 1)
    check(line['seconds'] >= 0.2 and line['calls_failed'] == 0, 'for as long as was asked for', line)


def training(lab):
    line = bench(
        lab,
        *['throughput', '--kind', 'ffn', '--hidden', 32, '--experts', 2, '--rows', 4, '--clients', 3, '--batches', 4],
        *['--backward', '--lane-threads', 1],
    )
    is_complete(line, WORK | FIGURES | LIMIT | {'limit_train', 'limit_batches'})
    check(0 < line['ratio'] and line['limit'] < line['limit_train'], 'a pair is more than its second pass', line)
    check(re.fullmatch(r'(\d+x\d+,?)+', line['limit_batches']), 'raw_ffn ran the sizes formed', line['limit_batches'])
    check(round(line['calls_per_second'] * line['seconds']) == 24, 'forward and backward are two calls', line)
    check(round(line['rows_per_second'] * line['seconds']) == 48, 'of the same rows', line)


def expert(lab, dtype):
    """Without a server: a line a pass and size, and the optimizer's pass alone."""
    arguments = ['bench', 'expert', '--hidden', 32, '--rows', '4,9', '--seconds', '50ms', '--dtype', dtype]
    result = lab.run(*arguments, '--repeats', 3, '--json', seconds=60 * SLOW)
    check(result.code == 0, f'an expert in {dtype} runs alone', (result.code, result.err))
    lines = [json.loads(line) for line in result.out.splitlines()]
    passes = [('forward', 4), ('forward', 9), ('train', 4), ('train', 9), ('adam', None)]
    check([(line['pass'], line.get('rows')) for line in lines] == passes, '... each pass once', result.out)
    for line in lines:
        numbers = [line[name] for name in ('ms', 'limit_ms', 'ratio')]
        check(all(math.isfinite(number) and number > 0 for number in numbers), f'... {line["pass"]} beside raw', line)
        if 'rows' in line:
            pace = line['rows'] / line['ms'] * 1e3
            check(abs(line['rows_per_second'] / pace - 1) < 1e-6, '... rows a second are its rows', line)
    result = lab.run(*arguments, '--pass', 'adam', '--no-limit', '--json', seconds=60 * SLOW)
    check(result.code == 0 and result.json['pass'] == 'adam' and 'ratio' not in result.json, '... or one', result.out)
    result = lab.run(*arguments, '--no-limit', seconds=60 * SLOW)
    said = (result.code, result.out)
    check(result.code == 0 and 'not asked for' in result.out and 'adam' in result.out, '... a table for people', said)


def for_people(lab):
    result = lab.run('bench', 'latency', '--seconds', '100ms', '--hidden', 32, seconds=60 * SLOW)
    check(
        result.code == 0 and re.search(r'ours +[0-9.]+', result.out) and 'ratio' in result.out and '#' in result.out,
        'latency draws its stages',
        result.out,
    )
    result = lab.run('bench', 'throughput', '--seconds', '100ms', '--hidden', 32, '--clients', 2, seconds=60 * SLOW)
    check(result.code == 0 and re.search(r'rows/s +ratio [0-9.]+', result.out), 'throughput says its ratio', result.out)


def without_the_others(lab):
    """A program that was copied away has no raw programs and no modules beside it."""
    alone = shutil.copy(HIVEMIND, lab.path('hivemind'))
    arguments = ['bench', 'latency', '--seconds', '100ms', '--hidden', '32']
    result = lab.run(*arguments, program=alone, seconds=60 * SLOW)
    check(result.code == 0 and 'perf-raw_tls_echo is not built' in result.out, 'one line says that', result.out)
    result = lab.run(*arguments, '--json', program=alone, seconds=60 * SLOW)
    absent = LIMIT | {'allocations_per_call'}
    check(result.code == 0 and not absent & set(result.json), '... and there is no ratio', result.out)
    result = lab.run(*arguments, '--transport', 'ucx', program=alone, seconds=60 * SLOW)
    check(result.code == 1 and not result.out and 'ucx' in result.err, 'ucx needs its module', (result.code, result.err))


def transport(lab, name, raw):
    """A payload that comes with its message, and one that is pulled; a line of JSON for each."""
    arguments = ['bench', 'transport', '--transport', name, '--size', '8,100K', '--seconds', '100ms', '--no-perftest']
    result = lab.run(*arguments, '--json', seconds=60 * SLOW)
    check(result.code == 0, f'{name} alone runs', (result.code, result.err))
    lines = [json.loads(line) for line in result.out.splitlines()]
    check([line['bytes'] for line in lines] == [8, 100 << 10], '... each size once', result.out)
    for line in lines:
        for figures in (line, line['limit'], line['ratio']):
            wrong = [key for key in TRANSPORT if not (isinstance(figures[key], (int, float)) and figures[key] > 0)]
            check(not wrong, f'... with figures for {line["bytes"]} bytes, beside {raw}', (wrong, figures))
    result = lab.run(*arguments, seconds=60 * SLOW)
    check(result.code == 0 and f'perf-{raw}' in result.out and '102400' in result.out, '... a table for people', result.out)


def wrong_arguments(lab):
    for arguments, words in (
        ([], ['throughput', '--help']),
        (['troughput'], ['troughput', 'throughput']),
        (['throughput', '--preset', 'ffn_masive'], ['ffn_masive', 'ffn_massive']),
        (['throughput', '--transport', 'smoke'], ['smoke', 'tcp', 'ucx']),
        (['throughput', '--kind', 'fnn'], ['fnn', 'ffn']),
        (['throughput', '--backward', '--forward-only'], ['--backward', '--forward-only']),
        (['throughput', '--clients', '0'], ['--clients']),
        (['throughput', '--repeats', '1000'], ['--repeats']),
        (['throughput', '--kind', 'ffn', '--hidden', '9000'], ['9000', '8192']),
        (['throughput', 'more'], ['more', 'hivemind bench throughput --help']),
        (['latency', '--clients', '4'], ['--clients']),
        (['latency', '--transport', 'smoke'], ['smoke', 'tcp', 'ucx']),
        (['latency', '--seconds', '3'], ['--seconds']),
        (['overload', '--rows', '65'], ['65', '64']),
        (['overload', '--transport', 'smoke'], ['smoke', 'tcp', 'ucx']),
        (['overload', '--clients', '0'], ['--clients']),
        (['throughput', '--kind', 'nop_delay'], ['nop_delay', '--delay']),
        (['codec', '--codec', 'u9'], ['u9', 'u8']),
        (['codec', '--columns', '0'], ['--columns']),
        (['codec', '--repeats', '0'], ['--repeats']),
        (['codec', 'more'], ['more', 'hivemind bench codec --help']),
        (['server', 'more'], ['more', 'hivemind bench server --help']),
        (['client', 'more'], ['more']),
        (['end', 'more'], ['more']),
        (['expert', '--rows', '8,x'], ['8,x', '--rows']),
        (['expert', '--rows', '8,'], ['8,', '--rows']),
        (['expert', '--rows='], ['--rows']),
        (['expert', '--rows', '65537'], ['65537', '65536']),
        (['expert', '--pass', 'sgd'], ['sgd', 'adam']),
        (['expert', '--dtype', 'f64'], ['f64', 'f32', 'bf16']),
        (['expert', '--hidden', '0'], ['--hidden']),
        (['expert', 'more'], ['more']),
        (['transport', '--size', '8,x'], ['8,x', '--size']),
        (['transport', '--size', '300M'], ['300M']),
        (['transport', '--transport', 'smoke'], ['smoke', 'tcp', 'ucx']),
        (['transport', '--transport', 'tcp', '--wait', 'busy'], ['busy', 'ucx']),
        (['transport', '--wait', 'lazily'], ['lazily', 'wakeup']),
    ):
        result = lab.run('bench', *arguments)
        said = (result.code, result.out, result.err)
        check(result.code == 2 and re.fullmatch(r'hivemind: [^\n]+\n', result.err) and not result.out, arguments, said)
        check(all(word in result.err for word in words), f'... {result.err.strip()[10:]}', said)


def overload(lab, transport):
    line = bench(lab, 'overload', '--seconds', '500ms', '--transport', transport)
    wanted = {
        *('peak_calls_per_second', 'offered_calls_per_second', 'goodput_calls_per_second', 'ratio', 'answered_dead'),
        *('refused_feasible', 'arrived', 'not_offered', 'answered', 'refused', 'timed_out', 'failed', 'late_p99_us'),
        *('server_refused', 'server_shed', 'cpu_seconds_server', 'cpu_seconds_clients'),
    }
    check(not wanted - set(line), f'overload over {transport} has every field', wanted - set(line))
    ends = sum(line[name] for name in ('not_offered', 'answered', 'refused', 'timed_out', 'failed'))
    check(ends == line['arrived'] > 0, '... each arrival has one end', line)
    check(line['failed'] == 0 and line['answered'] > 0 and line['refused'] > 0, '... answers some, refuses some', line)
    check(all(0 <= line[name] <= 1 for name in ('answered_dead', 'refused_feasible')), '... parts are parts', line)


def test(lab):
    wrong_arguments(lab)
    latency(lab, 'tcp', 'raw_tls_echo')
    throughput(lab, 'tcp', 'raw_tls_echo')
    transport(lab, 'tcp', 'raw_tls_echo')
    overload(lab, 'tcp')
    training(lab)
    expert(lab, 'f32')
    expert(lab, 'bf16')
    for_people(lab)
    without_the_others(lab)
    if not UCX:
        print('SKIP: over ucx: the module was not built', flush=True)
        return
    latency(lab, 'ucx', 'raw_ucx_echo')
    throughput(lab, 'ucx', 'raw_ucx_echo')
    transport(lab, 'ucx', 'raw_ucx_echo')
    overload(lab, 'ucx')


run_test(test)
