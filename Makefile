# Each target stands alone: it sets up what it needs.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_OFFLINE ?= 1
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)
export SPEECH_RBA_CACHE := $(CURDIR)/work/converted
READY := .venv/.ready
ifneq ($(file < $(READY)),$(CURDIR))  # renamed or copied: what was installed names another folder
$(shell rm -f $(READY))
endif

define follow  # the folder is a clone, made once, at the project's last commit; no hook of anyone takes part
	test -d $(1) || git -c core.hooksPath=/dev/null clone -q --template= . $(1)
	cd $(1) && git fetch -q ../.. HEAD && git -c core.hooksPath=/dev/null checkout -q --force --detach FETCH_HEAD
endef

.PHONY: run up test faults smoke translation bench ablation compare asr_adapter lock help
run: $(READY)  ## from nothing to a registered candidate with a report
	speech-rba run

up: $(READY)  ## MLflow, Prefect and a worker on this machine, until Ctrl-C (docs/operate.md; ARGS="--mlflow-port 5001")
	python -m flows.supervisor $(ARGS)

test: $(READY)  ## the tests
	ruff check src flows tests
	pytest -q -n 3 --dist loadfile --no-loadscope-reorder

faults: $(READY)  ## kills each process of a running deployment, TIMES times, and tells what was left
	for i in $$(seq $${TIMES:-10}); do pytest -q -m faults tests/flows || exit 1; done

smoke: $(READY)  ## the whole chain at toy size and without network, in a scratch clone of the last commit
	rm -rf work/smoke
	$(call follow,work/smoke)
	cd work/smoke && export PYTHONPATH="$$PWD/src:$$PWD" && python -m speech_rba.config configs/smoke.yaml && \
		python tools/offline.py speech-rba run

translation: $(READY)  ## the recipe for speech translation, TO=es or TO=de, in work/translation_$TO (docs/translation.md)
	$(if $(filter es de,$(TO)),,$(error name the language: make translation TO=es, or TO=de))
	$(call follow,work/translation_$(TO))
	cd work/translation_$(TO) && export PYTHONPATH="$$PWD/src:$$PWD" && \
		python -m speech_rba.config configs/translation_$(TO).yaml && speech-rba run

bench: $(READY)  ## the teacher's engine against plain transformers, and a reinforcement step against TRL's as it comes
	python benchmarks/generation.py
	python benchmarks/reinforcement.py

ablation: $(READY)  ## what each part of the wer_table is worth, on the clips of the last run
	python benchmarks/asr.py

compare: $(READY)  ## every method, equal minutes, three seeds, in work/compare: hours (ARGS="--methods sft rba --minutes 2.5")
	$(call follow,work/compare)
	cd work/compare && export PYTHONPATH="$$PWD/src:$$PWD" && python -m speech_rba.config configs/compare.yaml && \
		python benchmarks/methods.py $(ARGS)

asr_adapter: $(READY)  ## trains artifacts/asr_adapter and artifacts/attributes again, which are committed and frozen in dvc.yaml
	python -m speech_rba.stages.synthesize --data data --purpose asr_adapter --out work/asr_adapter_texts
	python -m speech_rba.stages.asr_adapter --data data --rows work/asr_adapter_texts --out artifacts/asr_adapter
	python -m speech_rba.stages.attributes --data data --rows work/asr_adapter_texts --asr-adapter artifacts/asr_adapter --out artifacts/attributes

lock: $(READY)  ## rewrites requirements.lock from what is installed
	python -m pip freeze --all --exclude-editable | grep -vE "^(pip|wheel)==" | sed "s/+cpu//" > requirements.lock

$(READY): requirements.lock pyproject.toml
	python3.11 -m venv .venv
	echo "relocatable = true" >> .venv/pyvenv.cfg  # uv then writes commands that find the python beside them
	python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock torch uv
	uv pip install --quiet --compile-bytecode --python .venv --no-deps --requirement requirements.lock
	uv pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
	pwd -P > $@

help:
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'
