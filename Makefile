V := .venv
PY := $(V)/bin/python
$(V)/.ready: requirements.txt pyproject.toml
	test -x $(PY) || python3 -m venv $(V)
	$(PY) -m pip install -r requirements.txt
	$(PY) -m pip install -e . --no-deps
	touch $@
.PHONY: book
book: $(V)/.ready
	$(V)/bin/jupyter-book build . -W -n --keep-going
