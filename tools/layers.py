#!/usr/bin/env python3
"""Checks the house rules that a compiler does not: who includes whom, and what only base/ may call.

    tools/layers.py           prints a line for each violation, and exits 1 if there is one
    tools/layers.py --long    lists the functions over 70 lines, longest first (each wants a reason)

Rules (docs/architecture.md):
  - A folder of src/ includes itself and what TABLE allows; CMakeLists.txt links it with the same.
  - Time, randomness and threads come from base/.  In src/cli a call that reads or spends time may
    stand where a comment, on its line or on the one above, says why.  (perf/ is free: its raw programs
    use none of our layers.)
  - A .c file has at most 1,000 lines.
"""

import argparse
import pathlib
import re
import sys

TABLE = {
    "base": "",
    "topo": "base",
    "tensor": "base",
    "transport": "base",
    "dht": "base transport",
    "experts": "base tensor",
    "sched": "base tensor topo",
    "sim": "base transport sched",
    "moe": "base tensor transport dht experts",
    "server": "base tensor topo transport dht experts sched moe",
    "api": "base tensor topo transport dht experts sched moe server",
    "cli": "base tensor topo transport dht experts sched moe server sim api",
}
MAY_INCLUDE = {folder: set(others.split()) for folder, others in TABLE.items()}
PUBLIC_HEADER = "hivemind.h"  # the only file of src/ itself
PUBLIC_HEADER_USERS = {"api", "cli"}

SOURCES = {".c", ".h", ".cpp", ".cu"}
FILE_LINES_MAX = 1000
FUNCTION_LINES_MAX = 70

# A call, and not a member of that name nor the tail of another word.
TIME_CALL = re.compile(
    r"(?<![\w.>])(clock_gettime|gettimeofday|usleep|nanosleep|(?:time|sleep)(?=\s*\())\b"
)
OTHER_CALL = re.compile(r"(?<![\w.>])((?:rand|random)(?=\s*\()|pthread_\w*)")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
CMAKE_FOLDER = re.compile(r'^hm_folder\((\w+)\s+"([^"]*)"', re.MULTILINE)
# Comments, strings and characters; a quote inside a comment opens nothing, and the other way round.
TOKEN = re.compile(
    r'//(?:\\\n|[^\n])*|/\*.*?(?:\*/|\Z)|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL
)


def blanked(text, strings):
    """The text with its comments (and strings, if asked) blanked out; lines stay where they are."""

    def blank(match):
        token = match.group(0)
        if token[0] in "\"'" and not strings:
            return token
        return re.sub(r"[^\n]", " ", token)

    return TOKEN.sub(blank, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def has_comment(raw_lines, line):
    """Whether a comment stands on the line (from 1), or alone on the one above it."""
    here = raw_lines[line - 1]
    above = raw_lines[line - 2].strip() if line > 1 else ""
    return (
        "//" in here or "/*" in here or above.startswith(("//", "/*", "*")) or above.endswith("*/")
    )


def check_includes(folder, text):
    for match in INCLUDE.finditer(blanked(text, strings=False)):
        name = match.group(1)
        line = line_of(text, match.start(1))
        target, slash, _ = name.partition("/")
        if not slash:
            if name != PUBLIC_HEADER:
                yield line, f'"{name}" must be included by its folder, as "{folder}/{name}"'
            elif folder not in PUBLIC_HEADER_USERS:
                yield line, f"{folder} may not include {name}, which is for users of the library"
        elif target != folder and target not in MAY_INCLUDE[folder]:
            allowed = " ".join(sorted(MAY_INCLUDE[folder])) or "nothing"
            yield line, f"{folder} may not include {name} (may include: {allowed})"


def check_calls(folder, text):
    """`folder` is one of src/ above base."""
    raw_lines = text.split("\n")
    code = blanked(text, strings=True)
    for match in TIME_CALL.finditer(code):
        line = line_of(code, match.start())
        if folder != "cli":
            yield line, f"{match.group(1)} may be called in base only (use the loop: base/loop.h)"
        elif not has_comment(raw_lines, line):
            yield line, f"{match.group(1)} needs a comment on its line: why not the loop's time"
    for match in OTHER_CALL.finditer(code):
        name = match.group(1)
        if re.search(rf"\(\s*\*\s*{name}\s*\)", code):
            continue  # the file's own: a pointer of that name, handed in
        instead = (
            "base/thread.h" if name.startswith("pthread_") else "base/rng.h or the loop's streams"
        )
        yield line_of(code, match.start()), f"{name} may be called in base only (use {instead})"


def sources_of(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in SOURCES and path.is_file())


def violations(root):
    """Yields (path, line, text)."""
    for path in sources_of(root / "src"):
        parts = path.relative_to(root / "src").parts
        folder = parts[0]
        if len(parts) == 1:
            if folder != PUBLIC_HEADER:
                yield path, 1, "only hivemind.h lies in src/ itself"
            continue
        if folder not in TABLE:
            yield path, 1, f"src/{folder} is not in the table of tools/layers.py"
            continue
        text = path.read_text(encoding="utf-8")
        for line, what in check_includes(folder, text):
            yield path, line, what
        if folder != "base":
            for line, what in check_calls(folder, text):
                yield path, line, what
        lines = text.count("\n")
        if path.suffix == ".c" and lines > FILE_LINES_MAX:
            yield path, lines, f"{lines} lines, over {FILE_LINES_MAX}: split the file"
    cmake = root / "CMakeLists.txt"
    if cmake.exists():
        text = cmake.read_text(encoding="utf-8")
        for match in CMAKE_FOLDER.finditer(text):
            folder, linked = match.group(1), set(match.group(2).split(";")) - {""}
            extra = linked - MAY_INCLUDE.get(folder, set())
            if extra:
                yield cmake, line_of(
                    text, match.start()
                ), f"{folder} may not be linked with {' '.join(sorted(extra))}"


def functions_of(text):
    """Yields (line, name, line count); bodies begin and end with a brace in the first column."""
    lines = blanked(text, strings=True).split("\n")
    begin = None
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            begin = number
        elif line.startswith("}") and begin is not None:
            head = begin
            while head > 1 and lines[head - 2].strip() and not re.search(r"[;}#]", lines[head - 2]):
                head -= 1
            signature = " ".join(lines[head - 1 : begin - 1])
            name = re.search(r"(\w+)\s*\(", signature)
            if name:
                yield head, name.group(1), number - head + 1
            begin = None


def long_functions(root):
    found = []
    for path in sources_of(root / "src"):
        for line, name, count in functions_of(path.read_text(encoding="utf-8")):
            if count > FUNCTION_LINES_MAX:
                found.append((count, path.relative_to(root), line, name))
    return sorted(found, key=lambda item: (-item[0], str(item[1]), item[2]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--long", action="store_true", help="list the functions over 70 lines")
    parser.add_argument(
        "--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent
    )
    arguments = parser.parse_args()
    if not (arguments.root / "src").is_dir():
        parser.error(f"{arguments.root} has no src/")
    if arguments.long:
        for count, path, line, name in long_functions(arguments.root):
            print(f"{path}:{line}: {name} has {count} lines")
        return 0
    clean = True
    for path, line, what in violations(arguments.root):
        print(f"{path.relative_to(arguments.root)}:{line}: {what}")
        clean = False
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
