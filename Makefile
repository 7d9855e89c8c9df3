# make demo   install into .venv and run the main job, stock IREE against the kernels
# make test   install with the test requirements and run the whole test suite
# make clean  remove what the two made

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find python plugin -type f -not -path '*/__pycache__/*') \
           CMakeLists.txt pyproject.toml

.PHONY: demo test clean

demo: $(VENV)/installed
	$(BIN)/iree-flashattn demo

# Mesa's software Vulkan device (lavapipe) and qemu let the Vulkan and aarch64 tests run on any
# machine. One process a core, up to eight, takes the tests file by file (tests/conftest.py). pytest's
# summary (-ra) names every test that was skipped, and why.
test: $(VENV)/installed-test
	-tools/install_test_devices.sh
	$(BIN)/python -m pytest -n auto --maxprocesses=8 $(PYTEST_ARGS)

$(VENV)/installed: build/wheel/built
	$(BIN)/pip install --quiet build/wheel/*.whl
	$(BIN)/pip install --quiet --force-reinstall --no-deps build/wheel/*.whl
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet "$$(ls $(CURDIR)/build/wheel/*.whl)[test]"
	touch $@

build/wheel/built: $(SOURCES) | $(BIN)/pip
	rm -rf build/wheel
	$(BIN)/pip wheel --no-deps --wheel-dir build/wheel .
	touch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build/wheel
