"""Every command explains itself, and what the explanations and the README say is what the program takes."""
import os
import re
import shlex

from hivemind_lab import SOURCE, Failed, check, run_test

COMMANDS = {
    'serve': ['--new-swarm', '--join', '--experts', '--hidden', '--state', '--listen', '--kind', '--optimizer', '--json'],
    'dht': ['--new-swarm', '--join', '--state', '--listen'],
    'train': ['--join', '--experts', '--hidden', '--data', '--steps', '--k-best', '--k-min', '--events', '--seed', '--json'],
    'status': ['--join', '--json'],
    'topo': ['--topology', '--device', '--lane-threads', '--json'],
    'bench': ['--preset', '--clients', '--rows', '--experts', '--hidden', '--transport', '--json'],
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
        check(result.code == 0 and not result.err and len(result.out) > 200, f'{command} --help explains itself and exits with 0',
              (result.code, result.err))
        texts[command] = options_of(result.out)
        missing = [option for option in wanted if option not in texts[command]]
        check(not missing, f'{command} --help names its options', missing)
        wrong = [option for option in texts[command] if option not in ('--help', '--config') and
                 f'HM_{option[2:].replace("-", "_").upper()}' not in result.out]
        check(not wrong, f'{command} --help names the variable of each option', wrong)
    return texts


def every_option_is_taken(lab, texts):
    for command, options in texts.items():
        for option, has_value in options.items():
            if not has_value or option == '--config':
                continue
            result = lab.run(command, *(['throughput'] if command == 'bench' else []), option)
            if result.code != 2 or not re.fullmatch(rf'hivemind: {option} [^\n]*\n', result.err):
                raise Failed(f'{command} {option} without its value: exit code 2 and a line about it; found {result.code} {result.err!r}')
        check(True, f'{command} takes the options that it explains')


def the_program(lab):
    overview = lab.run('--help')
    check(overview.code == 0 and not overview.err, '--help exits with 0')
    check(all(re.search(rf'^  {command} ', overview.out, re.MULTILINE) for command in COMMANDS), '--help lists every command', overview.out)
    version = lab.run('--version')
    check(version.code == 0 and re.fullmatch(r'hivemind \d+\.\d+\.\d+, wire \d+\.\d+\n', version.out), '--version says release and wire version',
          version.out)
    bare = lab.run()
    check(bare.code == 2 and not bare.out and '--help' in bare.err, 'no command at all is wrong usage', (bare.code, bare.err))


def commands_in(markdown):
    """The lines of code blocks that run the program, with continuations joined."""
    for block in re.findall(r'^```[^\n]*\n(.*?)^```', markdown, re.MULTILINE | re.DOTALL) + re.findall(r'((?:^    [^\n]*\n)+)', markdown, re.MULTILINE):
        for line in block.replace('\\\n', ' ').splitlines():
            match = re.match(r'\s*(?:\$ )?(?:sudo )?(?:\./)?(?:build/bin/)?hivemind\s+(.*)', line)
            if match and '…' not in match.group(1).split('#')[0].replace('hm://…', ''):
                yield match.group(1)


def the_readme(texts):
    path = os.path.join(SOURCE, 'README.md')
    if not os.path.exists(path):
        print('SKIP: there is no README.md', flush=True)
        return
    with open(path, encoding='utf-8') as file:
        lines = list(commands_in(file.read()))
    check(lines, 'the README shows commands')
    for line in lines:
        words = shlex.split(line, comments=True)
        if not words or words[0] not in COMMANDS:
            if words and words[0] in ('--help', '--version', 'COMMAND'):
                continue
            raise Failed(f'the README runs an unknown command: hivemind {line}')
        for word in words[1:]:
            option = word.split('=')[0]
            known = texts[words[0]]
            if option.startswith('--') and option not in known and option.replace('--no-', '--', 1) not in known:
                raise Failed(f'the README gives {option} to {words[0]}, which has no such option: hivemind {line}')
    check(True, f"the README's {len(lines)} commands and their options exist")


def test(lab):
    the_program(lab)
    texts = explain(lab)
    every_option_is_taken(lab, texts)
    the_readme(texts)


run_test(test)
