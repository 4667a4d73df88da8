"""A checkpoint is a plain HDF5 file: h5py reads it.  A damaged one is refused by name and the one before it is used."""

import json
import os
import struct

from hivemind_lab import HIDDEN, SLOW, Training, check, checkpoint_path, checkpoints, run_test, skip, until

try:
    import h5py
    import numpy
except ImportError as missing:
    skip(f'{missing}: install python3-h5py')

INNER = 4 * HIDDEN
# The reference's feed-forward block, by PyTorch's names.
PARAMETERS = {
    'ffn.0.weight': (INNER, HIDDEN),
    'ffn.0.bias': (INNER,),
    'ffn.1.weight': (INNER,),
    'ffn.1.bias': (INNER,),
    'ffn.3.weight': (INNER, INNER),
    'ffn.3.bias': (INNER,),
    'ffn.4.weight': (INNER,),
    'ffn.4.bias': (INNER,),
    'ffn.6.weight': (HIDDEN, INNER),
    'ffn.6.bias': (HIDDEN,),
}
UID = 'ffn.0'


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def shapes(group):
    return {name: dataset.shape for name, dataset in group.items()}


def newest(state):
    return checkpoints(state)[UID][0]


def train_to_two_generations(lab, state):
    """A server that has saved at least twice, and stopped in order."""
    server = lab.serve(UID, '--save-interval', '200ms', state=state)
    training = Training(lab, server.join, 'ffn.[0:1]', '--k-best', 1)
    training.steps(5)
    until(lambda: len(checkpoints(state).get(UID, [])) == 2, 'two generations', 30 * SLOW)
    training.steps(5)
    result = training.stop()
    check(server.terminate() == 0, 'a server saves and stops')
    check(len(checkpoints(state)[UID]) == 2, 'the newest two generations are kept', checkpoints(state))
    # Two layers with this one expert: two backwards a step.
    check(newest(state) == 2 * result['steps'], 'the last checkpoint is of the last step', (newest(state), result))
    with open(os.path.join(state, 'experts', UID, 'manifest.json'), encoding='ascii') as file:
        manifest = json.load(file)
    check(
        manifest['step'] == newest(state)
        and manifest['newest'] == os.path.basename(checkpoint_path(state, UID, newest(state))),
        'the manifest names the newest generation',
        manifest,
    )


def read(state):
    step = newest(state)
    with h5py.File(checkpoint_path(state, UID, step), 'r') as file:
        attributes = {name: text(value) for name, value in file.attrs.items()}
        check(
            (attributes['uid'], attributes['kind'], attributes['optimizer']) == (UID, 'ffn', 'adam'),
            'h5py reads uid, kind, optimizer',
            attributes,
        )
        check(
            (int(file.attrs['hidden']), int(file.attrs['step']), int(file.attrs['format'])) == (HIDDEN, step, 1),
            'h5py reads columns, step and format version',
            attributes,
        )
        check(
            len(attributes['digest']) == 32 and int(attributes['digest'], 16) > 0,
            'it has a checksum',
            attributes['digest'],
        )
        check(
            shapes(file['parameters']) == PARAMETERS,
            'parameters have their PyTorch names and shapes',
            shapes(file['parameters']),
        )
        check(
            all(dataset.dtype == numpy.dtype('<f4') for dataset in file['parameters'].values()),
            'they are little-endian f32',
        )
        check(
            all(numpy.isfinite(dataset[()]).all() for dataset in file['parameters'].values())
            and numpy.abs(file['parameters/ffn.0.weight'][()]).max() > 0,
            'they have finite values that are not all zero',
        )
        check(
            len(file['slots']) == 2 and all(shapes(slot) == PARAMETERS for slot in file['slots'].values()),
            "Adam's two slots have the same names and shapes",
            list(file['slots']),
        )
        check(all(numpy.abs(slot['ffn.6.bias'][()]).max() > 0 for slot in file['slots'].values()), 'and values')
        dedupe = file['dedupe'][()]
        check(
            dedupe.dtype == numpy.uint8 and len(dedupe) > 4 and struct.unpack('<I', dedupe[:4].tobytes())[0] == 1,
            'the dedupe window knows the one client that trained',
            dedupe[:8],
        )


def flip(path, tensor):
    """Turns one bit of a tensor's values, as a bad disk would."""
    with h5py.File(path, 'r') as file:
        dataset = file[tensor]
        offset = dataset.id.get_offset() + dataset.id.get_storage_size() // 2
    with open(path, 'r+b') as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def damaged(lab, state):
    last, before = checkpoints(state)[UID]
    path = checkpoint_path(state, UID, last)
    flip(path, 'parameters/ffn.3.weight')
    server = lab.serve(UID, state=state)
    check(
        server.start['restored'] == 1 and server.start['restored_step'] == before,
        'one flipped bit: the generation before is used',
        server.start,
    )
    lines = [line for line in server.err.splitlines() if path in line]
    check(len(lines) == 1 and 'damaged' in lines[0], 'and the damaged file is refused by name, once', server.err)
    check(server.terminate() == 0, 'the server stops in order')

    for step in checkpoints(state)[UID]:
        with open(checkpoint_path(state, UID, step), 'r+b') as file:
            file.truncate(1000)
    sizes = {
        name: os.path.getsize(os.path.join(state, 'experts', UID, name))
        for name in os.listdir(os.path.join(state, 'experts', UID))
    }
    refused = lab.run(
        'serve', '--new-swarm', '--listen', '127.0.0.1:0', '--experts', UID, '--hidden', HIDDEN, '--state', state
    )
    lines = [line for line in refused.err.splitlines() if line.startswith('hivemind: ')]
    check(
        refused.code == 1 and len(lines) == 1 and UID in lines[0],
        'no whole generation: refused with exit code 1 and a line',
        refused.err,
    )
    after = {
        name: os.path.getsize(os.path.join(state, 'experts', UID, name))
        for name in os.listdir(os.path.join(state, 'experts', UID))
    }
    check(after == sizes, 'nothing is overwritten by a new expert', after)


def test(lab):
    state = lab.path('state')
    train_to_two_generations(lab, state)
    read(state)
    damaged(lab, state)


run_test(test)
