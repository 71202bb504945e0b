# What is made here; PYTHON is any Python from 3.11, VENV where its virtual environment is put.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test bench examples docs reference pictures package packages tools criu proto wire fuzz soak coverage-page critest critest-all critest-containerd critest-crio guest guest-all guest-qemu kubelet clean

# Plays a pod on the embedded backend: no root, no daemon.
demo: $(VENV)/.node
	$(BIN)/crishim play examples/hello.yaml

# Everything that must hold. Node tests that cannot run here say what they miss.
test: packages $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	.ci/tests $(BIN)/python

# This node beside the peers on PATH: a table, and docs/pictures/bench.svg. LONG=1 takes half an hour instead of some minutes.
bench: packages $(VENV)/.dev
	$(BIN)/python -m bench $(if $(LONG),--long)

# Each example, installed with the built wheel and tested by its own command.
examples: packages
	PYTHON=$(PYTHON) .ci/examples

# The documentation as static pages with search, and as plain text (llms.txt, llms-full.txt), in build/site; a warning ends it.
docs: $(VENV)/.dev
	$(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --quiet --doctree-dir build/doctrees docs build/site
	$(BIN)/python -m docs.tools.plain build/site

# The pages, the drawings and the man page that are written from the code, after a change to it.
reference: $(VENV)/.dev
	$(BIN)/python -m docs.tools.reference

# The pictures of screens in the documentation, after a change to what they show.
pictures: $(VENV)/.dev
	$(BIN)/python -m docs.tools.pictures

# Wheel and sdist in dist/, with the metadata that an index would take, each installed into empty environments.
package: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	PYTHON=$(PYTHON) .ci/installed dist

# crictl and critest, built from the sources of cri-tools in the folder CRITOOLS; says without it whether they are there.
CRITOOLS ?=
tools: | $(VENV)/bin/python
	CRITOOLS=$(CRITOOLS) .ci/tools $(BIN)

# A criu of Debian's newest release in $(VENV)/criu, for hosts whose own is older than their kernel; put that folder on PATH.
criu: | $(VENV)/bin/python
	.ci/criu $(VENV)/criu

# The node's tools, where we are root and apt is there; says what it leaves out.
packages:
	.ci/packages

# The official conformance suite against a runtime: make critest BACKEND=crun
BACKEND ?= runc
critest: packages $(VENV)/.dev
	$(BIN)/python -m tests.suite.run $(BACKEND)

# The suite against every runtime there is.
critest-all: packages $(VENV)/.dev
	$(BIN)/python -m tests.suite.all

# The suite against containerd, with runc's own shim and with ours: what is worse with ours.
critest-containerd: packages $(VENV)/.dev
	$(BIN)/python -m tests.suite.containerd

# The same against the CRI-O on PATH, with runc and with our shim.
critest-crio: packages $(VENV)/.dev
	$(BIN)/python -m tests.suite.crio

# This checkout on a node with systemd, cgroup v2 and AppArmor, within MINUTES; which parts were left out for that is printed.
MINUTES ?= 25
guest: packages $(VENV)/.dev
	$(BIN)/python -m tests.guest.run --minutes $(MINUTES)

# The same without a bound.
guest-all: packages $(VENV)/.dev
	$(BIN)/python -m tests.guest.run

# What the guest's kernel has none of, huge pages and CRIU, under QEMU with Debian's own.
guest-qemu: packages $(VENV)/.dev
	$(BIN)/python -m tests.guest.qemu

# A real kubelet over this checkout, standalone and with an API server; Go builds them once, in some fifteen minutes.
KUBELET ?=
kubelet: packages $(VENV)/.dev
	$(BIN)/python -m tests.kubelet.run $(KUBELET)

# Code from the .proto files, after a change to one.
proto: $(VENV)/.dev
	$(BIN)/python src/crishim/_proto/generate.py

# What a contract's own file has that ours lacks: make wire PROTO=api.proto
wire: $(VENV)/.dev
	$(BIN)/python -m docs.tools.wire $(PROTO)

# The table of what becomes of each field of CRI, after a change to what a backend supports.
coverage-page: $(VENV)/.dev
	$(BIN)/crishim coverage --markdown process runc docker shim kata > docs/coverage.md

# Broken input for every parser of a wire, a million of each kind.
fuzz: $(VENV)/.dev
	$(BIN)/python bench/fuzz/parsers.py

# What takes longer than a test may: the server killed at two hundred moments, and the parsers fed for long.
soak: packages $(VENV)/.dev fuzz
	CRISHIM_MOMENTS=200 $(BIN)/python -m pytest -s tests/node/test_faults.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.node: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable '.[node]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.node
