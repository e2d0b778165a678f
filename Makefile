# make demo   waits for a batch in a real Airflow and shows its file ids
# make test   runs the test suite on the newest supported Airflow
# Both make their own environment in .venv; they need Python 3.11 or later and nothing else.
#
# make live   drives the installed wheel in a whole Airflow 3.3 and 2.11 on PostgreSQL, with a browser; takes about
#             20 minutes. Root gets PostgreSQL and Chromium from apt if they are missing. LIVE=3.3 for one of the two,
#             ARGS="-k bad_end" for some scenarios; 2.11 needs PYTHON to be 3.11 or 3.12
# make bench  compares waits with other providers', in an environment of its own; takes about 25 minutes.
#             ARGS="--waits 100 --only this openai" for less, ARGS="--plot docs/waits.png" for README's picture

PYTHON ?= python3
VENV ?= .venv
GROUP ?= test
LIVE ?= 3.3 2.11
AIRFLOW ?= 3.3
CONSTRAINTS = .ci/constraints/airflow-$(AIRFLOW).txt
READY = $(VENV)/installed-airflow-$(AIRFLOW)

.PHONY: demo test lint live bench clean

demo: $(READY)
	@$(VENV)/bin/python -m tests.demo

test: $(READY)
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(READY)
	$(VENV)/bin/python -m pip install -q -c $(CONSTRAINTS) --group lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

live: $(READY)
	@rm -rf dist
	@$(VENV)/bin/python -m pip install -q -c $(CONSTRAINTS) build
	@$(VENV)/bin/python -m build --wheel --outdir dist . >/dev/null
	@set -e; for airflow in $(LIVE); do \
	    venv=.venv-live-$$airflow; \
	    $(PYTHON) -m venv $$venv; \
	    $$venv/bin/python -m pip install -q --disable-pip-version-check 'pip>=25.1'; \
	    $$venv/bin/python -m pip install -q -c .ci/constraints/airflow-$$airflow.txt \
	        "apache-airflow~=$$airflow.0" dist/*.whl --group live; \
	    $$venv/bin/python -m pip install -q --force-reinstall --no-deps dist/*.whl; \
	    $$venv/bin/python -m pytest -v tests/live/scenarios.py $(ARGS); \
	done

bench:
	@$(MAKE) --no-print-directory VENV=.venv-bench GROUP=bench .venv-bench/installed-airflow-$(AIRFLOW)
	@.venv-bench/bin/python -m tests.bench $(ARGS)

clean:
	rm -rf .venv* .cache dist .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/installed-airflow-*
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check 'pip>=25.1'
	$(VENV)/bin/python -m pip install -q -c $(CONSTRAINTS) 'apache-airflow~=$(AIRFLOW).0' -e . --group $(GROUP)
	@touch $@
