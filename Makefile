# Everything a new machine needs is Python 3.11 or later, make and git.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= ../shared/data
UPLOT := src/stargap/validation/report/templates/uplot

.PHONY: help demo test tests lint style types docs benchmarks emulator transfer-lamost results-real-stars results-emulator-stars results-instruments results-limits results-marks results-transfer results-starnet results-anchors results-calibration results-cleaning results-photometry results-joint results-precision results-scale results-speed results-validation results-reliability results-peers figures uplot lock clean

help:
	@echo "make demo                simulate a survey as LAMOST files, run every stage on it, compare with the truth"
	@echo "make test                style, types, tests and doctests"
	@echo "make docs                this documentation with API and executed tutorials, to docs/_build/html (a few minutes)"
	@echo "make benchmarks          speeds, as a table with ratios against scipy and numpy"
	@echo "make results-real-stars  docs/results/real-stars.md: recipes of the shipped model, cross-validated on real stars (about 15 minutes)"
	@echo "make results-emulator-stars  docs/results/emulator-stars.md: the emulator alone on the spectra in $(DATA)/lamost"
	@echo "make results-instruments docs/results/instruments.md: other instruments, parts of the range, resolutions, simulated surveys of DESI and SDSS-V (an hour)"
	@echo "make results-limits      docs/what-a-spectrum-tells.md: the smallest errors that noise allows, and ours (a few minutes)"
	@echo "make results-marks       docs/results/marks.md: what the marks use_* let through, and what they lose (a minute or two)"
	@echo "make results-transfer    docs/results/transfer.md: train and score transfers on a simulated survey (about 2 hours)"
	@echo "make results-starnet     docs/results/starnet.md: train the published network for long, and what holds it back (hours)"
	@echo "make results-anchors     docs/results/anchors.md: labels tied to simulated photometry (about half an hour)"
	@echo "make results-calibration docs/results/calibration.md: whether errors are true, velocities against Gaia's (about half an hour)"
	@echo "make results-cleaning    docs/results/cleaning.md: what the cleaning rejects, of simulated and real spectra (about 10 minutes)"
	@echo "make results-photometry  labels from photometry against published ones, as docs/results/photometry.md has them (a minute)"
	@echo "make results-joint       the section of docs/results/photometry.md on spectrum and photometry together (5 minutes)"
	@echo "make results-precision   docs/results/precision.md: errors from repeats against the truth (about 7 minutes)"
	@echo "make results-scale       docs/results/scale.md: 1,000 to 100,000 simulated spectra through stargap run (about an hour)"
	@echo "make results-speed       docs/results/speed-fits.md, speed-transfer.md: fits beside exact ones; trainings and fits of transfers (three quarters of an hour)"
	@echo "make results-validation  docs/results/validation.md: the paper's numbers on 20,000 simulated stars (about 20 minutes)"
	@echo "make results-reliability docs/results/reliability.md: kills, full disks, flipped bits, damaged files, hostile texts (half an hour)"
	@echo "make results-peers       docs/results/peers.md: other methods on the same simulated and real spectra (an hour and a half)"
	@echo "make figures             docs/figures.md: the paper's figures from simulated stars (half a minute)"
	@echo "make transfer-lamost     make the shipped transfer for real spectra again, from the labelled ones in $(DATA) (a minute)"
	@echo "make emulator            train the shipped emulator again, from $(DATA)/grid/marcs_ts_base.h5"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "stargap needs Python 3.11 or later; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	$(BIN)/stargap demo

# The types are checked while the tests run: either can fail alone, and make names which.
test: style
	@$(MAKE) --no-print-directory --keep-going --jobs=2 types tests

tests: export PYTHONDONTWRITEBYTECODE :=  # without rewritten tests kept from before, collecting them takes twice as long
tests: $(READY)
	$(BIN)/python -m pytest --numprocesses logical --dist worksteal

lint: style types

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

docs: $(READY) docs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.lock
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "open docs/_build/html/index.html"

benchmarks: $(READY)
	$(BIN)/python benchmarks/run.py

emulator: $(READY)
	$(BIN)/stargap emulator $(DATA)/grid/marcs_ts_base.h5 --output src/stargap/models --plot docs/images/emulator.png --cite "$$(cat docs/grid-citations.txt)"

transfer-lamost: $(READY)
	$(BIN)/python docs/make_lamost_transfer.py --data $(DATA)

results-instruments: $(READY)
	$(BIN)/python docs/results/make_instruments.py --data $(DATA)

results-emulator-stars: $(READY)
	$(BIN)/python docs/results/make_emulator_stars.py --data $(DATA)

results-real-stars: $(READY)
	$(BIN)/python docs/results/make_real_stars.py --data $(DATA)

results-limits: $(READY)
	$(BIN)/python docs/results/make_limits.py

results-marks: $(READY)
	$(BIN)/python docs/results/make_marks.py --data $(DATA)

results-transfer: $(READY)
	$(BIN)/python docs/results/make_transfer.py --data $(DATA)

results-starnet: $(READY)
	$(BIN)/python docs/results/make_starnet.py --data $(DATA)

results-anchors: $(READY)
	$(BIN)/python docs/results/make_anchors.py --data $(DATA)

results-calibration: $(READY)
	$(BIN)/python docs/results/make_calibration.py --data $(DATA)

results-cleaning: $(READY)
	$(BIN)/python docs/results/make_cleaning.py --data $(DATA)

results-photometry: $(READY)
	$(BIN)/python docs/results/make_photometry.py $(DATA)/labels

results-joint: $(READY)
	$(BIN)/python docs/results/make_joint.py --data $(DATA)

results-precision: $(READY)
	$(BIN)/python docs/results/make_precision.py

results-scale: $(READY)
	$(BIN)/python docs/results/make_scale.py

results-speed: $(READY)
	$(BIN)/python benchmarks/fits.py --write --stars 20000 --data $(DATA)
	$(BIN)/python benchmarks/transfer.py --write --threads 1 --repeats 3

results-validation: $(READY)
	$(BIN)/python docs/results/make_validation.py

results-reliability: $(READY)
	$(BIN)/python docs/results/make_reliability.py

results-peers: $(READY) benchmarks/peers/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	PYTHONPATH=benchmarks $(BIN)/python -m peers --data $(DATA)

figures: $(READY)
	$(BIN)/python docs/make_figures.py

# The plotting library of pages, from npm, as it is kept here: a new version needs new checksums there.
uplot:
	cd $$(mktemp -d) && npm pack --silent uplot@1.6.32 && tar xzf uplot-1.6.32.tgz && cp package/LICENSE package/dist/uPlot.iife.min.js package/dist/uPlot.min.css $(CURDIR)/$(UPLOT)
	cd $(UPLOT) && sha256sum --check SHA256SUMS

lock: $(READY)
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools \
	| grep -vxFf docs/requirements.lock | grep -vxFf benchmarks/peers/requirements.txt | sed 's/ @ .*//; s/+cpu//'; } > requirements.lock.new && mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) stargap-demo
