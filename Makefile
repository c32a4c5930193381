# make demo: set up and run the main job. make test: set up and run the whole test suite.
# Both need only Python (>= 3.11) and make; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python

.PHONY: demo test oldest lint docs bench notebooks wheel clean

demo: $(VENV)/.has-experiments
	$(RUN) -m experiments pfn

test: $(VENV)/.has-test
	$(RUN) -m pytest -n 2 --dist worksteal

# make test-3.12, make test-3.13: the suite on another Python.
test-3.%:
	$(MAKE) test PYTHON=python3.$*

# The suite on the oldest declared JAX, Optax, Flax and NumPy.
oldest: .venv-oldest/.has-test
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal

.venv-oldest/.has-test: pyproject.toml .ci/oldest.py
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python .ci/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --constraint .venv-oldest/constraints.txt --editable '.[test]'
	touch $@

lint: $(VENV)/.has-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)
	PATH=$(CURDIR)/$(VENV)/bin:$$PATH pyright --ignoreexternal --verifytypes pfn_optax

docs: $(VENV)/.has-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

bench: $(VENV)/.has-benchmarks
	$(RUN) -m benchmarks.solver --json benchmarks/results/solver.json
	$(RUN) -m benchmarks.scaling --json benchmarks/results/scaling.json
	$(RUN) -m benchmarks.overhead --json benchmarks/results/overhead.json
	$(RUN) -m benchmarks.monitors --json benchmarks/results/monitors.json
	$(RUN) -m benchmarks.growth --json benchmarks/results/growth.json
	$(RUN) -m benchmarks.batches --json benchmarks/results/batches.json
	OPENBLAS_NUM_THREADS=1 $(RUN) -m benchmarks.alignment --json benchmarks/results/alignment.json
	$(RUN) -m benchmarks.curvature --json benchmarks/results/curvature.json
	$(RUN) -m benchmarks.ensembles --json benchmarks/results/ensembles.json
	OPENBLAS_NUM_THREADS=1 $(RUN) -m benchmarks.dynamics --repeats 5 --json benchmarks/results/dynamics.json
	$(RUN) -m benchmarks.tables
	$(RUN) -m benchmarks.figures

notebooks: $(VENV)/.has-test
	$(RUN) -m notebooks

wheel: $(VENV)/.has-dev
	.ci/wheel $(RUN)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.has-%: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv .venv-* build dist site .pytest_cache .ruff_cache .hypothesis
