# Every target works on a machine that has only Python 3.11+ and make: it first builds .venv from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
UV := VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv --quiet --no-config

PEERS := build/peers/.installed

.PHONY: install demo results test test-all fuzz chaos lint format bench bench-gpu peers audit sbom lock image wheel clean
.DEFAULT_GOAL := install

install: $(STAMP)

# uv comes from pip, so that plain Python is enough to start; it then installs the locked, hash-checked packages.
# Compiled at once: torch, ray and mlflow import three times as fast where Python may not write its own caches.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flatsweep needs Python 3.11 or newer; PYTHON=... names one")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing the locked packages into .venv (about a minute, several GB with torch's CUDA libraries)"
	@$(UV) pip install --compile-bytecode --no-deps --require-hashes -r requirements.lock
	@$(UV) pip install --no-deps --editable .
	@touch $@

demo: $(STAMP)
	$(BIN)/flatsweep submit experiments.yaml --correlate

# What docs/results shows of the demo: its report, and pictures of it (these need a Chromium on the path).
results: $(STAMP)
	$(BIN)/flatsweep submit experiments.yaml
	$(BIN)/flatsweep report experiments.yaml --output docs/results/digits.html
	$(BIN)/python -m tests.report.pictures docs/results/digits.html

# So many test processes side by side, one thread each; a file's tests stay together, as they share what they start.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

test: $(STAMP)
	$(PYTEST)

test-all: $(STAMP)
	$(PYTEST) -m ""

# Readers against 100,000 damaged inputs each; what one fell over is kept in build/fuzz.
fuzz: $(STAMP)
	$(BIN)/python -m tests.faults.fuzz

# Kills whatever a sweep consists of, in fresh ways for so many minutes, and compares with an undisturbed one.
MINUTES ?= 30
chaos: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/chaos.py --minutes $(MINUTES)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Other people's packages that the benchmarks compare with: beside the locked ones, so that nothing else sees them.
peers: $(PEERS)

$(PEERS): $(STAMP) benchmarks/requirements.txt
	@$(UV) pip install --no-deps --require-hashes --target build/peers -r benchmarks/requirements.txt
	@touch $@

bench: $(STAMP) $(PEERS)
	$(BIN)/python benchmarks/attack_step.py
	$(BIN)/python benchmarks/at_step.py
	$(BIN)/python benchmarks/side_by_side.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/data_path.py
	$(BIN)/python benchmarks/curvature.py
	$(BIN)/python benchmarks/flatness.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/trial_overhead.py
	$(BIN)/python benchmarks/cluster_overhead.py
	$(BIN)/python benchmarks/first_trial.py
	$(BIN)/python benchmarks/driver.py
	$(BIN)/python benchmarks/commands.py
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/fault_points.py

# On a machine with a GPU; the script alone needs no more than torch, torchvision, numpy and pydantic.
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

# Needs the network: where nobody can be asked, it fails and says so.
audit: $(STAMP)
	$(BIN)/python tools/audit.py requirements.lock

# Every locked package with version and hashes, as CycloneDX.
sbom: $(STAMP)
	@mkdir -p build
	$(BIN)/python -m cyclonedx_py requirements requirements.lock --pyproject pyproject.toml --short-PURLs \
		--output-reproducible --output-format JSON --output-file build/sbom.json

# --no-emit-index-url: the lock holds names, versions and hashes, but not where they were found.
COMPILE := pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

# The image gets the versions that the tests ran with, without what only development needs.
lock: $(STAMP)
	$(UV) $(COMPILE) --extra dev --upgrade pyproject.toml --output-file requirements.lock
	$(UV) $(COMPILE) --extra postgres --extra s3 --extra server --constraint requirements.lock --upgrade pyproject.toml \
		--output-file docker/requirements.lock
	$(UV) $(COMPILE) --upgrade docker/build.in --output-file docker/build.lock

# For machines without GPU; `make image VARIANT=gpu` for those with. ENGINE may be podman.
ENGINE ?= docker
VARIANT ?= cpu
image:
	$(ENGINE) build -f docker/Dockerfile --build-arg VARIANT=$(VARIANT) --build-arg COMMIT=$$(git rev-parse HEAD) \
		-t flatsweep:0.1.0-$(VARIANT) .

# The wheel of this moment: its name says the version, and its content the commit.
wheel: $(STAMP)
	rm -f dist/flatsweep-*.whl
	$(UV) build --wheel
	@ls dist/flatsweep-*.whl

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
