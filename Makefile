# Every target works from a bare clone: it first makes .venv with the pinned packages (python3.11 needed, about 2 minutes).
#   make demo        evaluate the shipped checkpoint on real clips and write report.html
#   make serve       a page and an API on http://127.0.0.1:8000
#   make test        every property, in under 3 minutes on 2 free cores
#   make test-all    also what starts processes, trains, or evaluates the checkpoint: under 10 minutes
#   make test-ray    replicas behind Ray Serve: a minute on free cores; Ray gives up on a busy machine
#   make test-transformers   transformers' own test suites on our classes (downloads its source once)
#   make checks      ruff, mypy, import directions
#   make reproduce   train the shipped checkpoint again from its three recipes and measure it (needs ESC10, FSDD, DRONE)
#   make wheel       build dist/mirasol-*.whl
PYTHON ?= python3.11
PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
UNWANTED := nvidia|cuda|triton|torchvision|torchaudio

# One thread a process: with shared cores, torch's default threads wait for each other and are 5 times slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1

.PHONY: setup demo serve test test-all test-ray test-transformers checks reproduce wheel clean
.DEFAULT_GOAL := demo

# The check is made every time, because a later `pip install` into .venv can bring such a package too.
setup: $(READY)
	@packages=$$($(PIP) list) || exit 1; \
	if echo "$$packages" | grep -Ei '$(UNWANTED)'; then \
	  echo 'Expected CPU PyTorch without the packages above, found them in $(VENV).' \
	    'Delete $(VENV), point pip at an index with CPU wheels of torch 2.13.0 (PIP_INDEX_URL), and run make again.' >&2; \
	  exit 1; \
	fi

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -qq --constraint constraints.txt torch==2.13.0
	$(PIP) install -qq --constraint constraints.txt hatchling editables
	$(PIP) install -qq --constraint constraints.txt --no-build-isolation --editable '.[train,demo,torchcodec,serve,ray,dev]'
	@touch $@

demo: setup
	$(BIN)/mirasol demo

serve: setup
	$(BIN)/mirasol serve

# A file's tests stay in one process, because they share what it trained or evaluated.
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

test: setup
	$(PYTEST) -m 'not slow and not ray'

test-all: setup
	$(PYTEST) -m 'not ray'

test-ray: setup
	$(BIN)/python -m pytest -m ray tests/integrations/test_ray_serve.py

# Its tests know nothing of our shape checks, which JAXTYPING_DISABLE leaves out.
test-transformers: setup
	JAXTYPING_DISABLE=1 $(BIN)/python -m pytest -c tests/transformers_suites/pytest.ini tests/transformers_suites

checks: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports

# data/ holds only the test parts of the three sets; their copies, or links to them, are looked for before hours pass.
reproduce: setup
	@for set in ESC10 FSDD DRONE; do test -e $$set && continue; \
	  echo "Expected a copy of a data set at $$set, found none. Where it is obtained: src/mirasol/tasks/." >&2; exit 1; \
	done
	$(BIN)/mirasol train recipes/grid_nano.yaml schedule.time_limit_minutes=null
	$(BIN)/mirasol train recipes/joint_nano.yaml
	$(BIN)/mirasol train recipes/robust_nano.yaml
	$(BIN)/mirasol train recipes/robust_nano.yaml model.checkpoint=runs/robust_nano/best output=runs/robust_nano_2 seed=1 \
	  schedule.finetune_epochs=12 optimizer.learning_rate=7e-4 data.sources.0.augmentation.silence_probability=0.35 \
	  data.sources.0.augmentation.noise_probability=0.7 'data.sources.0.augmentation.noise_db=[-15,2]' validation.every_epochs=12
	$(BIN)/mirasol train recipes/robust_nano.yaml model.checkpoint=runs/robust_nano_2/best output=runs/robust_nano_3 seed=3 \
	  schedule.finetune_epochs=16 optimizer.learning_rate=7e-4 data.sources.0.augmentation.sound_only_probability=0.45 \
	  data.sources.0.augmentation.silence_probability=0.35 data.sources.0.augmentation.noise_probability=0.8 \
	  'data.sources.0.augmentation.noise_db=[-15,-3]' data.sources.1.clips_per_epoch=96 data.sources.2.clips_per_epoch=96 \
	  data.sources.3.clips_per_epoch=64 data.sources.4.clips_per_epoch=80 validation.every_epochs=16
	$(BIN)/python recipes/average.py runs/robust_nano_2/best runs/robust_nano_3/best runs/average
	$(BIN)/mirasol evaluate --checkpoint runs/average --split val+test --output runs/average/val_test

wheel: setup
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf dist build report.html
