# Everything runs in .venv and local/npm/node_modules, which the first target that needs them makes.
# Another Python: make PYTHON=python3.12. Arguments for pytest: make test ARGS="-k claim".

PYTHON ?= python3
ARGS ?=
# Tests wait more than they compute: twice as many processes as cores of a small machine. Each has a stack of its own.
PARALLEL := --numprocesses 4 --dist worksteal
PY := .venv/bin/python
PYTHON_PACKAGES := .venv/.installed
NODE_PACKAGES := local/npm/node_modules/.installed
LOCK := .venv/bin/uv pip compile --quiet --no-config --system-certs --universal --python-version 3.11 --no-python-downloads \
	--generate-hashes --custom-compile-command "make lock"
READY := $(PYTHON_PACKAGES) $(NODE_PACKAGES)

# Nothing here may reach a real project or a real key by accident: exported settings are not passed on. Only
# `make demo REAL_GEMINI=1` is given the key of Gemini.
FOREIGN := $(filter SUPABASE_% GEMINI_% GOOGLE_% WORKER_% OIDC_%,$(.VARIABLES))
ifdef REAL_GEMINI
FOREIGN := $(filter-out GEMINI_API_KEY,$(FOREIGN))
endif
ifneq ($(FOREIGN),)
unexport $(FOREIGN)
endif

# Each process that runs tests would compile all of them anew: seven seconds of computing.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo up test test-all check bench lock audit clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: $(READY) ## everything the other targets need (they do it themselves)

demo: $(READY) ## generate photos end to end on the local stack
	@$(PY) -m local demo

up: $(READY) ## keep the local stack running, to work against it
	@$(PY) -m local up

test: $(READY) ## a proof of every promise, in minutes; no test that is marked `slow` or `system`
	@$(PY) -m pytest -m "not slow and not system" $(PARALLEL) $(ARGS)

test-all: $(READY) ## every test, as CI runs them; a missing system package is a failure that names it
	@$(PY) -m pytest $(PARALLEL) $(ARGS)

check: $(PYTHON_PACKAGES) ## lint, format, types, SQL
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy --strict
	$(PY) -m sqlfluff lint --disable-progress-bar sql

bench: $(READY) ## all figures, briefly; `.venv/bin/python -m bench PART` takes its time with one
	@$(PY) -m bench all --brief

lock: $(PYTHON_PACKAGES) ## renew the locks after a change of a requirements*.in (all newer: ARGS=--upgrade)
	$(LOCK) $(ARGS) requirements.in --output-file requirements.txt
	$(LOCK) $(ARGS) requirements-dev.in --constraints requirements.txt --output-file requirements-dev.txt
	$(LOCK) $(ARGS) --no-deps requirements-photos.in --output-file requirements-photos.txt

audit: $(PYTHON_PACKAGES) ## ask osv.dev for known vulnerabilities of every locked package
	@$(PY) -m local.audit

clean: ## remove the local stack's data, the demo's photos and all caches; .venv and node_modules stay
	rm -rf .local /dev/shm/generation-tests-* demo-output .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(PYTHON_PACKAGES): requirements.txt requirements-dev.txt requirements-photos.txt
	@PYTHON='$(PYTHON)' sh local/install.sh python
	@touch $@

$(NODE_PACKAGES): local/npm/package.json local/npm/package-lock.json local/npm/.npmrc \
		$(wildcard local/npm/postgres/*) | $(PYTHON_PACKAGES)
	@sh local/install.sh npm
	@touch $@
