# Every target sets up what it needs. Nothing is written outside this folder and a temporary directory.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
T ?= tests
ARGS ?=
# Most tests wait for real processes, so there are more workers than processors; a part of the tests (T=) runs in one
# process, which starts sooner, unless WORKERS says more.
WORKERS ?= $(if $(filter tests,$(T)),$(shell $(PYTHON) -c 'import os; print(min(len(os.sched_getaffinity(0)) + 2, 6))'),0)

export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis

# Each process that a test starts, and each worker, would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

SCREENSHOTS ?= .cache/screenshots
SECONDS ?= 60
TARGETS ?=

.PHONY: help install demo test test-peers test-built-peers test-browser test-store test-api check bench bench-engine bench-streams bench-edits bench-cuts bench-hub proof proof-http2 proof-streams proof-sight fuzz format lock clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | \
		while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo 'make: no python3.11 or newer found; install one, or say make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@echo 'make: building .venv from constraints.txt (pinned, hash-checked); about 20 s'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --require-hashes --only-binary :all: -r constraints.txt
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP) ## build .venv from the pinned versions

demo: $(STAMP) ## show the main job on real Envoys (ARGS=--exit ends by itself)
	@$(BIN)/authz mesh demo $(ARGS)

# A file's tests stay together, on what its fixtures have started; in the order of the folders the long ones begin first.
test: $(STAMP) ## run every test, with real Envoys (T=tests/unit runs a part; WORKERS=0: in one process)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(T)

# Programs of others that our HTTP/2, the check's and the hold's, has to satisfy, at versions that the module proxy has with checksums.
PEERS := github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible \
	github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4 github.com/bojand/ghz/cmd/ghz@v0.93.0

# SPIRE's own go.sum stands behind tests/tools/spire/go.sum: the checksum database lacks some of its dependencies.
SPIRE := github.com/spiffe/spire/cmd/spire-server github.com/spiffe/spire/cmd/spire-agent

.cache/peers/.spire: tests/tools/spire/go.mod tests/tools/spire/go.sum
	@command -v go >/dev/null || { echo 'make: test-peers needs a recent Go to build SPIRE; see go.dev/dl' >&2; exit 1; }
	@echo 'make: building spire-server and spire-agent into .cache/peers; 6-15 minutes the first time'
	@mkdir -p .cache/peers
	@cd tests/tools/spire && GOFLAGS=-modcacherw go build -o $(CURDIR)/.cache/peers/ $(SPIRE)
	@touch $@

.cache/peers/.installed: Makefile
	@command -v go >/dev/null || { echo 'make: test-peers needs a recent Go to build h2spec, grpcurl and ghz; see go.dev/dl' >&2; exit 1; }
	@echo 'make: building h2spec, grpcurl and ghz into .cache/peers; 1-2 minutes'
	@mkdir -p .cache/peers
	@for peer in $(PEERS); do GOBIN=$(CURDIR)/.cache/peers GOFLAGS=-modcacherw go install $$peer || exit 1; done
	@touch $@

# A client of the Workload API that is not ours, at the versions of its go.sum.
GOSPIFFE := tests/tools/gospiffe
.cache/peers/gospiffe: $(GOSPIFFE)/main.go $(GOSPIFFE)/go.mod $(GOSPIFFE)/go.sum
	@command -v go >/dev/null || { echo 'make: test-peers needs a recent Go to build a client with go-spiffe; see go.dev/dl' >&2; exit 1; }
	@mkdir -p .cache/peers
	@cd $(GOSPIFFE) && GOFLAGS=-modcacherw go build -o $(CURDIR)/$@ .

test-peers: $(STAMP) .cache/peers/.installed .cache/peers/.spire .cache/peers/gospiffe ## test against h2spec, grpcurl, ghz, SPIRE, go-spiffe (needs Go)
	@$(MAKE) --no-print-directory test-built-peers

test-built-peers: $(STAMP)
	@$(BIN)/python -m pytest -m peers tests/integration

check: $(STAMP) ## lint, format, types and import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --cache-dir .cache/import-linter

bench: $(STAMP) ## measure what asking costs a call on real Envoys (needs wrk; ARGS=--help; OPA_ENVOY=/path/to/binary)
	@test -n "$(ARGS)" || $(BIN)/python -m tests.bench.engine
	@test -n "$(ARGS)" || $(BIN)/python -m tests.bench.hours
	@test -n "$(ARGS)" || $(BIN)/python -m tests.bench.records
	@$(BIN)/python -m tests.bench.check_path $(ARGS)

bench-streams: $(STAMP) ## close a window on every kind of long stream (ARGS=--write puts the table into docs/windows-that-close.md)
	@$(BIN)/python -m tests.bench.streams $(ARGS)

