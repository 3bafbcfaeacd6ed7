# Every target works from a clean checkout: what it needs is installed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 4

.PHONY: setup demo test chaos test-board lint bench lock screenshots clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/farm demo

# Tests marked `alone` measure real time on this machine; nothing else may run beside them.
test: setup
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n $(WORKERS) -m "not alone" --cov --cov-report=
	$(BIN)/python -m pytest -m alone --cov --cov-append --cov-report=
	$(BIN)/python -m coverage report

# Every random moment at which something is cut, killed or spoiled; `make test` tries some of them.
chaos: setup
	FARM_CHAOS=whole $(BIN)/python -m pytest -n $(WORKERS) tests/scenario/test_phone_chaos.py \
	  tests/scenario/test_kill.py tests/scenario/test_energy_chaos.py tests/system/test_ssh_chaos.py \
	  tests/system/test_mcu_chaos.py tests/system/test_phone_farm.py

# An aarch64 Debian in QEMU; builds its image on first use. Needs qemu-system-arm.
test-board: setup
	$(BIN)/python -m tests.board.build
	FARM_TEST_BOARD=1 $(BIN)/python -m pytest tests/system/test_board.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# make bench [ONLY=core]
bench: setup
	$(BIN)/python -m tests.benchmarks.run $(if $(ONLY),--only $(ONLY))

lock:
	$(BIN)/uv pip compile pyproject.toml --extra adb --extra dashboard --extra dev --extra joulescope --extra mcu --extra meters --extra native --extra onnx --extra scpi --extra ssh --universal \
	  --generate-hashes --no-strip-extras --python-version 3.11 --custom-compile-command "make lock" -q -o requirements.lock

clean:
	rm -rf $(VENV) build .coverage .coverage.*
