# Everything from nothing but Python (3.11 or newer) and make. `make help` lists the targets.

PYTHON ?= python3
JOBS   ?= 2
PORT   ?= 8000

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

# The notebooks' tensors are small. More threads would not help, and on a busy machine they wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup book translation pdf test lint types matrix mutants bench format notebooks live serve lab account clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv and install the pinned requirements and diffnotes in it (PYTHON=python3.13: that one, where there is no .venv yet)
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q -e . --no-deps
	@rm -rf .mypy_cache # it does not see what was installed
	@touch $@

book: $(READY)  ## render the book, from the notebooks as they are saved, into _build/html; the Chinese edition into its zh/
	$(BIN)/python -m tools.book

translation: $(READY)  ## list what the Chinese edition lacks, and what is stale in it
	$(BIN)/python tools/translation.py

pdf: book  ## print the whole book to _build/from-ddpm-to-ddim.pdf, and link it from the pages (needs a Chromium; EDITION=zh: Chinese, to ..-zh.pdf, with a Chinese font)
	$(BIN)/python tools/pdf.py $(if $(EDITION),--$(EDITION))
	$(MAKE) book

test: $(READY)  ## everything: lint, types, the pages, all tests; every notebook runs and must give what it shows
	@$(MAKE) --no-print-directory -j $(JOBS) lint types book
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --nbval diffnotes tools tests book

lint: $(READY)  ## ruff: rules and format, notebooks too; and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell book diffnotes tests tools benchmarks *.md *.toml *.yml Makefile

types: $(READY)  ## mypy
	$(BIN)/mypy

matrix:  ## notebooks and tests on other versions: Pythons, the lowest, Colab's (NAME=colab: only that; ONLY=notebooks)
	$(PYTHON) tools/matrix.py $(NAME) $(if $(ONLY),--only $(ONLY))

mutants: $(READY) .mutants/.ready  ## change code and checks in small ways, count what goes unnoticed (MODULE=ddim, BOOK=book/04-ddim.ipynb: only that; LEFT=1: what survived last time)
	$(if $(MODULE),,$(ONE_THREAD) $(BIN)/python tools/check_mutants.py $(BOOK))
	$(if $(BOOK),,PYTHONPATH=.mutants/lib $(ONE_THREAD) $(BIN)/python tools/mutants.py $(MODULE) $(if $(LEFT),--left))
.mutants/.ready: tools/mutants.txt
	$(BIN)/python -m pip install -q --no-deps --upgrade --target .mutants/lib -r $<
	@touch $@

bench: $(READY)  ## time samplers and training against bare operations and diffusers, on the CPU
	$(ONE_THREAD) $(BIN)/python -m benchmarks.run

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(READY)  ## run every notebook and save it with its outputs (BOOK=book/01-forward.ipynb: only that)
	$(ONE_THREAD) $(BIN)/python tools/notebooks.py $(BOOK)

live: $(READY)  ## export the chapters for JupyterLab, Colab and GitHub to _build/live: numbered equations, links that work
	$(BIN)/python -m tools.live

serve: $(READY)  ## build, then serve the book on http://localhost:8000 (PORT=8001: there)
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2> /dev/null \
		|| { echo "port $(PORT) is taken, or none: make serve PORT=8001"; exit 1; }
	@$(MAKE) --no-print-directory book
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: live  ## open copies of the chapters in JupyterLab, in lab/: one that is there already is kept as you left it
	@mkdir -p lab/zh
	@cd _build/live/book && for page in *.ipynb zh/*.ipynb; do test -e ../../../lab/$$page || cp $$page ../../../lab/$$page; done
	$(BIN)/jupyter lab lab

account:  ## NAME=you: put your GitHub account into every address of the repository
	@$(PYTHON) tools/account.py $(NAME)

clean:  ## remove what was built
	rm -rf _build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .mutants
	find benchmarks book diffnotes tests tools -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf $(VENV)
