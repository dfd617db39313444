# `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE  # with it, each process compiles every module that it imports
export CHROMIUM SCREENSHOTS EXIT DATA WEIGHTS TRUTH HOLDOUT RECIPE EXPERIMENT SOURCE TO FROM

.PHONY: help install demo up secrets test test-integration test-dags test-kaggle-newer test-browser test-compose test-trainings acceptance fuzz lint lock \
  bench backup restore clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: .venv/.local ## build the environment in .venv

demo: .venv/.local ## run the whole DAG on this machine; DATA= WEIGHTS= TRUTH= HOLDOUT= RECIPE= EXPERIMENT= EXIT=1
	@$(BIN)/python -m carclf_airflow.local demo --data "$$DATA" --weights "$$WEIGHTS" --truth "$$TRUTH" --holdout "$$HOLDOUT" \
	  --recipe "$$RECIPE" --experiment "$$EXPERIMENT" $${EXIT:+--exit}

up: .venv/.local ## run Airflow on this machine against the real Kaggle; SOURCE=
	@$(BIN)/python -m carclf_airflow.local up --source "$$SOURCE"

secrets: ## generate the secrets for docker compose into .env (mode 600); existing values are kept
	@$(PYTHON) docker/generate_secrets.py

test: .venv/.dev ## run the unit tests, offline
	$(BIN)/pytest -q -n 2 --dist loadfile

test-integration: .venv/.dev ## test with Airflow's processes, servers and trainings, offline
	$(BIN)/pytest -q -m "integration and not acceptance and not dags and not trainings" -n 2 --dist loadfile

test-dags: .venv/.dev ## run whole DAGs in a real Airflow: approval, watched data, publishing, prediction, experiments
	$(BIN)/pytest -q -m dags -n 2 --dist loadfile

test-kaggle-newer: .venv/.dev ## test Kaggle's faults against a newer client, in a temporary folder
	$(BIN)/python tests/faults/newer_kaggle.py

test-compose: .venv/.dev ## test the Compose cluster with stand-ins for the registry's images; needs Docker
	$(BIN)/pytest -q -m compose tests/compose

acceptance: .venv/.dev ## run the demo like a user: to the end, interrupted, and again
	$(BIN)/pytest -q -m "acceptance and not dags" -n 2 --dist loadfile --ignore tests/demo/test_gallery.py
	$(BIN)/pytest -q -m acceptance -n 2 tests/demo/test_gallery.py

test-trainings: .venv/.dev ## train experiments, starting points, and the backbones that make acceptance leaves out; train on JAX
	$(BIN)/pytest -q -m trainings -n 2
	KERAS_BACKEND=jax $(BIN)/pytest -q -m integration tests/training/test_trainer.py

fuzz: .venv/.dev ## read 10,000 mutations of each kind of input: images, archives, tables, JSON files, responses, forms
	$(BIN)/pytest -q -m fuzz -n 2

test-browser: .venv/.dev ## test the pages in a real Airflow with Chromium (or CHROMIUM=); SCREENSHOTS=folder keeps screenshots
	$(BIN)/pytest -q -m "browser and not dags" tests/browser

lint: .venv/.dev ## check vocabulary, style, types and layers
	$(PYTHON) .ci/check_vocabulary.py
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev ## list the benchmarks
	@for name in validation_speed hash_search input_pipeline stage_memory report_memory sources experiment_overhead \
	  runs_page dag_parsing training_step gpu_throughput bootstrap_coverage batch_prediction airflow_idle; do \
	  echo "$(BIN)/python -m benchmarks.$$name [--quick]"; done
	@for name in cars10 ablations label_error_quality head_training honest_selection; do \
	  echo "$(BIN)/python -m benchmarks.$$name --data FOLDER --weights FILE [--quick]"; done
	@echo "$(BIN)/python -m benchmarks.near_duplicate_quality --data FOLDER [--quick]"

backup: ## copy the running stack's database and store to TO=folder
	@docker/backup.sh "$$TO"

restore: ## replace the stack's database and store with the backup FROM=folder
	@docker/restore.sh "$$FROM"

lock: .venv/bin/uv ## compile pyproject.toml into requirements/*.txt, pinned with hashes
	cd requirements && COMPILE="$(abspath $(BIN))/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate" && PROJECT="$$COMPILE ../pyproject.toml --group ../pyproject.toml:build" && \
	  $$PROJECT --extra training --extra airflow -o local.txt && \
	  $$PROJECT --extra training --extra airflow --extra cluster --extra openlineage --extra dev -c local.txt -o dev.txt && \
	  $$PROJECT --extra airflow --extra cluster --extra openlineage -c dev.txt -o airflow.txt && \
	  $$PROJECT --extra training --extra airflow --extra cluster --extra gpu -c dev.txt -o gpu.txt && \
	  $$PROJECT --extra training --extra airflow --extra cluster --extra gpu-jax -c dev.txt -o gpu-jax.txt && \
	  $$COMPILE --group ../pyproject.toml:uv -o uv.txt

clean: ## remove the environment and the demo's state; .local/up, the state of make up, stays
	rm -rf .venv .local/demo

.venv/bin/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is required. Choose one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Creating .venv failed. On Debian: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.venv/.%: requirements/%.txt pyproject.toml | .venv/bin/uv
	$(BIN)/uv pip install -q -p $(BIN)/python --require-hashes -r $<
	$(BIN)/uv pip install -q -p $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
