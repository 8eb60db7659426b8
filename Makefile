# Two commands: `make demo` shows what the tool does, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FACES := assets/images

.PHONY: demo test test-processors test-lowest test-extras lint docs figures browser clean

demo: $(VENV)/.installed
	$(BIN)/ddim-edit reconstruct $(FACES)/astronaut_face.png $(FACES)/seed-0028.png -o out --overwrite
	$(BIN)/ddim-edit invert $(FACES)/astronaut_face.png $(FACES)/seed-0028.png -o out --overwrite -q
	$(BIN)/ddim-edit interpolate out/astronaut_face.latent.safetensors out/seed-0028.latent.safetensors -o out/strip.png --frames 7 --overwrite -q
	$(BIN)/ddim-edit interpolate out/astronaut_face.latent.safetensors out/seed-0028.latent.safetensors -o out/walk.webp --frames 13 --loop --overwrite -q
	$(BIN)/ddim-edit edit $(FACES)/astronaut.png --set old=+6 -o out/older --overwrite -q
	@echo
	@echo "Open out/sheet.png (there and back), out/strip.png (from one face to the other), out/walk.webp (the same, moving)"
	@echo "and out/older/astronaut-edited.png (the whole portrait, in which only the face is older)."

# A process for each processor and one more, as some tests wait, with a thread each: on tensors as small as a test's, more
# would wait for one another. One that crashes ends the run and is reported: the process that replaced it would be given
# nothing to do and be waited for, for ever, if it came late (pytest-xdist 3.8).
XDIST := --numprocesses auto --dist loadfile --max-worker-restart 0
SUITE := $(BIN)/pytest $(XDIST)
test: $(VENV)/.installed-test lint browser
	OMP_NUM_THREADS=1 $(SUITE)

# The suite once more for each of these processors, as far as PyTorch can be told to compute as it would there: one
# without vector units of its own, ones with AVX2, one with AVX-512 alone (no bfloat16, no AMX), two threads, and one on
# which no two networks round alike.
test-processors: $(VENV)/.installed-test browser
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default $(SUITE)
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(SUITE)
	OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX2 $(SUITE)
	OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX512_CORE $(SUITE)
	OMP_NUM_THREADS=2 $(SUITE)
	OMP_NUM_THREADS=1 PYTHONPATH=. $(SUITE) -p tests.other_rounding -m "not same_bits"

# The suite with the lowest version of everything that pyproject.toml asks for, in an environment of its own. Python 3.11,
# the oldest supported, has wheels of all of them. The tests left out install the newest versions.
LOWEST := .venv-lowest
test-lowest: $(LOWEST)/.installed browser
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest $(XDIST) -k "not clean_environment" -W ignore::DeprecationWarning -W ignore::FutureWarning

# Each extra alone in a fresh environment, and a command that needs it.
test-extras:
	$(PYTHON) tests/extras.py

docs: $(VENV)/.installed-test
	$(BIN)/sphinx-build -W --keep-going -b html docs out/docs
	@echo "Open out/docs/index.html"

# The pictures of the tutorial into out/tutorial/, and those of the README into docs/images/.
figures: $(VENV)/.installed-test
	for each in examples/plot_*.py; do MPLBACKEND=agg $(BIN)/python $$each || exit 1; done
	$(BIN)/python examples/readme_figure.py

# The page of `ddim-edit ui` is tested in a real browser. Only root can install one; others bring theirs, or these tests are skipped.
browser:
	@command -v chromium > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null \
	  || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium > /dev/null)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[faces]"
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[faces]" --group test
	touch $@ $(VENV)/.installed

$(LOWEST)/.installed: pyproject.toml tests/lowest_versions.py
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(LOWEST)/bin/python tests/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --editable . --group test --constraint $(LOWEST)/constraints.txt
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build dist out docs/tutorial docs/reference/api docs/reference/commands *.egg-info
