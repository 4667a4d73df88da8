"""tools/layers.py: this tree is clean; trees that break a rule are refused by file and line."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOL = ROOT / "tools" / "layers.py"


def run(*arguments):
    done = subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


class Layers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hm-test-layers-")
        self.root = pathlib.Path(self.folder.name)
        (self.root / "src").mkdir()
        self.addCleanup(self.folder.cleanup)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def check(self):
        return run("--root", str(self.root))

    def assert_clean(self):
        self.assertEqual(self.check(), (0, "", ""))

    def assert_refused(self, *lines):
        code, out, err = self.check()
        self.assertEqual((out.splitlines(), code, err), (list(lines), 1, ""))

    def test_this_tree_is_clean(self):
        self.assertEqual(run(), (0, "", ""))

    def test_an_empty_tree_is_clean(self):
        self.assert_clean()

    def test_what_the_table_allows_is_clean(self):
        self.write(
            "src/sched/pool.c",
            '#include "sched/pool.h"\n#include "base/list.h"\n'
            '#include "topo/plan.h"\n#include <time.h>\n',
        )
        self.write("src/api/node.c", '#include "hivemind.h"\n#include "server/server.h"\n')
        self.write("src/cli/main.c", '#include "api/node.h"\n#include "sim/world.h"\n')
        self.write("src/hivemind.h", "#include <stdint.h>\n")
        self.assert_clean()

    def test_a_forbidden_include_is_named_by_file_and_line(self):
        self.write("src/sched/pool.c", '\n\n  #  include "moe/gate.h"\n')
        self.assert_refused(
            "src/sched/pool.c:3: sched may not include moe/gate.h (may include: base tensor topo)"
        )

    def test_base_includes_nothing_above_itself(self):
        self.write("src/base/a/b.h", '#include "tensor/tensor.h"\n')
        self.assert_refused(
            "src/base/a/b.h:1: base may not include tensor/tensor.h (may include: nothing)"
        )

    def test_transport_does_not_see_tensors_and_sim_does_not_see_the_dht(self):
        self.write("src/transport/tcp/a.c", '#include "tensor/tensor.h"\n')
        self.write("src/sim/world.c", '#include "dht/dht.h"\n')
        self.assertEqual(len(self.check()[1].splitlines()), 2)

    def test_an_include_without_its_folder_is_refused(self):
        self.write("src/dht/node.c", '#include "node.h"\n#include "hivemind.h"\n')
        self.assert_refused(
            'src/dht/node.c:1: "node.h" must be included by its folder, as "dht/node.h"',
            "src/dht/node.c:2: dht may not include hivemind.h, which is for users of the library",
        )

    def test_an_include_in_a_comment_is_none(self):
        self.write(
            "src/base/a.c", '/* as in\n#include "moe/gate.h"\n*/\n// #include "moe/gate.h"\n'
        )
        self.assert_clean()

    def test_a_folder_that_nobody_knows_is_refused(self):
        self.write("src/misc/a.c", "int a;\n")
        self.write("src/stray.c", "int b;\n")
        self.assert_refused(
            "src/misc/a.c:1: src/misc is not in the table of tools/layers.py",
            "src/stray.c:1: only hivemind.h lies in src/ itself",
        )

    def test_each_forbidden_call_is_refused_above_base_and_allowed_in_it(self):
        for call in (
            "clock_gettime(CLOCK_MONOTONIC, &t);",
            "gettimeofday(&t, NULL);",
            "long t = time (NULL);",
            "int r = rand();",
            "long r = random();",
            "usleep(1);",
            "sleep(1);",
            "nanosleep(&t, NULL);",
            "pthread_mutex_lock(&m);",
            "static pthread_t thread;",
        ):
            with self.subTest(call=call):
                self.write("src/base/a.c", f"void f(void)\n{{\n    {call}\n}}\n")
                self.write("src/moe/a.c", "int a;\n")
                self.assert_clean()
                self.write("src/moe/a.c", f"void f(void)\n{{\n    {call}\n}}\n")
                code, out, _ = self.check()
                self.assertEqual(code, 1)
                self.assertRegex(out, r"\Asrc/moe/a\.c:3: \w+ may be called in base only .*\n\Z")

    def test_words_that_only_look_like_calls_are_clean(self):
        self.write(
            "src/moe/a.c",
            "/* rand() and pthread_create */ // sleep(1)\n"
            'static const char *text = "time(NULL) \\" usleep(1)";\n'
            "static char quote = '\"'; /* time(0) */\n"
            "int time_left(int runtime, int operand);\n"
            "void f(struct loop *l)\n{\n    l->random(l);\n    l->ops.time(l);\n"
            "    hm_loop_random(l);\n    uptime(0);\n    int time = 3;\n}\n"
            "void g(uint64_t (*random)(void *arg), void *arg)\n{\n    random(arg);\n}\n",
        )
        self.assert_clean()

    def test_a_quote_in_a_comment_hides_no_call(self):
        self.write("src/moe/a.c", "/* it's */ int a;\nint b = rand(); // don't\n")
        code, out, _ = self.check()
        self.assertEqual(code, 1)
        self.assertTrue(out.startswith("src/moe/a.c:2: rand may be called"))

    def test_the_command_line_may_take_time_where_a_comment_says_why(self):
        path = "src/cli/bench.c"
        self.write(
            path, "void f(void)\n{\n    int a;\n    clock_gettime(CLOCK_MONOTONIC, &t);\n}\n"
        )
        self.assert_refused(
            f"{path}:4: clock_gettime needs a comment on its line: why not the loop's time"
        )
        for text in (
            "void f(void)\n{\n    clock_gettime(CLOCK_MONOTONIC, &t); /* outside */\n}\n",
            "void f(void)\n{\n    // early\n    clock_gettime(CLOCK_MONOTONIC, &t);\n}\n",
        ):
            self.write(path, text)
            self.assert_clean()

    def test_perf_is_free_and_the_command_line_may_not_have_threads(self):
        self.write("perf/echo.c", "pthread_t thread; void f(void) { clock_gettime(0, 0); }\n")
        self.assert_clean()
        self.write("src/cli/bench.c", "pthread_t thread; /* why not */\n")
        self.assert_refused(
            "src/cli/bench.c:1: pthread_t may be called in base only (use base/thread.h)"
        )

    def test_a_file_over_a_thousand_lines_is_refused(self):
        self.write("src/moe/a.c", "\n" * 1000)
        self.assert_clean()
        self.write("src/moe/a.c", "\n" * 1001)
        self.assert_refused("src/moe/a.c:1001: 1001 lines, over 1000: split the file")

    def test_the_build_may_not_link_what_may_not_be_included(self):
        self.write(
            "CMakeLists.txt",
            '# build\nhm_folder(sched "base;moe" "")\nhm_folder(dht "base;transport" "")\n',
        )
        self.assert_refused("CMakeLists.txt:2: sched may not be linked with moe")

    def test_long_functions_are_listed_and_are_no_violation(self):
        body = "    f();\n" * 80
        self.write(
            "src/moe/a.c",
            f"int a;\n\nstatic int longest(int a,\n                   int b)\n{{\n{body}}}\n\n"
            "void fits(void)\n{\n"
            + "    f();\n" * 67
            + "}\n",
        )
        self.assert_clean()
        self.assertEqual(
            run("--root", str(self.root), "--long"),
            (0, "src/moe/a.c:3: longest has 84 lines\n", ""),
        )


if __name__ == "__main__":
    unittest.main()
