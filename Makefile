# `make demo` and `make test` are all a fresh machine needs (Python 3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SITE := $(VENV)/.installed
EXTRAS ?= data,figures,dev
comma := ,
SITE_DEV := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
# The tests use one thread each, so they go by as many processes as there are cores.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check check-slow bench format clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "polyseme needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: its pin takes a CPU build where one is at hand.
$(SITE): $(BIN)/python pyproject.toml constraints.txt hatch_build.py $(wildcard src/polyseme/kernels/c/*.[ch])
	@echo "Installing polyseme into $(VENV) (a few minutes the first time) …"
	$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(PIP) --editable .
	@touch $@

$(SITE_DEV): $(SITE)
	@echo "Installing what the tests need …"
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(SITE)
	$(BIN)/polyseme demo

test: $(SITE_DEV)
	$(PYTEST)

check: $(SITE_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(PYTEST)

# The networks with known answers whose checks take one to ten minutes each, and the attacks on the verdicts; a killed run
# goes on where it was.
check-slow: $(SITE_DEV)
	$(BIN)/python -m pytest -m long tests/zoo tests/attacks

# Beside the other libraries, in an environment of their own (.venv-peers); about an hour, on a machine that does nothing else.
PEERS := .venv-peers
$(PEERS)/.installed: benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --requirement benchmarks/peers.txt
	$(PEERS)/bin/python -m pip install --quiet --no-deps overcomplete==0.3.0
	# Some peer brings a torchvision that does not fit this torch; transformers cannot be imported beside it.
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

bench: $(SITE_DEV) $(PEERS)/.installed
	$(BIN)/python benchmarks/training_step.py --peers $(PEERS)/bin/python --out benchmarks/results/step-512x8192.json
	$(BIN)/python benchmarks/training_step.py --peers $(PEERS)/bin/python --out benchmarks/results/step-768x24576.json \
		--d 768 --latents 24576 --only topk --libraries sae-lens sparsify --rounds 5
	$(BIN)/python benchmarks/harvest.py --peers $(PEERS)/bin/python --out benchmarks/results/harvest.json
	$(BIN)/python benchmarks/toy_sweep.py --out benchmarks/results/toys.json
	$(BIN)/python benchmarks/quality.py --peers $(PEERS)/bin/python --out benchmarks/results/quality.json
	$(BIN)/python benchmarks/recovery.py --peers $(PEERS)/bin/python --out benchmarks/results/recovery.json
	$(BIN)/python benchmarks/scaling.py --out benchmarks/results/scaling.json
	$(BIN)/python benchmarks/study.py --out benchmarks/results/study.json
	$(BIN)/python benchmarks/report.py

format: $(SITE_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
