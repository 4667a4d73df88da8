# The front door.  `make help` says what there is.
.DEFAULT_GOAL := build
JOBS ?= $(shell nproc)
CTEST = ctest --output-on-failure --no-tests=error -j $(JOBS)

.PHONY: help configure build packages demo test lab bench check layers clean format

help:
	@echo 'make            build build/bin/hivemind (installs what is missing first, on Debian)'
	@echo 'make demo       the main job on this machine: a swarm of three servers trains on real data, one is killed and comes back'
	@echo 'make test       build and run every test; make test SUITE=unit|conformance|parity|sim|integration|fuzz runs one suite'
	@echo 'make lab        clusters in network namespaces: Slurm with four nodes, mpirun; needs root'
	@echo 'make check      the tests again under sanitizers: address + undefined behaviour, then threads; and the layer check'
	@echo 'make bench      latency and throughput, each beside a raw program that does the same work in the same run (3 minutes)'
	@echo 'make layers     which folder may include which (tools/layers.py)'
	@echo 'make format     clang-format over src, tests, perf and examples'
	@echo 'make clean      remove build/'
	@echo
	@echo 'By hand: build/bin/hivemind --help, and the tutorial in README.md'

packages:
	@tools/packages.sh build

# The program and the examples; tests and raw programs are built by those who run them, and cannot keep a user from
# the program.
configure: packages
	@cmake --preset release >build.log 2>&1 || { cat build.log; rm -f build.log; exit 1; }; rm -f build.log

build: configure
	@cmake --build build -j $(JOBS) --target hivemind examples

demo: build
	@tools/demo.sh

test:
	@tools/packages.sh test
	@$(MAKE) --no-print-directory configure
	@cmake --build build -j $(JOBS)
	@$(CTEST) --test-dir build $(if $(SUITE),-L $(SUITE),-LE lab)

lab:
	@tools/packages.sh lab || echo 'hivemind: tests that need these are skipped' >&2
	@$(MAKE) --no-print-directory configure
	@cmake --build build -j $(JOBS) --target hivemind
	@ctest --output-on-failure --no-tests=error --test-dir build -L lab; code=$$?; \
	grep -E '^(figure|SKIP):' build/Testing/Temporary/LastTest.log; exit $$code

bench: build
	@cmake --build build -j $(JOBS) --target perf
	@tools/bench.sh

check: layers
	@tools/packages.sh check
	@tools/sanitize.sh address
	@tools/sanitize.sh thread

layers:
	@python3 tools/layers.py

format:
	@git ls-files '*.c' '*.h' '*.cu' | xargs clang-format -i

clean:
	rm -rf build
