# The same commands by hand and in CI. `make` alone lists them.

# The first Python from 3.11 to 3.13; or say PYTHON=/path/to/python.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The data set of the demo: synthetic (drawn in code) or eurosat (real images).
DATA ?= synthetic
# Eight rounds, pruned after the fourth; of EuroSAT's 27,000 images 4,000.
DEMO := --dataset $(DATA) --rounds 8 --warmup-rounds 4 \
	--set training.batch_size=64 --set training.batch_norm=recalibrate
LIMIT := --set datasets.eurosat.source.limit=4000
SOURCE := $(if $(filter eurosat,$(DATA)),$(LIMIT))
# Name of its run.
RUN ?= demo-$(DATA)
# Processes of pytest; torch has one thread in each. More than there are cores, since half of the
# time tests wait for programs that they start.
JOBS ?= 4

# DVC's stages call `python` and must find this one.
export PATH := $(abspath $(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true

.DEFAULT_GOAL := help
.PHONY: help install up down status logs forget demo test check pytest unit documents unit-documents \
	integration test-long screenshots format docs bench lock licences vulnerabilities clean \
	demo-data-synthetic demo-data-eurosat

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED)  ## make .venv and install what constraints.txt names (about 3 minutes)

# Done again only when one of these files has changed. Each file that is installed has a hash in
# requirements-dev.txt, which `make lock` writes.
$(INSTALLED): pyproject.toml requirements-dev.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; \
	sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	|| { echo 'FedX needs Python 3.11, 3.12 or 3.13; found "$(PYTHON)".' \
	'Install one, or say make PYTHON=/path/to/python'; exit 1; }
	@test -x $(BIN)/python || { echo 'making $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo 'installing what requirements-dev.txt names, some 7 GB with torch (about 3 minutes)'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes \
	--requirement requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation \
	--editable .
	@touch $@

STACK := $(BIN)/python -m infra.stack

up: $(INSTALLED)  ## start Prefect, MLflow, an S3 store and workers here, or what of them is missing
	@$(STACK) up

down: $(INSTALLED)  ## end all that `make up` has started; data stay
	@$(STACK) down

status: $(INSTALLED)  ## say what of it runs
	@$(STACK) status

logs:  ## last lines of its logs; NAME=prefect for one of them, FOLLOW=1 to go on
	@tail -n 20 $(if $(FOLLOW),-f) var/log/$(or $(NAME),*).log

forget: $(INSTALLED)  ## remove its data, after saying what; runs/ and data/ stay
	@$(STACK) forget

# On the servers of `make up` while they are up, without any while they are down. A demo that was cut
# short goes on; one that is done is shown again.
demo: demo-data-$(DATA)  ## a federation with pruning, some 3 minutes; DATA=eurosat for real images
	@stack=$$($(STACK) env) && . "$$stack" && \
	if [ -e runs/$(RUN)/results/summary.json ]; then \
		echo "runs/$(RUN) is there already; for another one say make demo RUN=another"; \
		$(BIN)/fedx watch $(RUN) --timeout 0; \
	elif [ -e runs/$(RUN)/run.yaml ]; then $(BIN)/fedx resume $(RUN) >&2; \
	else $(BIN)/fedx run --run $(RUN) $(DEMO) $(SOURCE) >&2; fi && printf '%s\n' '' \
	"What to do now:" \
	"  $(BIN)/fedx report $(RUN)   # one page with figures, heat maps and tables" \
	"  $(BIN)/fedx compare   # all runs side by side; the next line makes one without pruning" \
	"  $(BIN)/fedx run --run $(RUN)-fedavg --method fedavg $(filter-out --warmup-rounds 4,$(DEMO)) $(SOURCE)" \
	"What to look at in a browser:" \
	"  runs/$(RUN)/results/accuracy.svg   accuracy by round and by MiB" \
	"  $${MLFLOW_TRACKING_URI:-$(BIN)/mlflow server --backend-store-uri sqlite:///mlflow.db}   curves" \
	$${PREFECT_API_URL:+"  $${PREFECT_API_URL%/api}   each step"}

demo-data-synthetic: $(INSTALLED)
	$(BIN)/fedx data synthetic

demo-data-eurosat: $(INSTALLED)
	$(BIN)/fedx data eurosat $(LIMIT)

demo-data-%:
	@echo 'no demo on "$*"; say DATA=synthetic or DATA=eurosat' >&2; exit 1

# Runs a command and says how long the target took, also where it fails.
timed = started=$$(date +%s); $(1); code=$$?; echo "== make $@: $$(($$(date +%s) - started)) s"; exit $$code
DOCUMENTS := tests/test_docs.py tests/test_add_a_data_set.py
# Tests write many small files and wait until each is on the disk. In memory nobody waits; so they go
# there if nothing else is said by TMPDIR, there is room, and programs may run from it.
SHM := /dev/shm
ROOM := df --output=avail --block-size=1G $(SHM) 2>/dev/null | awk 'END { exit !($$1 >= 8) }'
MEMORY = $(if $(TMPDIR),,$(shell $(ROOM) && ! grep -q ' $(SHM) .*noexec' /proc/mounts && echo TMPDIR=$(SHM)))
PYTEST = env $(MEMORY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest
SECOND = $(if $(BESIDE),nice)

check: $(INSTALLED)  ## lint, format, types and import rules
	@$(call timed,$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports)

# Integration tests share their servers, so they run in one process. They wait much of the time, so the
# others run beside them, and let them go first: they take the longest. They are shown at their end.
pytest: $(INSTALLED)  ## tests alone: unit, documents, integration
	@$(MAKE) --no-print-directory --jobs=2 BESIDE=yes unit-documents integration

unit-documents: $(INSTALLED)
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory documents

unit: $(INSTALLED)
	@$(call timed,$(SECOND) $(PYTEST) -n $(JOBS) --dist worksteal $(addprefix --ignore=,tests/integration $(DOCUMENTS)))

documents: $(INSTALLED)
	@$(call timed,$(SECOND) $(PYTEST) -n $(JOBS) --dist worksteal $(DOCUMENTS))

integration: $(INSTALLED)
	@mkdir -p build
	@$(call timed,$(PYTEST) tests/integration \
	$(if $(BESIDE),>build/$@.log 2>&1; code=$$?; cat build/$@.log; (exit $$code)))

# The figures of docs/reliability.md are what these tests print.
test-long: $(INSTALLED)  ## tests of hours: kills, races, faults, load, a soak
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long -rP

screenshots: $(INSTALLED)  ## photograph the pages of Prefect, MLflow and the report for docs/
	SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest tests/integration/test_pages.py

test: check pytest  ## all that CI runs

format: $(INSTALLED)  ## rewrite the code in its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)  ## write docs/parameters.md and run the code of README.md and docs/
	$(BIN)/python docs/make_parameters.py
	$(PYTEST) $(DOCUMENTS)

bench: $(INSTALLED)  ## time the engine against a plain loop
	$(BIN)/python benchmarks/engine.py

# The versions are those of constraints.txt; what is added are the hashes of all their files.
LOCK = build/uv/bin/uv pip compile pyproject.toml --quiet --constraint constraints.txt --universal \
	--python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock'

lock:  ## write requirements.txt and requirements-dev.txt, with hashes, from constraints.txt
	@test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv \
	&& build/uv/bin/python -m pip install --quiet uv; }
	$(LOCK) --extra dask --extra stack --output-file requirements.txt
	$(LOCK) --all-extras --output-file requirements-dev.txt

licences: $(INSTALLED)  ## list what is installed, with versions and licences, as CSV
	@$(BIN)/python -m infra.licences

# In an environment of its own, so that what looks for faults is not among what is looked at. It asks
# PyPI for each package; a package of which nothing can be learned is an error.
vulnerabilities:  ## compare constraints.txt with the published vulnerabilities (asks PyPI)
	@test -x build/pip-audit/bin/pip-audit || { $(PYTHON) -m venv build/pip-audit \
	&& build/pip-audit/bin/python -m pip install --quiet pip-audit; }
	build/pip-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict \
	--progress-spinner off

clean:  ## remove .venv, caches and build folders; data and runs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	.import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
