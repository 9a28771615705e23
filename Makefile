# One command each; every one of them sets up .venv itself on the first run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo check format test test-slow test-matrix bench site sizes rknn litert test-litert clean

setup: $(READY)

# Made again only when the dependencies or the set-up change: a second run starts at once.
$(READY): pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/setup.sh
	@touch $@

demo: $(READY)
	$(BIN)/flexdetr demo

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/architecture

format: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Two processes of one thread each: tests are many small computations, which a second thread hardly helps.
# "worksteal" ends with a failure where a process crashes; "loadfile" would wait for it forever (pytest-xdist 3.8).
# Containers often set PYTHONDONTWRITEBYTECODE: each process that a test starts would compile torch again, for 4 to 7 s.
COMPILED := PYTHONDONTWRITEBYTECODE=
test: $(READY)
	$(COMPILED) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# All of them take hours, mostly the same for every preset and backbone; .ci/run names those that CI takes.
SLOW ?= tests
test-slow: $(READY)
	$(COMPILED) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m slow $(SLOW)

# A part of the tests with other Pythons, and with the lowest and the newest packages that pyproject.toml allows; each
# cell has an environment of its own in build/matrix. CELLS="3.13-highest" takes one.
CELLS ?= 3.11-lowest-direct 3.12-highest 3.13-highest
MATRIX_TESTS ?= tests/test_boxes.py tests/test_config.py tests/test_presets.py tests/data tests/loss tests/metrics \
	tests/golden tests/model/test_contract.py tests/runtime/test_process.py tests/engine/test_fit.py tests/export/test_export.py
test-matrix: $(CELLS:%=matrix-%)

matrix-%: build/matrix/%/.ready
	$(COMPILED) OMP_NUM_THREADS=1 build/matrix/$*/bin/python -m pytest -n 2 --dist worksteal $(MATRIX_TESTS)

# uv takes an installed Python, or fetches one.
.PRECIOUS: build/matrix/%/.ready
build/matrix/%/.ready: pyproject.toml | $(READY)
	$(BIN)/uv venv --quiet --clear --python $(firstword $(subst -, ,$*)) build/matrix/$*
	$(BIN)/uv pip install --quiet --python build/matrix/$* --resolution $(patsubst $(firstword $(subst -, ,$*))-%,%,$*) \
		-e '.[all,test]'
	@touch $@

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# The documentation in build/site; a link that leads nowhere fails.
site: $(READY)
	PYTHONPATH=src $(BIN)/zensical build --strict

# After a preset was added or changed.
sizes: $(READY)
	$(BIN)/python scripts/measure_models.py

# rknn-toolkit2, which the slow tests run where it is; it needs other versions than FlexDETR and so an environment of its own.
rknn: build/rknn/.ready

build/rknn/.ready: examples/boards/requirements.txt examples/boards/overrides.txt | $(READY)
	$(BIN)/python -m venv --clear build/rknn
	$(BIN)/uv pip install --quiet --python build/rknn/bin/python -r $(word 1,$^) --override $(word 2,$^)
	@touch $@

# LiteRT's converter, which takes torch below 2.15: also apart from what the other tests run with.
litert: build/litert/.ready

build/litert/.ready: pyproject.toml | $(READY)
	$(BIN)/python -m venv --clear build/litert
	$(BIN)/uv pip install --quiet --python build/litert/bin/python -e '.[all,litert]' pytest pytest-timeout hypothesis
	@touch $@

test-litert: build/litert/.ready
	$(COMPILED) OMP_NUM_THREADS=1 build/litert/bin/python -m pytest -m "" tests/export/test_board_view.py

clean:
	rm -rf build/rknn build/litert build/matrix $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
