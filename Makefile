# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: help demo test test-slow test-deploy test-lava test-gpu bench results continual spiking-results lint format clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("edgessl needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,export,federated,neuromorphic,compiled,secure,dev]'
	@touch $(READY)

demo: $(READY)  ## set up, then pretrain, export, adapt, federate; report in runs/demo
	$(BIN)/edgessl demo --out runs/demo

test: $(READY)  ## set up, then the default tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(READY)  ## every encoder x objective x optimizer through the parity gate, and other minutes-long tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist load -m slow

test-deploy: $(READY)  ## real Flower servers and nodes on loopback (nginx-light and chromium for two of them)
	$(BIN)/python -m pytest -m deploy

test-lava: $(READY)  ## the spiking simulator against Lava, in an environment of its own (Python 3.10)
	$(BIN)/edgessl neuro setup
	$(BIN)/python -m pytest -m lava

test-gpu: $(READY)  ## what needs a CUDA GPU
	$(BIN)/python -m pytest -m gpu

bench: $(READY)  ## step, int8, pretraining and device beside plain PyTorch; latent path; faults; drift; fleets
	@mkdir -p runs/bench
	$(BIN)/edgessl bench step --set backends=onnxruntime,torch --json > runs/bench/step.json
	$(BIN)/edgessl bench quantize --json > runs/bench/quantize.json
	$(BIN)/edgessl bench pretrain --json > runs/bench/pretrain.json
	$(BIN)/edgessl bench device --json > runs/bench/device.json
	$(BIN)/edgessl bench settle --json > runs/bench/settle.json
	$(BIN)/edgessl bench latent --json > runs/bench/latent.json
	$(BIN)/edgessl bench faults --json > runs/bench/faults.json
	$(BIN)/edgessl bench drift --json > runs/bench/drift.json
	$(BIN)/edgessl bench federated --json > runs/bench/federated.json
	@echo "figures in runs/bench"

SUITES := fashion fashion_transformer color har har_transformer speech pairs text
RESULTS := $(SUITES:%=examples/results/objectives-%.json)

results: $(READY)  ## compare the objectives on the shared data, 3 seeds (an hour or two); docs/results.md
	@mkdir -p examples/results
	for suite in $(SUITES); do $(BIN)/edgessl bench objectives --set suite=$$suite --set out=examples/results/objectives-$$suite.json --json > /dev/null || exit 1; done
	$(BIN)/python -m edgessl.bench.objectives.page $(RESULTS) > docs/results.md

STREAMS := split_fashion,blurry_fashion,recurring_fashion,split_digits,split_cifar,har_activity,hapt_activity,hapt_user,har_device,har_subject,cwru_load,fsdd_speaker,nmnist,gas_month
CONTENDERS := replay-reservoir,replay-minred,latent-replay,lump,ewc,cassle+replay,slow+replay,cla_e+replay

continual: $(READY)  ## strategies against forgetting on the shared data, 3 seeds (an hour or two); docs/continual.md
	$(BIN)/edgessl continual bench --streams $(STREAMS) --strategies $(CONTENDERS) --out examples/results
	$(BIN)/python -m edgessl.bench.continual.page examples/results/continual-*.json > docs/continual.md

R := examples/results

spiking-results: $(READY)  ## the spiking benches, 3 seeds (hours); docs/spiking.md
	$(BIN)/edgessl bench spiking --set stage=choose --set out=$(R)/spiking_choice.json --json > /dev/null
	$(BIN)/edgessl bench spiking --set chosen=$(R)/spiking_choice.json --set out=$(R)/spiking.json --json > /dev/null
	$(BIN)/edgessl bench spiking_continual --set out=$(R)/spiking_continual.json --json > /dev/null
	$(BIN)/edgessl bench spiking_energy --set chosen=$(R)/spiking_choice.json --set out=$(R)/spiking_energy.json --json > /dev/null
	$(BIN)/python -m edgessl.bench.spiking.page $(R) > docs/spiking.md

lint: $(READY)  ## ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment, caches and runs
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
