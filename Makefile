# Two commands on a fresh machine: `make demo` and `make test`. Each makes its own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two test processes; a file stays in one of them. They take the files in the order of tests/conftest.py.
TEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder
# Options of benchmarks/bench.py.
BENCH_FLAGS ?=

.PHONY: demo test test-all bench lint types format clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.installed

# The main job: train on the handwritten digits that come with scikit-learn, generate, measure.
demo: $(VENV)/.installed
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		training/train.py --config configs/digits.yaml
	$(BIN)/python training/evaluate_model.py --model outputs/digits/pipeline --suite digits --card
	$(BIN)/python training/evaluate_model.py --model outputs/digits/pipeline --suite bits --dataset digits \
		--num-prompts 359 --num-timesteps 20 --card

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(TEST_FLAGS)

# What is too long, or needs too much, for every edit: the marks slow, hub and browser.
test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'slow or hub or browser' $(TEST_FLAGS)

# What this package costs on this machine, beside diffusers; about a quarter of an hour. BENCH_FLAGS such as
# `--sections limits,generation` choose. A GPU is measured by benchmarks/gpu.py.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/bench.py $(BENCH_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) outputs .pytest_cache .ruff_cache .mypy_cache
