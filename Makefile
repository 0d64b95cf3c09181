.PHONY: dev format check docs test test-slow test-all bench

dev:            ## an editable install with everything that developers need
	pip install -e ".[dev]"

format:         ## format, and mend what can be mended
	ruff format .
	ruff check --fix .

check:          ## what .ci/run checks after the tests
	ruff format --check .
	ruff check .
	mypy
	mypy tests
	pyright

docs:           ## the documentation, into docs/_build; a warning or a broken link is an error
	sphinx-build --fail-on-warning --keep-going -q docs docs/_build

test:           ## the quick suite
	pytest

test-slow:      ## what the quick suite leaves out
	pytest -m slow

test-all:       ## all tests that this machine can run
	pytest -m ""

bench:          ## every benchmark that fits on a CPU; benchmarks/LOG.md lists them
	python benchmarks/quickstart.py --seeds 0 1 2
