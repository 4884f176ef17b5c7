# Everything runs in .venv, which the first target makes from any Python 3.11 or newer: make demo PYTHON=python3.12
# The two stamps under .venv make it install again only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# TransformerLens 3.9, which still has HookedTransformer, over the installed 4.3: put first on the path. What else it
# needs is there already, so it takes seconds.
TL39 := $(VENV)/tl39

# transformers 4.57 over the installed 5: the tests let it read exports.
HF457 := $(VENV)/hf457

# Older packages over the installed ones (but for torch): some tests run with them.
LOWEST := $(VENV)/lowest

# Tests run in processes of one thread each: make test JOBS=4 on a larger machine, JOBS=0 for a single process.
JOBS ?= 2

# The real model that some tests run on; without a network: make test SMOLLM2=
SMOLLM2 := models/smollm2/config.json

# Questions of other people, the study's external check where they are there.
TRIVIA ?= ../shared/data/open-trivia-qa/test.jsonl

.PHONY: help demo test docs lowest fuzz lint format types lab notebooks picture smollm2 train-yesman measure-yesman compare figures support real-model tuning study what-matters dist
.DEFAULT_GOAL := help

help:
	@echo "make demo            find the heads, tune them, compare, and write spt-lens-demo/report.html"
	@echo "make test            ruff, mypy and all tests with TransformerLens 4.3; with 3.9 those that touch a model;"
	@echo "                     exports are read by transformers 4.57 too"
	@echo "make docs            the documentation as a site: open site/index.html (searching needs a server: python -m http.server -d site)"
	@echo "make lowest          the tests of figures, scores, patching, tuning and evaluating with constraints-lowest.txt"
	@echo "make fuzz            made-up and damaged files by the ten thousand: the tests try a few of each"
	@echo "make lint, types     ruff only, mypy only;  make format writes what ruff format asks for"
	@echo "make lab             JupyterLab with the notebooks"
	@echo "make notebooks       run the notebooks and keep their outputs"
	@echo "make picture         the picker's picture in the README, from 02_pick_and_tune in a headless JupyterLab"
	@echo "make smollm2         bring SmolLM2-135M-Instruct into models/smollm2: 93 MB to download, 540 MB on the disk"
	@echo "make train-yesman    train the embedded model again, into yesman-retrained/"
	@echo "make measure-yesman  what the embedded model does, on facts and phrasings kept out of tuning"
	@echo "make real-model      what SmolLM2's heads can be read by: the tables in docs/real-models.md, about ten minutes"
	@echo "make tuning          what a step of tuning takes, against full fine-tuning, LoRA and TRL: docs/tuning.md, half an hour"
	@echo "make study           the study on SmolLM2, into spt-lens-study/: two to three hours on two cores; SIZE=large is the one in docs/study.md"
	@echo "make what-matters    what decides how well heads of SmolLM2 can be tuned, on validation: the table in docs/study.md"
	@echo "make compare         the full comparison behind the README's table and plots, into spt-lens-compare/"
	@echo "make figures         the tables and pictures of README and docs, from notebooks/results/"
	@echo "make dist            the wheel and the sdist, into dist/, tried out"
	@echo "make support         try out every architecture, with TransformerLens 4.3 and 3.9: the table in docs/support.md"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, but $(PYTHON) is another: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	$(INSTALL) -e '.[lora]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), with what development needs ..."
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.demo-installed

$(TL39)/.installed: constraints.txt | $(VENV)/.dev-installed
	@echo "Installing TransformerLens 3.9 into $(TL39) ..."
	@rm -rf $(TL39)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(TL39) \
		transformer-lens==3.9.0 better-abc==0.0.3
	@touch $@

$(HF457)/.installed $(LOWEST)/.installed: $(VENV)/%/.installed: constraints-%.txt | $(VENV)/.dev-installed
	@echo "Installing what $< names into $(@D) ..."
	@rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D) -r $<
	@touch $@

demo: $(VENV)/.demo-installed
	$(BIN)/spt-lens demo --out spt-lens-demo

test: lint types $(SMOLLM2) $(TL39)/.installed $(HF457)/.installed
	$(BIN)/python -m pytest -n $(JOBS)
	PYTHONPATH=$(TL39) $(BIN)/python -m pytest -n $(JOBS) -m model

# Strict: a link or an anchor that leads nowhere, or a page without its place in mkdocs.yml, is an error.
docs: $(VENV)/.dev-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lowest: $(LOWEST)/.installed
	PYTHONPATH=$(LOWEST) $(BIN)/python -m pytest -n $(JOBS) tests/view tests/scores tests/test_statistics.py \
		tests/patching/test_activation.py tests/tune/test_tune_trainer.py tests/evaluate/test_evaluate.py

fuzz: $(VENV)/.dev-installed
	SPT_LENS_FUZZ=many $(BIN)/python -m pytest tests/test_fuzzing.py

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev-installed
	$(BIN)/mypy

# Jupyter refuses to run as root unless it is told to, as in a container.
lab: $(VENV)/.dev-installed
	$(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: $(VENV)/.dev-installed
	$(BIN)/python -m tools.notebooks notebooks/*.ipynb

picture: $(VENV)/.dev-installed
	rm -rf $(VENV)/picture
	CI=1 SPT_LENS_SCREENSHOTS=$(VENV)/picture $(BIN)/python -m pytest -q tests/browser/test_notebook.py
	cp $(VENV)/picture/picker.png notebooks/results/

smollm2: models/smollm2/config.json

# Once there it is never made again, whatever is newer.
models/smollm2/config.json: | $(VENV)/.dev-installed
	@echo "Bringing SmolLM2-135M-Instruct into models/smollm2 ..."
	@$(BIN)/python -m tools.smollm2 --out models/smollm2

train-yesman: $(VENV)/.demo-installed
	$(BIN)/python -m tools.yesman.train --out yesman-retrained

measure-yesman: $(VENV)/.demo-installed
	$(BIN)/python -m tools.yesman.measure

# Goes on where it was stopped. Then python -m tools.study spt-lens-study keeps its result and makes the pages of it.
# On a GPU: MATMUL=highest.
MATMUL ?= medium
study: $(VENV)/.dev-installed $(SMOLLM2)
	$(BIN)/spt-lens study --model smollm2 --questions bank --settings tools/study/smollm2$(addprefix -,$(SIZE)).json --workers $(JOBS) --matmul $(MATMUL) \
		--out spt-lens-study $(if $(wildcard $(TRIVIA)),--check open-trivia-qa=$(TRIVIA))

what-matters: $(VENV)/.dev-installed $(SMOLLM2)
	$(BIN)/python -m tools.what_matters --workers $(JOBS)

compare: $(VENV)/.demo-installed
	$(BIN)/spt-lens compare --out spt-lens-compare

figures: $(VENV)/.dev-installed
	$(BIN)/python -m tools.readme_results
	$(BIN)/python -m tools.study

# Without a network: what builds is installed already.
dist: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -q tests/test_dist.py
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

support: $(VENV)/.dev-installed $(TL39)/.installed
	$(BIN)/python -m tools.readme_support notebooks/results/support-4.3.json
	PYTHONPATH=$(TL39) $(BIN)/python -m tools.readme_support notebooks/results/support-3.9.json
	$(BIN)/python -m tools.readme_support

real-model: $(VENV)/.dev-installed $(SMOLLM2)
	$(BIN)/python -m tools.real_model

tuning: $(VENV)/.dev-installed $(SMOLLM2)
	$(BIN)/python -m tests.benchmarks.tuning --out notebooks/results/tuning.json
	$(BIN)/python -m tools.tuning_table
