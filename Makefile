# Each target sets up what it needs; `make help` lists them.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_OFFLINE ?= 1
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)
export SPEECH_RBA_CACHE := $(CURDIR)/work/converted
READY := .venv/.ready
ifneq ($(file < $(READY)),$(CURDIR))  # the project was renamed or copied: the environment names the other folder
$(shell rm -f $(READY))
endif

define clone  # the folder $(1) is a clone at the project's last commit; no hook of a person runs
	test -d $(1) || git -c core.hooksPath=/dev/null clone -q --template= . $(1)
	cd $(1) && git fetch -q ../.. HEAD && git -c core.hooksPath=/dev/null checkout -q --force --detach FETCH_HEAD
endef

.PHONY: run up test faults smoke translation bench compare voices asr-adapter tables lock types coverage help

run: $(READY)  ## the whole pipeline: data, training, evaluation, report, a registered candidate
	speech-rba run

up: $(READY)  ## MLflow, Prefect and a worker, until Ctrl-C (docs/operate.md; ARGS="--mlflow-port 5001")
	python -m flows.supervisor $(ARGS)

test: $(READY)  ## linter, formatter and tests
	ruff check
	ruff format --check
	pytest -q -n 3 --dist loadfile --no-loadscope-reorder

types: $(READY)  ## the type checker alone
	mypy

coverage: $(READY)  ## the tests with the lines that they do not run
	pytest -q -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered

faults: $(READY)  ## kills processes of a running deployment and checks what is left, TIMES times (10)
	for i in $$(seq $${TIMES:-10}); do pytest -q -m faults tests/flows || exit 1; done

smoke: $(READY)  ## the whole pipeline at toy size, without network, in a clone of the last commit
	rm -rf work/smoke
	$(call clone,work/smoke)
	cd work/smoke && export PYTHONPATH="$$PWD/src:$$PWD" && python -m speech_rba.config configs/smoke.yaml && \
		python tools/offline.py speech-rba run

translation: $(READY)  ## the pipeline for speech translation, TO=es or TO=de (docs/translation.md)
	$(if $(filter es de,$(TO)),,$(error name the language: make translation TO=es, or TO=de))
	$(call clone,work/translation_$(TO))
	cd work/translation_$(TO) && export PYTHONPATH="$$PWD/src:$$PWD" && \
		python -m speech_rba.config configs/translation_$(TO).yaml && speech-rba run

bench: $(READY)  ## speed of generation and of a reinforcement step, against plain transformers and TRL
	python benchmarks/generation.py
	python benchmarks/reinforcement.py

compare: $(READY)  ## all methods, equal minutes, three seeds; hours (ARGS="--methods sft rba --minutes 2.5")
	$(call clone,work/compare)
	cd work/compare && export PYTHONPATH="$$PWD/src:$$PWD" && python -m speech_rba.config configs/compare.yaml && \
		python benchmarks/methods.py $(ARGS)

voices: $(READY)  ## work/voices.html, a page to listen to: one sentence in each voice and condition
	python benchmarks/voices.py work/voices.html

tables: $(READY)  ## the tables of README and docs from results/
	python benchmarks/tables.py

asr-adapter: $(READY)  ## trains the committed and frozen artifacts/asr_adapter and artifacts/attributes again
	python -m speech_rba.stages.synthesize --data data --purpose asr_adapter --out work/asr_adapter_texts
	python -m speech_rba.stages.asr_adapter --data data --rows work/asr_adapter_texts --out artifacts/asr_adapter
	python -m speech_rba.stages.attributes --data data --rows work/asr_adapter_texts \
		--asr-adapter artifacts/asr_adapter --out artifacts/attributes

lock: $(READY)  ## writes requirements.lock from the installed packages
	python -m pip freeze --all --exclude-editable | grep -vE "^(pip|wheel)==" | sed "s/+cpu//" > requirements.lock

$(READY): requirements.lock pyproject.toml
	python3.11 -m venv .venv
	echo "relocatable = true" >> .venv/pyvenv.cfg  # uv then writes commands that find the python beside them
	python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock torch uv
	uv pip install --quiet --compile-bytecode --python .venv --no-deps --requirement requirements.lock
	uv pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
	pwd -P > $@

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/\1|\2/' | \
		awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'