bench-edits: $(STAMP) ## edit sets of 1,000 and 10,000 policies, and tell when the last call is allowed by what was (ARGS=--help)
	@$(BIN)/python -m tests.bench.edits $(ARGS)

bench-cuts: $(STAMP) ## take the grant of 10,000 held calls at once, and tell where the time goes (ARGS=--help)
	@$(BIN)/python -m tests.bench.cuts $(ARGS)

proof: $(STAMP) ## compare the engine with the reference on 1,000,000 generated calls (ARGS='--seed N')
	@$(BIN)/python -m tests.conformance.million $(ARGS)

proof-streams: $(STAMP) ## end 10,000 long calls, 1,000 at once, each at its own close; nothing is left (ARGS=--write)
	@$(BIN)/python -m tests.bench.many_streams $(ARGS)

proof-sight: $(STAMP) ## ten minutes of calls between eleven Services; hub and controls killed, disk full: all calls counted (root; ARGS=--write)
	@$(BIN)/python -m tests.bench.sight $(ARGS)

proof-http2: $(STAMP) ## damage 100,000 sessions: no OK that the policies would not give, no held call freed (ARGS='--seed N')
	@$(BIN)/python -m tests.conformance.mutated_sessions $(ARGS)
	@$(BIN)/python -m tests.conformance.mutated_holds $(ARGS)

# What only one target needs is no part of .venv: its versions are pinned in pyproject.toml, as an extra of that name.
.cache/extra/%: pyproject.toml $(STAMP)
	@rm -rf $@ && mkdir -p .cache
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$*"], sep="\n")' > .cache/$*.txt
	@$(BIN)/python -m pip install -q --only-binary :all: --target $@ -r .cache/$*.txt
	@touch $@

# The rules of accessibility, as the npm registry has them.
AXE := axe-core-4.14.1
AXE_SHA256 := e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
.cache/axe-core/axe.min.js: Makefile
	@rm -rf .cache/axe-core && mkdir -p .cache/axe-core
	@$(PYTHON) -c 'import sys, urllib.request as r; open(sys.argv[2], "wb").write(r.urlopen(sys.argv[1], timeout=60).read())' \
		https://registry.npmjs.org/axe-core/-/$(AXE).tgz .cache/axe-core/axe.tgz || \
		{ echo 'make: test-browser needs $(AXE) of registry.npmjs.org, which cannot be reached' >&2; exit 1; }
	@echo '$(AXE_SHA256)  .cache/axe-core/axe.tgz' | sha256sum --check --quiet
	@tar -xzf .cache/axe-core/axe.tgz -C .cache/axe-core --strip-components=1 package/axe.min.js
	@touch $@

test-browser: .cache/extra/browser .cache/axe-core/axe.min.js ## drive the hub's page in Chromium (SCREENSHOTS=docs/images renews the pictures)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		{ echo 'make: test-browser needs Chromium; on Debian: apt-get install chromium' >&2; exit 1; }
	@PYTHONPATH=.cache/extra/browser SCREENSHOTS=$(SCREENSHOTS) $(BIN)/python -m pytest $(if $(filter tests,$(T)),tests/browser,$(T))

bench-engine: .cache/extra/bench ## measure a decision beside Cedar, Casbin and OPA (OPA=/path/to/opa)
	@PYTHONPATH=.cache/extra/bench $(BIN)/python -m tests.bench.engine

test-store: .cache/extra/store ## test the hub's stores, ClickHouse's own engine among them
	@PYTHONPATH=$(CURDIR)/.cache/extra/store $(BIN)/python -m pytest tests/unit/hub/test_stores.py tests/unit/hub/test_blocks.py tests/unit/hub/test_migrations.py tests/unit/hub/test_windows_query.py tests/unit/hub/test_density.py

test-api: .cache/extra/api ## look for faults of the hub's API with Schemathesis
	@PYTHONPATH=$(CURDIR)/.cache/extra/api $(BIN)/python -m tests.tools.probe_api $(ARGS)

bench-hub: .cache/extra/store ## measure the hub with 5,000,000 decisions (ARGS="--decisions 500000 --store clickhouse")
	@PYTHONPATH=$(CURDIR)/.cache/extra/store $(BIN)/python -m tests.bench.hub $(ARGS)

fuzz: .cache/extra/fuzz ## fuzz every reader of foreign bytes (SECONDS=60 each, TARGETS="path host")
	@PYTHONPATH=.cache/extra/fuzz $(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(TARGETS)

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix-only --exit-zero -q .
	@$(BIN)/ruff format .

lock: ## pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra mesh --extra dev --no-annotate \
		--custom-compile-command 'make lock' pyproject.toml --output-file constraints.txt --upgrade

clean: ## remove what the targets made
	rm -rf $(VENV) .cache .authz build *.egg-info
