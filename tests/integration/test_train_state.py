"""A trainer with a state folder goes on where it was, after an orderly end, after SIGKILL, in another process; a file that
is damaged or of another training is refused with a line."""

import os
import re

from hivemind_lab import SLOW, Training, check, run_test, until

GRID = 'nop.[0:4]'  # experts that give back their input: what is trained is the trainer's own, the same in every run
STEPS = 400


def train(lab, join, state, *arguments, steps=STEPS):
    how = ['--steps', steps, '--state', state, '--save-interval', '100ms', *arguments]
    return lab.run(*lab.train_arguments(join, GRID, *how), name='train',
                   seconds=60 * SLOW)


def resumed_at(text):
    return int(re.search(r'the training goes on at step (\d+)', text).group(1))


def an_interrupted_training_is_the_same(lab, join):
    whole = train(lab, join, lab.path('whole')).json
    training = Training(lab, join, GRID, '--state', lab.path('parts'), steps=STEPS)
    training.steps(30)
    first = training.stop()
    check(first['steps'] < STEPS, 'SIGINT ends a training early', first)
    again = train(lab, join, lab.path('parts'), '--events', lab.path('events'))
    check(resumed_at(again.err) == first['steps'], 'started again it goes on at that step', again.err)
    with open(lab.path('events'), encoding='utf-8') as events:
        check(f'"step":{first["steps"] + 1},' in events.readline(), 'with the next step')
    result = again.json
    check(result['steps'] == STEPS and result['loss'] == whole['loss'] and result['accuracy'] == whole['accuracy'],
          'and comes to what an uninterrupted one comes to', (result, whole))
    more = train(lab, join, lab.path('parts'))
    check(more.json['accuracy'] == whole['accuracy'] and resumed_at(more.err) == STEPS,
          'one that has ended only says its result again', (more.out, more.err))


def a_killed_training_goes_on(lab, join):
    state = lab.path('killed')
    training = Training(lab, join, GRID, '--state', state, '--save-interval', '100ms', steps=10**6)
    training.steps(50)
    until(lambda: os.path.exists(f'{state}/trainer.state'), 'it is saved')
    training.steps(50)
    last = training.last()['step']
    training.process.kill()
    again = train(lab, join, state, steps=last + 10)
    at = resumed_at(again.err)
    check(0 < at <= last and again.json['steps'] == last + 10, 'after SIGKILL it goes on at what it saved last', (at, last))


def what_is_wrong_is_said(lab, join):
    state = lab.path('killed')
    result = train(lab, join, state, '--seed', 7)
    check(result.code == 1 and 'another --seed' in result.err and result.err.count('\n') == 1,
          'another training: one line', result.err)
    result = train(lab, join, state, '--layers', 3)
    check(result.code == 1 and 'another' in result.err, 'another model: one line', result.err)
    with open(f'{state}/trainer.state', 'r+b') as file:
        file.seek(-100, os.SEEK_END)
        file.write(b'damaged')
    result = train(lab, join, state)
    check(result.code == 1 and re.fullmatch(r'hivemind: .*trainer.state is no state of a training, or damaged; remove '
                                            r'it to begin anew\n', result.err), 'a damaged file: one line', result.err)
    with open(f'{state}/trainer.state', 'wb') as file:
        file.write(b'\0')
    check(train(lab, join, state).code == 1, 'a cut file: refused')


def test(lab):
    server = lab.serve(GRID, '--kind', 'nop')
    an_interrupted_training_is_the_same(lab, server.join)
    a_killed_training_goes_on(lab, server.join)
    what_is_wrong_is_said(lab, server.join)


run_test(test)
