# make demo   installs the package beside this file and runs notebooks/quickstart.ipynb for real
# make test   formatting, lint, types and tests, on today's libraries and on Colab's
# make bench  the figures of docs/performance.md, track.md and generate.md, and the quick ones of docs/memory.md
# make pictures  those in docs/
# make docs   docs/magics, of what each magic's --help prints
# make notebooks  runs notebooks/ as rehearsals on a tiny model, and saves what their cells show
# make soak   the figures of docs/reliability.md, and the slow ones of docs/memory.md and docs/track.md: hours
PYTHON ?= python3
# Colab runs Python 3.13; where there is none, the tests of that stack say so and are skipped.
PYTHON313 ?= $(shell for p in python3.13 $(HOME)/.pyenv/versions/3.13*/bin/python3.13; do \
               $$p --version >/dev/null 2>&1 && { command -v $$p; break; }; done)

TODAY := .venv
COLAB := .venv-colab
FACE := .venv-face
PIP := -m pip --quiet --disable-pip-version-check
SOURCE := $(shell git ls-files colab_magics pyproject.toml 2>/dev/null)

.PHONY: demo test lint tests bench soak pictures docs notebooks clean

demo: $(TODAY)/.demo
	$(TODAY)/bin/python notebooks/run_quickstart.py

test: lint tests

lint: $(TODAY)/.test
	$(TODAY)/bin/ruff format --check .
	$(TODAY)/bin/ruff check .
	$(TODAY)/bin/mypy

tests: $(TODAY)/.test $(COLAB)/.test $(if $(PYTHON313),$(FACE)/.test)
	$(TODAY)/bin/pytest -n 2 --dist loadfile --durations 15
	$(COLAB)/bin/pytest -n 2 --dist loadfile -m colab --durations 5
ifneq ($(PYTHON313),)
	$(FACE)/bin/pytest -m face
else
	@echo "skipped: the notebook's face on Python 3.13, because no python3.13 was found"
endif

bench: $(TODAY)/.bench
	$(TODAY)/bin/python benchmarks/load_ext.py
	$(TODAY)/bin/python benchmarks/startup.py
	$(TODAY)/bin/python benchmarks/throughput.py
	$(TODAY)/bin/python benchmarks/forecast.py
	$(TODAY)/bin/python benchmarks/panel.py
	$(TODAY)/bin/python benchmarks/panel_kernel.py
	$(TODAY)/bin/python benchmarks/release.py
	$(TODAY)/bin/python benchmarks/memory seconds
	$(TODAY)/bin/python benchmarks/memory peers
	$(TODAY)/bin/python benchmarks/memory published
	$(TODAY)/bin/python benchmarks/memory notes
	$(TODAY)/bin/python benchmarks/merge.py
	$(TODAY)/bin/python benchmarks/track.py
	$(TODAY)/bin/python -m colab_magics generate --model demo --bench

soak: $(TODAY)/.bench
	$(TODAY)/bin/python benchmarks/reliability calls
	$(TODAY)/bin/python benchmarks/reliability mutations --count 10000
	$(TODAY)/bin/python benchmarks/reliability bits
	$(TODAY)/bin/python benchmarks/reliability full
	$(TODAY)/bin/python benchmarks/reliability kills --count 200
	$(TODAY)/bin/python benchmarks/cost.py
	RESTARTS=20 $(TODAY)/bin/pytest -s --timeout 1200 tests/reliability/test_restarts.py
	$(TODAY)/bin/python benchmarks/memory grid
	$(TODAY)/bin/python benchmarks/memory allocator
	$(TODAY)/bin/python benchmarks/memory layers
	$(TODAY)/bin/python benchmarks/kills.py --kills 2000 --in-a-row 50 --stops 200
	$(TODAY)/bin/python benchmarks/track_kills.py --kills 500

pictures: $(TODAY)/.test
	COLAB_MAGICS_PICTURES=docs $(TODAY)/bin/pytest tests/browser/test_lab.py
	$(TODAY)/bin/python scripts/panel_picture.py

docs: $(TODAY)/.test
	$(TODAY)/bin/python scripts/make_magic_pages.py

notebooks: $(TODAY)/.test
	$(TODAY)/bin/python notebooks/rehearse.py

# --- environments: libraries once, our own wheel whenever a source file is newer -------------------------------------

$(TODAY)/.base: requirements/today.txt
	$(PYTHON) -m venv $(TODAY)
	$(TODAY)/bin/python $(PIP) install -c requirements/today.txt torch setuptools wheel
	touch $@

$(TODAY)/.demo: $(TODAY)/.base $(SOURCE)
	rm -rf build
	$(TODAY)/bin/python $(PIP) install -c requirements/today.txt . ipykernel nbclient nbformat
	rm -rf build
	$(TODAY)/bin/python $(PIP) install --no-deps --force-reinstall .
	touch $@

$(TODAY)/.test: $(TODAY)/.demo
	$(TODAY)/bin/python $(PIP) install -c requirements/today.txt \
		build hypothesis ipywidgets jupyter_client jupyterlab "moto[s3,server]" mypy nbconvert pandas playwright \
		pytest pytest-timeout pytest-xdist ruff s3fs tensorboard trackio types-psutil types-PyYAML trl
	touch $@

$(TODAY)/.bench: $(TODAY)/.test

$(COLAB)/.base: requirements/colab.txt
	$(PYTHON) -m venv $(COLAB)
	$(COLAB)/bin/python $(PIP) install -c requirements/colab.txt torch
	$(COLAB)/bin/python $(PIP) install -c requirements/colab.txt accelerate bitsandbytes datasets huggingface_hub \
		hypothesis ipykernel ipython ipywidgets jupyter_client nbclient nbformat nbconvert notebook numpy nvidia-ml-py \
		pandas peft playwright psutil pytest pytest-timeout pytest-xdist PyYAML safetensors tomlkit transformers \
		setuptools wheel
	touch $@

$(FACE)/.base: requirements/face.txt
	$(PYTHON313) -m venv $(FACE)
	$(FACE)/bin/python $(PIP) install -c requirements/face.txt hypothesis ipykernel ipython ipywidgets jupyter_client \
		numpy pandas psutil pytest pytest-timeout pytest-xdist PyYAML setuptools tomlkit wheel
	touch $@

$(COLAB)/.test $(FACE)/.test: %/.test: %/.base $(SOURCE)
	rm -rf build
	$*/bin/python $(PIP) install --no-deps --force-reinstall .
	touch $@

clean:
	rm -rf $(TODAY) $(COLAB) $(FACE) build dist *.egg-info
