# `make demo` and `make test` set themselves up on a fresh machine: Python 3.10-3.13, nothing else.
# On Linux without an NVIDIA GPU, the small CPU build of torch saves gigabytes:
#   make demo PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
BIN = $(VENV)/bin
export OMP_WAIT_POLICY = PASSIVE
export IMAGINGAI_FLOWER ?= $(abspath $(VENV))/flower

.PHONY: demo test lint pictures bench clean help

help:
	@echo "make demo    register two brains, segment one, and write demo-output/report.html and demo-output/segmentation/report.html"
	@echo "make test    run all tests"
	@echo "make pictures  make the pictures of the user's guide anew"
	@echo "make bench   measure against Greedy, ANTs, DIPY, elastix and ConvexAdam (needs IMAGINGAI_BENCH_DATA)"

$(VENV)/ready: pyproject.toml constraints.txt imagingai/federated/flower-requirements.txt
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on $(PIP_OPTIONS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --progress-bar on $(PIP_OPTIONS) -c constraints.txt -e ".[test]"
	@if $(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11))"; then $(BIN)/python -m imagingai federated install; \
		else echo "Federated training is left out: Flower needs Python 3.11 or newer."; fi
	@touch $@

demo: $(VENV)/ready
	$(BIN)/python -m imagingai register \
		--fixed Testing/Data/brain_fixed.nii.gz --fixed-labels Testing/Data/brain_fixed_labels.nii.gz \
		--moving Testing/Data/brain_moving.nii.gz --moving-labels Testing/Data/brain_moving_labels.nii.gz \
		--output demo-output --overwrite
	$(BIN)/python -m imagingai segment --image Testing/Data/brain_moving.nii.gz --output demo-output/segmentation --overwrite
	@echo "Open demo-output/report.html and demo-output/segmentation/report.html in a browser."

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest

pictures: demo
	$(BIN)/python docs/make_pictures.py demo-output/report.html docs/modules/pictures
	$(BIN)/python -m pytest Testing/panels/test_pictures.py Testing/panels/test_uncertainty_pictures.py \
		Testing/panels/test_uncertainty_jobs.py Testing/panels/test_federated_pictures.py --screenshots docs/modules/pictures

$(BENCH_VENV)/ready: pyproject.toml constraints.txt benchmarks/registration/requirements.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --progress-bar on $(PIP_OPTIONS) -c constraints.txt torch==2.13.0
	$(BENCH_VENV)/bin/python -m pip install --progress-bar on $(PIP_OPTIONS) -r benchmarks/registration/requirements.txt -e .
	@touch $@

bench: $(BENCH_VENV)/ready
	@test -d "$(IMAGINGAI_BENCH_DATA)/brain_t1_oasis35" || { echo "Give IMAGINGAI_BENCH_DATA=folder with brain_t1_oasis35 (see benchmarks/registration/pairs.py)."; exit 2; }
	test -d bench-work/pairs || $(BENCH_VENV)/bin/python benchmarks/registration/pairs.py --data "$(IMAGINGAI_BENCH_DATA)" --work bench-work
	$(BENCH_VENV)/bin/python benchmarks/registration/bench.py run --work bench-work

clean:
	rm -rf $(VENV) $(BENCH_VENV) demo-output build *.egg-info
