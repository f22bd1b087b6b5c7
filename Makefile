# A machine needs CPython 3.11 or newer, with pip, and make. Another Python: make PYTHON=python3.12
PYTHON ?= python3
# Passed on to the command, as in: make test ARGS='-k segments'
ARGS ?=

# The type checker would ask the network whether it is the newest; constraints.txt says which we want.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: .venv bench check clean demo exactness faults fuzz help interop lint test types

help: ## Show this list
	@awk -F ':.*## ' '/^[.a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv: .venv/.installed ## Create the environment, or bring it up to date

# Torch comes first and alone: which build of it suits is the machine's choice, and what follows
# keeps that choice.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rekindle needs Python 3.11 or newer; found %d.%d. Name another: make PYTHON=python3.12" % sys.version_info[:2])'
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install torch -c constraints.txt
	.venv/bin/python -m pip install -e '.[dev]' -c constraints.txt
	@touch $@

demo: .venv ## Watch a run being killed and resumed
	.venv/bin/rekindle demo $(ARGS)

test: .venv ## Run the tests
	.venv/bin/python -m pytest $(ARGS)

lint: .venv ## Check style and format
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: .venv ## Check the types
	.venv/bin/pyright

check: lint types test ## Check everything: lint, types, test

exactness: .venv ## Train, kill, resume and compare every case (minutes)
	.venv/bin/python -m tests.exactness $(ARGS)

faults: .venv ## Kill a thousand saves, and the other long tests of what goes wrong (minutes)
	.venv/bin/python -m pytest tests/test_faults.py -m faults -rP $(ARGS)

fuzz: .venv ## Open changed files for a minute: make fuzz ARGS='--seconds 600'
	.venv/bin/python -m tests.fuzz $(ARGS)

# Velora, which needs an older safetensors, and the libraries whose files we write.
.venv-interop/.installed: pyproject.toml tests/interop/constraints.txt
	test -x .venv-interop/bin/pip || $(PYTHON) -m venv .venv-interop
	.venv-interop/bin/python -m pip install torch -c tests/interop/constraints.txt
	.venv-interop/bin/python -m pip install -e '.[jax,lz4,sb3,zstd]' velora==0.2.0 sqlmodel==0.0.24 array-api-compat pytest -c tests/interop/constraints.txt
	@touch $@

interop: .venv-interop/.installed ## Load what we write in the libraries it is for, Velora in an environment of its own (minutes)
	.venv-interop/bin/python -m pytest tests/interop $(ARGS)
	.venv-interop/bin/python -m tests.interop

bench: .venv ## Measure, side by side with others
	.venv/bin/python benchmarks/run.py $(ARGS)

clean: ## Remove builds and caches; environments and runs stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -path ./.venv-interop -prune -o -path ./runs -prune -o -type d -name __pycache__ -exec rm -rf {} +
