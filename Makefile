# `make reproduce` and `make test` work on a fresh clone: Python 3.11 or newer, pip and git are enough.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

# Compiled code is kept between runs, apart for every kind of processor; losing it only costs time.
MACHINE := $(shell (uname -m; grep -m 1 '^flags' /proc/cpuinfo) 2>/dev/null | cksum | cut -d ' ' -f 1)
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax/$(MACHINE)
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: reproduce test test-slow lint format clean

reproduce: $(VENV)/core.stamp
	$(BIN)/moe-theory reproduce

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m slow

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --warnings

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache

# A stamp is touched last, so that an interrupted installation is taken up again.
$(VENV)/core.stamp: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing moe-theory into $(VENV) (about a minute)"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing moe-theory and its test tools into $(VENV) (about two minutes)"
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $(VENV)/core.stamp $@
