# The commands of the project. Each makes .venv, or renews it, when it is missing or stale.

PYTHON ?= python3
# Arguments for pytest or the benchmarks: make test ARGS="-k cif", make bench ARGS="--quick"
ARGS ?=
# AUTO builds the CUDA twins when nvcc is found; ON requires it; OFF leaves them out.
CUDA ?= AUTO

.DEFAULT_GOAL := help
.PHONY: help screen test check bench bench-million bench-cluster bench-peers build environment constraints clean FORCE

ENVIRONMENT := .venv/.environment
NATIVE := .venv/.native
SOURCES := CMakeLists.txt $(shell find csrc -type f)

# Paths and options are baked into both, so a moved checkout or another CUDA choice makes a stamp stale too.
ENVIRONMENT_STATE := $(CURDIR)
NATIVE_STATE := $(CURDIR) CUDA=$(CUDA)
stale = $(if $(filter-out ok,$(shell test "$$(cat $(1) 2>/dev/null)" = "$(2)" && echo ok || echo no)),FORCE)

help:
	@echo "make screen         a first screen: 20,000 perovskites, the ten best, a report"
	@echo "make test           run the tests                            ARGS=\"-k cif\" chooses some"
	@echo "make check          lint, types, stubs, format, sanitizers"
	@echo "make bench          measure against other tools              ARGS=\"--quick\" for a minute's worth"
	@echo "make bench-million  a million crystals, from a recipe to a shortlist"
	@echo "make bench-cluster  what the machinery of a cluster costs, and what that means for 10^9 crystals"
	@echo "make bench-peers    install the packages alignn and chgnet, and measure models of theirs beside ours"
	@echo "make build          only make .venv and the native module    CUDA=OFF leaves CUDA out"
	@echo "make clean          remove .venv, build folders and caches"

screen: $(NATIVE)
	@.venv/bin/python examples/first_screen.py

test: $(NATIVE)
	@.venv/bin/python -m pytest $(ARGS)

check: $(NATIVE)
	@.ci/check

bench: $(NATIVE)
	@.venv/bin/python benchmarks/bench.py $(ARGS)

bench-million: $(NATIVE)
	@.venv/bin/python benchmarks/million.py $(ARGS)

bench-cluster: $(NATIVE)
	@.venv/bin/python benchmarks/cluster.py $(ARGS)

bench-peers: $(NATIVE)
	@.venv/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt --no-build-isolation \
	  --config-settings "cmake.define.SCREENING_CUDA=$(CUDA)" --editable '.[peers]'
	@.venv/bin/python benchmarks/students.py $(ARGS)
	@.venv/bin/python benchmarks/forces.py $(ARGS)

build: $(NATIVE)

environment: $(ENVIRONMENT)

constraints: $(NATIVE)
	@.venv/bin/python .ci/freeze

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(ENVIRONMENT): pyproject.toml constraints.txt .ci/environment $(call stale,$(ENVIRONMENT),$(ENVIRONMENT_STATE))
	@.ci/environment "$(PYTHON)"
	@echo "$(ENVIRONMENT_STATE)" > $@

$(NATIVE): $(ENVIRONMENT) $(SOURCES) $(call stale,$(NATIVE),$(NATIVE_STATE))
	@.ci/native "$(CUDA)"
	@echo "$(NATIVE_STATE)" > $@

FORCE:
