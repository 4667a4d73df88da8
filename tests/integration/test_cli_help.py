"""Every command explains itself, and what the explanations and the README say is what the program takes."""

import os
import re
import shlex

from hivemind_lab import SOURCE, Failed, check, run_test

COMMANDS = {
    'serve': [
        '--new-swarm',
        '--join',
        '--experts',
        '--hidden',
        '--state',
        '--listen',
        '--kind',
        '--optimizer',
        '--codecs',
        '--client-calls-max',
        '--client-bytes-max',
        '--json',
    ],
    'dht': ['--new-swarm', '--join', '--state', '--listen'],
    'train': [
        '--join',
        '--experts',
        '--hidden',
        '--data',
        '--steps',
        '--k-best',
        '--k-min',
        '--codec',
        '--events',
        '--seed',
        '--json',
    ],
    'status': ['--join', '--json'],
    'swarm': ['--bootstrap', '--servers', '--trainers', '--role', '--experts', '--data', '--state', '--json'],
    'topo': ['--topology', '--device', '--lane-threads', '--json'],
    'bench': ['--preset', '--clients', '--rows', '--experts', '--hidden', '--transport', '--codec', '--json'],
}


def options_of(help_text):
    """--name -> whether it takes a value."""
    found = {}
    for match in re.finditer(r'^ +--([a-z][a-z0-9-]*)( \S+)?', help_text, re.MULTILINE):
        found['--' + match.group(1)] = bool(match.group(2))
    return found


def explain(lab):
    texts = {}
    for command, wanted in COMMANDS.items():
        arguments = [command, 'throughput', '--help'] if command == 'bench' else [command, '--help']
        result = lab.run(*arguments)
        check(
            result.code == 0 and not result.err and len(result.out) > 200,
            f'{command} --help explains itself and exits with 0',
            (result.code, result.err),
        )
        texts[command] = options_of(result.out)
        missing = [option for option in wanted if option not in texts[command]]
        check(not missing, f'{command} --help names its options', missing)
        wrong = [
            option
            for option in texts[command]
            if option not in ('--help', '--config')
            and f'HM_{option[2:].removeprefix("no-").replace("-", "_").upper()}' not in result.out
        ]
        check(not wrong, f'{command} --help names the variable of each option', wrong)
    return texts


def every_option_is_taken(lab, texts):
    for command, options in texts.items():
        for option, has_value in options.items():
            if not has_value or option == '--config':
                continue
            result = lab.run(command, *(['throughput'] if command == 'bench' else []), option)
            if result.code != 2 or not re.fullmatch(rf'hivemind: {option} [^\n]*\n', result.err):
                raise Failed(
                    f'{command} {option} without its value: exit code 2 and a line about it; '
                    f'found {result.code} {result.err!r}'
                )
        check(True, f'{command} takes the options that it explains')


def the_program(lab):
    overview = lab.run('--help')
    check(overview.code == 0 and not overview.err, '--help exits with 0')
    check(
        all(re.search(rf'^  {command} ', overview.out, re.MULTILINE) for command in COMMANDS),
        '--help lists every command',
        overview.out,
    )
    version = lab.run('--version')
    check(
        version.code == 0 and re.fullmatch(r'hivemind \d+\.\d+\.\d+, wire \d+\.\d+\n', version.out),
        '--version says release and wire version',
        version.out,
    )
    bare = lab.run()
    check(
        bare.code == 2 and not bare.out and '--help' in bare.err,
        'no command at all is wrong usage',
        (bare.code, bare.err),
    )


def commands_in(text):
    """What runs the program, in code blocks, in code spans and in the usage of --help; continuations are joined."""
    text = text.replace('\\\n', ' ')
    for line in re.findall(r'^ *(?:\$ )?(?:\S*/)?hivemind ([a-z-]+ .*)$', text, re.MULTILINE):
        yield line
    for span in re.findall(r'`(?:\S*/)?hivemind ([^`\n]+)`', text):
        yield span


def commands_exist(where, text, texts):
    """Every command in the text is one that the program has, with options that it takes."""
    lines = [line for line in commands_in(text) if not line.startswith('- ')]
    check(lines, f'{where} shows commands')
    for line in lines:
        words = shlex.split(re.sub(r'   .*| \|.*', '', line), comments=True)
        if words[0] in ('--help', '--version'):
            continue
        if words[0] not in COMMANDS:
            raise Failed(f'{where} runs an unknown command: hivemind {line}')
        known = texts[words[0]]
        for word in words[1:]:
            option = word.split('=')[0]
            if option.startswith('--') and option not in known and option.replace('--no-', '--', 1) not in known:
                raise Failed(f'{where} gives {option} to {words[0]}, which has no such option: hivemind {line}')
    check(True, f'the {len(lines)} commands of {where} and their options exist')


def what_is_written(lab, texts):
    for command in COMMANDS:
        commands_exist(f'{command} --help', lab.run(command, '--help').out, texts)
    commands_exist('--help', lab.run('--help').out.replace('hivemind COMMAND', ''), texts)
    path = os.path.join(SOURCE, 'README.md')
    if not os.path.exists(path):
        print('SKIP: there is no README.md', flush=True)
        return
    with open(path, encoding='utf-8') as file:
        commands_exist('README.md', file.read(), texts)


def test(lab):
    the_program(lab)
    texts = explain(lab)
    every_option_is_taken(lab, texts)
    what_is_written(lab, texts)


run_test(test)
