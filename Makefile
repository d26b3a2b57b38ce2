# Everything a developer, CI or a visitor runs. Each target makes what it needs first: on a bare Debian machine, as
# root, nothing has to be prepared. What needs the machine itself (packages, the Docker Engine) stands in deploy/dev/.

PYTHON ?= python3
PYTEST_FLAGS ?=
LOCK_FLAGS ?=
SCENARIOS ?=
MUTANTS ?=
BENCH_FLAGS ?=

# Hundreds of processes are started here: each would compile all modules anew, and so would every pytest worker.
unexport PYTHONDONTWRITEBYTECODE

# The static gate, and what the machine lacks, side by side.
ifdef CI
MAKEFLAGS += --jobs=4
endif

BIN := .venv/bin
SCRIPTS := deploy/dev/base-image deploy/dev/engine deploy/dev/machine.py
ENVIRONMENT := .venv/.synced
PEERS := .venv-bench/.synced
BUF := deploy/dev/node_modules/.bin/buf
PIP_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(LOCK_FLAGS)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

.PHONY: setup
setup: $(ENVIRONMENT) ## Make the development environment in .venv (PYTHON=python3.13 to choose)

$(ENVIRONMENT): requirements/dev.txt pyproject.toml | $(BIN)/uv
	@echo "towline: installing requirements/dev.txt into .venv" >&2
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# Debian's python3 comes without ensurepip, which venv needs.
$(BIN)/uv:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| deploy/dev/apt-install "Towline's environment needs Python with venv" python3 python3-venv
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("towline: Python 3.11 or later is needed")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[0-9.]*' requirements/dev.txt)"

.PHONY: lock
lock: $(BIN)/uv ## Pin the dependencies by version and hash (LOCK_FLAGS=--upgrade for newer ones)
	@$(PIP_COMPILE) --extra dev --output-file requirements/dev.txt pyproject.toml
	@$(PIP_COMPILE) --extra bench --output-file requirements/bench.txt pyproject.toml
	@$(PIP_COMPILE) --output-file examples/digits/requirements.txt examples/digits/requirements.in

.PHONY: protos
protos: $(ENVIRONMENT) ## Generate the stubs in sdk/towline/v1 from protos/
	@$(BIN)/python deploy/dev/generate_protos.py

.PHONY: check check-style check-types check-imports check-protos check-stubs
check: check-style check-types check-imports check-protos check-stubs ## The static gate (-k: all that is wrong)

check-style: $(ENVIRONMENT)
	$(BIN)/ruff check --quiet . $(SCRIPTS)
	$(BIN)/ruff format --quiet --check . $(SCRIPTS)

check-types: $(ENVIRONMENT)
	$(BIN)/mypy
	MYPYPATH=deploy/dev $(BIN)/mypy --scripts-are-modules $(SCRIPTS)

check-imports: $(ENVIRONMENT)
	$(BIN)/lint-imports

check-protos: $(BUF)
	$(BUF) lint protos

check-stubs: $(ENVIRONMENT)
	$(BIN)/python deploy/dev/generate_protos.py --check

# Not `npm ci`: it insists on buf's binaries for every platform, of which the lock file has only Linux's.
$(BUF): deploy/dev/package-lock.json | node
	@cd deploy/dev && npm install --no-save --silent
	@touch $@

# In CI this is the only target that runs, so the static gate comes first there. Two workers a core, for tests wait
# as much as they compute; each has its own PostgreSQL servers. PYTEST_FLAGS=-n0 runs all in one process, for a
# debugger.
.PHONY: test
test: $(if $(CI),check) $(ENVIRONMENT) node postgres image-registry iproute ## All tests, on real parts (PYTEST_FLAGS="-k cancel -x")
	@deploy/dev/engine run -- sh -c '$(BIN)/python deploy/dev/base-image ensure \
		&& exec $(BIN)/pytest --numprocesses auto --dist worksteal $(PYTEST_FLAGS)'

.PHONY: chaos chaos-mutants
chaos: $(ENVIRONMENT) chaos-tools ## Faults of all kinds on real parts, and the model checked (SCENARIOS="poison drain")
	@$(BIN)/python tests/chaos/run.py $(SCENARIOS)

chaos-mutants: $(ENVIRONMENT) chaos-tools ## Break each guard on purpose: every broken one must be noticed
	@deploy/dev/engine run -- $(BIN)/python tests/chaos/mutants.py $(MUTANTS)

.PHONY: demo
demo: $(ENVIRONMENT) ## Record a training run here, submit it twice to this machine's agent, get the outputs
	@deploy/dev/engine run -- sh -c '$(BIN)/python deploy/dev/base-image ensure && exec $(BIN)/python examples/digits/demo.py'

.PHONY: bench-queue
bench-queue: $(ENVIRONMENT) $(PEERS) ## Measure the queue beside its peers, then with thousands of agents; a quarter of an hour
	@$(BIN)/python -m bench.queue --peers .venv-bench/bin/python $(BENCH_FLAGS)

.PHONY: bench-artifacts
bench-artifacts: $(ENVIRONMENT) ## Measure uploads and downloads beside cp and sha256sum; some minutes, 10 GiB of disk
	@$(BIN)/python -m bench.artifacts $(BENCH_FLAGS)

.PHONY: bench-images
bench-images: $(ENVIRONMENT) postgres image-registry iproute ## Measure images and the start of runs beside docker build and docker run
	@deploy/dev/engine run -- sh -c '$(BIN)/python deploy/dev/base-image ensure \
		&& exec $(BIN)/python -m bench.images $(BENCH_FLAGS)'

$(PEERS): requirements/bench.txt | $(BIN)/uv
	@echo "towline: installing requirements/bench.txt into .venv-bench" >&2
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-bench
	@$(BIN)/uv pip sync --quiet --python .venv-bench/bin/python --require-hashes --compile-bytecode requirements/bench.txt
	@touch $@

.PHONY: node
node:
	@command -v npm >/dev/null || deploy/dev/apt-install "A test's client is written for Node.js; buf comes with npm" nodejs npm

.PHONY: postgres
postgres:
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 \
		|| deploy/dev/apt-install "Tests run on Debian's PostgreSQL too" postgresql

.PHONY: image-registry
image-registry:
	@command -v docker-registry >/dev/null \
		|| deploy/dev/apt-install "Tags of images are resolved by a registry of images" docker-registry

.PHONY: iproute
iproute:
	@command -v ip >/dev/null || deploy/dev/apt-install "Bridges and network namespaces are made" iproute2

# dockerd is started by the scenarios themselves, for it is killed; `engine ensure` would leave one running.
.PHONY: chaos-tools
chaos-tools: | postgres iproute
	@command -v dockerd >/dev/null || command -v /usr/sbin/dockerd >/dev/null \
		|| deploy/dev/apt-install "Faults are tried on a Docker Engine" docker.io
	@command -v docker >/dev/null || deploy/dev/apt-install "Faults are tried on a Docker Engine" docker-cli
	@test -x /bin/busybox || deploy/dev/apt-install "Containers of the scenarios hold one shell" busybox-static
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 \
		|| deploy/dev/apt-install "Wall clocks are made to jump" libfaketime
	@command -v spin >/dev/null || deploy/dev/apt-install "The protocol's formal model is checked with spin" spin
	@command -v cc >/dev/null || deploy/dev/apt-install "spin makes its checker in C" gcc libc6-dev

.PHONY: clean
clean: ## Remove the environment and everything that was generated and is not in git
	rm -rf .venv .venv-bench .demo .state dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name node_modules -prune -exec rm -rf {} +
	find . -name __pycache__ -prune -exec rm -rf {} +
