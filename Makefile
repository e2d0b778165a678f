PYTHON ?= python3
VENV ?= .venv
GROUP ?= test
AIRFLOW ?= $(shell awk '/^[0-9]/ {print $$1; exit}' .ci/versions)
LIVE ?= $(shell awk '$$3 == "live" {print $$1}' .ci/versions)
CONSTRAINTS = .ci/constraints/airflow-$(AIRFLOW).txt
READY = $(VENV)/installed-airflow-$(AIRFLOW)
PIP_INSTALL = -m pip install -q --disable-pip-version-check

.PHONY: help demo test lint types live bench wheel clean
.DELETE_ON_ERROR:

help: ## print this help
	@echo "Usage: make TARGET [VARIABLE=VALUE ...]. Environments are created in .venv*, with Python 3.11 or later."
	@awk '/^[a-z]+:.* ## / {name = $$1; sub(":$$", "", name); sub(".* ## ", ""); printf "  %-12s %s\n", name, $$0}' Makefile
	@echo "Variables:"
	@awk '/^## / {name = $$2; sub("^## [A-Z]+ +", ""); printf "  %-12s %s\n", name, $$0}' Makefile
## AIRFLOW  the Airflow of demo and test, a version of .ci/versions: make test AIRFLOW=3.1
## ARGS     arguments for pytest (test, live) or the benchmark: make test ARGS="-k timeout"
## LIVE     the versions of Airflow for live: make live LIVE=3.3 ARGS="-k outage"
## PYTHON   the interpreter for new environments; Airflow 2.11 needs 3.11 or 3.12: make live LIVE=2.11 PYTHON=python3.12
## SCREENSHOTS  where live saves its screenshots: make live LIVE=3.3 ARGS="-k test_ui" SCREENSHOTS=docs

demo: $(READY) ## run two example DAGs in a real Airflow and print their results
	@$(VENV)/bin/python -m tests.demo

test: $(READY) ## run the test suite on the newest supported Airflow
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/installed-linters ## run ruff, codespell and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell
	$(VENV)/bin/mypy

types: $(VENV)/installed-linters ## run mypy alone, as the pre-commit hook does
	$(VENV)/bin/mypy

# As root it installs PostgreSQL and Chromium with apt if they are missing.
live: $(LIVE:%=live-%) ## install the wheel in a whole Airflow on PostgreSQL and drive it through the API, for 20 minutes

live-%: wheel
	$(PYTHON) -m venv .venv-live-$*
	@.venv-live-$*/bin/python $(PIP_INSTALL) 'pip>=25.1'
	@.venv-live-$*/bin/python $(PIP_INSTALL) -c .ci/constraints/airflow-$*.txt \
	    'apache-airflow~=$*.0' dist/*.whl --group live
	@.venv-live-$*/bin/python $(PIP_INSTALL) --force-reinstall --no-deps dist/*.whl
	.venv-live-$*/bin/python -m pytest -v tests/live $(ARGS)

bench: ## compare a thousand waits with those of other providers, for 25 minutes
	@$(MAKE) --no-print-directory VENV=.venv-bench GROUP=bench .venv-bench/installed-airflow-$(AIRFLOW)
	@.venv-bench/bin/python -m tests.bench $(ARGS)

wheel: .venv-build/installed ## build the wheel into dist/ and check what is in it
	@rm -rf dist
	@.venv-build/bin/python -m build --outdir dist . >/dev/null
	@.venv-build/bin/python .ci/check_wheel.py dist/*.whl
	@.venv-build/bin/check-wheel-contents dist/*.whl
	@.venv-build/bin/twine check --strict dist/*

clean: ## remove environments, caches and builds
	rm -rf .venv* .cache dist .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/installed-*
	$(VENV)/bin/python $(PIP_INSTALL) 'pip>=25.1'
	$(VENV)/bin/python $(PIP_INSTALL) -c $(CONSTRAINTS) 'apache-airflow~=$(AIRFLOW).0' -e . --group $(GROUP)
	@touch $@

$(VENV)/installed-linters: $(READY)
	$(VENV)/bin/python $(PIP_INSTALL) -c $(CONSTRAINTS) --group lint
	@touch $@

.venv-build/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv-build
	@.venv-build/bin/python $(PIP_INSTALL) 'pip>=25.1'
	@.venv-build/bin/python $(PIP_INSTALL) -c $(CONSTRAINTS) --group dist
	@touch $@
