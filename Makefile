PYTHON ?= python3
VENV = .venv

.PHONY: install run test bench

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable .
	touch $@

run: install
	$(VENV)/bin/gunicorn app:app

test: $(VENV)/tested
	.ci/prepare
	$(VENV)/bin/flake8
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest

$(VENV)/tested: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

bench: $(VENV)/tested
	$(VENV)/bin/python -m tests.bench
