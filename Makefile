# make ladder   train the whole ladder at nano scale on real images, twice, and write a report
# make demo     open a page on which every trained rung answers to a picture
# make test     run every test
# make lint     check the style
# make clean    remove the environment; runs/ and reports/ stay

PYTHON ?= python3
BIN := .venv/bin

.PHONY: ladder demo test lint clean

ladder: .venv/installed
	$(BIN)/python -m experiments.train -m study=ladder seed=0,1; trained=$$?; \
	$(BIN)/python -m analysis.report runs --out reports/ladder && exit $$trained

demo: .venv/installed-demo
	$(BIN)/python -m experiments.demo runs

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-demo: .venv/installed
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
