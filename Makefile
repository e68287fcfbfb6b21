# The two commands of a newcomer are `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet -c constraints.txt
SOURCES := $(shell find src csrc cmake -type f \( -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -name '*.html' -o -name '*.css' -o -name '*.cmake' \) 2>/dev/null) CMakeLists.txt pyproject.toml constraints.txt
MODEL ?= smollm2:135m
OUT ?= demo/smollm2-optimized

.PHONY: help demo test test-all lint types test-cpp test-arm test-sanitized native format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/pip $(SOURCES)
	$(INSTALL) .
	@touch $@

# The extra alone: `.[test]` would build the extension again.
$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["test"], sep="\n")' > $(VENV)/test.txt
	$(INSTALL) -r $(VENV)/test.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(INSTALL) ruff mypy clang-format nanobind cmake ninja
	@touch $@

demo: $(VENV)/installed ## install, pull SmolLM2, optimize it for this machine (about five minutes)
	$(BIN)/slipstream pull $(MODEL)
	@if [ -e $(OUT)/slipstream.json ]; then \
	  echo "$(OUT) exists already; remove it to optimize again"; \
	else \
	  mkdir -p $(dir $(OUT)) && $(BIN)/slipstream optimize $(MODEL) -o $(OUT); \
	fi
	@echo
	@echo "artifact  $(OUT)"
	@echo "report    $$(ls $(OUT)/report.html $(OUT).report.html 2>/dev/null)"
	@echo "serve it  $(BIN)/slipstream serve $(OUT)"

test: $(VENV)/installed-test ## install with the test extras and run the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-all: $(VENV)/installed-test ## every test that this machine can run
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/installed-dev ## ruff and clang-format, nothing changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp')

format: $(VENV)/installed-dev ## rewrite in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp')

types: $(VENV)/installed-test $(VENV)/installed-dev ## mypy, strict
	$(BIN)/mypy src/slipstream

CMAKE_TEST = PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python

test-cpp: $(VENV)/installed-dev ## build and run the C++ tests
	$(CMAKE_TEST) -B build/cpp -DSLIPSTREAM_TESTS=ON
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/cpp
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/cpp --output-on-failure

test-arm: $(VENV)/installed-dev ## the linear kernels for 64-bit ARM, cross-compiled and run under qemu
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc/kernels -B build/aarch64 -G Ninja \
	  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/aarch64.cmake
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/aarch64 --target test_vec test_linear test_linear_edges test_linear_bfloat
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/aarch64 --output-on-failure

test-sanitized: $(VENV)/installed-dev ## the same without optimization, under AddressSanitizer and UBSan
	$(CMAKE_TEST) -B build/sanitized -DSLIPSTREAM_TESTS=ON -DSLIPSTREAM_SANITIZE=address,undefined
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitized
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/sanitized --output-on-failure

native: ## developers: build the extension in place (then PYTHONPATH=src works)
	cmake -S . -B build/dev -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	cmake --build build/dev

clean: ## remove what was built, keep the pulled models
	rm -rf build demo $(VENV)
