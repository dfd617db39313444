# `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
export CHROMIUM SCREENSHOTS EXIT DATA WEIGHTS TRUTH HOLDOUT RECIPE EXPERIMENT COMPETITION TO FROM

.PHONY: help demo up secrets test test-kaggle-newer test-browser test-compose acceptance lint lock bench backup restore \
  clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: .venv/.local ## a whole run on one machine; DATA= WEIGHTS= TRUTH= HOLDOUT= RECIPE= EXPERIMENT= EXIT=1
	@$(BIN)/python -m carclf_airflow.local demo --data "$$DATA" --weights "$$WEIGHTS" --truth "$$TRUTH" --holdout "$$HOLDOUT" \
	  --recipe "$$RECIPE" --experiment "$$EXPERIMENT" $${EXIT:+--exit}

up: .venv/.local ## Airflow on this machine against the real Kaggle; COMPETITION=slug
	@$(BIN)/python -m carclf_airflow.local up --competition "$$COMPETITION"

secrets: ## what docker compose needs, generated into .env (mode 600); values that are there stay
	@$(PYTHON) docker/generate_secrets.py

test: .venv/.dev ## every test, offline
	$(BIN)/pytest -q -n 2 --dist loadfile

test-kaggle-newer: .venv/.dev ## the faults of Kaggle again, against a newer client in a throw-away folder
	$(BIN)/python tests/faults/newer_kaggle.py

test-compose: .venv/.dev ## the cluster: the real images and Compose file, stand-ins for what a registry would give; needs Docker
	$(BIN)/pytest -q -m compose tests/compose

acceptance: .venv/.dev ## the demo as its user runs it: to the end, interrupted, again
	$(BIN)/pytest -q -m acceptance
	KERAS_BACKEND=jax $(BIN)/pytest -q tests/training/test_trainer.py

test-browser: .venv/.dev ## the pages in a real Airflow, by Chromium (/usr/bin/chromium, or CHROMIUM=); SCREENSHOTS=folder keeps pictures
	$(BIN)/pytest -q -m browser tests/browser

lint: .venv/.dev ## vocabulary, ruff, mypy strict, layers
	$(PYTHON) .ci/check_vocabulary.py
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev ## the list of benchmarks
	@for name in validation near_duplicates near_copies label_errors input_pipeline frozen_head cars10 memory experiments \
	  runs_page gpu; do \
	  echo "$(BIN)/python -m benchmarks.$$name [--quick]"; done

backup: ## copy the running stack's database and store into TO=folder
	@docker/backup.sh "$$TO"

restore: ## put a backup, FROM=folder, in the place of the stack's own database and store
	@docker/restore.sh "$$FROM"

lock: .venv/bin/uv ## compile pyproject.toml into requirements/*.txt: pins with hashes, without any index address
	cd requirements && COMPILE="$(abspath $(BIN))/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate" && PROJECT="$$COMPILE ../pyproject.toml --group ../pyproject.toml:build" && \
	  $$PROJECT --extra training --extra airflow -o local.txt && \
	  $$PROJECT --extra training --extra airflow --extra cluster --extra dev -c local.txt -o dev.txt && \
	  $$PROJECT --extra airflow --extra cluster -c dev.txt -o airflow.txt && \
	  $$PROJECT --extra training --extra airflow --extra cluster --extra gpu -c dev.txt -o gpu.txt && \
	  $$PROJECT --extra training --extra airflow --extra cluster --extra gpu-jax -c dev.txt -o gpu-jax.txt && \
	  $$COMPILE --group ../pyproject.toml:uv -o uv.txt

clean: ## remove the environment and the demo's state; what make up keeps in .local/up stays
	rm -rf .venv .local/demo

.venv/bin/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Making .venv failed; on Debian: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.venv/.%: requirements/%.txt pyproject.toml | .venv/bin/uv
	$(BIN)/uv pip install -q -p $(BIN)/python --require-hashes -r $<
	$(BIN)/uv pip install -q -p $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
