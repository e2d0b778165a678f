# make demo   waits for a batch in a real Airflow and shows its file ids
# make test   runs the test suite on the newest supported Airflow
# Both make their own environment in .venv; they need Python 3.11 or later and nothing else.

PYTHON ?= python3
VENV ?= .venv
AIRFLOW ?= 3.3
CONSTRAINTS = .ci/constraints/airflow-$(AIRFLOW).txt
READY = $(VENV)/installed-airflow-$(AIRFLOW)

.PHONY: demo test lint clean

demo: $(READY)
	@$(VENV)/bin/python -m tests.demo

test: $(READY)
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(READY)
	$(VENV)/bin/python -m pip install -q -c $(CONSTRAINTS) --group lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf .venv* .cache dist .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/installed-airflow-*
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check 'pip>=25.1'
	$(VENV)/bin/python -m pip install -q -c $(CONSTRAINTS) 'apache-airflow~=$(AIRFLOW).0' -e . --group test
	@touch $@
